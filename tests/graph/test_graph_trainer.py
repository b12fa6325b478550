"""The graph trainer: the documented example, rows, criteria, schedulers, early stopping, and which weights are tested."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv, global_mean_pool

import qsr.graph
from qsr.graph import Trainer
from qsr.hparams import ConfigError
from qsr.training import Callback
from qsr.training.evaluators import Validator
from tests.graph.rings import STOPPING, Net, compute_loss, config, rings, same_weights, trained, weights_of

# --- the document's example ----------------------------------------------------------------------------------------------


def test_the_documented_example(tmp_path: Path) -> None:
    """Every key of it, with as many features as the graphs have; these are in memory."""
    settings = {
        **config(tmp_path, {"num_epochs": 5, "batch_size": 32, "optimizer_kwargs": {"lr": 1e-3}, "checkpoint_at": 2}),
        "name": "run",
        "model": {
            "encoder_type": qsr.graph.Sequential,
            "encoder_kwargs": {
                "layers": [[SAGEConv, [1, 64], {"aggr": "mean"}, "x, edge_index"], [nn.ReLU, [], {}, "x"]],
                "forward_signature": "x, edge_index, batch",
            },
            "pooling_layers": [[global_mean_pool, [], {}]],
            "aggregate_pooling_type": torch.cat,
            "downstream_tasks": [[qsr.graph.LinearSequential, None, {"dims": [[64, 3]], "activations": [nn.Identity]}]],
        },
        "early_stopping": STOPPING,
    }
    found = Trainer.from_config(settings)
    assert (found.epoch, found.seed, found.checkpoint_at, found.device.type) == (0, 1, 2, "cpu")
    assert found.criterion is compute_loss and found.apply_model is None
    assert found.data_path == tmp_path / "run" / "0" and found.data_path.is_dir()
    assert isinstance(found.optimizer, torch.optim.Adam) and found.lr_scheduler is None
    before = weights_of(found)
    loaders = found.prepare_dataloaders(rings(100))
    assert [len(loader) for loader in loaders] == [3, 2, 2]
    training, validation = found.run_training(*loaders[:2])
    tested = found.run_test(loaders[2])
    assert len(training) == len(validation) == found.epoch == 5
    assert training.columns == ["epoch", "min_loss", "mean_loss", "max_loss", "median_loss", "std_loss"]
    assert list(training["epoch"]) == [0, 1, 2, 3, 4]
    assert validation.columns == ["loss_avg", "loss_min", "loss_max"] and validation is found.validator.data
    assert len(tested) == 1 and tested["loss_avg"][-1] > 0
    assert not same_weights(before, weights_of(found))
    assert validation["loss_avg"][-1] < validation["loss_avg"][0]


YAML = """
name: "QuantumGravRun"
training:
    seed: 42
    device: "cpu"
    path: {path}
    num_epochs: 3
    batch_size: 32
    optimizer_type: !pyobject torch.optim.Adam
    optimizer_args: []
    optimizer_kwargs:
        lr: 0.001
        weight_decay: 0.0001
    num_workers: 0
    pin_memory: true
    drop_last: false
    checkpoint_at: 5
    shuffle: true
model:
    encoder_type: !pyobject QuantumGrav.models.Sequential
    encoder_kwargs:
        layers:
            - [!pyobject torch_geometric.nn.SAGEConv, [1, 64], {{"aggr": "mean"}}, "x, edge_index"]
            - [!pyobject torch.nn.ReLU, [], {{}}, "x"]
            - [!pyobject torch_geometric.nn.SAGEConv, [64, 64], {{"aggr": "mean"}}, "x, edge_index"]
        forward_signature: "x, edge_index, batch"
        with_skip: false
    pooling_layers:
        - [!pyobject torch_geometric.nn.global_mean_pool, [], {{}}]
    aggregate_pooling_type: !pyobject torch.cat
    graph_features_net_type: !pyobject QuantumGrav.models.LinearSequential
    graph_features_net_kwargs:
        dims: [[4, 32]]
        activations: [!pyobject torch.nn.ReLU]
    aggregate_graph_features_type: !pyobject torch.cat
    downstream_tasks:
        - [!pyobject QuantumGrav.models.LinearSequential, null, {{"dims": [[96, 128], [128, 3]],
           "activations": [!pyobject torch.nn.ReLU, !pyobject torch.nn.Identity]}}]
