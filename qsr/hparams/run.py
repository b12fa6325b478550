"""All settings of a run as one checked tree: what settings.json holds and what every job starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qsr.hparams.base import ConfigError, Hparams, nearest
from qsr.hparams.building import TYPED, as_mapping, build_section, class_of, merged_section
from qsr.hparams.on_data import LIFTED, data_sections, other_settings, refuse_other_settings, split_rate
from qsr.hparams.presets import preset_values
from qsr.hparams.registry import find_section, hparams_class, sections
from qsr.hparams.types import dump_typed

SCHEMA_VERSION = 1
DEFAULT_SITES = 64  # the source's 8x8 array
STEPS_BETWEEN_CHECKPOINTS = 100  # of a sampler's run


@dataclass(frozen=True)
class RunSettings:
    """Resolved settings. Sections are `Hparams` objects; `from_tree` builds and cross-checks them.

    A run is either of a sampler on a Hamiltonian, with `data` if it learns from snapshots of its states, or of a model on data
    (`on_data`), which has no Hamiltonian.
    """

    # Typed Any because the classes live in higher layers and are found through the registry.
    train: Any
    model: Any
    hamiltonian: Any
    optimizer: Any
    scheduler: Any
    gradient_clipping: Any
    checkpoint: Any
    objective: Any
    data: Any = None
    early_stopping: Any = None
    logger: Any = None
    extra: Any = field(default_factory=dict)  # free keys, of the user's own

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], preset: str | None = None) -> RunSettings:
        """Fill in defaults, apply a preset below what was written, and check the sections against each other.

        Args:
            tree: section -> mapping or `Hparams` object; `model` and `hamiltonian` carry a `type` (or `module_name`).
            preset: name of a preset (see `qsr.hparams.presets`); it may choose the model, too.

        Raises:
            ConfigError: for anything that cannot be run: see `check`.
        """
        known = [*(entry.name for entry in fields(cls)), "loss"]
        for name in tree:
            if name not in known:
                raise ConfigError(f"{name}: unknown section{nearest(name, known)}")
        written = {name: as_mapping(name, value) for name, value in tree.items() if value is not None}
        if preset is not None:
            written.setdefault("model", dict(preset_values(preset).get("model", {})))
        if not written.get("model"):
            flags = ", ".join(f"--{section.name}" for section in sections("model"))
            raise ConfigError(f"no model: give one of {flags}")
        on_data = getattr(class_of(written["model"], "model"), "on_data", False)
        if on_data:
            return cls(**data_sections(written))
        written.setdefault("hamiltonian", {"type": "rydberg"})
        if preset is not None:
            written = _with_preset(written, preset)
        settings = cls(**_sampler_sections(written))
        settings.check()
        return settings

    @property
    def on_data(self) -> bool:
        """Whether the model is one on data, and no sampler."""
        return self.hamiltonian is None

    @property
    def folder(self) -> str:
        """Where runs like this one go, below `train.dir`."""
        suffix = f"-{self.train.sub_directory}" if self.train.sub_directory else ""
        if self.on_data:
            return f"{self.model.label_of_runs}{suffix}"
        return f"{self.hamiltonian.section}/{self.train.L}-B={self.train.B}-K={self.train.K}{suffix}"

    def new_model(self) -> Any:
        """The model, a sampler of one state or of all in the ranges of the problem, with torch's first weights (from its global
        generator).
        """
        return self.model.build() if self.on_data else self.model.build_for(self.hamiltonian)

    def check(self) -> None:
        """Contradictions between sections.

        Raises:
            ConfigError: L that is not the number of sites, a patch that does not tile the lattice, a model L that
                disagrees, NLOOPS beyond the number of patches, a symmetry that the problem has not, or drawn flips with one.
        """
        if self.train.L != self.hamiltonian.num_sites:
            raise ConfigError(f"train.L={self.train.L}: {self.hamiltonian.describe_size()}")
        num_patches = self.model.check_lattice(self.hamiltonian.shape)
        self._check_ranges()
        self.model.check_symmetry(self.hamiltonian)
        if self.model.symmetry != "none" and isinstance(self.train.flips, int):
            raise ConfigError(
                f"train.flips={self.train.flips}: drawn flips belong to one network, and {self.model.section}.symmetry="
                f"{self.model.symmetry} averages several; flips=exact"
            )
        self._check_curriculum()
        if self.train.NLOOPS is not None and self.train.NLOOPS > num_patches:
            raise ConfigError(
                f"train.NLOOPS={self.train.NLOOPS}: must be at most {num_patches}, the number of patches in the sequence"
            )

    def _check_ranges(self) -> None:
        """Ranges are for energies, and their points share the samples of a minibatch."""
        ranges = self.hamiltonian.ranges
        if not ranges:
            if self.train.points is not None:
                raise ConfigError(f"train.points={self.train.points}: is for a range, such as --rydberg delta=0:3")
            return
        name, found = next(iter(ranges.items()))
        where = f"{self.hamiltonian.section}.{name}={found}"
        if self.data is not None or self.objective.name != "energy":
            raise ConfigError(f"{where}: a range is trained by energies, and samples are those of one state; give one number")
        if self.model.symmetry != "none":
            raise ConfigError(
                f"{self.model.section}.symmetry={self.model.symmetry}: is for one Hamiltonian, and {where} is for many; train "
                f"without, and give it with a point: qsr load RUN --rydberg {name}={found.middle:g} --symmetry point"
            )
        if self.train.curriculum and "positions" in self.model and self.model["positions"] == "sinusoidal":
            raise ConfigError(
                f"{self.model.section}.positions=sinusoidal: with {where} the model has a vector for each position, which only "
                "learned positions take to the next lattice of train.curriculum"
            )
        points = self.train.points_per_minibatch
        if self.train.K % points or self.train.K < 2 * points:
            raise ConfigError(
                f"train.K={self.train.K}: must be a multiple of train.points={points}, at least twice as large: {where} has so "
                "many points in a minibatch, each with its own samples"
            )

    def _check_curriculum(self) -> None:
        """Every stage must be a lattice for the model, and the last one that of the Hamiltonian."""
        stages = self.train.stages()
        if stages[-1].shape is None:
            return
        where = f"train.curriculum={self.train.curriculum}"
        if not self.hamiltonian.is_grid:
            found = "has free positions" if getattr(self.hamiltonian, "positions", None) else f"is {self.hamiltonian.geometry}"
            raise ConfigError(f"{where}: needs lattices of Lx x Ly sites, and this problem {found}")
        if stages[-1].shape != tuple(self.hamiltonian.shape):
            shape = "x".join(str(size) for size in self.hamiltonian.shape)
            raise ConfigError(f"{where}: must end on the lattice of the Hamiltonian, {shape}")
        if getattr(self.model, "phase", False) and len({stage.shape for stage in stages}) > 1:
            raise ConfigError(
                f"{where}: not with {self.model.section}.phase=True, whose weights are for the sites of one lattice"
            )
        for stage in stages:
            try:
                problem = self.hamiltonian.updated({"Lx": stage.shape[0], "Ly": stage.shape[1]})
                self.model.check_lattice(stage.shape)
                self.model.check_symmetry(problem)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None

    def updated(self, tree: Mapping[str, Any]) -> RunSettings:
        """These settings with the given ones on top (used by fine-tuning): a section of another type replaces the stored one.

        The lattice follows what is given: a new L without Lx and Ly means a square, new Lx and Ly set L; another
        Hamiltonian keeps the lattice unless it gets one of its own.

        Raises:
            ConfigError: as `from_tree`; also for a model section, and for free positions with a Hamiltonian on a lattice.
        """
        merged: dict[str, Any] = self.tree()
        changes = {name: as_mapping(name, value) for name, value in tree.items() if value is not None}
        if "model" in changes:
            raise ConfigError("a model section: the weights fix the model; use 'qsr transfer' to train another architecture")
        shape_given = any(changes.get("hamiltonian", {}).get(name) is not None for name in ("Lx", "Ly", "positions"))
        size_given = changes.get("train", {}).get("L") not in (None, self.train.L)
        merged["train"].pop("curriculum")  # it belongs to the run that had it
        for name in ("data", "early_stopping"):  # and so do these, of a sampler that has learned from snapshots
            merged.pop(name, None)
        if curriculum_given := changes.get("train", {}).get("curriculum") is not None:
            merged["train"].pop("steps")
        problem = changes.get("hamiltonian", {})
        resized = size_given or shape_given or curriculum_given
        if resized:
            for name in ("Lx", "Ly", "positions"):
                merged["hamiltonian"].pop(name, None)
        if resized or any(problem.get(name) is not None for name in ("lattice", "geometry")):
            merged["train"].pop("L")
            merged["train"].pop("NLOOPS")
        other = problem.get("type") not in (None, self.hamiltonian.section)
        placed = any(problem.get(name) is not None for name in ("Lx", "positions"))
        if other and not placed and merged["hamiltonian"].get("positions") is not None:
            raise ConfigError(f"{problem['type']}.Lx: the stored run has free positions; give the lattice with Lx and Ly")
        for name, values in changes.items():
            merged[name] = merged_section(name, merged.get(name, {}), values)
        batch = changes.get("train", {})
        if ("K" in batch or "Q" in batch) and "B" not in batch:
            merged["train"].pop("B")
        _forget_model_sizes(merged["model"])
        return RunSettings.from_tree(merged)

    def tree(self) -> dict[str, Any]:
        """JSON-ready mapping of every setting; `from_tree(settings.tree()) == settings`."""
        tree: dict[str, Any] = {}
        for entry in fields(self):
            section = getattr(self, entry.name)
            if entry.name == "extra":
                tree |= {"extra": section} if section else {}
            elif section is not None:
                dumped = dump_typed(section) if entry.name in TYPED else section.model_dump(mode="json")
                # Settings that mean nothing in this kind of run, and those of a model that stand in sections of their own.
                left_out = (*other_settings(type(section), self.on_data), *(LIFTED if entry.name == "model" else ()))
                tree[entry.name] = {name: value for name, value in dumped.items() if name not in left_out}
        return tree


def _sampler_sections(written: dict[str, Any]) -> dict[str, Any]:
    """The sections of a sampler's run on a Hamiltonian."""
    if "loss" in written:
        raise ConfigError(f"loss: is for models on data; {written['model']['type']} has that of its Hamiltonian or its snapshots")
    if "early_stopping" in written and "data" not in written:
        raise ConfigError("early_stopping: is for training on data; add --data with snapshots")
    optimizer, rate = split_rate(written.get("optimizer", {}), written.get("train", {}))
    optimizer.check_sampler()
    train: Any = hparams_class("train")(**{**written.get("train", {}), "lr": optimizer.default_rate if rate is None else rate})
    final = train.stages()[-1].shape
    problem = dict(written["hamiltonian"])
    if final is not None and train.L is None and all(problem.get(name) is None for name in ("Lx", "Ly", "positions")):
        written["hamiltonian"] = {**problem, "Lx": final[0], "Ly": final[1]}
    hamiltonian = sized_hamiltonian(written["hamiltonian"], train.L)
    checkpoint: Any = hparams_class("checkpoint")(**written.get("checkpoint", {}))
    for section in (train, checkpoint):
        refuse_other_settings(section, on_data=False)
    data = _snapshots(written["model"], written["data"], train.seed) if "data" in written else None
    stopping = written.get("early_stopping")
    if stopping is not None and data is not None and not data.validation:
        raise ConfigError("data.validation=0: early_stopping needs snapshots that are held back")
    objective = {"name": "snapshots"} if data is not None else written.get("objective", {})
    return {
        "train": train.updated({"L": train.L or hamiltonian.num_sites}),
        "model": build_section(written["model"], role="model"),
        "hamiltonian": hamiltonian,
        "optimizer": optimizer,
        "scheduler": hparams_class("scheduler")(**written.get("scheduler", {})).settled(samplers=True),  # type: ignore[attr-defined]
        "gradient_clipping": hparams_class("gradient_clipping")(**written.get("gradient_clipping", {})),
        # Not after epochs of snapshots: they may be as short as a step.
        "checkpoint": checkpoint.updated(
            {"every_n_steps": checkpoint.every_n_steps or STEPS_BETWEEN_CHECKPOINTS, "every_n_epochs": None}
        ),
        "objective": hparams_class("objective")(**objective),
        "data": data,
        "early_stopping": None if stopping is None else hparams_class("early_stopping")(**stopping),
        "logger": hparams_class("logger")(**written.get("logger", {})),
        "extra": written.get("extra", {}),
    }


