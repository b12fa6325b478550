"""The published numbers and the commands that reproduce them: tables, settings of every row, and a short run of each route."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

import qsr
from qsr.estimators import Estimate
from qsr.hparams import RunSettings
from qsr.runs import RunDirectory
from qsr.training import Callback
from tests.demos.test_demos import DEMOS, demo
from tests.pages import Page

ROOT = DEMOS.parent
LARGE = ("8x8", "12x12", "16x16", "24x24", "32x32")
EXACT_4X4 = -0.453413208659
PAGE = Page("reproduce_the_paper.md")
paper = demo("paper/reproduce")


class Stop(Callback):
    """Kills a run, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: object, metrics: dict[str, float]) -> None:
        if trainer.step == self.step:  # type: ignore[attr-defined]
            raise MemoryError("the power is gone")


def test_the_references_are_ours() -> None:
    numbers = paper.published()
    assert numbers["4x4", "exact"].energy.mean == pytest.approx(EXACT_4X4, abs=5e-9)
    stored = json.loads((ROOT / "tests/data/rydberg.json").read_text())
    (dmrg,) = [row for row in stored if (row["model"], row["Lx"], row["Ly"]) == ("rydberg", 8, 8)]
    found = numbers["8x8", "dmrg"].energy
    assert (found.mean, found.error) == pytest.approx((dmrg["energy"] / 64, dmrg["uncertainty"] / 64), abs=1e-8)


def test_the_list_has_every_number_with_its_cost() -> None:
    lines = paper.table()
    assert len(lines) == 1 + len(paper.LATTICES) * len(paper.MODELS)
    (row,) = [line for line in lines if line.startswith("16x16    ptf")]
    assert "-0.380765(41)" in row and "-0.38052(20)" in row and "RTX 3080 Ti (published)" in row and "(measured)" in row
    for (lattice, model, route, _), (hours, source) in paper.costs().items():
        assert (lattice, model) in paper.published() and route in paper.SHORT_TRAINING and hours > 0
        assert source.partition(":")[0] in ("measured", "published", "estimated")
    on_a_cpu = {(lattice, model, route) for lattice, model, route, device in paper.costs() if device.startswith("CPU")}
    assert on_a_cpu == {(lattice, model, route) for lattice in LARGE for model in paper.MODELS for route in ("fast", "original")}


def test_the_guide_says_what_the_tables_say() -> None:
    rows = [line for line in (ROOT / "docs/reproduce_the_paper.md").read_text().splitlines() if re.match(r"\| \d+x", line)]
    energies, spent = rows[: len(LARGE)], rows[len(LARGE) :]
    for row, lattice in zip(energies, LARGE, strict=True):
        for what in ("ptf", "lptf", "qmc", "dmrg"):
            if (number := paper.published().get((lattice, what))) is not None:
                assert f"| {number} " in row, (lattice, what)
    assert len(spent) == len(LARGE) * len(paper.MODELS)
    for row in spent:
        lattice, model, *shown = (cell.strip() for cell in row.strip("| ").split("|"))
        for (size, name, route, device), (hours, source) in paper.costs().items():
            if (size, name) == (lattice, model.lower()):
                cell = shown[0 if route == "fast" else 1 if device.startswith("RTX") else 2]
                assert cell == ("~" if source.startswith("estimated") else "") + paper.duration(hours), (row, route, device)


@pytest.mark.parametrize("lattice", paper.LATTICES)
@pytest.mark.parametrize("model", paper.MODELS)
def test_every_row_can_be_run(lattice: str, model: str) -> None:
    """Settings up to the start of the work; those of the original are the paper's."""
    size = int(lattice.partition("x")[0])
    for route in ("fast", "original"):
        chosen = paper.arguments(lattice, model, route)
        settings = RunSettings.from_tree({name: chosen[name] for name in ("hamiltonian", "model", "train")}, chosen["preset"])
        assert settings.hamiltonian.shape == (size, size) and settings.model.section == model
        assert (settings.hamiltonian.V, settings.hamiltonian.delta, settings.hamiltonian.Omega) == (7, 1, 1)
        assert settings.model.patch == ("2x2" if model == "ptf" else "4x4" if size > 4 else "4x2")
    assert (settings.train.steps, settings.train.B, settings.train.flips, settings.train.lr) == (12000, 256, "exact", 5e-4)
    assert (settings.model.Nh, settings.model.num_layers, settings.model.nhead) == (128, 2, 8)
    assert settings.optimizer.name == "Adam" and settings.model.dim_feedforward == 2048 and settings.scheduler.name == "none"


def test_differences_in_standard_errors() -> None:
    ours = Estimate(-0.3805, 3e-5)
    assert paper.difference(ours, paper.Published("", Estimate(-0.3807, 4e-5), "")).endswith("= +2.0e-04, +4.0 sigma")
    without = paper.Published("", Estimate(-0.3802, math.nan), "")  # no error was published: ours alone
    assert paper.difference(ours, without).endswith("= -3.0e-04, -10.0 sigma")


def test_an_interrupted_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "16x16-ptf-fast-short"
    chosen = paper.arguments("16x16", "ptf", "fast", short=True)
    chosen["train"] = {**chosen["train"], "dir": str(folder)}
    with pytest.raises(MemoryError):
        qsr.train(**chosen, checkpoint={"every_n_steps": 20}, callbacks=[Stop(30)])
    found = paper.main("16x16", "ptf", short=True, samples=1024, directory=str(tmp_path)).energy_per_site
    again = paper.main("16x16", "ptf", short=True, samples=1024, directory=str(tmp_path)).energy_per_site
    assert again == found, "a finished run is not trained again"
    (run,) = folder.glob("rydberg/*/*")
    assert "at step 20 of 120" in (run / "output.txt").read_text()
    assert len(RunDirectory.open(run).history.read("steps")["step"]) == 120
    assert EXACT_4X4 - 4 * found.error < found.mean < EXACT_4X4 * (1 - 1e-2)
    said = capsys.readouterr().out
    assert "published    -0.453421 " in said and "exact        -0.45341321 " in said and "QMC          -0.4534(1) " in said


def test_the_original_s_settings_in_short(tmp_path: Path) -> None:
    found = paper.main("24x24", "lptf", "original", short=True, samples=256, directory=str(tmp_path)).energy_per_site
    (run,) = tmp_path.glob("24x24-lptf-original-short/rydberg/*/*")
    first = RunDirectory.open(run).history.read("steps")["energy"][0] / 16
    assert EXACT_4X4 < found.mean < first - 0.3  # 40 steps of 64 samples at 5e-4: on the way


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["16x16"], "say which number"),
        (["9x9", "ptf"], "invalid choice: '9x9'"),
        (["16x16", "ptf", "--samples", "1"], "--samples 1: must be at least 2"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        paper.command(words)
    assert stopped.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    assert paper.command(["16x16", "ptf", "--short", "--dir", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_commands_of_the_guide_are_understood() -> None:
    lines = [line.split()[1:] for line in PAGE.commands]
    assert len(lines) == 4 and all(words[0] == "demos/paper/reproduce.py" for words in lines)
    assert [paper.parser().parse_args(words[1:]).short for words in lines] == [False, True, True, True]


@pytest.mark.slow  # what they do is tested above
def test_the_guide(tmp_path: Path) -> None:
    shutil.copytree(DEMOS / "paper", tmp_path / "demos/paper")
    said = list(PAGE.run_commands(tmp_path).values())
    assert "-0.368911(22)" in said[0]
    assert all("exact        -0.45341321" in text and "fresh samples" in text for text in said[1:])
