"""`qsr scan`: the phase diagram of a network that was trained over ranges."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.hparams import parse_grid

from .commands import terminal
from .points import FLAG, PointCommand, point_option
from .showing import show


@click.command(cls=PointCommand, short_help="The phase diagram of a model that was trained over ranges.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("samples", type=int, default=1024)
@click.argument("batch", type=int, default=256)
@point_option("The points: first:last:count, or a number, of each range.", "name=first:last:count ...", required=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; default RUN.")
def scan(run: Path, samples: int, batch: int, point: tuple[str, ...], seed: int, device: str, output: Path | None) -> None:
    """Draw SAMPLES configurations from RUN, in batches of BATCH, at each point of a grid over the ranges it was trained for.

    Prints energy per site, density and order parameters with errors, up to 16 sites beside the exact energies. Writes scan.csv,
    and scan.png if one or two parameters vary, into RUN.

    Example: qsr scan RUN 2048 --rydberg delta=0:3:31
    """
    grid = parse_grid([FLAG, *point])
    with terminal() as bar:
        found = jobs.scan(run, grid, samples, batch, seed=seed, device=device, output=output, write=True, progress=bar)
    show(*found.lines())
    show(f"written: {output or run}/{', '.join(found.written)}")
