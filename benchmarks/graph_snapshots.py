"""Graph networks on snapshots of exact ground states, beside the best that any model can do.

V=7, Omega=1, open boundaries. The network of `--graph` learns from some thousand snapshots and is asked about fresh ones; exact
distributions say how often the most probable answer is right (the Bayes accuracy), and what the least mean squared error is. A
row must reach its threshold and must not be better than that limit by more than three standard errors, or the exit status is 1.
Where the labels of all snapshots are permuted, half of the answers are right, whatever was learned. The last row reads snapshots
of a patched transformer, trained here at two detunings, with the network of the third: its class probabilities must be those of
exact snapshots within 0.03. About 5 minutes on one core; --quick only 3x3.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import report

import qsr
from qsr.estimators import least_squared_error, state_probabilities
from qsr.jobs import make_snapshots, predict_table
from qsr.snapshots import read_snapshots, write_snapshots

FRESH = 12000  # snapshots that the network is asked about
SIGMA = 3  # standard errors by which a limit may be exceeded
GRID = tuple(np.arange(-0.5, 3.01, 0.25).tolist())
EASY = (0.5, 0.75, 1.0, 1.25, 2.25, 2.5, 2.75, 3.0)
CLOSE = (1.25, 1.5, 1.75, 2.0, 2.25, 2.5)
SAMPLED = (1.0, 2.5)  # detunings of the transformers
TOLERANCE = 0.03


@dataclass(frozen=True)
class Row:
    """What is asked.

    Attributes:
        deltas: detunings of the states.
        rule: of the labels; None: the detuning itself is asked for.
        threshold: accuracy, or mean squared error in units of the least one.
        snapshots: to learn from, with those that validate.
        permuted: whether all labels are permuted, also of the fresh snapshots.
    """

    name: str
    shape: tuple[int, int]
    deltas: tuple[float, ...]
    rule: str | None
    threshold: float
    snapshots: int = 7200
    epochs: int = 8
    permuted: bool = False


SMALL = Row("3x3, two sides", (3, 3), EASY, "delta>1.75", 0.75)
LARGE = Row("4x4, two sides", (4, 4), EASY, "delta>1.75", 0.912)
ROWS = (
    SMALL,
    replace(SMALL, name="3x3, permuted labels", threshold=0.5, permuted=True),
    LARGE,
    replace(LARGE, name="4x4, permuted labels", threshold=0.5, permuted=True),
    Row("4x4, close to the crossover", (4, 4), CLOSE, "delta>1.9", 0.755),
    Row("4x4, detuning", (4, 4), GRID, None, 1.25, snapshots=10000, epochs=10),
)


def states(shape: tuple[int, int], deltas: Sequence[float]) -> list[Any]:
    """Problems at these detunings."""
    return [qsr.Rydberg(Lx=shape[0], Ly=shape[1], V=7, delta=delta) for delta in deltas]


def permute_labels(file: Path, seed: int) -> None:
    """Give every snapshot of a file the label of another one."""
    snapshots = read_snapshots(file)
    labels = np.random.default_rng(seed).permutation(snapshots.columns["labels"])
    write_snapshots(file, replace(snapshots, columns={**snapshots.columns, "labels": labels}))


def trained(row: Row, folder: Path) -> qsr.Run:
    """The network of a row."""
    file = folder / "train.h5"
    make_snapshots(states(row.shape, row.deltas), file, shots=row.snapshots // len(row.deltas), labels=row.rule, seed=0)
    if row.permuted:
        permute_labels(file, seed=0)
    data = {"file": str(file), "split": (0.85, 0.15), "batch_size": 128}
    model = {"type": "graph", "task": "regress" if row.rule is None else "classify"}
    return qsr.fit(model, data, {"max_epochs": row.epochs, "dir": str(folder)})


def measure(row: Row, folder: Path) -> tuple[dict[str, Any], qsr.Run]:
    """Train, and ask about fresh snapshots: a row of the table, and the network."""
    started = time.perf_counter()
    run = trained(row, folder)
    seconds = time.perf_counter() - started
    file, problems = folder / "test.h5", states(row.shape, row.deltas)
    test = make_snapshots(problems, file, shots=FRESH // len(row.deltas), labels=row.rule, seed=1)
    if row.permuted:
        permute_labels(file, seed=1)
    columns, known = predict_table(run, file).columns, read_snapshots(file)
    if row.rule is None:
        of_each = (columns["predicted"] - known.params["delta"]) ** 2
        limit = least_squared_error(state_probabilities([problem.build() for problem in problems]), row.deltas)
    else:
        of_each = (columns["predicted"] == known.columns["labels"]).astype(float)
        limit = 0.5 if row.permuted or test.best_accuracy is None else test.best_accuracy
    found, error = float(of_each.mean()), float(of_each.std() / np.sqrt(len(of_each)))
    result = {
        "name": row.name,
        "found": found,
        "error": error,
        "limit": limit,
        "threshold": row.threshold if row.rule is not None else row.threshold * limit,
        "seconds": seconds,
        "verdict": verdict(row, found, error, limit),
    }
    return result, run


def verdict(row: Row, found: float, error: float, limit: float) -> str:
    """What is wrong with a result; empty if nothing is."""
    if row.permuted:
        return "" if abs(found - limit) <= SIGMA * error else "not chance"
    if row.rule is None:
        return "missed" if found > row.threshold * limit else "too good" if found < limit - SIGMA * error else ""
    return "missed" if found < row.threshold else "too good" if found > limit + SIGMA * error else ""


def sampler_row(run: qsr.Run, folder: Path) -> dict[str, Any]:
    """Mean probability of the ordered side: of snapshots of trained transformers, less that of exact ones."""
    problems = states((4, 4), SAMPLED)
    runs = [qsr.train(problem, train={"dir": str(folder)}, preset="fast-4x4") for problem in problems]
    shots = FRESH // len(problems)
    ordered = []
    for number, source in enumerate((problems, runs)):
        make_snapshots(source, folder / f"{number}.h5", shots=shots, labels="state", seed=2)
        ordered.append(predict_table(run, folder / f"{number}.h5").columns["p_1"].reshape(len(problems), shots).mean(axis=1))
    difference = float(np.abs(ordered[1] - ordered[0]).max())
    return {
        "name": "4x4, snapshots of transformers",
        "exact": ordered[0].tolist(),
        "sampled": ordered[1].tolist(),
        "found": difference,
        "threshold": TOLERANCE,
        "verdict": "" if difference <= TOLERANCE else "missed",
    }


def main(quick: bool, file: str | None, chosen: Callable[[str], bool]) -> int:
    """Print the table; how many rows are not as they should be."""
    print(f"{report.header()}\naccuracy, and mean squared error of the detuning\n")
    printed = report.Table({"": 32, "found": 18, "exact limit": 12, "asked": 8, "s to train": 10})
    rows: list[dict[str, Any]] = []
    readers: dict[str, qsr.Run] = {}
    with tempfile.TemporaryDirectory() as directory:
        for number, row in enumerate(row for row in ROWS if chosen(row.name) and not (quick and row.shape != (3, 3))):
            folder = Path(directory) / str(number)
            folder.mkdir()
            shown, run = measure(row, folder)
            rows.append(shown)
            readers[row.name] = run
            found = f"{shown['found']:.4f} +- {shown['error']:.4f}"
            asked = f"{shown['threshold']:.4f}"
            printed.row(row.name, found, f"{shown['limit']:.4f}", asked, f"{shown['seconds']:.1f}  {shown['verdict']}".rstrip())
        if LARGE.name in readers:
            shown = sampler_row(readers[LARGE.name], Path(directory))
            printed.row(shown["name"], f"{shown['found']:.4f}", None, f"{TOLERANCE:.4f}", shown["verdict"] or None)
            rows.append(shown)
    wrong = sum(bool(shown["verdict"]) for shown in rows)
    print(f"\n{wrong} rows are not as they should be" if wrong else "")
    if file is not None:
        path = Path(file)
        report.save(path.stem, {"quick": quick, "rows": rows}, path.resolve().parent)
    return wrong


if __name__ == "__main__":
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--json", metavar="FILE", help="keep the table and the machine in FILE")
    parser.add_argument("--row", help="rows whose name begins so")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    sys.exit(min(main(options.quick, options.json, lambda name: name.startswith(options.row or "")), 1))
