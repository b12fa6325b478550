"""Hilbert-space models of tables: H(x) = 1/2 sum_k (A_k - x_k)^2, and predictions from its ground state."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qsr.hparams.registry import resolve
from qsr.hsm.geometry import Geometry as Geometry
from qsr.hsm.geometry import berry_curvature as berry_curvature
from qsr.hsm.geometry import geometric_tensor as geometric_tensor
from qsr.hsm.geometry import intrinsic_dimension as intrinsic_dimension
from qsr.hsm.geometry import laplacian_spectrum as laplacian_spectrum
from qsr.hsm.geometry import matrix_geometry as matrix_geometry
from qsr.hsm.geometry import quantum_metric as quantum_metric
from qsr.hsm.hyperparameters import EarlyStoppingConfig as EarlyStoppingConfig
from qsr.hsm.hyperparameters import GeneralHSModelHyperparameters as GeneralHSModelHyperparameters
from qsr.hsm.hyperparameters import GradientClippingConfig as GradientClippingConfig
from qsr.hsm.hyperparameters import LossFunctionConfig as LossFunctionConfig
from qsr.hsm.hyperparameters import ModelHyperparameters as ModelHyperparameters
from qsr.hsm.hyperparameters import OptimizerConfig as OptimizerConfig
from qsr.hsm.hyperparameters import PauliHSModelHyperparameters as PauliHSModelHyperparameters
from qsr.hsm.hyperparameters import PerGroupOptimizerParams as PerGroupOptimizerParams
from qsr.hsm.hyperparameters import SchedulerConfig as SchedulerConfig
from qsr.hsm.model import HilbertSpaceModel as HilbertSpaceModel
from qsr.hsm.overlaps import similarity as similarity
from qsr.hsm.overlaps import transform as transform
from qsr.hsm.predictions import Predictions as Predictions
from qsr.hsm.predictions import predict as predict
from qsr.hsm.settings import HSM as HSM

if TYPE_CHECKING:
    from qsr.hsm.estimators import HSMClassifier as HSMClassifier
    from qsr.hsm.estimators import HSMRegressor as HSMRegressor

_ESTIMATORS = ("HSMClassifier", "HSMRegressor")
_ABOVE = {"ExperimentClient": "qsr.jobs.experiments:ExperimentClient"}  # where it stands, above this package


def __dir__() -> list[str]:
    return sorted(
        {name for name in globals() if name[0].isupper() and name not in ("Any", "TYPE_CHECKING")} | {*_ABOVE, *_ESTIMATORS}
    )


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for: the estimators, which need scikit-learn, and the experiment client.

    Raises:
        ImportError: if scikit-learn is not there.
    """
    if name in _ABOVE:
        return resolve(_ABOVE[name])
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("qsr.hsm.estimators"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(f"qsr.hsm.{name}: needs scikit-learn: pip install 'qsr[hsm]'") from None
