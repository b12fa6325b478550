"""The training loop itself: epochs, rewinds, schedulers, optimizers, callbacks."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qsr
from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.registry import registered_optimizers
from qsr.runs import RunDirectory
from qsr.training import BatchKey, Callback, OptimizerHparams, RunFailed, SchedulerHparams, TorchUpdate, Trainer


def settings(**sections: Any) -> RunSettings:
    train = {"L": 4, "K": 8, "steps": 10, "dir": "<NONE>", **sections.pop("train", {})}
    return RunSettings.from_tree({"model": qsr.RNN(patch=1, Nh=4), "train": train, **sections})


class Line(nn.Module):
    """y = a x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))


class Fit:
    """Least squares on eight points, two minibatches a step, four steps an epoch: the smallest objective with data."""

    def __init__(self, bad_steps: Sequence[int] = ()) -> None:
        self.bad_steps = list(bad_steps)
        self.seen: list[tuple[int, int]] = []

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        for step in range(first, 4):
            self.seen.append((epoch, step))
            yield [BatchKey(0, 4 * epoch + step, index) for index in range(minibatches)]

    def prepare(self, model: Line, keys: Sequence[BatchKey]) -> tuple[list[Any], dict[str, float]]:
        return [type("Batch", (), {"key": key})() for key in keys], {}

    def loss(self, model: Line, batch: Any) -> tuple[Tensor, dict[str, float]]:
        x = torch.tensor([float(batch.key.step % 4), float(batch.key.minibatch)], dtype=torch.float64)
        loss = (model.weight[0] * x + model.weight[1] - (3 * x - 1)).square().mean()
        if batch.key.step in self.bad_steps and batch.key.minibatch == 0:
            self.bad_steps.remove(batch.key.step)
            loss = loss * math.nan
        return loss, {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def summarise(self, found: Sequence[dict[str, float]]) -> dict[str, float]:
        return {"loss": sum(part["loss"] for part in found) / len(found)}


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.metrics: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        self.calls.append("start")

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.calls.append(f"step {trainer.step}")
        self.metrics.append(metrics)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.calls.append(f"epoch {trainer.epoch}")

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.calls.append(f"checkpoint {trainer.step}")

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.calls.append(type(error).__name__)

    def on_fit_end(self, trainer: Trainer) -> None:
        self.calls.append("end")


def fit(objective: Fit, run: RunSettings, directory: RunDirectory | None = None) -> tuple[Line, Recorder, Trainer]:
    model, recorder = Line(), Recorder()
    trainer = Trainer(model, objective, TorchUpdate(model, run), [recorder], run, directory)
    trainer.fit()
    return model, recorder, trainer


def test_epochs_steps_and_checkpoints_come_in_order() -> None:
    run = settings(train={"steps": 6, "Q": 2, "K": 4}, checkpoint={"every_n_steps": 3})
    objective = Fit()
    _, recorder, _ = fit(objective, run)
    assert recorder.calls == [
        *["checkpoint 0", "start", "step 1", "step 2", "step 3", "checkpoint 3", "step 4", "epoch 1"],
        *["step 5", "step 6", "checkpoint 6", "epoch 2", "end"],
    ]
    assert objective.seen == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def test_a_fit_with_data_converges() -> None:
    run = settings(train={"steps": 400, "Q": 2, "K": 4, "lr": 0.3}, gradient_clipping={"max_norm": None})
    model, recorder, _ = fit(Fit(), run)
    assert (model.weight.detach() - torch.tensor([3.0, -1.0], dtype=torch.float64)).abs().max() < 1e-2
    assert recorder.metrics[-1]["loss"] < 1e-3 < recorder.metrics[0]["loss"]


def test_a_step_that_is_not_finite_rewinds_and_halves_the_rate() -> None:
    run = settings(train={"steps": 12, "K": 4, "Q": 2, "lr": 0.08}, scheduler={"name": "none"}, checkpoint={"every_n_steps": 5})
    _, recorder, trainer = fit(Fit(bad_steps=[7, 11]), run)
    steps = [int(call.split()[1]) for call in recorder.calls if call.startswith("step")]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 11, 12]
    rates = [metrics["lr"] for metrics in recorder.metrics]
    assert rates == [0.08] * 7 + [0.04] * 6 + [0.02] * 2
    assert trainer.rewinds == 2


