"""A line, and points on it: the smallest model and data of one's own; and how a run ends early."""

import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from qsr.hparams import Hparam
from qsr.training import Callback, DataHparams, Model, ModelHparams, PyTorchData, Trainer


class Line(Model[ModelHparams]):
    """y = a x + b, with the batch form of compute_metrics."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        error = self(x) - y
        return {"loss": error.square().mean(), "largest": error.abs().max()}


class PointsHparams(DataHparams):
    """Of y = 3 x - 1 with noise."""

    num_samples: int = Hparam(200, ge=10)
    noise: float = Hparam(0.0, ge=0)


class Points(PyTorchData[PointsHparams]):
    def get_dataset(self) -> Dataset[Any]:
        generator = torch.Generator().manual_seed(7)
        x = torch.rand(self.thparams.num_samples, 1, generator=generator)
        return TensorDataset(x, 3 * x - 1 + self.thparams.noise * torch.randn(x.shape, generator=generator))


def points(**settings: Any) -> Points:
    return Points({"seed": 1, "loader": {"batch_size": 16, "shuffle": True}, **settings})


class CopyAt(Callback):
    """Copies the run directory when a step is done, as a crash would leave it."""

    def __init__(self, step: int, run: Path, copy: Path) -> None:
        self.step, self.run, self.copy = step, run, copy

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.step == self.step:
            shutil.copytree(self.run, self.copy)


class StopAt(Callback):
    """SIGTERM when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.step == self.step:
            signal.raise_signal(signal.SIGTERM)
