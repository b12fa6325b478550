"""A model and data of one's own: the ground-state energy of a 2x3 Rydberg array as a function of delta and V.

    qsr train --config-name config_blueprint --config-dir demos --allow-import demos.own_model
    qsr load RUN --allow-import demos.own_model

The data are exact diagonalisations; the network learns the surface E0/N(delta, V) to about a percent in some seconds.
Run as a script it trains and prints the error on the test data beside that of guessing the mean.
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import qsr
from qsr.hparams import Hparam
from qsr.training import DataHparams, Model, ModelHparams, PyTorchData


class PerceptronHparams(ModelHparams):
    """A multilayer perceptron."""

    hidden_dim: int = Hparam(32, ge=1, help="width of the hidden layers")
    num_layers: int = Hparam(2, ge=1, le=10, help="number of hidden layers")


class Perceptron(Model[PerceptronHparams]):
    """(delta, V) to E0/N."""

    def __init__(self, hparams: PerceptronHparams) -> None:
        super().__init__(hparams)
        width = self.thparams.hidden_dim
        layers: list[nn.Module] = []
        for index in range(self.thparams.num_layers):
            layers += [nn.Linear(width if index else 2, width), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).squeeze(-1)

    def compute_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        error = outputs - targets
        return {"loss": error.square().mean(), "mean_error": error.abs().mean()}


class EnergiesHparams(DataHparams):
    """Exact energies at random detunings and interactions."""

    num_samples: int = Hparam(400, ge=10, help="number of points")
    largest_delta: float = Hparam(3.0, gt=0, help="detunings are between 0 and this")
    largest_V: float = Hparam(10.0, gt=0, help="interactions are between 0 and this")


class Energies(PyTorchData[EnergiesHparams]):
    """Points (delta, V), scaled to [0, 1], and E0/N in units of Omega."""

    def get_dataset(self) -> Dataset:
        settings = self.thparams
        points = torch.rand(settings.num_samples, 2, generator=torch.Generator().manual_seed(settings.seed))
        energies = [
            qsr.exact(qsr.Rydberg(Lx=2, Ly=3, delta=settings.largest_delta * delta, V=settings.largest_V * v)).energy / 6
            for delta, v in points.tolist()
        ]
        return TensorDataset(points, torch.tensor(energies))


def main(epochs: int = 200, num_samples: int = 400) -> float:
    """Train, and compare with guessing the mean; the ratio of the two errors."""
    torch.manual_seed(0)  # of the first weights
    data = Energies({"num_samples": num_samples, "seed": 0, "loader": {"batch_size": 32, "shuffle": True}})
    with tempfile.TemporaryDirectory() as folder:
        run = qsr.fit(Perceptron({}), data, {"max_epochs": epochs, "lr": 3e-3, "dir": folder})
        assert run.path is not None
        found = qsr.evaluate_on_data(run, data).metrics
    targets = torch.stack([target for _, target in data.test])
    guess = (targets - torch.stack([target for _, target in data.train]).mean()).abs().mean().item()
    print(f"mean |error| of E0/N on {len(targets)} test points: {found['test/mean_error']:.4f}   guessing the mean: {guess:.4f}")
    return found["test/mean_error"] / guess


if __name__ == "__main__":
    main()
