"""Evaluators: every form of monitor, against sklearn and against numbers made by hand."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn.metrics
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from qsr.hparams import ConfigError
from qsr.training.evaluators import Evaluator, Tester, Validator, as_criterion
from qsr.training.metric_table import MetricTable, last_row
from qsr.training.monitors import arrays
from qsr.training.scores import SCORES


class Graphs(SimpleNamespace):
    """A batch of graphs as far as an evaluator looks at it."""

    def to(self, device: Any) -> "Graphs":
        return self

    @property
    def num_graphs(self) -> int:
        return len(self.x)


class Outputs(nn.Module):
    """Returns its inputs, as the output of one head or of several."""

    def __init__(self, *heads: Any) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Any:
        return {head: x * (index + 1) for index, head in enumerate(self.heads)} if self.heads else x


def apply(model: nn.Module, data: Graphs) -> Any:
    return model(data.x)


def mean_of_x(outputs: Any, data: Graphs) -> Tensor:
    return data.x.mean()


def classes(sizes: tuple[int, ...] = (5, 4, 2), number: int = 3) -> list[Graphs]:
    generator = torch.Generator().manual_seed(1)
    return [
        Graphs(x=torch.randn(size, number, generator=generator), y=torch.randint(number, (size,), generator=generator))
        for size in sizes
    ]


def evaluated(batches: list[Graphs], monitor: Any, model: nn.Module | None = None, **rest: Any) -> Any:
    tasks = [{"name": "score", "monitor": monitor, **rest}]
    return Evaluator("cpu", mean_of_x, tasks, apply).evaluate(model or Outputs(0), batches)["score"][-1]


def labels_of(batches: list[Graphs]) -> tuple[np.ndarray, np.ndarray]:
    return torch.cat([batch.y for batch in batches]).numpy(), torch.cat([batch.x for batch in batches]).argmax(dim=1).numpy()


# --- losses and rows -----------------------------------------------------------------------------------------------------


def test_losses_are_averaged_over_graphs() -> None:
    """Batches of three graphs of loss 1 and of one of loss 5: 2 is the mean over graphs, 3 that over batches."""
    batches = [Graphs(x=torch.full((3, 1), 1.0)), Graphs(x=torch.full((1, 1), 5.0))]
    table = Validator("cpu", mean_of_x, None, apply).validate(Outputs(), batches)
    assert table.columns == ["loss_avg", "loss_min", "loss_max"]
    assert table.rows == [{"loss_avg": 2.0, "loss_min": 1.0, "loss_max": 5.0}]


def test_each_evaluation_is_a_row() -> None:
    tester = Tester("cpu", mean_of_x, [{"name": "accuracy", "monitor": "accuracy"}], apply)
    assert len(tester.data) == 0 and tester.data.columns == ["loss_avg", "loss_min", "loss_max", "accuracy"]
    model = Outputs(0).train()
    for number in (1, 2):
        assert tester.test(model, classes()) is tester.data and len(tester.data) == number
    assert not model.training
    assert tester.data.rows[0] == tester.data.rows[1]
    assert tester.tasks == [("accuracy", SCORES["accuracy"])]


def test_no_gradients_are_kept_and_none_are_needed() -> None:
    weight = torch.ones(1, requires_grad=True)
    seen: list[Any] = []
    tasks = [{"name": "n", "monitor": lambda predictions, targets: seen.extend(predictions) or len(predictions)}]
    Evaluator("cpu", lambda out, data: out.mean(), tasks, lambda model, data: data.x * weight).evaluate(Outputs(), classes())
    assert len(seen) == 3 and not any(found.requires_grad for found in seen)


def test_the_report_is_the_last_row(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for kind in (Validator, Tester):
            evaluator = kind("cpu", mean_of_x, [{"name": "each", "monitor": lambda p, t: [0.25, 0.5]}], apply)
            evaluator.report(evaluator.evaluate(Outputs(), [Graphs(x=torch.full((2, 1), 1.5))]))
    numbers = "loss_avg=1.5 loss_min=1.5 loss_max=1.5 each=[0.25, 0.5]"
    assert caplog.messages == [f"Validation results: {numbers}", f"Testing results: {numbers}"]


def test_without_batches_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(ConfigError, match="no batches"):
        Evaluator("cpu", mean_of_x, None, apply).evaluate(Outputs(), [])


def test_rows_go_through_a_state() -> None:
    first, second = (Evaluator("cpu", mean_of_x, [{"name": "f", "monitor": "f1"}], apply) for _ in range(2))
    first.evaluate(Outputs(0), classes())
    second.load_state_dict(first.state_dict())
    first.evaluate(Outputs(0), classes())
    assert second.data.rows == first.data.rows[:1]


def test_no_task_has_the_name_of_the_loss() -> None:
    with pytest.raises(ConfigError, match=r"evaluator_tasks\.name=loss: is what loss_avg is called among the metrics of a run"):
        Evaluator("cpu", mean_of_x, [{"name": "loss", "monitor": "mae"}])


class Sum(nn.Module):
    """A model of graphs, as far as its inputs go."""

    def forward(self, x: Tensor, edge_index: float = 0.0, batch: float = 0.0) -> Tensor:
        return x.mean() + edge_index + batch


def test_a_model_of_graphs_gets_three_inputs_unless_something_else_is_set() -> None:
    evaluator = Evaluator("cpu", lambda outputs, data: outputs)
    assert evaluator.apply_model is None, "a trainer may fill it in"
    batches = [Graphs(x=torch.ones(2), edge_index=20.0, batch=300.0)]
    evaluator.evaluate(Sum(), batches)
    evaluator.apply_model = apply
    assert evaluator.evaluate(Sum(), batches)["loss_avg"].tolist() == [321.0, 1.0]


# --- forms of monitors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3])
def test_scores_of_classes_by_name(number: int) -> None:
    batches = classes((7, 6, 3), number)
    y_true, y_pred = labels_of(batches)
    assert evaluated(batches, "accuracy") == pytest.approx(sklearn.metrics.accuracy_score(y_true, y_pred), abs=1e-15)
    assert evaluated(batches, "f1") == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred, average="macro"), abs=1e-15)
    weighted = sklearn.metrics.f1_score(y_true, y_pred, average="weighted")
    assert evaluated(batches, "f1_weighted") == pytest.approx(weighted, abs=1e-15)


def test_f1_of_a_class_that_is_never_found_is_0() -> None:
    y_true, y_pred = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 3])
    expected = sklearn.metrics.f1_score(y_true, y_pred, average="macro", zero_division=0.0)
    assert SCORES["f1"](y_true, y_pred) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mae", sklearn.metrics.mean_absolute_error),
        ("mse", sklearn.metrics.mean_squared_error),
        ("r2", sklearn.metrics.r2_score),
    ],
)
def test_scores_of_numbers_by_name(name: str, reference: Any, columns: int) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (6,) if columns == 1 else (6, columns)
    batches = [
        Graphs(x=torch.randn(6, columns, generator=generator), y=torch.randn(*shape, generator=generator)) for _ in range(2)
    ]
    y_true, y_pred = (torch.cat([getattr(batch, part) for batch in batches]).numpy() for part in ("y", "x"))
    assert evaluated(batches, name) == pytest.approx(reference(y_true, y_pred.reshape(y_true.shape)), rel=1e-6)


@pytest.mark.parametrize("found", [[2.0, 2.0], [2.0, 3.0]])
def test_r2_of_a_target_that_never_changes(found: list[float]) -> None:
    true = np.array([2.0, 2.0])
    assert SCORES["r2"](true, np.array(found)) == sklearn.metrics.r2_score(true, np.array(found))


def test_a_function_of_sklearn_with_its_arguments() -> None:
    batches = classes()
    y_true, y_pred = labels_of(batches)
    found = evaluated(batches, sklearn.metrics.f1_score, kwargs={"average": "weighted"})
    assert found == sklearn.metrics.f1_score(y_true, y_pred, average="weighted")
    each = evaluated(batches, sklearn.metrics.f1_score, kwargs={"average": None})
    assert each == sklearn.metrics.f1_score(y_true, y_pred, average=None).tolist()
    assert evaluated(batches, sklearn.metrics.fbeta_score, kwargs={"average": "macro", "beta": 2.0}) == pytest.approx(
        sklearn.metrics.fbeta_score(y_true, y_pred, average="macro", beta=2.0)
    )


@pytest.mark.parametrize(
    ("reducer", "value"), [(np.mean, 3.0), (np.median, 3.0), (np.std, 2.0), (np.min, 1.0), (np.max, 5.0), (torch.mean, 3.0)]
)
def test_reducers_take_the_losses_of_the_batches(reducer: Any, value: float) -> None:
    batches = [Graphs(x=torch.full((3, 1), 1.0)), Graphs(x=torch.full((1, 1), 5.0))]
    assert evaluated(batches, reducer) == value


def test_any_other_function_takes_lists_and_arguments() -> None:
    def count(predictions: Any, targets: Any, factor: int, plus: int = 0) -> int:
        assert [len(found[0]) for found in predictions] == [len(target) for target in targets] == [5, 4, 2]
        return len(predictions) * factor + plus

    assert evaluated(classes(), count, args=[10], kwargs={"plus": 1}) == 31.0


class CountRight:
    """A metric in the manner of torchmetrics."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.right = scale, -1

    def reset(self) -> None:
        self.right = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.right += int((prediction.argmax(dim=1) == target).sum())

    def compute(self) -> Tensor:
        return torch.tensor(self.right * self.scale)


