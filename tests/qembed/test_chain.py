"""Chains against brute force, and couplings on other graphs."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from qsr.hparams import ConfigError
from qsr.qembed import functional as fn
from qsr.qembed.chain import chain_bonds, chain_log_prob, chain_marginals, chain_messages, chain_subset_log_prob, draw_chain
from qsr.qembed.entanglement import EntanglementCorrelation

DOUBLE = torch.float64


def random_chain(length: int, states: int, seed: int = 0, is_complex: bool = True) -> tuple[Tensor, Tensor]:
    """ln p (1, L, K) and couplings (1, L-1, K, K)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, length, states, dtype=DOUBLE, generator=generator)
    kind = torch.complex128 if is_complex else DOUBLE
    return torch.log_softmax(logits, -1), torch.randn(1, length - 1, states, states, dtype=kind, generator=generator)


def all_outcomes(length: int, states: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def state_vector(log_probs: Tensor, couplings: Tensor, outcomes: Tensor) -> Tensor:
    """Psi of every row of outcomes, not normalised, term by term."""
    amplitudes = (0.5 * log_probs[0]).exp()
    values = []
    for row in outcomes.tolist():
        value = torch.tensor(1.0, dtype=torch.complex128)
        for i, k in enumerate(row):
            value = value * amplitudes[i, k]
            if i:
                value = value * torch.exp(couplings[0, i - 1, row[i - 1], k])
        values.append(value)
    return torch.stack(values)


@pytest.mark.parametrize(("length", "states"), [(1, 3), (2, 2), (4, 3), (5, 3), (5, 2)])
def test_a_chain_against_all_its_configurations(length: int, states: int) -> None:
    log_probs, couplings = random_chain(length, states)
    outcomes = all_outcomes(length, states)
    psi = state_vector(log_probs, couplings, outcomes)
    norm = psi.abs().square().sum()
    born = psi.abs().square() / norm
    messages = chain_messages(log_probs, couplings)
    assert messages.log_norm.item() == pytest.approx(norm.log().item(), abs=1e-10)
    found = chain_log_prob(log_probs, couplings, outcomes, messages.log_norm)
    assert torch.allclose(found.exp(), born, rtol=0, atol=1e-12)
    marginals = chain_marginals(messages, log_probs)[0].exp()
    grid = born.view([states] * length)
    for i in range(length):
        others = [axis for axis in range(length) if axis != i]
        assert torch.allclose(marginals[i], grid.sum(dim=others) if others else grid, rtol=0, atol=1e-12)
    matrices = chain_bonds(messages, couplings)[0]
    for cut in range(1, length):
        exact = torch.linalg.svdvals(psi.view(states**cut, -1) / norm.sqrt())
        found = torch.linalg.svdvals(matrices[cut - 1])
        short = min(len(exact), states)
        assert torch.allclose(found[:short], exact[:short], rtol=0, atol=1e-10)
        assert bool((exact[short:] < 1e-10).all())


def test_some_outcomes_of_a_chain_are_sums_over_the_others() -> None:
    log_probs, couplings = random_chain(4, 3, seed=1)
    messages = chain_messages(log_probs, couplings)
    outcomes = all_outcomes(4, 3)
    joint = chain_log_prob(log_probs, couplings, outcomes, messages.log_norm).exp()
    whole = chain_subset_log_prob(log_probs, couplings, outcomes[17:18], messages.log_norm)
    assert whole.exp().item() == pytest.approx(joint[17].item(), abs=1e-12)
    some = torch.tensor([[2, -1, 0, -1]])
    there = (outcomes[:, 0] == 2) & (outcomes[:, 2] == 0)
    found = chain_subset_log_prob(log_probs, couplings, some, messages.log_norm)
    assert found.exp().item() == pytest.approx(joint[there].sum().item(), abs=1e-12)
    none = chain_subset_log_prob(log_probs, couplings, torch.full((1, 4), -1), messages.log_norm)
    assert none.item() == pytest.approx(0.0, abs=1e-12)


def test_the_joint_probability_of_three_coupled_tokens() -> None:
    chain = EntanglementCorrelation(2).double()
    uniform = torch.full((1, 3, 2), 0.5, dtype=DOUBLE).log()
    found = chain(uniform).log_prob(torch.tensor([[0, 0, 0]]))
    assert found.exp().item() == pytest.approx(0.5 / (1 + math.exp(-1)) ** 2, abs=1e-12)
    assert found.exp().item() == pytest.approx(0.267224, abs=1e-6)


def chi_square(observed: Tensor, probs: Tensor) -> float:
    """p-value of counts."""
    expected = probs * observed.sum()
    statistic = ((observed - expected).square() / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(probs) - 1) / 2.0, dtype=DOUBLE), statistic / 2).item()


