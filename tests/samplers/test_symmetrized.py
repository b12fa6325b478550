"""A sampler averaged over a group: normalised, invariant, exact samples and flips, and never a higher energy."""

import pytest
import torch
from scipy.stats import chi2

from qsr.estimators import local_energy
from qsr.hamiltonians import TFIM, Heisenberg, LatticeHparams, Rydberg
from qsr.hamiltonians.base import basis_index, configurations
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN, SymmetrizedSampler
from qsr.samplers.base import draw_samples
from qsr.symmetries import site_permutations

SMALL = {"Nh": 8, "nhead": 2}
SAMPLERS = {
    "rnn": RNN(Nh=8, patch=1, symmetry="point"),
    "ptf": PTF(**SMALL, patch="1x3", symmetry="point", num_layers=2),
    "lptf": LPTF(**SMALL, patch="3x1", subsampler=RNN(patch=1), symmetry="point"),
    "ptf-quantum": PTF(**SMALL, patch=1, embedding={"K": 3, "strategy": "none", "context_encoder": "mean"}, symmetry="point"),
}
LATTICES = {
    "3x3": (Lattice(3, 3), "point", 8),
    "2x3": (Lattice(2, 3), "point", 4),
    "ring": (Lattice(9, 1, "periodic"), "all", 18),
    "3x3-torus": (Lattice(3, 3, "periodic"), "translations", 9),
}
every_sampler = pytest.mark.parametrize("name", ["rnn", "ptf", "lptf"])


def build(name: str, lattice: Lattice, symmetry: str = "point", dtype: torch.dtype = torch.float64) -> SymmetrizedSampler:
    """Reproducible weights, scaled up so that the distribution is far from uniform and from symmetric."""
    settings = SAMPLERS[name].updated({"symmetry": symmetry})
    if lattice.Ly == 1 or lattice.shape == (2, 3):
        settings = settings.updated({"patch": "1x3" if lattice.Ly > 1 else 3})
    with torch.random.fork_rng():
        torch.manual_seed(sum(name.encode()))
        sampler = settings.build(lattice).to(dtype)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(2.0)
    assert isinstance(sampler, SymmetrizedSampler)
    return sampler.eval()


def draw(sampler: SymmetrizedSampler, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return sampler.sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "place"), [*((name, "3x3") for name in SAMPLERS), ("ptf", "2x3"), ("rnn", "ring"), ("ptf", "3x3-torus")]
)
def test_it_is_a_normalised_and_invariant_average(name: str, place: str) -> None:
    lattice, symmetry, order = LATTICES[place]
    sampler = build(name, lattice, symmetry)
    assert sampler.order == order
    configs = configurations(lattice.num_sites)
    log_prob = sampler.log_prob(configs).detach()
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-10)
    images = torch.stack([sampler.log_prob(configs[:, element]) for element in sampler.permutations]).detach()
    assert (images - log_prob).abs().max() < 1e-10
    base = sampler.base.log_prob(configs).detach()
    assert (base - log_prob).abs().max() > 0.1, "the base was symmetric: this tests nothing"
    average = torch.stack([base[basis_index(configs[:, element])].exp() for element in sampler.permutations]).mean(dim=0)
    assert (average - log_prob.exp()).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "dtype", "which"),
    [
        *((name, torch.float64, "single sites") for name in SAMPLERS),
        ("rnn", torch.float64, "bonds"),
        ("ptf", torch.float64, "random masks"),
        ("ptf", torch.float32, "single sites"),
        ("rnn", torch.float32, "bonds"),
    ],
)
def test_flips_equal_brute_force(name: str, dtype: torch.dtype, which: str) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    sampler = build(name, Lattice(3, 3), dtype=dtype)
    configs, log_prob = draw(sampler, 4)
    masks = None
    if which == "bonds":
        masks = Heisenberg(Lx=3, Ly=3).build().connected(configs)[0]
    if which == "random masks":
        masks = torch.rand(5, 9, generator=torch.Generator().manual_seed(3)) < 0.4
    expected = sampler.plain_flip_log_prob(configs, masks).detach()
    for rows, options in ((4, {}), (4, {"num_loops": 1}), (2, {"memory_bytes": 50_000})):
        found = sampler.flip_log_prob(configs[:rows], masks, **options)
        assert ((found - expected[:rows]).abs() / expected[:rows].abs().clamp_min(1)).max() < tolerance
    assert (sampler.log_prob(configs) - log_prob).abs().max() < tolerance


