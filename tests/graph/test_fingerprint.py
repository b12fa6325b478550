"""Digests of functions: another one whenever the function would do something else, the same one in every process."""

import functools
import importlib
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.transforms import AddRandomWalkPE, Compose, ToUndirected

from qsr.graph import GraphDataset, SnapshotReader
from qsr.graph.fingerprint import digest
from qsr.hparams import ConfigError
from tests.graph.graph_files import snapshots


def same(first: Any, second: Any) -> bool:
    return digest(first, "pre_transform") == digest(second, "pre_transform")


def closed_over(value: Any) -> Callable[[Any], Any]:
    return lambda graph: (graph, value)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, graph: Any) -> Any:
        return graph, self.scale


class Plain:
    def __init__(self, scale: Any) -> None:
        self.scale = scale
        self.inner = object()  # whose repr is its address

    def __call__(self, graph: Any) -> Any:
        return graph, self.scale


class Quiet(Plain):
    """Leaves out what changes nothing."""

    def __getstate__(self) -> Any:
        return {}


class Colour(Enum):
    RED = 1
    BLUE = 2


def with_default(value: Any) -> Callable[..., Any]:
    def found(graph: Any, scale: Any = value, *, shift: int = 0) -> Any:
        return graph, scale, shift

    return found


def array(*values: float) -> np.ndarray:
    return np.array(values)


