"""Real processes of torch.distributed train as one process does with the same minibatches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.torchrun import torchrun
from tests.training.shared_runs import CASES, STEPS, trained


def shared(folder: Path, precision: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each of two processes found in these cases."""
    with torchrun("tests.training.shared_runs", str(folder), precision, *names) as started:
        _, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def check_as_one(name: str, precision: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Two processes drew the samples of one, and found its energies in every step; both have the same weights."""
    alone = trained(name, precision)
    samples = [*first["samples"], *second["samples"]]
    assert len(samples) == len(alone["samples"])
    for ours, theirs in zip(samples, alone["samples"], strict=True):  # configurations, counts and centred local energies
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert first["rows"] == second["rows"] and len(first["rows"]) == len(alone["rows"]) == STEPS
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        if precision == "float32":
            assert ours["energy"] == pytest.approx(theirs["energy"], rel=1e-5)
        else:
            assert ours == pytest.approx(theirs, rel=1e-9)
        assert all(ours[column] == theirs[column] for column in ("samples", "flips", "window", "lr"))
    for weight, value in first["weights"].items():
        assert torch.equal(value, second["weights"][weight]), weight


def test_two_processes_are_one_with_the_same_minibatches(tmp_path: Path) -> None:
    names = list(CASES)[:2]
    found = shared(tmp_path, "float32", names)
    for name in names:
        check_as_one(name, "float32", *(part[name] for part in found))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_so_they_are_for_other_models_and_optimizers(precision: str, tmp_path: Path) -> None:
    names = list(CASES) if precision == "float64" else list(CASES)[2:]
    found = shared(tmp_path, precision, names)
    for name in names:
        check_as_one(name, precision, *(part[name] for part in found))