@every_sampler
def test_samples_follow_the_distribution(name: str) -> None:
    """Chi-square of 2e4 samples against p; cells with fewer than 5 expected counts are joined into one."""
    sampler = build(name, Lattice(3, 3), dtype=torch.float32)
    found = torch.bincount(basis_index(draw(sampler, 20_000, seed=11)[0]), minlength=512).double()
    with torch.no_grad():
        expected = 20_000 * sampler.log_prob(configurations(9)).double().exp()
    rare = expected < 5
    together = [rare] if expected[rare].sum() >= 5 else []
    observed, wanted = (torch.cat([x[~rare], *(x[cells].sum()[None] for cells in together)]) for x in (found, expected))
    assert chi2.sf(((observed - wanted).square() / wanted).sum().item(), df=len(wanted) - 1) > 1e-3


@every_sampler
def test_samples_do_not_depend_on_the_memory(name: str) -> None:
    sampler = build(name, Lattice(3, 3))
    configs, log_prob = draw(sampler, 30)
    for memory in (1, 8 * sampler.sample_bytes(), 2**30):
        again, others = draw_samples(sampler, 30, torch.Generator().manual_seed(0), memory)
        assert torch.equal(again, configs) and (others - log_prob).abs().max() < 1e-12
    assert not torch.equal(draw(sampler, 30, seed=1)[0], configs)


def exact_energy(sampler: torch.nn.Module, hamiltonian: object) -> float:
    """<psi|H|psi> of psi = sqrt(p) by enumeration."""
    with torch.no_grad():
        psi = sampler.log_prob(configurations(sampler.num_sites)).div(2).exp().numpy()
    return float(psi @ (hamiltonian.to_sparse() @ psi))


PROBLEMS: list[LatticeHparams] = [
    Rydberg(Lx=3, Ly=3),
    Rydberg(Lx=2, Ly=3, delta=3.0),
    TFIM(Lx=3, Ly=3, boundary="periodic"),
    Heisenberg(Lx=2, Ly=3),
    Rydberg(Lx=3, Ly=3, delta=[1.0, 0.5, 1.0, 0.8, 0.3, 0.8, 1.0, 0.5, 1.0]),  # C2v
]


@pytest.mark.parametrize(
    ("name", "number"), [*(("rnn", number) for number in range(len(PROBLEMS))), ("ptf", 0), ("ptf", 4), ("lptf", 2)]
)
def test_the_energy_never_rises(name: str, number: int) -> None:
    """The theorem of the docstring, for networks that have learned nothing; each image alone has the energy of the base."""
    problem = PROBLEMS[number]
    sampler, hamiltonian = build(name, problem.lattice()), problem.build()
    group = SAMPLERS[name].updated({"patch": 1} if name != "lptf" else {"patch": "1x3"}).build(problem.lattice(), problem=problem)
    whole = SymmetrizedSampler(sampler.base, group.permutations)
    base, symmetric = exact_energy(sampler.base, hamiltonian), exact_energy(whole, hamiltonian)
    assert symmetric < base - 1e-5
    for element in whole.permutations[1:3]:
        turned = SymmetrizedSampler(sampler.base, element[None])
        assert exact_energy(turned, hamiltonian) == pytest.approx(base, abs=1e-9)
    # A subgroup is an average of fewer: the whole group is not above it, by the same theorem.
    half = SymmetrizedSampler(sampler.base, site_permutations(problem.lattice(), "reflections"))
    assert symmetric <= exact_energy(half, hamiltonian) + 1e-12


