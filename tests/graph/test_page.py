"""Every command and snippet of docs/graph_networks.md runs as it stands, in its order."""

import re
from pathlib import Path

import pytest

from tests.pages import Page


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("graph_networks.md")
    said = page.run_commands(tmp_path)
    loaded = said[next(line for line in page.commands if line.startswith("qsr load"))]
    # Other labels than those that were learned, on other detunings: more than a guess, less than on its own.
    assert float(re.search(r"test/accuracy +(\S+)", loaded)[1]) > 0.6  # type: ignore[index]
    assert (tmp_path / "runs/graph/classify/0/predictions.csv").read_text().startswith("labels,p_0,p_1\n")
    monkeypatch.chdir(tmp_path)
    _, lines = page.run_snippets()
    assert lines == ["Data(x=[16, 1], edge_index=[2, 84], edge_attr=[84], y=0)"]
