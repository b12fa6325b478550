"""The model: parameters and their names, what each setting does, and predictions that do not depend on how they are asked for."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import qsr
from qsr.hparams import ConfigError
from qsr.hsm import HSM, HilbertSpaceModel, predict
from qsr.training.table import Table


def model_of(features: int = 3, outputs: int = 2, seed: int = 0, **settings: Any) -> HilbertSpaceModel:
    torch.manual_seed(seed)
    loss = settings.pop("loss", {"name": "MSELoss"})
    made = HSM(input_operator_count=features, output_operator_count=outputs, loss=loss, **settings).build()
    return made.double().eval()


def points(count: int = 6, features: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def table(x: Tensor, y: Tensor | None = None, **settings: Any) -> Table:
    columns = {f"x{index}": x[:, index].numpy() for index in range(x.shape[1])}
    if y is not None:
        columns |= {f"y{index}": column.numpy() for index, column in enumerate(y.T)}
    targets = [] if y is None else [f"y{index}" for index in range(y.shape[1])]
    return Table({"targets": targets, "seed": 0, "split": (1.0, 0.0), **settings}, columns)


def fitted(x: Tensor, y: Tensor | None = None, data: dict[str, Any] | None = None, **settings: Any) -> HilbertSpaceModel:
    """After no step worth speaking of: the scaler and the first operators are set."""
    train = {"max_epochs": 1, "lr": 1e-12, "dir": "<NONE>", "precision": "float64", "seed": 0}
    run = qsr.fit({"type": "hsm", **settings}, table(x, y, **(data or {})), train, optimizer={"name": "SGD"})
    model: HilbertSpaceModel = run.model
    return model.eval()


def test_parameters_have_the_names_and_shapes_of_the_document() -> None:
    shapes = {name: tuple(value.shape) for name, value in model_of(hilbert_space_dims=4, weighted_layer=True).named_parameters()}
    assert shapes == {
        "input_diags": (3, 4),
        "input_trius": (3, 6, 2),
        "output_diags": (2, 4),
        "output_trius": (2, 6, 2),
        "input_weights": (3,),
    }
    assert model_of(hilbert_space_dims=4, complex=False).input_trius.shape == (3, 6)
    pauli = model_of(hsm_model="pauli", qubits_count=3, input_operator_pauli_weight=1, output_operator_pauli_weight=2)
    assert {name: tuple(value.shape) for name, value in pauli.named_parameters()} == {
        "input_pauli_coeffs": (3, 10),
        "output_pauli_coeffs": (2, 37),
    }
    # Each coefficient is that of a string, the identity first; matrices are Hermitian.
    assert pauli.bases["input"].strings[:4] == ["III", "XII", "IXI", "IIX"]
    for model in (pauli, model_of(hilbert_space_dims=5)):
        made = model.operators()
        assert torch.allclose(made.inputs, made.inputs.mH) and torch.allclose(made.outputs, made.outputs.mH)


@pytest.mark.parametrize("settings", [{"hilbert_space_dims": 24}, {"hsm_model": "pauli", "qubits_count": 5}])
def test_first_operators_have_the_size_that_is_asked_for(settings: dict[str, Any]) -> None:
    made = model_of(features=40, init_scale=0.7, **settings).operators_of("input")
    size = (made.abs().square().sum(dim=(1, 2)) / made.shape[-1]).mean().sqrt()
    assert size.item() == pytest.approx(0.7, rel=0.05)  # Tr A^2 / d = scale^2


def test_predictions_are_expectations_in_the_ground_state() -> None:
    model = model_of(hilbert_space_dims=4)
    x = points()
    for row in range(len(x)):
        made = model.operators()
        shifted = made.inputs - x[row][:, None, None] * torch.eye(4)
        energies, vectors = torch.linalg.eigh(0.5 * (shifted @ shifted).sum(dim=0))
        psi = vectors[:, 0]
        expected = torch.einsum("i,tij,j->t", psi.conj(), made.outputs, psi).real
        assert torch.allclose(model(x[row : row + 1])[0], expected, rtol=0, atol=1e-12)
        assert predict(model, x[row : row + 1]).energy[0] == pytest.approx(energies[0].item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["general", "general_fullenergy"])
@pytest.mark.parametrize("setting", [{"beta": 0.8}, {"complex": False}, {"eigh_eps": 0.37}, {"degenerate": "average"}])
def test_settings_of_the_state_hold_for_every_kind(kind: str, setting: dict[str, Any]) -> None:
    x, y = points(), points(features=2, seed=3)
    plain, changed = (model_of(hsm_model=kind, hilbert_space_dims=4, **values) for values in ({}, setting))
    if "complex" in setting:
        assert not changed.operators().inputs.is_complex() and changed.compute_metrics((x, y), 0)["loss"].item() > 0
        return
    changed.load_state_dict(plain.state_dict())
    first, second = (model.compute_metrics((x, y), 0) for model in (plain, changed))
    if "beta" not in setting:  # a shift of all levels, and a level that is not degenerate: nothing may change
        assert second["loss"].item() == pytest.approx(first["loss"].item(), abs=1e-12)
        assert second["energy"].item() == pytest.approx(first["energy"].item(), abs=1e-12)
        return
    assert second["loss"].item() != pytest.approx(first["loss"].item(), abs=1e-3)
    if kind == "general_fullenergy":  # the free energy is below the ground energy
        assert second["loss"].item() < first["loss"].item() - 1e-3


def test_the_full_energy_is_that_of_features_and_targets() -> None:
    model = model_of(hsm_model="general_fullenergy", hilbert_space_dims=4)
    x, y = points(), points(features=2, seed=3)
    made = model.operators()
    both = torch.cat([made.inputs, made.outputs])
    shifted = both[None] - torch.cat([x, y], dim=1)[:, :, None, None] * torch.eye(4)
    expected = torch.linalg.eigvalsh(0.5 * (shifted @ shifted).sum(dim=1))[:, 0].mean()
    model.train()
    assert model.compute_metrics((x, y), 0)["loss"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert "pred_loss" not in model.compute_metrics((x, y), 0) and "pred_loss" in model.eval().compute_metrics((x, y), 0)


@pytest.mark.parametrize(("kind", "scale"), [("general", 1), ("general_fullenergy", 2)])
def test_predictions_are_scaled_back_where_targets_are_in_the_energy(kind: str, scale: int) -> None:
    model = model_of(hsm_model=kind, hilbert_space_dims=4, loss={"name": "CrossEntropyLoss"}, classes=("a", "b"))
    expectations = model.states(points()).expectations / scale
    assert model.target_scale == scale
    assert torch.allclose(model.predicted(points()), expectations)
    np.testing.assert_allclose(predict(model, points()).values, expectations.detach())


def test_self_consistent_predictions_minimise_the_full_energy() -> None:
    model = model_of(hsm_model="general_fullenergy", hilbert_space_dims=4, predict_mode="self_consistent")
    x = points(4)
    found = model(x).detach()

    def energy(y: Tensor) -> Tensor:
        return model.states(torch.cat([x, y], dim=1), joint=True).energy.detach()

    for direction in torch.eye(2, dtype=torch.float64):
        for step in (-1e-2, 1e-2):
            assert bool((energy(found + step * direction) > energy(found) - 1e-9).all())


def test_the_linear_form_has_an_operator_of_its_own() -> None:
    model = model_of(hilbert_space_dims=4, energy_form="linear")
    x = points()
    made = model.operators()
    assert made.offset is not None
    hamiltonian = made.offset - torch.einsum("bk,kij->bij", x.to(made.inputs.dtype), made.inputs)
    psi = torch.linalg.eigh(hamiltonian)[1][..., 0]
    expected = torch.einsum("bi,tij,bj->bt", psi.conj(), made.outputs, psi).real
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)


def test_weights_of_features_multiply_them() -> None:
    model = model_of(hilbert_space_dims=4, weighted_layer=True)
    with torch.no_grad():
        model.input_weights.copy_(torch.tensor([2.0, 0.0, -1.0]))
    plain = model_of(hilbert_space_dims=4)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "input_weights"})
    x = points()
    assert torch.allclose(model(x), plain(x * model.input_weights), rtol=0, atol=1e-12)


def test_missing_features_drop_their_terms() -> None:
    model, smaller = model_of(hilbert_space_dims=4, missing="drop_terms"), model_of(2, hilbert_space_dims=4)
    with torch.no_grad():
        for name, value in smaller.named_parameters():
            value.copy_(
                dict(model.named_parameters())[name][[0, 2]] if name.startswith("input") else dict(model.named_parameters())[name]
            )
    x = points()
    holes = x.clone()
    holes[:, 1] = torch.nan
    assert torch.allclose(model(holes), smaller(x[:, [0, 2]]), rtol=0, atol=1e-12)
    found = predict(model, torch.cat([holes, x]))
    assert np.allclose(found.values[:6], smaller(x[:, [0, 2]]).detach().numpy(), rtol=0, atol=1e-12)
    assert np.allclose(found.values[6:], model(x).detach().numpy(), rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="feature 'b' of row 1 is nan, expected a number; missing=drop_terms"):
        predict(model_of(hilbert_space_dims=4), holes, ["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"feature 'a' of row 1 is inf, expected a number$"):
        predict(model, torch.full((1, 3), math.inf), ["a", "b", "c"])


# --- with data ------------------------------------------------------------------------------------------------------


def test_features_and_targets_are_standardised_with_the_training_data() -> None:
    x = points(50) * torch.tensor([1e5, 1.0, 1e-3]) + torch.tensor([1.7e9, -3.0, 0.0])
    y = 40 + 7 * points(50, 2, seed=5)
    model = fitted(x, y, hilbert_space_dims=4)
    assert model.x_mean.dtype == torch.float64 and torch.allclose(model.x_mean, x.mean(dim=0), rtol=1e-14)
    assert torch.allclose(model.y_scale, y.std(dim=0, correction=0), rtol=1e-12)
    scaled = model.scaled_inputs(x)
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(3).double(), atol=1e-7)
    assert torch.allclose(scaled.std(dim=0, correction=0), torch.ones(3).double(), rtol=1e-7)
    narrow = fitted(x, y, hilbert_space_dims=4).float()  # the scaler keeps its digits where the model has few
    assert narrow.x_mean.dtype == torch.float64 and narrow.input_diags.dtype == torch.float32
    assert torch.allclose(narrow.scaled_inputs(x).double(), scaled, atol=1e-6)
    assert bool((model(x).mean(dim=0) - 40).abs().max() < 14)  # in the units of the targets
    found = model.finish_metrics({f"test/{k}": v.item() for k, v in model.compute_metrics((x, y), 0).items()})
    residual = (model(x) - y).detach()
    assert found["test/rmse"] == pytest.approx(residual.square().mean().sqrt().item(), rel=1e-10)
    assert found["test/mae"] == pytest.approx(residual.abs().mean().item(), rel=1e-10)
    explained = 1 - residual.square().sum(dim=0) / (y - y.mean(dim=0)).square().sum(dim=0)
    assert found["test/r2"] == pytest.approx(explained.mean().item(), rel=1e-10)
    raw = fitted(x, y, hilbert_space_dims=4, standardize="none")
    assert raw.x_mean.tolist() == [0.0] * 3 and raw.y_scale.tolist() == [1.0] * 2
    assert fitted(x, y, hilbert_space_dims=4, standardize="inputs").y_mean.tolist() == [0.0] * 2


def test_a_constant_column_is_left_alone() -> None:
    x = points(20)
    x[:, 1] = 0.1
    model = fitted(x, points(20, 1, seed=2), hilbert_space_dims=4)
    assert model.x_scale[1].item() == 1 and bool(torch.isfinite(model(x)).all())


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_predictions_do_not_depend_on_the_rows_beside_them(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(hilbert_space_dims=4)
    x = points(23)
    whole = predict(model, x)
    monkeypatch.setattr("qsr.hsm.predictions.PREDICT_BYTES", rows * model.memory_bytes)
    parts = predict(model, x)
    assert np.allclose(whole.values, parts.values, rtol=0, atol=1e-12)
    assert np.allclose(whole.energy, parts.energy, rtol=0, atol=1e-12)


def test_the_deviation_is_that_of_a_measurement() -> None:
    sigma = torch.stack([torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, -1j], [1j, 0]]), torch.tensor([[1, 0], [0, -1]])])
    model = model_of(outputs=3, hilbert_space_dims=2)
    model.set_operators("input", sigma.to(torch.complex128))
    model.set_operators("output", sigma.to(torch.complex128))
    x = points()
    direction = x / x.norm(dim=1, keepdim=True)
    found = predict(model, x)
    assert np.allclose(found.values, direction.numpy(), rtol=0, atol=1e-12)
    assert np.allclose(found.deviations, (1 - direction**2).sqrt().numpy(), rtol=0, atol=1e-9)
    warm = model_of(outputs=3, hilbert_space_dims=2, beta=1.3)
    warm.load_state_dict(model.state_dict())
    spin = torch.tanh(1.3 * x.norm(dim=1, keepdim=True)) * direction
    assert np.allclose(predict(warm, x).deviations, (1 - spin**2).sqrt().numpy(), rtol=0, atol=1e-12)


def test_operators_that_do_not_fit_are_refused() -> None:
    model = model_of(hilbert_space_dims=3)
    with pytest.raises(ConfigError, match=r"input_operators shape mismatch: found \(2, 3, 3\), expected \(3, 3, 3\)"):
        model.set_operators("input", torch.zeros(2, 3, 3))
    with pytest.raises(ConfigError, match="must be Hermitian"):
        model.set_operators("output", torch.ones(2, 3, 3).triu().double())
    with pytest.raises(ConfigError, match="has coefficients"):
        model_of(hsm_model="pauli", qubits_count=2).set_operators("input", torch.zeros(3, 4, 4))


# --- classes --------------------------------------------------------------------------------------------------------


def classes_table(labels: list[Any], x: Tensor, **settings: Any) -> Table:
    columns = {f"x{index}": x[:, index].numpy() for index in range(x.shape[1])} | {"label": labels}
    return Table({"targets": "label", "seed": 0, "split": (1.0, 0.0), **settings}, columns)


@pytest.mark.parametrize("labels", [["dog", "cat", "emu"], [1.0, 2.0, 5.0]])
def test_a_label_column_is_the_same_as_one_column_for_each_class(labels: list[Any]) -> None:
    x = points(30)
    numbers = torch.randint(3, (30,), generator=torch.Generator().manual_seed(0))
    train = {"max_epochs": 3, "lr": 0.05, "dir": "<NONE>", "precision": "float64", "seed": 0}
    values = [labels[number] for number in numbers.tolist()]
    order = sorted(labels)
    data = classes_table(values, x, stratify=False)
    one = qsr.fit({"type": "hsm", "hilbert_space_dims": 3}, data, train, loss={"name": "CrossEntropyLoss"})
    hot = torch.nn.functional.one_hot(torch.tensor([order.index(value) for value in values])).double()
    many = qsr.fit({"type": "hsm", "hilbert_space_dims": 3}, table(x, hot), train, loss={"name": "CrossEntropyLoss"})
    for first, second in zip(one.model.parameters(), many.model.parameters(), strict=True):
        assert torch.allclose(first, second, rtol=0, atol=1e-10)
    found, other = predict(one.model, x), predict(many.model, x)
    assert found.labels is not None and found.probabilities is not None and other.labels is None
    assert found.labels.tolist() == [order[index] for index in found.probabilities.argmax(axis=1)]
    assert np.allclose(found.probabilities, other.probabilities, rtol=0, atol=1e-10)
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    names = [f"p_{name:g}" if isinstance(name, float) else f"p_{name}" for name in order]
    assert list(found.columns(["label"])) == ["label", *names, "energy"]


def test_a_class_that_training_did_not_see_is_named() -> None:
    x = points(30)
    values = [1.0, 2.0] * 15
    run = qsr.fit(
        {"type": "hsm"}, classes_table(values, x), {"max_epochs": 1, "dir": "<NONE>"}, loss={"name": "CrossEntropyLoss"}
    )
    with pytest.raises(ConfigError, match=r"3 is no class of the training data; those are \[1.0, 2.0\]"):
        run.model.validation_step((x[:1], torch.tensor([[3.0]])), 0)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    x = points(40)
    model = fitted(x, torch.nn.functional.one_hot(torch.arange(40) % 2).double(), loss={"name": "CrossEntropyLoss"})
    y = torch.nn.functional.one_hot((torch.arange(40) < 31).long()).double()
    found = model.finish_metrics({f"test/{k}": v.item() for k, v in model.compute_metrics((x, y), 0).items()})
    right = model(x).argmax(dim=1) == y.argmax(dim=1)
    assert found["test/accuracy"] == pytest.approx(right.double().mean().item())
    recalls = [right[y[:, label] == 1].double().mean().item() for label in (0, 1)]
    assert found["test/balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert not any("/_" in name for name in found)


@pytest.mark.parametrize(
    "name", ["L1Loss", "SmoothL1Loss", "HuberLoss", "GaussianNLLLoss", "PoissonNLLLoss", "HingeEmbeddingLoss"]
)
def test_losses_of_numbers(name: str) -> None:
    x, y = points(30), points(30, 1, seed=3).abs()
    assert math.isfinite(fitted(x, y, loss={"name": name}).compute_metrics((x, y), 0)["loss"].item())


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"])
def test_losses_of_classes_learn_one_that_is_plain(name: str) -> None:
    x = points(200, 2)
    values = ["up" if value > 0 else "down" for value in (x[:, 0] * x[:, 1]).tolist()]
    train = {"max_epochs": 40, "lr": 0.05, "dir": "<NONE>", "seed": 0}
    run = qsr.fit({"type": "hsm", "hilbert_space_dims": 4}, classes_table(values, x), train, loss={"name": name})
    assert predict(run.model, x).labels is not None
    assert np.mean(np.array(predict(run.model, x).labels) == np.array(values)) > 0.93


def test_a_model_without_its_sizes_says_so() -> None:
    with pytest.raises(ConfigError, match=r"hsm\.input_operator_count: missing; the data of a run tell it"):
        HSM().build()
