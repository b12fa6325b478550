"""Classes and functions that files may name: those on a list, checked after they are found, and those of allowed modules."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qsr.hparams.base import ConfigError, nearest
from qsr.hparams.imports import dotted_name, how_to_allow, imported, is_allowed, is_below, remembered


@dataclass(frozen=True)
class Kind:
    """Classes that may be named without asking: the subclasses of `base` that are defined below the roots.

    A root alone is no boundary (modules hold whatever they import), so the class itself is checked, too.
    """

    roots: tuple[str, ...]
    base: str


KINDS = (
    Kind(("torch.nn", "torch_geometric.nn", "qsr"), "torch.nn.Module"),
    Kind(("torch.optim",), "torch.optim.Optimizer"),
    Kind(("torch.optim.lr_scheduler",), "torch.optim.lr_scheduler.LRScheduler"),
    Kind(("torch_geometric.transforms",), "torch_geometric.transforms.BaseTransform"),
)
# Layers that are never taken, and why.
REFUSED = {"torch_geometric.nn.Sequential": "runs what its signatures say as a program; use qsr.graph.Sequential"}
# Modules below the roots whose layers fetch weights from the network when they are made (until torch_geometric 2.7; they are
# in torch_geometric.llm since): taken only from modules that are allowed.
FETCHING = (
    "torch_geometric.nn.nlp",
    *(f"torch_geometric.nn.models.{name}" for name in ("g_retriever", "git_mol", "glem", "molecule_gpt")),
)

SCORES = ("accuracy", "f1", "f1_weighted", "mae", "mse", "r2")
_EVALUATORS = {name: f"qsr.training.evaluators.{name}" for name in ("Evaluator", "Validator", "Tester")}
_STOPPING = "qsr.training.default_early_stopping.DefaultEarlyStopping"

# Single objects that may be named; nothing else of their modules.
LISTED = frozenset(
    (
        *("qsr.graph.SnapshotReader", _STOPPING, *_EVALUATORS.values()),
        *(f"qsr.training.scores.{score}" for score in SCORES),
        *("torch.cat", "torch.stack"),
        *(f"torch.{reducer}" for reducer in ("mean", "median", "std", "min", "max")),
        *("torch.float32", "torch.float64", "torch.int32", "torch.int64"),
        *(f"torch_geometric.nn.global_{reduction}_pool" for reduction in ("add", "max", "mean")),
        *(f"numpy.{reducer}" for reducer in ("mean", "median", "std", "min", "max")),
        *(f"sklearn.metrics.{score}_score" for score in ("accuracy", "balanced_accuracy", "f1", "precision", "r2", "recall")),
        *("sklearn.metrics.mean_absolute_error", "sklearn.metrics.mean_squared_error", "sklearn.metrics.roc_auc_score"),
    )
)
# Short names, and names of QuantumGrav, whose files are read as they are.
ALIASES = {
    "adam": "torch.optim.Adam",
    "cat": "torch.cat",
    "sage": "torch_geometric.nn.SAGEConv",
    "gcn": "torch_geometric.nn.GCNConv",
    "add_pool": "torch_geometric.nn.global_add_pool",
    "max_pool": "torch_geometric.nn.global_max_pool",
    "mean_pool": "torch_geometric.nn.global_mean_pool",
    **{score: f"qsr.training.scores.{score}" for score in SCORES},
    "QuantumGrav.GNNModel": "qsr.graph.GNNModel",
    **{f"QuantumGrav.{place}{name}": full for name, full in _EVALUATORS.items() for place in ("", "evaluate.")},
    **{f"QuantumGrav.{place}DefaultEarlyStopping": _STOPPING for place in ("", "evaluate.", "early_stopping.")},
    **{
        f"QuantumGrav.models.{name}": f"qsr.graph.{name}"
        for name in ("Sequential", "LinearSequential", "GNNBlock", "SkipConnection")
    },
}
EXTRAS = {"torch_geometric": "graph", "sklearn": "hsm"}  # packages that `pip install qsr` leaves out


def find_object(name: str, where: str) -> Any:
    """The object that a setting names: of an allowed module, on a list, or a class of one of the kinds above.

    Args:
        name: dotted, without leading underscores; or a short name.
        where: the setting or the place in a file, for error messages.

    Raises:
        ConfigError: for every other name, and for one that cannot be imported.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{where}={name!r}: must be the name of a class or function, package.module.Name")
    full = ALIASES.get(name, name)
    known = remembered(full)
    if known is not None:
        return known
    module = full.rpartition(".")[0]
    place = f"{where}: '{name}'"
    if not all(part.isidentifier() and not part.startswith("_") for part in full.split(".")):
        raise ConfigError(f"{place} is not a name such as torch.nn.ReLU, without underscores in front")
    if not (may_be_named(full) or is_allowed(module)):
        if not module:
            raise ConfigError(f"{place} is no short name{nearest(name, [known for known in ALIASES if '.' not in known])}")
        raise ConfigError(f"{place} is not among the objects that files may name; {how_to_allow(module)}")
    try:
        found = imported(full, place)
    except ConfigError as error:
        extra = EXTRAS.get(full.partition(".")[0])
        if extra is None or full.partition(".")[0] in sys.modules:
            raise
        raise ConfigError(f"{error}; pip install 'qsr[{extra}]'") from None
    owner = getattr(found, "__module__", None) or ""
    _refuse(found, owner, place)
    if not (full in LISTED or (callable(found) and is_allowed(owner)) or _of_a_kind(found, owner)):
        raise ConfigError(f"{place} is {found!r}{owner and f' of {owner}'}, which files may not name")
    return found


