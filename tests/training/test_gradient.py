"""The VMC gradient against the enumerated gradient of <psi|H|psi>."""

import pytest
import torch

from qsr.estimators.local_energy import differentiable_local_energy, local_energy, weighted_loss
from qsr.hamiltonians import Rydberg
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError, RunSettings
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN, Sampler
from qsr.training import BatchKey, TrainHparams, VariationalEnergy

CONTEXT = {"K": 2, "context_encoder": "mean"}
MODELS = {
    "rnn": RNN(Nh=6, patch=1),
    "ptf": PTF(Nh=8, nhead=2, patch="2x1"),
    "lptf": LPTF(Nh=8, nhead=2, patch="2x1", subsampler=RNN(patch=1)),
    "rnn-quantum": RNN(Nh=6, patch=1, embedding={"K": 2, "strategy": "none"}),
    "ptf-quantum": PTF(Nh=8, nhead=2, patch="2x1", embedding=CONTEXT),
    "lptf-quantum": LPTF(
        Nh=8,
        nhead=2,
        patch="2x1",
        embedding={"K": 2, "strategy": "none", "factorization": "ketxs"},
        subsampler=RNN(patch=1, embedding={**CONTEXT, "strategy": "none", "entanglement": "bell_state"}),
    ),
}
SHAPES = [(2, 2), (2, 3)]


def build(name: str, shape: tuple[int, int]) -> Sampler:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return MODELS[name].build(Lattice(*shape)).double()


def flat_gradient(model: Sampler, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)])


def exact_gradient(model: Sampler, shape: tuple[int, int]) -> torch.Tensor:
    """Gradient of <psi|H|psi> with psi = sqrt(p), by the dense matrix."""
    problem = Rydberg(Lx=shape[0], Ly=shape[1], V=3.0, delta=0.7).build()
    matrix = torch.from_numpy(problem.to_sparse().toarray())
    psi = (0.5 * model.log_prob(configurations(problem.num_sites))).exp()
    return flat_gradient(model, psi @ matrix @ psi)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("true_grad", [False, True])
def test_enumerated_gradient_is_exact(name: str, shape: tuple[int, int], true_grad: bool) -> None:
    model = build(name, shape)
    problem = Rydberg(Lx=shape[0], Ly=shape[1], V=3.0, delta=0.7).build()
    configs = configurations(problem.num_sites)
    log_prob = model.log_prob(configs)
    probability = log_prob.detach().exp()
    energies = local_energy(model, problem, configs).values
    terms = probability * (energies - (probability * energies).sum())
    through = differentiable_local_energy(model, problem, configs) if true_grad else None
    found = flat_gradient(model, weighted_loss(log_prob, terms, probability, differentiable=through))
    assert (found - exact_gradient(model, shape)).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])], ids=str)
