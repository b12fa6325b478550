"""The document's configurations: its snippets, retyped, with the defects of the original that they must not have."""

import asyncio
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import qsr
from qsr.hparams import ConfigError
from qsr.hsm import (
    EarlyStoppingConfig,
    ExperimentClient,
    GeneralHSModelHyperparameters,
    GradientClippingConfig,
    LossFunctionConfig,
    ModelHyperparameters,
    OptimizerConfig,
    PauliHSModelHyperparameters,
    PerGroupOptimizerParams,
    SchedulerConfig,
)
from qsr.jobs.experiments import Experiment
from qsr.runs import RunDirectory
from tests.hsm.configs import ADAM, MSE, frame, general, run

# --- the document, section by section -------------------------------------------------------------------------------


def test_the_base_configuration(tmp_path: Path) -> None:
    config = ModelHyperparameters(
        hsm_model="general",
        weighted_layer=False,
        epochs=2,
        batch_size=32,
        split=0.2,
        seed=42,
        targets="target_value",
        input_features=None,
        device="auto",
        num_workers=0,
        pin_memory=False,
        optimizer_config=ADAM,
        loss_fn_config=MSE,
    )
    assert config.targets_list == ["target_value"]
    found = run(config, tmp_path)
    assert found.metrics["epochs_completed"] == 2 and found.run.settings.model.input_operator_count == 5
    assert found.run.settings.optimizer.kwargs["betas"] == [0.9, 0.999] or found.run.settings.optimizer.kwargs["betas"] == (
        0.9,
        0.999,
    )


def test_parameter_groups(tmp_path: Path) -> None:
    optimizer = OptimizerConfig(
        type="Adam",
        default_params={"lr": 0.001, "weight_decay": 1e-4},
        group_params=[
            PerGroupOptimizerParams(param_name_contains=["input_trius"], params={"lr": 1e-4, "weight_decay": 0}),
            PerGroupOptimizerParams(param_name_contains=["input_diags"], params={"lr": 0.01}),
        ],
    )
    found = run(general(optimizer_config=optimizer), tmp_path)
    state = RunDirectory(found.run.path).latest_checkpoint()  # type: ignore[arg-type]
    assert state is not None
    groups = state.state["update_rule"]["optimizer"]["param_groups"]
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1e-4, 0, 1),
        (0.01, 1e-4, 1),
        (0.001, 1e-4, 2),
    ]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "LBFGS"])
def test_optimizers(name: str, tmp_path: Path) -> None:
    assert math.isfinite(
        run(general(optimizer_config=OptimizerConfig(type=name, default_params={"lr": 0.01})), tmp_path).metrics["test_loss"]
    )


def test_weights_of_classes_are_lists(tmp_path: Path) -> None:  # defect 1
    loss = LossFunctionConfig(type="CrossEntropyLoss", params={"weight": [1.0, 2.0, 1.0], "label_smoothing": 0.1})
    found = run(general(loss_fn_config=loss), tmp_path, frame(classes=3))
    weights = found.run.model.loss_function.weight
    assert weights.tolist() == [1.0, 2.0, 1.0] and found.run.settings.model.classes == ("maybe", "no", "yes")
    assert 0 < found.metrics["test_accuracy"] <= 1
    with pytest.raises(ConfigError, match=r"loss\.name=CrossEntropyLoss: weight tensor should be defined"):
        run(
            general(loss_fn_config=LossFunctionConfig(type="CrossEntropyLoss", params={"weight": [1.0]})),
            tmp_path,
            frame(classes=3),
        )


