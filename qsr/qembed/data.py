"""Snapshots and text as data of sequences: to classify, to fill in what is masked, to clean what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from qsr.hparams import ConfigError, Hparam
from qsr.hparams.types import Patch
from qsr.qembed.metrics import IGNORED
from qsr.qembed.patches import PatchTokens, SnapshotSource
from qsr.qembed.text import TextSource, Vocabulary
from qsr.snapshots import read_snapshots
from qsr.training.data import check_shares
from qsr.training.files import FileData, FileHparams
from qsr.training.rows import Batch, DictRows, RandomRows, class_numbers, grouped, split_rows

Task = Literal["classify", "mlm", "denoise"]
Code = PatchTokens | Vocabulary
NAMED = 8  # how many columns or values an error message names


class SequencesHparams(FileHparams):
    """Snapshots (h5, hdf5) or text (csv and tsv with the columns text and label, or one sentence a line), and what is asked."""

    section: ClassVar[str] = "sequences"
    wanted: ClassVar[str] = "snapshots or text (--data file=snapshots.h5)"

    file: str | None = Hparam(None, help="snapshots (h5, hdf5), or text: csv or tsv with a column text, or a sentence a line")
    target: str | None = Hparam(
        None, help="task=classify: the column of the classes, or a parameter of whole numbers; None: labels, of text label"
    )
    clean: str | None = Hparam(None, help="task=denoise: the true configurations of those in file, row by row")
    e10: float = Hparam(0.0, ge=0, le=1, help="task=denoise: P(0|1), how often an excited site of the file is read as ground")
    e01: float = Hparam(
        0.0, ge=0, le=1, help="task=denoise: P(1|0), how often a ground-state site of the file is read as excited"
    )
    tokens: Literal["words", "characters"] = Hparam("words", help="of text")
    bos: bool = Hparam(False, help="whether sentences begin with a token of their own, which pooling=first reads")
    task: Task | None = Hparam(None, help="that of the model; filled in")
    patch: Patch | None = Hparam(None, help="that of the model; filled in")
    vocabulary: tuple[str, ...] | None = Hparam(
        None, help="tokens of text, in the order of their ids; filled in: of the training part"
    )
    classes: tuple[int | str, ...] | None = Hparam(None, help="classes in the order of their numbers; filled in")

    def build(self) -> Sequences:
        self.check_file()
        return Sequences(self)

    @model_validator(mode="after")
    def _of_its_task(self) -> Any:
        check_shares(self.split)
        noisy = {"clean": self.clean, "e10": self.e10, "e01": self.e01}
        given = [name for name, value in noisy.items() if value]
        if self.task not in (None, "denoise") and given:
            raise ConfigError(f"data.{given[0]}={noisy[given[0]]}: is for task=denoise, not for {self.task}")
        if self.task not in (None, "classify") and self.target is not None:
            raise ConfigError(f"data.target={self.target}: is for task=classify, not for {self.task}")
        if self.task == "denoise" and not given:
            raise ConfigError("data.e10: give the readout errors e10 and e01, or with clean=FILE the true configurations")
        if self.clean is not None and len(given) > 1:
            raise ConfigError(
                f"data.{given[1]}={noisy[given[1]]}: noise is added to clean snapshots; those of clean={self.clean} are "
                "the truth of noisy ones"
            )
        return self


def open_source(file: str, data: bytes) -> SnapshotSource | TextSource:
    """Snapshots or text, by the ending of the file.

    Args:
        data: what is in it.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    if Path(file).suffix.lower() in (".h5", ".hdf5"):
        return SnapshotSource(read_snapshots(file), file)
    return TextSource(file, data)


class MaskedRows(RandomRows):
    """Sequences in which one token, drawn from those that can be predicted, is hidden; its label is what it was."""

    def __init__(self, columns: Mapping[str, Tensor], code: Code) -> None:
        super().__init__(columns, uniforms=1)
        self.code = code

    def made(self, batch: Batch, uniforms: Tensor) -> Batch:
        ids = batch["input_ids"]
        known = ids < self.code.num_words
        chosen = (uniforms[:, 0] * known.sum(dim=1)).long()  # u < 1, also after rounding
        hidden = known & (known.cumsum(dim=1) == chosen[:, None] + 1)
        return {**batch, "input_ids": ids.masked_fill(hidden, self.code.mask), "labels": ids.masked_fill(~hidden, IGNORED)}


class NoisyRows(RandomRows):
    """Configurations read out with errors e10 = P(0|1) and e01 = P(1|0); their labels are the configurations."""

    def __init__(self, configs: Tensor, code: PatchTokens, e10: float, e01: float) -> None:
        super().__init__({"configs": configs}, uniforms=configs.shape[1])
        self.code, self.e10, self.e01 = code, e10, e01

    def made(self, batch: Batch, uniforms: Tensor) -> Batch:
        configs = batch["configs"]
        flipped = uniforms < torch.where(configs == 1, self.e10, self.e01)
        return {"input_ids": self.code.encode(configs ^ flipped), "labels": configs.float()}


