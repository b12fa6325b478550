"""Hilbert-space models of tables: H(x) = 1/2 sum_k (A_k - x_k)^2, and predictions from its ground state."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qsr.hsm.model import HilbertSpaceModel as HilbertSpaceModel
from qsr.hsm.predict import Predictions as Predictions
from qsr.hsm.predict import predict as predict
from qsr.hsm.settings import HSM as HSM

if TYPE_CHECKING:
    from qsr.hsm.estimators import HSMClassifier as HSMClassifier
    from qsr.hsm.estimators import HSMRegressor as HSMRegressor

_ESTIMATORS = ("HSMClassifier", "HSMRegressor")


def __getattr__(name: str) -> Any:
    """The estimators, which need scikit-learn: it is imported when they are asked for.

    Raises:
        ImportError: if it is not there.
    """
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("qsr.hsm.estimators"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(f"qsr.hsm.{name}: needs scikit-learn: pip install 'qsr[hsm]'") from None