validation:
    batch_size: 32
    validator:
        device: "cpu"
        criterion: !pyobject tests.graph.rings.compute_loss
        evaluator_tasks:
            - name: "f1_weighted"
              monitor: !pyobject sklearn.metrics.f1_score
              kwargs:
                  average: "weighted"
testing:
    batch_size: 32
    tester:
        device: "cpu"
        criterion: !pyobject tests.graph.rings.compute_loss
        evaluator_tasks:
            - name: "loss_avg"
              monitor: !pyobject numpy.mean
early_stopping:
    tasks:
        0:
            metric: "loss_avg"
            delta: 1e-4
            grace_period: 2
            init_best_score: 1e9
            mode: "min"
    mode: "any"
    patience: 5
criterion: !pyobject tests.graph.rings.compute_loss
"""


def test_the_documented_file(tmp_path: Path) -> None:
    """The graphs have features of their own, which the model's network for them gets."""
    file = tmp_path / "config.yaml"
    file.write_text(YAML.format(path=tmp_path / "runs"))
    found = Trainer.from_config(file, allow_import=["tests.graph.rings"])
    graphs = rings(60)
    for graph in graphs:
        graph.graph_features = graph.x.reshape(1, 4)
    train, validation, test = found.prepare_dataloaders(graphs)
    training, table = found.run_training(train, validation)
    assert len(training) == len(table) == 3 and table.columns[-1] == "f1_weighted"
    assert table["loss_avg"][-1] < table["loss_avg"][0] and found.early_stopper.to_config()["patience"] == 5
    (batch,) = test
    losses = found.run_test(test)["loss_avg"]
    assert len(losses) == 1
    found.model.eval()
    with torch.no_grad():
        expected = compute_loss(found.model(batch.x, batch.edge_index, batch.batch, batch.graph_features), batch)
    assert losses[0] == pytest.approx(float(expected), rel=1e-6)
    assert found.data_path is not None
    assert Trainer.load_checkpoint(found.data_path, allow_import=["tests.graph.rings"]).epoch == 3


def test_it_learns(tmp_path: Path) -> None:
    """Means of four numbers that are apart by 1 with a standard deviation of 0.22: 2.3 sigma, 99 % of them to be told apart."""
    tasks = [{"name": "accuracy", "monitor": "accuracy"}]
    training = {"num_epochs": 15, "optimizer_kwargs": {"lr": 0.05}}
    found, _, _ = trained(config(tmp_path, training, tester={"evaluator_tasks": tasks}), number=200)
    fresh = found.prepare_dataloaders(rings(2000, seed=5), split=(0.1, 0.1, 0.8))[2]
    assert found.run_test(fresh)["accuracy"][-1] > 0.97


def test_rows_of_a_training(tmp_path: Path) -> None:
    """Of 12 graphs in batches of 8 and 4: the mean is over graphs, and the rest over batches."""
    found = Trainer.from_config(config(tmp_path, {"num_epochs": 2, "optimizer_kwargs": {"lr": 1e-20}, "shuffle": False}))
    found.model.dropout.p = 0.0
    train, validation, _ = found.prepare_dataloaders(rings(15))
    with torch.no_grad():
        losses = [float(compute_loss(found.model(b.x, b.edge_index, b.batch), b)) for b in train]
    table, _ = found.run_training(train, validation)
    first, second = losses
    expected = {"min_loss": min(losses), "max_loss": max(losses), "median_loss": (first + second) / 2}
    expected |= {"mean_loss": (8 * first + 4 * second) / 12, "std_loss": abs(first - second) / 2}
    assert {name: value for name, value in table.rows[1].items() if name != "epoch"} == pytest.approx(expected, rel=1e-6)


def test_one_batch_has_no_spread(tmp_path: Path) -> None:
    _, table, _ = trained(config(tmp_path, {"batch_size": 64}))
    assert list(table["std_loss"]) == [0.0] * 4


# --- criterion, model, evaluators ----------------------------------------------------------------------------------------


