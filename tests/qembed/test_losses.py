"""Losses against values by hand, in every form that outputs may have."""

import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import CrossEntropyLoss

from qsr.hparams import ConfigError
from qsr.qembed import Bonds, EntanglementLoss, QuantumEmbeddings, QuantumLoss, SuperpositionLoss, UncertaintyLoss
from qsr.qembed.functional import BOND_MEASURES, UNCERTAINTIES, uncertainty
from qsr.qembed.losses import call_loss, entanglement_penalty, uncertainty_penalty
from qsr.qembed.reading import Reading, logits_of

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
BASE = CrossEntropyLoss()(LOGITS, LABELS).item()
MASK = torch.tensor([[True, True, False], [True, False, False]])
DOUBT = torch.tensor([[0.9, 0.5, 7.0], [0.2, 7.0, 7.0]], dtype=torch.float64)  # 7 at padding
COHERENCE = torch.tensor([[1.0, 0.5, 7.0], [0.3, 7.0, 7.0]], dtype=torch.float64)


def bell(states: int, count: int = 1) -> Tensor:
    return (torch.eye(states, dtype=torch.float64) / math.sqrt(states)).expand(1, count, -1, -1)


def product(states: int) -> Tensor:
    matrix = torch.zeros(states, states, dtype=torch.float64)
    matrix[0, 1] = 1.0  # |0>|1>, orthogonal to every |kk>
    return matrix[None, None]


BONDS = Bonds(
    torch.cat([bell(2), product(2), product(2)], dim=1).expand(2, -1, -1, -1), torch.tensor([[1, 1, 0], [0, 0, 0]]) == 1
)
STATE: dict[str, Any] = {"uncertainty": DOUBT, "coherence": COHERENCE, "bonds": BONDS, "mask": MASK}
# <(u - 1/2)^2> over three tokens, 1 - <E> over a Bell pair and a product, 1 - <coherence>
PENALTIES = {"uncertainty": (0.16 + 0.0 + 0.09) / 3, "entanglement": 0.5, "coherence": 1 - 1.8 / 3}


