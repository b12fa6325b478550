"""Every command and snippet of docs/phase_diagrams.md runs as it stands, and what the page says of the results holds."""

import csv
from pathlib import Path

import pytest

from tests.pages import Page


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    said = Page("phase_diagrams.md").run_commands(tmp_path)
    scans = [text for line, text in said.items() if line.startswith("qsr scan")]
    assert all("written: runs/rydberg/" in text and "scan.png" in text for text in scans)
    with (tmp_path / "runs" / "rydberg" / "9-B=256-K=256" / "0" / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    for row in rows:
        # 120 steps; 4 standard errors of the energy beside what training left.
        found, exact = float(row["energy_per_site"]), float(row["energy_per_site_exact"])
        assert abs(found - exact) < 0.02 + 4 * float(row["energy_per_site_error"]), row["delta"]


def test_the_snippet() -> None:
    names, lines = Page("phase_diagrams.md").run_snippets()
    assert len(names["order"]) == 4 and names["configs"].shape == (8, 6)  # type: ignore[arg-type, attr-defined]
    assert lines[-1].startswith("largest deviation from the exact values")