@pytest.mark.parametrize("true_grad", [False, True])
@pytest.mark.parametrize("sgrad", [False, True])
@pytest.mark.parametrize("minibatches", [1, 4])
def test_sampled_gradient_is_unbiased(shape: tuple[int, int], true_grad: bool, sgrad: bool, minibatches: int) -> None:
    """Along 20 random directions the mean over independent batches is within 4 standard errors (|z| < 4)."""
    model = build("ptf", shape)
    problem = Rydberg(Lx=shape[0], Ly=shape[1], V=3.0, delta=0.7).build()
    # Small batches on purpose: with B = 8 a baseline that is not leave-one-out is biased by 1/8.
    settings = TrainHparams(K=8 // minibatches, Q=minibatches, sgrad=sgrad, true_grad=true_grad)
    objective = VariationalEnergy(problem, settings)
    exact = exact_gradient(model, shape)
    generator = torch.Generator().manual_seed(9)
    directions = torch.randn(20, len(exact), dtype=torch.float64, generator=generator)
    projections = []
    for step in range(300):
        keys = [BatchKey(seed=1, step=step, minibatch=index) for index in range(minibatches)]
        batches, _ = objective.prepare(model, keys)
        gradient = sum(flat_gradient(model, objective.loss(model, batch)[0]) for batch in batches)
        projections.append(directions @ gradient)
    values = torch.stack(projections)
    z = (values.mean(dim=0) - directions @ exact) / (values.std(dim=0) / len(values) ** 0.5)
    assert z.abs().max() < 4


def test_minibatches_share_one_baseline() -> None:
    """Q minibatches of K samples weigh them exactly as one batch of Q*K samples does."""
    model = build("rnn", (2, 3))
    objective = VariationalEnergy(Rydberg(Lx=2, Ly=3).build(), TrainHparams(K=4, Q=3, flips="exact"))
    batches, metrics = objective.prepare(model, [BatchKey(0, 0, index) for index in range(3)])
    # One row per sample again: a configuration that was drawn twice is stored once, with its terms summed.
    counts = [(12 * batch.weights).round().long() for batch in batches]
    assert sum(count.sum() for count in counts) == 12 and all(count.sum() == 4 for count in counts)
    configs = torch.cat([batch.configs.repeat_interleave(count, dim=0) for batch, count in zip(batches, counts, strict=True)])
    energies = local_energy(model, objective.hamiltonian, configs).values
    others = torch.stack([torch.cat([energies[:i], energies[i + 1 :]]).mean() for i in range(12)])
    found = [(batch.terms / count).repeat_interleave(count) for batch, count in zip(batches, counts, strict=True)]
    assert torch.allclose(torch.cat(found), (energies - others) / 12)
    assert metrics["energy"] == pytest.approx(energies.mean().item())
    assert metrics["variance"] == pytest.approx(energies.var().item())
    assert metrics["energy_error"] == pytest.approx(energies.std().item() / 12**0.5)


class PhasedTable(Sampler):
    """psi over all configurations as two tables, log p and phase: the smallest model with signs."""

    has_phase = True

    def __init__(self, num_sites: int) -> None:
        super().__init__()
        self.num_sites = num_sites
        generator = torch.Generator().manual_seed(2)
        self.logits = torch.nn.Parameter(torch.randn(2**num_sites, dtype=torch.float64, generator=generator))
        self.angles = torch.nn.Parameter(torch.randn(2**num_sites, dtype=torch.float64, generator=generator))

    def log_prob(self, configs: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits.log_softmax(dim=0)[(configs.long() << torch.arange(self.num_sites)).sum(dim=1)]

    def phase(self, configs: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return self.angles[(configs.long() << torch.arange(self.num_sites)).sum(dim=1)]


@pytest.mark.parametrize("true_grad", [False, True])
def test_gradient_of_a_model_with_phase_is_exact(true_grad: bool) -> None:
    problem = Rydberg(Lx=2, Ly=2).build()
    model, configs = PhasedTable(4), configurations(4)
    log_prob, phase = model.log_prob(configs), model.phase(configs)
    psi = torch.polar((0.5 * log_prob).exp(), phase)
    matrix = torch.from_numpy(problem.to_sparse().toarray()).to(psi.dtype)
    energy = (psi.conj() @ matrix @ psi).real
    expected = flat_gradient(model, energy)
    probability = model.log_prob(configs).detach().exp()
    energies = local_energy(model, problem, configs).values
    assert (probability * energies).sum().real.item() == pytest.approx(energy.item(), abs=1e-12)
    terms = probability * (energies - (probability * energies).sum())
    through = differentiable_local_energy(model, problem, configs) if true_grad else None
    loss = weighted_loss(model.log_prob(configs), terms, probability, model.phase(configs), through)
    assert (flat_gradient(model, loss) - expected).abs().max() < 1e-10


def test_a_sign_problem_without_a_phase_is_refused() -> None:
    problem = Rydberg(Lx=2, Ly=2).build()
    problem.is_stoquastic = False
    with pytest.raises(ConfigError, match="not stoquastic"):
        local_energy(build("rnn", (2, 2)), problem, configurations(4))


def test_run_settings_reach_the_objective() -> None:
    settings = RunSettings.from_tree({"model": RNN(patch=1), "train": {"K": 3, "L": 4}})
    objective = VariationalEnergy(settings.hamiltonian.build(), settings.train)
    batches, _ = objective.prepare(settings.model.build(settings.hamiltonian.lattice()), [BatchKey(0, 0, 0)])
    assert batches[0].configs.shape[1] == 4
    assert batches[0].weights.sum() == pytest.approx(1)
