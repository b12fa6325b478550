"""The commands and the snippet of docs/numerics.md run as they stand: the bias of a run of one's own."""

from pathlib import Path

import pytest

from tests.pages import Page


def test_the_bias_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("numerics.md")
    page.run_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    names, [line] = page.run_snippets()
    assert line.startswith("bias ") and line.endswith(" per site")
    assert 0 < abs(names["difference"]).max() < 1e-5  # type: ignore[arg-type]
