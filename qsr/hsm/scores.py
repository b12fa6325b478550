"""What a model is scored by: its loss on predictions, and the metrics of predictions and states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm.metrics import class_metrics, regression_metrics
from qsr.hsm.states import States

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel

COUNTED_CLASSES = 32  # metrics of more classes one by one take longer than a training step


def state_metrics(model: HilbertSpaceModel, states: States) -> dict[str, Tensor]:
    """Mean gap above the ground level, share of points where it is degenerate, and for thermal states its mean weight."""
    found = {"gap": states.gap.mean(), "degenerate_fraction": states.degenerate().double().mean()}
    return found if model.thparams.beta is None else {**found, "ground_share": states.weights[:, 0].mean()}


def loss_of(model: HilbertSpaceModel, predictions: Tensor, y: Tensor) -> Tensor:
    """The loss of expectation values (B, T) (for GaussianNLLLoss (B, 2T), also those of B_t^2) on targets as they come.

    Raises:
        ConfigError: for arguments and targets that torch's loss refuses.
    """
    settings = model.thparams
    name = settings.loss.name
    if settings.classes is not None and settings.loss.of_classes:
        # torch's NLLLoss takes log-probabilities.
        scores = predictions.log_softmax(dim=1) if name == "NLLLoss" else predictions
        return _call(model, scores, model.class_numbers(y))
    targets = model.scaled_targets(y)
    if name == "GaussianNLLLoss":
        mean, second = predictions.split(model.num_outputs, dim=1)
        return _call(model, mean, targets, (second - mean.square()).clamp_min(0.0))
    return _call(model, predictions, targets)


def _call(model: HilbertSpaceModel, *arguments: Tensor) -> Tensor:
    try:
        loss: Tensor = model.loss_function(*arguments)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"loss.name={model.thparams.loss.name}: {' '.join(str(error).split())}") from None
    return loss


def prediction_metrics(model: HilbertSpaceModel, predictions: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Metrics of expectation values (B, T) on targets as they come: of classes, or of numbers in their own units."""
    settings = model.thparams
    predictions = predictions.detach()
    if settings.classes is not None:
        return class_metrics(predictions.argmax(dim=1), model.class_numbers(y), model.num_outputs, _detailed(model))
    if settings.loss.of_classes:  # columns of probabilities
        return class_metrics(predictions.argmax(dim=1), y.argmax(dim=1), model.num_outputs, _detailed(model))
    if settings.loss.name in ("BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"):
        return {"accuracy": ((predictions > 0) == (y.view_as(predictions) > 0.5)).double().mean()}
    targets = model.scaled_targets(y, torch.float64)
    return regression_metrics(predictions.double() - model.y_center, targets - model.y_center, model.y_scale)


def _detailed(model: HilbertSpaceModel) -> bool:
    """Whether single classes are counted."""
    return not model.training or model.num_outputs <= COUNTED_CLASSES
