"""Energies of square Rydberg arrays in Sprague and Czischek, Commun. Phys. 7, 90 (2024), arXiv:2306.03921: a command for each.

`--list` shows the published numbers (energies.csv, with where each was found), references and costs. A command that was
interrupted goes on where it was when it is given again; one that is finished draws its samples again.
"""

import argparse
import csv
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qsr
from qsr.estimators import Estimate
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory
from qsr.training import Interrupted, RunFailed

HERE = Path(__file__).resolve().parent
LATTICES = ("4x4", "8x8", "12x12", "16x16", "24x24", "32x32")
MODELS = ("ptf", "lptf")
REFERENCES = {"qmc": "QMC", "dmrg": "DMRG", "exact": "exact"}
SHORT = "4x4"

# The recipes of the presets, fitted to sizes that have none: an LPTF of 4x4 patches cannot stand on 6x6.
PRESET = {"4x4": "fast-4x4", "8x8": "fast-8x8", "12x12": "fast-16x16", "16x16": "fast-16x16"}
CURRICULUM = {
    ("12x12", "ptf"): "4x4:100,6x6:60,8x8:150,12x12:500",
    ("24x24", "ptf"): "4x4:100,6x6:60,8x8:150,16x16:200,24x24:400",
    ("8x8", "lptf"): "4x4:150,8x8:900",
    ("12x12", "lptf"): "4x4:150,8x8:150,12x12:500",
    ("16x16", "lptf"): "4x4:150,8x8:150,16x16:500",
    ("24x24", "lptf"): "4x4:150,8x8:150,16x16:200,24x24:400",
    ("32x32", "lptf"): "4x4:150,8x8:150,16x16:200,24x24:100,32x32:400",
}
SHORT_TRAINING = {
    "fast": {"curriculum": "4x4:120", "K": 256, "K_final": 512},
    "original": {"steps": 40, "K": 64},
}


@dataclass(frozen=True)
class Published:
    """A number of energies.csv: E/N in units of Omega, as text and as numbers; its error is nan where none was published."""

    text: str
    energy: Estimate
    source: str

    def __str__(self) -> str:
        error = self.energy.error
        return f"{self.text}({error * 10 ** len(self.text.partition('.')[2]):.0f})" if error > 0 else self.text


def published() -> dict[tuple[str, str], Published]:
    """(lattice, what) -> the number; what is ptf, lptf, qmc, dmrg or exact."""
    with (HERE / "energies.csv").open(newline="", encoding="utf-8") as file:
        return {
            (row["lattice"], row["what"]): Published(
                row["energy_per_site"],
                Estimate(float(row["energy_per_site"]), float(row["standard_error"] or "nan")),
                row["source"],
            )
            for row in csv.DictReader(file)
        }


def costs() -> dict[tuple[str, str, str, str], tuple[float, str]]:
    """(lattice, model, route, device) -> hours, and whether and where they were measured, published or estimated from."""
    with (HERE / "costs.csv").open(newline="", encoding="utf-8") as file:
        return {
            (row["lattice"], row["model"], row["route"], row["device"]): (float(row["hours"]), f"{row['status']}: {row['from']}")
            for row in csv.DictReader(file)
        }


def duration(hours: float) -> str:
    """'90 s', '12 min' or '3.2 h'."""
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 and hours % 1 else f"{hours:.0f} h"


def table() -> list[str]:
    """The lines of `--list`."""
    numbers, spent = published(), costs()
    lines = [
        f"{'lattice':<9}{'model':<6}{'published':<15}{'QMC':<15}{'DMRG, exact':<17}{'cost, fast route':<37}original's settings"
    ]
    for lattice in LATTICES:
        best = numbers.get((lattice, "exact")) or numbers.get((lattice, "dmrg"))
        for model in MODELS:
            columns = [
                ", ".join(
                    f"{duration(hours)} {device} ({source.partition(':')[0]})"
                    for (size, name, kind, device), (hours, source) in spent.items()
                    if (size, name, kind) == (lattice, model, route)
                )
                for route in ("fast", "original")
            ]
            words = f"{numbers[lattice, model]!s:<15}{numbers[lattice, 'qmc']!s:<15}{best or ''!s:<17}"
            lines.append(f"{lattice:<9}{model:<6}{words}{columns[0]:<37}{columns[1]}".rstrip())
    return lines


