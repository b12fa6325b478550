"""Training models on data: runs stop, resume, keep their best weights, and refuse what cannot be run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import qsr
from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, read_run, same_history
from qsr.training import Callback, DataHparams, EarlyStoppingHparams, EpochMetrics, PyTorchData, Trainer
from qsr.training.random import seed_global
from tests.training.lines import CopyAt, Line, Points, points


def fit(folder: Path, **settings: Any) -> qsr.Run:
    train = {"dir": str(folder), "max_epochs": 6, "lr": 0.05, "seed": 3, **settings.pop("train", {})}
    return qsr.fit({"type": "model", "module_name": "tests.training.lines.Line"}, points(noise=0.1), train, **settings)


def test_a_run_writes_all_that_loading_needs(tmp_path: Path) -> None:
    run = fit(tmp_path, optimizer={"module_name": "torch.optim.SGD", "kwargs": {"momentum": 0.9}}, extra={"note": "x"})
    assert run.path is not None and run.path == tmp_path / "Line" / "0"
    stored = json.loads((run.path / "settings.json").read_text())
    assert stored["train"]["lr"] == 0.05 and stored["optimizer"] == {"name": "SGD", "kwargs": {"momentum": 0.9}, "groups": []}
    assert "K" not in stored["train"] and "hamiltonian" not in stored and stored["extra"] == {"note": "x"}
    assert stored["data"]["module_name"] == "tests.training.lines.Points" and "optimizer" not in stored["model"]
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


@pytest.mark.parametrize("step", [1, 9, 10, 11, 35])
@pytest.mark.parametrize("scheduler", ["none", "ReduceLROnPlateau"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, step: int, scheduler: str) -> None:
    run, copy = tmp_path / "a" / "Line" / "0", tmp_path / "b" / "Line" / "0"
    arguments = {"name": scheduler, "kwargs": {} if scheduler == "none" else {"patience": 0, "threshold": 0.5}}
    whole = fit(
        tmp_path / "a",
        scheduler=arguments,
        checkpoint={"every_n_steps": 3},
        early_stopping={"patience": 2, "restore_best_weights": True},
        train={"Q": 3, "max_epochs": 12},
        callbacks=[CopyAt(step, run, copy)],
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


@pytest.mark.parametrize("data", [None, {"seed": 1}])
def test_data_that_nothing_names_are_asked_for(data: dict[str, int] | None) -> None:
    with pytest.raises(ConfigError, match=r"data\.module_name: missing; name a class of data"):
        qsr.train(model={"module_name": "tests.training.lines.Line"}, data=data, train={"dir": "<NONE>"})


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


def test_a_drawn_seed_is_the_recorded_one(tmp_path: Path) -> None:
    data = Points({"loader": {"batch_size": 16}})
    run = qsr.fit(Line({}), data, {"dir": str(tmp_path), "max_epochs": 1})
    assert data.thparams.seed == run.settings.data.seed
    assert run.path is not None and read_run(run.path).settings.data.seed == data.thparams.seed
    found = qsr.evaluate_on_data(run)
    assert found.metrics == qsr.evaluate_on_data(run, data).metrics


class Jittered(Dataset[Any]):
    """Random numbers in every access."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.tensor([index / 24]) + 0.3 * torch.randn(1)
        return x, 2 * x + torch.randn(1)


class JitteredData(PyTorchData[DataHparams]):
    def get_dataset(self) -> Dataset[Any]:
        return Jittered()


@pytest.mark.parametrize("kind", ["workers", "own loader"])
@pytest.mark.parametrize("step", [1, 5, 7])
def test_random_data_are_the_same_after_an_interruption(tmp_path: Path, kind: str, step: int) -> None:
    def data() -> Any:
        if kind == "own loader":
            x = torch.linspace(0, 1, 20)[:, None]
            return (DataLoader(TensorDataset(x, x.square()), batch_size=5, shuffle=True),)
        return JitteredData({"seed": 0, "split": (0.8, 0.2), "loader": {"batch_size": 5, "shuffle": True, "num_workers": 2}})

    model = {"type": "model", "module_name": "tests.training.lines.Line"}
    run, copy = tmp_path / "a" / "Line" / "0", tmp_path / "b" / "Line" / "0"
    whole = qsr.fit(
        model,
        data(),
        {"dir": str(tmp_path / "a"), "max_epochs": 2, "lr": 0.1},
        checkpoint={"every_n_steps": 1},
        callbacks=[CopyAt(step, run, copy)],
    )
    resumed = qsr.resume(copy, data=data())
    assert torch.equal(whole.model.layer.weight, resumed.model.layer.weight)


