"""Models and data of a user's own, with the snippets of hydrantic.md: they train, stop, resume and load."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import qsr
from qsr.hparams import ConfigError, Hparam, RunSettings
from qsr.runs import RunDirectory, read_run, same_history
from qsr.training import (
    Callback,
    CheckpointHparams,
    DataHparams,
    DataLoaderHparams,
    EarlyStoppingHparams,
    Model,
    ModelHparams,
    OptimizerHparams,
    PyTorchData,
    SchedulerHparams,
    Trainer,
)


class MyModelHparams(ModelHparams):
    """Of the document."""

    hidden_dim: int = 128
    num_layers: int = 3


class MyModel(Model[MyModelHparams]):
    """Of the document."""

    def __init__(self, hparams: MyModelHparams) -> None:
        super().__init__(hparams)
        self.layers = torch.nn.ModuleList(
            [torch.nn.Linear(self.thparams.hidden_dim, self.thparams.hidden_dim) for _ in range(self.thparams.num_layers)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x

    def compute_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = torch.nn.functional.mse_loss(outputs, targets)
        return {"loss": loss}


class Line(Model[ModelHparams]):
    """y = a x + b, with the batch form of compute_metrics."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        error = self(x) - y
        return {"loss": error.square().mean(), "largest": error.abs().max()}


class PointsHparams(DataHparams):
    """Of y = 3 x - 1 with noise."""

    num_samples: int = Hparam(200, ge=10)
    noise: float = Hparam(0.0, ge=0)


class Points(PyTorchData[PointsHparams]):
    def get_dataset(self) -> Dataset[Any]:
        generator = torch.Generator().manual_seed(7)
        x = torch.rand(self.thparams.num_samples, 1, generator=generator)
        return TensorDataset(x, 3 * x - 1 + self.thparams.noise * torch.randn(x.shape, generator=generator))


def points(**settings: Any) -> Points:
    return Points({"seed": 1, "loader": {"batch_size": 16, "shuffle": True}, **settings})


def test_the_document_s_model() -> None:
    model = MyModel(MyModelHparams(hidden_dim=4, num_layers=2))
    assert MyModel.hparams_schema is MyModelHparams and model.thparams.hidden_dim == 4 and model.hparams is model.thparams
    assert model(torch.zeros(3, 4)).shape == (3, 4)
    assert model.num_params == 2 * (16 + 4) and model.num_params_by_module["layers.1"] == 20
    assert model.num_params_by_module["total"] == 40
    loss = model.training_step((torch.ones(3, 4), torch.zeros(3, 4)), 0)
    assert loss.requires_grad and set(model.logged) == {"training/loss"}
    assert MyModel({"hidden_dim": 4}).thparams.num_layers == 3

    class Further(MyModel):
        pass

    assert Further.hparams_schema is MyModelHparams


def test_the_document_s_settings(tmp_path: Path) -> None:
    defaults = ModelHparams()
    assert defaults.module_name is None and defaults.matmul_precision == "highest" and defaults.early_stopping is None
    assert defaults.optimizer.module_name == "torch.optim.Adam" and defaults.optimizer.kwargs == {}
    assert defaults.scheduler is not None and defaults.scheduler.module_name is None
    checkpoint = defaults.checkpoint
    assert checkpoint is not None
    assert (checkpoint.dirpath, checkpoint.monitor, checkpoint.mode) == (None, "validation/loss", "min")
    assert (checkpoint.save_last, checkpoint.save_top_k, checkpoint.every_n_epochs) == (True, 3, 1)
    stopping = EarlyStoppingHparams()
    assert (stopping.monitor, stopping.min_delta, stopping.patience, stopping.mode) == ("validation/loss", 0.0, 3, "min")
    assert (stopping.stopping_threshold, stopping.divergence_threshold, stopping.check_finite) == (None, None, True)
    loader = DataLoaderHparams()
    assert loader.model_dump() == {
        "batch_size": 64,
        "shuffle": False,
        "pin_memory": False,
        "num_workers": 0,
        "persistent_workers": False,
        "drop_last": False,
    }
    data = DataHparams()
    assert data.split == (0.8, 0.1, 0.1) and data.loader is None and data.seed in range(10001)

    model = ModelHparams(
        optimizer=OptimizerHparams(module_name="torch.optim.AdamW", kwargs={"lr": 1e-4, "weight_decay": 0.01}),
        scheduler=SchedulerHparams(module_name="torch.optim.lr_scheduler.StepLR", kwargs={"step_size": 10, "gamma": 0.1}),
        checkpoint=CheckpointHparams(dirpath="checkpoints/", monitor="validation/loss", mode="min", save_top_k=3, save_last=True),
        early_stopping=EarlyStoppingHparams(monitor="validation/loss", patience=5, mode="min"),
        matmul_precision="high",
    )
    assert model.optimizer.module_name == "torch.optim.AdamW" and model.scheduler is not None
    assert model.scheduler.module_name == "torch.optim.lr_scheduler.StepLR"
    file = tmp_path / "config.yaml"
    file.write_text(
        """
model_config:
  hidden_dim: 16
  matmul_precision: high
  optimizer: {module_name: torch.optim.AdamW, kwargs: {lr: 0.001, weight_decay: 0.01}}
  scheduler: {module_name: torch.optim.lr_scheduler.CosineAnnealingLR, kwargs: {T_max: 100}}
  checkpoint: {dirpath: checkpoints/, monitor: validation/loss, mode: min, save_top_k: 3}
  early_stopping: {monitor: validation/loss, patience: 10, mode: min}
"""
    )
    found = MyModelHparams.from_yaml(file, key="model_config")
    assert found.hidden_dim == 16 and found.early_stopping is not None and found.early_stopping.patience == 10
    made = MyModel(found).configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.AdamW and made["optimizer"].defaults["weight_decay"] == 0.01
    assert type(made["lr_scheduler"]) is torch.optim.lr_scheduler.CosineAnnealingLR and made["lr_scheduler"].T_max == 100
    assert [type(callback).__name__ for callback in MyModel(found).configure_callbacks()] == ["BestWeights", "EarlyStopping"]