def test_metrics_with_update_and_compute() -> None:
    batches = classes()
    y_true, y_pred = labels_of(batches)
    right = float((y_true == y_pred).sum())
    assert evaluated(batches, CountRight(), Outputs("a", "b"), task="b") == right
    evaluator = Evaluator("cpu", mean_of_x, [{"name": "n", "monitor": CountRight, "kwargs": {"scale": 2.0}}], apply)
    for _ in range(2):  # reset each time
        assert evaluator.evaluate(Outputs(0), batches)["n"][-1] == 2 * right


def test_metrics_of_torchmetrics() -> None:
    batches = classes()
    y_true, y_pred = labels_of(batches)
    metric = MulticlassAccuracy(num_classes=3, average="micro")
    assert evaluated(batches, metric) == pytest.approx((y_true == y_pred).mean(), abs=1e-6)
    assert evaluated(batches, MulticlassAccuracy, args=[3], kwargs={"average": "micro"}) == evaluated(batches, metric)


def test_functions_of_files_are_called_by_their_names() -> None:
    batches = classes()
    y_true, y_pred = labels_of(batches)
    found = evaluated(batches, "sklearn.metrics.f1_score", kwargs={"average": "weighted"})
    assert found == sklearn.metrics.f1_score(y_true, y_pred, average="weighted")
    with pytest.raises(ConfigError, match="not among the objects"):
        evaluated(batches, "os.system")


