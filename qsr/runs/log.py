"""The file that a run's log goes to."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from qsr.hparams import ConfigError
from qsr.hparams.base import printable
from qsr.runs.files import reason


class PlainText(logging.Formatter):
    """Messages as they are, without the control characters that files may have put into them."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with a line for each of its lines."""
        return "\n".join(map(printable, super().format(record).split("\n")))


class LogFile(logging.FileHandler):
    """A log is not worth a run: on a full disk its lines are left out, without the traceback that logging prints."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what is still in the buffer
            super().close()


def log_handler(file: Path) -> logging.Handler:
    """A handler that appends messages to a file; the caller closes it.

    Raises:
        ConfigError: if the file cannot be written.
    """
    try:
        handler = LogFile(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({reason(error)})") from None
    handler.setFormatter(PlainText("%(message)s"))
    return handler
