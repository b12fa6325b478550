"""New snapshots or text for a run of `--qembed`: classes, likelihoods of tokens, or cleaned configurations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.jobs.reports import PREDICTIONS_FILE, as_csv, metric_lines
from qsr.qembed.data import Code, SequencesHparams, open_source
from qsr.qembed.metrics import expected_calibration_error, negative_log_likelihood
from qsr.qembed.model import QEmbedModel
from qsr.qembed.patches import SnapshotSource
from qsr.qembed.predictions import predict, row_batches, token_likelihoods
from qsr.qembed.text import TextSource, Vocabulary
from qsr.runs import StoredRun, replacing, write_atomically
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training.files import read_bytes
from qsr.training.rows import class_numbers

Source = SnapshotSource | TextSource
CLEANED_FILE = "cleaned.h5"
OF_ONE_STATE = ("log_prob", "local_energy")  # what does not hold of a configuration that was changed


@dataclass(frozen=True)
class SequenceReport:
    """Predictions for S sequences.

    Attributes:
        columns: of predictions.csv: the class, `p_` of each, `total_entropy`, `aleatoric`, `mutual_information` (nats) and
            `uncertainty` of the senses; or `nll` and that of each token (nats). Empty where configurations are the result.
        metrics: of the sequences whose class training knew; of all for likelihoods.
        errors: standard errors of some of them.
        summary: a line about the whole.
        cleaned: the snapshots without the noise, of task=denoise.
        occupation: (S, N) the probabilities of their sites to be excited, whose means are unbiased as those of most probable
            states are not.
    """

    columns: dict[str, NDArray[Any]]
    summary: str
    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    cleaned: Snapshots | None = None
    occupation: NDArray[np.float32] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Name of the file of the predictions."""
        return (PREDICTIONS_FILE if self.cleaned is None else CLEANED_FILE,)

    def lines(self) -> list[str]:
        """For the terminal."""
        return metric_lines(self.summary, self.metrics, self.errors)

    def write(self, directory: Path) -> None:
        """Write `files`."""
        if self.cleaned is None:
            write_atomically(directory / PREDICTIONS_FILE, as_csv(self.columns))
            return
        with replacing(directory / CLEANED_FILE) as temporary:
            write_snapshots(temporary, self.cleaned)
            with h5py.File(temporary, "a") as file:
                file["occupation"] = self.occupation


def predict_sequences(stored: StoredRun, model: QEmbedModel, data: Any) -> SequenceReport:
    """Predictions of a run's model for a file, as means over `qembed.num_samples` drawn collapses.

    Raises:
        ConfigError: for a file that cannot be read or does not fit the run.
    """
    if not isinstance(data, (str, Path)):
        raise ConfigError(f"data: expected a file of snapshots or text, found {type(data).__name__}")
    described = stored.settings.data if isinstance(stored.settings.data, SequencesHparams) else SequencesHparams()
    source = open_source(str(data), read_bytes(data))
    code = _code(model, described, source)
    seed = stored.settings.train.seed
    task = {"classify": _classes, "mlm": _likelihoods, "denoise": _cleaned}[model.thparams.task]
    return task(model, source, code, described, seed)


def _code(model: QEmbedModel, described: SequencesHparams, source: Source) -> Code:
    """How sequences became tokens when the run was trained."""
    if model.code is not None:
        if not isinstance(source, SnapshotSource):
            raise ConfigError(f"{source.where}: text, and the run was trained on snapshots (h5, hdf5)")
        shape = (model.thparams.Lx, model.thparams.Ly)
        if source.shape != shape:
            sizes = ["x".join(map(str, size)) for size in (source.shape, shape)]
            raise ConfigError(f"{source.where}: snapshots of {sizes[0]} sites; the run was trained on {sizes[1]}")
        return model.code
    if not isinstance(source, TextSource):
        raise ConfigError(f"{source.where}: snapshots, and the run was trained on text")
    if described.vocabulary is None:
        raise ConfigError("data.vocabulary: missing; this run has seen data in memory")
    return Vocabulary(described.vocabulary, described.tokens, described.bos)


