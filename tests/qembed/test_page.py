"""Every command and snippet of docs/quantum_embeddings.md runs as it stands, in its order."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pages import ROOT, Page

PAGE = Page("quantum_embeddings.md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "demos").mkdir()
    shutil.copy(ROOT / "demos" / "snapshots_qembed.py", folder / "demos")
    return folder


@pytest.mark.slow  # the same commands, with less to do, are in tests/cli
def test_commands(clone: Path) -> None:
    assert len(PAGE.commands) >= 10
    said = PAGE.run_commands(clone)
    scores = {
        name: [float(number) for number in re.findall(r"\d\.\d+", line)]
        for line in said["python demos/snapshots_qembed.py"].splitlines()
        for name in ("quantum", "ordinary", "best")
        if name in line
    }
    accuracy, _, calibration = scores["quantum"]
    assert (accuracy, calibration) == (pytest.approx(0.754, abs=0.01), pytest.approx(0.03, abs=0.01))  # the page says so
    assert scores["ordinary"] == [pytest.approx(0.745, abs=0.01), pytest.approx(0.68, abs=0.03), pytest.approx(0.14, abs=0.02)]
    assert scores["best"] == [pytest.approx(0.795, abs=0.001)]
    predictions = (clone / "runs/qembed/classify/0/predictions.csv").read_text()
    assert predictions.startswith("label,p_0,p_1,total_entropy,aleatoric,mutual_information,uncertainty\n")
    cleaned = said["qsr load runs/qembed/denoise/0"]
    accuracy, as_read = (float(re.search(rf"test/{name} +(\S+)", cleaned)[1]) for name in ("accuracy", "accuracy_as_read"))  # type: ignore[index]
    assert abs(accuracy - as_read) < 0.005  # little can be won here, says the page


def test_snippets(monkeypatch: pytest.MonkeyPatch, clone: Path) -> None:
    monkeypatch.chdir(clone)
    _, lines = PAGE.run_snippets()
    first, entangled, *_ = lines
    accuracy, disagreement = first.split()
    assert float(accuracy) > 0.95 and 0 < float(entangled) <= 1
    assert 0 < float(disagreement) < 0.7
