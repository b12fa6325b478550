"""`qsr snapshots`: files of configurations, drawn or measured, to train and to test models on."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.hparams import parse_scan
from qsr.jobs.snapshots import Shots

from .commands import SECTION_WORDS, terminal
from .showing import show


@click.group("snapshots", short_help="Files of snapshots: drawn, imported, exported.")
def snapshots() -> None:
    """Work on snapshot files, which every --data reads."""


@click.pass_context
def _make(context: click.Context, file: Path, words: tuple[str, ...], device: str, **drawing: str | None) -> None:
    """Draw snapshots of ground states into FILE: of exact ones, or those of trained runs.

    A number of the Hamiltonian may be a list with ranges first:last:step, and each of its values is a state:

    \b
        qsr snapshots make phases.h5 --rydberg Lx=4 Ly=4 delta=0.5:1.25:0.25,2.25:3:0.25 --labels 'delta>1.75'

    Runs of samplers are named in their place:

    \b
        qsr snapshots make phases.h5 runs/rydberg/16-B=512-K=512/0 runs/rydberg/16-B=512-K=512/1 --labels 'delta>1.75'
    """
    settings = Shots.parse_text({name: text for name, text in drawing.items() if text is not None})
    exact = any(word.startswith("--") for word in words)
    states = parse_scan(words) if exact else words
    with terminal():
        report = jobs.make_snapshots(states, file, device=device, **settings)
    show(*report.lines(), f"written: {file}, {len(report.snapshots.configs)} snapshots")


_OF_SHOTS = [
    click.Option(
        [f"--{name}"],
        metavar="TEXT" if field.annotation not in (int, float) else "NUMBER",
        help=f"{field.description}{'' if field.default is None else f'  [default: {field.default}]'}",
    )
    for name, field in Shots.model_fields.items()
]
make = click.Command(
    "make",
    callback=_make,
    help=_make.__doc__,
    short_help="Draw, read out and label snapshots.",
    context_settings=SECTION_WORDS,
    params=[
        click.Argument(["file"], type=click.Path(path_type=Path)),
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="RUN ... | --rydberg name=values ..."),
        *_OF_SHOTS,
        click.Option(["--device"], default="auto", show_default=True, help="Where trained samplers draw."),
    ],
)
snapshots.add_command(make)


@snapshots.command("import", short_help="Measured configurations from other programs' files.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--positions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="x and y of the sites: text, npy, json, as --rydberg takes.",
)
@click.option("--lattice", metavar="LxxLy", help="The sites are this square lattice; with positions, in any order.")
def import_(source: Path, file: Path, positions: Path | None, lattice: str | None) -> None:
    """Write the configurations of SOURCE into the snapshot file OUT.

    SOURCE: csv, tsv or txt (bit strings, alone or with counts, or a column of 0 and 1 for each site), npy, npz or nc
    (configs), json (counts of Pulser, a list of bit strings, results of Braket or Bloqade, in which lost atoms were excited).

    Example: qsr snapshots import counts.json measured.h5 --positions register.json --lattice 3x2
    """
    report = jobs.import_snapshots(source, file, positions=positions, lattice=lattice)
    show(*report.lines(), f"written: {file}")


@snapshots.command("export", short_help="Snapshots as arrays or a table.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
def export(file: Path, target: Path) -> None:
    """Write the snapshots of FILE, with all that is known of them, to OUT: npz, csv or nc (netCDF, for xarray).

    Example: qsr snapshots export runs/rydberg/16-B=512-K=512/0/samples.h5 samples.npz
    """
    count = jobs.export_snapshots(file, target)
    show(f"written: {target}, {count} snapshots")
