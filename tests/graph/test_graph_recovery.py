"""The graph trainer where something is odd: losses that are no numbers, parts made anew, checkpoints that do not fit."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import global_mean_pool

import qsr
from qsr.graph import Trainer
from qsr.graph.callbacks import TrialPruned
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory
from qsr.training import Callback, RunFailed, evaluators, trainer
from tests.graph.rings import Net, compute_loss, config, rings, same_weights, trained, weights_of
from tests.graph.test_graph_trainer import Weights, course_of


@pytest.fixture(autouse=True)
def checkpoints_whenever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_EPOCH_CHECKPOINTS", -1.0)


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    tasks = course_of([float("nan"), 3.0, 2.0, 2.5])["evaluator_tasks"]
    validator = {"evaluator_tasks": [{**tasks[0], "name": "loss_avg"}]}
    found, seen = Trainer.from_config(config(tmp_path, validator=validator)), Weights()
    train, validation, test = found.prepare_dataloaders(rings(60))
    found.run_training(train, validation, callbacks=[seen])
    net = Net()
    net.load_state_dict(seen.epochs[2])
    assert found.run_test(test)["loss_avg"][-1] == found.tester.test(net, test)["loss_avg"][-1]
    assert found.data_path is not None
    stored = RunDirectory(found.data_path).read_weights()
    assert same_weights({name.removeprefix("network."): value for name, value in stored.items()}, seen.epochs[2])


def test_parts_that_are_made_anew_belong_together(tmp_path: Path) -> None:
    plateau = {"lr_scheduler_type": torch.optim.lr_scheduler.StepLR, "lr_scheduler_kwargs": {"step_size": 1, "gamma": 0.1}}
    found, _, _ = trained(config(tmp_path, plateau))
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)
    before = weights_of(found)
    found.initialize_optimizer()
    assert found.optimizer.param_groups[0]["lr"] == 1e-2 and found.lr_scheduler.optimizer is found.optimizer
    found.initialize_model()
    assert not same_weights(before, weights_of(found))
    trained_parameters = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
    assert trained_parameters == {id(p) for p in found.model.parameters()} and found.lr_scheduler.optimizer is found.optimizer


def test_a_checkpoint_has_the_optimizer_and_the_scheduler_too(tmp_path: Path) -> None:
    scheduler = {"lr_scheduler_type": torch.optim.lr_scheduler.StepLR, "lr_scheduler_kwargs": {"step_size": 1, "gamma": 0.5}}
    found, _, _ = trained(config(tmp_path, scheduler))
    assert found.data_path is not None
    again = Trainer.load_checkpoint(found.data_path)
    assert again.optimizer.param_groups[0]["lr"] == found.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 16)
    assert again.lr_scheduler.last_epoch == 4
    moments = [run.optimizer.state[next(run.model.parameters())]["exp_avg"] for run in (found, again)]
    assert torch.equal(*moments)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    found, _, _ = trained(config(tmp_path))
    assert found.data_path is not None and found.checkpoint_path is not None
    newest = max(found.checkpoint_path.iterdir(), key=lambda path: int(path.name))
    with pytest.raises(ConfigError, match=rf"checkpoint/{newest.name}: a checkpoint, expected its run, {found.data_path}"):
        Trainer.load_checkpoint(newest)
    directory = RunDirectory(found.data_path)
    stored = directory.latest_checkpoint()
    assert stored is not None
    state = {**stored.state, "callbacks": {}}
    directory.save_checkpoint(stored.step + 1, stored.weights, state)
    with pytest.raises(ConfigError, match=r"checkpoint/25: missing required keys: EpochLosses, ValidationRows, BestModel"):
        Trainer.load_checkpoint(found.data_path)


class Counter:
    """Stops after four looks, and keeps no state."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, table: Any) -> bool:
        self.looks += 1
        return self.looks >= 4


def test_a_stopper_without_a_state_is_said_to_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path, early_stopping={"type": Counter})
    found, training, _ = trained(settings)
    assert len(training) == 4 and found.data_path is not None
    with caplog.at_level(logging.WARNING):
        Trainer.load_checkpoint(found.data_path)
    assert "early_stopping: Counter has no state_dict and begins anew" in caplog.text


