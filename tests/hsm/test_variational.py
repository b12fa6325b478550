"""Pauli models whose states are those of a sampler: against matrices, where these fit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import qsr
from qsr.hamiltonians.base import configurations
from qsr.hamiltonians.pauli import PauliBasis, pauli_strings
from qsr.hamiltonians.pauli_squares import PauliSquares, joined
from qsr.hparams import ConfigError
from qsr.hsm import HSM, HilbertSpaceModel, predict
from qsr.hsm.variational import SampledHilbertSpaceModel
from qsr.training.table import Table

FORMS = {
    "fullenergy": {"hsm_model": "pauli_fullenergy", "output_operator_pauli_weight": 1},
    "squared": {"hsm_model": "pauli"},
    "linear": {"hsm_model": "pauli", "energy_form": "linear"},
}
SAMPLER = {"patch": 1, "Nh": 16, "phase": True}


def models(form: str, samples: int = 64, **sampler: Any) -> tuple[SampledHilbertSpaceModel, HilbertSpaceModel]:
    """A sampled model, and one with the same operators as matrices."""
    torch.manual_seed(0)
    sizes = {"input_operator_count": 2, "output_operator_count": 1, "qubits_count": 3, "input_operator_pauli_weight": 2}
    settings: dict[str, Any] = {**sizes, "loss": {"name": "MSELoss"}, "init_scale": 0.7, **FORMS[form]}
    dense = HSM(**settings).build().double()
    sampled = HSM(**settings, sampler=qsr.PTF(**{**SAMPLER, **sampler}), num_samples=samples).build().double()
    assert isinstance(sampled, SampledHilbertSpaceModel)
    missing = sampled.load_state_dict(dense.state_dict(), strict=False)
    assert not missing.unexpected_keys
    return sampled, dense


def points(count: int, features: int = 2) -> Tensor:
    return torch.randn(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("qubits", "weight"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_the_sum_of_squares_in_strings_is_that_of_the_matrices(qubits: int, weight: int) -> None:
    basis = PauliBasis(pauli_strings(qubits, weight))
    coefficients = torch.randn(3, len(basis), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    squares = PauliSquares(basis)
    assert [squares.strings[place] for place in squares.places.tolist()] == basis.strings
    assert len(squares.strings) == len(pauli_strings(qubits, min(qubits, 2 * weight)))
    found = PauliBasis(squares.strings).operators(squares.sum_of_squares(coefficients)[None])[0]
    matrices = basis.operators(coefficients)
    assert torch.allclose(found, (matrices @ matrices).sum(dim=0), rtol=0, atol=1e-12)


def test_too_many_strings_are_not_multiplied() -> None:
    with pytest.raises(ValueError, match="16384 Pauli strings have 268435456 products, at most 16777216"):
        PauliSquares(PauliBasis(pauli_strings(7, 7)))


def test_lists_are_joined_without_repetition() -> None:
    strings, places = joined([["X", "Y"], ["Z", "X"], []])
    assert strings == ["X", "Y", "Z"] and [place.tolist() for place in places] == [[0, 1], [2, 0], []]


def amplitudes(model: SampledHilbertSpaceModel, context: Tensor) -> Tensor:
    """(2^N,) of one point."""
    configs = configurations(model.thparams.qubits_count or 0)
    rows = context.expand(len(configs), -1)
    return torch.polar((0.5 * model.sampler.log_prob(configs, rows)).exp(), model.sampler.phase(configs, rows))


@pytest.mark.parametrize("form", FORMS)
def test_energies_and_gradients_are_those_of_enumeration(form: str) -> None:
    sampled, dense = models(form, samples=3000)
    joint = form == "fullenergy"
    z = points(3, 3 if joint else 2)
    made = dense.operators()
    both = torch.cat([made.inputs, made.outputs]) if joint else made.inputs
    context = sampled._context(z, joint)
    exact = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        psi = amplitudes(sampled, context[row])
        if made.offset is not None:
            hamiltonian = made.offset[0] - (z[row][:, None, None] * both).sum(dim=0)
        else:
            shifted = both - z[row][:, None, None] * torch.eye(8)
            hamiltonian = 0.5 * (shifted @ shifted).sum(dim=0)
        exact = exact + (psi.conj() @ hamiltonian @ psi).real / 3
    network = [p for n, p in sampled.named_parameters() if not n.endswith("_pauli_coeffs")]
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, network, retain_graph=True)])
    runs, found = [], torch.zeros_like(wanted)
    for seed in range(20):
        energy, variance, surrogate = sampled.sampled_energy(z, joint, torch.Generator().manual_seed(seed))
        assert surrogate.item() == 0 and variance.item() > 0
        runs.append(energy.item())
        found += torch.cat([g.flatten() for g in torch.autograd.grad(energy + surrogate, network, retain_graph=joint)]) / 20
        if joint and seed == 0:
            operators = [sampled.input_pauli_coeffs, sampled.output_pauli_coeffs]
            direct = torch.autograd.grad(exact, [dense.input_pauli_coeffs, dense.output_pauli_coeffs])
            for mine, theirs in zip(torch.autograd.grad(energy, operators), direct, strict=True):
                assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.999
                assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=0.02)
    assert abs(np.mean(runs) - exact.item()) < 4 * np.std(runs) / math.sqrt(19)
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.999
    assert found.norm().item() == pytest.approx(wanted.norm().item(), rel=0.02)
    if form != "fullenergy":
        assert not sampled.input_pauli_coeffs.requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_measurements_are_those_of_the_state(form: str) -> None:
    sampled, dense = models(form)
    x = points(3)
    made = dense.operators()
    context = sampled._context(x, joint=False)
    found = sampled.measured(x)
    for row in range(3):
        psi = amplitudes(sampled, context[row]).detach()
        applied = made.outputs[0] @ psi
        mean, second = (psi.conj() @ applied).real.item(), applied.abs().square().sum().item()
        variance = second - mean**2
        assert abs(found.expectations[row, 0].item() - mean) < 4 * math.sqrt(variance / 1024)
        assert found.variances[row, 0].item() == pytest.approx(variance, rel=0.3)
        # What is averaged, for every configuration, and its variance over p.
        if made.offset is not None:
            applied = (made.offset[0] - (x[row][:, None, None] * made.inputs).sum(dim=0)) @ psi
            local = (applied / psi).real
        else:
            shifted = made.inputs - x[row][:, None, None] * torch.eye(8)
            local = 0.5 * (shifted @ psi / psi).abs().square().sum(dim=0)
        weights = psi.abs().square()
        energy = (weights * local).sum()
        error = ((weights * (local - energy).square()).sum() / 1024).sqrt()
        assert abs(found.energy[row].item() - energy.item()) < 4 * error.item()
    assert torch.equal(sampled.measured(x).expectations, found.expectations)  # the same samples every time


@pytest.mark.slow
def test_states_of_given_operators_become_the_ground_states() -> None:
    """hsm.md section 6.4: energies within 1e-3 of the spectrum's width, predictions within their statistical errors."""
    sampled, dense = models("linear", samples=128, Nh=32, phase_Nh=256)
    x = points(16)
    columns = {"a": x[:, 0].numpy(), "b": x[:, 1].numpy(), "y": (x[:, 0] * x[:, 1]).numpy()}
    data = Table({"targets": "y", "seed": 0, "split": (1.0, 0.0), "batch_size": 16}, columns)
    before = sampled.input_pauli_coeffs.clone()
    qsr.fit(
        sampled,
        data,
        {"max_epochs": 500, "lr": 1e-2, "dir": "<NONE>", "precision": "float64", "seed": 1},
        scheduler={"name": "CosineAnnealingLR"},
        gradient_clipping={"max_norm": 1.0},
    )
    assert torch.equal(before, sampled.input_pauli_coeffs)
    sampled.eval()
    scaled = sampled.scaled_inputs(x)
    exact, found = dense.states(scaled), sampled.measured(scaled)
    width = exact.levels[:, -1] - exact.levels[:, 0]
    assert ((found.energy - exact.energy).abs() / width).mean().item() < 1e-3
    error = (found.expectations - exact.expectations).abs() / (found.variances / 1024).sqrt()
    assert error.median().item() < 2


