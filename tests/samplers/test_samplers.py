"""Each sampler is a normalised model whose samples, log-probabilities and flips agree with enumeration."""

import numpy as np
import pytest
import torch
from sampler_cases import CASES, SMALL, build
from scipy.stats import chi2

from qsr.hamiltonians.base import basis_index, configurations
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.samplers import PTF, AutoregressiveSampler, PatchedRNN, PatchedTransformer
from qsr.samplers.base import evaluation_mode
from qsr.samplers.flips import BasePass

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
every_case = pytest.mark.parametrize("name", CASES)
both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float64", "float32"])


def draw(sampler: AutoregressiveSampler, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return sampler.sample(count, torch.Generator().manual_seed(seed))


@every_case
@both_precisions
def test_probabilities_sum_to_one(name: str, dtype: torch.dtype, tolerance: float) -> None:
    sampler = build(name, dtype)
    log_prob = sampler.log_prob(configurations(sampler.num_sites)).detach()
    assert abs(log_prob.double().exp().sum().item() - 1) < tolerance
    assert log_prob.std() > 0.1, "a uniform distribution would not test anything"


@every_case
@both_precisions
def test_sampling_reports_the_log_prob_of_its_samples(name: str, dtype: torch.dtype, tolerance: float) -> None:
    sampler = build(name, dtype)
    configs, log_prob = draw(sampler, 64)
    assert configs.shape == (64, sampler.num_sites) and configs.dtype == torch.uint8
    assert (log_prob - sampler.log_prob(configs)).abs().max() < tolerance


@every_case
@both_precisions
@pytest.mark.parametrize("which", ["single sites", "random masks"])
def test_flips_one_by_one_equal_brute_force(name: str, dtype: torch.dtype, tolerance: float, which: str) -> None:
    sampler = build(name, dtype)
    configs, _ = draw(sampler, 16)
    generator = torch.Generator().manual_seed(6)
    rows = torch.randint(0, len(configs), (40,), generator=generator)
    masks = torch.eye(sampler.num_sites, dtype=torch.bool)[torch.randint(0, sampler.num_sites, (40,), generator=generator)]
    if which == "random masks":
        masks = torch.rand(40, sampler.num_sites, generator=generator) < 0.3
    with evaluation_mode(sampler):
        passed = BasePass(sampler, sampler.encode(configs), None)
        found = passed.pair_change(rows, sampler.encode(masks.to(torch.uint8)))
        expected = sampler.log_prob(configs[rows] ^ masks.to(torch.uint8)) - sampler.log_prob(configs[rows])
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() < 3 * tolerance


@every_case
@both_precisions
@pytest.mark.parametrize("which", ["single sites", "random masks"])
def test_flips_equal_brute_force(name: str, dtype: torch.dtype, tolerance: float, which: str) -> None:
    sampler = build(name, dtype)
    configs, _ = draw(sampler, 16)
    masks = None
    if which == "random masks":
        masks = torch.rand(9, sampler.num_sites, generator=torch.Generator().manual_seed(5)) < 0.3
        masks[4] = False  # a mask that flips nothing
    expected = sampler.plain_flip_log_prob(configs, masks).detach()
    # Log-probabilities of flips reach -20, of which float32 resolves 2e-6: rounding goes with their size.
    difference = (sampler.flip_log_prob(configs, masks) - expected).abs()
    assert (difference / expected.abs().clamp_min(1)).max() < tolerance / 5


@every_case
@pytest.mark.parametrize("options", [{"num_loops": 1}, {"num_loops": 2}, {"memory_bytes": 1}], ids=str)
def test_flips_do_not_depend_on_loops_and_chunks(name: str, options: dict[str, int]) -> None:
    sampler = build(name)
    configs, _ = draw(sampler, 5)
    difference = sampler.flip_log_prob(configs, **options) - sampler.flip_log_prob(configs)
    assert difference.abs().max() < 1e-12


@every_case
@pytest.mark.parametrize("gradients", [True, False], ids=["with gradients", "cached"])
def test_any_split_into_prefill_and_extend_gives_the_same_conditionals(name: str, gradients: bool) -> None:
    sampler = build(name)
    tokens = sampler.encode(draw(sampler, 6)[0])
    expected = sampler.prefill(tokens[:, :-1])[0].detach()
    with torch.set_grad_enabled(gradients):
        for start in range(sampler.num_tokens):
            pieces, state = sampler.prefill(tokens[:, :start])
            read, position = [pieces], start
            while position < sampler.num_tokens - 1:
                width = min(1 + position % 3, sampler.num_tokens - 1 - position)
                piece, state = sampler.extend(state, tokens[:, position : position + width])
                read.append(piece)
                position += width
            assert (torch.cat(read, dim=1) - expected).abs().max() < 1e-12


@every_case
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_samples_follow_the_distribution(name: str, seed: int) -> None:
    """Chi-square of 1e5 samples against p; cells with fewer than 5 expected counts are joined into one."""
    sampler = build(name, torch.float32)
    count = 100_000
    index = basis_index(draw(sampler, count, seed)[0]).numpy()
    with torch.no_grad():
        expected = count * sampler.log_prob(configurations(sampler.num_sites)).double().exp().numpy()
    found = np.bincount(index, minlength=len(expected))
    rare = expected < 5
    pairs = [(found[~rare], expected[~rare])]
    if expected[rare].sum() >= 5:
        pairs.append((np.array([found[rare].sum()]), np.array([expected[rare].sum()])))
    observed, wanted = (np.concatenate(part) for part in zip(*pairs, strict=True))
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert chi2.sf(statistic, df=len(wanted) - 1) > 1e-3


@pytest.mark.parametrize("kind", ["rnn", "ptf"])
def test_three_states_a_site(kind: str) -> None:
    """The sampler layer knows local_dim: probabilities of all 3^4 configurations sum to one, and flips are refused."""
    lattice = Lattice(2, 2)
    sampler = PatchedRNN(lattice, "1x2", 8, local_dim=3) if kind == "rnn" else PatchedTransformer(lattice, PTF(**SMALL), None, 3)
    configs = torch.cartesian_prod(*[torch.arange(3, dtype=torch.uint8)] * 4)
    assert sampler.log_prob(configs).exp().sum().item() == pytest.approx(1, abs=1e-5)
    drawn, log_prob = draw(sampler, 500)
    assert set(drawn.unique().tolist()) == {0, 1, 2}
    assert torch.allclose(sampler.log_prob(drawn), log_prob, atol=1e-5)
    with pytest.raises(ConfigError, match="local_dim=3"):
        sampler.flip_log_prob(drawn)


def test_samples_are_reproducible_and_differ_between_seeds() -> None:
    sampler = build("ptf-2x2-two-layers")
    first, again, other = (draw(sampler, 32, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_sampling_and_flips_ignore_dropout() -> None:
    sampler = PTF(Nh=8, nhead=2, dropout=0.5).build(Lattice(2, 4)).double().train()
    configs, log_prob = draw(sampler, 32)
    flips = sampler.flip_log_prob(configs)
    assert sampler.training
    assert not torch.allclose(sampler.log_prob(configs), log_prob), "dropout acts while training"
    sampler.eval()
    assert torch.allclose(sampler.log_prob(configs), log_prob)
    assert torch.allclose(flips, sampler.plain_flip_log_prob(configs))


@pytest.mark.parametrize("loops", [0, 9])
def test_more_loops_than_tokens_are_refused(loops: int) -> None:
    sampler = build("rnn-gru-2x2")
    with pytest.raises(ConfigError, match=f"NLOOPS={loops}: must be between 1 and 2"):
        sampler.flip_log_prob(draw(sampler, 2)[0], num_loops=loops)


def test_a_token_is_read_with_its_first_site_as_the_lowest_bit() -> None:
    sampler = build("rnn-gru-2x2")  # 2x4 lattice, sites x*4 + y; the first patch holds sites 0, 1, 4, 5
    config = torch.zeros(1, 8, dtype=torch.uint8)
    config[0, 4] = 1
    assert sampler.encode(config).tolist() == [[4, 0]]
    assert torch.equal(sampler.decode(sampler.encode(config)), config)


def test_evaluation_leaves_every_module_in_its_own_mode() -> None:
    """Also when it fails: a part that was frozen in evaluation mode stays so, whatever the whole is in."""
    sampler = build("ptf-2x2-two-layers", torch.float64)
    modules = list(sampler.modules())
    for index, module in enumerate(modules):
        module.training = index % 2 == 0
    before = [module.training for module in modules]
    with evaluation_mode(sampler):
        assert not any(module.training for module in modules) and not torch.is_grad_enabled()
    assert [module.training for module in modules] == before
    with pytest.raises(ZeroDivisionError), evaluation_mode(sampler):
        _ = 1 / 0
    assert [module.training for module in modules] == before
