"""Configurations in the document's words, and runs of them, for the tests beside."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qsr.hsm import ExperimentClient, GeneralHSModelHyperparameters, LossFunctionConfig, OptimizerConfig
from qsr.hsm.hyperparameters import ModelHyperparameters as Base
from qsr.jobs.experiments import Experiment

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
