"""The comparison with NetKet: what it does without NetKet, and its qsr side."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmarks_netket_8x8", BENCHMARKS / "netket_8x8.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_without_netket_it_says_how_to_install_it():
    if importlib.util.find_spec("netket") is not None:
        pytest.skip("NetKet is installed here")
    done = subprocess.run([sys.executable, BENCHMARKS / "netket_8x8.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install netket" in done.stderr


def test_qsr_is_watched_until_the_seconds_are_spent(script, monkeypatch):
    def settings(preset):
        return {"model": {"type": "rnn", "Nh": 4}, "train": {"K": 16, "steps": 1000}}

    monkeypatch.setattr(script, "qsr_settings", settings)
    monkeypatch.setattr(script, "EVALUATION", 64)
    # The first is reached at once, the second never.
    monkeypatch.setattr(script, "ERRORS", (1e9, 1e-9))
    result = script.run_qsr(1.0, seed=0, preset="none", reference=-0.4)
    assert 20 <= result["steps"] < 1000
    assert 1.0 <= result["seconds"] < 5.0
    assert list(result["reached"]) == [1e9]
    assert 0 < result["reached"][1e9] <= result["seconds"]
    assert "qsr" in script.row("qsr", result, -0.4)
