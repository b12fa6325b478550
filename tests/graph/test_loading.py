"""Splits and loaders of graphs: sizes, what the seed decides, groups that stay together, and layouts of the data."""

from typing import Any

import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from qsr.graph import Trainer
from qsr.graph.data import GraphDataHparams
from qsr.graph.loading import split_dataset
from qsr.hparams import ConfigError
from tests.graph.graph_files import snapshots
from tests.graph.rings import config, rings


def indices(parts: Any) -> list[list[int]]:
    return [list(part.indices) for part in parts]


@pytest.mark.parametrize(
    ("number", "split", "sizes"),
    [
        (15, (0.8, 0.1, 0.1), [12, 1, 2]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),  # 10 * 0.7 is 7.000000000000001
        (10, (0.1, 0.8, 0.1), [1, 8, 1]),
        (11, (0.5, 0.25, 0.25), [6, 2, 3]),
        (100, (1 / 3, 1 / 3, 1 / 3), [34, 33, 33]),
        (9, (0.8, 0.2), [8, 1]),
    ],
)
def test_sizes(number: int, split: tuple[float, ...], sizes: list[int]) -> None:
    parts = indices(split_dataset(rings(number), split, seed=0))
    assert [len(part) for part in parts] == sizes
    assert sorted(index for part in parts for index in part) == list(range(number)), "every sample is in one part"


