"""What the documentation of the trainer promises, snippet by snippet: each form of call, each mapping of settings."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from torch import Tensor, nn
from torch.nn import CrossEntropyLoss

from qsr.qembed import QuantumMaskedLM, QuantumSequenceClassifier, QuantumTrainer
from qsr.qembed.losses import EntanglementLoss, QuantumLoss, UncertaintyLoss
from qsr.qembed.optimizers import EntanglementOptimizer, QuantumOptimizer, UncertaintyOptimizer
from tests.qembed.trainer_cases import loader, network, tokens

matplotlib.use("Agg")

QUICK = {"superposition_schedule": "linear", "entanglement_training": True, "uncertainty_regularization": 0.1}
CLIPPING = {"quantum_gradient_clipping": True, "max_quantum_grad_norm": 1.0}
FINE_TUNING = {"superposition_schedule": "constant", "entanglement_training": False, "uncertainty_regularization": 0.1}
CONTINUAL = {
    "superposition_schedule": "cyclic",
    "entanglement_training": True,
    "uncertainty_regularization": 0.15,
    "quantum_memory_replay": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "quick start": QUICK,
    "full": {**QUICK, "collapse_strategy": "context_aware", **CLIPPING},
    "pre-training": {**QUICK, "uncertainty_regularization": 0.05},
    "fine-tuning": FINE_TUNING,
    "continual": CONTINUAL,
    "clipping": {**CLIPPING, "separate_clipping": True},
    "memory": {"gradient_checkpointing": True, "mixed_precision": True, "quantum_memory_efficient": True},
    "speed": {"quantum_parallel": True, "entanglement_optimization": "sparse", "collapse_optimization": "batched"},
    "several processes": {"distributed_training": True, "quantum_sync": True, "entanglement_sync": True},
}


@pytest.fixture
def quantum_model() -> QuantumSequenceClassifier:
    return network(entanglement="bell_state")


def made(model: nn.Module, config: dict[str, Any] | None = None, loss_fn: Any = None) -> QuantumTrainer:
    optimizer = QuantumOptimizer(model.parameters(), lr=1e-2)
    return QuantumTrainer(model, optimizer, loss_fn or CrossEntropyLoss(), quantum_training_config=config)


def test_the_quick_start(quantum_model: nn.Module) -> None:
    trainer = QuantumTrainer(
        model=quantum_model,
        optimizer=QuantumOptimizer(quantum_model.parameters(), lr=2e-5),
        loss_fn=QuantumLoss(uncertainty_weight=0.1),
        quantum_training_config=QUICK,
    )
    before = [parameter.clone() for parameter in quantum_model.parameters()]
    history = trainer.train(train_dataloader=loader(), val_dataloader=loader(16, seed=1), num_epochs=10)
    assert len(history["train_loss"]) == len(history["val_loss"]) == 10
    assert history["collapse_probability"] == pytest.approx([epoch / 9 for epoch in range(10)])
    assert sum(not torch.equal(a, b) for a, b in zip(before, quantum_model.parameters(), strict=True)) >= len(before) - 1
    assert json.loads(json.dumps(history)) == history


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore:distributed_training. this is the only process:UserWarning")
def test_every_mapping_of_settings_trains(name: str, quantum_model: nn.Module) -> None:
    trainer = made(quantum_model, CONFIGS[name])
    assert {key: trainer.quantum_config[key] for key in CONFIGS[name]} == CONFIGS[name]
    history = trainer.train(train_dataloader=loader(), val_dataloader=loader(16, seed=1), num_epochs=1)
    assert all(math.isfinite(history[key][0]) for key in ("train_loss", "val_loss", "uncertainty", "quantum_loss"))


def test_a_single_process_says_so(quantum_model: nn.Module) -> None:
    with pytest.warns(UserWarning, match="distributed_training: this is the only process"):
        made(quantum_model, CONFIGS["several processes"])


def test_pre_training_without_validation_keeps_the_best(tmp_path: Path) -> None:
    """Masked tokens: the labels are -100 where nothing is asked for."""
    ids, _ = tokens()
    labels = ids.clone()
    labels[:, 1:] = -100
    batches = [{"input_ids": ids[i : i + 16], "labels": labels[i : i + 16]} for i in range(0, 48, 16)]
    quantum_model = QuantumMaskedLM(8, 8, 2, num_layers=0)
    pretrainer = made(quantum_model, CONFIGS["pre-training"])
    file = tmp_path / "models" / "pretrained_quantum_model.pth"
    with pytest.warns(UserWarning, match="save_best_model: training losses of different collapse probabilities"):
        pretrainer.train(train_dataloader=batches, num_epochs=30, save_best_model=True, model_save_path=str(file))
    losses = pretrainer.training_history["train_loss"]
    assert pretrainer.best_metric == min(losses) < 0.6 * losses[0]
    assert torch.load(file, weights_only=True)["model"].keys() == quantum_model.state_dict().keys()
    assert all(math.isnan(value) for value in pretrainer.training_history["val_loss"])


def test_fine_tuning_stops_when_it_gets_no_better(quantum_model: nn.Module) -> None:
    still = torch.optim.SGD(quantum_model.parameters(), lr=0.0)  # nothing can get better
    finetuner = QuantumTrainer(quantum_model, still, CrossEntropyLoss(), quantum_training_config=FINE_TUNING)
    history = finetuner.train(
        train_dataloader=loader(), val_dataloader=loader(16, seed=1), num_epochs=5, early_stopping_patience=3
    )
    assert history["collapse_probability"] == [0.5] * 4 and finetuner.stopped_epoch == 3


def test_continual_learning_replays_earlier_tasks(quantum_model: nn.Module) -> None:
    continual_trainer = made(quantum_model, CONTINUAL)
    task_sequence = [{"train": loader(seed=task), "val": loader(16, seed=task + 9)} for task in range(3)]
    for task_id, task_data in enumerate(task_sequence):
        history = continual_trainer.train(train_dataloader=task_data["train"], val_dataloader=task_data["val"], num_epochs=3)
        assert continual_trainer.task_id == task_id
        assert history["collapse_probability"] == pytest.approx([0, 1, 0])
        assert all(value > 0 for value in history["replay_loss"])
    assert len(continual_trainer.training_history["train_loss"]) == 9


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", [0, 0.25, 0.5, 0.75, 1]), ("cyclic", [0, 0.5, 1, 0.5, 0]), ("constant", [0.5] * 5)]
)
def test_schedules(kind: str, expected: list[float], quantum_model: nn.Module) -> None:
    quantum_config = {"superposition_schedule": kind}
    history = made(quantum_model, quantum_config).train(loader(16), num_epochs=5)
    assert history["collapse_probability"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("quantum_loss", "terms"),
    [
        (QuantumLoss(base_loss=CrossEntropyLoss(), uncertainty_weight=0.1, entanglement_weight=0.05), 2),
        (UncertaintyLoss(base_loss=CrossEntropyLoss(), uncertainty_weight=0.2, uncertainty_type="entropy"), 1),
        (EntanglementLoss(base_loss=CrossEntropyLoss(), entanglement_weight=0.1, entanglement_type="bell_state"), 1),
    ],
    ids=["quantum", "uncertainty", "entanglement"],
)
def test_losses(quantum_loss: Any, terms: int, quantum_model: nn.Module) -> None:
    """They see the quantum quantities through the trainer, and say what each part added."""
    trainer = made(quantum_model, {"uncertainty_regularization": 0.0, "entanglement_training": False}, quantum_loss)
    loss = trainer.training_step(next(iter(loader())))
    parts = quantum_loss.last_components
    assert sum(value > 0 for name, value in parts.items() if name != "task") == terms
    assert loss.item() == pytest.approx(sum(parts.values()), rel=1e-6)
    assert trainer.last_metrics["quantum_loss"] == pytest.approx(loss.item() - parts["task"], abs=1e-6)


def test_optimizers(quantum_model: nn.Module) -> None:
    """Each takes the generator that `parameters()` is."""
    quantum_optimizer = QuantumOptimizer(quantum_model.parameters(), lr=2e-5, quantum_learning_rate=1e-4)
    entanglement_optimizer = EntanglementOptimizer(quantum_model.parameters(), lr=2e-5, entanglement_lr=5e-5)
    uncertainty_optimizer = UncertaintyOptimizer(quantum_model.parameters(), lr=2e-5, uncertainty_threshold=0.5)
    rates = [
        {group["name"]: group["lr"] for group in found.param_groups} for found in (quantum_optimizer, entanglement_optimizer)
    ]
    assert rates == [{"classical": 2e-5, "quantum": 1e-4}, {"classical": 2e-5, "quantum": 2e-5, "entanglement": 5e-5}]
    for optimizer in (quantum_optimizer, entanglement_optimizer, uncertainty_optimizer):
        before = {name: value.clone() for name, value in quantum_model.named_parameters()}
        QuantumTrainer(quantum_model, optimizer, CrossEntropyLoss()).train(loader(16), num_epochs=2)
        moved = [name for name, value in quantum_model.named_parameters() if not torch.equal(before[name], value)]
        assert {"embedding.amplitude_logits", "embedding.entanglement.coupling_theta", "head.weight"} <= set(moved)
    assert uncertainty_optimizer.rate_factor < 1  # these tokens are less certain than its threshold


def test_metrics_of_an_epoch_and_of_a_validation(quantum_model: nn.Module) -> None:
    trainer = made(quantum_model)
    train_metrics = trainer.train_epoch(loader(), epoch=0)
    names = ("loss", "quantum_loss", "uncertainty", "entanglement_strength", "superposition_coherence")
    assert all(isinstance(train_metrics[name], float) and math.isfinite(train_metrics[name]) for name in names)
    assert all(0 < train_metrics[name] <= 1 for name in names[2:])
    val_metrics = trainer.validate(loader(16, seed=1))
    assert all(math.isfinite(val_metrics[name]) for name in ("loss", "accuracy", "uncertainty"))
    assert val_metrics["accuracy"] * 16 == pytest.approx(round(val_metrics["accuracy"] * 16))


def test_the_history_can_be_plotted(quantum_model: nn.Module, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    trainer = made(quantum_model)
    trainer.train(loader(), loader(16, seed=1), num_epochs=3)
    history = trainer.training_history
    figure, (losses, doubt, quantum) = plt.subplots(1, 3, figsize=(12, 4))
    losses.plot(history["train_loss"], label="Train")
    losses.plot(history["val_loss"], label="Validation")
    losses.legend()
    doubt.plot(history["uncertainty"])
    quantum.plot(history["quantum_loss"])
    figure.tight_layout()
    figure.savefig(tmp_path / "curves.png")
    drawn = [len(line.get_xdata()) for axes in figure.axes for line in axes.lines]
    plt.close(figure)
    assert drawn == [3, 3, 3, 3] and (tmp_path / "curves.png").stat().st_size > 5_000


class QuantumAwareLoss(nn.Module):
    """A user's own: the loss of the task, and the mean uncertainty where it is given."""

    def __init__(self, base_loss: nn.Module, uncertainty_weight: float = 0.1) -> None:
        super().__init__()
        self.base_loss, self.uncertainty_weight = base_loss, uncertainty_weight

    def forward(self, outputs: Any, labels: Tensor, uncertainty: Tensor | None = None) -> Tensor:
        total: Tensor = self.base_loss(outputs.logits, labels)
        return total if uncertainty is None else total + self.uncertainty_weight * uncertainty.mean()


