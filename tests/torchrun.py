"""Two processes of a module, as users start them with torchrun."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def torchrun(*words: str, restarts: int = 0, cwd: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """`python -m words` in two processes of one thread each, which meet at a port that is free; none is left at the end."""
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
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
