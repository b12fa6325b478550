"""Scores of predictions against targets, by the names that a configuration calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def accuracy(y_true: Array, y_pred: Array) -> float:
    """Share of labels that are right."""
    return float(np.mean(y_true == y_pred))


def f1(y_true: Array, y_pred: Array) -> float:
    """Mean over the classes of 2 TP / (2 TP + FP + FN); the classes are those among the labels and the predictions."""
    return float(np.mean(_f1_of_classes(y_true, y_pred)[0]))


def f1_weighted(y_true: Array, y_pred: Array) -> float:
    """As `f1`, each class with the number of its labels as its weight."""
    values, counts = _f1_of_classes(y_true, y_pred)
    return float(np.average(values, weights=counts))


def _f1_of_classes(y_true: Array, y_pred: Array) -> tuple[Array, Array]:
    """F1 of each class (C,), and how many labels are of it (C,)."""
    classes = np.union1d(y_true, y_pred)
    of_label, of_prediction = y_true[:, None] == classes, y_pred[:, None] == classes  # (B, C)
    counts = of_label.sum(axis=0)
    # Never 0/0: a class has a label or a prediction.
    return 2 * (of_label & of_prediction).sum(axis=0) / (counts + of_prediction.sum(axis=0)), counts


def mae(y_true: Array, y_pred: Array) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(y_true - y_pred)))


def mse(y_true: Array, y_pred: Array) -> float:
    """Mean squared error."""
    return float(np.mean((y_true - y_pred) ** 2))


def r2(y_true: Array, y_pred: Array) -> float:
    """1 - (squared error) / (squared deviation from the mean), the mean over the targets where there are several.

    For a target that never changes 1 if it is met exactly, else 0.
    """
    true, found = (values.reshape(len(values), -1).astype(np.float64) for values in (y_true, y_pred))
    error = ((true - found) ** 2).sum(axis=0)
    deviation = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    varies = deviation > 0
    ratios = np.divide(error, deviation, out=(error > 0).astype(np.float64), where=varies)
    return float(np.mean(1 - ratios))


Score = Callable[[Array, Array], float]

OF_CLASSES: tuple[Score, ...] = (accuracy, f1, f1_weighted)
OF_VALUES: tuple[Score, ...] = (mae, mse, r2)
SCORES: dict[str, Score] = {function.__name__: function for function in (*OF_CLASSES, *OF_VALUES)}
