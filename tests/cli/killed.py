"""A run that is killed in the middle and resumed, beside one that is not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import qsr
from qsr.runs import RunDirectory, same_history
from tests.commands import run_qsr


def check_killed_and_resumed(words: str, folder: Path, run: str, line: str, later: float = 0.0) -> None:
    """Assert that history and weights are those of the undisturbed run, bit for bit.

    Args:
        words: of `qsr`, up to `dir=`.
        run: the run's directory below that.
        line: SIGKILL follows the line of the log that begins so, `later` seconds after it.
    """
    whole, cut = folder / "a" / run, folder / "b" / run
    undisturbed = run_qsr(*f"{words}{folder / 'a'}".split())
    assert undisturbed.returncode == 0, undisturbed.stderr
    command = [sys.executable, "-m", "qsr", *f"{words}{folder / 'b'}".split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(said.startswith(line) for said in process.stderr)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    resumed = run_qsr("train", "--resume", str(cut))
    assert resumed.returncode == 0, resumed.stderr
    assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)
    first, second = (qsr.load_model(path).state_dict() for path in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
