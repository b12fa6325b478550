"""The notebooks run from their first cell to the last, in a process of their own, and what they print is right."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "demos" / "notebooks").glob("*.ipynb"))}


def cells(name: str) -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return list(notebook["cells"])


def run(name: str, folder: Path) -> str:
    """What the cells print, run one after the other in a folder; warnings are errors, as in the tests."""
    text = "\n".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code")
    command = [sys.executable, "-W", "error", "-c", text]
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern + r" *(-?\d+\.\d+)", text)
    assert found is not None, text
    return float(found[1])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_are_kept_without_outputs(name: str) -> None:
    for cell in cells(name):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_quick_start(tmp_path: Path) -> None:
    said = run("quick_start", tmp_path)
    assert number("energy per site", said) == pytest.approx(-0.4534132, abs=1e-7)
    assert float(re.search(r"relative error of the energy (\S+)", said)[1]) < 1e-2  # type: ignore[index]
    assert (tmp_path / "runs/rydberg/16-B=256-K=256/0/plot.png").stat().st_size > 10_000


@pytest.mark.slow  # the same as a script is in test_demos.py
def test_snapshots_to_the_ground_state(tmp_path: Path) -> None:
    said = run("snapshots_to_ground_state", tmp_path)
    # 48000 bits of density 0.23: one sigma of their mean is below 0.002.
    assert number("density as read", said) == pytest.approx(0.96 * 0.232838 + 0.01 * 0.767162, abs=0.008)
    learned, tuned, scratch = (number(rf"{name} +E/N =", said) for name in ("snapshots", "then energies", "energies alone"))
    assert -0.4534 - 0.003 < tuned < min(learned, scratch)


def test_array_in_micrometres(tmp_path: Path) -> None:
    said = run("array_in_micrometres", tmp_path)
    assert number("energy", said) == pytest.approx(number(r"rad/us, exact", said), rel=0.01)
    assert number("\ndensity", said) == pytest.approx(number(r"\ndensity \S+ exact", said), abs=0.02)
    assert "S(pi/6.1,pi/6.1) connected " in said
    assert "purity sites:0,1,2" in said