MAKERS = [
    closed_over,
    with_default,
    Slotted,
    Plain,
    lambda value: functools.partial(operator.mul, value),
    lambda value: functools.cache(closed_over(value)),
    lambda value: Plain(value).__call__,
    lambda value: Plain([{"a": (value,)}]),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "values",
    [
        (array(1, 2), array(1, 3)),
        (np.arange(10000), np.where(np.arange(10000) == 5000, 0, np.arange(10000))),  # written with dots
        (array(1), array(1).astype(np.float32)),
        (torch.zeros(5000), torch.eye(5000)[2500]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
        (1, 2),
        (1, 1.0),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (Colour.RED, Colour.BLUE),
        (Path("a"), Path("b")),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
        (operator.attrgetter("x"), operator.attrgetter("y")),
        (len, max),
        (torch.relu, torch.sigmoid),
    ],
)
def test_what_a_function_holds_counts(make: Callable[[Any], Any], values: tuple[Any, Any]) -> None:
    first, second = values
    assert not same(make(first), make(second))
    assert same(make(first), make(first))


def test_code_counts_and_where_it_stands_does_not() -> None:
    def of(source: str) -> Any:
        names: dict[str, Any] = {}
        exec(source, names)
        return names["f"]

    assert same(of("def f(g): return g.x + 1"), of("\n\ndef f(g):\n    # the same\n    return g.x + 1"))
    assert not same(of("def f(g): return g.x + 1"), of("def f(g): return g.x + 2"))
    assert not same(of("def f(g): return g.x + 1"), of("def f(g): return g.y + 1"))
    assert not same(of("def f(g): return [a + 1 for a in g]"), of("def f(g): return [a + 2 for a in g]"))
    one, other = lambda g: g.x, lambda g: g.y  # in one line of a file
    assert not same(one, other)


def test_objects_are_told_apart_by_what_they_hold_and_not_by_their_address() -> None:
    assert same(Plain(1), Plain(1)) and same(Quiet(1), Quiet(2)) and not same(Plain(1), Quiet(1))
    assert same(operator.attrgetter("x"), operator.attrgetter("x")) and same(operator.itemgetter(0), operator.itemgetter(0))
    assert not same(Compose([AddRandomWalkPE(2)]), Compose([AddRandomWalkPE(5)]))
    assert same(Compose([AddRandomWalkPE(2), ToUndirected()]), Compose([AddRandomWalkPE(2), ToUndirected()]))
    assert same(SnapshotReader(), SnapshotReader()) and not same(SnapshotReader(), SnapshotReader(cutoff=1.0))
    above: list[Any] = []
    above.append(above)
    assert same(Plain(above), Plain(above))


MODULE = """
import functools
import logging
from dataclasses import dataclass
from enum import Enum
import torch
{imported}

SCALE = {scale}
table = torch.tensor([1.0, {table}])
logger = logging.getLogger(__name__)
lock = __import__("threading").Lock()  # of another function

def helper(x, depth=2):
    return {helper} if depth == 0 else twin(x, depth - 1)

def twin(x, depth):
    return helper(x, depth)

class Base:
    factor = {factor}
    def scaled(self, x):
        return x * self.factor

@dataclass(frozen=True)
class Transform(Base):
    shift: float = 0.5
    kind: Enum = Enum("Kind", "a b")
    @property
    def moved(self):
        return self.shift + {moved}
    @functools.cached_property
    def kept(self):
        return {kept}
    @staticmethod
    def fixed():
        return {fixed}
    def __call__(self, graph):
        return self.scaled(graph.x) + self.moved + self.lock

def transform(graph):
    {inside}
    logger.info("seen")
    def inner(x):
        return x * SCALE + table[1]
    return [inner(helper(x)) for x in graph.x]{called}
"""
PARTS = {
    **{"imported": "", "inside": "pass", "called": "", "helper": "x"},
    **{"scale": "1", "table": "2.0", "factor": "1", "moved": "1", "kept": "1", "fixed": "1"},
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A module of a user's own, with changes, as another start of Python would import it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(more: str = "", **changes: str) -> Any:
        (tmp_path / "users_own.py").write_text(MODULE.format(**{**PARTS, **changes}))
        (tmp_path / "users_other.py").write_text(
            f"def clean(graph):\n    return helped(graph)\n\ndef helped(graph):\n    {more or 1}"
        )
        importlib.invalidate_caches()
        for name in ("users_own", "users_other"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module("users_own")

    return write


@pytest.mark.parametrize("changed", [{"scale": "2"}, {"table": "3.0"}, {"helper": "x + 1"}, {"called": "[1:]"}])
def test_what_a_function_reads_counts(written: Callable[..., Any], changed: dict[str, str]) -> None:
    before = digest(written().transform, "pre_transform")
    assert digest(written().transform, "pre_transform") == before
    assert digest(written(factor="3", moved="3").transform, "pre_transform") == before, "it does not read the class"
    assert digest(written(**changed).transform, "pre_transform") != before


@pytest.mark.parametrize("changed", [{"factor": "2"}, {"moved": "2"}, {"kept": "2"}, {"fixed": "2"}])
def test_what_a_class_and_those_above_it_hold_counts(written: Callable[..., Any], changed: dict[str, str]) -> None:
    before = digest(written().Transform(), "pre_transform")
    assert digest(written().Transform(), "pre_transform") == before
    assert digest(written(scale="2").Transform(), "pre_transform") == before, "it does not read the number"
    assert digest(written(**changed).Transform(), "pre_transform") != before
    assert digest(written().Transform(shift=1), "pre_transform") != before


@pytest.mark.parametrize(
    "users",
    [
        {"imported": "import users_other", "called": " + users_other.clean(graph)"},
        {"imported": "from users_other import clean", "called": " + clean(graph)"},
        {"inside": "import users_other", "called": " + users_other.clean(graph)"},
        {"inside": "from users_other import clean", "called": " + clean(graph)"},
    ],
)
def test_other_modules_of_a_user_count(written: Callable[..., Any], users: dict[str, str]) -> None:
    before = digest(written(**users).transform, "pre_transform")
    assert digest(written(**users).transform, "pre_transform") == before
    assert digest(written("return 2", **users).transform, "pre_transform") != before


def test_what_nobody_can_describe_is_named(tmp_path: Path) -> None:
    lock = threading.Lock()
    for function, place in (
        (lambda graph: (graph, lock), "'lock', an object of type lock"),
        (Plain(lock), "'scale', an object of type lock"),
        (Plain({"a": lock}), r"'scale\.a', an object of type lock"),
    ):
        with pytest.raises(ConfigError, match=rf"data\.pre_filter: uses {place}, of which nobody can say .* __getstate__"):
            digest(function, "pre_filter")
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ConfigError, match=r"data\.pre_filter: .* nested too deeply"):
        digest(Plain(deep), "pre_filter")


PROGRAM = """
import torch
from torch_geometric.transforms import AddRandomWalkPE, Compose
from qsr.graph import SnapshotReader
from qsr.graph.fingerprint import digest
from tests.graph.graph_files import read_third, with_density
from tests.graph.test_fingerprint import Colour, Plain

torch.manual_seed(0)
held = {"names": {"a", "b", "c"}, "pair": frozenset("xyz"), "kind": Colour.RED, "layer": torch.nn.Linear(2, 2)}
for found in (SnapshotReader(), read_third, with_density, Plain(held), Compose([AddRandomWalkPE(2)])):
    print(digest(found, "reader"))
"""


def test_other_processes_find_the_same() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    found = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}, capture_output=True
        )
        for seed in ("1", "2")
    ]
    assert found[0].stdout == found[1].stdout and len(found[0].stdout.split()) == 5, found[0].stderr


def test_a_cache_of_another_closure_is_not_used(tmp_path: Path) -> None:
    def moved_by(shift: np.ndarray) -> Callable[[Any], Any]:
        def move(graph: Any) -> Any:
            graph.x = graph.x + torch.from_numpy(shift).float()
            return graph

        return move

    file = snapshots(tmp_path / "s.h5", shots=1)
    found = [
        GraphDataset({"files": [str(file)], "pre_transform": moved_by(array(shift)), "output": str(tmp_path)})[0].x
        for shift in (1.0, 2.0)
    ]
    assert torch.equal(found[0] + 1, found[1])