def forms(state: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Outputs and quantum_outputs that say the same."""
    named = {"logits": LOGITS, **state}
    return [
        (named, None),
        (SimpleNamespace(**named), None),
        (LOGITS, state),
        ((LOGITS, "anything"), state),
        ({"logits": LOGITS, "uncertainty": torch.ones(1), "entanglement": torch.zeros(1, 1)}, state),
        (SimpleNamespace(logits=LOGITS, bonds=None), SimpleNamespace(**state)),
    ]


@pytest.mark.parametrize("form", range(6))
def test_quantum_loss_by_hand_in_every_form(form: int) -> None:
    outputs, given = forms(STATE)[form]
    loss = QuantumLoss(uncertainty_weight=0.3, entanglement_weight=0.7, coherence_weight=0.2)
    found = loss(outputs, LABELS, given)
    expected = {"task": BASE, **{k: w * PENALTIES[k] for k, w in zip(PENALTIES, (0.3, 0.7, 0.2), strict=True)}}
    assert loss.last_components == pytest.approx(expected, abs=1e-12)
    assert found.item() == pytest.approx(sum(expected.values()), abs=1e-12)
    target = QuantumLoss(uncertainty_weight=1.0, entanglement_weight=0.0, uncertainty_target=0.9)
    assert target(outputs, LABELS, given).item() - BASE == pytest.approx((0.16 + 0.49) / 3, abs=1e-12)


def test_defaults_are_the_documented_ones() -> None:
    assert QuantumLoss()(SimpleNamespace(logits=LOGITS, **STATE), LABELS).item() == pytest.approx(
        BASE + 0.1 * PENALTIES["uncertainty"] + 0.05 * PENALTIES["entanglement"], abs=1e-12
    )
    assert (UncertaintyLoss().uncertainty_weight, UncertaintyLoss().uncertainty_type) == (0.2, "entropy")
    assert (EntanglementLoss().entanglement_weight, EntanglementLoss().entanglement_type) == (0.1, "bell_state")
    other = {"quantum_uncertainty": DOUBT, "superposition_coherence": COHERENCE, "mask": MASK.long()}
    loss = QuantumLoss(uncertainty_weight=1.0, coherence_weight=1.0)
    loss({"logits": LOGITS, **other}, LABELS)
    assert loss.last_components == pytest.approx({"task": BASE, **PENALTIES, "entanglement": 0.0}, abs=1e-12)


@pytest.mark.parametrize("outputs", [LOGITS, (LOGITS,), {"logits": LOGITS}, SimpleNamespace(logits=LOGITS, uncertainty=None)])
def test_what_is_missing_adds_exactly_nothing(outputs: Any) -> None:
    heavy = [
        QuantumLoss(None, 5.0, 5.0, coherence_weight=5.0),
        *(UncertaintyLoss(None, 5.0, kind) for kind in ("von_neumann", "purity", "variance", "calibration")),
        EntanglementLoss(None, 5.0),
        SuperpositionLoss(None, 5.0),
    ]
    for loss in heavy:
        for given in (None, {}, {"uncertainty": None}):
            assert loss(outputs, LABELS, given).item() == BASE
            assert all(value == 0.0 for name, value in loss.last_components.items() if name != "task")


def test_the_loss_of_the_task() -> None:
    values, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 1.0])
    assert QuantumLoss("mse")(values, targets).item() == 5.0  # (1 + 9)/2, not the mean over 2 x 2 differences
    assert QuantumLoss("l1")(values, targets).item() == 2.0
    assert QuantumLoss("nll")(LOGITS.log_softmax(-1), LABELS).item() == pytest.approx(BASE, abs=1e-12)
    assert QuantumLoss(lambda logits, labels: logits.sum())(LOGITS, LABELS).item() == 3.5
    assert QuantumLoss(base_loss=CrossEntropyLoss(reduction="sum"))(LOGITS, LABELS).item() == pytest.approx(2 * BASE, abs=1e-12)
    with pytest.raises(ConfigError, match=r"loss: must be a tensor of one number \(reduction='mean'\), found a tensor \(2,\)"):
        QuantumLoss(CrossEntropyLoss(reduction="none"))(LOGITS, LABELS)


@pytest.mark.parametrize("classes", [3, 5])
def test_logits_of_tokens(classes: int) -> None:
    logits = torch.randn(2, 3, classes, dtype=torch.float64)  # for 3 classes torch would take the axes the other way round
    labels = torch.tensor([[0, -100, 2], [1, 1, -100]])
    kept = [(0, 0), (0, 2), (1, 0), (1, 1)]
    expected = -sum(logits[i, j].log_softmax(-1)[labels[i, j]].item() for i, j in kept) / 4
    for loss in (QuantumLoss(), UncertaintyLoss(uncertainty_weight=0), CrossEntropyLoss()):
        assert call_loss(loss, {"logits": logits}, labels).item() == pytest.approx(expected, abs=1e-12)


def test_labels_that_all_do_not_count() -> None:
    logits = LOGITS.clone().requires_grad_()
    for loss, ignored in ((QuantumLoss(), -100), (UncertaintyLoss(), -100), (QuantumLoss(CrossEntropyLoss(ignore_index=2)), 2)):
        found = loss(logits, torch.full((2,), ignored))
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.item() == 0.0 and gradient.abs().max().item() == 0.0
    assert call_loss(CrossEntropyLoss(), logits, torch.full((2,), -100)).item() == 0.0


# --- entanglement and senses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOND_MEASURES)
@pytest.mark.parametrize("states", [2, 3, 4])
def test_entanglement_loss_between_a_bell_state_and_a_product(kind: str, states: int) -> None:
    loss = EntanglementLoss(entanglement_weight=0.4, entanglement_type=kind)
    there = torch.ones(1, 2, dtype=torch.bool)
    for matrices, value in (
        (bell(states, 2), 1.0),
        (product(states).expand(1, 2, -1, -1), {"bell_state_lu": 1 / states}.get(kind, 0.0)),
    ):
        found = loss({"logits": LOGITS, "bonds": Bonds(matrices, there)}, LABELS).item()
        assert found == pytest.approx(BASE + 0.4 * (1 - value), abs=1e-9)
    part = Bonds(torch.cat([bell(states), product(states)], dim=1), torch.tensor([[True, False]]))
    assert loss(LOGITS, LABELS, {"entanglement": part}).item() == pytest.approx(BASE, abs=1e-9)


def test_entanglement_as_numbers_and_without_bonds() -> None:
    loss = EntanglementLoss(entanglement_weight=2.0)
    given = torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    assert loss({"logits": LOGITS, "entanglement": given}, LABELS).item() == pytest.approx(BASE + 2 * (1 - 0.4375), abs=1e-12)
    assert loss({"logits": LOGITS, "entanglement": given, "bonds": BONDS}, LABELS).item() == pytest.approx(BASE + 1, abs=1e-12)
    layer = QuantumEmbeddings(5, 4, 2, entanglement="bell_state", seed=0)
    for nothing in (layer(torch.tensor([[1], [2]])).bonds, Bonds(bell(2), torch.tensor([[False]])), torch.zeros(2, 0)):
        assert nothing is not None and entanglement_penalty(nothing).item() == 0.0
        assert loss({"logits": LOGITS, "bonds": nothing}, LABELS).item() == BASE


def test_superposition_loss_of_equal_and_orthogonal_senses() -> None:
    orthogonal = torch.eye(3, dtype=torch.complex128)
    equal = torch.full((3, 3), 1j / 3**0.5, dtype=torch.complex128)
    half = torch.stack([orthogonal[0], orthogonal[0], orthogonal[1]])  # one of three pairs
    loss = SuperpositionLoss(superposition_weight=0.6)
    for senses, value in ((orthogonal, 0.0), (equal, 1.0), (half, 1 / 3)):
        state = {"logits": LOGITS, "senses": torch.stack([senses, equal])[None], "mask": torch.tensor([[True, False]])}
        assert loss(state, LABELS).item() == pytest.approx(BASE + 0.6 * value, abs=1e-12)
    assert loss({"logits": LOGITS, "senses": equal[None, None, :1]}, LABELS).item() == BASE  # one sense


# --- uncertainty ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNCERTAINTIES)
@pytest.mark.parametrize("other", UNCERTAINTIES)
def test_uncertainties_of_a_layer_in_another_type_than_its_own(kind: str, other: str) -> None:
    ids = torch.tensor([[1, 4, 2, 0], [3, 3, 0, 0]])
    layer = QuantumEmbeddings(6, 8, 3, uncertainty_type=other, padding_idx=0, entanglement="bell_state", seed=0).double()
    found = layer(ids)
    assert found.senses.shape == (2, 4, 3, 4)
    assert torch.allclose(found.senses.norm(dim=-1), found.mask[..., None].double().expand(-1, -1, 3))
    expected = uncertainty(kind, found.probs, found.senses)[found.mask]
    wanted = QuantumEmbeddings(6, 8, 3, uncertainty_type=kind, padding_idx=0, entanglement="bell_state", seed=0).double()(ids)
    assert torch.allclose(expected, wanted.uncertainty[found.mask], rtol=0, atol=1e-12)
    outputs = SimpleNamespace(
        logits=LOGITS, **{k: getattr(found, k) for k in ("uncertainty", "probs", "senses", "mask", "bonds")}
    )
    loss = UncertaintyLoss(uncertainty_weight=0.5, uncertainty_type=kind, uncertainty_target=0.3)
    total = loss(outputs, LABELS)
    assert total.item() == pytest.approx(BASE + 0.5 * (expected - 0.3).square().mean().item(), abs=1e-12)
    total.backward()
    assert layer.amplitude_logits.grad is not None and bool(torch.isfinite(layer.amplitude_logits.grad).all())
    given = loss(outputs, LABELS, {"uncertainty": DOUBT, "mask": MASK}).item()  # overrides what the outputs know better
    assert given == pytest.approx(BASE + 0.5 * (0.36 + 0.04 + 0.01) / 3, abs=1e-12)


def test_the_entropy_of_sense_probabilities_goes_before_an_uncertainty_of_unknown_type() -> None:
    probs = torch.tensor([[[0.5, 0.25, 0.125, 0.125]]], dtype=torch.float64)  # H / ln 4 = 0.875
    for name in ("probs", "collapse_probs"):
        state = {"logits": LOGITS, name: probs, "uncertainty": torch.zeros(1, 1)}
        found = UncertaintyLoss(uncertainty_weight=1.0)(state, LABELS).item()
        assert found == pytest.approx(BASE + 0.375**2, abs=1e-12)
        other = UncertaintyLoss(uncertainty_weight=1.0, uncertainty_type="purity")(state, LABELS).item()
        assert other == pytest.approx(BASE + 0.25, abs=1e-12)  # without senses the given one is all there is


def test_the_entropy_falls_back_on_the_class_probabilities() -> None:
    probs = LOGITS.softmax(-1)
    entropies = -(probs * probs.log()).sum(-1) / math.log(3)
    labels = torch.tensor([0, -100])
    loss = UncertaintyLoss(uncertainty_weight=1.0)
    assert loss(LOGITS, LABELS).item() == pytest.approx(BASE + (entropies - 0.5).square().mean().item(), abs=1e-12)
    one = CrossEntropyLoss()(LOGITS, labels).item()
    assert loss(LOGITS, labels).item() == pytest.approx(one + (entropies[0].item() - 0.5) ** 2, abs=1e-12)
    penalty = UncertaintyLoss(uncertainty_weight=0.5, uncertainty_type="confidence_penalty")
    assert penalty(LOGITS, labels).item() == pytest.approx(one - 0.5 * entropies[0].item(), abs=1e-12)
    binary = UncertaintyLoss(lambda z, y: (0 * z).sum(), 1.0, "confidence_penalty")
    for even in (torch.zeros(4), torch.zeros(4, 1), torch.zeros(4, 2)):  # the logit of a coin, or two classes
        assert binary(even, torch.tensor([0, 1, 1, 0])).item() == pytest.approx(-1.0, abs=1e-6)
    assert UncertaintyLoss("mse")(torch.ones(3), torch.zeros(3)).item() == 1.0  # no classes, no entropy
    with pytest.raises(ConfigError, match=r"labels: must be classes \(integers\), found torch.float32"):
        UncertaintyLoss("mse", uncertainty_type="confidence_penalty")(torch.ones(3), torch.zeros(3))


def test_calibration_is_least_where_the_uncertainty_is_the_error_rate() -> None:
    logits = torch.tensor([[1.0, 0.0]]).expand(10, -1)
    labels = torch.tensor([0] * 7 + [1] * 3)  # three of ten are wrong
    loss = UncertaintyLoss(lambda z, y: (0 * z).sum(), 1.0, "calibration")

    def value(u: Tensor) -> Tensor:
        found: Tensor = loss(logits, labels, {"uncertainty": u.expand(10, 2), "mask": torch.tensor([[1, 0]]).expand(10, 2)})
        return found

    def slope(u: float) -> float:
        there = torch.tensor([[u, 0.9]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(value(there), there)
        assert gradient[0, 1].item() == 0.0  # padding
        return gradient[0, 0].item()

    assert slope(0.3) == pytest.approx(0.0, abs=1e-12) and slope(0.2) < 0 < slope(0.4)
    entropy = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert value(torch.tensor([[0.3, 0.3]], dtype=torch.float64)).item() == pytest.approx(entropy, abs=1e-12)
    assert math.isfinite(value(torch.ones(1, 2)).item()) and math.isfinite(value(torch.zeros(1, 2)).item())
    tokens = loss(
        torch.tensor([[[1.0, 0.0]] * 3]), torch.tensor([[0, 1, -100]]), {"uncertainty": torch.tensor([[0.2, 0.6, 0.9]])}
    )
    assert tokens.item() == pytest.approx(-0.5 * (math.log(0.8) + math.log(0.6)), abs=1e-6)
    with pytest.raises(ConfigError, match=r"uncertainty: must be \(B, L\), found \(4, 2\) for labels \(10,\)"):
        loss(logits, labels, {"uncertainty": torch.ones(4, 2)})


def test_losses_draw_nothing_and_pull_where_they_say() -> None:
    layer = QuantumEmbeddings(6, 8, 3, entanglement="bell_state", seed=0).double()
    ids = torch.tensor([[1, 4, 2, 0]])
    state = torch.get_rng_state()
    loss = QuantumLoss(uncertainty_weight=1.0, entanglement_weight=1.0, coherence_weight=1.0)
    first, second = (loss(LOGITS, LABELS, layer(ids, collapse=False)) for _ in range(2))
    assert first.item() == second.item() and torch.equal(state, torch.get_rng_state())
    assert uncertainty_penalty(torch.tensor([[0.2, 9.0]]), torch.tensor([[True, False]]), 0.4).item() == pytest.approx(0.04)
    assert uncertainty_penalty(torch.tensor([[9.0]]), torch.tensor([[False]])).item() == 0.0
    penalty = EntanglementLoss()(LOGITS, LABELS, layer(ids, collapse=False))
    penalty.backward()
    theta = layer.entanglement.coupling_theta.grad  # type: ignore[union-attr]
    assert theta is not None and theta.item() < 0  # a step downhill couples more strongly


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantumLoss(uncertainty_weight=-0.1), "uncertainty_weight=-0.1: must be a finite number of at least 0"),
        (lambda: QuantumLoss(entanglement_weight=math.nan), "entanglement_weight=nan"),
        (lambda: QuantumLoss(coherence_weight=math.inf), "coherence_weight=inf"),
        (lambda: QuantumLoss(uncertainty_weight=True), "uncertainty_weight=True"),
        (lambda: QuantumLoss(uncertainty_target=1.5), "uncertainty_target=1.5: must be between 0 and 1"),
        (lambda: QuantumLoss("cross_entrpy"), "base_loss='cross_entrpy': .*did you mean 'cross_entropy'"),
        (lambda: UncertaintyLoss(uncertainty_type="shannon"), "uncertainty_type='shannon': must be one of entropy, von_neumann"),
        (lambda: EntanglementLoss(entanglement_type="bell"), "entanglement_type='bell': .*did you mean 'bell_state'"),
        (lambda: SuperpositionLoss(superposition_weight=-1), "superposition_weight=-1"),
    ],
)
def test_arguments_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- losses of users ------------------------------------------------------------------------------------------------


class AddsDoubt(nn.Module):
    """As the documented example: reads `outputs.logits`, and takes the uncertainty if there is one."""

    def forward(self, outputs: Any, labels: Tensor, uncertainty: Tensor | None = None) -> Tensor:
        task = CrossEntropyLoss()(outputs.logits, labels)
        return task if uncertainty is None else task + 0.2 * uncertainty.mean()


def test_a_loss_gets_what_its_signature_asks_for() -> None:
    outputs = SimpleNamespace(logits=LOGITS, **STATE)

    def of_outputs(outputs: Any, targets: Tensor) -> Tensor:
        return CrossEntropyLoss()(outputs.logits, targets) + 1

    def of_logits(scores: Tensor, targets: Tensor) -> Tensor:
        return CrossEntropyLoss()(scores, targets) + 2

    class Marked:
        expects_outputs = True

        def __call__(self, prediction: Any, targets: Tensor) -> Tensor:
            return of_outputs(prediction, targets)

    doubt = torch.tensor([0.5, 1.0], dtype=torch.float64)
    cases: list[tuple[Any, float]] = [
        (AddsDoubt(), 0.15),
        (CrossEntropyLoss(), 0.0),
        (nn.functional.cross_entropy, 0.0),
        (of_outputs, 1.0),
        (of_logits, 2.0),
        (functools.partial(of_logits), 2.0),
        (Marked(), 1.0),
        (QuantumLoss(uncertainty_weight=1.0, entanglement_weight=0), PENALTIES["uncertainty"]),
    ]
    for loss, extra in cases:
        assert call_loss(loss, outputs, LABELS, doubt).item() == pytest.approx(BASE + extra, abs=1e-9), loss
    assert call_loss(AddsDoubt(), outputs, LABELS).item() == BASE
    quantum = QuantumLoss(uncertainty_weight=1.0)
    assert call_loss(quantum, LOGITS, LABELS, doubt).item() == BASE
    assert call_loss(quantum, LOGITS, LABELS, quantum_outputs={"uncertainty": doubt}).item() == pytest.approx(BASE + 0.125)
    assert call_loss(CrossEntropyLoss(), LOGITS, LABELS, quantum_outputs=STATE).item() == BASE
    with pytest.raises(ConfigError, match=r"found a tensor \(2, 3\)"):
        call_loss(lambda outputs, labels: outputs.logits, outputs, LABELS)
    with pytest.raises(ConfigError, match=r"found 0.5"):
        call_loss(lambda logits, labels: 0.5, outputs, LABELS)  # type: ignore[arg-type, return-value]


def test_reading_outputs() -> None:
    assert all(
        logits_of(form) is LOGITS for form in (LOGITS, (LOGITS, 1), [LOGITS], {"logits": LOGITS}, SimpleNamespace(logits=LOGITS))
    )
    for nothing in (None, {}, (), SimpleNamespace(loss=1.0)):
        with pytest.raises(TypeError, match="outputs: must be a tensor, a tuple of one, or have `logits`"):
            logits_of(nothing)
    reading = Reading(None, {"uncertainty": None}, SimpleNamespace(quantum_uncertainty=DOUBT, mask=MASK[:, :2]))
    assert reading.uncertainty is DOUBT and reading.mask_of(DOUBT) is None and reading.senses is None
