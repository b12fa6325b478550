"""A run directory: settings, weights, checkpoints, history and log of one run, safe against crashes and second writers."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from qsr.hparams import SCHEMA_VERSION, ConfigError, RunSettings
from qsr.hparams.bounded import MOST_TEXT, parse_json, read_bounded
from qsr.runs.files import check_own, reason, remove, remove_leftovers, replacing_directory, write_atomically
from qsr.runs.history import HISTORY_FILE, JOURNAL_FILE, History
from qsr.runs.log import log_handler
from qsr.runs.tensors import read_tensors, write_tensors
from qsr.runs.weights import read_weights, save_weights, weights_bytes

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
WEIGHTS_FILE = "weights.safetensors"
LOG_FILE = "output.txt"
CHECKPOINTS = "checkpoint"
STATE_FILE = "state.pt"
LOCK_FILE = ".lock"
KEPT_CHECKPOINTS = 2
_STEP_FOLDER = re.compile(r"(?P<step>\d+)|\.(?P<previous>\d+)\.previous")  # the second: see `replacing_directory`
_OF_CHECKPOINTS = re.compile(r"\d+|\.\d+\.(previous|[0-9a-f]+\.tmp)")  # all that is ever made there


@dataclass(frozen=True)
class Checkpoint:
    """All that resuming needs.

    Attributes:
        step: number of steps done.
        weights: the model's state dict.
        state: what the caller stored beside them; plain containers, numbers, text and tensors.
    """

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


class RunDirectory:
    """The files of one run. Nothing is read or made before a method asks for it.

    Attributes:
        path: of the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._history = History(self.path, units={"seconds": "s"})

    @classmethod
    def claim(cls, settings: RunSettings) -> RunDirectory | None:
        """A new directory `{dir}/{hamiltonian}/{L}-B={B}-K={K}{-sub_directory}/{number}` with the first free number; of a model
        on data `{dir}/{model}{-sub_directory}/{number}`.

        Any number of processes may claim at once, each gets its own. None if `train.dir` says that there is no output.

        Raises:
            ConfigError: if the directory cannot be made.
        """
        train = settings.train
        if not train.writes:
            return None
        parent = Path(train.dir) / settings.folder
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while not _made(parent / str(number)):
                number += 1
        except OSError as error:
            raise ConfigError(
                f"train.dir={train.dir}: cannot make {parent} ({reason(error)}); give a writable directory"
            ) from None
        return cls(parent / str(number))

    @classmethod
    def unfinished(cls, settings: RunSettings) -> RunDirectory | None:
        """The newest run with these settings that can be resumed, has no final weights and is not being written; None if there
        is none.
        """
        return next((found for found in cls._of(settings) if not found.weights_file.is_file() and found._is_free()), None)

    @classmethod
    def newest(cls, settings: RunSettings) -> RunDirectory | None:
        """The newest run with these settings, in whatever state; None if there is none."""
        return next(cls._of(settings), None)

    @classmethod
    def _of(cls, settings: RunSettings) -> Iterator[RunDirectory]:
        """Runs with these settings, the newest first; the limit of time, which has no part in the numbers, may be another one."""
        if not settings.train.writes:
            return
        wanted = _unlimited(settings)
        found = (Path(settings.train.dir) / settings.folder).glob("[0-9]*")
        for path in sorted((path for path in found if path.name.isdigit()), key=lambda path: -int(path.name)):
            directory = cls(path)
            try:
                if directory.exists() and _unlimited(directory.read_settings()) == wanted:
                    yield directory
            except ConfigError as error:  # of a neighbour, with which this run has nothing to do
                logger.warning("%s", error)

    def _is_free(self) -> bool:
        try:
            with FileLock(self.path / LOCK_FILE, timeout=0):
                return True
        except Timeout:
            return False

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            ConfigError: if it is not there.
        """
        directory = cls(path)
        if not directory.path.is_dir():
            raise ConfigError(f"{path}: no such directory, expected that of a run")
        if not directory.exists():
            raise ConfigError(f"{path}: not a run, it has no {SETTINGS_FILE}")
        return directory

    def exists(self) -> bool:
        """Whether a run is there."""
        return (self.path / SETTINGS_FILE).is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; a crash releases it.

        Raises:
            ConfigError: if another process (or another lock in this one) writes the run, and if what is written where it
                stands is a link: what a run that is gone on with may change lies inside it.
        """
        for name in (LOCK_FILE, LOG_FILE, JOURNAL_FILE):
            check_own(self.path / name)
        check_own(self.path / CHECKPOINTS, folder=True)
        for name in (SETTINGS_FILE, WEIGHTS_FILE, HISTORY_FILE):
            if (self.path / name).is_dir():
                raise ConfigError(f"{self.path / name}: is a folder, expected a file")
        lock = FileLock(self.path / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"{self.path}: is being written by another process") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({reason(error)})") from None
        try:
            for name in (SETTINGS_FILE, WEIGHTS_FILE, HISTORY_FILE):
                remove_leftovers(self.path / name)
            yield
        finally:
            self._history.close()
            lock.release()

    # --- settings ---------------------------------------------------------------------------------------------------

    def write_settings(self, settings: RunSettings) -> None:
        """Write settings.json, with the versions that the run was made with.

        Raises:
            ConfigError: if there is one already that says something else.
        """
        tree = _tree(settings)
        file = self.path / SETTINGS_FILE
        if file.exists():
            if without_versions(read_tree(file)) != tree:
                raise ConfigError(f"{file}: exists and holds other settings; a run keeps those that it was started with")
            return
        versions = {"qsr": _version("qsr"), "python": platform.python_version(), **_conditions()}
        write_atomically(file, json.dumps({**tree, "versions": versions}, indent=2) + "\n")

    def changed_conditions(self) -> list[str]:
        """What rounding depends on and is no longer as it was when the run was started, such as 'threads=2 (before: 1)'."""
        before = read_tree(self.path / SETTINGS_FILE).get("versions")
        if not isinstance(before, dict):
            return []
        # A stranger may have written what was before: it is shown without control characters, and not at any length.
        changed = {name: now for name, now in _conditions().items() if before.get(name, now) != now}
        return [f"{name}={now} (before: {before[name]!r:.40})" for name, now in changed.items()]

    def read_settings(self) -> RunSettings:
        """The settings of the run.

        Raises:
            ConfigError: if settings.json is missing, not JSON, incomplete, or of a newer version.
        """
        file = self.path / SETTINGS_FILE
        return settings_of(read_tree(file), file)

    # --- weights and checkpoints ------------------------------------------------------------------------------------

    @property
    def weights_file(self) -> Path:
        """weights.safetensors."""
        return self.path / WEIGHTS_FILE

    def save_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Write weights.safetensors."""
        save_weights(self.weights_file, weights)

    def read_weights(self) -> dict[str, Tensor]:
        """The tensors of weights.safetensors, on the CPU.

        Raises:
            ConfigError: if it is missing or damaged.
        """
        return read_weights(self.path / WEIGHTS_FILE)

    def save_checkpoint(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, then remove all but the last two. Checkpoints of later steps are removed too:
        they belong to a course of the run that was given up. What is no checkpoint stays.

        Args:
            state: nested dicts, lists and tuples of numbers, text and tensors.
        """
        root = self.path / CHECKPOINTS
        root.mkdir(exist_ok=True)
        with replacing_directory(root / str(step)) as folder:
            (folder / WEIGHTS_FILE).write_bytes(weights_bytes(weights))
            write_tensors(folder / STATE_FILE, dict(state))
        found = self._checkpoints()
        kept = [found[past] for past in sorted(found) if past <= step][-KEPT_CHECKPOINTS:]
        for entry in root.iterdir():
            if entry not in kept and _OF_CHECKPOINTS.fullmatch(entry.name):
                remove(entry)

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that can be read (of a step before `before`, if given); None if the run has none yet.

        Raises:
            ConfigError: if there are checkpoints and all are damaged.
        """
        found = {step: folder for step, folder in self._checkpoints().items() if before is None or step < before}
        problem = ""
        for step in sorted(found, reverse=True):
            if problem:
                logger.warning("%s; going back to the checkpoint of step %d", problem, step)
            try:
                return Checkpoint(step, read_weights(found[step] / WEIGHTS_FILE), _read_state(found[step] / STATE_FILE))
            except ConfigError as error:
                problem = str(error)
        if problem:
            raise ConfigError(f"{problem}; no checkpoint of the run can be read")
        return None

    def _checkpoints(self) -> dict[int, Path]:
        """Folder of each step; that of a step whose replacement was cut short by a crash is the previous one."""
        root = self.path / CHECKPOINTS
        found: dict[int, Path] = {}
        for entry in sorted(root.iterdir(), reverse=True) if root.is_dir() else ():  # digits first, then dots
            if name := _STEP_FOLDER.fullmatch(entry.name):
                found.setdefault(int(name["step"] or name["previous"]), entry)
        return found

    # --- history and log --------------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """The history of the run; the units of further columns go into `history.units`."""
        return self._history

    def log_handler(self) -> logging.Handler:
        """A handler that appends messages to output.txt; the caller closes it.

        Raises:
            ConfigError: if the file cannot be written.
        """
        return log_handler(self.path / LOG_FILE)


def read_tree(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ConfigError: if it is missing or not one.
    """
    try:
        tree = parse_json(read_bounded(file, MOST_TEXT))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({reason(error)})") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({reason(error)})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a JSON object with the settings of a run, found {type(tree).__name__}")
    return tree