def test_draws_of_a_chain_follow_its_distribution() -> None:
    log_probs, couplings = random_chain(4, 2, seed=3)
    messages = chain_messages(log_probs, couplings)
    uniforms = torch.rand(20000, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    drawn = draw_chain(messages.right, couplings, uniforms)
    index = (drawn * torch.tensor([8, 4, 2, 1])).sum(dim=1)
    probs = chain_log_prob(log_probs, couplings, all_outcomes(4, 2), messages.log_norm).exp()
    assert chi_square(index.bincount(minlength=16).double(), probs) > 1e-3
    # A chain for every row gives the same as one that they share.
    own = draw_chain(messages.right.expand(50, -1, -1), couplings.expand(50, -1, -1, -1), uniforms[:50])
    assert torch.equal(own, drawn[:50])


def test_a_long_chain_stays_within_single_precision() -> None:
    chain = EntanglementCorrelation(3, entanglement_strength=2.0)
    logits = 8 * torch.randn(2, 600, 3, generator=torch.Generator().manual_seed(0))
    single = chain(torch.log_softmax(logits, -1))
    double = chain.double()(torch.log_softmax(logits.double(), -1))
    assert torch.allclose(single.log_marginals.exp().double(), double.log_marginals.exp(), rtol=0, atol=1e-4)
    assert torch.allclose(single.bonds.matrices.double(), double.bonds.matrices, rtol=0, atol=1e-4)


def test_gradients_through_a_chain() -> None:
    log_probs, couplings = random_chain(4, 2, seed=2)

    def outputs(log_probs: Tensor, couplings: Tensor) -> tuple[Tensor, ...]:
        log_probs = torch.log_softmax(log_probs, -1)
        messages = chain_messages(log_probs, couplings)
        subset = chain_subset_log_prob(log_probs, couplings, torch.tensor([[1, -1, 0, -1]]), messages.log_norm)
        measured = fn.bond_measure("entropy", chain_bonds(messages, couplings))
        return chain_marginals(messages, log_probs), subset, measured

    assert gradcheck(outputs, (log_probs.requires_grad_(), couplings.requires_grad_()))


def test_without_coupling_tokens_are_independent() -> None:
    log_probs = torch.log_softmax(torch.randn(3, 5, 4, dtype=DOUBLE), -1)
    found = EntanglementCorrelation(4, entanglement_strength=0.0).double()(log_probs)
    assert torch.allclose(found.log_marginals, log_probs, rtol=0, atol=1e-12)
    assert found.bonds.strength().item() == pytest.approx(0.0, abs=1e-10)


def test_padding_takes_no_part() -> None:
    log_probs = torch.log_softmax(torch.randn(1, 6, 3, dtype=DOUBLE), -1)
    chain = EntanglementCorrelation(3, entanglement_strength=1.3).double()
    short = chain(log_probs[:, :4])
    padded = chain(log_probs, torch.tensor([[1, 1, 1, 1, 0, 0]], dtype=torch.bool))
    assert torch.allclose(padded.log_marginals[:, :4], short.log_marginals, rtol=0, atol=1e-12)
    assert padded.bonds.mask.tolist() == [[True, True, True, False, False]]
    assert padded.bonds.strength().item() == pytest.approx(short.bonds.strength().item(), abs=1e-12)
    assert padded.bonds.measure("bell_state")[0, 3:].tolist() == [0.0, 0.0]
    nothing = chain(log_probs, torch.zeros(1, 6, dtype=torch.bool))
    assert nothing.bonds.strength().item() == 0.0 and torch.allclose(nothing.log_marginals, log_probs)


def test_a_ghz_state_has_groups() -> None:
    chain = EntanglementCorrelation(2, "ghz_state", 9.0, ghz_size=3).double()
    found = chain(torch.full((1, 6, 2), 0.5, dtype=DOUBLE).log())
    assert found.bonds.mask.tolist() == [[True, True, False, True, True]]
    probs = found.log_prob(torch.tensor([[0, 0, 0, 1, 1, 1]])).exp()
    assert probs.item() == pytest.approx(0.25, abs=1e-6)  # (|000> + |111>) / sqrt 2, twice
    assert found.bonds.strength().item() == pytest.approx(1.0, abs=1e-6)


def test_causal_marginals_are_those_of_the_chain_cut_behind_each_token() -> None:
    log_probs = torch.log_softmax(torch.randn(2, 5, 3, dtype=DOUBLE), -1)
    chain = EntanglementCorrelation(3, "custom", 8.0).double()
    found = chain(log_probs, causal=True)
    assert found.messages is None
    for end in range(1, 6):
        cut = chain(log_probs[:, :end])
        assert torch.allclose(found.log_marginals[:, end - 1], cut.log_marginals[:, -1], rtol=0, atol=1e-12)
        if end > 1:
            assert torch.allclose(found.bonds.matrices[:, end - 2], cut.bonds.matrices[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pairs", ["all", "grid:2x3", torch.tensor([[0, 3], [1, 5]])])
@pytest.mark.parametrize("kind", ["bell_state", "custom"])
def test_other_graphs_have_bonds_of_two_tokens(pairs: str | Tensor, kind: str) -> None:
    log_probs = torch.log_softmax(torch.randn(2, 6, 3, dtype=DOUBLE), -1)
    graph = EntanglementCorrelation(3, kind, 3.0, pairs).double()
    found = graph(log_probs)
    assert torch.equal(found.log_marginals, log_probs) and not graph.is_chain
    bonds = graph.bonds(6)
    couplings = graph.couplings(bonds)
    for index, (i, j) in enumerate(bonds.tolist()):
        messages = chain_messages(log_probs[:, [i, j]], couplings[index][None, None])
        exact = chain_bonds(messages, couplings[index][None, None])[:, 0]
        assert torch.allclose(found.bonds.matrices[:, index], exact, rtol=0, atol=1e-12)
    assert len(bonds) == {"all": 15, "grid:2x3": 7}.get(pairs if isinstance(pairs, str) else "", 2)


def test_displacement_classes() -> None:
    graph = EntanglementCorrelation(2, "custom", 1.0, "all", max_range=2)
    couplings = {tuple(bond): graph.couplings(graph.bonds(4))[row] for row, bond in enumerate(graph.bonds(4).tolist())}
    assert torch.equal(couplings[0, 1], couplings[2, 3]) and torch.equal(couplings[0, 2], couplings[0, 3])
    assert not torch.equal(couplings[0, 1], couplings[0, 2])
    narrow = EntanglementCorrelation(2, "custom", 1.0, "grid:2x1")  # a bond across rows has displacement 1 too
    assert torch.equal(narrow.couplings(narrow.bonds(2))[0].real, narrow.coupling_real[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_states": 0}, "num_states=0: must be at least 1"),
        ({"correlation_type": "bel_state"}, "correlation_type='bel_state': .*did you mean 'bell_state'"),
        ({"entanglement_strength": -0.1}, "entanglement_strength=-0.1"),
        ({"entanglement_strength": math.nan}, "entanglement_strength=nan"),
        ({"ghz_size": 1}, "ghz_size=1: must be at least 2"),
        ({"pairs": "ring"}, "pairs='ring': must be 'chain', 'all', 'grid:AxB'"),
        ({"pairs": "grid:3"}, "pairs='grid:3'"),
        ({"pairs": torch.tensor([[1, 1]])}, "pairs: each row must hold two positions 0 <= i < j"),
        ({"pairs": torch.tensor([0, 1])}, r"pairs: must be an int64 tensor \(P, 2\)"),
        ({"pairs": "all", "correlation_type": "ghz_state"}, "pairs='all': ghz_state couples neighbours"),
        ({"max_range": 2}, "max_range=2: must be 1, except"),
        ({"max_range": 0, "pairs": "all", "correlation_type": "custom"}, "max_range=0: must be at least 1"),
    ],
)
def test_what_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EntanglementCorrelation(**{"num_states": 2, **arguments})  # type: ignore[arg-type]


def test_pairs_must_fit_the_input() -> None:
    log_probs = torch.zeros(1, 4, 2).log_softmax(-1)
    with pytest.raises(ConfigError, match="pairs='grid:2x3': has 6 sites; the input has 4"):
        EntanglementCorrelation(2, pairs="grid:2x3")(log_probs)
    with pytest.raises(ConfigError, match="pairs: position 4 lies outside the input of 4 tokens"):
        EntanglementCorrelation(2, pairs=torch.tensor([[0, 4]]))(log_probs)
