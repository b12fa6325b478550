"""Predictions of a run's model for new data: what `qsr load RUN --data FILE` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.registry import resolve
from qsr.jobs.run import Run, check_writable, path_of
from qsr.runs import StoredRun, read_run, restore_model
from qsr.training.device import find_device

# Who predicts for new data, by the kind of the model: functions of (run, model, data) that return a `Report`.
KINDS = {
    "hsm": "qsr.jobs.rows:predict_rows",
    "qembed": "qsr.jobs.sequences:predict_sequences",
    "graph": "qsr.jobs.graphs:predict_graphs",
    "graph_run": "qsr.jobs.graph_runs:predict_graph_run",
}


class Report(Protocol):
    """What predictions of any kind are.

    Attributes:
        files: names of the files that `write` makes.
    """

    @property
    def files(self) -> tuple[str, ...]: ...

    def lines(self) -> list[str]:
        """For the terminal."""

    def write(self, directory: Path) -> None:
        """Write them into a directory."""


def predict_table(
    run: StoredRun | str | Path | Run,
    data: Any,
    *,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
) -> Any:
    """Predictions for new data.

    Of a Hilbert-space model: columns are found by the names of the training data, and others are left alone. Of a network on
    quantum embeddings: see `qsr.jobs.sequences.SequenceReport`.

    Args:
        run: of a model of one of the `KINDS`.
        data: a file; for tables also a frame, a mapping of columns, or an array (S, K).
        output: directory for the predictions; default the run's own.
        write: whether to write them.

    Returns:
        A `Report`, of its kind.

    Raises:
        ConfigError: as `load_model`; for a run of another kind, and for data that do not fit it.
    """
    stored = run if isinstance(run, StoredRun) else read_run(path_of(run))
    kind = stored.settings.model.section
    if kind not in KINDS:
        raise ConfigError(
            f"--data: predictions are for runs of --hsm, --qembed, --graph and qsr graph; {stored.path} is one of --{kind}"
        )
    directory = Path(output or stored.path)
    if write:
        check_writable(directory)
    report: Report = resolve(KINDS[kind])(stored, restore_model(stored, find_device(device, "device")), data)
    if write:
        report.write(directory)
    return report


def predicts(settings: RunSettings) -> bool:
    """Whether a model of these settings has something to predict."""
    return settings.model.section in KINDS and getattr(settings.model, "hsm_model", None) != "geometry"