@pytest.mark.parametrize("name", ["os.system", "torch.optim.lr_scheduler.StepLR", "torch.hub.load", "Adamm"])
def test_only_classes_of_torch_are_optimizers(name: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.name"):
        OptimizerHparams(module_name=name)


def test_what_a_model_must_have() -> None:
    class NoSchema(Model):  # type: ignore[type-arg]
        pass

    with pytest.raises(TypeError, match="NoSchema must specify a type parameter"):
        NoSchema({})
    with pytest.raises(TypeError, match="thparams must not be None"):
        MyModel(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="thparams must be of type MyModelHparams"):
        MyModel(ModelHparams())  # type: ignore[arg-type]
    model = Line({})
    with pytest.raises(ValueError, match="metrics must not be None"):
        model._evaluate_metrics(None, "training")
    with pytest.raises(ValueError, match="must contain a 'loss' key, found accuracy"):
        model._evaluate_metrics({"accuracy": torch.zeros(())}, "training")
    with pytest.raises(ValueError, match=r"scalar.*\(2,\)"):
        model._evaluate_metrics({"loss": torch.zeros(2)}, "training")
    with pytest.raises(ValueError, match=r"batches of \(inputs, targets\)"):
        MyModel({"hidden_dim": 1}).training_step(torch.zeros(3, 1), 0)


def test_splits() -> None:
    state = torch.get_rng_state()
    data = points(num_samples=100, split=(0.7, 0.2, 0.1))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(part) for part in data.split] == [70, 20, 10] and len(data.full) == 100  # type: ignore[arg-type]
    assert points(num_samples=100, split=(0.7, 0.2, 0.1)).train.indices == data.train.indices
    assert points(num_samples=100, split=(0.7, 0.2, 0.1), seed=2).train.indices != data.train.indices
    assert data.train_loader is not None and len(data.train_loader) == 5
    in_two = points(split=(0.5, 0.5), loader=None)
    assert in_two.test is None and in_two.test_loader is None and in_two.train_loader is None
    shuffled = points(loader={"batch_size": 7, "shuffle": True, "drop_last": True})
    assert shuffled.train_loader is not None and shuffled.val_loader is not None and len(shuffled.train_loader) == 160 // 7
    assert len(shuffled.val_loader) == 3 and type(shuffled.val_loader.sampler).__name__ == "SequentialSampler"
    with pytest.raises(ConfigError, match=r"dataset_split must sum to 1, got 0\.9"):
        points(split=(0.8, 0.1))
    with pytest.raises(ConfigError, match="leaves a part empty"):
        points(num_samples=10, split=(0.98, 0.01, 0.01))


def test_fit_fast_trains() -> None:
    data = points()
    model = Line({})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = model.fit_fast(data.train_loader, data.val_loader, n_epochs=100, lr=0.05, verbose=False)
    assert not torch.equal(state["layer.weight"], model.layer.weight)
    assert metrics["validation/loss"] < 1e-4 and abs(model.layer.weight.item() - 3) < 0.05
    assert {"training/loss", "training/largest", "validation/loss", "validation/largest"} == set(metrics)


