"""No reader meets a file that it cannot end with a value or a ConfigError of one line (hypothesis; the long run is fuzz.py)."""

import json
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, outcome

FAST = [name for name, reader in READERS.items() if not reader.heavy]
HEAVY = [name for name, reader in READERS.items() if reader.heavy]
unhurried = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def read(name: str, content: bytes) -> str:
    reader = READERS[name]
    with TemporaryDirectory() as folder:
        file = reader.lay_out(Path(folder))
        file.write_bytes(content)
        return outcome(reader, file)


@pytest.mark.parametrize("name", list(READERS))
def test_valid_files_are_read(name: str) -> None:
    """Otherwise nothing would be tested but the first check."""
    assert "read" in [read(name, content) for content in READERS[name].seeds()]


@pytest.mark.parametrize("name", FAST)
def test_bytes_of_any_kind(name: str) -> None:
    @seed(1)
    @settings(unhurried, max_examples=40)
    @given(st.binary(max_size=200))
    def check(content: bytes) -> None:
        read(name, content)

    check()


@pytest.mark.parametrize("name", FAST)
def test_mutated_files(name: str) -> None:
    reader = READERS[name]
    seeds = reader.seeds()

    @seed(2)
    @settings(unhurried, max_examples=60 if reader.kind not in ("zip", "hdf5") else 25)
    @given(st.integers(0, 2**32))
    def check(number: int) -> None:
        read(name, mutated(reader.kind, seeds, random.Random(number)))

    check()


@pytest.mark.parametrize("name", HEAVY)
def test_mutated_runs_and_graphs(name: str) -> None:
    reader = READERS[name]
    seeds = reader.seeds()

    @seed(3)
    @settings(unhurried, max_examples=15)
    @given(st.integers(0, 2**32))
    def check(number: int) -> None:
        read(name, mutated(reader.kind, seeds, random.Random(number)))

    check()


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.kind == "json" and not reader.heavy])
def test_any_tree_of_json(name: str) -> None:
    @seed(4)
    @settings(unhurried, max_examples=60)
    @given(values)
    def check(tree: Any) -> None:
        read(name, json.dumps(tree).encode())

    check()


@pytest.mark.parametrize("section", ["train", "model", "hamiltonian", "optimizer", "scheduler", "objective"])
def test_any_value_of_any_setting_in_settings_json(section: str) -> None:
    tree = json.loads(READERS["settings"].seeds()[0])

    @seed(5)
    @settings(unhurried, max_examples=60)
    @given(st.sampled_from(sorted(tree[section])), values)
    def check(name: str, value: Any) -> None:
        read("settings", json.dumps({**tree, section: {**tree[section], name: value}}).encode())

    check()


def test_deep_nesting_within_the_recursion_limit_of_the_interpreter() -> None:
    for name in ("settings", "json", "positions_json"):
        for depth in (60, 70, sys.getrecursionlimit() - 100, 100_000):
            assert read(name, b'{"a":' * depth + b"1" + b"}" * depth) == "refused"