def test_the_seed_alone_decides() -> None:
    first = indices(split_dataset(rings(20), (0.5, 0.25, 0.25), seed=1))
    torch.rand(7)
    assert indices(split_dataset(rings(20), (0.5, 0.25, 0.25), seed=1)) == first
    assert indices(split_dataset(rings(20), (0.5, 0.25, 0.25), seed=2)) != first
    before = torch.get_rng_state()
    split_dataset(rings(20), (0.5, 0.25, 0.25), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_groups_stay_together() -> None:
    """Forty graphs in pairs: shares are of the twenty pairs."""
    data = rings(40)
    parts = split_dataset(data, (0.5, 0.25, 0.25), seed=3, split_by="state")
    states = [{int(data[index].state) for index in part.indices} for part in parts]
    assert [len(found) for found in states] == [10, 5, 5] and [len(part) for part in parts] == [20, 10, 10]
    assert not (states[0] & states[1] or states[0] & states[2] or states[1] & states[2])
    with pytest.raises(ConfigError, match="split_by=label: sample 0 has no such attribute"):
        split_dataset(data, (0.5, 0.5), seed=3, split_by="label")


@pytest.mark.parametrize(
    ("number", "split", "said"),
    [
        (15, (0.8, 0.1, 0.2), r"Split ratios must sum to 1.0. Provided split: \[0.8, 0.1, 0.2\]"),
        (0, (0.8, 0.1, 0.1), "train size cannot be 0"),
        (5, (0.8, 0.1, 0.1), "validation size cannot be 0"),
        (3, (0.65, 0.34, 0.01), "test size cannot be 0"),
    ],
)
def test_splits_that_cannot_be(number: int, split: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trainer = Trainer.from_config(config("<NONE>"))
        trainer.prepare_dataloaders(rings(number), split)


def test_loaders(tmp_path: Any) -> None:
    """Batches of 8 of 12 graphs; only those of the training come in another order in every epoch."""
    trainer = Trainer.from_config(config("<NONE>", {"drop_last": True}))
    train, validation, test = trainer.prepare_dataloaders(rings(15))
    assert [len(loader.dataset) for loader in (train, validation, test)] == [12, 1, 2]
    assert [batch.num_graphs for batch in train] == [8] and [batch.num_graphs for batch in test] == [2]
    assert trainer.train_dataset is train.dataset and trainer.test_dataset is test.dataset
    assert trainer.val_dataset is validation.dataset
    orders = [[float(x) for batch in train for x in batch.x[::4, 0]] for _ in range(2)]
    assert orders[0] != orders[1]
    tests = [[float(x) for batch in test for x in batch.x[:, 0]] for _ in range(2)]
    assert tests[0] == tests[1]


def test_parts_that_are_there() -> None:
    trainer = Trainer.from_config(config("<NONE>"))
    parts = {"train_dataset": rings(9), "val_dataset": rings(4), "test_dataset": rings(3)}
    assert [len(loader.dataset) for loader in trainer.prepare_dataloaders(**parts)] == [9, 4, 3]
    sampler = WeightedRandomSampler([1.0] + [0.0] * 8, 5)
    train, _, _ = trainer.prepare_dataloaders(**parts, training_sampler=sampler)
    assert {float(x) for batch in train for x in batch.x[::4, 0]} == {float(parts["train_dataset"][0].x[0, 0])}
    with pytest.raises(ValueError, match="the full dataset must not be provided"):
        trainer.prepare_dataloaders(rings(5), **parts)
    with pytest.raises(ConfigError, match="all three of them"):
        trainer.prepare_dataloaders(train_dataset=rings(9))
    with pytest.raises(ConfigError, match="describe the data in the configuration, or pass a dataset"):
        trainer.prepare_dataloaders()


# --- data that the configuration describes -------------------------------------------------------------------------------


def read(*arguments: Any) -> Any:
    raise AssertionError("nothing is read here")


def described(**changes: Any) -> dict[str, Any]:
    return {"files": ["rings.h5"], "output": "cache", "reader": read, **changes}


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> list[GraphDataHparams]:
    """What `GraphDataset` was asked for; its data sets have as many rings as the file's name says."""
    asked: list[GraphDataHparams] = []

    def dataset(settings: GraphDataHparams, seed: int) -> Any:
        asked.append(settings)
        return rings(int(settings.files[0]) if settings.files[0].isdigit() else 20)

    monkeypatch.setattr("qsr.graph.loading.GraphDataset", dataset)
    return asked


def sizes(settings: dict[str, Any]) -> list[int]:
    return [len(loader.dataset) for loader in Trainer.from_config(settings).prepare_dataloaders()]


def test_one_data_set_in_three_parts(datasets: list[GraphDataHparams]) -> None:
    assert sizes(config("<NONE>", data=described(split=[0.5, 0.25, 0.25], shuffle=False))) == [10, 5, 5]
    (asked,) = datasets
    assert asked.files == ("rings.h5",) and asked.reader is read and asked.chunksize == 1000 and asked.int_type == "int64"


def test_the_split_of_the_configuration_goes_first() -> None:
    trainer = Trainer.from_config(config("<NONE>", data=described(split=[0.5, 0.25, 0.25])))
    loaders = trainer.prepare_dataloaders(rings(20), split=(0.8, 0.1, 0.1))
    assert [len(loader.dataset) for loader in loaders] == [10, 5, 5]


def test_two_parts_and_test_data_of_their_own(datasets: list[GraphDataHparams]) -> None:
    settings = config("<NONE>", data=described(split=[0.75, 0.25]))
    settings["testing"]["data"] = described(files=["7"])
    assert sizes(settings) == [15, 5, 7]


def test_three_data_sets(datasets: list[GraphDataHparams]) -> None:
    settings = config("<NONE>")
    for number, name in ((9, "training"), (4, "validation"), (3, "testing")):
        settings[name]["data"] = described(files=[str(number)])
    assert sizes(settings) == [9, 4, 3]


def test_files_of_snapshots_in_parts_without_leakage(tmp_path: Any) -> None:
    """Half of 120 snapshots, none of them twice; and states that stay together, in HDF5 files that need no reader."""
    file = snapshots(tmp_path / "s.h5", shots=20)
    half = {"files": [str(file)], "subset": 0.5, "split": [0.5, 0.25, 0.25]}
    parts = [loader.dataset for loader in Trainer.from_config(config("<NONE>", data=half)).prepare_dataloaders()]
    chosen = [int(part.dataset.rows[index]) for part in parts for index in part.indices]
    assert len(chosen) == len(set(chosen)) == 60
    by_state = {"files": [str(file)], "split": [0.5, 0.25, 0.25], "split_by": "state_id"}
    parts = [loader.dataset for loader in Trainer.from_config(config("<NONE>", data=by_state)).prepare_dataloaders()]
    states = [{int(part.dataset.column("state_id")[index]) for index in part.indices} for part in parts]
    assert [len(found) for found in states] == [3, 1, 2] and len(set.union(*states)) == 6


@pytest.mark.parametrize(
    ("shared", "own"), [((0.5, 0.5), []), ((0.8, 0.1, 0.1), ["testing"]), (None, ["training"]), ((0.8, 0.1, 0.1), ["training"])]
)
def test_other_layouts_are_refused(shared: Any, own: list[str]) -> None:
    settings = config("<NONE>")
    if shared is not None:
        settings["data"] = described(split=shared)
    for name in own:
        settings[name]["data"] = described()
    with pytest.raises(ValueError, match="Unsupported data config"):
        Trainer.from_config(settings)
