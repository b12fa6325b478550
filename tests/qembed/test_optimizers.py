"""Optimizers that tell parameters apart, and one that listens to the uncertainty."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.qembed import EntanglementOptimizer, QuantumEmbeddings, QuantumOptimizer, UncertaintyOptimizer

QUANTUM = {"0.amplitude_logits", "0.phases", "0.sense_real", "0.sense_imag", "0.context_proj.weight"}
COUPLING = {"0.entanglement.coupling_theta"}
CLASSICAL = {"0.output_scale", "1.weight", "1.bias"}
IDS = torch.tensor([[1, 4, 2], [3, 3, 0]])


class Head(nn.Linear):
    """A classical layer after an embedding."""

    def forward(self, found: Any) -> Tensor:
        return super().forward(found.embeddings)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(QuantumEmbeddings(5, 4, 2, entanglement="bell_state", seed=seed, collapse_strategy="soft"), Head(4, 2))


def loaded() -> nn.Sequential:
    model = network()
    model.load_state_dict({name: value.clone() for name, value in network(1).state_dict().items()}, assign=True)
    return model


def backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = model(IDS).square().sum()
    loss.backward()
    return loss


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, set[str]]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {known[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups}


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "generator": lambda model: model.parameters(),
    "list": lambda model: list(model.parameters()),
    "named": lambda model: model.named_parameters(),
    "module": lambda model: model,
    "dict": lambda model: [{"params": model.parameters()}],
    "generator of dicts": lambda model: ({"params": part} for part in [list(model.named_parameters())]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [network, loaded, lambda: copy.deepcopy(network())])
def test_groups_of_every_form_of_parameters(form: str, make: Callable[[], nn.Sequential]) -> None:
    model = make()
    optimizer = QuantumOptimizer(FORMS[form](model), lr=2e-5, quantum_learning_rate=1e-4, weight_decay=0.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert names_of(model, optimizer) == {"classical": CLASSICAL, "quantum": QUANTUM | COUPLING}
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(2e-5, 0.1), (1e-4, 0.0)]
    apart = EntanglementOptimizer(FORMS[form](model), lr=2e-5, entanglement_lr=5e-5, weight_decay=0.1)
    assert names_of(model, apart) == {"classical": CLASSICAL, "quantum": QUANTUM, "entanglement": COUPLING}
    assert [(group["lr"], group["weight_decay"]) for group in apart.param_groups] == [(2e-5, 0.1), (2e-5, 0.0), (5e-5, 0.0)]
    doubting = UncertaintyOptimizer(FORMS[form](model), lr=2e-5, uncertainty_threshold=0.5)
    assert names_of(model, doubting) == {"classical": CLASSICAL, "quantum": QUANTUM | COUPLING}
    assert [group["lr"] for group in doubting.param_groups] == [2e-5, 2e-5]


def test_dicts_keep_their_options() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.5, "weight_decay": 0.3, "name": "layer"},
        {"params": model[1].weight, "betas": (0.5, 0.6)},
        {"params": [model[1].bias], "quantum_learning_rate": 9.0},
    ]
    optimizer = QuantumOptimizer(groups, lr=0.1, quantum_learning_rate=0.2)
    expected = {
        "layer/classical": (0.5, 0.3, (0.9, 0.999)),
        "layer/quantum": (0.2, 0.0, (0.9, 0.999)),
        "classical": (0.1, 0.0, (0.5, 0.6)),
    }
    found = {group["name"]: (group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups[:3]}
    assert found == expected and optimizer.param_groups[3]["params"] == [model[1].bias]
    own = QuantumOptimizer([{"params": model.parameters(), "quantum_learning_rate": 0.7}], lr=0.1)
    assert [group["lr"] for group in own.param_groups] == [0.1, 0.7]
    assert [group["lr"] for group in QuantumOptimizer([{"params": model.parameters(), "lr": 0.4}]).param_groups] == [0.4, 0.4]
    assert names_of(model, QuantumOptimizer(model[1])) == {"classical": {"1.weight", "1.bias"}}
    assert names_of(model, QuantumOptimizer([model[0].phases])) == {"quantum": {"0.phases"}}


def test_every_kind_moves_at_its_rate_and_only_classical_ones_decay() -> None:
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = EntanglementOptimizer(model, lr=1e-3, entanglement_lr=4e-3, quantum_learning_rate=2e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the first step of Adam is the rate in every direction
    for name, parameter in model.named_parameters():
        rate = 4e-3 if name in COUPLING else 2e-3 if name in QUANTUM else 1e-3
        assert torch.allclose(before[name] - parameter, torch.full_like(parameter, rate), rtol=1e-3, atol=1e-6), name
    optimizer = EntanglementOptimizer(model, lr=0.5, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, before[name] * (0.75 if name in CLASSICAL else 1.0)), name


@pytest.mark.parametrize("kind", [QuantumOptimizer, EntanglementOptimizer, UncertaintyOptimizer])
def test_without_options_it_is_adamw(kind: Callable[..., torch.optim.Optimizer]) -> None:
    first, second = network(), network()
    ours, plain = (
        kind(first, lr=0.01, betas=(0.8, 0.9), eps=1e-6),
        torch.optim.AdamW(second.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.0),
    )
    for _ in range(5):
        for model, optimizer in ((first, ours), (second, plain)):
            backward(model, optimizer)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("kind", [QuantumOptimizer, EntanglementOptimizer, UncertaintyOptimizer])
def test_a_saved_state_continues_identically(kind: Callable[..., torch.optim.Optimizer]) -> None:
    model = network()
    optimizer = kind(model.named_parameters(), lr=0.01, weight_decay=0.01)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        for _ in range(3):
            if isinstance(optimizer, UncertaintyOptimizer):
                optimizer.set_uncertainty(0.8)
            backward(model, optimizer)
            optimizer.step()
            scheduler.step()

    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    train(model, optimizer, scheduler)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    weights, state, schedule = torch.load(file, weights_only=True)
    other = network(1)
    other.load_state_dict(weights)
    resumed = kind(other.named_parameters(), lr=0.5)
    resumed.load_state_dict(state)
    again = torch.optim.lr_scheduler.StepLR(resumed, 2, gamma=0.5)
    again.load_state_dict(schedule)
    train(model, optimizer, scheduler)
    train(other, resumed, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [group["lr"] for group in resumed.param_groups] == [0.01 / 8] * len(resumed.param_groups)
    assert [group["name"] for group in resumed.param_groups] == [group["name"] for group in optimizer.param_groups]


# --- uncertainty ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "floor", "doubt", "factor"),
    [
        (0.5, 0.1, 0.0, 1.0),
        (0.5, 0.1, 0.5, 1.0),
        (0.5, 0.1, 0.6, 0.82),
        (0.5, 0.1, 0.75, 0.55),
        (0.5, 0.1, 1.0, 0.1),
        (0.5, 0.1, 1.00001, 0.1),
        (0.2, 0.5, 0.6, 0.75),
        (0.2, 1.0, 0.9, 1.0),
    ],
)
@pytest.mark.parametrize("mode", ["damp", "boost"])
def test_steps_are_those_of_the_multiplied_rate(threshold: float, floor: float, doubt: float, factor: float, mode: str) -> None:
    factor = factor if mode == "damp" else 1 / factor
    first, second = network(), network()
    ours = UncertaintyOptimizer(first, 0.01, uncertainty_threshold=threshold, min_factor=floor, mode=mode)
    plain = torch.optim.AdamW(second.parameters(), lr=0.01 * factor, weight_decay=0.0)
    ours.set_uncertainty(torch.tensor(doubt, dtype=torch.float64))
    assert ours.rate_factor == pytest.approx(factor, abs=1e-12)
    for model, optimizer in ((first, ours), (second, plain)):
        backward(model, optimizer)
        optimizer.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)
    assert [group["lr"] for group in ours.param_groups] == [0.01, 0.01]


def test_a_closure_may_set_the_uncertainty_of_its_own_step() -> None:
    """Lightning computes the gradients within the step."""
    late, early = (
        UncertaintyOptimizer([nn.Parameter(torch.ones(1))], 0.01),
        UncertaintyOptimizer([nn.Parameter(torch.ones(1))], 0.01),
    )

    def closure() -> float:
        late.set_uncertainty(1.0)
        late.param_groups[0]["params"][0].grad = torch.ones(1)
        return 2.0

    early.set_uncertainty(1.0)
    early.param_groups[0]["params"][0].grad = torch.ones(1)
    early.step()
    assert late.step(closure) == 2.0
    assert late.param_groups[0]["params"][0].item() == early.param_groups[0]["params"][0].item() == pytest.approx(0.999)


def test_the_rate_comes_back_after_an_error_and_hooks_run_once() -> None:
    torch.optim.AdamW([torch.zeros(1)])  # makes torch put its hooks around the step of the class, too
    model = network()
    optimizer = UncertaintyOptimizer(model, 0.01)
    optimizer.set_uncertainty(1.0)
    calls: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(optimizer.param_groups[0]["lr"]))
    optimizer.register_step_post_hook(lambda *_: calls.append(optimizer.param_groups[0]["lr"]))
    seen: list[float] = []

    def closure() -> float:
        seen.append(optimizer.param_groups[0]["lr"])
        return backward(model, optimizer).item()

    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] < losses[0] and len(calls) == 60 and set(calls) == {0.01}
    assert set(seen) == {0.01}
    weight = next(model.parameters())
    weight.grad = torch.zeros_like(weight).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
    twin = copy.deepcopy(optimizer)
    assert (twin.uncertainty_threshold, twin.min_factor, twin.mode, twin.rate_factor) == (0.5, 0.1, "damp", pytest.approx(0.1))
    twin.step()


@pytest.mark.parametrize("kind", [QuantumOptimizer, EntanglementOptimizer, UncertaintyOptimizer])
def test_scaled_gradients(kind: Callable[..., torch.optim.Optimizer]) -> None:
    first, second = network(), network()
    scaled, plain = kind(first, lr=0.01), kind(second, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        scaled.zero_grad()
        scaler.scale(first(IDS).square().sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(scaled)
        scaler.update()
        backward(second, plain)
        plain.step()
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    scaled.zero_grad()
    next(first.parameters()).grad = torch.full_like(next(first.parameters()), math.inf)
    before = [parameter.detach().clone() for parameter in first.parameters()]
    scaler.step(scaled)  # overflow: no step
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantumOptimizer([]), "params: there are none"),
        (lambda: QuantumOptimizer(nn.Tanh()), "params: there are none"),
        (lambda: QuantumOptimizer([{"params": []}]), "params: there are none"),
        (lambda: QuantumOptimizer(torch.zeros(3)), "params: must be a module or an iterable of parameters, found Tensor"),
        (lambda: QuantumOptimizer([{"lr": 0.1}]), "params: where one is a dict, all must be dicts with 'params'"),
        (lambda: QuantumOptimizer(network(), quantum_learning_rate=-1.0), "quantum_learning_rate=-1.0: must be a finite number"),
        (lambda: QuantumOptimizer(nn.Linear(1, 1), quantum_learning_rate=math.nan), "quantum_learning_rate=nan"),
        (lambda: EntanglementOptimizer(network(), entanglement_lr=math.inf), "entanglement_lr=inf"),
        (
            lambda: UncertaintyOptimizer(network(), uncertainty_threshold=1.0),
            "uncertainty_threshold=1.0: must be greater than 0 and",
        ),
        (lambda: UncertaintyOptimizer(network(), uncertainty_threshold=0.0), "uncertainty_threshold=0.0"),
        (lambda: UncertaintyOptimizer(network(), min_factor=0.0), "min_factor=0.0: must be greater than 0"),
        (lambda: UncertaintyOptimizer(network(), mode="bost"), "mode='bost': must be one of damp, boost; did you mean 'boost'"),
        (lambda: UncertaintyOptimizer(network()).set_uncertainty(1.2), "uncertainty=1.2: must be between 0 and 1"),
        (lambda: UncertaintyOptimizer(network()).set_uncertainty(math.nan), "uncertainty=nan"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