class Difference:
    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, predictions: list[Any], targets: list[Tensor]) -> float:
        return self.shift + len(predictions)


def test_a_class_is_built_with_its_arguments() -> None:
    assert evaluated(classes(), Difference, args=[0.5]) == 3.5


def test_the_head_is_the_first_or_the_one_that_is_named() -> None:
    batches = [Graphs(x=torch.tensor([1.0, 2.0]), y=torch.tensor([0.0, 0.0]))]
    assert evaluated(batches, "mae", Outputs(0, 1)) == 1.5
    assert evaluated(batches, "mae", Outputs(0, 1), task=1) == 3.0
    assert evaluated(batches, "mae", Outputs(0, 1), task="1") == 3.0
    with pytest.raises(ConfigError, match=r"task=2: score: the model has the outputs 0, 1"):
        evaluated(batches, "mae", Outputs(0, 1), task=2)


def test_one_output_and_labels_is_a_logit() -> None:
    y_true, y_pred = arrays([torch.tensor([[-0.1], [0.0], [2.0]])], [torch.tensor([[1], [1], [0]])])
    assert y_true.tolist() == [1, 1, 0] and y_pred.tolist() == [0, 1, 1]


def test_a_task_replaces_a_column_of_its_name() -> None:
    batches = [Graphs(x=torch.full((3, 1), 1.0)), Graphs(x=torch.full((1, 1), 5.0))]
    table = Evaluator("cpu", mean_of_x, [{"name": "loss_avg", "monitor": np.mean}], apply).evaluate(Outputs(), batches)
    assert table.columns == ["loss_avg", "loss_min", "loss_max"] and table["loss_avg"][-1] == 3.0


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"name": "a", "monitor": "f1_wieghted"}, "unknown score; did you mean 'f1_weighted'"),
        ({"name": "a", "monitor": "f1", "kwargs": {"average": None}}, "takes no arguments"),
        ({"name": "a", "monitor": 3.0}, "must be a function or a metric, found float"),
        ({"name": "a"}, "monitor: this setting is required"),
        ({"name": "a", "monitor": "f1", "metric": "x"}, "metric: unknown setting"),
    ],
)
def test_tasks_that_cannot_be_used(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Evaluator("cpu", mean_of_x, [task])


def test_results_must_be_numbers_and_targets_must_be_there() -> None:
    with pytest.raises(ConfigError, match="score: must give numbers, found dict"):
        evaluated(classes(), lambda predictions, targets: {"a": 1})
    with pytest.raises(ConfigError, match="the data have no y"):
        evaluated([Graphs(x=torch.ones(2, 1))], "mae")
    with pytest.raises(ConfigError, match=r"outputs \(2, 3\) do not fit the targets \(2,\)"):
        evaluated([Graphs(x=torch.ones(2, 3), y=torch.ones(2))], "mae")
    with pytest.raises(ConfigError, match="two tasks of this name"):
        Evaluator("cpu", mean_of_x, [{"name": "a", "monitor": "f1"}] * 2)


# --- the criterion -------------------------------------------------------------------------------------------------------


def two(outputs: Tensor, data: Any) -> Tensor:
    return outputs.sum()


def with_weight(outputs: Tensor, data: Any, weight: float = 2.0) -> Tensor:
    return weight * outputs.sum()


def with_trainer(outputs: Tensor, data: Any, trainer: Any) -> Tensor:
    return trainer.factor * outputs.sum()


class AsModule(nn.Module):
    def forward(self, outputs: Tensor, data: Any) -> Tensor:
        return outputs.sum()


@pytest.mark.parametrize(
    ("criterion", "value"),
    [(two, 3.0), (with_weight, 6.0), (with_trainer, 15.0), (AsModule(), 3.0), (lambda *all: all[2].factor * all[0].sum(), 15.0)],
)
def test_the_trainer_is_given_to_who_asks_for_it(criterion: Any, value: float) -> None:
    assert float(as_criterion(criterion, SimpleNamespace(factor=5.0))(torch.ones(3), None)) == value


@pytest.mark.parametrize(("result", "found"), [(torch.ones(2), r"\(2,\)"), (1.0, "float")])
def test_a_criterion_returns_a_scalar(result: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"must return a scalar tensor, found {found}"):
        as_criterion(lambda outputs, data: result)(None, None)


# --- the table -----------------------------------------------------------------------------------------------------------


def test_a_table_is_read_by_columns_and_rows(tmp_path: Path) -> None:
    table = MetricTable(["a"], [{"a": 1.5}, {"a": 0.1, "each": [1.0, 2.0]}])
    assert len(table) == 2 and list(table) == table.columns == ["a", "each"] and "each" in table
    assert table["a"][-1] == 0.1 and list(table["a"]) == [1.5, 0.1]
    assert np.isnan(table["each"][0]) and table["each"][1] == [1.0, 2.0]
    assert table.tail(1).rows == [{"a": 0.1, "each": [1.0, 2.0]}] and table.tail(1).columns == table.columns
    with pytest.raises(KeyError, match="no column 'b'"):
        table["b"]
    table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == 'a,each\n1.5,nan\n0.1,"[1.0, 2.0]"\n'
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["a"].tolist() == [1.5, 0.1]
    assert last_row(frame)["a"] == 0.1 == last_row(table)["a"] and last_row(MetricTable(["a"])) == {}
