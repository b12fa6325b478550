"""Every command of docs/physics.md runs as it stands, in its order, and what the page says of the results holds."""

import math
import re
from pathlib import Path

import pytest

from tests.pages import Page


def energy(text: str) -> float:
    return float(re.search(r"^energy +(-?[\d.]+)", text, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.slow  # the physics of each command is tested on its own
def test_the_page(tmp_path: Path) -> None:
    page = Page("physics.md")
    said = list(page.run_commands(tmp_path).items())
    for command, text in said:
        comment = command.partition("#")[2].strip()
        assert comment in text, command
    in_rad, in_mhz = (next(text for command, text in said if f"spacing=5.5 C6={c6}" in command) for c6 in (5420503, 862700))
    assert energy(in_mhz) * 2 * math.pi == pytest.approx(energy(in_rad), rel=1e-4)  # the page rounds Omega and delta
    exact = next(text for command, text in said if "qsr exact --rydberg positions=" in command)
    loaded = next(text for command, text in said if "qsr load runs/rydberg/5-" in command)
    assert "energies in rad/us" in loaded and abs(energy(loaded) / energy(exact) - 1) < 0.2
