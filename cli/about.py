"""`qsr info`, `qsr compare` and `qsr report`: what there is to say of runs."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.hparams import imports_allowed

from .showing import show

_DEVICE = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any."
)
_SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
_BATCH = click.option("--batch", type=int, default=256, show_default=True, help="Samples drawn at once.")


@click.command(short_help="What a run is, and how far it got.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--allow-import", multiple=True, metavar="MODULE", help="Trust a module of your own that the run's settings name.")
def info(run: Path, allow_import: tuple[str, ...]) -> None:
    """Problem, model, progress, last energy, versions and the next commands of RUN, without sampling."""
    with imports_allowed(allow_import):
        show(*jobs.info(run).lines())


@click.command(short_help="Several samplers side by side.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--samples", type=int, default=2048, show_default=True, help="Fresh samples of each run.")
@_BATCH
@_SEED
@_DEVICE
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="PNG", default=jobs.COMPARISON, show_default=True, help="The picture."
)
def compare(runs: tuple[Path, ...], samples: int, batch: int, seed: int, device: str, output: Path) -> None:
    """Energies per site of RUNS from fresh samples, beside the exact one where the lattice is small; and a picture.

    Example: qsr compare runs/rydberg/16-B=512-K=512/0 runs/rydberg/16-B=512-K=512/1
    """
    found = jobs.compare(runs, samples, batch, seed=seed, device=device, output=output)
    show(*found.lines(), f"written: {output}")


@click.command(short_help="A run as one HTML page.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", type=int, default=4096, show_default=True, help="Fresh samples.")
@_BATCH
@_SEED
@_DEVICE
@click.option("--output", type=click.Path(path_type=Path), metavar="HTML", help="Where the page goes; default RUN/report.html.")
def report(run: Path, samples: int, batch: int, seed: int, device: str, output: Path | None) -> None:
    """Settings, energies and observables with error bars, references and pictures of RUN, in one file to pass on."""
    show(f"written: {jobs.report(run, samples, batch, seed=seed, device=device, output=output)}")