def fit(folder: Path, **settings: Any) -> qsr.Run:
    train = {"dir": str(folder), "max_epochs": 6, "lr": 0.05, "seed": 3, **settings.pop("train", {})}
    return qsr.fit({"type": "model", "module_name": f"{__name__}.Line"}, points(noise=0.1), train, **settings)


def test_a_run_writes_all_that_loading_needs(tmp_path: Path) -> None:
    run = fit(tmp_path, optimizer={"module_name": "torch.optim.SGD", "kwargs": {"momentum": 0.9}}, extra={"note": "x"})
    assert run.path is not None and run.path == tmp_path / "Line" / "0"
    stored = json.loads((run.path / "settings.json").read_text())
    assert stored["train"]["lr"] == 0.05 and stored["optimizer"] == {"name": "SGD", "kwargs": {"momentum": 0.9}}
    assert "K" not in stored["train"] and "hamiltonian" not in stored and stored["extra"] == {"note": "x"}
    assert stored["data"]["module_name"] == f"{__name__}.Points" and "optimizer" not in stored["model"]
    history = RunDirectory(run.path).history
    epochs = history.read("epochs")
    assert epochs["epoch"].tolist() == [1, 2, 3, 4, 5, 6] and len(history.read("steps")["step"]) == 60
    assert epochs["validation_loss"][-1] < epochs["validation_loss"][0]
    loaded = qsr.load_model(run.path)
    assert type(loaded) is Line and not loaded.training
    assert torch.equal(loaded.layer.weight, run.model.layer.weight)
    found = qsr.jobs.evaluate_on_data(read_run(run.path))
    x, y = (torch.stack(column) for column in zip(*points(noise=0.1).test, strict=True))  # type: ignore[arg-type]
    assert found.part == "test" and found.samples == 20
    assert abs(found.metrics["test/loss"] - (loaded(x) - y).square().mean().item()) < 1e-6
    assert qsr.plot(run.path).stat().st_size > 10_000
    assert RunSettings.from_tree(read_run(run.path).settings.tree()) == read_run(run.path).settings


class StopAt(Callback):
    """Copies the run directory when a step is done, as a crash would leave it."""

    def __init__(self, step: int, run: Path, copy: Path) -> None:
        self.step, self.run, self.copy = step, run, copy

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.step == self.step:
            shutil.copytree(self.run, self.copy)


