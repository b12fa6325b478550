"""The `qsr` command: its subcommands, and how errors look in a terminal."""

from __future__ import annotations

import sys
from itertools import chain

import click

from qsr import __version__
from qsr.hparams import ConfigError
from qsr.training import Interrupted, RunFailed
from qsr.training.distribution import Processes, by_torchrun, leave, speaks
from qsr.training.memory import is_out_of_memory
from qsr.training.protocols import FailedAlone

from .about import compare, info, report
from .commands import exact, finetune, load, plot, train, transfer
from .graph import graph
from .hsm import hsm
from .observe import extrapolate, observe
from .scan import scan
from .snapshots import snapshots

BAD_INPUT, FAILED = 2, 1


# Commands in the order of `qsr --help`, each with a line that can be typed.
GROUPS: dict[str, list[tuple[click.Command, str]]] = {
    "Ground states": [
        (train, "qsr train --preset fast-8x8"),
        (finetune, "qsr finetune RUN --rydberg delta=1.2"),
        (transfer, "qsr transfer RUN --ptf patch=2x2"),
        (exact, "qsr exact --rydberg Lx=4 Ly=4"),
    ],
    "Results": [
        (load, "qsr load RUN 4096 256"),
        (observe, "qsr observe RUN 4096"),
        (scan, "qsr scan RUN --rydberg delta=0:3:31"),
        (extrapolate, "qsr extrapolate RUN RUN"),
        (info, "qsr info RUN"),
        (plot, "qsr plot RUN"),
        (compare, "qsr compare RUN RUN"),
        (report, "qsr report RUN"),
    ],
    "Data, and models on data": [
        (snapshots, "qsr snapshots make s.h5 --rydberg Lx=4 Ly=4 delta=0:3:0.5"),
        (graph, "qsr graph train config.yaml"),
        (hsm, "qsr hsm geometry RUN"),
    ],
}


class Grouped(click.Group):
    """A group whose help has its commands by topic, with an example of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the topics."""
        for title, commands in GROUPS.items():
            with formatter.section(title):
                for command, line in commands:  # a line each; write_dl would fold them into one
                    formatter.write(f"  {command.name:<13}{command.get_short_help_str(80)}\n{'':15}{line}\n")


@click.group(cls=Grouped, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, prog_name="qsr")
def qsr() -> None:
    """Ground states of Rydberg-atom arrays and other spin lattices with autoregressive neural quantum states.

    Settings are written after their section, in NN-QSR's words:

        qsr train --train L=64 K=512 --ptf patch=2x2 --rydberg Lx=8 Ly=8

    `qsr train --help` lists the sections, `qsr train --help --ptf` the settings of one.
    """


for _command, _ in chain.from_iterable(GROUPS.values()):
    qsr.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    The status is 0, 1 for a failed run, 2 for bad input, 75 after `train.max_time`, and 128 and its number after a signal.
    """
    try:
        status = qsr.main(args=arguments, prog_name="qsr", standalone_mode=False)
        leave()
    except ConfigError as error:
        status = _say(str(error), BAD_INPUT)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "qsr --help")
        status = 0
    except click.ClickException as error:
        status = _say(error.format_message(), BAD_INPUT)
    except RunFailed as error:  # most often all processes fail together, for the reason that the first one gives
        alone = isinstance(error, FailedAlone)
        status = _say(str(error), FAILED) if alone or Processes.expected().first else FAILED
    except Interrupted as stop:
        # torchrun would start the processes again, and has no way to pass a status on.
        status = 0 if stop.signum is None and by_torchrun() else stop.status
    except (KeyboardInterrupt, click.Abort):
        status = _say("interrupted", 130)
    except OSError as error:
        status = _say(f"{error.filename or 'output'}: {error.strerror or error}", FAILED)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status = _say("out of memory; a smaller train.memory_MiB, K or BATCH takes less", FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _say(message: str, status: int) -> int:
    if speaks():
        rank = Processes.expected().rank
        click.echo(f"Error: {f'process {rank}: ' if rank else ''}{' '.join(message.split())}", err=True)
    return status
