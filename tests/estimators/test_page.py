"""Every command and snippet of docs/observables.md runs as it stands, in its order."""

import re
from pathlib import Path

import pytest

from tests.pages import Page


@pytest.mark.slow  # the same commands, with less to do, are in tests/cli and tests/jobs
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("observables.md")
    said = page.run_commands(tmp_path)
    observed = [said[line] for line in page.commands if line.startswith("qsr observe")]
    assert re.search(r"^renyi2 rows:2 +0\.\d+\(\d+\)$", observed[1], re.MULTILINE)
    assert 0.5 < float(re.search(r"^fidelity +([\d.]+)", observed[2], re.MULTILINE)[1]) < 1  # type: ignore[index]
    assert "E/N at zero variance" in said[page.commands[-1]] and (tmp_path / "line.png").is_file()
    # Every quantity of the table is printed under the name that it has there.
    table = re.findall(r"^\| (`[^|]*`) \|", (Path(__file__).parents[2] / "docs" / "observables.md").read_text(), re.MULTILINE)
    names = [name for cell in table for name in re.findall(r"`([^`]+)`", cell)]
    printed = "".join(observed).replace("S(pi,pi)", "S(k)")
    assert len(names) > 10 and [name for name in names if f"\n{name} " not in printed] == []
    monkeypatch.chdir(tmp_path)
    _, lines = page.run_snippets()
    assert re.fullmatch(r"0\.0\d+\(\d+\)", lines[-1])
