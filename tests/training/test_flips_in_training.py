"""Sampled flips inside a training: what is reported of a step, what is chosen, and that a choice survives an interruption."""

from pathlib import Path

import pytest
import torch

import qsr
from qsr.estimators import local_energy
from qsr.estimators.sampled_flips import EXACT
from qsr.hamiltonians import configurations
from qsr.lattice import Lattice
from qsr.runs import RunDirectory, same_history
from qsr.training import BatchKey, Interrupted, TrainHparams, VariationalEnergy
from tests.training.lines import StopAt

ARRAY = qsr.Rydberg(Lx=4, Ly=4)


def sampler() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return qsr.PTF(Nh=8, nhead=2, patch="2x2").build(Lattice(4, 4)).double().eval()


@pytest.mark.parametrize(
    ("flips", "samples"), [(2, 64), *(pytest.param(flips, 512, marks=pytest.mark.slow) for flips in (8, "exact"))]
)
def test_the_reported_error_is_the_scatter_and_the_variance_is_the_states_own(flips: int | str, samples: int) -> None:
    """512 samples of 4x4 hold many copies, which share the noise of their drawn flips."""
    model, hamiltonian = sampler(), ARRAY.build()
    everything = configurations(16)
    probabilities = model.log_prob(everything).detach().exp()
    exact = local_energy(model, hamiltonian, everything).values
    mean = (probabilities * exact).sum()
    variance = (probabilities * (exact - mean).square()).sum()

    objective = VariationalEnergy(hamiltonian, TrainHparams(K=samples, flips=flips, window=0))
    found = [objective.prepare(model, [BatchKey(1, step, 0)])[1] for step in range(300)]
    energies = torch.tensor([step["energy"] for step in found], dtype=torch.float64)
    errors = torch.tensor([step["energy_error"] for step in found], dtype=torch.float64)
    # 300 repeats: the scatter is known to 4 % (1 sigma), its mean to a seventeenth of itself.
    assert energies.std() / errors.square().mean().sqrt() == pytest.approx(1, abs=0.16)
    assert abs(energies.mean() - mean) < 4 * energies.std() / 300**0.5
    variances = torch.tensor([step["variance"] for step in found], dtype=torch.float64)
    assert abs(variances.mean() - variance) < 4 * variances.std() / 300**0.5


def test_a_single_drawn_flip_has_its_error_in_the_variance() -> None:
    objective = VariationalEnergy(ARRAY.build(), TrainHparams(K=256, flips=1, window=0))
    model = sampler()
    found = [objective.prepare(model, [BatchKey(1, step, 0)])[1] for step in range(300)]
    energies = torch.tensor([step["energy"] for step in found], dtype=torch.float64)
    errors = torch.tensor([step["energy_error"] for step in found], dtype=torch.float64)
    assert energies.std() / errors.square().mean().sqrt() == pytest.approx(1, abs=0.16)


def test_bounded_noise_and_true_gradients() -> None:
    hamiltonian = ARRAY.build()
    with pytest.raises(qsr.ConfigError, match=r"train\.true_grad=True: differentiates all flips; not with flips=4"):
        VariationalEnergy(hamiltonian, TrainHparams(true_grad=True, flips=4))
    objective = VariationalEnergy(hamiltonian, TrainHparams(true_grad=True, K=8))
    objective.prepare(sampler(), [BatchKey(0, 0, 0)])
    assert objective.sampling == EXACT


@pytest.mark.parametrize("optimizer", ["Adam", "spring"])
def test_a_choice_of_flips_survives_an_interruption(optimizer: str, tmp_path: Path) -> None:
    settings = {"K": 16, "K_final": 32, "steps": 12, "dir": str(tmp_path), "L": 256}
    arguments = {"model": qsr.PTF(Nh=8, nhead=2), "train": settings, "optimizer": {"name": optimizer}}
    with pytest.raises(Interrupted) as stopped:
        qsr.train(**arguments, callbacks=[StopAt(5)])
    assert stopped.value.directory is not None
    resumed = qsr.resume(stopped.value.directory.path)
    whole = qsr.train(**arguments)
    histories = [RunDirectory(run.path or "").history for run in (resumed, whole)]
    assert same_history(*histories)
    assert (histories[0].read("steps")["flips"] > 0).all(), "nothing was sampled: the test has lost its point"
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
