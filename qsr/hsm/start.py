"""What a model takes from the training data before its first step: the scaler, and clusters to start from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm.operators import random_parameters
from qsr.hsm.rows import check_rows, features_and_targets
from qsr.training.columns import columns_of, numbers_in

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel


def prepare(model: HilbertSpaceModel, batches: Iterable[Any]) -> None:
    """Set the scaler of a model, and its operators for init=kmeans.

    Raises:
        ConfigError: for features without a value, unless `missing=drop_terms`, and for infinite ones.
    """
    x, y = gathered(batches)
    settings = model.thparams
    check_rows(x, settings.missing, "data")
    device = model.x_mean.device
    if settings.standardize != "none":
        mean, scale = moments(x)
        model.x_mean.copy_(mean.to(device))
        model.x_scale.copy_(scale.to(device))
    if y is not None and model.standardises_targets:
        mean, scale = moments(y.reshape(len(y), -1))
        model.y_mean.copy_(mean.to(device))
        model.y_scale.copy_(scale.to(device))
    if y is not None and settings.classes is None:
        centre = moments(y.reshape(len(y), -1))[0].to(device)
        model.y_center.copy_((centre - model.y_mean) / model.y_scale)
    if settings.init == "kmeans":
        clusters(model, x, y)


def gathered(batches: Iterable[Any]) -> tuple[Tensor, Tensor | None]:
    """All features (S, K) and targets of some batches, in float64 on the CPU."""
    xs, ys = zip(*map(features_and_targets, batches), strict=True)
    x = torch.cat([part.double().cpu() for part in xs])
    return x, None if ys[0] is None else torch.cat([part.double().cpu() for part in ys])


def feature_rows(model: HilbertSpaceModel, x: Any, names: Sequence[str] | None = None) -> Tensor:
    """x as (S, K) float64 on the model's device; a copy of arrays, which may be read-only or run backwards.

    Of a frame the columns with the names of the features are taken.

    Raises:
        ConfigError: for another shape, and as `check_rows`.
    """
    if hasattr(x, "columns") and model.thparams.features is not None:
        names = model.thparams.features
        x = numbers_in(columns_of(x), names, "data")
    numbers = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
    rows = torch.from_numpy(np.array(numbers, dtype=np.float64, order="C"))
    if rows.dim() != 2 or rows.shape[1] != model.num_features:
        raise ConfigError(f"data: expected {model.num_features} features for each point, found shape {tuple(rows.shape)}")
    check_rows(rows, model.thparams.missing, "data", names)
    return rows.to(model.x_mean.device)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (K,) of the columns of (S, K) without their missing values; 1 for a constant column."""
    mean = values.nanmean(dim=0).nan_to_num(0.0)
    deviation = (values - mean).square().nanmean(dim=0).sqrt().nan_to_num(0.0)
    # What is left of a constant by rounding is no deviation.
    constant = deviation <= 1e-12 * mean.abs()
    return mean, torch.where(constant, torch.ones_like(deviation), deviation)


def clusters(model: HilbertSpaceModel, x: Tensor, y: Tensor | None) -> None:
    """Operators with the centres of d clusters of the points (and targets) on their diagonals: the nearest centre is the state.

    Raises:
        ConfigError: for fewer points than clusters.
    """
    from scipy.cluster.vq import kmeans2

    from qsr.hsm.model import CLUSTER_NOISE

    settings = model.thparams
    dimension = settings.dimension
    if len(x) < dimension:
        raise ConfigError(f"hsm.init=kmeans: {len(x)} points make no {dimension} clusters")
    points = model.scaled_inputs(x.to(model.x_mean.device)).detach().double().cpu().nan_to_num(0.0)
    columns = [points]
    if y is not None:
        columns.append(model.target_scale * model.scaled_targets(y.to(model.x_mean.device)).double().cpu())
    data = torch.cat(columns, dim=1).numpy()
    searched = data if settings.full_energy else points.numpy()
    generator = np.random.default_rng(int(torch.randint(2**62, ())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster without points; a point takes its place below
        _, member = kmeans2(searched, dimension, minit="++", rng=generator)
    members = [member == index for index in range(dimension)]
    centres = np.stack([data[own].mean(axis=0) if own.any() else data[index] for index, own in enumerate(members)])
    diagonals = torch.from_numpy(centres).T  # (K + T, d)
    sizes = [model.num_features, len(diagonals) - model.num_features]
    for side, diags in zip(("input", "output"), diagonals.split(sizes), strict=True):
        if len(diags):
            _, noise = random_parameters(len(diags), dimension, settings.complex, CLUSTER_NOISE * dimension**0.5)
            with torch.no_grad():
                getattr(model, f"{side}_diags").copy_(diags)
                getattr(model, f"{side}_trius").copy_(noise)
