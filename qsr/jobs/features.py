"""New data for a trained model of a table: its features, found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.hsm.model import HilbertSpaceModel
from qsr.training.columns import Columns, columns_of, numbers_in, read_columns


def feature_names(model: HilbertSpaceModel) -> tuple[str, ...]:
    """Names of the features that a model was trained on; x0, x1, ... for arrays."""
    return model.thparams.features or tuple(f"x{index}" for index in range(model.num_features))


def features_of(data: Any, names: Sequence[str]) -> tuple[NDArray[np.float64], Columns, str]:
    """Features (S, K) in the order of their names, all columns of the data, and what to call the data.

    Args:
        data: a file, a frame, a mapping of columns, or an array (S, K), whose columns are taken in their order.

    Raises:
        ConfigError: for data that cannot be read, and features that are missing or not of numbers.
    """
    if isinstance(data, (str, Path)):
        columns = read_columns(data)
        return numbers_in(columns, names, str(data)), columns, str(data)
    columns = columns_of(data)
    if not hasattr(data, "columns") and not hasattr(data, "keys"):
        if len(columns) != len(names):
            raise ConfigError(f"data: {len(columns)} columns, expected the {len(names)} features of the run")
        columns = dict(zip(names, columns.values(), strict=True))
    return numbers_in(columns, names, "data"), columns, "data"
