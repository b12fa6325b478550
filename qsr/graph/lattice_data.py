"""Snapshots of one lattice as graphs: what `--data` means for `--graph`."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from qsr.graph.data import require_torch_geometric
from qsr.graph.snapshots import lattice_edges
from qsr.graph.splits import split_indices
from qsr.hparams import ConfigError, Hparam, nearest
from qsr.snapshots import Snapshots, read_snapshots
from qsr.training.files import FileData, FileHparams
from qsr.training.rows import Rows, class_numbers

logger = logging.getLogger(__name__)

Task = Literal["classify", "regress"]


class GraphsHparams(FileHparams):
    """Snapshots (h5, hdf5) as graphs, and what is to be read off them."""

    section: ClassVar[str] = "graphs"
    wanted: ClassVar[str] = "snapshots (--data file=snapshots.h5)"

    file: str | None = Hparam(None, help="snapshots (h5, hdf5), as `qsr snapshots make` and `qsr load` write them")
    target: str | None = Hparam(
        None, help="what is learned, a column or a parameter of the snapshots; None: labels, of task=regress delta"
    )
    split_by: Literal["sample", "state_id"] = Hparam(
        "sample", help="state_id: all snapshots of a state are in one part, to test on states that training did not see"
    )
    task: Task | None = Hparam(None, help="that of the model; filled in")
    cutoff: float | None = Hparam(None, help="that of the model; filled in")
    power: float | None = Hparam(None, help="that of the model; filled in")
    classes: tuple[int, ...] | None = Hparam(None, help="task=classify: classes in the order of their numbers; filled in")
    label_rule: str | None = Hparam(None, help="what the labels of the file say; filled in")
    mean: float | None = Hparam(None, allow_inf_nan=False, help="task=regress: of the target in the training data; filled in")
    deviation: float | None = Hparam(
        None, gt=0, allow_inf_nan=False, help="task=regress: standard deviation of the target there; filled in"
    )

    @model_validator(mode="after")
    def _of_its_task(self) -> Any:
        for task, names in (("classify", ("classes",)), ("regress", ("mean", "deviation"))):
            given = [name for name in names if self[name] is not None]
            if given and self.task not in (None, task):
                raise ConfigError(f"data.{given[0]}={self[given[0]]}: is for task={task}, not for {self.task}")
        if (self.mean is None) != (self.deviation is None):
            raise ConfigError("data: of mean and deviation only one is given; both are filled in, leave them out")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"data.classes={self.classes}: a class stands there twice")
        return self

    def build(self) -> LatticeData:
        self.check_file()
        return LatticeData(self)

    @property
    def target_name(self) -> str:
        """The column or parameter that is learned."""
        return self.target or ("delta" if self.task == "regress" else "labels")


class LatticeGraphs(Rows):
    """S graphs with the same edges; batches are torch_geometric's.

    Args:
        configs: (S, N) occupations.
        edge_index, edge_attr: (2, E) and (E,), of each of them.
        y: (S,) targets; None: there are none.
    """

    def __init__(self, configs: Tensor, edge_index: Tensor, edge_attr: Tensor, y: Tensor | None = None) -> None:
        self.configs, self.edge_index, self.edge_attr, self.y = configs, edge_index, edge_attr, y

    @classmethod
    def of_snapshots(
        cls, snapshots: Snapshots, where: str, cutoff: float, power: float, y: Tensor | None = None
    ) -> LatticeGraphs:
        """Those of a snapshot file.

        Raises:
            ConfigError: for a file without configurations, and for occupations other than 0 and 1.
        """
        configs = snapshots.configs
        if configs.ndim != 2 or not len(configs):
            raise ConfigError(f"{where}: has no configurations")
        if configs.max() > 1:
            raise ConfigError(f"{where}: configs must hold 0 (ground) and 1 (excited), found {configs.max()}")
        edge_index, weights = lattice_edges(snapshots.positions, snapshots.attributes, cutoff, power)
        return cls(torch.from_numpy(configs), edge_index, weights.float(), y)

    def __len__(self) -> int:
        return len(self.configs)

    def __getitem__(self, index: int) -> Any:
        from torch_geometric.data import Data

        y = {} if self.y is None else {"y": self.y[index]}
        return Data(self.configs[index, :, None].float(), self.edge_index, self.edge_attr, **y)

    def part(self, indices: Tensor) -> LatticeGraphs:
        """These graphs alone."""
        return LatticeGraphs(self.configs[indices], self.edge_index, self.edge_attr, None if self.y is None else self.y[indices])

    def rows(self, indices: Tensor) -> Any:
        """The batch of these graphs, as torch_geometric would collate them one by one."""
        from torch_geometric.data import Batch

        count, sites = len(indices), self.configs.shape[1]
        offsets = sites * torch.arange(count)
        return Batch(
            x=self.configs[indices].reshape(-1, 1).float(),
            edge_index=(self.edge_index[:, None] + offsets[:, None]).reshape(2, -1),
            edge_attr=self.edge_attr.repeat(count),
            batch=torch.arange(count).repeat_interleave(sites),
            ptr=sites * torch.arange(count + 1),
            **({} if self.y is None else {"y": self.y[indices]}),
        )


class LatticeData(FileData[GraphsHparams]):
    """Snapshots of a file as graphs, with what is to be read off them.

    Attributes:
        full: all of them; `y` is (S,) the number of the class, or the value (float32).

    Raises:
        ConfigError: for a file that cannot be read or lacks the target, and for one that has changed since its `sha256` was
            taken; where PyTorch Geometric is not installed.
    """

    fixed: ClassVar[tuple[str, ...]] = (*("seed", "split", "split_by", "task", "target", "cutoff", "power", "sha256"),)

    def get_dataset(self) -> LatticeGraphs:
        require_torch_geometric()
        settings = self.thparams
        if settings.task is None or settings.cutoff is None or settings.power is None:
            raise ConfigError("data.task: missing; the model of a run sets it, with cutoff and power")
        settings.check_file()
        where = str(settings.file)
        found: dict[str, Any] = {"sha256": self.checked_hash(self.read_bytes(where))}
        snapshots = read_snapshots(where)
        found["label_rule"] = snapshots.attributes.get("label_rule")
        values = target_values(snapshots, settings.target_name, where)
        groups = None if settings.split_by == "sample" else target_values(snapshots, settings.split_by, where)
        self.parts = split_indices(len(values), settings.split, int(settings.seed or 0), groups)
        if settings.task == "classify":
            found["classes"] = settings.classes or classes_of(values, settings.target_name, where)
            y = class_numbers(values, found["classes"])
            if (y < 0).any():
                raise ConfigError(f"{where}: {values[int(y.argmin())]:g} is no class of the training data: {found['classes']}")
        else:
            y = torch.from_numpy(values).float()
            if settings.mean is None:
                training = values[self.parts[0]]
                found |= {"mean": float(training.mean()), "deviation": float(training.std())}
                if not training.std() > 0:
                    raise ConfigError(f"{where}: {settings.target_name} is {values[0]:g} everywhere; there is nothing to learn")
        self.thparams = settings.updated(found)
        graphs = LatticeGraphs.of_snapshots(snapshots, where, settings.cutoff, settings.power, y)
        if not graphs.edge_attr.numel():
            logger.warning(
                "graph.cutoff=%g: no two sites are that close; the network sees how many are excited, and no more",
                settings.cutoff,
            )
        return graphs

    def check_like(self, stored: Any) -> None:
        if not isinstance(stored, GraphsHparams):
            return
        for name in ("task", "cutoff", "power", "classes"):
            if self.thparams[name] != stored[name]:
                raise ConfigError(f"data.{name}={self.thparams[name]}: the run has {stored[name]}")


def target_values(snapshots: Snapshots, name: str, where: str, unknown: bool = False) -> NDArray[np.float64]:
    """(S,) a column or parameter of snapshots.

    Args:
        unknown: whether it may be NaN.

    Raises:
        ConfigError: if they do not have it, or not for each of them.
    """
    known = {**snapshots.params, **snapshots.columns}
    if name not in known:
        raise ConfigError(f"{where}: the snapshots have no '{name}'{nearest(name, known) if known else ''}")
    values = np.asarray(known[name], dtype=np.float64)
    wrong = ~np.isfinite(values) & ~(unknown & np.isnan(values))
    if wrong.any():
        raise ConfigError(f"{where}: {name} is {values[wrong][0]} for some snapshots")
    return values


def classes_of(values: NDArray[np.float64], name: str, where: str) -> tuple[int, ...]:
    """The classes among some values, in order.

    Raises:
        ConfigError: for values that are no whole numbers, and for a single class.
    """
    if (values != np.round(values)).any():
        raise ConfigError(f"data.target={name}: {values[values != np.round(values)][0]:g} is no class; classes are whole numbers "
                          "(task=regress learns any number)")  # fmt: skip
    classes = tuple(int(value) for value in np.unique(values))
    if len(classes) < 2:
        raise ConfigError(f"{where}: all snapshots have the class {classes[0]}; there is nothing to tell apart")
    return classes
