"""Every command and snippet of docs/symmetries.md runs as it stands, in its order."""

from pathlib import Path

import pytest

from tests.pages import Page


def test_the_snippet() -> None:
    assert Page("symmetries.md").run_snippets()[1] == ["8 torch.Size([8, 16])"]


@pytest.mark.slow  # the same commands, with less to do, are in tests/jobs/test_symmetric_runs.py
def test_the_commands(tmp_path: Path) -> None:
    page = Page("symmetries.md")
    said = page.run_commands(tmp_path)
    averaged = [text for line, text in said.items() if "--symmetry point" in line and line.startswith("qsr load")]
    assert len(averaged) == 1 and "point, 8 images" in averaged[0]
    assert "symmetry=point (8 images)" in said[page.commands[-1]]