class Sequences(FileData[SequencesHparams]):
    """Batches of `input_ids` (B, L) int64, for text `attention_mask` (B, L), and `labels`.

    Labels are (B,) int64 numbers of classes; for mlm (B, L) int64, -100 where nothing is masked; for denoise (B, N) float, the
    true configurations. What is masked and what noise is added is drawn anew in every epoch of training.

    Attributes:
        source: what is in the file.
        code: how it becomes tokens.

    Raises:
        ConfigError: for a file that cannot be read, does not fit the task, or has changed since its `sha256` was taken.
    """

    fixed: ClassVar[tuple[str, ...]] = (
        *("seed", "split", "task", "patch", "target", "tokens", "bos", "clean", "e10", "e01", "sha256"),
    )

    def get_dataset(self) -> DictRows:
        settings = self.thparams
        if settings.task is None:
            raise ConfigError("data.task: missing; one of classify, mlm, denoise")
        settings.check_file()
        where = str(settings.file)
        data = [self.read_bytes(file) for file in (where, settings.clean) if file is not None]
        found: dict[str, Any] = {"sha256": self.checked_hash(*data)}
        self.source = open_source(where, data[0])
        labels = self._labels() if settings.task == "classify" else None
        self.parts = self._parts(labels)
        self.code = self.source.code(settings, self.parts[0])
        if isinstance(self.code, Vocabulary):
            found["vocabulary"] = self.code.words
        if labels is not None:
            found["classes"] = settings.classes or tuple(np.unique(labels).tolist())
        self.thparams = settings.updated(found)
        if labels is not None:
            numbers = class_numbers(labels, found["classes"])
            if (numbers < 0).any():
                unknown = labels.tolist()[int(numbers.argmin())]
                raise ConfigError(f"{where}: {unknown!r} is no class of the training data: {shown(found['classes'])}")
            return DictRows({**self.source.columns(self.code), "labels": numbers})
        return self._masked() if settings.task == "mlm" else self._noisy()

    def _labels(self) -> NDArray[Any]:
        target = self.thparams.target
        labels = self.source.labels(target)
        if labels is None:
            name = target or ("labels" if isinstance(self.source, SnapshotSource) else "label")
            known = ", ".join(self.source.names()[:NAMED])
            rest = f"; there are {known}; choose with data.target" if known else ""
            raise ConfigError(f"{self.source.where}: no column '{name}' of classes{rest}")
        if len(np.unique(labels)) < 2:
            raise ConfigError(f"{self.source.where}: all rows have the class {labels[0]}; there is nothing to tell apart")
        return labels

    def _masked(self) -> DictRows:
        if not self.code.num_words > 1:
            raise ConfigError(f"{self.source.where}: has one token only; there is nothing to predict")
        return MaskedRows(self.source.columns(self.code), self.code)

    def _noisy(self) -> DictRows:
        settings, source = self.thparams, self.source
        if not isinstance(source, SnapshotSource) or not isinstance(self.code, PatchTokens):
            raise ConfigError(f"{source.where}: task=denoise cleans snapshots (h5, hdf5), not text")
        if settings.clean is None:
            return NoisyRows(source.configs, self.code, settings.e10, settings.e01)
        clean = SnapshotSource(read_snapshots(settings.clean), settings.clean)
        if (clean.shape, len(clean)) != (source.shape, len(source)):
            sizes = [f"{len(part)} of {part.shape[0]}x{part.shape[1]} sites" for part in (clean, source)]
            raise ConfigError(f"data.clean={settings.clean}: has {sizes[0]}; {source.where} has {sizes[1]}")
        return DictRows({**source.columns(self.code), "labels": clean.configs.float()})

    def _parts(self, labels: NDArray[Any] | None) -> list[NDArray[np.int64]]:
        """Row numbers of the parts of the split; with labels every class is divided alike."""
        settings, count = self.thparams, len(self.source)
        order = np.random.default_rng(settings.seed).permutation(count)
        parts = split_rows(grouped(order, labels), [*settings.split, 0.0][:3])
        found = [np.sort(np.concatenate(part)) for part in parts[: len(settings.split)]]
        if not all(map(len, found)) or not all(map(len, parts[0])):
            sizes = ", ".join(str(len(rows)) for rows in found)
            raise ConfigError(f"data.split={settings.split}: leaves a part or a class without rows ({sizes} of {count} rows)")
        return found

    def check_like(self, stored: Any) -> None:
        if not isinstance(stored, SequencesHparams):
            return
        for name in ("task", "patch", "tokens", "bos", "classes", "vocabulary"):
            if stored[name] is not None and stored[name] != self.thparams[name]:
                raise ConfigError(f"data.{name}={shown(self.thparams[name])}: the run has {shown(stored[name])}")


def shown(value: Any) -> str:
    """A setting as errors show it; of many values the first."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    return ", ".join(map(str, value[:NAMED])) + (", ..." if len(value) > NAMED else "")
