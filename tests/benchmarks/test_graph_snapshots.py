"""The benchmark of graph networks: what counts as missed and as too good, and a row from its start to its verdict."""

import json
from dataclasses import replace
from pathlib import Path

import graph_snapshots
import pytest
from graph_snapshots import ROWS, SMALL, verdict


def test_verdicts() -> None:
    assert verdict(SMALL, 0.76, 0.004, 0.79) == ""
    assert verdict(SMALL, 0.74, 0.004, 0.79) == "missed"
    assert verdict(SMALL, 0.801, 0.004, 0.79) == "" and verdict(SMALL, 0.803, 0.004, 0.79) == "too good"
    permuted = replace(SMALL, permuted=True)
    assert verdict(permuted, 0.511, 0.004, 0.5) == "" and verdict(permuted, 0.487, 0.004, 0.5) == "not chance"
    detuning = next(row for row in ROWS if row.rule is None)
    found = [verdict(detuning, mse, 0.01, 0.28) for mse in (0.3, 0.36, 0.251, 0.24)]
    assert found == ["", "missed", "", "too good"]


def test_a_row_from_start_to_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(SMALL, snapshots=1600, epochs=3, threshold=0.7)
    rows = (short, replace(short, name="3x3, out of reach", threshold=0.9), replace(short, name="left out"))
    monkeypatch.setattr(graph_snapshots, "ROWS", rows)
    monkeypatch.setattr(graph_snapshots, "FRESH", 4000)
    assert graph_snapshots.main(False, str(tmp_path / "table.json"), lambda name: name.startswith("3x3")) == 1
    printed = capsys.readouterr().out
    assert "missed" in printed and "left out" not in printed
    first, second = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert first["verdict"] == "" and second["verdict"] == "missed"
    assert first["limit"] == pytest.approx(0.7907, abs=1e-4) and first["found"] == second["found"]
