"""What a model knows of its data: columns and classes by name wherever data come in, and rows that it cannot take."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import qsr
from qsr.hparams import ConfigError, Hparam, RunSettings
from qsr.hsm import HSM, predict
from qsr.jobs import predict_table
from qsr.runs import RunDirectory
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training import DataHparams, PyTorchData, RunFailed
from qsr.training.fitting import objective_of
from qsr.training.optimizers import OptimizerHparams
from qsr.training.rows import TensorRows
from qsr.training.table import Table
from tests.training.lines import CopyAt


def frame(rows: int = 80, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    kinds = np.where(x[:, 0] + x[:, 1] > 0, "b", "a")
    return pd.DataFrame({"f0": x[:, 0], "f1": x[:, 1], "f2": x[:, 2], "y": x[:, 0] - 2 * x[:, 1], "kind": kinds})


def fit(data: Any, path: Path | str = "<NONE>", epochs: int = 15, train: dict[str, Any] | None = None, **model: Any) -> qsr.Run:
    where = {"max_epochs": epochs, "lr": 0.03, "dir": str(path), "seed": 0, **(train or {})}
    return qsr.fit({"type": "hsm", "hilbert_space_dims": 4, **model}, data, where)


def table(data: pd.DataFrame, targets: str, **settings: Any) -> Table:
    return Table({"targets": targets, "input_features": ["f0", "f1", "f2"], "seed": 0, **settings}, data)


def test_classes_are_those_of_the_data() -> None:
    data = table(frame(), "kind")
    with pytest.raises(ConfigError, match=r"hsm\.classes=\['b', 'a'\]: the data have \['a', 'b'\], in this order"):
        fit(data, classes=("b", "a"))
    with pytest.raises(ConfigError, match=r"hsm\.classes=.*: the targets are numbers, not labels"):
        fit(table(frame(), "y"), classes=("b", "a"))
    with pytest.raises(ConfigError, match=r"data\.labels=False: CrossEntropyLoss of one target"):
        RunSettings.from_tree(
            {
                "model": {"type": "hsm", "loss": {"name": "CrossEntropyLoss"}},
                "data": {"type": "table", "targets": "y", "labels": False, "seed": 0},
            }
        )


def test_a_run_is_evaluated_on_its_own_columns_only(tmp_path: Path) -> None:
    run = fit(table(frame(), "kind"), tmp_path)
    other = frame(seed=1)
    only_b = other[other["kind"] == "b"]
    with pytest.raises(ConfigError, match=r"data\.classes=\['b'\]: the run has \['a', 'b'\]"):
        qsr.evaluate_on_data(run, table(only_b, "kind", split=(0.5, 0.5), stratify=False))
    turned = Table({"targets": "kind", "input_features": ["f2", "f1", "f0"], "seed": 0}, other)
    with pytest.raises(ConfigError, match=r"data\.input_features=\['f2', 'f1', 'f0'\]: the run has \['f0', 'f1', 'f2'\]"):
        qsr.evaluate_on_data(run, turned)
    report = predict_table(run, only_b)  # by names and classes of the run
    assert report.metrics["test/accuracy"] == np.mean(report.columns["kind"] == "b") > 0.8


def test_a_run_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run = qsr.fit(
        {"type": "hsm", "hilbert_space_dims": 3},
        table(frame(), "y"),
        {"max_epochs": 3, "dir": str(tmp_path), "seed": 0},
        callbacks=[CopyAt(2, tmp_path / "hsm" / "general" / "0", copy)],
    )
    for other, name in ((table(frame(seed=2), "y"), "sha256"), (table(frame(), "y", seed=5), "seed")):
        with pytest.raises(ConfigError, match=rf"data\.{name}=.*: the run has .*, and goes on with the same data only"):
            qsr.resume(copy, data=other)
    resumed = qsr.resume(copy, data=table(frame(), "y"))
    for first, second in zip(run.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_every_row_is_checked_also_those_held_back(bad: float) -> None:
    data = frame()
    held = table(data, "y").test.columns[0][0, 0].item()
    row = int(np.flatnonzero(data["f0"].to_numpy() == held)[0])
    data.loc[row, "f1"] = bad
    with pytest.raises(ConfigError, match=f"data: feature 'f1' of row {row + 1} is {bad:g}, expected a number"):
        fit(table(data, "y"))
    if np.isinf(bad):
        with pytest.raises(ConfigError, match=f"feature 'f1' of row {row + 1} is inf"):
            fit(table(data, "y"), missing="drop_terms")


def test_missing_features_and_their_weights_train_together() -> None:
    data = frame()
    data.loc[::3, "f2"] = np.nan
    run = fit(table(data, "y"), weighted_layer=True, missing="drop_terms", epochs=20)
    assert bool(torch.isfinite(run.model.input_weights).all())
    found = objective_of(run.settings, table(data, "y"))
    assert found.evaluate(run.model, found.validation, "validation")["validation/r2"] > 0.8  # type: ignore[arg-type]


def test_the_closed_form_is_evaluated_after_its_sweep(tmp_path: Path) -> None:
    model = {"hsm_model": "general_fullenergy", "method": "analytic"}
    run = fit(table(frame(), "y"), tmp_path, epochs=4, **model)
    assert run.path is not None
    found = objective_of(run.settings, table(frame(), "y"))
    stored = RunDirectory(run.path).history.read("epochs")["validation_loss"][-1]
    assert found.evaluate(run.model, found.validation, "validation")["validation/loss"] == pytest.approx(stored, rel=1e-6)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scheduler: has no effect with hsm\.method=analytic"):
        qsr.fit(
            {"type": "hsm", **model},
            table(frame(), "y"),
            {"dir": "<NONE>"},
            scheduler={"name": "StepLR", "kwargs": {"step_size": 1}},
        )


def test_no_column_of_predictions_hides_another() -> None:
    data = frame().rename(columns={"y": "energy"})
    run = fit(table(data, "energy"))
    found = predict(run.model, data[["f0", "f1", "f2"]])
    columns = found.columns(["energy"])
    assert list(columns) == ["energy", "energy_std", "hsm_energy"]
    assert np.array_equal(columns["energy"], found.values[:, 0]) and np.array_equal(columns["hsm_energy"], found.energy)
    labels = frame().assign(kind=np.where(np.arange(80) % 2, 1000001.0, 1000002.0))
    codes = fit(
        Table({"targets": "kind", "labels": True, "input_features": ["f0"], "seed": 0}, labels), loss={"name": "CrossEntropyLoss"}
    )
    assert list(predict(codes.model, labels[["f0"]]).columns(["kind"])) == ["kind", "p_1000001", "p_1000002", "energy"]


def test_r2_of_large_targets_has_its_digits() -> None:
    data = frame(400)
    data["y"] = 1e6 + data["y"]
    run = fit(table(data, "y"), epochs=60)
    report_rows = data.iloc[:100]
    found = predict(run.model, report_rows[["f0", "f1", "f2"]]).values[:, 0]
    y = report_rows["y"].to_numpy()
    expected = 1 - np.sum((found - y) ** 2) / np.sum((y - y.mean()) ** 2)
    run.model.eval()
    metrics = run.model.compute_metrics((torch.tensor(report_rows[["f0", "f1", "f2"]].to_numpy()), torch.tensor(y)[:, None]), 0)
    r2 = run.model.finish_metrics({f"test/{name}": value.item() for name, value in metrics.items()})["test/r2"]
    assert expected > 0.9 and r2 == pytest.approx(expected, abs=1e-4)


def test_predictions_for_rows_without_a_target_or_with_another(tmp_path: Path) -> None:
    run = fit(table(frame(), "kind"), tmp_path)
    rows = frame(10, seed=3)
    rows["kind"] = [None, "a", "zebra", *rows["kind"][3:]]
    report = predict_table(run, rows)
    assert report.known == 8 and len(report.columns["kind"]) == 10
    assert report.lines()[0] == "10 predictions, metrics of the 8 rows with a target that training knew"
    assert predict_table(run, rows.drop(columns="kind")).metrics == {}
    empty = predict_table(run, rows.assign(kind=None))
    assert empty.metrics == {} and empty.lines() == ["10 predictions"]
    array = predict_table(run, rows[["f0", "f1", "f2"]].to_numpy())  # an array: features in their order
    assert np.array_equal(array.columns["p_a"], report.columns["p_a"])


def test_an_index_is_no_feature_and_a_snapshot_s_label_neither(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "with.csv")
    with pytest.raises(ConfigError, match=r"a column has no name .*name the features with input_features"):
        Table({"file": str(tmp_path / "with.csv"), "targets": "y", "seed": 0})
    configs = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(np.uint8)
    known = {"labels": np.arange(30) % 2, "log_prob": np.zeros(30)}
    write_snapshots(tmp_path / "s.h5", Snapshots(configs, np.zeros((4, 2)), known, {"delta": np.arange(30.0), "V": np.ones(30)}))
    assert Table({"file": str(tmp_path / "s.h5"), "targets": "delta", "seed": 0}).thparams.input_features == (
        "n0",
        "n1",
        "n2",
        "n3",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hsm_model": "pauli", "qubits_count": 12}, "input_operator_pauli_weight=12: 12 qubits have 16777216 strings"),
        ({"hilbert_space_dims": 100_000}, "hilbert_space_dims=100000: must be at most 4096"),
        ({"hsm_model": "pauli", "qubits_count": 2, "complex": False}, "hsm.complex=False: has no effect"),
        ({"num_samples": 8}, "hsm.num_samples=8: has no effect"),
        ({"init": "kmeans", "energy_form": "linear"}, "clusters are states of energy_form=squared only"),
        ({"loss": {"name": "MSELoss", "kwargs": {"reduce": False}}}, "loss.reduce: is torch's old word for reduction"),
        ({"loss": {"name": "KLDivLoss"}}, "compares log-probabilities"),
        ({"hsm_model": "general_fullenergy", "method": "analytic", "degenerate": "average"}, "is for ground states"),
    ],
)
def test_settings_without_effect_or_bound_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        HSM(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize("params", [{"lr": -1}, {"lr": "fast"}, {"betas": 3}, {"weight_decay": -5}])
def test_groups_are_tried(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.params: Adam refuses"):
        OptimizerHparams(groups=({"param_name_contains": ["diags"], "params": params},))


def test_half_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision=bf16: has no effect on states"):
        fit(table(frame(), "y"), train={"precision": "bf16"})


def test_a_run_that_blows_up_ends_as_any_other() -> None:
    with pytest.raises(RunFailed, match=r"loss|finite"):
        fit(table(frame(), "y"), train={"lr": 1e25})
    states = HSM(input_operator_count=1, output_operator_count=1, loss={"name": "MSELoss"}).build()
    with torch.no_grad():
        states.input_diags.fill_(torch.nan)
    assert bool(torch.isnan(states(torch.zeros(2, 1, dtype=torch.float64))).all())


def test_what_is_watched_must_be_there_in_its_phase(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"early_stopping\.monitor=training/pred_loss: no such metric"):
        qsr.fit(
            {"type": "hsm", "hsm_model": "general_fullenergy"},
            table(frame(), "y"),
            {"dir": str(tmp_path)},
            early_stopping={"monitor": "train_pred_loss"},
        )
    assert not list(tmp_path.iterdir())


def test_a_file_of_predictions_has_every_row(tmp_path: Path) -> None:
    run = fit(table(frame(), "y"), tmp_path / "runs")
    predict_table(run, frame(5, seed=9), output=tmp_path / "out", write=True)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the results there"):
        predict_table(run, frame(5), output=tmp_path / "file", write=True)


class OwnHparams(DataHparams):
    target: str = Hparam("y")


class Own(PyTorchData[OwnHparams]):
    """The rows of a table as a user's own class of data has them: without names."""

    def pre_init(self) -> None:
        self.table = table(frame(), self.thparams.target)

    def get_dataset(self) -> TensorRows:
        return self.table.full

    def split_dataset(self, *_: Any) -> list[Any]:  # type: ignore[override]
        return self.table.split


