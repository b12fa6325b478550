"""The benchmark on tables: its folds are those of the linear model, and a threshold that is missed shows in the exit status."""

import json
from pathlib import Path

import hsm_tables
import numpy as np
import pytest
from hsm_tables import Row


def test_folds_are_the_same_every_time() -> None:
    first, second = ([test.tolist() for _, test in hsm_tables.folds("iris", 5)] for _ in range(2))
    assert first == second and sorted(row for rows in first for row in rows) == list(range(150))
    assert all(np.bincount(hsm_tables.table("iris")[1][rows]).tolist() == [10, 10, 10] for rows in first)


@pytest.mark.parametrize(("threshold", "missed"), [(0.3, 0), (1.01, 1), (None, 0)])
def test_a_missed_threshold_counts(
    threshold: float | None, missed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (Row("iris", "short", {"max_epochs": 2}, threshold, 1), Row("wine", "left out", {}, 2.0))
    monkeypatch.setattr(hsm_tables, "ROWS", rows)
    file = tmp_path / "table.json"
    assert hsm_tables.main(False, str(file), lambda name: name == "iris") == missed
    printed = capsys.readouterr().out
    assert ("missed" in printed) == bool(missed) and "wine" not in printed
    [row] = json.loads(file.read_text())["rows"]
    assert row["reached"] == (not missed) and row["linear"] > 0.9 and len(row["scores"]) == 1
