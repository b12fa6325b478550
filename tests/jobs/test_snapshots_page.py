"""Every command of docs/snapshots.md runs as it stands, in its order, on the files that it shows."""

import re
from pathlib import Path

import pytest

from qsr.snapshots import read_snapshots
from tests.pages import ROOT, Page


@pytest.mark.slow  # the same commands, with less to do, are in tests/cli and tests/jobs
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "snapshots.md").read_text(encoding="utf-8")
    for name, block in zip(("counts.json", "register.json"), re.findall(r"^```json\n(.*?)^```", text, re.M | re.S), strict=True):
        (tmp_path / name).write_text(block)
    page = Page("snapshots.md")
    said = page.run_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, printed = page.run_snippets()
    assert printed[0].startswith("[0.")
    found = read_snapshots(tmp_path / "measured.h5")
    assert found.configs.shape == (900, 6) and found.configs[0].tolist() == [0, 1, 1, 0, 0, 1]
    assert "energy per site" in list(said.values())[-1]
