"""Calls that people get wrong end at once, with one line that says what was meant."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from qsr.qembed import QuantumTrainer
from qsr.qembed.losses import EntanglementLoss, QuantumLoss, UncertaintyLoss
from qsr.qembed.optimizers import EntanglementOptimizer, QuantumOptimizer, UncertaintyOptimizer
from tests.qembed.trainer_cases import loader, network, trainer

MODEL = network()


def read_twice() -> Iterator[nn.Parameter]:
    parameters = MODEL.parameters()
    list(parameters)
    return parameters


def made(optimizer: Any = None, loss_fn: Any = None, **settings: Any) -> QuantumTrainer:
    return QuantumTrainer(MODEL, optimizer or QuantumOptimizer(MODEL), loss_fn or nn.CrossEntropyLoss(), **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QuantumOptimizer([]), "params: there are none"),
        (lambda: QuantumOptimizer(read_twice()), "params: there are none (a generator can be read only once)"),
        (lambda: QuantumOptimizer(torch.zeros(3)), "params: must be a module or an iterable of parameters, found Tensor"),
        (lambda: QuantumOptimizer(None), "params: must be a module or an iterable of parameters, found NoneType"),  # type: ignore[arg-type]
        (
            lambda: QuantumOptimizer(MODEL, quantum_learning_rate="1e-3"),  # type: ignore[arg-type]
            "quantum_learning_rate='1e-3': must be a finite number of at least 0",
        ),
        (lambda: EntanglementOptimizer(MODEL, entanglement_lr=-1.0), "entanglement_lr=-1.0: must be a finite number"),
        (lambda: UncertaintyOptimizer(MODEL, uncertainty_threshold=1.0), "uncertainty_threshold=1.0: must be greater than 0"),
        (lambda: UncertaintyLoss(uncertainty_type="entrpy"), "uncertainty_type='entrpy': must be one of entropy, "),
        (lambda: EntanglementLoss(entanglement_type="bell"), "entanglement_type='bell': must be one of entropy, "),
        (lambda: QuantumLoss("crossentropy"), "base_loss='crossentropy': must be one of cross_entropy, "),
        (lambda: QuantumLoss(nn.CrossEntropyLoss), "base_loss: must be a loss, found the class CrossEntropyLoss itself"),
        (lambda: QuantumLoss(uncertainty_weight=-1), "uncertainty_weight=-1: must be a finite number of at least 0"),
        (
            lambda: made(quantum_training_config="linear"),
            "quantum_training_config: must be a mapping of settings, found str",
        ),
        (
            lambda: made(quantum_training_config={"superposition_shedule": "linear"}),
            "quantum_training_config.superposition_shedule: unknown setting; did you mean 'superposition_schedule'?",
        ),
        (
            lambda: made(quantum_training_config={"superposition_schedule": "cosine"}),
            "superposition_schedule='cosine': must be one of linear, cyclic, constant",
        ),
        (lambda: made(device={"seed": 1}), "device={'seed': 1}: must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_values(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QuantumTrainer(QuantumLoss, None, None), "model: must be a torch.nn.Module, found the class QuantumLoss itself"),  # type: ignore[arg-type]
        (lambda: made(torch.optim.Adam), "optimizer: must be a torch optimizer, found the class Adam itself"),
        (lambda: made(MODEL), "optimizer: must be a torch optimizer, found QuantumSequenceClassifier"),
        (lambda: made(loss_fn=nn.MSELoss), "loss_fn: must be a function, a module or None, found the class MSELoss itself"),
        (lambda: made(loss_fn="mse"), "loss_fn: must be a function, a module or None, found str"),
        (lambda: made(lr_scheduler=StepLR), "lr_scheduler: must be a scheduler of this optimizer, found the class StepLR itself"),
    ],
)
def test_kinds(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


def test_losses_get_the_logits_and_the_uncertainty_if_they_ask_for_both() -> None:
    seen = []

    def loss(logits: torch.Tensor, labels: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
        seen.append((logits.shape, uncertainty.shape))
        return nn.functional.cross_entropy(logits, labels) + 0.1 * uncertainty.mean()

    trainer(loss_fn=loss).train(loader(16, 16), num_epochs=1)
    assert seen == [((16, 2), (16, 4))]
