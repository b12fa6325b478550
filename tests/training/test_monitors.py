"""What monitors make of labels and numbers: against sklearn and torchmetrics on raw outputs; and monitors that cannot be used."""

import functools
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor
from torchmetrics import MeanSquaredError
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

from qsr.hparams import ConfigError
from qsr.training.monitors import EvaluatorTask, Monitor, Seen

LABELS = torch.tensor([0, 1, 1, 0, 1, 1, 0])
# A logit of each; some are wrong, and the last two are too large for a sigmoid to tell them apart.
LOGITS = torch.tensor([-2.0, 0.5, -0.1, 0.2, 3.0, 50.0, 49.0], dtype=torch.float64)


def value(monitor: Any, outputs: Tensor, targets: Tensor, **rest: Any) -> Any:
    """Of two batches."""
    seen = Seen([outputs[:4], outputs[4:]], [targets[:4], targets[4:]], [0.5, 1.5], [4, len(targets) - 4])
    return Monitor(EvaluatorTask(name="score", monitor=monitor, **rest))(seen)


def spread(rows: int = 7, columns: int = 3) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


# --- what is compared ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mae", sklearn.metrics.mean_absolute_error),
        ("mse", sklearn.metrics.mean_squared_error),
        ("r2", sklearn.metrics.r2_score),
    ],
)
def test_regression_scores_take_numbers_also_where_the_targets_are_integers(name: str, function: Any, shape: Any) -> None:
    counts = torch.tensor([3, 0, 7, 2, 2, 5, 1])
    outputs = spread(columns=1)
    expected = function(counts.numpy(), outputs[:, 0].double().numpy())
    assert value(name, outputs, counts.reshape(shape)) == pytest.approx(expected, rel=1e-12)
    assert value(function, outputs, counts.reshape(shape)) == pytest.approx(expected, rel=1e-12)
    assert value(functools.partial(function, multioutput="raw_values"), outputs, counts) == [pytest.approx(expected, rel=1e-12)]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_labels_may_have_a_point(columns: int) -> None:
    outputs = LOGITS[:, None] if columns == 1 else spread(columns=columns)
    for score in ("accuracy", "f1", "f1_weighted", sklearn.metrics.f1_score):
        rest = {"kwargs": {"average": "macro", "zero_division": 0.0}} if callable(score) else {}
        whole = value(score, outputs, LABELS, **rest)
        assert value(score, outputs, LABELS.float(), **rest) == value(score, outputs, LABELS[:, None].double(), **rest) == whole
        assert 0 < whole < 1


@pytest.mark.parametrize("score", ["accuracy", "f1", "f1_weighted", sklearn.metrics.accuracy_score])
def test_numbers_are_no_labels(score: Any) -> None:
    with pytest.raises(ConfigError, match=r"monitor: score: needs labels, whole numbers, found 0\.5 among the targets"):
        value(score, spread(columns=1), torch.tensor([0.0, 0.5, 1, 0, 1, 1, 0]))
    with pytest.raises(ConfigError, match="with a single output the labels must be 0 and 1, found 4"):
        value(score, spread(columns=1), torch.tensor([0, 1, 4, 0, 1, 1, 0]))


@pytest.mark.parametrize("score", [sklearn.metrics.roc_auc_score, "sklearn.metrics.roc_auc_score"])
def test_two_classes_are_ordered_by_their_logits(score: Any) -> None:
    """As many digits as there are: the sigmoids of 49 and 50 are equal."""
    expected = sklearn.metrics.roc_auc_score(LABELS, LOGITS)
    assert value(score, LOGITS, LABELS) == value(score, LOGITS[:, None], LABELS.float()) == expected
    assert value(score, torch.stack([0.1 - LOGITS, 0.1 + LOGITS], dim=1), LABELS) == expected
    assert expected != sklearn.metrics.roc_auc_score(LABELS, LOGITS.sigmoid())


def test_more_classes_are_ordered_by_their_probabilities() -> None:
    labels, outputs = torch.tensor([0, 2, 1, 0, 1, 2, 2]), spread()
    probabilities = outputs.double().softmax(dim=1).numpy()
    for kind in ("ovr", "ovo"):
        expected = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class=kind)
        assert value(sklearn.metrics.roc_auc_score, outputs, labels, kwargs={"multi_class": kind}) == expected
    with pytest.raises(ConfigError, match=r"score: ValueError: multi_class must be in"):
        value(sklearn.metrics.roc_auc_score, outputs, labels)


