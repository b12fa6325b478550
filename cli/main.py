"""The `qsr` command: its subcommands, and how errors look in a terminal."""

from __future__ import annotations

import sys

import click

from qsr import __version__
from qsr.hparams import ConfigError
from qsr.training import Interrupted, RunFailed

from .about import compare, info, report
from .commands import exact, finetune, load, plot, train, transfer
from .graph import graph
from .hsm import hsm
from .observe import extrapolate, observe
from .snapshots import snapshots

BAD_INPUT, FAILED = 2, 1


@click.group(context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, prog_name="qsr")
def qsr() -> None:
    """Ground states of Rydberg-atom arrays and other spin lattices with autoregressive neural quantum states.

    Settings are written after their section, in NN-QSR's words:

        qsr train --train L=64 K=512 --ptf patch=2x2 --rydberg Lx=8 Ly=8

    `qsr train --help` lists the sections, `qsr train --help --ptf` the settings of one.
    """


_COMMANDS = (train, load, observe, extrapolate, finetune, transfer, exact, plot, info, compare, report, hsm, snapshots, graph)
for _command in _COMMANDS:
    qsr.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 for a failed run, 2 for bad input, 130 or 143 after a signal."""
    try:
        status = qsr.main(args=arguments, prog_name="qsr", standalone_mode=False)
    except ConfigError as error:
        status = _say(str(error), BAD_INPUT)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "qsr --help")
        status = 0
    except click.ClickException as error:
        status = _say(error.format_message(), BAD_INPUT)
    except RunFailed as error:
        status = _say(str(error), FAILED)
    except Interrupted as stop:
        status = 128 + stop.signum
    except (KeyboardInterrupt, click.Abort):
        status = _say("interrupted", 130)
    except OSError as error:
        status = _say(f"{error.filename or 'output'}: {error.strerror or error}", FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _say(message: str, status: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status
