"""Networks on quantum and on ordinary embeddings, all trained with `QuantumTrainer`: what the jobs of `qembed_jobs.py` share."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qsr.qembed import QuantumTrainer
from qsr.qembed.metrics import mutual_information, predictive_entropy
from qsr.training.rows import Batch, DictRows

TNetwork = TypeVar("TNetwork", bound=nn.Module)

WARM_UP = 0.05  # of the steps, where the rate follows a cosine
PATIENCE = 5  # epochs without a better one


@dataclass(frozen=True)
class Recipe:
    """AdamW: epochs, rows of a batch, the rate, and its course: constant, or a cosine after a short warm-up."""

    epochs: int
    batch_size: int
    lr: float = 2e-3
    cosine: bool = False
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Variant:
    """An embedding, with its way of learning and of predicting.

    Attributes:
        name: in the tables.
        network: settings of the network beyond its sizes.
        quantum: keys of the trainer's configuration.
        samples: passes whose probabilities are averaged, with sampled collapses or, of an ordinary embedding, with dropout; 0:
            one pass without chance.
        recipe: where it is not that of the others.
    """

    name: str
    network: Mapping[str, Any] = field(default_factory=dict)
    quantum: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 0
    recipe: Recipe | None = None

    @property
    def plain(self) -> bool:
        """Whether it is an ordinary embedding."""
        return self.network.get("embedding") == "plain"


NEVER = {"superposition_schedule": "constant", "collapse_probability": 0.0}
PLAIN = Variant("nn.Embedding", {"embedding": "plain"})
DROPOUT = Variant("nn.Embedding, MC dropout 0.5", {"embedding": "plain", "dropout": 0.5}, samples=8)
SUPERPOSED = Variant("QEmbed, p = 0", quantum=NEVER)
COLLAPSING = Variant("QEmbed, linear, 8 samples", samples=8)
LIKELIEST = Variant("QEmbed, linear, argmax")
SOFT = Variant("QEmbed, soft", {"collapse_strategy": "soft"})


class Shuffled:
    """Batches of rows in another order each time; torch's global generator decides, which the trainer seeds."""

    def __init__(self, rows: DictRows, size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        return (self.rows.rows(chosen) for chosen in torch.randperm(len(self.rows)).split(self.size))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network.

    Attributes:
        trainer: that trained it.
        variant: what it is.
        seconds: of processor time that an epoch took.
    """

    trainer: QuantumTrainer
    variant: Variant
    seconds: float

    def predict(self, inputs: Tensor) -> dict[str, Tensor]:
        """As `QuantumTrainer.predict`, of tokens (S, L)."""
        if self.variant.plain and self.variant.samples:
            return dropout_predictions(self.trainer.model, inputs, self.variant.samples)
        return self.trainer.predict({"input_ids": inputs}, num_samples=self.variant.samples)


def dropout_predictions(network: nn.Module, inputs: Tensor, samples: int) -> dict[str, Tensor]:
    """What `QuantumTrainer.predict` says of collapses, of passes with dropout (Gal and Ghahramani, arXiv 1506.02142)."""
    network.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        passes = torch.stack([network(inputs).logits.softmax(dim=-1) for _ in range(samples)])
    network.eval()
    probs = passes.mean(dim=0)
    return {
        "probs": probs,
        "total_entropy": predictive_entropy(probs),
        "mutual_information": mutual_information(passes),
        "uncertainty": torch.full((len(inputs),), torch.nan),
    }


def made(kind: type[TNetwork], settings: Mapping[str, Any], variant: Variant, seed: int) -> TNetwork:
    """A network with settings, and those of the variant, which starts where a seed says."""
    torch.manual_seed(seed)
    return kind(**{**settings, **variant.network})


def fit(network: nn.Module, rows: DictRows, recipe: Recipe, variant: Variant, seed: int) -> Fitted:
    """Train a network on rows with `input_ids` and `labels`."""
    recipe = variant.recipe or recipe
    trainer, batches = trainer_of(network, rows, recipe, variant.quantum, seed)
    started = time.process_time()
    trainer.train(batches, num_epochs=recipe.epochs)
    return Fitted(trainer, variant, (time.process_time() - started) / recipe.epochs)


def adapt(
    network: nn.Module, rows: DictRows, held_out: DictRows, recipe: Recipe, variant: Variant, seed: int, head_only: bool
) -> Fitted:
    """Go on with a trained network and other rows, all weights or those of the head alone; the best for `held_out` are kept.

    Tokens collapse as often as at the end of a linear schedule.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not head_only or name.startswith("head."))
    quantum = {"superposition_schedule": "constant", "collapse_probability": 1.0}
    trainer, batches = trainer_of(network, rows, recipe, quantum, seed)
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.pth"
        started = time.process_time()
        trainer.train(
            batches,
            Shuffled(held_out, len(held_out)),
            recipe.epochs,
            early_stopping_patience=PATIENCE,
            save_best_model=True,
            model_save_path=best,
        )
        seconds = (time.process_time() - started) / trainer.current_epoch
        trainer.load_model(best, include_optimizer=False)
    return Fitted(trainer, variant, seconds)


def trainer_of(
    network: nn.Module, rows: DictRows, recipe: Recipe, quantum: Mapping[str, Any], seed: int
) -> tuple[QuantumTrainer, Shuffled]:
    """A trainer of those weights that can be trained, and its batches."""
    batches = Shuffled(rows, recipe.batch_size)
    steps = recipe.epochs * len(batches)

    def course(step: int) -> float:
        return min((step + 1) / (WARM_UP * steps), 0.5 * (1 + math.cos(math.pi * step / steps))) if recipe.cosine else 1.0

    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, course)
    config = {"seed": seed, **quantum}
    trainer = QuantumTrainer(
        network,
        optimizer,
        network.loss_of,
        device="cpu",
        quantum_training_config=config,
        lr_scheduler=rate,
        lr_scheduler_interval="step",
    )
    return trainer, batches
