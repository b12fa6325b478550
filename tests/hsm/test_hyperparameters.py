"""The document's configurations: its snippets, retyped, and the defects of the original that they must not have."""

import asyncio
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import qsr
from qsr.hparams import ConfigError, RunSettings
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
from qsr.hsm.hyperparameters import ModelHyperparameters as Base
from qsr.jobs.experiments import Experiment
from qsr.runs import RunDirectory

ADAM = OptimizerConfig(type="Adam", default_params={"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 1e-4})
MSE = LossFunctionConfig(type="MSELoss", params={"reduction": "mean"})


def frame(rows: int = 120, features: int = 5, classes: int = 0, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, features))
    found = pd.DataFrame(x, columns=[f"f{index}" for index in range(features)])
    score = x[:, 0] + 0.5 * x[:, 1] * x[:, 2]
    found["target_value"] = score if not classes else np.array(["no", "yes", "maybe"])[np.digitize(score, [0.0, 1.0])]
    return found


def general(**values: Any) -> GeneralHSModelHyperparameters:
    base = {"hsm_model": "general", "hilbert_space_dims": 4, "epochs": 3, "batch_size": 32, "targets": ["target_value"]}
    return GeneralHSModelHyperparameters(**{**base, "optimizer_config": ADAM, "loss_fn_config": MSE, **values})


def run(config: Base, tmp_path: Path, data: pd.DataFrame | None = None, **parameters: Any) -> Experiment:
    client = ExperimentClient(datasets={"my-dataset": frame() if data is None else data}, directory=tmp_path)
    call = client.run_experiment("a run", dataset_name="my-dataset", parameters={"hyperparameters": config, **parameters})
    return asyncio.run(call)


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


# --- what is refused ------------------------------------------------------------------------------------------------


def test_the_learning_rate_may_be_spelt_out(tmp_path: Path) -> None:  # defect 4
    optimizer = OptimizerConfig(type="AdamW", default_params={"learning_rate": 0.002})
    assert run(general(optimizer_config=optimizer), tmp_path).run.settings.train.lr == 0.002
    with pytest.raises(ConfigError, match="lr and learning_rate are both given"):
        general(optimizer_config=OptimizerConfig(type="AdamW", default_params={"learning_rate": 0.002, "lr": 0.1}))


def test_an_optimizer_without_a_rate_has_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    general(optimizer_config=OptimizerConfig(type="Adam"))
    assert "Learning rate ('lr' or 'learning_rate') not found in optimizer_config.default_params" in caplog.text


def test_one_column_of_classes_is_an_error_or_labels(tmp_path: Path) -> None:  # defect 10
    loss = LossFunctionConfig(type="CrossEntropyLoss")
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss needs at least 2 output operators \(one per class\)"):
        general(loss_fn_config=loss, output_operator_count=1)
    data = frame().assign(target_value=1.0)
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss needs at least 2 output operators \(one per class\)"):
        run(general(loss_fn_config=loss), tmp_path, data)


def test_no_seed_is_a_new_seed_each_time_and_recorded() -> None:  # defect 15
    seeds = {general(seed=None).seed for _ in range(4)}
    assert len(seeds) > 1 and None not in seeds
    config = general(seed=None)
    settings = RunSettings.from_tree(config.tree())
    assert settings.train.seed == settings.data.seed == config.seed
    assert general().seed == 42


def test_warnings_of_two_monitors(caplog: pytest.LogCaptureFixture) -> None:
    general(
        scheduler_config=SchedulerConfig(type="ReduceLROnPlateau", params={"monitor": "train_loss"}),
        early_stopping_config=EarlyStoppingConfig(monitor="val_loss"),
    )
    assert "Scheduler 'ReduceLROnPlateau' monitors 'train_loss' while EarlyStopping monitors 'val_loss'." in caplog.text


PAULI = {
    "hsm_model": "pauli",
    "qubits_count": 3,
    "epochs": 1,
    "batch_size": 8,
    "targets": "y",
    "optimizer_config": ADAM,
    "loss_fn_config": MSE,
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "train.max_epochs=0: must be at least 1"),  # defect 17: no range checks
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"split": 1.0}, "data.split=1: must be at least 0 and less than 1"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"hilbert_space_dims": 0}, "Hilbert space dimension must be greater than 0."),
        ({"input_operator_count": 0}, "Input operator count must be greater than 0."),
        ({"output_operator_count": 0}, "Output operator count must be greater than 0."),
        ({"output_operator_count": 2}, r"Output operator count (2) must match the number of targets (1)."),
        ({"beta": 0.0}, "hsm.beta=0.0: must be larger than 0"),
        ({"eigh_eps": -1.0}, "hsm.eigh_eps=-1.0: must be at least 0"),
        ({"targets": []}, "At least one target must be specified."),
        ({"targets": ["a", "a"]}, "Target columns must be unique."),
        ({"input_features": []}, "If input_features is specified, it cannot be empty."),
        ({"input_features": ["target_value"]}, "Overlapping columns: ['target_value']"),
        ({"device": "mps"}, "Unsupported device: mps."),
        ({"hsm_model": "ensemble"}, "hsm_model type 'ensemble' is not explicitly handled or is missing."),
        ({"hilbert_space_dim": 3}, "hilbert_space_dim: unknown setting; did you mean 'hilbert_space_dims'?"),  # defect 17
        ({"weighted_layer": True, "hsm_model": "general_fullenergy"}, "hsm.weighted_layer=True"),
        ({"optimizer_config": OptimizerConfig(type="Adamm", default_params={"lr": 1})}, "did you mean 'Adam'"),
        ({"optimizer_config": OptimizerConfig(type="Adam", default_params={"lr": 1, "momentum": 1})}, "has no such argument"),
        ({"loss_fn_config": LossFunctionConfig(type="MSELoss", params={"reduction": "none"})}, "must be mean or sum"),
        ({"loss_fn_config": LossFunctionConfig(type="CTCLoss")}, "is not a (prediction, target) loss"),
        ({"loss_fn_config": LossFunctionConfig(type="BCELoss")}, "use BCEWithLogitsLoss"),
        ({"scheduler_config": SchedulerConfig(type="LambdaLR", params={})}, "LambdaLR"),
        ({"early_stopping_config": EarlyStoppingConfig(monitor="val_loss", patience=0)}, "patience=0: must be at least 1"),
        (
            {"gradient_clipping_config": GradientClippingConfig(max_norm=0)},
            "gradient_clipping.max_norm=0.0: must be larger than 0",
        ),
    ],
)
def test_configurations_that_cannot_be_run_are_refused_at_once(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        general(**values)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qubits_count": 0}, "Qubits count must be greater than 0."),
        ({"input_operator_pauli_weight": 4}, "Input Pauli weight cannot be greater than qubits count or less than 1."),
        (
            {"output_operator_pauli_weight": 0},
            "Output Pauli weight cannot be greater than qubits count or less than 1.",
        ),  # defect 16
        ({"qubits_count": 20}, "matrices of 2^20 rows are not diagonalised"),
    ],
)
def test_pauli_configurations_that_cannot_be_run(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        PauliHSModelHyperparameters(**{**PAULI, **values})
    assert message in str(error.value)


def test_the_data_must_have_the_sizes_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Input operator count \(feature dimension\) mismatch: Hyperparameters: 4 != Data: 5"):
        run(general(input_operator_count=4), tmp_path)


def test_calls_that_cannot_be_answered(tmp_path: Path) -> None:
    client = ExperimentClient(datasets=tmp_path)

    def call(**arguments: Any) -> None:
        base: dict[str, Any] = {"dataset_name": "x", "parameters": {"hyperparameters": general()}}
        asyncio.run(client.run_experiment("n", **{**base, **arguments}))

    for arguments, message in (
        ({"experiment_name": "other"}, "unknown experiment; the one that runs here is pytorch-models"),
        ({"dataset_name": "nothing"}, "dataset_name=nothing: no file nothing in"),
        ({"parameters": {}}, "Hyperparameters must be provided"),
        ({"parameters": {"hyperparameters": {}}}, "expected a ModelHyperparameters, found dict"),
        ({"parameters": {"hyperparameters": general(), "cpus": 3}}, "parameters.cpus: unknown parameter"),
        ({"parameters": {"hyperparameters": general(), "timeout": 0}}, "parameters.timeout=0: must be a number greater than 0"),
    ):
        with pytest.raises(ConfigError) as error:
            call(**arguments)
        assert message in str(error.value)