@pytest.mark.slow
def test_a_full_energy_model_learns_predicts_and_loads(tmp_path: Any) -> None:
    x = points(60)
    columns = {"a": x[:, 0].numpy(), "b": x[:, 1].numpy(), "y": (x[:, 0] - x[:, 1]).numpy()}
    data = Table({"targets": "y", "seed": 0, "split": (0.8, 0.2), "batch_size": 16}, columns)
    model = {
        "type": "hsm",
        "hsm_model": "pauli_fullenergy",
        "qubits_count": 3,
        "sampler": {"type": "rnn", "Nh": 12, "patch": 1, "phase": True},
    }
    run = qsr.fit({**model, "num_samples": 32}, data, {"max_epochs": 40, "lr": 0.02, "dir": str(tmp_path), "seed": 0})
    assert run.path is not None
    loaded = qsr.load_model(run.path)
    first, second = predict(run.model, x), predict(loaded, x)
    assert np.array_equal(first.values, second.values)
    assert np.corrcoef(first.values[:, 0], columns["y"])[0, 1] > 0.85
    assert bool((first.deviations >= 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hsm_model": "general"}, "samples the states of Pauli models"),
        ({"sampler": qsr.PTF(patch=1)}, "ptf.phase=False: states of Hilbert-space models have phases"),
        ({"sampler": qsr.PTF(patch="2x2", phase=True)}, "ptf.patch=2x2"),
        ({"method": "analytic"}, "hsm.method=analytic: must be gradient where a sampler gives the states"),
        ({"predict_mode": "self_consistent"}, "hsm.predict_mode=self_consistent: must be input"),
        ({"qubits_count": 63}, "must be at most 62"),
        ({"qubits_count": 7}, "input_operator_pauli_weight=7: 7 qubits have 16384 strings of this weight, at most 4096"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused(settings: dict[str, Any], message: str) -> None:
    base = {"hsm_model": "pauli_fullenergy", "qubits_count": 4, "sampler": qsr.PTF(**SAMPLER)}
    changed = {**base, **settings}
    if changed["hsm_model"] == "general":
        del changed["qubits_count"]
    with pytest.raises(ConfigError) as error:
        HSM(**changed)
    assert message in str(error.value)


def test_more_qubits_than_matrices_have_room_for() -> None:
    torch.manual_seed(0)
    settings = {
        "hsm_model": "pauli_fullenergy",
        "qubits_count": 20,
        "input_operator_pauli_weight": 1,
        "output_operator_pauli_weight": 1,
    }
    model = HSM(
        **settings, input_operator_count=2, output_operator_count=1, sampler=qsr.RNN(Nh=8, patch="2x1", phase=True), num_samples=4
    )
    made = model.build()
    loss = made.train().compute_metrics((points(2), points(2, 1)), 0)["loss"]
    loss.backward()
    assert math.isfinite(loss.item()) and all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in made.parameters())
    for call in (lambda: made.states(points(2)), made.operators, lambda: made.transform(points(2))):
        with pytest.raises(ConfigError, match=r"hsm\.sampler: this model has"):
            call()
