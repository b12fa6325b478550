"""Processes of a module, as users start them with torchrun."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NODE = "NODE_OF_A_TEST"
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def torchrun(*words: str, processes: int = 2, restarts: int = 0, cwd: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """`python -m words` in processes of one thread each, which meet at a port that is free; none is left at the end."""
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.terminate()  # it ends its processes
                started.communicate()


def kill_the_second(started: subprocess.Popen[str], line: str) -> None:
    """SIGKILL to the second process after the line of the log that begins so."""
    assert started.stderr is not None
    assert any(said.startswith(line) for said in started.stderr)
    children = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(children) == 2
    os.kill(max(map(int, children)), signal.SIGKILL)


class Node(subprocess.Popen[str]):
    """A torchrun; `mark` is in the environment of all of its processes."""

    def __init__(self, command: Sequence[str], cwd: Path, mark: str) -> None:
        self.mark = mark
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", NODE: mark}
        super().__init__(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def nodes(*words: str, least: int = 2, restarts: int = 0, cwd: Path = ROOT) -> Iterator[list[Node]]:
    """`python -m words` on two nodes: a torchrun each, with one process, that meet at the first one's port.

    `least` is how many nodes the run can do with.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-conf=last_call_timeout=20"]
    options = [f"--nnodes={least}:2", "--nproc-per-node=1", f"--max-restarts={restarts}", *rendezvous]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", *words]
    with ExitStack() as stack:
        started = []
        for number in range(2):
            node = stack.enter_context(Node(command, cwd, f"{port} {number}"))
            started.append(node)
            stack.callback(kill_node, node)
            while not number and not _listens(port):
                assert node.poll() is None
                time.sleep(0.1)
        yield started


def kill_node(node: Node) -> None:
    """SIGKILL to a torchrun and its processes at once, as when a machine loses its power; nothing if they have ended."""
    for process in members(node):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def members(node: Node) -> list[int]:
    """The torchrun of a node and its processes (they are in sessions of their own), as far as they have not ended."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{NODE}={node.mark}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