class OfBatches(nn.Module):
    """Takes the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, data: Any) -> dict[int, Tensor]:
        return {0: self.head(global_mean_pool(data.x, data.batch))}


def test_an_evaluator_of_ones_own_applies_the_model_as_the_training_does(tmp_path: Path) -> None:
    validator = {"type": evaluators.Validator, "args": ["cpu", compute_loss]}
    settings = config(tmp_path, model={"type": OfBatches}, apply_model=lambda model, data: model(data))
    _, _, validation = trained({**settings, "validation": {"batch_size": 8, "validator": validator}})
    assert len(validation) == 4


class Noisy(torch.utils.data.Dataset[Any]):
    def __init__(self, number: int) -> None:
        self.graphs = rings(number)

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: int) -> Any:
        graph = self.graphs[index].clone()
        graph.x = graph.x + 0.1 * torch.rand(graph.x.shape)
        return graph


class Stop(Callback):
    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.step == 8:
            raise OSError("the power is off")


def test_processes_that_outlive_an_epoch_repeat_what_they_drew(tmp_path: Path) -> None:
    workers = {"num_workers": 1, "persistent_workers": True, "num_epochs": 3}
    whole = Trainer.from_config(config(tmp_path / "whole", workers))
    tables = whole.run_training(*whole.prepare_dataloaders(Noisy(30))[:2])
    assert len(set(tables[0]["mean_loss"])) == 3
    cut = Trainer.from_config(config(tmp_path / "cut", workers))
    with pytest.raises(RunFailed, match="power is off; when that is mended"):
        cut.run_training(*cut.prepare_dataloaders(Noisy(30))[:2], callbacks=[Stop()])
    assert cut.data_path is not None
    again = Trainer.load_checkpoint(cut.data_path)
    resumed = again.run_training(*again.prepare_dataloaders(Noisy(30))[:2])
    assert [table.rows for table in resumed] == [table.rows for table in tables]
    assert same_weights(weights_of(again), weights_of(whole))


def test_the_level_of_a_run_is_that_of_its_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="qsr"):
        found, _, _ = trained(config(tmp_path, log_level="ERROR"))
    assert found.data_path is not None and (found.data_path / "output.txt").read_text() == ""
    assert "Validation results" in caplog.text
    assert logging.getLogger("qsr").level == logging.NOTSET


def test_any_object_may_be_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trial:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def report(self, value: float, step: int) -> None:
            self.seen.append(step)

        def should_prune(self) -> bool:
            return len(self.seen) == 2

    monkeypatch.setitem(sys.modules, "optuna", None)
    trial = Trial()
    found = Trainer.from_config(config("<NONE>"))
    with pytest.raises(TrialPruned, match="after epoch 2"):
        found.run_training(*found.prepare_dataloaders(rings(60))[:2], trial)
    assert trial.seen == [1, 2]


def test_predictions_are_those_of_the_best_weights_in_the_order_of_the_loader(tmp_path: Path) -> None:
    tasks = course_of([3.0, 1.0, 2.0, 2.5])["evaluator_tasks"]
    validator = {"evaluator_tasks": [{**tasks[0], "name": "loss_avg"}]}
    found, seen = Trainer.from_config(config(tmp_path, validator=validator)), Weights()
    train, validation, test = found.prepare_dataloaders(rings(60))
    found.run_training(train, validation, callbacks=[seen])
    net = Net().eval()
    net.load_state_dict(seen.epochs[1])
    batches = list(test)
    with torch.no_grad():
        expected = torch.cat([net(batch.x, batch.edge_index, batch.batch)[0] for batch in batches])
    predicted = found.predict(batches)
    assert list(predicted) == ["0"] and torch.equal(predicted["0"], expected)
    assert same_weights(weights_of(found), seen.epochs[3])
    assert not torch.equal(found.predict(batches, weights="last")["0"], expected)
    with pytest.raises(ConfigError, match="predict: the loader has no batches"):
        found.predict([])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"apply_model": lambda model, data: model(data.x.repeat(1, 2), data.edge_index, data.batch)}, "mat1 and mat2 shapes"),
        ({"criterion": lambda outputs, data: outputs["phase"].sum()}, "KeyError: 'phase'"),
        ({"criterion": lambda outputs, data: compute_loss({0: outputs[0][:, :1]}, data)}, "Target 1 is out of bounds"),
    ],
)
def test_what_does_not_fit_shows_before_the_first_step(tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    found = Trainer.from_config(config(tmp_path, **sections))
    before = weights_of(found)
    shapes = r"x \(32, 1\), edge_index \(2, 32\), y \(8,\)"
    with pytest.raises(ConfigError, match=rf"fail on the first batch of training data \({shapes}\): .*{said}"):
        found.run_training(*found.prepare_dataloaders(rings(60))[:2])
    assert same_weights(before, weights_of(found))


def test_a_bar_and_a_table_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Trainer.from_config(config(tmp_path))
    training, validation = found.run_training(*found.prepare_dataloaders(rings(60))[:2], progress=True)
    assert "24/24" in capsys.readouterr().err
    assert repr(validation).splitlines()[0].split() == ["loss_avg", "loss_min", "loss_max"]
    assert repr(training).splitlines()[-1] == "[4 rows]" and len(repr(training).splitlines()) == 6


def test_the_name_at_the_top() -> None:
    assert qsr.Trainer is Trainer
