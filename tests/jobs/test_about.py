"""What there is to say of runs: `qsr info`, `qsr compare`, `qsr report`."""

import base64
import html
import re
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

import qsr
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory
from qsr.training import Interrupted
from tests.commands import run_qsr
from tests.training.lines import StopAt

PROBLEM = qsr.Rydberg(Lx=2, Ly=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[qsr.Run]:
    """Two samplers of the 2x2 array."""
    train = {"K": 128, "steps": 60, "dir": str(tmp_path_factory.mktemp("runs"))}
    models = (qsr.RNN(patch=1, Nh=8), qsr.PTF(patch="2x1", Nh=8, nhead=2))
    return [qsr.train(PROBLEM, model, train, optimizer={"name": "spring"}) for model in models]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*words)


def test_info_of_a_finished_run(runs: list[qsr.Run]) -> None:
    run = runs[0]
    found = qsr.info(run)
    assert (found.done, found.total, found.state) == (60, 60, "finished")
    assert found.model.startswith("rnn patch=1 Nh=8, ") and found.versions["qsr"] == qsr.__version__
    assert f"{sum(p.numel() for p in run.model.parameters())} parameters in float32" in found.model
    history = RunDirectory(run.path).history.read("steps")  # type: ignore[arg-type]
    last = found.last["E/N, last steps"]
    assert float(last.partition("(")[0]) == pytest.approx(history["energy"][-6:].mean() / 4, abs=2e-3)
    error = np.sqrt((history["energy_error"][-6:] ** 2).sum()) / 6 / 4
    digits, decimals = re.match(r"-\d\.(\d+)\((\d+)\)", last).groups()  # type: ignore[union-attr]
    assert int(decimals) * 10.0 ** -len(digits) == pytest.approx(error, rel=0.1)
    said = command("info", str(run.path))
    assert said.returncode == 0 and "state               finished\n" in said.stdout and f"qsr load {run.path}" in said.stdout


def test_info_of_a_run_that_was_cut_short(tmp_path: Path) -> None:
    train = {"K": 16, "steps": 40, "dir": str(tmp_path)}
    with pytest.raises(Interrupted):
        qsr.train(PROBLEM, qsr.RNN(patch=1, Nh=4), train, callbacks=[StopAt(7)])
    path = tmp_path / "rydberg" / "4-B=16-K=16" / "0"
    found = qsr.info(path)
    assert found.done == 7 and found.state == "interrupted after 7 of 40 steps"
    assert found.following[0] == f"qsr train --resume {path}"
    with RunDirectory(path).lock():
        said = command("info", str(path))
        assert "state               being written after 7 of 40 steps\n" in said.stdout, said.stderr
    with pytest.raises(ConfigError, match="no such directory"):
        qsr.info(tmp_path / "nothing")


def test_compare(runs: list[qsr.Run], tmp_path: Path) -> None:
    found = qsr.compare(runs, 500, seed=3)
    rows, exact = found.rows(), qsr.exact(PROBLEM).energy / 4
    assert [row["model"] for row in rows] == ["rnn", "ptf"] and list(rows[0])[-1] == "rel. error"
    for row, run in zip(rows, runs, strict=True):
        alone = qsr.evaluate(run, 500, seed=3)
        assert row["E/N"] == str(alone.energy_per_site)
        assert float(row["rel. error"]) == pytest.approx((alone.energy_per_site.mean - exact) / abs(exact), rel=0.06)
    picture = tmp_path / "c.png"
    said = command("compare", *(str(run.path) for run in runs), "--samples", "500", "--seed", "3", "--output", str(picture))
    assert said.returncode == 0 and said.stdout.splitlines()[:3] == found.lines(), said.stderr
    assert image.imread(picture).std() > 0.02, "not an empty sheet"
    for words in (("compare", str(runs[0].path)), ("compare", "nothing", "there")):
        refused = command(*words)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr


def test_runs_at_other_positions_have_other_exact_energies(tmp_path: Path) -> None:
    """The line in words, with sites and blockade radius, is the same for both."""
    places = ([[0, 0], [1, 0], [2, 0]], [[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
    problems = [qsr.Rydberg(positions=place) for place in places]
    assert problems[0].describe() == problems[1].describe()
    train = {"K": 8, "steps": 1, "dir": str(tmp_path)}
    runs = [qsr.train(problem, qsr.RNN(patch=1, Nh=4), train) for problem in problems]
    found = qsr.compare(runs, 16)
    assert found.exact == pytest.approx([qsr.exact(problem).energy / 3 for problem in problems], abs=1e-9)
    assert abs(found.exact[0] - found.exact[1]) > 0.05  # type: ignore[operator]


class Page(HTMLParser):
    """Cells and images of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.images: list[str] = []
        self.outside: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag in ("td", "th")
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if str(value).startswith("data:") else self.outside).append(str(value))

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.cells.append(data)
            self._inside = False


def test_report_is_one_page_with_everything_in_it(runs: list[qsr.Run], tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert qsr.report(runs[0], 800, seed=5, output=target) == target
    page = Page(target.read_text(encoding="utf-8"))
    assert page.outside == [], "nothing is fetched from anywhere"
    assert "<p>Energies are in units of Omega. Numbers in brackets" in target.read_text(encoding="utf-8")
    text = re.sub(r"base64,[^\"]*", "", target.read_text(encoding="utf-8"))
    assert not re.search(r"url\(|@import|<script|<link|<iframe|https?:", text)
    assert '<details><summary>as settings.json has them</summary><pre>{\n  "train": {' in html.unescape(text)
    result = qsr.evaluate(runs[0], 800, seed=5)
    cells = dict(zip(page.cells, page.cells[1:], strict=False))
    assert cells["energy per site"] == str(result.energy_per_site)
    assert float(cells["E/N, exact"]) == pytest.approx(qsr.exact(PROBLEM).energy / 4, abs=1e-8)
    assert cells["model"].startswith("rnn patch=1 Nh=8")
    (picture,) = page.images
    png = base64.b64decode(picture.partition("base64,")[2])
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width > 800 and height > 600
    said = command("report", str(runs[1].path), "--samples", "100")
    assert said.returncode == 0 and (Path(str(runs[1].path)) / "report.html").is_file(), said.stderr


def test_a_reference_of_zero_has_no_relative_error(tmp_path: Path) -> None:
    """Without a drive and detuned below zero, the ground state is empty and has the energy 0."""
    train = {"K": 8, "steps": 2, "dir": str(tmp_path)}
    empty = [qsr.train(qsr.Rydberg(Lx=2, Ly=2, Omega=0, delta=-1), qsr.RNN(patch=1, Nh=4), train) for _ in range(2)]
    assert [row["rel. error"] for row in qsr.compare(empty, 32).rows()] == ["", ""]
    page = qsr.report(empty[0], 32).read_text()
    assert re.search(r'E/N, exact</th><td class="number">0.00000000</td><td class="number">[+-]\d+\.\d errors', page)
    with pytest.raises(ConfigError, match="is a directory; expected a file"):
        qsr.report(empty[0], 32, output=tmp_path)
