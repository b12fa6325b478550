"""Tables as data: features and targets by the names of columns, and a split that the seed decides."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from qsr.hparams import ConfigError, Hparam
from qsr.training.columns import Columns, check_present, columns_of, is_snapshot_file, numbers_in, read_columns
from qsr.training.files import FileData, FileHparams
from qsr.training.rows import TensorRows, grouped, split_rows

MOST_CLASSES = 20  # of few rows: more of them are rather measurements


class TableHparams(FileHparams):
    """Columns of a table, and how its rows are split."""

    section: ClassVar[str] = "table"
    wanted: ClassVar[str] = "a table (--data file=table.csv)"

    file: str | None = Hparam(None, help="csv, tsv, parquet, h5 (a data set for each column, or snapshots); None: data in memory")
    targets: tuple[str, ...] = Hparam((), help="columns to predict; none: the features alone are learnt")
    input_features: tuple[str, ...] | None = Hparam(
        None, help="columns to predict from; n* means all whose names begin with n; None: all but the targets"
    )
    labels: bool | None = Hparam(None, help="whether the target is the name of a class; None: if it is text")
    split: tuple[float, ...] = Hparam(
        (0.64, 0.16, 0.2),
        help="shares of training, validation and test data; one number: that of the test data, and of validation in the rest",
    )
    stratify: bool | None = Hparam(None, help="the same share of every class in each part; None: for labels")
    shuffle_split: bool = Hparam(True, help="parts are drawn; False: training data first, test data last")
    classes: tuple[str, ...] | None = Hparam(None, help="names of the classes in the order of their numbers; filled in for text")
    sha256: str | None = Hparam(None, help="of the file, or of the columns used of data in memory; filled in")

    def build(self) -> Table:
        self.check_file()
        return Table(self)

    @model_validator(mode="before")
    @classmethod
    def _one_target(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        listed = {name: (values[name],) for name in ("targets", "input_features") if isinstance(values.get(name), str)}
        if isinstance(values.get("split"), (int, float)) and not isinstance(values["split"], bool):
            listed["split"] = (values["split"],)
        return {**values, **listed}

    @model_validator(mode="after")
    def _consistent(self) -> Any:
        split = self.split
        if len(split) == 1:
            share = split[0]
            if not 0 <= share < 1:
                raise ConfigError(f"data.split={share:g}: must be at least 0 and less than 1")
            split = ((1 - share) * (1 - share), (1 - share) * share, share)
        shares = ", ".join(f"{part:g}" for part in split)
        if len(split) not in (2, 3) or split[0] <= 0 or any(not part >= 0 for part in split):
            raise ConfigError(f"data.split={shares}: must be one to three shares, at least 0, that of training greater than 0")
        if not math.isclose(sum(split), 1, rel_tol=0, abs_tol=1e-9):
            raise ConfigError(f"data.split={shares}: must add up to 1, found {sum(split):g}")
        self.__dict__["split"] = split
        if len(set(self.targets)) < len(self.targets):
            raise ConfigError(f"data.targets={list(self.targets)}: Target columns must be unique.")
        if self.labels and len(self.targets) != 1:
            raise ConfigError(f"data.labels=True: needs one target column, found {len(self.targets)}")
        features = self.input_features
        if features is None:
            return self
        if not features:
            raise ConfigError("data.input_features: If input_features is specified, it cannot be empty.")
        if len(set(features)) < len(features):
            raise ConfigError(f"data.input_features={list(features)}: Input feature columns must be unique.")
        if shared := [name for name in features if name in self.targets]:
            raise ConfigError(
                "data.input_features: Target columns and input feature columns cannot overlap. "
                f"Overlapping columns: {sorted(shared)}"
            )
        return self


def _matching(pattern: str, columns: Columns) -> list[str]:
    """The column of that name, or those that a pattern with a star fits."""
    found = [name for name in columns if fnmatch.fnmatchcase(name, pattern)] if "*" in pattern and pattern not in columns else []
    return found or [pattern]


class Table(FileData[TableHparams]):
    """The rows of a table: batches of (x (B, K), y (B, T)) float64, y = the number of its class for a column of names.

    Args:
        hparams: names of columns, split, loader.
        data: what `qsr.training.columns.columns_of` takes; None: the file is read.

    Attributes:
        classes: the names of classes in the order of their numbers; None for a target that is a number.

    Raises:
        ConfigError: for a table that does not have the columns, text among its features, targets that are missing, a part of
            the split without rows, or a file that has changed since its `sha256` was taken.
    """

    fixed: ClassVar[tuple[str, ...]] = ("seed", "split", "stratify", "shuffle_split", "sha256")
    full: TensorRows

    def __init__(self, hparams: TableHparams | Mapping[str, Any], data: Any = None) -> None:
        self._given = data
        self.classes: list[str] | None = None
        super().__init__(hparams)

    def get_dataset(self) -> TensorRows:
        columns = self._columns()
        settings = self.thparams
        where = settings.file or "data"
        check_present(columns, settings.targets, f"{where}: data.targets")
        others = tuple(name for name in columns if name not in settings.targets)
        if "" in others and settings.input_features is None:
            raise ConfigError(f"{where}: a column has no name (the index of a frame?); name the features with input_features")
        if settings.file is not None and is_snapshot_file(settings.file):
            others = ("n*",)  # what else is known of a snapshot is no feature unless it is named
        features = settings.input_features or others
        features = tuple(name for pattern in features for name in _matching(pattern, columns))
        if not features:
            raise ConfigError(f"{where}: has no column but the targets")
        x = numbers_in(columns, features, f"{where}: data.input_features")
        y = self._targets(columns, where)
        found: dict[str, Any] = {"input_features": features, "labels": self.classes is not None or settings.labels}
        if self.classes is not None:
            found["classes"] = tuple(self.classes)
        if self._given is not None:
            found["sha256"] = self.checked_hash(x.tobytes(), y.tobytes())
        self.thparams = settings.updated(found)
        return TensorRows(torch.from_numpy(x), torch.from_numpy(y))

    def _columns(self) -> Columns:
        if self._given is not None:
            return columns_of(self._given)
        file = str(self.thparams.file)
        found = self.checked_hash(self.read_bytes(file))
        columns = read_columns(file)
        self.thparams = self.thparams.updated({"sha256": found})
        return columns

    def _targets(self, columns: Columns, where: str) -> NDArray[np.float64]:
        settings = self.thparams
        names = settings.targets
        if len(names) == 1 and settings.labels is not False and columns[names[0]].dtype == object:
            values = columns[names[0]]
            missing = [row for row, value in enumerate(values) if value is None]
            if not missing:
                self.classes = sorted(set(values)) if settings.classes is None else list(settings.classes)
                numbers = {name: number for number, name in enumerate(self.classes)}
                if unknown := [value for value in values if value not in numbers]:
                    known = ", ".join(self.classes)
                    raise ConfigError(f"{where}: {unknown[0]!r} in '{names[0]}' is no class of the training data: {known}")
                return np.array([[numbers[value]] for value in values], dtype=np.float64)
        else:
            found = numbers_in(columns, names, f"{where}: data.targets")
            missing = np.nonzero(~np.isfinite(found).all(axis=1))[0].tolist()
            if not missing:
                return found
        raise ConfigError(f"{where}: data.targets: {len(missing)} rows have no value, the first is row {missing[0] + 1}")

    def check_like(self, stored: Any) -> None:
        if not isinstance(stored, TableHparams):
            return
        for name in ("input_features", "targets", "classes"):
            if stored[name] is not None and stored[name] != self.thparams[name]:
                raise ConfigError(
                    f"data.{name}={list(self.thparams[name] or ())}: the run has {list(stored[name])}, in this order"
                )

    def split_dataset(self, dataset: Any, fractions: Sequence[float], seed: int) -> list[Any]:  # type: ignore[override]
        """Rows of each part; test data are ceil(share * S), then validation data. None for a part with the share 0.

        Raises:
            ConfigError: if a part would be empty, or would lack a class that is there.
        """
        x, y = dataset.columns
        count = len(x)
        order = np.arange(count)
        settings = self.thparams
        stratify = settings.labels if settings.stratify is None else settings.stratify
        if settings.shuffle_split:
            order = np.random.default_rng(seed).permutation(count)
        values = None
        if stratify and settings.shuffle_split:
            if len(settings.targets) != 1:
                raise ConfigError(f"data.stratify=True: needs one target column, found {len(settings.targets)}")
            values = y[:, 0].numpy()
        groups = grouped(order, values)
        shares = [*fractions, 0.0][:3]
        parts = split_rows(groups, shares)
        found = [np.concatenate(part) for part in parts]
        sizes = [len(rows) for rows in found]
        if any(share and not size for share, size in zip(shares, sizes, strict=True)) or not all(len(rows) for rows in parts[0]):
            shown = ", ".join(f"{share:g}" for share in shares)
            if len(groups) > max(MOST_CLASSES, count / 2):
                raise ConfigError(f"data.targets={settings.targets[0]}: {len(groups)} values in {count} rows are not classes")
            what = "a part without rows"
            if len(groups) > 1:
                what = (
                    f"a part, or one of the {len(groups)} classes of '{settings.targets[0]}' in the training data, without rows"
                )
            raise ConfigError(f"data.split={shown}: leaves {what} ({', '.join(map(str, sizes))} of {count} rows)")
        rows_of = [torch.from_numpy(rows if len(groups) == 1 else np.sort(rows)) for rows in found]
        return [TensorRows(x[rows], y[rows]) if len(rows) else None for rows in rows_of]