def _snapshots(model: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> Any:
    """The data of a sampler; what is held back of them is the run's to draw.

    Raises:
        ConfigError: for data of another kind.
    """
    kind: Any = class_of(model, "model")
    found = values.get("type", "data" if values.get("module_name") else kind.data_section)
    if found != kind.data_section:
        raise ConfigError(
            f"--{found}: is for models on data; {kind.section} is a sampler, and learns from --data file=snapshots.h5"
        )
    return build_section({"type": found, **values, "seed": seed if values.get("seed") is None else values["seed"]}, "data")


def sized_hamiltonian(values: Mapping[str, Any] | Hparams, num_sites: int | None = None) -> Any:
    """The problem with its lattice size filled in from L (a square) where Lx and Ly are not given.

    Raises:
        ConfigError: if L is not a square, or does not fit a given Lx or Ly.
    """
    sized = as_mapping("hamiltonian", values)
    kind: Any = class_of(sized, "hamiltonian")
    if kind.sizes_itself:
        return build_section(sized, role="hamiltonian")
    if "chain" in (sized.get("lattice"), sized.get("geometry")) and sized.get("Ly") is None:
        sized["Ly"] = 1
    in_cell = kind.sites_per_cell(sized)
    given = [name for name in ("Lx", "Ly") if sized.get(name) is not None]
    if sized.get("positions") is None and len(given) < 2:
        sites = DEFAULT_SITES if num_sites is None and not given and in_cell == 1 else num_sites
        if sites is None:
            missing = "Ly" if given == ["Lx"] else "Lx"
            raise ConfigError(f"{sized.get('type', 'hamiltonian')}.{missing}: give both Lx and Ly, or train.L")
        cells, left = divmod(sites, in_cell)
        if left:
            raise ConfigError(f"train.L={sites}: not a multiple of {in_cell}, the number of sites in a unit cell of this lattice")
        if given:
            try:
                side = int(sized[given[0]])
            except (TypeError, ValueError, OverflowError):
                side = 0
            if side < 1 or cells % side:
                raise ConfigError(f"train.L={sites}: not a multiple of {given[0]}={sized[given[0]]}")
            sized["Ly" if given == ["Lx"] else "Lx"] = cells // side
        else:
            side = math.isqrt(cells)
            if side * side != cells:
                raise ConfigError(
                    f"train.L={sites}: not a square number; give the lattice with Lx and Ly (for example --rydberg Lx=4 Ly=5)"
                )
            sized["Lx"] = sized["Ly"] = side
    return build_section(sized, role="hamiltonian")


def _with_preset(written: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Preset values below the written ones, in the sections of this run and in the models inside its model."""
    values = preset_values(preset)

    def below(section: Mapping[str, Any]) -> dict[str, Any]:
        own = values.get(str(section.get("type")), {})
        if section.get("embedding") is not None:  # which makes the tokens
            own = {name: value for name, value in own.items() if name != "token"}
        merged = {**own, **section}
        inner = merged.get("subsampler")
        if isinstance(inner, Hparams):
            inner = as_mapping("model", inner)
        if isinstance(inner, Mapping):
            # An RNN inside has the width of the transformer around it, not that of a free-standing one.
            width = {"Nh": merged["Nh"]} if inner.get("type") == "rnn" and "Nh" in merged else {}
            merged["subsampler"] = below({**width, **inner})
        return merged

    result = dict(written)
    result["model"] = below(written["model"])
    for name, section in values.items():
        if name != "model" and find_section(name).role == "part":
            result[name] = merged_section(name, section, result.get(name, {}))
    return result


def _forget_model_sizes(model: dict[str, Any]) -> None:
    """The outermost L belongs to the lattice, which may have changed; a subsampler's belongs to its patch."""
    model.pop("L", None)
