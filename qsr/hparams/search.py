"""Searches for good settings with Optuna, over the sweeps and ranges of a configuration (the extra `optuna`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams
from qsr.hparams.sweeps import NodePath, coupled_values, dotted, nodes, settled
from qsr.hparams.tags import dump_yaml, load_yaml

JOURNAL = ".log"
DATABASES = ("sqlite://", "mysql://")


class StudyHparams(Hparams):
    """A search: its name, what is better, and where its trials are kept."""

    section: ClassVar[str] = "study"

    study_name: str = Hparam(min_length=1, help="a study of this name in the storage goes on")
    direction: Literal["minimize", "maximize"] = Hparam("minimize", help="what becomes of the objective")
    storage: str | None = Hparam(None, help="file.log (a journal), sqlite:///file.db or mysql://...; None: in memory")

    @field_validator("storage")
    @classmethod
    def _known_storage(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(JOURNAL) and not value.startswith(DATABASES):
            raise ValueError(f"must be a file that ends with {JOURNAL}, or begin with {' or '.join(DATABASES)}")
        return value


def create_study(settings: Mapping[str, Any]) -> Any:
    """An `optuna.Study` of `StudyHparams`, which ends trials that are worse than the median of the others.

    Raises:
        ConfigError: for settings that are not, and without the package optuna.
    """
    study = StudyHparams.from_dict(settings)
    optuna = _optuna()
    storage: Any = study.storage
    if storage is not None and storage.endswith(JOURNAL):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    return optuna.create_study(
        study_name=study.study_name,
        direction=study.direction,
        storage=storage,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=5),
        load_if_exists=True,
    )


def build_search_space(config: Mapping[str, Any] | str | Path, trial: Any) -> dict[str, Any]:
    """The configuration of one trial: a value that the trial suggests for every sweep and range.

    Its parameters are called by their paths. Those of a sweep are its values, or their positions where the values are not all
    different numbers and texts. Coupled sweeps go with their targets, references are what they refer to.

    Args:
        config: a mapping, or a YAML file (`qsr.hparams.load_yaml`).
        trial: an `optuna.Trial`, or a `FixedTrial`.

    Raises:
        ConfigError: see `qsr.hparams.sweeps`.
    """
    tree = config if isinstance(config, Mapping) else load_yaml(config)
    found = dict(nodes(tree))
    places = {path: _place(trial, dotted(path), node["values"]) for path, node in found.items() if node["type"] == "sweep"}
    values: dict[NodePath, Any] = {path: found[path]["values"][place] for path, place in places.items()}
    for path, node in found.items():
        if node["type"] == "range":
            values[path] = _from_range(trial, dotted(path), node)
        elif node["type"] == "random_uniform":
            start, stop, log = node["tune_values"]
            values[path] = trial.suggest_float(dotted(path), start, stop, log=log)
    return settled(tree, {**values, **coupled_values(found, places)})


def save_best_config(config: Mapping[str, Any] | str | Path, best_trial: Any, output: str | Path) -> None:
    """Write the configuration of a trial (`study.best_trial`) as YAML, with its objects as `!pyobject`.

    Raises:
        ConfigError: for objects that a file cannot name.
    """
    fixed = _optuna().trial.FixedTrial(best_trial.params)
    Path(output).write_text(dump_yaml(build_search_space(config, fixed)), encoding="utf-8")


def _place(trial: Any, name: str, values: list[Any]) -> int:
    """Which value of a sweep the trial takes."""
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in values)
    # True is 1 for Python: where two are equal, only their positions tell them apart.
    if plain and not any(value in values[:position] for position, value in enumerate(values)):
        return values.index(trial.suggest_categorical(name, values))
    return int(trial.suggest_categorical(name, list(range(len(values)))))


def _from_range(trial: Any, name: str, node: Mapping[str, Any]) -> float:
    _, _, step = node["tune_values"]
    first, last = sorted((node["values"][0].item(), node["values"][-1].item()))  # stop itself may not lie on the grid
    suggest = trial.suggest_int if isinstance(first, int) else trial.suggest_float
    return suggest(name, first, last, step=abs(step))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs the package optuna: pip install 'qsr[optuna]'") from None
    return optuna
