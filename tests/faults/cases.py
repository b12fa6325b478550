"""Runs that are hit by faults, the same runs left in peace, and what has to be true afterwards."""

from __future__ import annotations

import atexit
import re
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import torch

import qsr
from qsr.runs import RunDirectory, same_history
from tests.commands import ROOT, run_qsr


@dataclass(frozen=True)
class Case:
    """A command that makes a run.

    Attributes:
        words: of `qsr`; DIR is the folder of the runs, TEACHER a finished run.
        run: the run's directory below DIR, up to its number.
        steps: how many it has.
    """

    words: str
    run: str
    steps: int

    def command(self, folder: Path) -> list[str]:
        """The words for a folder."""
        teacher = str(teacher_run()) if "TEACHER" in self.words else ""
        return self.words.replace("DIR", str(folder)).replace("TEACHER", teacher).split()

    def path(self, folder: Path, number: int = 0) -> Path:
        """The run that it makes."""
        return folder / self.run / str(number)


CASES = {
    # Dropout draws from the global generators, and two minibatches a step: the hard case of the randomness rule.
    "adam": Case(
        "train --train L=4 K=24 Q=2 steps=20 lr=0.01 dir=DIR --ptf patch=2x1 Nh=8 dropout=0.1 --checkpoint every_n_steps=6"
        " --rydberg Lx=2 Ly=2",
        "rydberg/4-B=48-K=24",
        20,
    ),
    # Momentum, a lattice that grows, and a table that is written beside the history.
    "spring": Case(
        "train --train K=24 curriculum=2x2:6,2x3:7 dir=DIR --rnn patch=1 Nh=6 --optimizer name=spring --logger kind=csv"
        " --checkpoint every_n_steps=4 --rydberg Lx=2 Ly=3",
        "rydberg/6-B=24-K=24",
        13,
    ),
    "transfer": Case(
        "transfer TEACHER --train K=16 steps=9 dir=DIR --rnn patch=1 Nh=4 --checkpoint every_n_steps=4",
        "rydberg/4-B=16-K=16",
        9,
    ),
}


def struck(fault: str, *words: str) -> CompletedProcess[str]:
    """`qsr words`, hit by a fault (see tests/faults/struck.py)."""
    return run_qsr(fault, *words, cwd=ROOT, module="tests.faults.struck")


def kept_folder() -> Path:
    """A folder for what several tests share, until they have all ended."""
    made = TemporaryDirectory(prefix="qsr-faults-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def teacher_run() -> Path:
    """A finished run of two steps."""
    run = qsr.train(None, qsr.RNN(patch=1, Nh=4), {"L": 4, "K": 16, "steps": 2, "dir": str(kept_folder())})
    assert run.path is not None
    return run.path


@cache
def undisturbed(name: str) -> tuple[Path, int]:
    """The run of a case that nothing hit, and the number of file-system calls that it took."""
    folder = kept_folder()
    result = struck(f"calls:{folder}", *CASES[name].command(folder))
    assert result.returncode == 0, result.stderr
    return CASES[name].path(folder), int(result.stderr.splitlines()[-1])


def finish(name: str, folder: Path, again: str | None = None) -> int:
    """Load what a fault has left, go on with it to the end, and compare it with the undisturbed run, bit for bit.

    Args:
        again: a fault that hits the first attempt to go on.

    Returns:
        How often the process was killed on the way.
    """
    case, number, kills = CASES[name], 0, 0
    if RunDirectory(case.path(folder)).exists():
        qsr.load_model(case.path(folder))
        going_on = ["train", "--resume", str(case.path(folder))]
    else:  # hit before the first step: nothing was begun, and the same command begins
        number = int(case.path(folder).exists())
        going_on = case.command(folder)
    if again is not None:
        second = struck(again, *going_on)
        kills += second.returncode == -signal.SIGKILL
        if not RunDirectory(case.path(folder, number)).exists():  # the number was taken once more
            return kills + finish_new(name, folder)
        going_on = ["train", "--resume", str(case.path(folder, number))]
    result = run_qsr(*going_on)
    assert result.returncode == 0, result.stderr
    check_same(name, case.path(folder, number))
    return kills


def finish_new(name: str, folder: Path) -> int:
    """The same command in a folder of its own."""
    case = CASES[name]
    result = run_qsr(*case.command(folder / "new"))
    assert result.returncode == 0, result.stderr
    check_same(name, case.path(folder / "new"))
    return 0


def check_same(name: str, path: Path) -> None:
    """Weights and history are those of the undisturbed run, and nothing half written lies there."""
    whole, found = RunDirectory(undisturbed(name)[0]), RunDirectory(path)
    expected, weights = whole.read_weights(), found.read_weights()
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[key], weights[key]) for key in expected)
    assert same_history(whole.history, found.history)
    assert found.history.length("steps") == CASES[name].steps
    if (whole.path / "metrics.csv").exists():
        assert (path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert leftovers(path) == leftovers(whole.path) == []
    assert file_names(path) == file_names(whole.path)


def leftovers(path: Path) -> list[str]:
    """Files that a killed writer left."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if ".tmp" in file.name or ".previous" in file.name)


def file_names(path: Path) -> set[str]:
    """All files of a run; those of a checkpoint once, whichever its steps are."""
    return {re.sub(r"checkpoint/\d+", "checkpoint", str(file.relative_to(path))) for file in path.rglob("*") if file.is_file()}