def test_a_criterion_with_three_arguments_gets_the_trainer(tmp_path: Path) -> None:
    seen = []

    def criterion(outputs: Any, data: Any, trainer: Any) -> Tensor:
        seen.append(trainer)
        return compute_loss(outputs, data)

    found, _, _ = trained(config(tmp_path, criterion=criterion, validator={"criterion": criterion}))
    assert seen and all(trainer is found for trainer in seen)


def test_a_criterion_must_give_a_scalar(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scalar tensor, found \(8, 2\)"):
        trained(config(tmp_path, criterion=lambda outputs, data: outputs[0]))


class OfEdges(nn.Module):
    """Has inputs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, features: Tensor, graphs: Tensor) -> list[Tensor]:
        return [self.layer(global_mean_pool(features, graphs))]


def test_apply_model_is_for_evaluators_too(tmp_path: Path) -> None:
    settings = config(tmp_path, model={"type": OfEdges}, apply_model=lambda model, data: model(data.x, data.batch))
    found, training, validation = trained(settings)
    test = found.prepare_dataloaders(rings(60))[2]
    losses = [compute_loss(found.model(data.x, data.batch), data).item() for data in test]  # OfEdges(data) alone would fail
    assert len(training) == len(validation) == 4
    assert found.run_test(test, "last")["loss_max"][-1] == pytest.approx(max(losses), rel=1e-5)


class Counting(Validator):
    calls = 0

    def validate(self, model: nn.Module, data_loader: Any) -> Any:
        self.calls += 1
        return super().validate(model, data_loader)


def test_parts_may_be_objects_of_ones_own(tmp_path: Path) -> None:
    validation = {"batch_size": 8, "validator": {"type": Counting, "args": ["cpu", compute_loss]}}
    stop = {"type": lambda last: lambda table: len(table) == last, "kwargs": {"last": 2}}
    found, training, _ = trained(config(tmp_path, validation=validation, early_stopping=stop))
    assert isinstance(found.validator, Counting) and found.validator.calls == len(training) == 2
    with pytest.raises(ConfigError, match=r"model: Net\(widht=3\) failed .*unexpected keyword argument 'widht'"):
        Trainer.from_config(config(tmp_path, model={"type": Net, "kwargs": {"widht": 3}}))


def test_a_run_without_a_validator_and_a_tester(tmp_path: Path) -> None:
    settings = config(tmp_path, validation={"batch_size": 8}, testing={"batch_size": 8})
    found, training, validation = trained(settings)
    assert len(training) == 4 and len(validation) == 0 and len(found.run_test([])) == 0


# --- schedulers ----------------------------------------------------------------------------------------------------------


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_epoch_end(self, trainer: Any) -> None:
        self.rates.append(trainer.update_rule.rate)


def rates_of(settings: dict[str, Any], **loader: Any) -> list[float]:
    found, rates = Trainer.from_config(settings), Rates()
    found.run_training(*found.prepare_dataloaders(rings(60))[:2], callbacks=[rates])
    return rates.rates


def test_a_scheduler_is_stepped_once_an_epoch(tmp_path: Path) -> None:
    scheduler = {"lr_scheduler_type": torch.optim.lr_scheduler.StepLR, "lr_scheduler_args": [2]}
    settings = config(tmp_path, {**scheduler, "lr_scheduler_kwargs": {"gamma": 0.1}})
    assert rates_of(settings) == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4])
    assert rates_of(config(tmp_path, {**scheduler, "lr_scheduler_interval": "step"})) == pytest.approx([1e-5, 1e-8, 1e-11, 1e-14])


def test_reduce_on_plateau_looks_at_its_column(tmp_path: Path) -> None:
    """One column improves for two epochs, the other one for ever."""
    courses = {"a": iter([3.0, 2.0, 2.0, 2.0]), "b": iter([4.0, 3.0, 2.0, 1.0])}
    for monitor, expected in (("a", [1e-2, 1e-2, 5e-3, 2.5e-3]), ("b", [1e-2] * 4)):
        course = iter(list(courses[monitor]))
        plateau = {
            "lr_scheduler_type": torch.optim.lr_scheduler.ReduceLROnPlateau,
            "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0},
            "lr_scheduler_monitor": monitor,
        }
        tasks = [{"name": monitor, "monitor": lambda predictions, targets, course=course: next(course)}]
        assert rates_of(config(tmp_path, plateau, validator={"evaluator_tasks": tasks})) == pytest.approx(expected)


def test_schedulers_and_optimizers_of_ones_own(tmp_path: Path) -> None:
    class Half(torch.optim.SGD):
        pass

    training = {
        "optimizer_type": Half,
        "lr_scheduler_type": torch.optim.lr_scheduler.LambdaLR,
        "lr_scheduler_kwargs": {"lr_lambda": lambda epoch: 0.5**epoch},
    }
    assert rates_of(config(tmp_path, training)) == pytest.approx([5e-3, 2.5e-3, 1.25e-3, 6.25e-4])


# --- early stopping and tests --------------------------------------------------------------------------------------------


def course_of(losses: list[float]) -> dict[str, Any]:
    values = iter(losses)
    return {"evaluator_tasks": [{"name": "course", "monitor": lambda predictions, targets: next(values)}]}


def stopping_by_course(patience: int = 2, **changes: Any) -> dict[str, Any]:
    task = {"metric": "course", "delta": 0.0, "grace_period": 0, "init_best_score": 100.0, "mode": "min", **changes}
    return {"tasks": {"course": task}, "mode": "any", "patience": patience}


class Weights(Callback):
    def __init__(self) -> None:
        self.epochs: list[dict[str, Tensor]] = []

    def on_epoch_end(self, trainer: Any) -> None:
        self.epochs.append({name: value.clone() for name, value in trainer.model.network.state_dict().items()})


def test_early_stopping_ends_the_training_and_tests_the_best_weights(tmp_path: Path) -> None:
    """The third epoch is the best; the training ends after the fifth. Tests have the weights of the third."""
    settings = config(
        tmp_path,
        {"num_epochs": 9},
        validator=course_of([5.0, 6.0, 4.0, 4.0, 4.5]),
        early_stopping=stopping_by_course(),
    )
    found, seen = Trainer.from_config(settings), Weights()
    train, validation, test = found.prepare_dataloaders(rings(60))
    training, table = found.run_training(train, validation, callbacks=[seen])
    assert len(training) == len(table) == found.epoch == 5
    assert same_weights(weights_of(found), seen.epochs[4])

    def loss_with(weights: dict[str, Tensor]) -> float:
        net = Net()
        net.load_state_dict(weights)
        return float(found.tester.test(net, test)["loss_avg"][-1])

    best, last = loss_with(seen.epochs[2]), loss_with(seen.epochs[4])
    assert best != last
    assert found.run_test(test)["loss_avg"][-1] == best
    assert found.run_test(test, weights="last")["loss_avg"][-1] == last
    assert same_weights(weights_of(found), seen.epochs[4]), "a test leaves the model as it was"


def test_without_early_stopping_the_best_loss_is_tested(tmp_path: Path) -> None:
    """The loss of the second epoch is the smallest; a task of the name loss_avg takes its place."""
    tasks = course_of([3.0, 1.0, 2.0, 1.0])["evaluator_tasks"]
    validator = {"evaluator_tasks": [{**tasks[0], "name": "loss_avg"}]}
    found, seen = Trainer.from_config(config(tmp_path, validator=validator)), Weights()
    train, validation, test = found.prepare_dataloaders(rings(60))
    found.run_training(train, validation, callbacks=[seen])
    net = Net()
    net.load_state_dict(seen.epochs[1])
    assert found.run_test(test)["loss_avg"][-1] == found.tester.test(net, test)["loss_avg"][-1]


def test_a_trial_of_a_search_is_pruned() -> None:
    """The pruner ends what is above 0 in the second epoch, as every loss is."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.0, n_warmup_steps=2))

    def objective(trial: Any) -> float:
        found = Trainer.from_config(config("<NONE>"))
        _, validation = found.run_training(*found.prepare_dataloaders(rings(60))[:2], trial)
        return float(validation["loss_avg"][-1])

    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED and sorted(trial.intermediate_values) == [1, 2]


def test_untrained_models_can_be_tested(tmp_path: Path) -> None:
    found = Trainer.from_config(config(tmp_path))
    table = found.run_test(found.prepare_dataloaders(rings(60))[2])
    assert len(table) == 1 and table["loss_avg"][0] == pytest.approx(0.7, abs=0.3)