def arguments(lattice: str, model: str, route: str, short: bool = False) -> dict[str, Any]:
    """Arguments of `qsr.train` for V = 7, Omega = delta = 1 on an open square lattice.

    Args:
        lattice: one of `LATTICES`; with `short` 4x4 is taken.
        model: ptf or lptf.
        route: fast (our preset of the size) or original (preset nnqsr, 12000 steps of 256 samples with all flips).
        short: some seconds of the same on 4x4, where an LPTF has patches of 4x2.
    """
    lattice = SHORT if short else lattice
    size = int(lattice.partition("x")[0])
    network: dict[str, Any] = {} if route == "original" else {"Nh": 16, "nhead": 2, "dim_feedforward": 32}
    section: dict[str, Any] = {"type": "ptf", "patch": "2x2"}
    if model == "lptf":  # a mapping: as an object it would fix the width of the GRU before the preset is known
        section = {
            "type": "lptf",
            "patch": "4x2" if size == 4 else "4x4",
            "subsampler": {"type": "rnn", "patch": "2x2"},
            **network,
        }
    if route == "original":
        train: dict[str, Any] = {"flips": "exact", **({"Q": 2, "K": 128} if size == 32 else {})}
        preset = "nnqsr"
    else:
        curriculum = CURRICULUM.get((lattice, model))
        train = {} if curriculum is None else {"curriculum": curriculum}
        preset = PRESET.get(lattice, "fast-32x32")
    if short:
        train.update(SHORT_TRAINING[route])
    return {
        "hamiltonian": qsr.Rydberg(Lx=size, Ly=size, V=7, Omega=1, delta=1),
        "model": section,
        "train": train,
        "preset": preset,
    }


def trained(chosen: dict[str, Any], folder: Path, progress: bool = False) -> qsr.Run:
    """The run in `folder`: begun there, gone on with, or finished before."""
    found = sorted(folder.glob("rydberg/*/*/settings.json"))
    if found:
        return qsr.resume(found[0].parent, progress=progress)
    return qsr.train(**{**chosen, "train": {**chosen["train"], "dir": str(folder)}}, progress=progress)


def difference(ours: Estimate, other: Published) -> str:
    """'ours - other' with its error and in standard errors, those of the sampling on both sides."""
    known = 0.0 if math.isnan(other.energy.error) else other.energy.error
    apart = Estimate(ours.mean - other.energy.mean, math.hypot(ours.error, known))
    return f"ours - this = {apart.mean:+.1e}, {apart.mean / apart.error:+.1f} sigma"


def main(
    lattice: str, model: str, route: str = "fast", short: bool = False, samples: int = 4096, directory: str = "runs/paper"
) -> qsr.Evaluation:
    """Train or go on, evaluate with fresh samples and exact flips, and print the result beside what is known."""
    name = f"{lattice}-{model}-{route}{'-short' if short else ''}"
    run = trained(arguments(lattice, model, route, short), Path(directory) / name, sys.stderr.isatty())
    assert run.path is not None
    found = qsr.evaluate(run, samples, 256 if run.settings.train.L <= 256 else 32, write=True)
    lattice = SHORT if short else lattice
    numbers = published()
    history = RunDirectory.open(run.path).history.read("steps")
    ours = found.energy_per_site
    print(f"{lattice} {model.upper()} {run.settings.model.patch}, {route} route: {run.path}")
    print(f"trained      {len(history['step'])} steps in {history['seconds'].sum():.0f} s")
    print(f"ours         {ours!s:<14} {samples} fresh samples; V-score {found.v_score:.1e}")
    for what, title in {model: "published", **REFERENCES}.items():
        if (lattice, what) in numbers:
            number = numbers[lattice, what]
            print(f"{title:<12} {number!s:<14} {difference(ours, number)}; {number.source}")
    return found


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("lattice", nargs="?", choices=LATTICES)
    made.add_argument("model", nargs="?", choices=MODELS)
    made.add_argument("--list", action="store_true", help="published numbers, references and costs")
    made.add_argument("--original", action="store_true", help="the paper's settings: preset nnqsr, 12000 steps, all flips")
    made.add_argument("--short", action="store_true", help="some seconds of the same route on 4x4")
    made.add_argument("--samples", type=int, default=4096, help="fresh samples for the energy (the paper: 1024)")
    made.add_argument("--dir", default="runs/paper", help="where the runs go")
    return made


def command(words: list[str]) -> int:
    """What the command line asks for; its exit status."""
    options = parser().parse_args(words)
    if options.list:
        print("\n".join([*table(), f"sources: {HERE / 'energies.csv'}, {HERE / 'costs.csv'}"]))
        return 0
    if options.model is None:
        parser().error("say which number: a lattice and a model, such as 16x16 ptf (--list shows all)")
    if options.samples < 2:
        parser().error(f"--samples {options.samples}: must be at least 2 (an error bar needs them)")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    route = "original" if options.original else "fast"
    try:
        main(options.lattice, options.model, route, options.short, options.samples, options.dir)
    except (ConfigError, RunFailed) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except Interrupted as stop:
        print("everything is saved; the same command goes on", file=sys.stderr)
        return 128 + stop.signum
    return 0


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
