"""Kill, interrupt, resume: nothing is lost and nothing changes."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import qsr
from qsr.runs import RunDirectory, same_history
from tests.commands import run_qsr

# Dropout draws from the global generators, and two minibatches a step: the hard case of the randomness rule.
WORDS = (
    "--train L=4 K=24 Q=2 steps=60 lr=0.01 dir=DIR --ptf patch=2x1 Nh=8 dropout=0.1 --checkpoint every_n_steps=7"
    " --rydberg Lx=2 Ly=2"
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "qsr", *words]


def start(folder: Path, words: str = WORDS) -> subprocess.Popen[str]:
    arguments = words.replace("DIR", str(folder)).split()
    return subprocess.Popen(command("train", *arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def resume(run: Path) -> subprocess.CompletedProcess[str]:
    return run_qsr("train", "--resume", str(run))


def run_path(folder: Path) -> Path:
    return folder / "rydberg" / "4-B=48-K=24" / "0"


def assert_same_run(one: Path, other: Path) -> None:
    first, second = (RunDirectory(path).read_weights() for path in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert same_history(RunDirectory(one).history, RunDirectory(other).history)
    assert RunDirectory(one).history.length("steps") == 60


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    assert process.wait() == 0
    process.communicate()
    return run_path(folder)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until the run has recorded `step` steps (a moment between steps cannot be chosen from outside)."""
    deadline = time.monotonic() + 120
    while process.poll() is None and RunDirectory(run).history.length("steps") < step:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_and_resume(folder: Path, instant: random.Random, whole: Path) -> None:
    """Kill with SIGKILL at random instants, again after each resume, until the run comes to its end."""
    process = start(folder)
    run = run_path(folder)
    for _ in range(3):
        wait_for_step(process, run, instant.randrange(1, 58))
        time.sleep(instant.uniform(0, 0.05))
        process.kill()
        process.communicate()
        if not (run / "settings.json").exists():  # killed before step 0: nothing was begun
            shutil.rmtree(folder)
            folder.mkdir()
            process = start(folder)
        else:
            process = subprocess.Popen(
                command("train", "--resume", str(run)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
    assert process.wait() == 0, process.communicate()[1]
    process.communicate()
    assert_same_run(run, whole)


@pytest.mark.parametrize("seed", range(1))
def test_a_killed_run_resumes_bit_for_bit(seed: int, tmp_path: Path, uninterrupted: Path) -> None:
    kill_and_resume(tmp_path, random.Random(seed), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_twenty_kills(seed: int, tmp_path: Path, uninterrupted: Path) -> None:
    kill_and_resume(tmp_path, random.Random(seed), uninterrupted)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_says_how_to_resume(signum: int, status: int, tmp_path: Path, uninterrupted: Path) -> None:
    process = start(tmp_path)
    wait_for_step(process, run_path(tmp_path), 3)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == status
    found = re.search(r"resume with: qsr train --resume (\S+)", said)
    assert found and "Traceback" not in said
    assert resume(Path(found[1])).returncode == 0
    assert_same_run(run_path(tmp_path), uninterrupted)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(uninterrupted, copy)
    assert resume(copy).returncode == 0
    assert_same_run(copy, uninterrupted)


def test_a_run_cannot_be_written_twice_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, WORDS.replace("steps=60", "steps=100000"))
    wait_for_step(process, run_path(tmp_path), 2)
    second = resume(run_path(tmp_path))
    process.kill()
    process.communicate()
    assert second.returncode == 2 and "is being written by another process" in second.stderr


def test_transfer_and_finetune_resume_bit_for_bit(tmp_path: Path) -> None:
    teacher = qsr.train(None, qsr.RNN(patch=1, Nh=4), {"L": 4, "K": 16, "steps": 5, "dir": str(tmp_path / "teacher")})
    assert teacher.path is not None
    train = {"K": 16, "steps": 12, "lr": 1e-2}
    for name, job in (("transfer", qsr.transfer), ("finetune", qsr.finetune)):
        model = {"model": qsr.PTF(patch=1, Nh=8)} if name == "transfer" else {}
        runs = [
            job(teacher.path, train={**train, "dir": str(tmp_path / name)}, checkpoint={"every_n_steps": 5}, **model)
            for _ in range(2)
        ]
        whole, cut = (run.path for run in runs)
        assert whole is not None and cut is not None
        # As after a kill in the last steps: the newest whole set is the checkpoint of step 10.
        shutil.rmtree(cut / "checkpoint" / "12")
        (cut / "weights.safetensors").unlink()
        qsr.resume(cut)
        first, second = (RunDirectory(path).read_weights() for path in (whole, cut))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)


def test_runs_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    run = qsr.train(None, qsr.RNN(patch=1, Nh=4), {"L": 4, "K": 16, "steps": 1, "dir": str(tmp_path)})
    shutil.rmtree((run.path or tmp_path) / "checkpoint")
    with pytest.raises(qsr.ConfigError, match="nothing to resume"):
        qsr.resume(run.path or tmp_path)