def _samples(model: QEmbedModel) -> int:
    """How many collapses are drawn: none where there is nothing to draw."""
    return model.thparams.num_samples if model.layers and model.probability > 0 else 0


def _classes(model: QEmbedModel, source: Source, code: Code, described: SequencesHparams, seed: int) -> SequenceReport:
    found = predict(model, row_batches(source.columns(code)), _samples(model), seed)
    found = {name: values.double() if values.is_floating_point() else values for name, values in found.items()}
    probs = found["probs"]
    classes = described.classes or tuple(range(probs.shape[1]))
    columns: dict[str, NDArray[Any]] = {described.target or "label": np.array(classes)[found["predictions"].numpy()]}
    columns |= {f"p_{name}": probs[:, number].numpy() for number, name in enumerate(classes)}
    names = ("total_entropy", "aleatoric", "mutual_information", *(("uncertainty",) if model.layers else ()))
    columns |= {name: found[name].numpy() for name in names}
    labels = source.labels(described.target)
    truth = torch.full((len(source),), -1) if labels is None else class_numbers(labels, classes)
    known = truth >= 0
    count = int(known.sum())
    of = "" if count == len(source) else f", metrics of the {count} rows with a class that training knew"
    of += unknown_words(source, code)
    if not count:
        known_classes = ", ".join(map(str, classes))
        none = "" if labels is None else f", no row has a class that training knew ({known_classes})"
        return SequenceReport(columns, f"{len(source)} predictions{none}{unknown_words(source, code)}")
    probs, truth = probs[known], truth[known]
    right = (probs.argmax(dim=1) == truth).double()
    costs = -probs.gather(1, truth[:, None]).clamp_min(torch.finfo(probs.dtype).tiny).log()
    errors = {} if count < 2 else {"test/accuracy": right.std() / count**0.5, "test/nll": costs.std() / count**0.5}
    metrics = {
        "test/accuracy": float(right.mean()),
        "test/nll": negative_log_likelihood(probs, truth),
        "test/ece": expected_calibration_error(probs, truth),
    }
    found_errors = {name: float(error) for name, error in errors.items()}
    return SequenceReport(columns, f"{len(source)} predictions{of}", metrics, found_errors)


def unknown_words(source: Source, code: Code) -> str:
    """How many words of a text training did not know; empty for none."""
    if not isinstance(code, Vocabulary):
        return ""
    ids = source.columns(code)["input_ids"]
    unknown, words = int((ids == code.unknown).sum()), int((ids < code.num_words).sum())
    return f"; {unknown} of {unknown + words} words are unknown" if unknown else ""


def _likelihoods(model: QEmbedModel, source: Source, code: Code, described: SequencesHparams, seed: int) -> SequenceReport:
    nll = token_likelihoods(model, source.columns(code), code.mask, code.num_words, _samples(model), seed)
    columns = {"nll": nll.nanmean(dim=1).numpy()}
    columns |= {f"nll_{position}": nll[:, position].numpy() for position in range(nll.shape[1])}
    return SequenceReport(columns, f"{len(source)} sequences, each token given all others", {"test/nll": float(nll.nanmean())})


def _cleaned(model: QEmbedModel, source: Source, code: Code, described: SequencesHparams, seed: int) -> SequenceReport:
    assert isinstance(source, SnapshotSource)  # `_code` has seen to it
    found = predict(model, row_batches(source.columns(code)), _samples(model), seed)
    configs = found["predictions"].numpy().astype(np.uint8)
    occupation = found["probs"][..., 1].numpy().astype(np.float32)
    share = float((configs != source.snapshots.configs).mean())
    kept = {name: values for name, values in source.snapshots.columns.items() if name not in OF_ONE_STATE}
    cleaned = replace(source.snapshots, configs=configs, columns=kept)
    density = f"density {source.snapshots.configs.mean():.5g} as read, {occupation.mean():.5g} in the mean"
    summary = f"{len(source)} configurations, {100 * share:.3g} % of the sites changed; {density}"
    return SequenceReport({}, summary, cleaned=cleaned, occupation=occupation)
