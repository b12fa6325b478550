"""Metrics of predictions: those that are means over samples, and those that are made from several means."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def regression_metrics(predictions: Tensor, targets: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Of standardised predictions and targets (B, T) float64, whose units are `scale` (T,): `mae`, and what `finished` needs."""
    error = predictions - targets
    found = {"mae": (error.abs() * scale).mean(), "_square": (error * scale).square().mean()}
    for index in range(targets.shape[1]):
        column = targets[:, index]
        found |= {f"_error{index}": error[:, index].square().mean()}
        found |= {f"_first{index}": column.mean(), f"_second{index}": column.square().mean()}
    return found


def class_metrics(predicted: Tensor, actual: Tensor, classes: int, detailed: bool = True) -> dict[str, Tensor]:
    """Of the numbers of classes (B,): `accuracy`, and (`detailed`) what `finished` needs for the balanced one."""
    right = (predicted == actual).double()
    if not detailed:
        return {"accuracy": right.mean()}
    count = torch.bincount(actual, minlength=classes).double()
    hits = torch.zeros_like(count).index_add(0, actual, right)
    found = {"accuracy": right.mean()}
    for index in range(classes):
        found |= {f"_count{index}": count[index] / len(actual), f"_hits{index}": hits[index] / len(actual)}
    return found


def finished(means: Mapping[str, float]) -> dict[str, float]:
    """Metrics from means over samples, by their full names; `r2` averages over the targets, as scikit-learn does."""
    result = {name: value for name, value in means.items() if "/_" not in name}
    for phase in dict.fromkeys(name.partition("/")[0] for name in means):
        own = {name.partition("/")[2]: value for name, value in means.items() if name.startswith(f"{phase}/")}
        if "_square" in own:
            result[f"{phase}/rmse"] = math.sqrt(own["_square"])
        indices = [name.removeprefix("_error") for name in own if name.startswith("_error")]
        if indices:
            variances = [own[f"_second{index}"] - own[f"_first{index}"] ** 2 for index in indices]
            result[f"{phase}/r2"] = math.fsum(
                1 - own[f"_error{index}"] / variance if variance > 0 else 0.0
                for index, variance in zip(indices, variances, strict=True)
            ) / len(indices)
        shares = {name.removeprefix("_count"): value for name, value in own.items() if name.startswith("_count") and value > 0}
        if shares:
            recalls = [own[f"_hits{index}"] / share for index, share in shares.items()]
            result[f"{phase}/balanced_accuracy"] = math.fsum(recalls) / len(recalls)
    return result