def test_functions_of_probabilities_get_them() -> None:
    def likelihood(y_true: Any, y_proba: Any) -> float:
        chosen = np.where(y_true == 1, y_proba, 1 - y_proba) if y_proba.ndim == 1 else y_proba[np.arange(7), y_true]
        return float(np.log(chosen).mean())

    logits, labels = spread(columns=1), torch.tensor([0, 2, 1, 0, 1, 2, 2])
    of_one = -torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0].double(), LABELS.double())
    assert value(likelihood, logits, LABELS) == pytest.approx(float(of_one), rel=1e-12)
    assert value(likelihood, torch.cat([0 * logits, logits], dim=1), LABELS) == pytest.approx(float(of_one), rel=1e-12)
    of_three = -torch.nn.functional.cross_entropy(spread().double(), labels)
    assert value(likelihood, spread(), labels) == pytest.approx(float(of_three), rel=1e-12)


def test_metrics_get_outputs_in_the_shape_of_the_targets() -> None:
    outputs, targets = spread(columns=1), spread(columns=1)[:, 0] + torch.arange(7)
    expected = pytest.approx(float(((outputs[:, 0] - targets) ** 2).mean()), rel=1e-6)
    for one, other in ((outputs, targets), (outputs[:, 0], targets[:, None]), (outputs, targets[:, None])):
        assert value(MeanSquaredError(), one, other) == expected
    right = value("accuracy", LOGITS, LABELS)
    assert value(BinaryAccuracy(), LOGITS[:, None], LABELS) == pytest.approx(right, rel=1e-6)
    labels = torch.tensor([[0], [2], [1], [0], [1], [2], [2]])
    assert value(MulticlassAccuracy, spread(), labels, args=[3], kwargs={"average": "micro"}) == pytest.approx(
        value("accuracy", spread(), labels), abs=1e-6
    )


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        *((np.amin, 0.5), (np.amax, 1.5), (np.sum, 2.0), (np.var, 0.25), (min, 0.5), (max, 1.5), (sum, 2.0)),
        *((torch.min, 0.5), (torch.max, 1.5), (torch.median, 0.5), (torch.std, 0.5**0.5), (torch.sum, 2.0)),
    ],
)
def test_everything_that_reduces_a_list_takes_the_losses(reducer: Any, expected: float) -> None:
    assert value(reducer, LOGITS, LABELS) == pytest.approx(expected, rel=1e-15)


# --- what cannot be used -------------------------------------------------------------------------------------------------


def of_one(y_true: Any, y_pred: Any, scale: float = 1.0) -> float:
    return scale


def halved(predictions: Any, targets: Any, by: int = 0) -> float:
    return 1 / by


class Fussy:
    def __init__(self, number: int) -> None:
        self.number = 1 / number


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"monitor": sklearn.metrics.f1_score, "kwargs": {"averge": "macro"}}, "TypeError: .*'averge'"),
        ({"monitor": halved, "kwargs": {"bye": 1}}, "TypeError: .*'bye'"),
        ({"monitor": halved, "args": [1, 2]}, "TypeError: too many positional"),
        ({"monitor": lambda predictions: 1.0}, "TypeError: too many positional"),
        ({"monitor": np.mean, "kwargs": {"axes": 0}}, "TypeError: .*'axes'"),
        ({"monitor": of_one, "args": [1.0, 2.0]}, "takes at most 1 arguments beside the data, found 2"),
        ({"monitor": of_one, "args": [1.0], "kwargs": {"scale": 2.0}}, "scale stands in args and in kwargs"),
        ({"monitor": MulticlassAccuracy, "kwargs": {"number": 3}}, "(Type|Value)Error: .*`number`|TypeError: "),
        (
            {"monitor": MeanSquaredError(), "kwargs": {"squared": False}},
            "MeanSquaredError is made already and takes no arguments",
        ),
        ({"monitor": MeanSquaredError(), "args": [1]}, "MeanSquaredError is made already and takes no arguments"),
        ({"monitor": Fussy, "args": [0]}, "ZeroDivisionError: "),
        ({"monitor": Fussy, "args": [1]}, "must be a function or a metric, found Fussy"),
    ],
)
def test_arguments_are_checked_before_there_are_data(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluator_tasks\.monitor: mine: {said}") as raised:
        Monitor(EvaluatorTask(name="mine", **task))
    assert "\n" not in str(raised.value)


def test_what_a_monitor_raises_is_told_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^evaluator_tasks\.monitor: score: ZeroDivisionError: division by zero$") as raised:
        value(halved, LOGITS, LABELS)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(ConfigError, match=r"^evaluator_tasks\.monitor: score: ValueError: ") as raised:
        value(sklearn.metrics.f1_score, spread(), torch.tensor([0, 1, 2, 0, 1, 2, 2]), kwargs={"average": "binary"})
    assert "\n" not in str(raised.value)
