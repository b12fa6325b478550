"""What docs/several_processes.md says can be typed, and both of its runs are the same."""

from pathlib import Path

import pytest

from qsr.runs import RunDirectory, same_history
from tests.commands import run_line
from tests.pages import ROOT, Page
from tests.torchrun import torchrun


@pytest.mark.slow
def test_the_page(tmp_path: Path) -> None:
    page = Page("several_processes.md")
    alone, *after = page.commands
    assert run_line(alone, tmp_path).returncode == 0
    text = (ROOT / "docs" / "several_processes.md").read_text(encoding="utf-8")
    together = next(line for line in text.splitlines() if line.startswith("torchrun --standalone"))
    assert together.partition(" -m ")[2] == alone, "the page compares the same settings"
    with torchrun(*together.partition(" -m ")[2].split(), cwd=tmp_path) as started:
        _, errors = started.communicate(timeout=200)
    assert started.returncode == 0, errors
    runs = [RunDirectory(tmp_path / "runs" / "rydberg" / "6-B=128-K=64" / number) for number in "01"]
    assert same_history(*(run.history for run in runs))
    for line in after:
        result = run_line(line, tmp_path)
        assert result.returncode == 0, result.stderr
