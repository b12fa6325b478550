"""The memory of a whole step stays within `train.memory_MiB`, and cutting it up changes nothing but rounding."""

from typing import Any

import pytest
import torch

import qsr
from benchmarks.memory import FLAT, LONG, allowed, measured, resident, slope
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model
from qsr.training import BatchKey, TeacherLikelihood, VariationalEnergy, update_rule


def settings(rule: str, train: dict[str, Any]) -> RunSettings:
    tree = {
        "model": qsr.PTF(Nh=64, nhead=4, num_layers=2, patch="2x2"),
        "hamiltonian": qsr.Rydberg(Lx=8, Ly=8),
        "train": {"K": 96, "dir": "<NONE>", "precision": "float64", "seed": 1, "device": "cpu", **train},
        "optimizer": {"name": rule},
    }
    return RunSettings.from_tree(tree)


def one_step(given: RunSettings) -> tuple[torch.Tensor, int]:
    """The gradient, or the direction, of a step, and in how many parts it came."""
    model = build_model(given)
    objective, rule = VariationalEnergy(given.hamiltonian.build(), given.train), update_rule(model, given)
    key = BatchKey(1, 0, 0)
    parts = len(objective.prepare(model, [key])[0])
    rule.update(model, objective, [key])
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]), parts


@pytest.mark.parametrize("rule", ["Adam", "spring"])
@pytest.mark.parametrize("flips", [pytest.param("exact", marks=pytest.mark.slow), 3])
def test_a_small_budget_gives_the_same_step(rule: str, flips: str | int) -> None:
    whole, one = one_step(settings(rule, {"flips": flips, "window": 1, "memory_MiB": 4096}))
    cut, several = one_step(settings(rule, {"flips": flips, "window": 1, "memory_MiB": 2}))
    assert one == 1 and several > 10
    assert (cut - whole).abs().max() < 1e-9 * whole.abs().max()


def test_gradients_through_all_flips_come_in_smaller_parts() -> None:
    train = {"flips": "exact", "true_grad": True, "K": 4}
    whole, one = one_step(settings("Adam", {**train, "memory_MiB": 4096}))
    cut, several = one_step(settings("Adam", {**train, "memory_MiB": 32}))
    assert one == 1 and several > 1
    assert (cut - whole).abs().max() < 1e-9 * whole.abs().max()


def test_a_transfer_in_parts_has_the_same_gradient_and_divergence() -> None:
    found = []
    for memory in (4096, 2):
        given = settings("Adam", {"memory_MiB": memory, "Q": 2})
        objective = TeacherLikelihood(build_model(settings("Adam", {"seed": 2})), given.train)
        model = build_model(given)
        rule = update_rule(model, given)
        metrics = rule.update(model, objective, [BatchKey(1, 0, 0), BatchKey(1, 0, 1)])
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        found.append((gradient, metrics))
    (whole, expected), (cut, metrics) = found
    assert (cut - whole).abs().max() < 1e-9 * whole.abs().max()
    assert metrics == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", ["Adam", pytest.param("spring", marks=pytest.mark.slow)])
def test_the_process_stays_within_the_budget(rule: str) -> None:
    """16x16 with the original's width: all at once would take 500 MiB and more for the gradients of 512 samples."""
    case = {"side": 16, "budget": 64, "rule": rule, "K": 512, "train": {"flips": 1, "window": 0}}
    assert measured(case)["peak"] < allowed(64)


def test_the_test_of_the_budget_can_fail() -> None:
    case = {"side": 16, "budget": 4096, "rule": "Adam", "K": 512, "train": {"flips": 1, "window": 0}}
    assert measured(case)["peak"] > 1.5 * allowed(64)


@pytest.mark.slow
def test_the_memory_of_a_process_stays_flat_over_many_steps() -> None:
    """Bytes per step that `qsr train` holds, by least squares over the steps from 1000 to 5000; the first ones warm up."""
    points = resident(LONG["PTF, Adam"], 5000)
    assert [step for step, _ in points] == list(range(250, 5001, 250))
    assert slope(points) < FLAT


def test_a_leak_is_seen() -> None:
    assert slope([(step, 10**8 + 2000 * step) for step in range(0, 5001, 250)]) == pytest.approx(2000)