def test_a_users_own_class_of_data_is_learnt_as_a_table_is(tmp_path: Path) -> None:
    for target, model in (("y", {}), ("kind", {"loss": {"name": "CrossEntropyLoss"}, "output_operator_count": 2})):
        own = Own({"target": target, "shuffle": True})
        by_names, run = fit(table(frame(), target), epochs=5), fit(own, tmp_path, epochs=5, **model)
        for first, second in zip(by_names.model.state_dict().values(), run.model.state_dict().values(), strict=True):
            assert torch.equal(first, second)
        assert run.settings.model.features is None and by_names.settings.model.features == ("f0", "f1", "f2")
        assert run.settings.model.classes == (None if target == "y" else (0.0, 1.0))
        assert torch.equal(qsr.resume(run.path or "").model(own.test.columns[0]), run.model(own.test.columns[0]))
        report = predict_table(run, {f"x{index}": column.numpy() for index, column in enumerate(own.test.columns[0].T)})
        found = predict(by_names.model, own.test.columns[0])
        assert "y0" in report.columns and np.array_equal(report.predictions.values, found.values)
        assert qsr.evaluate_on_data(run).metrics == qsr.evaluate_on_data(run, own).metrics
    with pytest.raises(ConfigError, match=r"hsm\.output_operator_count: give the number of classes"):
        fit(own, loss={"name": "CrossEntropyLoss"})


@pytest.mark.parametrize("name", ["max_epochs", "epochs", "num_epochs"])
def test_a_number_of_epochs_goes_before_that_of_the_model(name: str) -> None:
    assert RunSettings.from_tree({"model": {"type": "hsm"}, "train": {name: 10}}).train.max_epochs == 10
    assert RunSettings.from_tree({"model": {"type": "hsm"}, "train": {"seed": 1}}).train.max_epochs == 60


def test_features_alone_may_come_without_targets() -> None:
    circle = torch.linspace(0, 6, 40, dtype=torch.float64)
    rows = TensorDataset(torch.stack([circle.cos(), circle.sin()], dim=1))
    run = fit((rows,), epochs=2, hsm_model="geometry", hilbert_space_dims=2)
    assert run.model(rows.tensors[0]).shape == (40, 2)
