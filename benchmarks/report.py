"""What every benchmark prints and keeps: the machine, times of things that take turns, tables, and results as JSON.

`plot.py` draws one picture from the JSON files of `results/`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qsr.runs.files import write_atomically

RESULTS = Path(__file__).with_name("results")
DATA = Path(__file__).parents[1] / "tests" / "data" / "rydberg.json"

# E/N of the V=7, Omega=delta=1 open array by the original NN-QSR's longest runs, where there is no DMRG: energies of
# variational states, which a better state may undercut.
ORIGINALS = {12: -0.388919, 16: -0.380765, 32: -0.368911}


# ---- the machine -----------------------------------------------------------------------------------------------------


def processor() -> str:
    """Name of the processor."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the numbers of this process were measured on."""
    return {
        "processor": f"{processor()} ({platform.machine()})",
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def header() -> str:
    """The machine in one line."""
    found = machine()
    return f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, torch {found['torch']}, {found['date']}"


def limit_threads(threads: int) -> None:
    """Let this process and its children use `threads` cores (where the system can), and torch as many threads."""
    threads = min(threads, os.cpu_count() or 1)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        # Also for jax, which starts a thread on every core that it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


# ---- times -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated work."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"

    def to_json(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}


def turns(names: Sequence[str], repeats: int) -> Iterator[str]:
    """Every name `repeats` times, forwards and backwards in turn: drifts of the machine hit all of them alike."""
    for repeat in range(repeats):
        yield from names if repeat % 2 == 0 else reversed(names)


def in_turns(works: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, Timing]:
    """Times of pieces of work that take turns, after `warm_up` untimed calls of each."""
    for work in works.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name in turns(list(works), repeats):
        started = time.perf_counter()
        works[name]()
        seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


# ---- tables and files ------------------------------------------------------------------------------------------------


class Table:
    """Columns of text, printed line by line as the rows are found.

    Args:
        columns: title -> width; the first column is set flush left, the others flush right.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        self.widths = list(columns.values())
        self.row(*columns)

    def row(self, *cells: object) -> None:
        """Print one line; floats with three digits, None as a dash, and two spaces between columns at least."""
        texts = [self.text(cell) for cell in cells]
        pairs = [(text, width) for text, width in zip(texts, self.widths, strict=False)]
        first, rest = pairs[0], pairs[1:]
        print(f"{first[0]:<{first[1]}}" + "".join(f" {text:>{width - 1}}" for text, width in rest), flush=True)

    @staticmethod
    def text(cell: object) -> str:
        if cell is None:
            return "-"
        return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def finite(value: Any) -> Any:
    """The same with None in place of numbers that JSON does not have, and lists in place of tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Timing):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def save(name: str, results: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write results/NAME.json, with the machine in it."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps({"machine": machine(), **finite(results)}, indent=1) + "\n")
    return path


def load(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """What `save` wrote; None if there is nothing."""
    path = (folder or RESULTS) / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def arguments(description: str | None, threads: int = 2) -> argparse.ArgumentParser:
    """A parser with what all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=threads, help=f"threads and cores (default {threads})")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: the shape of the table in seconds")
    return parser


# ---- references ------------------------------------------------------------------------------------------------------


def reference(size: int) -> tuple[float, bool]:
    """E/N of the size x size open Rydberg array with V=7, Omega=delta=1, and whether it is exact (diagonalisation, DMRG).

    Raises:
        KeyError: for a size of which none is known.
    """
    for record in json.loads(DATA.read_text()):
        same = record["model"] == "rydberg" and (record["Lx"], record["Ly"], record["boundary"]) == (size, size, "open")
        if same and (record["params"]["V"], record["params"]["delta"]) == (7, 1):
            return record["energy"] / size**2, True
    return ORIGINALS[size], False
