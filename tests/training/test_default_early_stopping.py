"""Early stopping by several metrics: hand-made courses of metrics, and when they end."""

import io
import math
from typing import Any

import pandas
import pytest
import torch

from qsr.hparams import ConfigError
from qsr.training.default_early_stopping import DefaultEarlyStopping
from qsr.training.metric_table import MetricTable


def task(metric: str = "loss", **changes: Any) -> dict[str, Any]:
    return {"metric": metric, "delta": 0.0, "mode": "min", "grace_period": 0, "init_best_score": 100.0, **changes}


def verdicts(stopping: DefaultEarlyStopping, **columns: list[float]) -> list[bool]:
    """What it says as the table grows by a row at a time."""
    length = len(next(iter(columns.values())))
    return [stopping({name: values[:end] for name, values in columns.items()}) for end in range(1, length + 1)]


def stops_at(stopping: DefaultEarlyStopping, **columns: list[float]) -> int | None:
    """Number of the first call that says stop."""
    found = verdicts(stopping, **columns)
    return found.index(True) + 1 if True in found else None


@pytest.mark.parametrize(("grace", "patience", "call"), [(0, 3, 3), (2, 3, 5), (0, 1, 1), (4, 1, 5)])
def test_without_improvement_it_stops_after_grace_and_patience(grace: int, patience: int, call: int) -> None:
    assert stops_at(DefaultEarlyStopping({0: task(grace_period=grace)}, patience), loss=[200.0] * 8) == call


@pytest.mark.parametrize("grace", [0, 2])
def test_patience_0_is_patience_1(grace: int) -> None:
    losses = [9.0, 8.0, 7.0, 7.0, 6.0]
    for patience in (0, 1):
        assert stops_at(DefaultEarlyStopping({0: task(grace_period=grace)}, patience), loss=losses) == 4


def test_an_improvement_gives_the_patience_back_but_not_the_grace_period() -> None:
    stopping = DefaultEarlyStopping({0: task(grace_period=1)}, 2)
    #                       grace, -1, better, -1, -1: stop
    assert verdicts(stopping, loss=[100, 100, 50.0, 60, 50.0]) == [False, False, False, False, True]
    assert stopping.tasks[0]["best_score"] == 50.0


def test_grace_runs_out_in_evaluations_that_are_better_too() -> None:
    assert stops_at(DefaultEarlyStopping({0: task(grace_period=2)}, 1), loss=[9.0, 8.0, 8.0]) == 3


@pytest.mark.parametrize(("mode", "values"), [("min", [90.0, 89.5, 89.0]), ("max", [110.0, 110.5, 111.0])])
def test_better_is_by_more_than_delta(mode: str, values: list[float]) -> None:
    """100 -> 90 is better by 10; half a unit more is not better by more than 1, and a whole one neither."""
    stopping = DefaultEarlyStopping({0: task(mode=mode, delta=1.0)}, 9)
    found = []
    for end in range(1, 4):
        stopping({"loss": values[:end]})
        found.append(stopping.found_better_model)
    assert found == [True, False, False]
    assert stopping.tasks[0]["best_score"] == values[0]


def test_exactly_delta_is_not_better() -> None:
    stopping = DefaultEarlyStopping({0: task(delta=10.0)}, 9)
    stopping({"loss": [90.0]})
    assert not stopping.found_better_model
    stopping({"loss": [90.0, math.nextafter(90.0, 0.0)]})
    assert stopping.found_better_model


def test_anything_is_better_than_infinity() -> None:
    stopping = DefaultEarlyStopping({0: task(init_best_score=math.inf)}, 1)
    assert verdicts(stopping, loss=[1e300, 1e300]) == [False, True]


def test_nan_is_never_better() -> None:
    assert stops_at(DefaultEarlyStopping({0: task(), 1: task(mode="max")}, 2), loss=[math.nan] * 3) == 2


def test_any_and_all() -> None:
    tasks = {"a": task("a"), "b": task("b")}
    courses = {"a": [50.0, 40.0, 40.0], "b": [200.0, 200.0, 200.0]}
    some = DefaultEarlyStopping(tasks, 1, "any")
    assert verdicts(some, **courses) == [False, False, True]
    assert (some.tasks["a"]["best_score"], some.tasks["b"]["best_score"]) == (40.0, 100.0)
    every = DefaultEarlyStopping(tasks, 1, "all")
    assert stops_at(every, **courses) == 1
    assert every.tasks["a"]["found_better"] and every.tasks["a"]["best_score"] == 100.0, "it improved alone: not taken over"
    both = DefaultEarlyStopping(tasks, 1, "all")
    assert not both({"a": [50.0], "b": [60.0]}) and both.found_better_model
    assert (both.tasks["a"]["best_score"], both.tasks["b"]["best_score"]) == (50.0, 60.0)


def test_the_longest_grace_period_counts() -> None:
    tasks = {0: task(grace_period=1), 1: task(grace_period=3)}
    assert stops_at(DefaultEarlyStopping(tasks, 2), loss=[200.0] * 8) == 5


def test_the_configuration_comes_back_as_it_was() -> None:
    config = {"tasks": {0: task(init_best_score=1e9), "other": task(mode="max")}, "mode": "all", "patience": 0}
    stopping = DefaultEarlyStopping.from_config(config)
    stopping({"loss": [1.0]})
    assert stopping.to_config() == config
    assert set(config["tasks"][0]) == set(task()), "the state is not written into what was given"  # type: ignore[index]
    assert [type(name) for name in stopping.to_config()["tasks"]] == [int, str]


