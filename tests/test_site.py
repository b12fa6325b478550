"""The documentation site builds without a warning, has a page for every command, and what its pages say can be typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qsr.cli.main import qsr
from tests.pages import ROOT, Page

# In the order of the site: later ones go on with the runs of the earlier ones. The pages of models have tests of their own.
IN_ORDER = ("index", "commands/train", "commands/load", "commands/runs", "commands/finetune", "commands/exact")


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    train = (tmp_path / "commands" / "train" / "index.html").read_text(encoding="utf-8")
    assert "patched recurrent network (GRU or Elman)" in train and "&lt;!--" not in train, "the help texts are in the pages"
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert "Draw independent samples of a trained model" in reference


def test_every_command_has_a_page() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    shown = {name for text in texts for name in re.findall(r"^(?:<!-- )?qsr (\w+)", text, re.MULTILINE)}
    assert set(qsr.commands) - shown == set()


@pytest.mark.slow
def test_what_the_pages_say_can_be_typed(tmp_path: Path) -> None:
    said: dict[str, str] = {}
    for name in IN_ORDER:
        said |= Page(f"{name}.md").run_commands(tmp_path)
    (loaded,) = [text for line, text in said.items() if line.startswith("qsr load runs/rydberg/9-B")]
    energy = float(re.search(r"energy per site +(-\d\.\d+)", loaded)[1])  # type: ignore[index]
    (observed,) = [text for line, text in said.items() if line.startswith("qsr observe runs/rydberg/4-B")]
    assert re.search(r"staggered_abs +0\.\d+\(\d+\)", observed) and "energies in rad/us" in observed
    (exact,) = {text for line, text in said.items() if line == "qsr exact --rydberg Lx=3 Ly=3 delta=1"}
    assert energy == pytest.approx(float(re.search(r"energy per site +(-\d\.\d+)", exact)[1]), rel=0.03)  # type: ignore[index]