def test_a_run_killed_in_its_last_evaluation_gets_it(tmp_path: Path) -> None:
    class Killed(Line):
        calls = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            Killed.calls += 1
            if Killed.calls == 1 + 2 * 2 + 1:  # the check before the run, two epochs of two batches, the first of the third
                raise KeyboardInterrupt
            super().validation_step(batch, batch_idx)

    with pytest.raises(KeyboardInterrupt):
        qsr.fit(Killed({}), points(loader={"batch_size": 16}), {"dir": str(tmp_path), "max_epochs": 3})
    (path,) = (tmp_path / "Killed").glob("0") if (tmp_path / "Killed").exists() else tmp_path.glob("*/0")
    qsr.resume(path, data=points(loader={"batch_size": 16}))
    assert RunDirectory(path).history.read("epochs")["epoch"].tolist() == [1, 2, 3]
    assert {file.name for file in (path / "best").iterdir()} >= {"0003.safetensors", "last.safetensors"}


def test_two_stoppers_keep_their_states_apart(tmp_path: Path) -> None:
    class Two(Line):
        def configure_callbacks(self) -> list[Any]:
            from qsr.training import EarlyStopping

            never = EarlyStopping(EarlyStoppingHparams(patience=100))
            return [EarlyStopping(EarlyStoppingHparams(stopping_threshold=1e9)), never]

    run = qsr.fit(Two({}), points(), {"dir": str(tmp_path), "max_epochs": 5})
    assert run.path is not None
    qsr.resume(run.path, data=points())
    assert RunDirectory(run.path).history.read("epochs")["epoch"].tolist() == [1]


@pytest.mark.parametrize(
    ("data", "settings", "problem"),
    [
        ("training only", {"early_stopping": {"patience": 1}}, "there is never an evaluation"),
        ("training only", {"scheduler": {"name": "ReduceLROnPlateau"}}, "there is never an evaluation"),
        (
            "both",
            {"early_stopping": {}, "train": {"check_val_every_n_epoch": 3, "max_epochs": 2}},
            "there is never an evaluation",
        ),
        ("both", {"scheduler": {"name": "ReduceLROnPlateau", "interval": "step"}}, r"scheduler\.interval=step"),
        ("both", {"scheduler": {"name": "StepLR", "kwargs": {"step_size": 0}}}, r"scheduler\.name=StepLR: divides by zero"),
        ("both", {"optimizer": {"kwargs": {"betas": [0.9]}}}, r"optimizer\.name=Adam"),
        ("both", {"checkpoint": {"monitor": "validation/accuracy"}}, r"checkpoint\.monitor=validation/accuracy"),
    ],
)
def test_refused_before_there_is_a_directory(tmp_path: Path, data: str, settings: dict[str, Any], problem: str) -> None:
    parts = points().split[:1] if data == "training only" else points()
    train = {"dir": str(tmp_path), **settings.pop("train", {})}
    with pytest.raises(ConfigError, match=problem):
        qsr.fit(Line({}), parts, train, **settings)
    assert not list(tmp_path.iterdir())


def test_metrics_of_every_epoch_are_cut_back_with_the_run() -> None:
    metrics = EpochMetrics()
    assert metrics.last == {}
    for loss in (3.0, 2.0):
        metrics.on_validation_end(None, {"training/loss": loss})  # type: ignore[arg-type]
    saved = metrics.state_dict()
    metrics.on_validation_end(None, {"training/loss": 9.0})  # type: ignore[arg-type]
    metrics.load_state_dict(saved)
    assert metrics.epochs == [{"training/loss": 3.0}, {"training/loss": 2.0}] and metrics.last == {"training/loss": 2.0}


def test_the_global_generator_is_seeded_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**62 + 5)
        expected = torch.rand(3)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("a seed was queued for a device not in use"))
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        seed_global(2**62 + 5)
        assert torch.equal(torch.rand(3), expected)