def test_reset_leaves_the_patience() -> None:
    stopping = DefaultEarlyStopping({0: task(grace_period=1), "1": task()}, 5)
    verdicts(stopping, loss=[50.0, 50.0, 50.0])
    assert stopping.current_patience == 3
    stopping.reset(1)
    kept = ("best_score", "current_grace_period", "found_better")
    assert [stopping.tasks["1"][name] for name in kept] == [100.0, 0, False]
    assert stopping.tasks[0]["best_score"] == 50.0
    stopping.reset("all")
    assert [stopping.tasks[0][name] for name in kept] == [100.0, 1, False]
    assert stopping.current_patience == 3


def test_the_state_goes_through_a_file_and_continues() -> None:
    """Of float64 of NumPy, which `torch.load(weights_only=True)` refuses, nothing is left."""
    losses = [90.0, 95.0, 80.0, 85.0, 85.0, 85.0]
    whole = DefaultEarlyStopping({0: task(grace_period=1)}, 3)
    expected = verdicts(whole, loss=losses)
    first = DefaultEarlyStopping({0: task(grace_period=1)}, 3)
    for end in (1, 2, 3):
        first(pandas.DataFrame({"loss": losses[:end]}))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    state["tasks"] = {str(name): saved for name, saved in state["tasks"].items()}  # as JSON has it
    second = DefaultEarlyStopping({0: task(grace_period=1)}, 3)
    second.load_state_dict(state)
    assert [second({"loss": losses[:end]}) for end in (4, 5, 6)] == expected[3:] == [False, False, True]
    assert second.state_dict() == whole.state_dict()


def test_a_state_leaves_the_settings_as_they_are() -> None:
    """Of a patience of 4, three evaluations were used; 1 is left of it, 3 of a patience of 6, and of 2 none."""
    first = DefaultEarlyStopping({0: task(delta=1.0)}, 4, "all")
    verdicts(first, loss=[50.0, 50.0, 50.0, 50.0])
    for patience, calls in ((4, 1), (6, 3), (2, 1)):
        other = DefaultEarlyStopping({"0": task(delta=2.0)}, patience, "any")
        other.load_state_dict(first.state_dict())
        assert (other.mode, other.patience, other.tasks["0"]["delta"]) == ("any", patience, 2.0)
        assert other.tasks["0"]["best_score"] == 50.0
        assert stops_at(other, loss=[50.0] * 5) == calls
    other.load_state_dict(first.state_dict())
    assert not other({"loss": [10.0]}) and other.current_patience == 2, "a better model gives the new patience"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": {}}, "the state is of the tasks none, and there are 0, f1"),
        (
            {"tasks": {"0": {"current_grace_period": 0, "best_score": 1.0, "found_better": True}}},
            "of the tasks 0, and there are 0, f1",
        ),
        ({"tasks": {"0": {}, "f1": {}}}, "not a state"),
        ({"tasks": None}, "not a state"),
        ({"current_patience": None}, "not a state"),
    ],
)
def test_states_of_something_else_are_refused(change: dict[str, Any], said: str) -> None:
    stopping = DefaultEarlyStopping({0: task(), "f1": task("f1")}, 2)
    before = stopping.state_dict()
    with pytest.raises(ConfigError, match=said):
        stopping.load_state_dict({**before, **change})
    with pytest.raises(ConfigError, match="not a state"):
        stopping.load_state_dict({})
    assert stopping.state_dict() == before


@pytest.mark.parametrize("empty", [MetricTable(["loss"]), MetricTable(), pandas.DataFrame(), {"loss": []}])
def test_an_empty_table_is_refused(empty: Any) -> None:
    with pytest.raises(ValueError, match="empty data"):
        DefaultEarlyStopping({0: task()}, 1)(empty)


def test_a_metric_must_be_a_column_of_numbers() -> None:
    stopping = DefaultEarlyStopping({0: task("loss_av")}, 1)
    with pytest.raises(ConfigError, match=r"loss_av: no such column; did you mean 'loss_avg'"):
        stopping(MetricTable(rows=[{"loss_avg": 1.0}]))
    with pytest.raises(ConfigError, match="did you mean 'loss_avg'"):
        stopping.check_columns(["loss_avg", "f1"])
    with pytest.raises(ConfigError, match="one number is needed"):
        DefaultEarlyStopping({0: task("f1")}, 1)(MetricTable(rows=[{"f1": [0.5, 0.7]}]))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"tasks": {0: {name: value for name, value in task().items() if name != "delta"}}}, "delta: this setting is required"),
        ({"tasks": {0: task(delta=-1.0)}}, "delta=-1.0: must be at least 0"),
        ({"tasks": {0: task(grace=1)}}, "grace: unknown setting; did you mean 'grace_period'"),
        ({"tasks": {0: task(mode="minimum")}}, "mode=minimum: must be 'min' or 'max'"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": {0: task(init_best_score=math.nan)}}, "init_best_score=nan: must be a number, or .inf"),
        ({"tasks": {0: task(), "0": task()}}, "the number 0 and the text '0' are one name"),
        ({"patience": -1}, "patience=-1"),
        ({"mode": "most"}, "mode=most"),
        ({"mood": "any"}, "mood: unknown setting"),
    ],
)
def test_impossible_settings_are_refused(broken: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DefaultEarlyStopping.from_config({"tasks": {0: task()}, "mode": "any", "patience": 2, **broken})


@pytest.mark.parametrize("missing", ["mode", "patience", "tasks"])
def test_a_configuration_says_everything(missing: str) -> None:
    config = {"tasks": {0: task()}, "mode": "any", "patience": 2}
    del config[missing]
    with pytest.raises(ConfigError, match=f"{missing}: this setting is required"):
        DefaultEarlyStopping.from_config(config)
