"""Learning the features alone (hsm_model=geometry): exact optima on the sphere, and what its settings refuse.

What takes the best of several seeds is in tests/benchmarks/test_hsm_geometry.py, with the mark `slow`.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import qsr
from qsr.hparams import ConfigError
from qsr.hsm import HSM, matrix_geometry
from qsr.training.table import Table

POINTS = 2000


def sphere() -> NDArray[np.float64]:
    """Uniform points on the unit sphere."""
    x = np.random.default_rng(0).normal(size=(POINTS, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def trained_loss(x: NDArray[np.float64], dimension: int, weight: float, seed: int, epochs: int) -> float:
    """Summed over the features, after steps of 100 points with the optimizer of the authors."""
    run = qsr.fit(
        HSM(hsm_model="geometry", hilbert_space_dims=dimension, fluctuation_weight=weight, standardize="none"),
        Table({"targets": (), "split": (1.0, 0.0), "seed": 0, "batch_size": 100}, data=x),
        {"max_epochs": epochs, "lr": 0.03, "seed": seed, "dir": "<NONE>", "device": "cpu"},
        optimizer={"name": "Adam", "kwargs": {"betas": (0.99, 0.99), "amsgrad": True}},
        scheduler={"name": "ExponentialLR", "kwargs": {"gamma": 0.1 ** (1 / epochs)}},
    )
    found = matrix_geometry(run.model, torch.from_numpy(x))
    return x.shape[1] * float((found.bias + weight * found.fluctuation).mean())


@pytest.mark.parametrize(("dimension", "weight", "exact"), [(2, 0.1, 1 / 6), (4, 1.0, 0.4)])
def test_training_finds_the_exact_loss_on_the_sphere(dimension: int, weight: float, exact: float) -> None:
    """w / (j + w); 1 % is for the finite sample, whose optimum is a little lower, and for the end of the training."""
    assert trained_loss(sphere(), dimension, weight, seed=0, epochs=30) == pytest.approx(exact, rel=0.01)


def test_a_factor_on_the_features_is_refused() -> None:
    """It would go to zero, and the operators with it."""
    with pytest.raises(ConfigError, match=r"hsm\.weighted_layer=True: would lower the loss of hsm_model=geometry"):
        HSM(hsm_model="geometry", weighted_layer=True)
