"""Collapse probabilities of every epoch, in numbers."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from qsr.hparams import ConfigError
from qsr.qembed import QuantumEmbeddings, register_schedule, schedules
from qsr.qembed.schedules import schedule


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(schedules, "_registered", {})
    yield


@pytest.mark.parametrize(
    ("kind", "epochs", "expected"),
    [
        ("linear", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("linear", 1, [0]),
        ("linear", 2, [0, 1]),
        ("cyclic", 1, [0]),
        ("cyclic", 2, [0, 1]),
        ("cyclic", 3, [0, 1, 0]),
        ("cyclic", 5, [0, 0.5, 1, 0.5, 0]),
        ("cyclic", 10, [0, 0.117, 0.413, 0.75, 0.970, 0.970, 0.75, 0.413, 0.117, 0]),
        ("constant", 3, [0.5, 0.5, 0.5]),
    ],
)
def test_sequences(kind: str, epochs: int, expected: list[float]) -> None:
    p = schedule(kind)
    assert [p(epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected, abs=5e-4)


def test_lengths_that_are_given_or_not_known() -> None:
    linear, cyclic = schedule("linear"), schedule("cyclic")
    assert [linear(e, None) for e in (0, 3, 10, 25)] == [0.0, 0.3, 1.0, 1.0]
    assert [cyclic(e, None) for e in (0, 5, 10, 15)] == pytest.approx([0.0, 1.0, 0.0, 1.0], abs=1e-12)
    assert [schedule("linear", schedule_epochs=4)(e, 100) for e in (1, 4, 50)] == [0.25, 1.0, 1.0]
    assert [schedule("cyclic", schedule_period=4)(e, 100) for e in (1, 2, 4, 6)] == pytest.approx([0.5, 1.0, 0.0, 1.0], abs=1e-12)
    assert linear(0.5, 5) == 0.125 and cyclic(0.5, 3) == pytest.approx(0.5)  # between epochs
    assert schedule("constant", collapse_probability=0.2)(7, 9) == 0.2


def test_functions_of_the_progress_and_registered_names() -> None:
    square = schedule(lambda progress: progress**2)
    assert [square(e, 5) for e in range(6)] == [0, 0.0625, 0.25, 0.5625, 1, 1]
    register_schedule("late", lambda progress: float(progress > 0.5))
    assert [schedule("late")(e, 5) for e in range(5)] == [0, 0, 0, 1, 1]
    register_schedule("late", lambda progress: torch.tensor(0.25))  # type: ignore[arg-type, return-value]
    assert schedule("late", schedule_epochs=3)(2, None) == 0.25


@pytest.mark.parametrize("gives", [1.01, -0.01, math.nan, None, "half"])
def test_functions_that_give_no_probability(gives: Any) -> None:
    def steep(progress: float) -> Any:
        return gives if progress > 0 else 0.0

    p = schedule(steep)
    assert p(0, 5) == 0.0
    with pytest.raises(ConfigError, match=r"superposition_schedule: steep gave .*; must be a number between 0 and 1"):
        p(1, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: schedule("liner"),
            "superposition_schedule='liner': must be one of linear, cyclic, constant; did you mean 'linear'",
        ),
        (lambda: schedule(3), "superposition_schedule=3"),  # type: ignore[arg-type]
        (lambda: schedule("linear", schedule_epochs=0), "schedule_epochs=0: must be a whole number of at least 1"),
        (lambda: schedule("linear", schedule_epochs=2.5), "schedule_epochs=2.5"),  # type: ignore[arg-type]
        (lambda: schedule("cyclic", schedule_period=0.0), "schedule_period=0.0: must be a finite number above 0"),
        (lambda: schedule("constant", collapse_probability=1.5), "collapse_probability=1.5: must be between 0 and 1"),
        (lambda: schedule("linear")(-1, 5), "epoch=-1"),
        (lambda: schedule("linear")(1, 0), "num_epochs=0: must be at least 1"),
        (lambda: register_schedule("cyclic", abs), "name='cyclic': must be a word other than linear, cyclic, constant"),
        (lambda: register_schedule("mine", 0.5), "function=0.5: must be a function of the progress"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_tokens_collapse_as_often_as_the_schedule_says() -> None:
    layer = QuantumEmbeddings(50, 4, 2, seed=0)
    p = schedule("cyclic", schedule_period=20)(4)
    found = layer(torch.randint(0, 50, (100, 1000)), collapse_probability=p).collapse_mask.double().mean().item()
    assert abs(found - p) < 4 * math.sqrt(p * (1 - p) / 1e5)
