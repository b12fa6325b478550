"""`qsr train` in the processes of torchrun: one run directory, the numbers of one process, and what a lost process does."""

import resource
import signal
import time
from pathlib import Path

import pytest
import torch

import qsr
from qsr.runs import RunDirectory, same_history
from tests.commands import run_qsr
from tests.torchrun import kill_the_second, torchrun

STEPS = 400
WORDS = f"train --rnn patch=1 Nh=8 --rydberg Lx=2 Ly=2 --checkpoint every_n_steps=10 --train K=16 Q=2 steps={STEPS} dir="
RUN = Path("rydberg", "4-B=32-K=16")
SECONDS_TO_END = 60  # of the rest, after one process was killed: torchrun gives it 30 s, and the machine may be busy


def undisturbed(folder: Path) -> RunDirectory:
    """The same run in one process."""
    result = run_qsr(*f"{WORDS}{folder}".split())
    assert result.returncode == 0, result.stderr
    return RunDirectory(folder / RUN / "0")


def check_same(first: RunDirectory, second: RunDirectory) -> None:
    """With one minibatch for each of two processes not even the rounding of the sum differs."""
    assert same_history(first.history, second.history)
    weights, others = (qsr.load_model(found.path).state_dict() for found in (first, second))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_lost_a_process_and_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    with torchrun("qsr", *f"{WORDS}{tmp_path / 'shared'}".split(), restarts=1) as started:
        kill_the_second(started, f"step {STEPS // 20}/{STEPS}")
        output, errors = started.communicate(timeout=200)
    assert started.returncode == 0, errors
    assert output.count("done: ") == 1, "only the first process speaks"
    assert [path.name for path in (tmp_path / "shared" / RUN).iterdir()] == ["0"]
    assert f"resuming {tmp_path / 'shared' / RUN / '0'} at step " in errors
    check_same(RunDirectory(tmp_path / "shared" / RUN / "0"), undisturbed(tmp_path / "alone"))


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_can_be_resumed_in_any_number(tmp_path: Path) -> None:
    with torchrun("qsr", *f"{WORDS}{tmp_path / 'shared'}".split()) as started:
        kill_the_second(started, f"step {STEPS // 20}/{STEPS}")
        killed = time.monotonic()
        _, errors = started.communicate(timeout=200)
    assert time.monotonic() - killed < SECONDS_TO_END
    assert started.returncode != 0 and "Error: another process of the run has ended or does not answer" in errors
    path = tmp_path / "shared" / RUN / "0"
    assert (path / "output.txt").read_text().splitlines()[-1].startswith("stopped: another process of the run")
    resumed = run_qsr("train", "--resume", str(path))
    assert resumed.returncode == 0, resumed.stderr
    check_same(RunDirectory(path), undisturbed(tmp_path / "alone"))


@pytest.mark.slow
def test_all_stop_after_the_same_step_when_torchrun_is_told_to(tmp_path: Path) -> None:
    with torchrun("qsr", *f"{WORDS}{tmp_path / 'shared'}".split()) as started:
        assert started.stderr is not None
        assert any(said.startswith(f"step {STEPS // 20}/{STEPS}") for said in started.stderr)
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=200)
    path = tmp_path / "shared" / RUN / "0"
    assert started.returncode != 0 and f"SIGTERM: everything is saved; resume with: qsr train --resume {path}" in errors
    with torchrun("qsr", "train", "--resume", str(path)) as resumed:
        _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    check_same(RunDirectory(path), undisturbed(tmp_path / "alone"))


@pytest.mark.slow
def test_a_disk_that_is_full_ends_all_with_one_line(tmp_path: Path) -> None:
    """The first process alone writes, and fails in the middle of a step while the other one waits for it."""
    words = WORDS.replace("every_n_steps=10", "every_n_steps=1000000").replace(f"steps={STEPS}", "steps=100000")
    with torchrun("qsr", *f"{words}{tmp_path}".split()) as started:
        resource.prlimit(started.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of a file; its processes inherit it
        _, errors = started.communicate(timeout=200)
    assert started.returncode == 1
    (said,) = (line for line in errors.splitlines() if line.startswith("Error: "))
    assert "history.journal" in said
    assert RunDirectory(tmp_path / RUN / "0").latest_checkpoint() is not None


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_one_process_ends_all(rank: int) -> None:
    with torchrun("tests.training.failing_runs", str(rank)) as started:
        output, errors = started.communicate(timeout=200)
    assert started.returncode == 1
    assert sorted(output.split()) == sorted([f"{rank}:RunFailed", f"{1 - rank}:ProcessLost"]), errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--train K=16 Q=3", "train.Q=3: must be a multiple of the 2 processes, which share the Q minibatches of a step"),
        ("--train K=16 Q=2 device=cuda:5", "train.device=cuda:5: this machine has "),
    ],
)
def test_what_cannot_be_shared_is_refused_once(words: str, expected: str, tmp_path: Path) -> None:
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for rank, said in (("0", True), ("1", False)):
        line = ["train", *words.split(), "--rnn", "patch=1", "--rydberg", "Lx=2", "Ly=2"]
        result = run_qsr(*line, cwd=tmp_path, env={**environment, "RANK": rank, "LOCAL_RANK": rank})
        assert result.returncode == 2
        assert result.stderr.startswith(f"Error: {expected}") if said else not result.stderr
    assert not list(tmp_path.iterdir())
