"""Runs of the original NN-QSR give the original's numbers.

Four of the six runs lie in tests/data; QSR_REFERENCE names a folder with `nnqsr/` that has all of them.
"""

import os
from pathlib import Path

import h5py
import pytest
import torch

import qsr
from qsr.estimators import local_energy
from qsr.runs import read_run

HERE = Path(__file__).resolve().parents[1] / "data"
FOLDER = Path(os.environ.get("QSR_REFERENCE", HERE)) / "nnqsr"
RUNS = sorted(path.parent for path in FOLDER.glob("*/expected.h5"))


def test_the_reference_runs_are_there() -> None:
    assert len(RUNS) >= 4


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_numbers_of_the_original(run: Path) -> None:
    model = qsr.load_model(run)
    with h5py.File(run / "expected.h5") as file:
        configs, *expected = (
            torch.from_numpy(file[name][:]) for name in ("configs", "log_prob", "flip_log_prob", "local_energy")
        )
    energy = local_energy(model, read_run(run).settings.hamiltonian.build(), configs)
    found = (model.log_prob(configs).detach(), model.flip_log_prob(configs), energy.values)
    for name, ours, theirs, tolerance in zip(("log_prob", "flips", "energy"), found, expected, (1e-4, 1e-4, 1e-3), strict=True):
        difference = (ours - theirs).abs().max().item()
        print(f"{run.name}: max |{name} difference| = {difference:.1e}")
        assert difference <= tolerance, name
