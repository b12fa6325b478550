"""Graphs as data: read from HDF5 and zarr stores, prepared once, and split without leakage."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationInfo, field_validator, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from qsr.graph.cache import SCHEMA, Chunks, folder_of, is_current, write_chunk, write_meta
from qsr.graph.constructor import Constructor, function_from
from qsr.graph.fingerprint import digest
from qsr.graph.snapshots import SnapshotReader
from qsr.graph.splits import SPLIT, check_split
from qsr.graph.stores import Stores, arrays_of, column, find_column, is_snapshots, sample_count, stamps
from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.hparams.bounded import FREE_BYTES, check_inflated, parsing
from qsr.runs import replacing_directory
from qsr.runs.files import reason
from qsr.training.random import derived_seed, forked_generators, generator_for, seed_global

logger = logging.getLogger(__name__)

_CALLABLES = ("reader", "pre_transform", "pre_filter", "transform")


def require_torch_geometric() -> None:
    """Raises ConfigError, naming the extra, where PyTorch Geometric is not installed."""
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        raise ConfigError("graph networks need PyTorch Geometric: pip install 'qsr[graph]'") from None


class GraphDataHparams(Hparams):
    """Where graphs come from, what is done with them, and how they are split."""

    section: ClassVar[str] = "data"

    files: tuple[str, ...] = Hparam(min_length=1, help="HDF5 files and zarr stores; samples are numbered through all of them")
    output: str | None = Hparam(None, help="directory for prepared graphs (processed/); needed by pre_transform and pre_filter")
    reader: Any = Hparam(
        None,
        help="reader(store, idx, float_dtype, int_dtype, validate) -> sample; None: qsr.graph.SnapshotReader, for snapshot "
        "files; this and the next three may also be the type, args and kwargs of an object that can be called",
    )
    pre_transform: Any = Hparam(None, help="sample -> graph, once; what it returns is kept")
    pre_filter: Any = Hparam(None, help="sample -> whether to keep it, before pre_transform")
    transform: Any = Hparam(None, help="graph -> graph, whenever it is asked for")
    validate_data: bool = Hparam(True, help="check every graph that was read; the reader is told, too")
    n_processes: int = Hparam(1, ge=0, help="processes that prepare graphs; the result does not depend on it")
    chunksize: int = Hparam(1000, ge=1, help="samples that are prepared and kept together")
    split: tuple[float, ...] = Hparam(SPLIT, help="shares of training, validation and (if there are three) test data")
    split_by: str | None = Hparam(
        None, help="attribute of the graphs such as state_id; those with the same value stay together, shares are of its values"
    )
    shuffle: bool = Hparam(False, help="another order of the samples, by the seed")
    subset: float | None = Hparam(None, gt=0, le=1, help="share of the samples to take, drawn without replacement; None: all")
    float_type: Literal["float32", "float64"] = Hparam("float32", help="what the reader is asked for")
    int_type: Literal["int32", "int64"] = Hparam("int64", help="what the reader is asked for")

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return (str(value),) if isinstance(value, (str, Path)) else value

    @field_validator(*_CALLABLES)
    @classmethod
    def _can_be_called(cls, value: Any, checked: ValidationInfo) -> Any:
        return function_from(value, cls.label(str(checked.field_name)))

    @model_validator(mode="after")
    def _fits(self) -> Any:
        check_split(self.split)
        if self.prepares and self.output is None:
            name = "pre_transform" if self.pre_transform is not None else "pre_filter"
            raise ConfigError(f"data.output: missing; what data.{name} makes is kept there")
        return self

    @property
    def prepares(self) -> bool:
        """Whether graphs are prepared and kept."""
        return self.pre_transform is not None or self.pre_filter is not None


class GraphDataset(Dataset[Any]):
    """The graphs (torch_geometric's `Data`) of some files, in their order or shuffled; all of them, or a subset.

    With a pre_filter or a pre_transform they are prepared at once and kept in `<output>/processed`, in a folder for each set of
    files, settings and functions with all that these use. Folders that are out of date stay, until someone deletes them. Without
    such functions a sample is read whenever it is asked for.

    Args:
        settings: of the section `data`.
        seed: of the subset, of the order, and of random preparations, sample by sample.

    Raises:
        ConfigError: for settings and files that cannot be used; if PyTorch Geometric is not installed; for functions that no
            other process can import, with n_processes > 1; if no sample is left.
    """

    def __init__(self, settings: GraphDataHparams | Mapping[str, Any], seed: int = 0) -> None:
        require_torch_geometric()
        self.settings = settings if isinstance(settings, GraphDataHparams) else GraphDataHparams(**settings)
        self.seed, self.transform = seed, _function(self.settings, "transform")
        self.source = _Source(self.settings, seed)
        self.chunks = self._prepared() if self.settings.prepares else None
        count = len(self.source) if self.chunks is None else len(self.chunks.index)
        if not count:
            raise ConfigError(f"data.files: no sample in {', '.join(self.settings.files)}, or none that data.pre_filter keeps")
        order = torch.randperm(count, generator=generator_for("cpu", seed, "subset")).numpy()
        taken = order[: max(1, round((self.settings.subset or 1) * count))]
        self.rows = taken if self.settings.shuffle else np.sort(taken)  # of all samples that there are

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        number = int(number)
        if not -len(self) <= number < len(self):
            raise IndexError(f"graph {number} of {len(self)}")
        row = int(self.rows[number])
        graph = self.source.read(row) if self.chunks is None else self.chunks[row]
        return graph if self.transform is None else self.transform(graph)

    def has_column(self, name: str) -> bool:
        """Whether all files have an array with a number for each sample, as `state_id`."""
        return self.source.has_column(name)

    def column(self, name: str) -> NDArray[Any]:
        """(S,) such an array; raises ConfigError where a file lacks it."""
        found = self.source.column(name)
        return found[self.rows] if self.chunks is None else found[self.chunks.index[self.rows]]

    def _prepared(self) -> Chunks:
        settings, source = self.settings, self.source
        fingerprint = source.fingerprint()
        folder = folder_of(str(settings.output), fingerprint)
        if not is_current(folder, fingerprint):
            logger.info("preparing %d samples in %s", len(source), folder)
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"data.output={settings.output}: {reason(error)}; expected a folder, or none yet") from None
            with replacing_directory(folder) as temporary:
                kept = _prepare_all(source, temporary)
                write_meta(temporary, fingerprint)
            logger.info("%d graphs kept", kept)
        return Chunks(folder, fingerprint)


class _Source:
    """The samples of the files, before and after preparation; goes to other processes by the names of its functions."""

    def __init__(self, settings: GraphDataHparams, seed: int) -> None:
        self.stores = Stores(settings.files)
        self.seed, self.chunksize, self.n_processes = seed, settings.chunksize, settings.n_processes
        self.validate = settings.validate_data
        self.dtypes = (getattr(torch, settings.float_type), getattr(torch, settings.int_type))
        self.functions = {name: _function(settings, name) for name in ("pre_filter", "pre_transform")}
        arrays = [arrays_of(self.stores[number]) for number in range(len(settings.files))]
        counts = []
        for found, file in zip(arrays, settings.files, strict=True):
            with parsing(file, "damaged"):
                counts.append(sample_count(found, file))
                if 8 * counts[-1] > FREE_BYTES:  # the order of the samples
                    check_inflated(8 * counts[-1], sum(size for _, size, _ in stamps(file)), file)
        self.ends = np.cumsum(counts)
        if settings.reader is None:
            other = [file for file, found in zip(settings.files, arrays, strict=True) if not is_snapshots(found)]
            if other:
                raise ConfigError(
                    f"data.reader: missing, and {other[0]} is no file of snapshots, which could be read without one"
                )
        self.reader: Callable[..., Any] = _function(settings, "reader") or SnapshotReader()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, number: int) -> tuple[int, int]:
        """The file of a sample, and its number there."""
        file = int(np.searchsorted(self.ends, number, side="right"))
        return file, number - (int(self.ends[file - 1]) if file else 0)

    def sample(self, number: int) -> Any:
        """What the reader makes of a sample."""
        file, inside = self._place(number)
        try:
            return self.reader(self.stores[file], inside, *self.dtypes, self.validate)
        except ConfigError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OSError) as error:
            said = f"{type(error).__name__}: {reason(error)}"
            raise ConfigError(f"{self.stores.files[file]}: sample {inside} cannot be read by data.reader: {said}") from error

    def read(self, number: int) -> Any:
        """A sample that is a graph."""
        return self._checked(self.sample(number), number)

    def prepared(self, number: int) -> Any:
        """The prepared graph of a sample, or None if it is filtered out."""
        seed_global(derived_seed(self.seed, "graphs", number))
        sample = self.sample(number)
        if self.functions["pre_filter"] is not None and not self.functions["pre_filter"](sample):
            return None
        transform = self.functions["pre_transform"]
        return self._checked(sample if transform is None else transform(sample), number)

    def _checked(self, graph: Any, number: int) -> Any:
        if self.validate:
            file, inside = self._place(number)
            check_graph(graph, f"{self.stores.files[file]}: sample {inside}")
        return graph

    def has_column(self, name: str) -> bool:
        """As that of the data set."""
        return all(find_column(arrays_of(self.stores[number]), name) is not None for number in range(len(self.ends)))

    def column(self, name: str) -> NDArray[Any]:
        """(all samples,) an array of the files."""
        files = self.stores.files
        counts = np.diff(self.ends, prepend=0)
        parts = [column(arrays_of(self.stores[number]), name, counts[number], file) for number, file in enumerate(files)]
        return np.concatenate(parts)

    def fingerprint(self) -> dict[str, Any]:
        """What prepared graphs depend on, ready for JSON."""
        return {
            "schema": SCHEMA,
            "files": [[str(Path(file).resolve()), [list(stamp) for stamp in stamps(file)]] for file in self.stores.files],
            "functions": {name: digest(function, name) for name, function in {"reader": self.reader, **self.functions}.items()},
            "dtypes": [str(dtype) for dtype in self.dtypes],
            "chunksize": self.chunksize,
            "validate": self.validate,
            "seed": self.seed,
        }


def _function(settings: GraphDataHparams, name: str) -> Any:
    """A function of the section, made if it is an object; None if there is none."""
    found = settings[name]
    if isinstance(found, Constructor):
        found = found.build(f"data.{name}")
        if not callable(found):
            raise ConfigError(f"data.{name}: must make an object that can be called, found {type(found).__name__}")
    return found


def _prepare_all(source: _Source, folder: Path) -> int:
    """Write all chunks; how many graphs were kept."""
    starts = range(0, len(source), source.chunksize)
    workers = min(source.n_processes, len(starts))
    if workers < 2:
        with forked_generators():
            return sum(_prepare_chunk(source, folder, first) for first in starts)
    try:
        pickle.dumps(source)  # functions go by their names, nothing else does
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"data.n_processes={source.n_processes}: another process cannot import the functions of data ({error}); define them "
            "at the top of a module, or prepare with n_processes=1"
        ) from None
    # Spawned: a fork would inherit the threads of torch and the open files.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker, (source, folder)) as pool:
        try:
            return sum(pool.map(_prepare_in_worker, starts))
        except BrokenProcessPool:
            raise ConfigError(
                f"data.n_processes={source.n_processes}: a process ended before its work was done; what a script runs must stand "
                'under `if __name__ == "__main__":`, its functions in a file, and the graphs must fit in memory; n_processes=1 '
                "needs no other process"
            ) from None


_worker: dict[str, Any] = {}  # what a process that was started to prepare graphs works on


def _begin_worker(source: _Source, folder: Path) -> None:
    torch.set_num_threads(1)
    _worker.update(source=source, folder=folder)


def _prepare_in_worker(first: int) -> int:
    return _prepare_chunk(_worker["source"], _worker["folder"], first)


def _prepare_chunk(source: _Source, folder: Path, first: int) -> int:
    """Write the graphs of the samples from `first` on; how many were kept."""
    numbers = range(first, min(first + source.chunksize, len(source)))
    found = [(graph, number) for number in numbers if (graph := source.prepared(number)) is not None]
    write_chunk(folder / f"chunk-{first // source.chunksize:06d}.safetensors", *zip(*found, strict=True) if found else ((), ()))
    return len(found)


def check_graph(graph: Any, where: str) -> None:
    """Whether this is a graph that a network can take.

    Raises:
        ConfigError: for anything but torch_geometric's `Data`, graphs without nodes, edges between nodes that are not there,
            features and weights of other lengths than nodes and edges, and numbers that are not finite.
    """
    from torch_geometric.data import Data

    if not isinstance(graph, Data):
        raise ConfigError(f"{where}: expected torch_geometric.data.Data, found {type(graph).__name__}")
    x, edges, nodes = graph.x, graph.edge_index, graph.num_nodes
    if not nodes:  # a batch that ends with such a graph would have fewer graphs
        raise ConfigError(f"{where}: has no nodes; leave such graphs out, data.pre_filter can")
    if x is not None and len(x) != nodes:
        raise ConfigError(f"{where}: x has {len(x)} rows for {nodes} nodes")
    if edges is not None:
        if edges.dim() != 2 or len(edges) != 2 or edges.is_floating_point():
            raise ConfigError(f"{where}: edge_index must be (2, E) integers, found {tuple(edges.shape)} {edges.dtype}")
        if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
            wrong = int(edges.min()) if edges.min() < 0 else int(edges.max())
            raise ConfigError(f"{where}: edge_index names node {wrong}, and there are {nodes} nodes")
        if graph.edge_attr is not None and len(graph.edge_attr) != edges.shape[1]:
            raise ConfigError(f"{where}: edge_attr has {len(graph.edge_attr)} rows for {edges.shape[1]} edges")
    for name, value in graph.to_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise ConfigError(f"{where}: {name} has a value that is not finite")
