"""`symmetry=` where runs are evaluated: what it prints and writes, and what it refuses."""

from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

import qsr
from qsr.cli.main import qsr as command
from qsr.hparams import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    train = {"K": 64, "steps": 3, "dir": str(tmp_path_factory.mktemp("runs"))}
    return qsr.train(qsr.Rydberg(Lx=3, Ly=3), qsr.RNN(Nh=8, patch=1), train=train)


def test_evaluation_with_a_symmetry(run: qsr.Run) -> None:
    """Densities of the four corners agree, and no energy is higher (8192 samples, the difference is many sigma)."""
    plain, symmetric = (qsr.evaluate(run, 8192, 2048, symmetry=word) for word in (None, "point"))
    assert symmetric.symmetry == "point, 8 images" and plain.symmetry == ""
    assert "symmetry            point, 8 images" in symmetric.lines() and len(plain.lines()) + 1 == len(symmetric.lines())
    noise = (symmetric.energy.error**2 + plain.energy.error**2) ** 0.5
    assert symmetric.energy.mean < plain.energy.mean + 4 * noise
    density = symmetric.observables["densities"]
    assert abs(density.mean[[0, 2, 6, 8]] - density.mean[[0, 2, 6, 8]].mean()).max() < 4 * density.error.max()


def test_the_model_of_the_run_stays_as_it_is(run: qsr.Run) -> None:
    qsr.observe(run, 8, 8, symmetry="reflections")
    assert type(run.model).__name__ == "PatchedRNN" and run.settings.model.symmetry == "none"


def test_commands(run: qsr.Run, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "symmetry            point, 8 images" in said("load", run.path, 64, "--symmetry", "point", "--output", tmp_path)
    with h5py.File(tmp_path / "samples.h5") as file:
        assert file.attrs["symmetry"] == "point"
    assert "reflections, 4 images" in said("observe", run.path, 64, "--symmetry", "reflections", "--output", tmp_path)
    tuned = said("finetune", run.path, "--symmetry", "point", "--train", "steps=1", f"dir={tmp_path}")
    assert "symmetry=point (8 images)" in said("info", tuned.split("done: ")[1].splitlines()[0])


@pytest.mark.parametrize("job", [qsr.evaluate, qsr.observe])
def test_what_is_refused(run: qsr.Run, job: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="symmetry=translations: the lattice has no such symmetry, the group has order 1"):
        job(run, symmetry="translations")
    with pytest.raises(ConfigError, match="symmetry=rotations: must be one of none, reflections"):
        job(run, symmetry="rotations")
    train = {"K": 16, "steps": 1, "dir": str(tmp_path)}
    symmetric = qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(Nh=8, patch=1, symmetry="reflections"), train=train)
    with pytest.raises(ConfigError, match="symmetry=point: the run was trained with symmetry=reflections"):
        job(symmetric, symmetry="point")
    phased = qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(Nh=8, patch=1, phase=True), train=train)
    with pytest.raises(ConfigError, match="symmetry=point: not with phase=True"):
        job(phased, symmetry="point")
