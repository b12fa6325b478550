"""Pages of the documentation as tests: their commands and snippets, run in their order as they stand."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """A page of docs/.

    Attributes:
        commands: lines of its shell blocks.
        snippets: its blocks of Python.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        self.commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
        self.snippets = [block for kind, block in blocks if kind == "python"]

    def run_commands(self, folder: Path) -> dict[str, str]:
        """What each command printed; all must succeed."""
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