def without_versions(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What settings.json says of the run alone."""
    return {name: value for name, value in tree.items() if name != "versions"}


def settings_of(tree: Mapping[str, Any], file: Path) -> RunSettings:
    """The settings in a tree read from `file`.

    Raises:
        ConfigError: naming the file, if keys are missing or values cannot be used.
    """
    missing = [name for name in ("schema_version", "train", "model") if name not in tree]
    if not missing and "hamiltonian" not in tree and not _is_on_data(tree):
        missing = ["hamiltonian"]
    if missing:
        raise ConfigError(f"{file}: missing {', '.join(missing)}")
    version = tree["schema_version"]
    if not isinstance(version, int):
        raise ConfigError(f"{file}: schema_version={version!r}: must be a whole number")
    if version > SCHEMA_VERSION:
        raise ConfigError(f"{file}: schema_version={version}: written by a newer qsr; this one reads up to {SCHEMA_VERSION}")
    try:
        return RunSettings.from_tree({name: value for name, value in tree.items() if name not in ("schema_version", "versions")})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _is_on_data(tree: Mapping[str, Any]) -> bool:
    objective = tree.get("objective")
    return isinstance(objective, dict) and objective.get("name") == "supervised"


def _unlimited(settings: RunSettings) -> dict[str, Any]:
    """All settings but the limit of time; those that an older version did not write have their defaults."""
    tree = settings.tree()
    return {**tree, "train": {name: value for name, value in tree["train"].items() if name != "max_time"}}


def _tree(settings: RunSettings) -> dict[str, Any]:
    """What settings.json holds beside the versions."""
    return {"schema_version": SCHEMA_VERSION, **settings.tree()}


def _made(path: Path) -> bool:
    """Make a directory; False if it exists. The file system decides between processes."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _conditions() -> dict[str, Any]:
    """With the same ones a run repeats bit for bit on the CPU of a machine."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from the source tree


def _read_state(file: Path) -> dict[str, Any]:
    state = read_tensors(file)
    if not isinstance(state, dict):
        raise ConfigError(f"{file}: expected a mapping, found {type(state).__name__}")
    return state
