"""Every command and snippet of docs/graph_networks.md runs as it stands, in its order."""

import re
import sys
from pathlib import Path

import pytest

from tests.pages import Page

OWN = "qsr load runs/phases/0 --allow-import mymodule"


@pytest.mark.slow  # the configuration on it is trained in tests/cli/test_graph_runs.py, too
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("graph_networks.md")
    said = page.run_commands(tmp_path)
    loaded = said[next(line for line in page.commands if line.startswith("qsr load"))]
    # Other labels than those that were learned, on other detunings: more than a guess, less than on its own.
    assert float(re.search(r"test/accuracy +(\S+)", loaded)[1]) > 0.6  # type: ignore[index]
    assert (
        (tmp_path / "runs/graph/classify/0/predictions.csv").read_text().startswith("delta,state_id,labels,predicted,p_0,p_1\n")
    )
    assert (
        float(re.search(r"test/accuracy +(\S+)", said[f"{OWN}           # test metrics, with the weights of the best epoch"])[1])
        > 0.8
    )  # type: ignore[index]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        _, lines = page.run_snippets()
    finally:
        sys.modules.pop("mymodule", None)
    assert lines == [
        "5 ['loss_avg', 'loss_min', 'loss_max', 'accuracy', 'f1'] 0.9",
        "True GNNModel",
        "[('phases_0', 2), ('phases_1', 1)]",
        "['training.optimizer_kwargs.lr']",
    ]
