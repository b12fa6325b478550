"""`precision=float64` where a run that was trained in less is evaluated: the same samples, with the rounding taken off."""

from copy import deepcopy
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hparams import ConfigError
from tests.commands import run_qsr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    train = {"K": 64, "steps": 20, "lr": 0.02, "dir": str(tmp_path_factory.mktemp("runs")), "device": "cpu"}
    return qsr.train(qsr.Rydberg(Lx=3, Ly=3), qsr.PTF(Nh=8, patch=1, nhead=2), train=train)


def samples(folder: Path) -> dict[str, np.ndarray]:
    with h5py.File(folder / "samples.h5") as file:
        return {name: file[name][:] for name in ("configs", "log_prob", "local_energy")}


def test_local_energies_in_float64(run: qsr.Run, tmp_path: Path) -> None:
    for name, words in (("less", ()), ("more", ("--precision", "float64"))):
        done = run_qsr("load", str(run.path), "512", "128", *words, "--output", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    less, more = samples(tmp_path / "less"), samples(tmp_path / "more")
    assert np.array_equal(less["configs"], more["configs"]), "the same seed draws the same samples"
    exact = local_energy(
        deepcopy(run.model).double(), run.settings.hamiltonian.build(), torch.as_tensor(more["configs"], dtype=torch.uint8)
    )
    assert np.abs(more["local_energy"] - exact.values.numpy()).max() < 1e-12
    assert np.abs(more["log_prob"] - exact.log_prob.numpy()).max() < 1e-12 and more["log_prob"].dtype == np.float64
    rounding = np.abs(less["local_energy"] - more["local_energy"]).max()
    assert 1e-9 < rounding < 1e-4, "float32 is seen to act"


def test_the_fidelity_of_a_state_with_itself_is_one_to_rounding(run: qsr.Run, tmp_path: Path) -> None:
    found = qsr.observe(run, 64, 64, fidelity=run, precision="float64").fidelity
    assert found is not None and abs(found.mean - 1) < 1e-13
    done = run_qsr("observe", str(run.path), "64", "--precision", "float64", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_model_of_the_run_stays_as_it_is(run: qsr.Run) -> None:
    qsr.evaluate(run, 8, 8, precision="float64")
    assert run.model.dtype == torch.float32 and run.settings.train.precision == "float32"


@pytest.mark.parametrize("job", [qsr.evaluate, qsr.observe])
def test_other_precisions_are_refused(run: qsr.Run, job: object) -> None:
    with pytest.raises(ConfigError, match=r"^precision=tf32: must be float64 \(without it: what the run is reported in\)$"):
        job(run, precision="tf32")
    done = run_qsr("load", str(run.path), "--precision", "bf16")
    assert done.returncode == 2 and done.stderr == "Error: Invalid value for '--precision': 'bf16' is not 'float64'.\n"