SCHEDULERS = {
    "step": SchedulerConfig(type="StepLR", params={"step_size": 2, "gamma": 0.1}, interval="epoch"),
    "cosine": SchedulerConfig(type="CosineAnnealingLR", params={"T_max": 3, "eta_min": 1e-6}, interval="epoch"),
    "plateau": SchedulerConfig(
        type="ReduceLROnPlateau",
        params={"monitor": "val_loss", "patience": 0, "factor": 0.5, "min_lr": 1e-6, "threshold": 1e3, "threshold_mode": "abs"},
        interval="epoch",
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str, tmp_path: Path) -> None:  # defect 2: plateau
    found = run(general(epochs=4, scheduler_config=SCHEDULERS[name]), tmp_path)
    rates = RunDirectory(found.run.path).history.read("steps")["lr"][::3]  # type: ignore[arg-type]
    cosine = [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(4)]
    expected = {"step": [1e-3, 1e-3, 1e-4, 1e-4], "cosine": cosine, "plateau": [1e-3, 1e-3, 5e-4, 2.5e-4]}[name]
    assert rates.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_scheduler_of_steps_is_stepped_by_them(tmp_path: Path) -> None:  # defect 6
    scheduler = SchedulerConfig(type="ExponentialLR", params={"gamma": 0.5}, interval="step")
    found = run(general(epochs=2, scheduler_config=scheduler), tmp_path)
    rates = RunDirectory(found.run.path).history.read("steps")["lr"]  # type: ignore[arg-type]
    assert rates.tolist() == pytest.approx([1e-3 * 0.5**step for step in range(len(rates))]) and len(rates) == 6
    with pytest.raises(ConfigError, match="interval"):
        SchedulerConfig(type="StepLR", params={"step_size": 1}, interval="batch")  # type: ignore[arg-type]


def test_a_plateau_by_steps_is_stepped_by_epochs_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = SchedulerConfig(type="ReduceLROnPlateau", params={"monitor": "val_accuracy"}, interval="step")
    assert config.tree() == {
        "name": "ReduceLROnPlateau",
        "kwargs": {"mode": "max"},
        "interval": "epoch",
        "monitor": "val_accuracy",
    }
    assert "stepped by epochs" in caplog.text


def test_early_stopping_restores_the_best_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # defect 14
    stopping = EarlyStoppingConfig(
        monitor="val_loss", min_delta=0.0001, patience=3, mode="min", verbose=True, restore_best_weights=True
    )
    optimizer = OptimizerConfig(type="Adam", default_params={"lr": 0.3})
    with caplog.at_level(logging.INFO, logger="qsr"):
        found = run(general(epochs=60, optimizer_config=optimizer, early_stopping_config=stopping), tmp_path)
    losses = found.metrics["val_loss_history"]
    best = losses.index(min(losses))
    assert len(losses) < 60 and found.metrics["best_val_loss"] == losses[best] < losses[-1]
    assert "not better than" in caplog.text and "the best so far" in caplog.text
    assert found.run.path is not None
    loaded = qsr.load_model(found.run.path)  # what is stored is what was best
    for name, value in found.run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_accuracy_can_be_watched(tmp_path: Path) -> None:
    stopping = EarlyStoppingConfig(monitor="val_accuracy", mode="max", patience=2)
    loss = LossFunctionConfig(type="CrossEntropyLoss")
    found = run(general(epochs=8, loss_fn_config=loss, early_stopping_config=stopping), tmp_path, frame(classes=3))
    assert found.run.settings.early_stopping.monitor == "validation/accuracy"
    with pytest.raises(
        ConfigError, match=r"early_stopping\.monitor=validation/acuracy: no such metric; did you mean 'validation/accuracy'"
    ):
        run(
            general(loss_fn_config=loss, early_stopping_config=EarlyStoppingConfig(monitor="val_acuracy")),
            tmp_path,
            frame(classes=3),
        )


def test_gradient_clipping(tmp_path: Path) -> None:
    clipping = GradientClippingConfig(max_norm=1.0, norm_type=2.0)
    assert run(general(gradient_clipping_config=clipping), tmp_path).run.settings.gradient_clipping.max_norm == 1.0
    assert run(general(), tmp_path).run.settings.gradient_clipping.max_norm is None
    found = run(general(gradient_clipping_config=GradientClippingConfig(max_norm=1.0, norm_type="inf")), tmp_path)  # type: ignore[arg-type]
    assert found.run.path is not None
    assert qsr.load_model(found.run.path) is not None and found.run.settings.gradient_clipping.norm_type == math.inf
    norms = RunDirectory(found.run.path).history.read("steps")["gradient_norm"]
    assert bool((norms > 0).all())


@pytest.mark.parametrize("kind", ["general", "general_fullenergy"])
def test_the_general_model(kind: str, tmp_path: Path) -> None:
    config = GeneralHSModelHyperparameters(
        hsm_model=kind,
        input_operator_count=5,
        output_operator_count=1,
        hilbert_space_dims=6,
        beta=None,
        complex=True,
        eigh_eps=1e-8,
        epochs=2,
        batch_size=32,
        targets=["target_value"],
        optimizer_config=ADAM,
        loss_fn_config=MSE,
    )
    metrics = run(config, tmp_path).metrics
    assert ("test_pred_loss" in metrics) == (kind == "general_fullenergy") and "test_r2" in metrics


def test_the_pauli_model(tmp_path: Path) -> None:
    config = PauliHSModelHyperparameters(
        hsm_model="pauli",
        input_operator_count=5,
        output_operator_count=1,
        qubits_count=3,
        input_operator_pauli_weight=2,
        output_operator_pauli_weight=3,
        eigh_eps=1e-8,
        epochs=2,
        batch_size=32,
        targets=["target_value"],
        optimizer_config=ADAM,
        loss_fn_config=MSE,
    )
    model = run(config, tmp_path).run.model
    assert model.input_pauli_coeffs.shape == (5, 37) and model.output_pauli_coeffs.shape == (1, 64)


def test_the_complete_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # defect 3: pin_memory with workers
    data = frame(rows=90, features=77)
    data.to_csv(tmp_path / "my-dataset.csv", index=False)
    number_of_columns, number_of_targets = data.shape[1] - 1, 1
    config = GeneralHSModelHyperparameters(
        hsm_model="general",
        weighted_layer=True,
        input_operator_count=number_of_columns,
        output_operator_count=number_of_targets,
        hilbert_space_dims=32,
        complex=True,
        epochs=2,  # of 200
        batch_size=64,
        split=0.2,
        seed=42,
        targets=["target_value"],
        input_features=None,
        device="auto",
        num_workers=4,
        pin_memory=True,
        optimizer_config=OptimizerConfig(type="Adam", default_params={"lr": 0.001, "weight_decay": 1e-4}),
        loss_fn_config=LossFunctionConfig(type="MSELoss", params={"reduction": "mean"}),
        scheduler_config=SchedulerConfig(type="CosineAnnealingLR", params={"T_max": 100}, interval="epoch"),
        early_stopping_config=EarlyStoppingConfig(monitor="val_loss", patience=15, restore_best_weights=True),
        gradient_clipping_config=GradientClippingConfig(max_norm=1.0, norm_type=2.0),
    )

    async def main() -> Experiment:
        client = ExperimentClient(api_key="secret", datasets=tmp_path, directory=tmp_path / "runs")
        return await client.run_experiment(
            "my-dataset-training",
            "Training run for a dataset with CUDA",
            experiment_name="pytorch-models",
            dataset_name="my-dataset",
            environment_name="py3.12-cuda",
            parameters={"hyperparameters": config, "cpu_count": 1, "memory": 1024 * 6, "timeout": 3600 * 24, "gpu_type": "T4"},
        )

    with caplog.at_level(logging.INFO, logger="qsr"):
        found = asyncio.run(main())
    for note in (
        "api_key is not needed",
        "environment_name=py3.12-cuda: not needed",
        "num_workers and pin_memory are not needed",
    ):
        assert note in caplog.text
    assert "secret" not in caplog.text
    metrics = found.metrics
    assert (metrics["train_dataset_size"], metrics["val_dataset_size"], metrics["test_dataset_size"]) == (57, 15, 18)  # defect 7
    assert len(metrics["train_loss_history"]) == len(metrics["val_loss_history"]) == metrics["epochs_completed"] == 2
    assert metrics["final_train_loss"] == metrics["train_loss_history"][-1] and math.isfinite(metrics["test_loss"])
    assert metrics["best_val_loss"] == min(metrics["val_loss_history"]) and metrics["total_training_time"] > 0
    assert found.run.path is not None and found.status == "completed"
    stored = json.loads((found.run.path / "settings.json").read_text())
    assert stored["extra"]["name"] == "my-dataset-training" and "secret" not in json.dumps(stored)
    # Its settings alone are enough to load it, and to predict with names of columns in any order (defects 8 and 9).
    mixed = data.sample(frac=1, axis=1, random_state=0).assign(other="text")
    report = qsr.jobs.predict_table(found.run.path, mixed, device="auto")
    expected = qsr.load_model(found.run.path)(torch.tensor(data.drop(columns="target_value").to_numpy()))
    assert np.allclose(report.columns["target_value"], expected.detach()[:, 0].numpy(), rtol=0, atol=1e-5)
    assert report.metrics["test/r2"] <= 1


def test_a_time_limit_ends_a_run_with_what_it_has(tmp_path: Path) -> None:
    found = run(general(epochs=1_000_000), tmp_path, timeout=0.5)
    assert 1 <= found.metrics["epochs_completed"] < 100_000
