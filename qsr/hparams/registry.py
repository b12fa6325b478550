"""Which sections exist and where their classes live; nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qsr.hparams.base import ConfigError, Hparams, nearest
from qsr.hparams.imports import find_class

Role = Literal["model", "tokens", "hamiltonian", "data", "part", "internal", "internal model"]


@dataclass(frozen=True)
class Section:
    """One `--name` of the command line.

    Attributes:
        name: canonical name, also the `type` of a model or Hamiltonian in settings.json.
        target: "module:Class" of its `Hparams` class.
        role: a model, what makes the tokens of one, a problem, a part of every run (`train`, `optimizer`, ...), or internal: set
            by jobs only; of a model that no command makes, though commands load it, `internal model`.
        title: one line for `qsr train --help`.
        aliases: other spellings that users know.
        owner: "module:Class" whose subclasses bring `Hparams` classes of their own, found by the section's `module_name`.
    """

    name: str
    target: str
    role: Role
    title: str
    aliases: tuple[str, ...] = ()
    owner: str = ""

    @property
    def internal(self) -> bool:
        """Whether nobody may write it."""
        return self.role.startswith("internal")


_SECTIONS: dict[str, Section] = {}


def register_section(section: Section) -> None:
    """Add a section.

    Raises:
        ValueError: if the name or an alias is taken by another target.
    """
    for name in (section.name, *section.aliases):
        taken = _SECTIONS.get(name)
        if taken is not None and taken.target != section.target:
            raise ValueError(f"section '{name}' is already {taken.target}")
        _SECTIONS[name] = section


def sections(role: Role | None = None) -> list[Section]:
    """All sections (of one role), in the order of their registration."""
    unique = dict.fromkeys(_SECTIONS.values())
    return [section for section in unique if role is None or section.role == role]


def find_section(name: str) -> Section:
    """The section that is called `name`, in any spelling.

    Raises:
        ConfigError: if there is none, with the nearest name.
    """
    section = _SECTIONS.get(name.lower())
    if section is None:
        writable = [known for known, section in _SECTIONS.items() if not section.internal]
        raise ConfigError(f"--{name}: unknown section{nearest(name, writable)}")
    return section


def hparams_class(name: str) -> type[Hparams]:
    """The `Hparams` class of a section (imports its module)."""
    loaded = resolve(find_section(name).target)
    if not (isinstance(loaded, type) and issubclass(loaded, Hparams)):
        raise TypeError(f"section '{name}' is not an Hparams class: {loaded!r}")
    return loaded


def class_for(name: str, values: Mapping[str, Any]) -> type[Hparams]:
    """The `Hparams` class of a section with these values: of the class that their `module_name` names, if it has an owner.

    Raises:
        ConfigError: see `qsr.hparams.imports.find_class`.
    """
    section = find_section(name)
    named = values.get("module_name")
    if not section.owner or named is None:
        return hparams_class(name)
    schema: type[Hparams] | None = find_class(named, resolve(section.owner), f"{section.name}.module_name").hparams_schema
    if schema is None:
        base = section.owner.partition(":")[2]
        raise ConfigError(
            f"{section.name}.module_name={named}: has no settings; write class {named.split('.')[-1]}({base}[MyHparams])"
        )
    return schema


_OPTIMIZERS: dict[str, str] = {}


def register_optimizer(name: str, target: str) -> None:
    """Let settings of models on data name an optimizer of a higher layer.

    Args:
        target: "module:Class", a subclass of `torch.optim.Optimizer` that takes parameters or groups of them first.

    Raises:
        ValueError: if the name is taken by another target.
    """
    if _OPTIMIZERS.setdefault(name, target) != target:
        raise ValueError(f"optimizer '{name}' is already {_OPTIMIZERS[name]}")


def registered_optimizers() -> dict[str, str]:
    """Names of optimizers that are not torch's, with their targets."""
    return dict(_OPTIMIZERS)


