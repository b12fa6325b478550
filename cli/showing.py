"""What the commands print: text of files among it, without its control characters."""

from __future__ import annotations

import click

from qsr.hparams.base import printable


def show(*lines: str, err: bool = False) -> None:
    """Print lines; each is one line on the terminal, whatever a run's settings or a file's columns put into it."""
    click.echo("\n".join(map(printable, lines)), err=err)