@pytest.mark.parametrize("step", [1, 9, 10, 11, 35])
@pytest.mark.parametrize("scheduler", ["none", "ReduceLROnPlateau"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, step: int, scheduler: str) -> None:
    run, copy = tmp_path / "a" / "Line" / "0", tmp_path / "b" / "Line" / "0"
    arguments = {"name": scheduler, "kwargs": {} if scheduler == "none" else {"patience": 0, "threshold": 0.5}}
    whole = fit(
        tmp_path / "a",
        scheduler=arguments,
        checkpoint={"every_n_steps": 4},
        early_stopping={"patience": 2, "restore_best_weights": True},
        train={"Q": 3, "max_epochs": 12},
        callbacks=[StopAt(step, run, copy)],
    )
    resumed = qsr.resume(copy, data=points(noise=0.1))
    assert whole.path is not None and resumed.path == copy
    assert torch.equal(whole.model.layer.weight, resumed.model.layer.weight)
    assert same_history(RunDirectory(whole.path).history, RunDirectory(copy).history)
    assert sorted(file.name for file in (run / "best").iterdir()) == sorted(file.name for file in (copy / "best").iterdir())


def test_a_run_from_its_settings_alone_is_the_same(tmp_path: Path) -> None:
    first = fit(tmp_path / "a")
    assert first.path is not None
    tree = read_run(first.path).settings.tree()
    tree["train"]["dir"] = str(tmp_path / "b")
    second = qsr.train(**{name: value for name, value in tree.items() if name != "objective"})
    assert torch.equal(first.model.layer.weight, second.model.layer.weight)


def test_gradients_of_parts_of_a_step_add_up_to_those_of_the_whole(tmp_path: Path) -> None:
    loader = {"batch_size": 48, "shuffle": False}
    whole = qsr.fit(Line({}), points(loader=loader), {"dir": "<NONE>", "lr": 0.05, "max_epochs": 1, "precision": "float64"})
    settings = {"dir": "<NONE>", "lr": 0.05, "max_epochs": 1, "Q": 3, "precision": "float64"}
    start = Line({})
    parts = Line({})
    parts.load_state_dict(start.state_dict())
    together = Line({})
    together.load_state_dict(start.state_dict())
    qsr.fit(parts, points(loader={"batch_size": 16}), settings)
    qsr.fit(together, points(loader=loader), {**settings, "Q": 1})
    assert (parts.layer.weight - together.layer.weight).abs().max() < 1e-12
    assert whole.path is None


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    run = fit(tmp_path, checkpoint={"save_top_k": 2, "filename": "{epoch}-{val_loss:.4f}"}, train={"max_epochs": 8})
    assert run.path is not None
    losses = RunDirectory(run.path).history.read("epochs")["validation_loss"].tolist()
    best = sorted(range(8), key=lambda index: losses[index])[:2]
    expected = {f"{index + 1}-{losses[index]:.4f}.safetensors" for index in best} | {"last.safetensors"}
    assert {file.name for file in (run.path / "best").iterdir()} == expected


def test_training_stops_early_and_goes_back(tmp_path: Path) -> None:
    class Recorder(Callback):
        weights: list[float] = []  # noqa: RUF012

        def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
            self.weights.append(trainer.model.layer.weight.item())  # type: ignore[union-attr, operator]

    recorder = Recorder()
    stopping = {"patience": 2, "min_delta": 0.3, "restore_best_weights": True}
    run = fit(tmp_path, early_stopping=stopping, train={"max_epochs": 50}, callbacks=[recorder])
    assert run.path is not None
    losses = RunDirectory(run.path).history.read("epochs")["validation_loss"].tolist()
    best, waited, expected = losses[0], 0, 0
    for index, loss in enumerate(losses[1:], start=1):
        best, waited, expected = (loss, 0, index) if best - loss > 0.3 else (best, waited + 1, expected)
    assert waited == 2 and len(losses) < 50
    assert run.model.layer.weight.item() == recorder.weights[expected]
    assert qsr.load_model(run.path).layer.weight.item() == recorder.weights[expected]


@pytest.mark.parametrize(
    ("stopping", "epochs"),
    [({"stopping_threshold": 100.0}, 1), ({"divergence_threshold": 1e-9}, 1), ({"patience": 0, "min_delta": 50.0}, 2)],
)
def test_thresholds_stop_at_once(tmp_path: Path, stopping: dict[str, Any], epochs: int) -> None:
    run = fit(tmp_path, early_stopping=stopping)
    assert run.path is not None and len(RunDirectory(run.path).history.read("epochs")["epoch"]) == epochs


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"train": {"K": 512}}, r"train\.K=512: means nothing in a run of a model on data"),
        ({"optimizer": {"name": "spring"}}, "natural gradient"),
        ({"train": {"lr": 0.1}, "optimizer": {"kwargs": {"lr": 0.2}}}, r"train\.lr=0\.1: optimizer\.kwargs\.lr=0\.2"),
        ({"early_stopping": {"monitor": "validation/los"}}, r"early_stopping\.monitor=validation/los.*did you mean"),
        ({"checkpoint": {"filename": "../{epoch}"}}, r"checkpoint\.filename=\.\./"),
        ({"checkpoint": {"filename": "{epoch.__class__}"}}, r"checkpoint\.filename"),
        ({"scheduler": {"name": "ReduceLROnPlateau", "monitor": "validation/x"}}, r"scheduler\.monitor=validation/x"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        fit(tmp_path, **settings)


def test_the_scheduler_is_stepped_by_epochs(tmp_path: Path) -> None:
    run = fit(tmp_path, scheduler={"name": "ExponentialLR", "kwargs": {"gamma": 0.5}})
    assert run.path is not None
    rates = RunDirectory(run.path).history.read("steps")["lr"]
    assert rates[:10].tolist() == [0.05] * 10 and abs(rates[-1] - 0.05 / 2**5) < 1e-12


def test_a_loader_of_one_s_own_and_a_model_that_chooses_its_optimizer() -> None:
    class Chooses(Line):
        def configure_optimizers(self) -> dict[str, Any]:
            return {"optimizer": torch.optim.SGD(self.parameters(), lr=0.0)}

    model = Chooses({})
    before = model.layer.weight.item()
    run = qsr.fit(model, (DataLoader(points().train, batch_size=10, shuffle=True),), {"dir": "<NONE>", "max_epochs": 1})
    assert run.model.layer.weight.item() == before