def test_a_loss_of_ones_own_is_given_the_uncertainty(quantum_model: nn.Module) -> None:
    model, optimizer = quantum_model, torch.optim.AdamW(quantum_model.parameters(), lr=0.05)
    custom_loss = QuantumAwareLoss(CrossEntropyLoss(), uncertainty_weight=2.0)
    trainer = QuantumTrainer(model, optimizer, custom_loss)
    before = trainer.validate(loader())["uncertainty"]
    trainer.train(loader(), num_epochs=8)
    assert trainer.validate(loader())["uncertainty"] < before - 0.2
    outputs = model(tokens()[0])
    assert custom_loss(outputs, tokens()[1]) == CrossEntropyLoss()(outputs.logits, tokens()[1])


def test_quantum_gradients_are_clipped_alone(quantum_model: nn.Module) -> None:
    quantum_config = CONFIGS["clipping"]
    steep = made(quantum_model, quantum_config, lambda logits, labels: 1e4 * nn.functional.cross_entropy(logits, labels))
    metrics = steep.train_epoch([next(iter(loader()))])
    norms = {True: 0.0, False: 0.0}
    for parameter in quantum_model.parameters():
        if parameter.grad is not None:
            norms[hasattr(parameter, "_qrole")] += float(parameter.grad.square().sum())
    assert metrics["quantum_grad_norm"] > 100
    assert math.sqrt(norms[True]) == pytest.approx(1.0, rel=1e-5)
    assert math.sqrt(norms[False]) > 100


def test_the_best_model_can_be_loaded(quantum_model: nn.Module, tmp_path: Path) -> None:
    trainer = made(quantum_model, {"superposition_schedule": "constant", "collapse_probability": 1.0})
    file = str(tmp_path / "checkpoints" / "best_model.pth")
    history = trainer.train(
        train_dataloader=loader(),
        val_dataloader=loader(16, seed=1),
        num_epochs=10,
        save_best_model=True,
        model_save_path=file,
    )
    best = history["val_loss"].index(min(history["val_loss"]))
    nn.init.zeros_(quantum_model.head.weight)  # type: ignore[arg-type]
    config = trainer.load_model(file)
    assert (trainer.best_epoch, trainer.current_epoch, trainer.global_step) == (best, best + 1, 3 * (best + 1))
    assert trainer.training_history["train_loss"] == history["train_loss"][: best + 1]
    assert trainer.validate(loader(16, seed=1))["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-6)
    assert config["collapse_probability"] == 1.0
