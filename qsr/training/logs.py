"""The log of a run, as its output.txt has it, and who writes to its directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from qsr.runs import RunDirectory
from qsr.runs.files import reason
from qsr.training.protocols import RunFailed
from qsr.training.trainer import Interrupted


@contextmanager
def locked(directory: RunDirectory | None) -> Iterator[None]:
    """Be the only writer of a run, if there is a directory (see `RunDirectory.lock`).

    Raises:
        RunFailed: if its files cannot be written (any longer); says how to go on.
    """
    if directory is None:
        yield
        return
    with directory.lock():
        try:
            yield
        except OSError as error:
            said = f"{error.filename or directory.path}: {reason(error)}"
            if not directory.exists():
                raise RunFailed(
                    f"{said}; there is no run at {directory.path} (if it was moved, --resume goes on where it is)"
                ) from error
            raise RunFailed(
                f"{said}; when that is mended, qsr train --resume {directory.path} goes on from the last checkpoint"
            ) from error


@contextmanager
def logged(directory: RunDirectory | None, level: int | str = logging.INFO) -> Iterator[None]:
    """Copy the package's log, from this level on, into the run's output.txt."""
    if directory is None:
        yield
        return
    package = logging.getLogger("qsr")
    handler = directory.log_handler()
    before = package.level
    handler.setLevel(level)
    package.addHandler(handler)
    # The package must let through what this file is to have; whoever else listens has a level of their own.
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO, handler.level))
    try:
        yield
    except (RunFailed, Interrupted) as error:  # the terminal shows this, too, but not through the log
        handler.handle(logging.makeLogRecord({"msg": f"stopped: {error}", "levelno": logging.ERROR}))
        raise
    finally:
        package.setLevel(before)
        package.removeHandler(handler)
        handler.close()
