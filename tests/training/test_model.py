"""Models and data of a user's own, with the snippets of hydrantic.md: settings, steps, splits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.training import (
    CheckpointHparams,
    DataHparams,
    DataLoaderHparams,
    EarlyStoppingHparams,
    Model,
    ModelHparams,
    OptimizerHparams,
    SchedulerHparams,
)
from tests.training.lines import Line, points


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
