"""Hilbert-space models on the tables that scikit-learn bundles, beside linear models on the same folds.

StratifiedKFold or KFold(5, shuffle, random_state 0); AdamW(0.02) with a cosine (and a weight decay of 1 for numbers), gradients
clipped at 1, batches of 64, 60 epochs where the row says nothing else: the defaults of the estimators. The linear model is
LogisticRegression or Ridge behind a StandardScaler. Rows with a threshold must reach it, or the exit status is 1. About
5 minutes on one core; --quick one fold of each, without verdicts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import report
from sklearn import datasets
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from qsr.hsm import HSMClassifier, HSMRegressor

FOLDS = 5
SEEDS = 5
TRUTH_TABLE = (np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array([1.0, -1, -1, 1]))  # z = x y

PAULI_42 = {"qubits_count": 4, "input_operator_pauli_weight": 2, "output_operator_pauli_weight": 2}
PAULI_53 = {"qubits_count": 5, "input_operator_pauli_weight": 3, "output_operator_pauli_weight": 3}
PAULI = {"hsm_model": "pauli_fullenergy", "method": "analytic"}
ENERGY = {"hsm_model": "general_fullenergy"}


@dataclass(frozen=True)
class Row:
    """A model on a data set.

    Attributes:
        data: as scikit-learn calls it.
        name: of the row.
        settings: of the estimator.
        threshold: mean score that is asked for, if one is.
        folds: how many of the five.
    """

    data: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    folds: int = FOLDS


ROWS = (
    Row("breast_cancer", "d=8", {}, 0.95),
    Row("breast_cancer", "d=4", {"hilbert_space_dims": 4}),
    Row("breast_cancer", "d=8, real", {"complex": False}),
    Row("breast_cancer", "d=8, weighted", {"weighted_layer": True}),
    Row("breast_cancer", "d=8, kmeans, 30 epochs", {"init": "kmeans", "max_epochs": 30}),
    Row("breast_cancer", "d=8, energy", ENERGY),
    Row("breast_cancer", "d=8, energy, analytic, 40", {**ENERGY, "method": "analytic", "max_epochs": 40}),
    Row("breast_cancer", "Pauli (4,2), analytic, 12", {**PAULI, "max_epochs": 12, "target_scale": 4, **PAULI_42}),
    Row("wine", "d=8", {}, 0.94),
    Row("iris", "d=4, 100 epochs", {"hilbert_space_dims": 4, "max_epochs": 100}, 0.93),
    Row("digits", "d=16, 25 epochs", {"hilbert_space_dims": 16, "max_epochs": 25}, 0.95, 2),
    Row("digits", "d=16, energy", {**ENERGY, "hilbert_space_dims": 16}, None, 1),
    Row("digits", "Pauli (5,3), analytic, 12", {**PAULI, "max_epochs": 12, **PAULI_53}, None, 1),
    Row("diabetes", "d=4", {"hilbert_space_dims": 4}, 0.38),
    Row("diabetes", "d=4, weight decay 0.01", {"hilbert_space_dims": 4, "optimizer": "AdamW"}),
    Row("diabetes", "d=8", {"hilbert_space_dims": 8}),
    Row("diabetes", "d=8, energy", {**ENERGY, "hilbert_space_dims": 8}),
)


@cache
def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (S, K) and targets (S,)."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, y


def folds(name: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows."""
    splitter = (KFold if name == "diabetes" else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
    parts = splitter.split(*table(name))
    return (next(parts) for _ in range(count))


def scores(estimator: Any, name: str, count: int) -> tuple[list[float], list[float]]:
    """Score on the test data of each fold, and seconds of each fit."""
    x, y = table(name)
    found, seconds = [], []
    for train, test in folds(name, count):
        started = time.perf_counter()
        fitted = clone(estimator).fit(x[train], y[train])
        seconds.append(time.perf_counter() - started)
        found.append(float(fitted.score(x[test], y[test])))
    return found, seconds


@cache
def baseline(name: str, count: int) -> float:
    """Mean score of the linear model."""
    linear = Ridge() if name == "diabetes" else LogisticRegression(max_iter=5000)
    return statistics.mean(scores(make_pipeline(StandardScaler(), linear), name, count)[0])


def truth_table(dimension: int, seeds: int) -> tuple[int, float, float]:
    """Of so many seeds, how many learn z = x y: all four signs right; largest error among those; mean seconds."""
    x, y = TRUTH_TABLE
    errors, started = [], time.perf_counter()
    for seed in range(seeds):
        model = HSMRegressor(hilbert_space_dims=dimension, max_epochs=400, random_state=seed).fit(x, y)
        errors.append(float(np.abs(model.predict(x) - y).max()))
    solved = [error for error in errors if error < 1]
    return len(solved), max(solved, default=float("nan")), (time.perf_counter() - started) / seeds


def measure(row: Row, quick: bool) -> dict[str, Any]:
    """A row of the table."""
    count = 1 if quick else row.folds
    estimator = (HSMRegressor if row.data == "diabetes" else HSMClassifier)(**row.settings)
    found, seconds = scores(estimator, row.data, count)
    return {
        "data": row.data,
        "name": row.name,
        "scores": found,
        "mean": statistics.mean(found),
        "deviation": statistics.pstdev(found),
        "seconds": statistics.mean(seconds),
        "linear": baseline(row.data, count),
        "threshold": row.threshold,
        "reached": row.threshold is None or statistics.mean(found) >= row.threshold,
    }


def main(quick: bool, file: str | None, chosen: Callable[[str], bool]) -> int:
    """Print the table; the number of thresholds that are missed."""
    print(f"{report.header()}\naccuracy, and R^2 for diabetes: mean and deviation over the folds\n")
    printed = report.Table({"": 40, "score": 16, "linear": 9, "asked": 8, "folds": 7, "s a fit": 9})
    rows = []
    for row in (row for row in ROWS if chosen(row.data)):
        found = measure(row, quick)
        verdict = "" if found["reached"] or quick else "  missed"
        score = f"{found['mean']:.4f} +- {found['deviation']:.4f}"
        title = f"{row.data:<14} {row.name}"
        linear = f"{found['linear']:.4f}"
        printed.row(title, score, linear, row.threshold, len(found["scores"]), f"{found['seconds']:.2f}{verdict}")
        rows.append(found)
    for dimension, wanted in ((4, SEEDS), (2, 0)) if chosen("xy=z") else ():
        solved, error, seconds = truth_table(dimension, SEEDS)
        reached = solved >= wanted
        asked = f"{wanted}/{SEEDS}" if wanted else None
        verdict = "" if reached else "  missed"
        printed.row(f"{'xy=z':<14} d={dimension}", f"{solved}/{SEEDS} seeds", None, asked, None, f"{seconds:.2f}{verdict}")
        rows.append({"data": "xy=z", "name": f"d={dimension}", "solved": solved, "error": error, "reached": reached})
    missed = 0 if quick else sum(not found["reached"] for found in rows)
    print(f"\n{missed} thresholds missed" if missed else "")
    if file is not None:
        path = Path(file)
        report.save(path.stem, {"quick": quick, "rows": rows}, path.resolve().parent)
    return missed


if __name__ == "__main__":
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--json", metavar="FILE", help="keep the table and the machine in FILE")
    parser.add_argument("--data", help="one data set only")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    sys.exit(min(main(options.quick, options.json, lambda name: options.data in (None, name)), 1))
