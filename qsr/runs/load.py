"""Reading a finished (or interrupted) run back, of qsr or of NN-QSR: its settings, its weights, its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.bounded import FREE_BYTES, MOST_INFLATED, reason
from qsr.hparams.imports import imports_allowed
from qsr.runs.directory import CHECKPOINTS, SETTINGS_FILE, WEIGHTS_FILE, RunDirectory, read_tree, settings_of
from qsr.runs.nnqsr import convert_settings, convert_weights, has_original_names, is_nnqsr
from qsr.runs.torchscript import read_archive

ARCHIVE_FILE = "T"  # NN-QSR saves its model under this name
MOST_TENSORS = 100_000  # that making a model takes
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.arange, torch.eye)
NAMED = 3  # how many misfits an error message names


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies on disk.

    Attributes:
        settings: all of them.
        weights: the model's state dict under our names, on the CPU.
        path: of the directory.
    """

    settings: RunSettings
    weights: dict[str, Tensor]
    path: Path


def read_run(path: str | Path) -> StoredRun:
    """Read a run directory of qsr or of NN-QSR.

    Weights are taken from weights.safetensors, else from NN-QSR's archive, else (a run that was interrupted) from the
    latest checkpoint.

    Raises:
        ConfigError: if the directory is missing or not a run, or if its settings or weights cannot be read.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ConfigError(f"{path}: {'not a directory' if directory.exists() else 'no such directory'}, expected that of a run")
    file = _settings_file(directory)
    tree = read_tree(file)
    if not is_nnqsr(tree):
        settings = settings_of(tree, file)
    else:
        try:
            settings = convert_settings(tree)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
    return StoredRun(settings, _read_weights(directory), directory)


def load_model(path: str | Path, device: str | torch.device = "cpu", allow_import: Sequence[str] = ()) -> Any:
    """The trained model of a run, in evaluation mode: `sample`, `log_prob`, `flip_log_prob`; for a run on data the `Model`.

    Args:
        allow_import: modules from which the run may take a model class of the user's own.

    Raises:
        ConfigError: as `read_run`, if the weights do not fit the settings, and for a class in a module that is not allowed.
    """
    with imports_allowed(allow_import):
        return restore_model(read_run(path), device)


def restore_model(stored: StoredRun, device: str | torch.device = "cpu") -> Any:
    """The model of a run that has been read, in evaluation mode.

    Raises:
        ConfigError: if the weights do not fit the settings.
    """
    settings = stored.settings
    size = sum(tensor.nbytes for tensor in stored.weights.values())
    # First weights are drawn and thrown away: leave the user's generator alone.
    with torch.random.fork_rng(devices=[]), BoundedModel(size, stored.path):
        model = settings.new_model()
    model.to(getattr(torch, settings.train.number_format))
    # A run that was interrupted on a smaller lattice of its curriculum.
    weights = model.resized_weights(stored.weights) if settings.train.curriculum else stored.weights
    fit_weights(model, weights, stored.path)
    return model.to(device).eval()


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights into a model that has exactly these.

    Args:
        source: where they come from, for the error message.

    Raises:
        ConfigError: naming the first weights that are missing, left over or of another shape.
    """
    expected = model.state_dict()
    misfits = [f"{name} is missing" for name in expected if name not in weights]
    misfits += [f"{name} is not in the model" for name in weights if name not in expected]
    misfits += [
        f"{name} is {_shape(weights[name])}, expected {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if misfits:
        more = f" (and {len(misfits) - NAMED} more)" if len(misfits) > NAMED else ""
        raise ConfigError(f"{source}: the weights do not fit the model of its settings: {'; '.join(misfits[:NAMED])}{more}")
    model.load_state_dict(weights)


def bounded_by(directory: RunDirectory | None) -> AbstractContextManager[Any]:
    """A `BoundedModel` by the weights in a run's checkpoints, for making the model of a run that is gone on with."""
    if directory is None:
        return nullcontext()
    files = (file for file in directory.path.glob(f"{CHECKPOINTS}/*/{WEIGHTS_FILE}") if file.is_file())
    return BoundedModel(max((file.stat().st_size for file in files), default=0), directory.path)


class BoundedModel(TorchFunctionMode):
    """Inside, tensors are made that a model with weights of `size` bytes can have: settings may claim any width and depth.

    Raises:
        ConfigError: before the memory is taken.
    """

    def __init__(self, size: int, source: str | Path) -> None:
        super().__init__()
        self.left = max(FREE_BYTES, MOST_INFLATED * size)
        self.calls = MOST_TENSORS
        self.size, self.source = size, source

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            shape_only = {name: value for name, value in kwargs.items() if name not in ("generator", "out", "pin_memory")}
            try:
                self.left -= func(*args, **{**shape_only, "device": "meta"}).nbytes
            except (RuntimeError, TypeError, OverflowError) as error:
                raise ConfigError(f"{self.source}: its settings are of no model that can be made ({reason(error)})") from None
            self.calls -= 1
            if self.left < 0 or self.calls < 0:
                raise ConfigError(f"{self.source}: its settings are of a far larger model than its {self.size} bytes of weights")
        return func(*args, **kwargs)


def _settings_file(directory: Path) -> Path:
    """settings.json in the directory. NN-QSR joins paths with a backslash, which on Linux and macOS makes a file beside
    the directory that is called `0\\settings.json`."""
    inside = directory / SETTINGS_FILE
    resolved = directory.resolve()
    beside = resolved.with_name(f"{resolved.name}\\{SETTINGS_FILE}")
    if not inside.exists() and beside.exists():
        return beside
    if not inside.exists():
        raise ConfigError(f"{directory}: not a run, it has no {SETTINGS_FILE}")
    return inside


def _read_weights(directory: Path) -> dict[str, Tensor]:
    run = RunDirectory(directory)
    if (directory / WEIGHTS_FILE).exists():
        source, weights = directory / WEIGHTS_FILE, run.read_weights()
    elif (directory / ARCHIVE_FILE).exists():
        source, weights = directory / ARCHIVE_FILE, read_archive(directory / ARCHIVE_FILE)
    else:
        checkpoint = run.latest_checkpoint()
        if checkpoint is None:
            raise ConfigError(f"{directory}: has no weights; expected {WEIGHTS_FILE}, {ARCHIVE_FILE} or a {CHECKPOINTS}")
        return checkpoint.weights
    if not has_original_names(weights):
        return weights
    try:
        return convert_weights(weights)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
