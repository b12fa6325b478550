"""Formulas of one register, one bond and one measurement: reference values, invariances, and gradients at the hard states."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from qsr.hparams import ConfigError
from qsr.qembed import functional as fn
from qsr.qembed.functional import BOND_MEASURES, UNCERTAINTIES
from qsr.qembed.matrices import inverse_root

DOUBLE = torch.float64
PRIOR = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=DOUBLE)


def complex_normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def unit_senses(*shape: int, seed: int = 0) -> Tensor:
    return fn.unit(complex_normal(*shape, seed=seed))


def bell(theta: float, states: int) -> Tensor:
    uniform = torch.full((states,), 1 / states, dtype=DOUBLE).log()
    return fn.bond_matrix(uniform, theta * torch.eye(states, dtype=DOUBLE), uniform)


# --- uncertainty and coherence --------------------------------------------------------------------------------------


def test_reference_values_of_a_register() -> None:
    basis = torch.eye(4, dtype=torch.complex128)
    assert fn.shannon_uncertainty(PRIOR).item() == pytest.approx(0.875, abs=1e-12)
    assert fn.uncertainty("purity", PRIOR, basis).item() == pytest.approx(0.875, abs=1e-12)
    assert fn.l1_coherence(PRIOR).item() == pytest.approx(0.8880711875, abs=1e-10)
    posterior = fn.bayes_update(PRIOR.log(), torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=DOUBLE)).exp()
    assert posterior.tolist() == pytest.approx([0.3702181, 0.5031785, 0.0925545, 0.0340489], abs=1e-7)
    assert fn.shannon_uncertainty(posterior).item() == pytest.approx(0.7565636, abs=1e-7)
    same = fn.bayes_update(PRIOR.log(), torch.full((4,), 3.7, dtype=DOUBLE))
    assert torch.allclose(same.exp(), PRIOR, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_uncertainty_is_zero_for_one_sense_and_one_for_orthogonal_equal_ones(kind: str) -> None:
    one_hot, uniform = torch.eye(4, dtype=DOUBLE)[2], torch.full((4,), 0.25, dtype=DOUBLE)
    senses = unit_senses(4, 6)
    assert fn.uncertainty(kind, one_hot, senses).item() == pytest.approx(0.0, abs=1e-10)
    largest = 0.75 if kind == "variance" else 1.0  # it is not normalised
    assert fn.uncertainty(kind, uniform, torch.eye(4, dtype=torch.complex128)).item() == pytest.approx(largest, abs=1e-10)
    assert fn.uncertainty(kind, torch.ones(3, 1, dtype=DOUBLE), unit_senses(3, 1, 5)).tolist() == pytest.approx(
        3 * [0.0], abs=1e-12
    )
    assert fn.l1_coherence(one_hot).item() == 0.0 and fn.l1_coherence(uniform).item() == pytest.approx(1.0, abs=1e-12)
    assert fn.l1_coherence(torch.ones(2, 1)).tolist() == [0.0, 0.0]


def test_von_neumann_entropy_is_that_of_the_density_matrix() -> None:
    probs, senses = torch.softmax(torch.randn(7, 5, dtype=DOUBLE), dim=-1), unit_senses(7, 5, 3)
    levels = torch.linalg.eigvalsh(fn.density_matrix(probs, senses))
    assert torch.allclose(fn.uncertainty("von_neumann", probs, senses), fn.entropy(levels) / math.log(3), rtol=0, atol=1e-9)
    wide = unit_senses(7, 5, 8, seed=1)  # min(K, C) = K: both are divided by ln K
    assert bool((fn.uncertainty("von_neumann", probs, wide) < fn.shannon_uncertainty(probs)).all())
    orthogonal = torch.eye(5, 8, dtype=torch.complex128).expand(7, 5, 8)
    assert torch.allclose(fn.uncertainty("von_neumann", probs, orthogonal), fn.shannon_uncertainty(probs), rtol=0, atol=1e-9)
    assert fn.uncertainty("von_neumann", probs, unit_senses(7, 5, 1)).abs().max().item() == 0.0


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_phases_of_senses_do_not_matter(kind: str) -> None:
    probs, senses = torch.softmax(torch.randn(6, 4, dtype=DOUBLE), dim=-1), unit_senses(6, 4, 3)
    turned = senses * torch.polar(torch.ones(6, 4, 1, dtype=DOUBLE), torch.rand(6, 4, 1, dtype=DOUBLE) * 6)
    if kind == "variance":  # interference of the senses is what it measures; a common phase does nothing
        turned = senses * torch.polar(torch.tensor(1.0, dtype=DOUBLE), torch.tensor(0.7, dtype=DOUBLE))
    assert torch.allclose(fn.uncertainty(kind, probs, turned), fn.uncertainty(kind, probs, senses), rtol=0, atol=1e-9)


def test_dephasing_takes_coherence_away() -> None:
    plus = torch.tensor([0.5, 0.5], dtype=DOUBLE)
    assert fn.l1_coherence(plus, 0.3).item() == pytest.approx(0.7, abs=1e-12)
    assert fn.relative_entropy_coherence(plus, 0.3).item() == pytest.approx(0.2704381, abs=1e-7)
    assert fn.relative_entropy_coherence(PRIOR).item() == pytest.approx(fn.entropy(PRIOR).item(), abs=1e-10)
    schedule = torch.linspace(0, 1, 11, dtype=DOUBLE)
    for measure in (fn.l1_coherence, fn.relative_entropy_coherence):
        values = measure(PRIOR.expand(11, 4), schedule)
        assert bool((values.diff() < 0).all()) and values[-1].item() == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(fn.l1_coherence(PRIOR.expand(11, 4), schedule), (1 - schedule) * fn.l1_coherence(PRIOR))
    # It is what an unread measurement of that strength does to the state.
    state = fn.weak_measurement(fn.density_matrix(torch.ones(1, dtype=DOUBLE), PRIOR.sqrt()[None].to(torch.complex128)), 0.3)
    off = state.abs().sum() - state.abs().diagonal().sum()
    assert fn.l1_coherence(PRIOR, 0.3).item() == pytest.approx(off.item() / 3, abs=1e-12)


def test_fidelity_of_mixed_states_contains_that_of_pure_ones() -> None:
    a, b = unit_senses(5, 3), unit_senses(5, 3, seed=1)
    one = torch.ones(5, 1, dtype=DOUBLE)
    pure = fn.mixed_fidelity(fn.density_matrix(one, a[:, None]), fn.density_matrix(one, b[:, None]))
    assert torch.allclose(pure, fn.fidelity(a, b), rtol=0, atol=1e-10)
    p, q = torch.softmax(torch.randn(2, 6, 4, dtype=DOUBLE), dim=-1)
    basis = torch.eye(4, dtype=torch.complex128)
    classical = (p * q).sqrt().sum(dim=-1).square()  # commuting states: Bhattacharyya
    assert torch.allclose(fn.mixed_fidelity(fn.density_matrix(p, basis), fn.density_matrix(q, basis)), classical)


# --- bonds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "theta", "expected"),
    [
        (2, 0.5, (0.313759, 0.462117, 0.462117, 0.731059)),
        (2, 1.0, (0.671187, 0.761594, 0.761594, 0.880797)),
        (4, 1.0, (0.542638, 0.698298, 0.614979, 0.711235)),
        (3, 0.0, (0.0, 0.0, 0.0, 1 / 3)),
    ],
)
def test_reference_values_of_a_bell_bond(states: int, theta: float, expected: tuple[float, ...]) -> None:
    found = [fn.bond_measure(kind, bell(theta, states)).item() for kind in ("entropy", "concurrence", "negativity", "bell_state")]
    assert found == pytest.approx(expected, abs=5e-7)
    if states == 2 and theta:
        assert found[1] == pytest.approx(math.tanh(theta)) and found[3] == pytest.approx(1 / (1 + math.exp(-2 * theta)))


def test_measures_of_a_bond_without_symmetry() -> None:
    matrix = torch.tensor([[0.8, 0.0], [0.36, 0.48]], dtype=DOUBLE)
    expected = {"concurrence": 0.768, "negativity": 0.768, "bell_state_lu": 0.884, "bell_state": 0.8192}
    expected["entropy"] = 0.471052 / math.log(2)
    for kind, value in expected.items():
        assert fn.bond_measure(kind, matrix).item() == pytest.approx(value, abs=5e-7)
    assert fn.bond_measure("purity", matrix).item() == pytest.approx(0.768**2, abs=1e-12)


@pytest.mark.parametrize("kind", BOND_MEASURES)
def test_bond_measures_go_from_zero_to_one(kind: str) -> None:
    for states in (2, 3):
        assert fn.bond_measure(kind, bell(9.0, states)).item() > 0.9999
    assert fn.bond_measure(kind, torch.ones(3, 1, 1, dtype=DOUBLE)).tolist() == [0.0] * 3
    product = fn.bond_measure(kind, bell(0.0, 3)).item()
    assert product == pytest.approx(1 / 3 if kind.startswith("bell") else 0.0, abs=1e-10)


# --- measurement ----------------------------------------------------------------------------------------------------


def test_born_probabilities_of_complex_states_are_probabilities() -> None:
    states = unit_senses(200, 4)
    basis = torch.linalg.qr(complex_normal(4, 4, seed=2))[0].mT
    probs = fn.born_probabilities(states, basis)
    assert torch.allclose(probs.sum(dim=-1), torch.ones(200, dtype=DOUBLE)) and bool((probs >= 0).all())
    density = fn.density_matrix(torch.ones(200, 1, dtype=DOUBLE), states[:, None])
    projectors = basis[:, :, None] * basis[:, None, :].conj()
    assert torch.allclose(fn.effect_probabilities(density, projectors), probs, rtol=0, atol=1e-12)
    # The outcome of a state that is a vector of the basis is certain, which it is not without the conjugate.
    assert torch.allclose(fn.born_probabilities(basis, basis), torch.eye(4, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_effects_and_vectors_resolve_the_identity() -> None:
    effects, vectors = fn.povm(complex_normal(5, 3, 3)), fn.resolution_of_identity(complex_normal(7, 3, seed=1))
    identity = torch.eye(3, dtype=torch.complex128)
    assert torch.allclose(effects.sum(dim=0), identity, rtol=0, atol=1e-12)
    assert bool((torch.linalg.eigvalsh(effects) > -1e-12).all())
    assert torch.allclose(vectors.mT @ vectors.conj(), identity, rtol=0, atol=1e-12)


def test_weak_measurement_is_what_its_kraus_operators_do() -> None:
    density = fn.density_matrix(torch.tensor([0.3, 0.7], dtype=DOUBLE), unit_senses(2, 3))
    for strength in (0.0, 0.4, 1.0):
        kraus = fn.weak_kraus(3, torch.tensor(strength, dtype=DOUBLE)).to(torch.complex128)
        after = (kraus @ density @ kraus.mH).sum(dim=0)
        assert torch.allclose(fn.weak_measurement(density, strength), after, rtol=0, atol=1e-12)
        assert torch.allclose((kraus.mH @ kraus).sum(dim=0), torch.eye(3, dtype=torch.complex128))


def test_draws_never_find_what_is_impossible() -> None:
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(5, 5)
    uniforms = torch.tensor([0.0, 0.29, 0.31, 0.99, 1 - 2**-24])
    assert fn.draw(probs, uniforms).tolist() == [1, 1, 3, 3, 3]


# --- number formats and gradients -----------------------------------------------------------------------------------


def test_half_precision_and_autocast_do_not_reach_the_formulas() -> None:
    probs = torch.softmax(torch.randn(6, 4), dim=-1)
    assert fn.shannon_uncertainty(probs.bfloat16()).dtype == torch.float32
    senses = unit_senses(6, 4, 3).to(torch.complex64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for kind in UNCERTAINTIES:
            assert fn.uncertainty(kind, probs, senses).dtype == torch.float32
    assert fn.l1_coherence(probs.double()).dtype == DOUBLE


HARD_PROBS = {"one-hot": [1.0, 0.0, 0.0], "uniform": [1 / 3] * 3, "half": [0.5, 0.5, 0.0]}
HARD_BONDS = {
    "product": torch.diag(torch.tensor([1.0, 0.0, 0.0])),
    "uniform product": torch.full((3, 3), 1 / 3),
    "bell": torch.eye(3) / 3**0.5,
    "two of three": torch.diag(torch.tensor([0.5**0.5, 0.5**0.5, 0.0])),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("start", HARD_PROBS)
def test_gradients_of_registers_are_finite(start: str, dtype: torch.dtype) -> None:
    equal = torch.ones(3, 4, dtype=torch.complex64).to(torch.complex128 if dtype == DOUBLE else torch.complex64) / 2
    for senses in (torch.eye(3, 4).to(equal.dtype), equal):
        measures: list[Callable[[Tensor], Tensor]] = [fn.l1_coherence, fn.relative_entropy_coherence]
        measures += [lambda p: fn.relative_entropy_coherence(p, 0.3)]
        measures += [lambda p, s=senses, k=kind: fn.uncertainty(k, p, s) for kind in UNCERTAINTIES]
        for measure in measures:
            probs = torch.tensor(HARD_PROBS[start], dtype=dtype, requires_grad=True)
            measure(probs).backward()
            assert probs.grad is not None and bool(torch.isfinite(probs.grad).all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("start", HARD_BONDS)
@pytest.mark.parametrize("kind", BOND_MEASURES)
def test_gradients_of_bonds_are_finite(kind: str, start: str, dtype: torch.dtype) -> None:
    for complex_ in (False, True):
        matrix = HARD_BONDS[start].to(dtype)
        matrix = (matrix.to(torch.complex128 if dtype == DOUBLE else torch.complex64) if complex_ else matrix).clone()
        fn.bond_measure(kind, matrix.requires_grad_()).backward()
        assert matrix.grad is not None and bool(torch.isfinite(torch.view_as_real(matrix.grad.to(torch.complex128))).all())


def test_gradients_of_fidelity_and_inverse_root_are_finite_at_degeneracies() -> None:
    pure = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE))
    for first in (pure, torch.eye(3, dtype=DOUBLE) / 3):
        for second in (pure, pure.flip(0, 1), torch.eye(3, dtype=DOUBLE) / 3):
            rho, sigma = first.clone().requires_grad_(), second.clone().requires_grad_()
            fn.mixed_fidelity(rho, sigma).backward()
            assert rho.grad is not None and sigma.grad is not None
            assert bool(torch.isfinite(rho.grad).all()) and bool(torch.isfinite(sigma.grad).all())
    identity = torch.eye(3, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda s: inverse_root(0.5 * (s + s.mT)), identity)


def test_gradients_are_those_of_finite_differences() -> None:
    logits = torch.randn(2, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    senses = complex_normal(2, 3, 4).requires_grad_()
    for kind in UNCERTAINTIES:
        assert gradcheck(lambda a, s, k=kind: fn.uncertainty(k, torch.softmax(a, dim=-1), fn.unit(s)), (logits, senses))
    assert gradcheck(lambda a: fn.relative_entropy_coherence(torch.softmax(a, -1), 0.2), logits)
    assert gradcheck(lambda a: fn.l1_coherence(torch.softmax(a, -1), 0.2), logits)
    assert gradcheck(lambda s: fn.sense_overlap(fn.unit(s)), senses)
    assert gradcheck(lambda a: fn.relative_entropy(torch.softmax(a[0], -1), torch.softmax(a[1], -1)), logits)
    coupling = complex_normal(3, 3, seed=3).requires_grad_()
    for kind in BOND_MEASURES:
        assert gradcheck(lambda a, j, k=kind: fn.bond_measure(k, fn.bond_matrix(a[0], j, a[1])), (logits, coupling))
    kraus = complex_normal(3, 2, 2, seed=4).requires_grad_()
    assert gradcheck(lambda a: fn.povm(a).abs(), kraus)
    assert gradcheck(lambda v: fn.resolution_of_identity(v).abs(), complex_normal(4, 2, seed=5).requires_grad_())
    assert gradcheck(lambda a: fn.mixed_fidelity(a[0] @ a[0].mH, a[1] @ a[1].mH), kraus)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"uncertainty_type='entrpy': must be one of .*did you mean 'entropy'"):
        fn.uncertainty("entrpy", PRIOR, unit_senses(4, 2))
    with pytest.raises(ValueError, match="entanglement_type='x'"):
        fn.bond_measure("x", bell(1.0, 2))