def resolve(target: str) -> Any:
    """The object behind a registered "module:Name" string. Never called with text from a file."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


for _section in (
    Section("train", "qsr.training.settings:TrainHparams", "part", "steps, batch, learning rate, seed, output", ("training",)),
    Section("rnn", "qsr.samplers.settings:RNN", "model", "patched recurrent network (GRU or Elman)", ("prnn",)),
    Section("ptf", "qsr.samplers.settings:PTF", "model", "patched transformer"),
    Section("lptf", "qsr.samplers.settings:LPTF", "model", "large-patched transformer; a model after it is its subsampler"),
    Section(
        "qembed_tokens",
        "qsr.qembed.settings:PatchEmbedding",
        "tokens",
        "quantum embedding of patches, the tokens of the sampler before it (--qembed)",
    ),
    Section("rydberg", "qsr.hamiltonians.settings:Rydberg", "hamiltonian", "Rydberg atoms with 1/r^6 repulsion"),
    Section("tfim", "qsr.hamiltonians.settings:TFIM", "hamiltonian", "transverse-field Ising model"),
    Section(
        "heisenberg",
        "qsr.hamiltonians.settings:Heisenberg",
        "hamiltonian",
        "Heisenberg antiferromagnet, XXZ with Delta",
        ("xxz",),
    ),
    Section("pauli", "qsr.hamiltonians.settings:Pauli", "hamiltonian", "any sum of Pauli strings, from a file or as text"),
    Section(
        "model",
        "qsr.training.model:ModelHparams",
        "model",
        "a model of your own, on data: module_name=package.Class",
        owner="qsr.training.model:Model",
    ),
    Section("hsm", "qsr.hsm.settings:HSM", "model", "Hilbert-space model of a table"),
    Section("qembed", "qsr.qembed.model:QEmbed", "model", "network on quantum embeddings of snapshots or text"),
    Section("graph", "qsr.graph.lattice_model:Graph", "model", "graph network on snapshots of any lattice"),
    Section(
        "data",
        "qsr.training.data:DataHparams",
        "data",
        "data of your own: module_name=package.Class; --data FILE: --help --table (for --hsm), --sequences (--qembed), --graphs, "
        "--snapshots (samplers)",
        owner="qsr.training.data:PyTorchData",
    ),
    Section("table", "qsr.training.table:TableHparams", "data", "columns of a table"),
    Section("sequences", "qsr.qembed.data:SequencesHparams", "data", "snapshots or text as sequences of tokens"),
    Section("graphs", "qsr.graph.lattice_data:GraphsHparams", "data", "snapshots as graphs"),
    Section("snapshots", "qsr.training.measured:SnapshotsHparams", "data", "snapshots whose distribution a sampler learns"),
    Section("loss", "qsr.training.losses:LossHparams", "part", "any loss of torch.nn, by name, for models that take one"),
    Section("optimizer", "qsr.training.optimizers:OptimizerHparams", "part", "any torch optimizer, by name"),
    Section("scheduler", "qsr.training.optimizers:SchedulerHparams", "part", "any torch learning-rate scheduler, by name"),
    Section("gradient_clipping", "qsr.training.settings:GradientClippingHparams", "part", "bound on the norm of the gradient"),
    Section("checkpoint", "qsr.training.settings:CheckpointHparams", "part", "how often a run is saved"),
    Section("early_stopping", "qsr.training.settings:EarlyStoppingHparams", "part", "when training on data ends early"),
    Section("logger", "qsr.training.loggers:LoggerHparams", "part", "where metrics go beside history.h5"),
    Section("graph_run", "qsr.graph.learner:GraphLearnerHparams", "internal model", "network of a qsr.graph.Trainer"),
    Section("objective", "qsr.training.settings:ObjectiveHparams", "internal", "what is minimised"),
):
    register_section(_section)

for _name in ("QuantumOptimizer", "EntanglementOptimizer", "UncertaintyOptimizer"):
    register_optimizer(_name, f"qsr.qembed.optimizers:{_name}")
