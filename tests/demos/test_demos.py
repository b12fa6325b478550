"""The demos in shortened form: they run, print their numbers, and the numbers are right."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import qsr

ROOT = Path(__file__).resolve().parents[2]
DEMOS = ROOT / "demos"
DMRG_8X8 = -25.96352308479234 / 64  # tests/data/rydberg.json


def demo(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DEMOS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ground_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = demo("ground_state_4x4").main(steps=120, samples=2048, directory=str(tmp_path))
    said = capsys.readouterr().out
    assert 0 < error < 0.1
    assert "z-score" in said and "exact             -0.45341321" in said
    assert list(tmp_path.rglob("plot.png"))


def test_the_demo_fails_when_it_misses_the_energy(tmp_path: Path) -> None:
    words = [sys.executable, str(DEMOS / "ground_state_4x4.py"), "--steps", "5", "--dir", str(tmp_path)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "is above 1e-03" in result.stderr


@pytest.mark.slow
def test_detuning_scan(tmp_path: Path) -> None:
    rows = demo("detuning_scan").main(deltas=(0.0, 0.5), steps=200, directory=str(tmp_path))
    for _, found, error, exact in rows:
        assert abs(found - exact) < 0.02 + 4 * error
    assert rows[0][1] != rows[1][1]
    assert (tmp_path / "detuning_scan.png").stat().st_size > 5_000


def test_finetune(tmp_path: Path) -> None:
    energies = list(demo("finetune_4x4_to_8x8").main(steps=60, directory=str(tmp_path)).values())
    untrained, tuned, scratch = energies
    assert DMRG_8X8 < tuned < min(untrained, scratch), "sixty steps from 4x4 weights beat sixty from nothing"


def test_transfer(tmp_path: Path) -> None:
    divergence, error = demo("transfer_rnn_to_ptf").main(steps=120, directory=str(tmp_path))
    assert -4 * error < divergence < 2.0  # an untrained student is 13 nat away


@pytest.mark.slow
def test_reading_snapshots(tmp_path: Path) -> None:
    found = demo("snapshots_hsm").main(steps=40, shots=500, epochs=15, directory=str(tmp_path))
    # 700 test snapshots: 4 sigma are 0.06 of an accuracy, and 0.04 of a mean square error.
    assert found["least"] - 0.04 < found["mse"] < 0.6 * found["prior"]
    assert 0.7 < found["accuracy"] < found["best"] + 0.06


def test_snapshots_before_energies(tmp_path: Path) -> None:
    found = demo("snapshots_to_ground_state").main(shots=2000, steps=80, directory=str(tmp_path))
    learned, tuned, scratch = (found[name].energy_per_site.mean for name in ("snapshots", "then energies", "energies alone"))
    assert -0.4534 - 0.003 < tuned < min(learned, scratch)


def test_the_shipped_run_is_a_trained_8x8_rnn() -> None:
    settings = json.loads((DEMOS / "RNN" / "settings.json").read_text())
    assert settings["model"]["type"] == "rnn" and settings["train"]["L"] == 64
    found = qsr.evaluate(DEMOS / "RNN", 1024, 256).energy_per_site
    assert abs(found.mean - DMRG_8X8) < 3e-3 * abs(DMRG_8X8) + 4 * found.error


def test_a_model_of_one_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < demo("own_model").main(epochs=100, num_samples=200) < 0.2
    assert "guessing the mean" in capsys.readouterr().out


@pytest.mark.slow
def test_few_snapshots(tmp_path: Path) -> None:
    found = demo("snapshots_qembed").main(labels=100, epochs=15, test=2000, directory=str(tmp_path))
    best, quantum, plain = (found[name] for name in ("best possible", "quantum embedding", "ordinary embedding"))
    # 2000 snapshots: one sigma of an accuracy is 0.01.
    assert 0.7 < quantum["test/accuracy"] < best["test/accuracy"] + 0.04
    assert quantum["test/ece"] < plain["test/ece"]
    assert quantum["test/nll"] < plain["test/nll"]


@pytest.mark.slow
def test_phase_diagram_of_a_graph_network(tmp_path: Path) -> None:
    rows = demo("phase_diagram_graph").main(deltas=(0.0, 1.0, 1.75, 2.5, 3.5), directory=str(tmp_path))
    assert [network for _, network, _ in rows] == sorted(network for _, network, _ in rows)
    for _, network, exact in rows:
        assert abs(network - exact) < 0.03
    assert rows[0][1] < 0.05 and rows[-1][1] > 0.95
    assert (tmp_path / "phase_diagram.png").stat().st_size > 5_000


@pytest.mark.slow
def test_phase_diagram_of_one_network(tmp_path: Path) -> None:
    found = demo("phase_diagram").main(steps=25, samples=512, points=3, directory=str(tmp_path))
    deviation = found.deviation()
    assert deviation is not None and 0 < deviation < 0.1, "25 steps; 0.6 to 0.9 before the first"
    order = [point.found["staggered_abs"].mean for point in found.points]
    assert order[0] < order[1] < order[2]
    assert len(list(tmp_path.rglob("scan.png"))) == 1


@pytest.mark.slow
def test_symmetries(tmp_path: Path) -> None:
    trained, averaged, tuned = demo("symmetries").main(steps=40, directory=str(tmp_path)).values()
    assert 0 < tuned < trained and 0 < averaged < trained