def test_rewinds_are_counted_and_end_with_the_good_weights(tmp_path: Path) -> None:
    run = settings(train={"steps": 12, "K": 4, "Q": 2}, checkpoint={"every_n_steps": 4})
    directory = RunDirectory(tmp_path)
    model, recorder = Line(), Recorder()
    trainer = Trainer(model, Fit(bad_steps=[6, 6, 6, 6]), TorchUpdate(model, run), [recorder], run, directory)
    with pytest.raises(RunFailed, match=r"step 6: .*loss=nan.* after 3 rewinds; the weights of step 4 are kept"):
        trainer.fit()
    checkpoint = directory.latest_checkpoint()
    assert checkpoint is not None and checkpoint.step == 4
    assert torch.equal(directory.read_weights()["weight"], checkpoint.weights["weight"])
    assert torch.equal(model.weight.detach(), checkpoint.weights["weight"]) and recorder.calls[-1] == "RunFailed"


def test_a_checkpoint_is_good_only_when_a_step_from_it_was(tmp_path: Path) -> None:
    """The step to 1e200 is finite itself and is saved; the one after it is not, and the run goes back before both."""
    run = settings(
        train={"steps": 5, "lr": 1e200},
        optimizer={"name": "SGD"},
        scheduler={"name": "none"},
        gradient_clipping={"max_norm": None},
        checkpoint={"every_n_steps": 1},
    )
    directory, model = RunDirectory(tmp_path), Line()
    with pytest.raises(RunFailed, match="the weights of step 0 are kept"):
        Trainer(model, Fit(), TorchUpdate(model, run), [], run, directory).fit()
    assert directory.read_weights()["weight"].tolist() == [0.0, 0.0]


# For models on data: tests/training/test_groups.py, tests/qembed/test_named_optimizers.py.
ON_DATA = ("LBFGS", *registered_optimizers())


@pytest.mark.parametrize("name", [name for name in OptimizerHparams.choices() if name not in ("spring", "minsr", *ON_DATA)])
def test_every_torch_optimizer_can_be_used_and_resumed(name: str, tmp_path: Path) -> None:
    run = settings(optimizer={"name": name}, train={"steps": 6}, checkpoint={"every_n_steps": 3})
    check_resumed(run, tmp_path)


def test_a_scheduler_that_looks_at_validation_is_refused_for_samplers() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.name=ReduceLROnPlateau: needs validation data"):
        settings(scheduler={"name": "ReduceLROnPlateau"})
    with pytest.raises(ConfigError, match=r"scheduler\.interval=epoch"):
        settings(scheduler={"interval": "epoch"})


@pytest.mark.parametrize("name", [name for name in SchedulerHparams.choices() if name != "ReduceLROnPlateau"])
def test_every_torch_scheduler_can_be_used_and_resumed(name: str, tmp_path: Path) -> None:
    needed = {"StepLR": {"step_size": 2}, "MultiStepLR": {"milestones": [2, 4]}, "ExponentialLR": {"gamma": 0.9}}
    needed |= {"CyclicLR": {"base_lr": 1e-3}, "CosineAnnealingWarmRestarts": {"T_0": 3}}
    run = settings(scheduler={"name": name, "kwargs": needed.get(name, {})}, train={"steps": 6}, checkpoint={"every_n_steps": 3})
    check_resumed(run, tmp_path)


def check_resumed(run: RunSettings, folder: Path) -> None:
    """Six steps at once equal three, a checkpoint on disk, and three more."""
    whole, _, _ = fit(Fit(), run, RunDirectory(folder))
    (folder / "checkpoint" / "6").rename(folder / "gone")
    model = Line()
    trainer = Trainer(model, Fit(), TorchUpdate(model, run), [Recorder()], run, RunDirectory(folder))
    trainer.resume()
    assert trainer.step == 3
    trainer.fit()
    assert torch.equal(model.weight, whole.weight) and model.weight.abs().sum() > 0


def test_clipping_bounds_the_step_and_records_the_norm() -> None:
    run = settings(train={"steps": 1, "lr": 1.0}, optimizer={"name": "SGD"}, scheduler={"name": "none"})
    model, recorder, _ = fit(Fit(), run)
    assert recorder.metrics[0]["gradient_norm"] == pytest.approx(2.0)  # of (b - 3x + 1)^2 at x = 0
    assert model.weight.norm().item() == pytest.approx(1.0)


def test_arguments_that_torch_refuses_name_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.name=SGD: .*[Nn]esterov"):
        TorchUpdate(Line(), settings(optimizer={"name": "SGD", "kwargs": {"nesterov": True}}))
    with pytest.raises(ConfigError, match=r"scheduler\.name=StepLR: .*step_size"):
        TorchUpdate(Line(), settings(scheduler={"name": "StepLR"}))
