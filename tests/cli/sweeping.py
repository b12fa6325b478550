"""Sweeps as processes of their own, with the signals of a terminal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qsr.runs import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds; on a busy machine a process may take ten to start


@contextmanager
def swept(line: str, folder: Path, path: str = "") -> Iterator[subprocess.Popen[str]]:
    """`qsr` in a group of processes of its own, none of which is left at the end; `path` goes before the others in PATH."""
    command = [sys.executable, "-m", "qsr", *line.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": f"{path}:{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as started:
        try:
            yield started
        finally:
            for _ in range(PATIENCE * 10):
                if not members(started.pid):
                    break
                os.killpg(started.pid, signal.SIGKILL)
                started.poll()
                time.sleep(0.1)


def members(group: int, word: str = "") -> list[int]:
    """Processes of a group that have not ended, with this word in their command."""
    command = ["pgrep", "-g", str(group), "-r", "R,S,D", "-f", word]
    return [int(line) for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def wait_until(true: Callable[[], bool]) -> None:
    """Raises AssertionError when that takes too long."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(folder: Path) -> list[RunDirectory]:
    """Runs below a folder that have steps in them."""
    files = sorted(folder.rglob("history.*"))
    return [RunDirectory(path) for path in dict.fromkeys(file.parent for file in files)]
