"""Configurations and calls that cannot be: each is refused at once, with a line that says what to change."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qsr.hparams import ConfigError, RunSettings
from qsr.hsm import (
    EarlyStoppingConfig,
    ExperimentClient,
    GradientClippingConfig,
    LossFunctionConfig,
    OptimizerConfig,
    PauliHSModelHyperparameters,
    SchedulerConfig,
)
from tests.hsm.configs import ADAM, MSE, frame, general, run


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