@every_sampler
def test_the_local_energy_averages_to_the_energy(name: str) -> None:
    problem = PROBLEMS[0]
    sampler, hamiltonian = build(name, problem.lattice()), problem.build()
    configs = configurations(9)
    found = local_energy(sampler, hamiltonian, configs)
    assert (found.log_prob.exp() @ found.values).item() == pytest.approx(exact_energy(sampler, hamiltonian), abs=1e-9)
    image = local_energy(sampler, hamiltonian, configs[:, sampler.permutations[3]]).values
    assert (image - found.values).abs().max() < 1e-8, "the same for all images"


@every_sampler
def test_the_weights_are_those_of_the_base(name: str) -> None:
    sampler = build(name, Lattice(3, 3))
    plain = SAMPLERS[name].updated({"symmetry": "none"}).build(Lattice(3, 3)).double()
    plain.load_state_dict(sampler.state_dict())
    assert torch.equal(plain.log_prob(configurations(9)), sampler.base.log_prob(configurations(9)))
    other = SAMPLERS[name].build(Lattice(3, 3)).double()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.log_prob(configurations(9)), sampler.log_prob(configurations(9)))


def test_conditioned_samplers() -> None:
    """p(n|x) is averaged for each x, as samplers inside Hilbert-space models are called."""
    sampler = PTF(**SMALL, patch=1, symmetry="point").build(Lattice(2, 2), context_size=3).double().eval()
    context = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    configs = configurations(4)
    for row in context:
        log_prob = sampler.log_prob(configs, row.expand(16, -1))
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-10)
        assert (sampler.log_prob(configs[:, sampler.permutations[5]], row.expand(16, -1)) - log_prob).abs().max() < 1e-12
    drawn, log_prob = sampler.sample(5, torch.Generator().manual_seed(1), context, memory_bytes=1)
    assert (sampler.log_prob(drawn, context) - log_prob).abs().max() < 1e-12
    found = sampler.flip_log_prob(drawn, context=context) - sampler.plain_flip_log_prob(drawn, context=context)
    assert found.abs().max() < 1e-12


def test_what_is_refused() -> None:
    phased = RNN(Nh=8, patch=1, phase=True).build(Lattice(2, 2))
    with pytest.raises(ConfigError, match="symmetry: not with phase=True"):
        SymmetrizedSampler(phased, site_permutations(Lattice(2, 2), "point"))
    with pytest.raises(ConfigError, match=r"rnn\.symmetry=point: not with phase=True"):
        RNN(symmetry="point", phase=True)
    with pytest.raises(ConfigError, match=r"rnn\.symmetry=point: the symmetries are those of all sites; write --lptf symmetry="):
        LPTF(patch="2x2", subsampler=RNN(symmetry="point"))
    with pytest.raises(ConfigError, match=r"ptf\.symmetry=point: the lattice has no such symmetry"):
        PTF(patch=1, symmetry="point").build(Lattice.from_positions([[0, 0], [1, 0.1], [2.3, 0.7]]))
    with pytest.raises(ConfigError, match="translations need boundary=periodic or cylinder"):
        PTF(patch=1, symmetry="translations").build(Lattice(2, 2))
    problem = Rydberg(Lx=2, Ly=2, delta=[0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ConfigError, match=r"ptf\.symmetry=all: the lattice has such symmetries, the Hamiltonian has none"):
        PTF(patch=1, symmetry="all").build(problem.lattice(), problem=problem)
    with pytest.raises(ValueError, match="rows must be permutations of 4 sites"):
        SymmetrizedSampler(RNN(Nh=8, patch=1).build(Lattice(2, 2)), torch.tensor([[0, 1, 2, 2]]))
