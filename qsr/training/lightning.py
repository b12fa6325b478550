"""A `Model` under Lightning's own Trainer, for those who have one: its devices, its loggers, its callbacks."""

from __future__ import annotations

import sys
from typing import Any

from qsr.hparams import ConfigError
from qsr.training.model import Model
from qsr.training.protocols import Metrics
from qsr.training.supervised import batch_size, mean_metrics, numbers


def as_lightning(model: Model[Any]) -> Any:
    """A `LightningModule` that trains `model` (in place): its steps, its metrics, its optimizer and scheduler.

    Metrics have the same names (`training/loss`, `validation/loss`, ...), so that Lightning's callbacks find them; a scheduler
    that looks at one is told by `scheduler.monitor`. Gradient clipping, early stopping and checkpoints are those of the
    Lightning Trainer.

    Raises:
        ConfigError: if Lightning is not installed.
    """
    return adapter_class("as_lightning")(model)


def adapter_class(asked_by: str) -> Any:
    """The class of what `as_lightning` returns; made when asked for, because its base may not be installed.

    Raises:
        ConfigError: if it is not.
    """
    try:
        from lightning import LightningModule
    except ImportError:
        raise ConfigError(f"{asked_by}: the package lightning is not installed; pip install 'qsr[lightning]'") from None

    class Adapter(LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self, model: Model[Any]) -> None:
            super().__init__()
            self.model = model
            self.found: list[tuple[int, Metrics]] = []  # in this evaluation: the sizes of batches, and their metrics

        def forward(self, *inputs: Any) -> Any:
            return self.model(*inputs)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            steps = self.trainer.num_training_batches
            self.model.begin_step(self.current_epoch, batch_idx, steps if isinstance(steps, int) else sys.maxsize)
            loss = self.model.training_step(batch, batch_idx)
            # What begins with an underscore is for `Model.finish_metrics`, which single steps do not need.
            self.log_dict({name: value for name, value in self.model.logged.items() if "/_" not in name}, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.model.validation_step(batch, batch_idx)
            self.found.append((batch_size(batch), numbers(self.model.logged)))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.model.test_step(batch, batch_idx)
            self.found.append((batch_size(batch), numbers(self.model.logged)))

        def on_validation_epoch_end(self) -> None:
            found, self.found = self.found, []
            self.log_dict(self.model.finish_metrics(mean_metrics(found)), prog_bar=True)

        def on_test_epoch_end(self) -> None:
            self.on_validation_epoch_end()

        def configure_optimizers(self) -> Any:
            made = self.model.configure_optimizers()
            settings = self.model.thparams.scheduler
            if settings is None or "lr_scheduler" not in made:
                return made
            scheduler = {"scheduler": made["lr_scheduler"], "monitor": settings.monitor}
            return {**made, "lr_scheduler": {**scheduler, "interval": settings.settled(samplers=False).interval}}

    return Adapter
