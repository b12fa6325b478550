"""Pages of the documentation as tests: their commands and snippets, run in their order as they stand."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from qsr.cli.main import qsr

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """A page of docs/.

    Attributes:
        commands: lines of its shell blocks.
        files: its blocks whose first line is a comment with the name of a file, by that name.
        snippets: its other blocks of Python.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        self.commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
        named = [(re.match(r"# (\w+\.(?:py|yaml|txt))\n", block), kind, block) for kind, block in blocks]
        self.files = {found[1]: block for found, _, block in named if found}
        self.snippets = [block for found, kind, block in named if kind == "python" and not found]

    def write_files(self, folder: Path) -> None:
        """Put the page's files into a folder."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")

    def call_commands(self) -> dict[str, str]:
        """What each line of `qsr` printed, called in this process and in the working directory; all must succeed."""
        said = {}
        for line in self.commands:
            program, *words = shlex.split(line, comments=True)
            assert program == "qsr", line
            result = CliRunner().invoke(qsr, words, prog_name="qsr", catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            said[line] = result.stdout
        return said

    def run_commands(self, folder: Path) -> dict[str, str]:
        """What each command printed, in a folder with the page's files; all must succeed."""
        self.write_files(folder)
        said = {}
        for line in self.commands:
            program, *words = shlex.split(line, comments=True)
            assert program in ("qsr", "python"), line
            start = [sys.executable, *(["-m", "qsr"] if program == "qsr" else [])]
            result = subprocess.run([*start, *words], cwd=folder, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{line}\n{result.stderr}"
            said[line] = result.stdout
        return said

    def run_snippets(self) -> tuple[dict[str, object], list[str]]:
        """The names that the snippets leave, one after the other in one module, and the lines that they print."""
        names: dict[str, object] = {"__name__": "page"}
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            for text in self.snippets:
                exec(compile(text, self.name, "exec"), names)
        return names, output.getvalue().splitlines()
