"""The documentation site builds without a warning, has a page for every command, and what its pages say can be typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qsr.cli.main import qsr
from tests.pages import ROOT, Page


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    train = (tmp_path / "commands" / "train" / "index.html").read_text(encoding="utf-8")
    assert "patched recurrent network (GRU or Elman)" in train and "&lt;!--" not in train, "the help texts are in the pages"
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert "Draw independent samples of a trained model" in reference


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "commands").glob("*.md")))
def test_the_page_of_a_command_can_be_typed(name: str, tmp_path: Path) -> None:
    """In a new folder, with nothing of another page; what the page says is written is there."""
    page = Page(f"commands/{name}.md")
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    assert f"<!-- qsr {name} " in text and "exit status" in " ".join(text.lower().split())
    assert any(line.startswith(f"qsr {name} ") for line in page.commands)
    said = page.run_commands(tmp_path)
    assert all(said.values())
    written = re.findall(r"^written: (\S+?),? ", "".join(f"{shown} \n" for shown in said.values()), re.MULTILINE)
    assert all((tmp_path / file.rstrip(",")).exists() for file in written)


def test_every_command_has_a_page_of_its_own() -> None:
    assert {path.stem for path in (ROOT / "docs" / "commands").glob("*.md")} == set(qsr.commands)


@pytest.mark.slow
def test_what_the_first_page_says_can_be_typed(tmp_path: Path) -> None:
    said = Page("index.md").run_commands(tmp_path)
    (loaded,) = [text for line, text in said.items() if line.startswith("qsr load runs/rydberg/9-B")]
    energy = float(re.search(r"energy per site +(-\d\.\d+)", loaded)[1])  # type: ignore[index]
    (observed,) = [text for line, text in said.items() if line.startswith("qsr observe runs/rydberg/4-B")]
    assert re.search(r"staggered_abs +0\.\d+\(\d+\)", observed) and "energies in rad/us" in observed
    (exact,) = {text for line, text in said.items() if line == "qsr exact --rydberg Lx=3 Ly=3 delta=1"}
    assert energy == pytest.approx(float(re.search(r"energy per site +(-\d\.\d+)", exact)[1]), rel=0.03)  # type: ignore[index]
