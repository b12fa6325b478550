"""Size curricula: one run over several lattices, resumed bit for bit in any stage."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import qsr
from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, read_run, same_history
from tests.commands import run_qsr
from tests.training.lines import StopAt

WORDS = (
    "--train K=16 Q=2 K_final=32 lr=0.02 curriculum=2x2:25,2x4:25,4x4:20 dir=DIR"
    " --ptf patch=2x1 Nh=8 dropout=0.1 --checkpoint every_n_steps=7 --optimizer name=OPTIMIZER"
)
RUN = Path("rydberg") / "16-B=32-K=16" / "0"


def start(folder: Path, optimizer: str) -> subprocess.Popen[str]:
    words = WORDS.replace("DIR", str(folder)).replace("OPTIMIZER", optimizer).split()
    command = [sys.executable, "-m", "qsr", "train", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def resume(run: Path) -> subprocess.CompletedProcess[str]:
    return run_qsr("train", "--resume", str(run))


def recorded_steps(run: Path) -> int:
    try:
        return RunDirectory(run).history.length("steps")
    except (ConfigError, OSError):
        return 0


@pytest.fixture(scope="module", params=["Adam", "spring"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(f"whole-{request.param}")
    process = start(folder, request.param)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return request.param, folder / RUN


def test_a_curriculum_ends_on_its_last_lattice(uninterrupted: tuple[str, Path]) -> None:
    _, run = uninterrupted
    history = RunDirectory(run).history.read("steps")
    assert history["sites"].tolist() == [4] * 25 + [8] * 25 + [16] * 20
    # K grows over the last stage only.
    assert history["samples"][:51].tolist() == [32] * 51 and history["samples"][-1] == 64
    assert history["lr"][:50].tolist() == [0.02] * 50 and history["lr"][-1] < 1e-3
    model = qsr.load_model(run)
    assert model.num_sites == 16 and model.trunk.positions.learned.shape == (2, 4, 8)
    assert read_run(run).settings.train.steps == 70
    assert qsr.plot(run, run / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "stage_steps",
    [pytest.param((3, 20), marks=pytest.mark.slow), (27, 45), pytest.param((52, 65), marks=pytest.mark.slow)],
    ids=["first stage", "second stage", "last stage"],
)
def test_killed_in_any_stage_it_resumes_bit_for_bit(
    uninterrupted: tuple[str, Path], stage_steps: tuple[int, int], tmp_path: Path
) -> None:
    optimizer, whole = uninterrupted
    run = tmp_path / RUN
    wanted = random.Random(str(stage_steps) + optimizer).randint(*stage_steps)
    process = start(tmp_path, optimizer)
    while recorded_steps(run) < wanted and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    qsr.load_model(run)  # also a run that has not come to its own lattice yet
    resumed = resume(run)
    assert resumed.returncode == 0, resumed.stderr
    first, second = (RunDirectory(path).read_weights() for path in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert same_history(RunDirectory(whole).history, RunDirectory(run).history)


def test_a_signal_in_the_last_step_of_a_stage_is_not_lost(tmp_path: Path) -> None:
    settings = {"K": 8, "curriculum": "2x2:5,2x4:5", "dir": str(tmp_path)}
    model = qsr.RNN(patch="2x1", Nh=4)
    with pytest.raises(qsr.training.Interrupted):
        qsr.train(model=model, train=settings, callbacks=[StopAt(5)])
    run = qsr.resume(tmp_path / "rydberg" / "8-B=8-K=8" / "0")
    whole = qsr.train(model=model, train=settings)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), whole.model.parameters(), strict=True))


def test_growing_brings_the_energy_down_faster_than_starting_large() -> None:
    """The point of it: 4x4 weights are a far better start on 4x6 than random ones."""
    energies = {}
    for curriculum in ("4x6:1", "4x4:60,4x6:1"):
        run = qsr.train(
            model=qsr.PTF(Nh=16, nhead=2, dim_feedforward=32),
            train={"K": 128, "lr": 0.05, "curriculum": curriculum, "dir": "<NONE>"},
            optimizer={"name": "spring"},
        )
        energies[curriculum] = qsr.evaluate(run, 1024).energy_per_site.mean
    assert energies["4x4:60,4x6:1"] < -0.4 < 0 < energies["4x6:1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curriculum": "4x4"}, r"train\.curriculum=4x4: must be stages LxxLy:steps"),
        ({"curriculum": "4x4:0"}, r"must be stages"),
        ({"curriculum": "4x4:5,8:5"}, r"must be stages"),
        ({"curriculum": "4x4:5", "steps": 6}, r"train\.steps=6: the stages of train\.curriculum have 5 steps"),
        ({"curriculum": "4x4:5,8x8:5", "L": 16}, r"must end on the lattice of the Hamiltonian, 4x4"),
        ({"curriculum": "3x4:5,8x8:5"}, r"train\.curriculum=3x4:5,8x8:5: rnn\.patch=2x2: does not tile the 3x4 lattice"),
    ],
)
def test_curricula_that_cannot_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qsr.train(model=qsr.RNN(), train={"dir": "<NONE>", **changes})


def test_free_positions_and_transfers_have_no_curriculum(uninterrupted: tuple[str, Path]) -> None:
    sites = np.array([[0.0, 0.0], [1.0, 0.0]]).tolist()
    with pytest.raises(ConfigError, match="free positions"):
        RunSettings.from_tree(
            {
                "model": {"type": "rnn", "patch": 1},
                "hamiltonian": {"type": "rydberg", "positions": sites},
                "train": {"curriculum": "2x1:5"},
            }
        )
    with pytest.raises(ConfigError, match=r"train\.curriculum=2x2:5,4x4:5: concerns energies"):
        qsr.transfer(uninterrupted[1], qsr.RNN(), {"curriculum": "2x2:5,4x4:5"})


def test_finetuning_takes_a_curriculum_and_does_not_inherit_one(uninterrupted: tuple[str, Path]) -> None:
    grown = qsr.finetune(uninterrupted[1], {"curriculum": "4x4:2,4x6:3", "dir": "<NONE>"})
    assert grown.settings.train.L == 24 and grown.model.num_sites == 24 and grown.settings.train.steps == 5
    again = qsr.finetune(uninterrupted[1], {"steps": 2, "dir": "<NONE>"})
    assert again.settings.train.curriculum is None and again.model.num_sites == 16
