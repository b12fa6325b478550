"""Which launcher of Hydra starts the runs of a sweep, and its settings, from words such as `hydra/launcher=joblib`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsr.hparams.base import ConfigError, nearest
from qsr.hparams.files import one_line

# The plugin of each launcher, and the extra that brings it; the basic one is part of Hydra.
EXTRAS = {"basic": "", "joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
CHOICE, SETTINGS = "hydra/launcher", "hydra.launcher."


@dataclass(frozen=True)
class Launcher:
    """How the runs of a sweep are started.

    Attributes:
        name: basic (one after the other), joblib, submitit_local or submitit_slurm.
        settings: what Hydra's plugin calls `hydra.launcher.*`, all of them.
    """

    name: str = "basic"
    settings: Mapping[str, Any] = field(default_factory=dict)


def split_launcher(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of a run, and those that are for Hydra itself."""
    of_hydra = [word for word in overrides if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return [word for word in overrides if word not in of_hydra], of_hydra


def read_launcher(words: Sequence[str], directory: str | None) -> Launcher:
    """The launcher that words of Hydra's grammar choose.

    Args:
        words: `hydra/launcher=NAME` and `hydra.launcher.SETTING=value`; without the first it is the basic one.
        directory: of the runs (`train.dir`), in which submitit has a folder; None: they have no output.

    Raises:
        ConfigError: for launchers that there are not, or whose extra is not installed, for settings that the launcher does
            not have or that have no use here, and for everything else of Hydra.
    """
    if not words:
        return Launcher()
    keys = {word: word.lstrip("+~").partition("=")[0] for word in words}
    for word, key in keys.items():
        if key != CHOICE and not key.startswith(SETTINGS):
            raise ConfigError(
                f"{word}: of Hydra's own settings only {CHOICE} and {SETTINGS}* are used; runs are below train.dir, and log there"
            )
    name = next((word.partition("=")[2] for word, key in reversed(keys.items()) if key == CHOICE), "basic")
    if name not in EXTRAS:
        raise ConfigError(f"{CHOICE}={name}: there is no such launcher{nearest(name, EXTRAS)}")
    if directory is None and EXTRAS[name] == "submitit":
        raise ConfigError(f"{CHOICE}={name}: needs a directory for its jobs, and there is none (train.dir=<NONE>)")
    _check_installed(name)
    settings = _composed([f"{CHOICE}={name}"], directory)
    for word, key in keys.items():
        setting = key.removeprefix(SETTINGS).partition(".")[0]
        if word.startswith("~"):
            raise ConfigError(f"{word}: a launcher keeps all of its settings")
        if key != CHOICE and setting not in settings:
            raise ConfigError(f"{word}: {name} has no such setting{nearest(setting, settings) if settings else ''}")
        if name == "joblib" and key not in (CHOICE, f"{SETTINGS}n_jobs"):
            raise ConfigError(f"{word}: every run is a process of its own here; only {SETTINGS}n_jobs has a use")
    settings = _composed([word for word in words if keys[word] != CHOICE] + [f"{CHOICE}={name}"], directory)
    if settings.get("n_jobs") == 0:
        raise ConfigError(f"{SETTINGS}n_jobs=0: must be a number of processes, or -1: one for each core")
    for single in ("nodes", "tasks_per_node"):
        if settings.get(single, 1) != 1:
            raise ConfigError(
                f"{SETTINGS}{single}={settings[single]}: each run of a sweep is one process; torchrun shares one among several"
            )
    return Launcher(name, settings)


def _check_installed(name: str) -> None:
    extra = EXTRAS[name]
    if extra:
        try:
            importlib.import_module(f"hydra_plugins.hydra_{extra}_launcher.config")
            importlib.import_module(extra)
        except ImportError:
            raise ConfigError(f"{CHOICE}={name}: the extra is missing: pip install 'qsr[{extra}]'") from None


def _composed(words: Sequence[str], directory: str | None) -> dict[str, Any]:
    """`hydra.launcher` as Hydra composes it, with the plugin's types and defaults."""
    from hydra import compose, initialize
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize(config_path=None, version_base="1.3", job_name="qsr"):
            config = compose(overrides=list(words), return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.sweep.dir = (directory or ".").replace("${", "\\${")  # where submitit_folder has it from
        found = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(word for word in words if word.startswith(SETTINGS))
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ConfigError(f"{said}: {one_line(cause).partition(' full_key')[0]}") from None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key != "_target_"}  # nothing is built from a name
