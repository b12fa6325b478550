"""`qsr snapshots`: files of labelled configurations, to train and to test models on."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.hparams import parse_scan
from qsr.jobs.snapshots import Shots

from .commands import SECTION_WORDS, terminal


@click.group("snapshots", short_help="Files of labelled snapshots of ground states.")
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
    click.echo("\n".join([*report.lines(), f"written: {file}, {len(report.snapshots.configs)} snapshots"]))


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
