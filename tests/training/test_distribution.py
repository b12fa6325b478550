"""Real processes of torch.distributed train as one process does with the same minibatches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.torchrun import torchrun
from tests.training.shared_runs import CASES, STEPS, trained


def shared(folder: Path, precision: str, names: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """What each of the processes found in these cases."""
    with torchrun("tests.training.shared_runs", str(folder), precision, *names, processes=processes) as started:
        _, errors = started.communicate(timeout=400)
    assert started.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def check_as_one(name: str, precision: str, parts: Sequence[dict[str, Any]]) -> None:
    """The processes drew the samples of one, and found its energies in every step; all have the same weights."""
    alone = trained(name, precision)
    samples = [batch for part in parts for batch in part["samples"]]
    assert len(samples) == len(alone["samples"]) == 4
    for ours, theirs in zip(samples, alone["samples"], strict=True):  # configurations, counts and centred local energies
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    first, *others = parts
    assert all(part["rows"] == first["rows"] for part in others) and len(first["rows"]) == len(alone["rows"]) == STEPS
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        if precision == "float32":
            assert ours["energy"] == pytest.approx(theirs["energy"], rel=1e-5)
        else:
            assert ours == pytest.approx(theirs, rel=1e-9)
        assert all(ours[column] == theirs[column] for column in ("samples", "flips", "window", "lr"))
    for part in others:
        assert all(torch.equal(value, part["weights"][weight]) for weight, value in first["weights"].items())


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_are_one_with_the_same_minibatches(processes: int, tmp_path: Path) -> None:
    names = list(CASES)[:2]
    found = shared(tmp_path, "float32", names, processes)
    for name in names:
        check_as_one(name, "float32", [part[name] for part in found])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_so_they_are_for_other_models_and_optimizers(precision: str, processes: int, tmp_path: Path) -> None:
    names = list(CASES) if precision == "float64" else list(CASES)[2:]
    found = shared(tmp_path, precision, names, processes)
    for name in names:
        check_as_one(name, precision, [part[name] for part in found])
