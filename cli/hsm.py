"""`qsr hsm`: what a trained Hilbert-space model has to say beside its predictions."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.hparams import imports_allowed
from qsr.jobs.geometry import DATA_FILE, MOST_POINTS, PICTURE_FILE

from .commands import terminal
from .showing import show


@click.group("hsm", short_help="More of a trained Hilbert-space model: its matrix geometry.")
def hsm() -> None:
    """Work on a run of `qsr train --hsm`."""


@hsm.command(short_help="Point cloud, quantum metric and intrinsic dimension.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE", help="A table with the run's features; default its own data."
)
@click.option("--points", type=int, default=MOST_POINTS, show_default=True, help="At most so many rows, drawn by the seed.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the rows.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; default RUN.")
@click.option("--allow-import", multiple=True, metavar="MODULE", help="Trust a module of your own that the run's settings name.")
def geometry(
    run: Path, data: Path | None, points: int, seed: int, device: str, output: Path | None, allow_import: tuple[str, ...]
) -> None:
    """The surface that the ground states of RUN lay through its training data, or through FILE.

    Writes geometry.h5 (points, cloud, eigenvalues of the metric, votes, curvature) and geometry.png into RUN.

    Example: qsr hsm geometry runs/hsm/geometry/0
    """
    with imports_allowed(allow_import), terminal():
        found = jobs.hsm_geometry(run, data, points=points, seed=seed, device=device, output=output, write=True)
    show(*found.lines())
    show(f"written: {output or run}/{DATA_FILE}, {PICTURE_FILE}")
