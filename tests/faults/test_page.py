"""The lines of docs/nothing_lost.md, the second time too: nothing is run again."""

from pathlib import Path

from tests.commands import run_line
from tests.pages import Page


def test_the_page(tmp_path: Path) -> None:
    page = Page("nothing_lost.md")
    said = page.run_commands(tmp_path)
    assert "finished" in said[page.commands[1]]
    again = run_line(page.commands[0], tmp_path)
    assert again.returncode == 0 and "has ended" in again.stderr and "done: " in again.stdout
    assert [path.name for path in (tmp_path / "runs" / "rydberg" / "6-B=64-K=64").iterdir()] == ["0"]
