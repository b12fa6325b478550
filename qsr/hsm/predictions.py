"""Predictions of a trained model with what comes with them: probabilities, quantum uncertainty, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm.model import HilbertSpaceModel
from qsr.hsm.settings import STANDARDISED
from qsr.hsm.start import feature_rows

PREDICT_BYTES = 256 * 2**20  # for the Hamiltonians of the points that are worked on at once


@dataclass(frozen=True)
class Predictions:
    """Predictions for S points.

    Attributes:
        values: (S, T) in the units of the targets; for classes (S, C) the expectation value of each.
        deviations: (S, T) quantum standard deviations sqrt(<B^2> - <B>^2) in the same units.
        energy: (S,) E_0 of H(x) in units of standardised features, or the free energy of thermal states. Points unlike the
            training data have a high one (not for energy_form=linear).
        probabilities: (S, C), or None where there are no classes.
        labels: (S,) the most probable class, or None.
        classes: names or values of the classes, or None.
    """

    values: NDArray[np.float64]
    deviations: NDArray[np.float64]
    energy: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    labels: NDArray[Any] | None = None
    classes: tuple[Any, ...] | None = None

    def columns(self, targets: Sequence[str]) -> dict[str, NDArray[Any]]:
        """As a table: a target and its `_std`, or the label and `p_` of every class; `energy`.

        The columns that are not targets have hsm_ before their names where a target is called so.

        Args:
            targets: names of the T targets, or of the label.
        """
        found: dict[str, NDArray[Any]] = {}
        further: list[tuple[str, NDArray[Any]]] = []
        if self.labels is not None and self.probabilities is not None:
            found[targets[0]] = self.labels
            further += [(f"p_{class_name(name)}", self.probabilities[:, index]) for index, name in enumerate(self.classes or ())]
        else:
            for index, name in enumerate(targets):
                found[name] = self.values[:, index]
                further.append((f"{name}_std", self.deviations[:, index]))
                if self.probabilities is not None:
                    further.append((f"p_{name}", self.probabilities[:, index]))
        for name, values in [*further, ("energy", self.energy)]:
            while name in found:
                name = f"hsm_{name}"  # a target may be called energy
            found[name] = values
        return found


def class_name(value: str | float) -> str:
    """A class as columns name it; whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def predict(model: HilbertSpaceModel, x: Any, names: Sequence[str] | None = None) -> Predictions:
    """Predictions for features x (S, K), in chunks that fit a fixed memory.

    Args:
        names: of the features, for error messages.

    Raises:
        ConfigError: for another number of features, for missing ones (without `missing=drop_terms`) and infinite ones, and
            for a model without targets.
    """
    if not model.num_outputs:
        raise ConfigError(f"hsm.hsm_model={model.thparams.hsm_model}: has no targets to predict; see qsr hsm geometry")
    features = feature_rows(model, x, names)
    rows = max(1, PREDICT_BYTES // model.memory_bytes)
    parts = [_chunk(model, chunk) for chunk in features.split(rows)]
    values, deviations, energy = (torch.cat(column).double().cpu() for column in zip(*parts, strict=True))
    settings = model.thparams
    one_class_each = settings.classes is not None or settings.loss.of_classes
    if not one_class_each:
        return Predictions(values.numpy(), deviations.numpy(), energy.numpy())
    probabilities = class_probabilities(model, values).numpy()
    classes = settings.classes
    labels = None if classes is None else np.array(classes)[probabilities.argmax(axis=1)]
    return Predictions(values.numpy(), deviations.numpy(), energy.numpy(), probabilities, labels, classes)


def class_probabilities(model: HilbertSpaceModel, values: Tensor) -> Tensor:
    """(S, C) from expectation values (S, C), the largest for the largest of them: softmax where the loss is made of that.

    For values that are trained to be 0 or 1 (fullenergy, losses of differences): shares of what is positive, if anything is.
    """
    softmax = values.softmax(dim=1)
    if not (model.thparams.full_energy or model.thparams.loss.name in STANDARDISED):
        return softmax
    positive = values.clamp_min(0.0)
    total = positive.sum(dim=1, keepdim=True)
    return torch.where(total > 0, positive / total.clamp_min(torch.finfo(total.dtype).tiny), softmax)


@torch.no_grad()
def _chunk(model: HilbertSpaceModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    settings = model.thparams
    points = model.scaled_inputs(x)
    found = model.measured(points)
    refined = settings.predict_mode == "self_consistent"
    expectations = model.predicted(points).double() if refined else found.expectations.double() / model.target_scale
    deviations = found.variances.double().sqrt() / model.target_scale
    if settings.classes is None:
        expectations, deviations = expectations * model.y_scale + model.y_mean, deviations * model.y_scale
    return expectations, deviations, found.energy
