"""Puts what `qsr COMMAND --help` prints into the pages, where they say `<!-- qsr COMMAND --help -->`."""

from __future__ import annotations

import re
from typing import Any

from click.testing import CliRunner

from qsr.cli.main import qsr


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return re.sub(r"<!-- qsr (.+?) -->", lambda found: _help(found[1].split()), markdown)


def _help(words: list[str]) -> str:
    shown = CliRunner().invoke(qsr, words, prog_name="qsr", catch_exceptions=False, terminal_width=100)
    if shown.exit_code:
        raise RuntimeError(f"qsr {' '.join(words)}: {shown.output}")
    return f"```text\n{shown.output.rstrip()}\n```"
