"""Every command and snippet of docs/hilbert_space_models.md runs as it stands, in its order."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pages import ROOT, Page

PAGE = Page("hilbert_space_models.md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "demos").mkdir()
    shutil.copy(ROOT / "demos" / "observables.csv", folder / "demos")
    return folder


@pytest.mark.slow  # the same commands, with less to do, are in tests/cli
def test_commands(clone: Path) -> None:
    assert len(PAGE.commands) >= 8 and all(line.startswith("qsr ") for line in PAGE.commands)
    said = list(PAGE.run_commands(clone).values())
    r2 = float(re.search(r"test/r2 +(\S+)", said[1])[1])  # type: ignore[index]
    assert r2 > 0.98  # the page says 0.99
    assert (clone / "runs/hsm/general/0/predictions.csv").read_text().startswith("delta,delta_std,energy\n")
    assert (clone / "runs/hsm/geometry/0/geometry.png").stat().st_size > 10_000


def test_snippets(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    names, (error, experiment, accuracy) = PAGE.run_snippets()
    assert float(error) < 0.1 and float(experiment.split()[0]) > 0.9 and float(accuracy) > 0.9
    assert names["states"].shape == (400, 4) and names["alike"].shape == (3, 400)  # type: ignore[attr-defined]
