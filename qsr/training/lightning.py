"""A `Model` under Lightning's own Trainer, for those who have one: its devices, its loggers, its callbacks."""

from __future__ import annotations

from typing import Any

from qsr.hparams import ConfigError
from qsr.training.model import Model


def as_lightning(model: Model[Any]) -> Any:
    """A `LightningModule` that trains `model` (in place): its steps, its metrics, its optimizer and scheduler.

    Metrics have the same names (`training/loss`, `validation/loss`, ...), so that Lightning's callbacks find them; a scheduler
    that looks at one is told by `scheduler.monitor`. Gradient clipping, early stopping and checkpoints are those of the
    Lightning Trainer.

    Raises:
        ConfigError: if Lightning is not installed.
    """
    try:
        from lightning import LightningModule
    except ImportError:
        raise ConfigError("as_lightning: the package lightning is not installed; pip install 'qsr[lightning]'") from None

    class Adapter(LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return self.model(*inputs)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.model.training_step(batch, batch_idx)
            self._log()
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.model.validation_step(batch, batch_idx)
            self._log()

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.model.test_step(batch, batch_idx)
            self._log()

        def configure_optimizers(self) -> Any:
            made = self.model.configure_optimizers()
            settings = self.model.thparams.scheduler
            if settings is None or "lr_scheduler" not in made:
                return made
            scheduler = {"scheduler": made["lr_scheduler"], "monitor": settings.monitor}
            return {**made, "lr_scheduler": {**scheduler, "interval": settings.settled(samplers=False).interval}}

        def _log(self) -> None:
            self.log_dict(dict(self.model.logged), prog_bar=True)

    return Adapter()