def may_be_named(name: str) -> bool:
    """Whether an object of this name may be looked for unasked; what is found is checked, too."""
    module = name.rpartition(".")[0]
    return name in LISTED or any(is_below(module, kind.roots) for kind in KINDS)


def as_object(value: Any, where: str) -> Any:
    """A value that may be a name instead: text is looked up, and anything else is taken as it is.

    Raises:
        ConfigError: see `find_object`.
    """
    return find_object(value, where) if isinstance(value, str) else value


def name_of(thing: Any, where: str) -> str:
    """The dotted name under which `find_object` finds an object; whether it may be named is for the reader to decide.

    Raises:
        ConfigError: for an object that has none.
    """
    for name in LISTED:
        module, _, attribute = name.rpartition(".")
        if getattr(sys.modules.get(module), attribute, None) is thing:
            return name
    if isinstance(thing, functools.partial):
        raise ConfigError(f"{where}: functools.partial has no name; give the function, and its arguments as kwargs")
    if not hasattr(thing, "__qualname__") or not getattr(thing, "__module__", None):
        raise ConfigError(f"{where}: a {type(thing).__name__} has no name that a file could hold; give its class and arguments")
    name = str(thing.__qualname__)
    for module in _homes(thing.__module__):
        if getattr(sys.modules.get(module), name, None) is thing:
            return dotted_name(thing) if module == "__main__" else f"{module}.{name}"
    raise ConfigError(f"{where}: {thing.__module__} has no {name} at its top level; define it there, and a file can name it")


def _refuse(found: Any, owner: str, place: str) -> None:
    for name, reason in REFUSED.items():
        module, _, attribute = name.rpartition(".")
        refused = getattr(sys.modules.get(module), attribute, None)
        if refused is not None and isinstance(found, type) and issubclass(found, refused):
            raise ConfigError(f"{place} {reason}")
    if is_below(owner, FETCHING) and not is_allowed(owner):
        raise ConfigError(f"{place} fetches weights from the network; {how_to_allow(owner)}")


def _of_a_kind(found: Any, owner: str) -> bool:
    return isinstance(found, type) and any(
        is_below(owner, kind.roots) and issubclass(found, imported(kind.base, kind.base)) for kind in KINDS
    )


def _homes(module: str) -> Iterator[str]:
    """Modules that may offer what is defined in `module`, the shortest first: torch.nn for torch.nn.modules.activation."""
    parts = module.split(".")
    for length in range(1, len(parts)):
        home = ".".join(parts[:length])
        if any(is_below(home, kind.roots) for kind in KINDS):
            yield home
    yield module
