"""Tables as data: every file format gives the same columns, what cannot be used is named, and splits are exact."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from qsr.hparams import ConfigError, parse_sections
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training.columns import columns_of, numbers_in, read_columns
from qsr.training.table import Table, TableHparams

FRAME = pd.DataFrame({"a": [1.0, 2.5, -3.0, 4.0], "b": [1, 2, 3, 4], "kind": ["x", "y", "x", "z"], "hole": [0.5, None, 1.5, 2.5]})


def written(folder: Path, ending: str) -> Path:
    file = folder / f"table.{ending}"
    if ending == "csv":
        FRAME.to_csv(file, index=False)
    elif ending == "tsv":
        FRAME.to_csv(file, index=False, sep="\t")
    elif ending == "parquet":
        FRAME.to_parquet(file)
    else:
        with h5py.File(file, "w") as store:
            for name in FRAME.columns:
                values = FRAME[name].to_numpy()
                store.create_dataset(name, data=[str(value) for value in values] if name == "kind" else values.astype(float))
            store.create_dataset("picture", data=np.zeros((4, 2)))
    return file


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "h5"])
def test_every_file_gives_the_same_columns(ending: str, tmp_path: Path) -> None:
    found, expected = read_columns(written(tmp_path, ending)), columns_of(FRAME)
    assert set(found) == {"a", "b", "kind", "hole"}
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert all(x == y or (x != x and y != y) for x, y in zip(found[name], values, strict=True))
    assert found["a"].dtype == np.float64 and found["kind"].dtype == object and np.isnan(found["hole"][1])


def test_mappings_and_arrays() -> None:
    assert columns_of({"a": [1, 2]})["a"].tolist() == [1.0, 2.0]
    assert {name: values.tolist() for name, values in columns_of(np.eye(2)).items()} == {"x0": [1.0, 0.0], "x1": [0.0, 1.0]}
    assert columns_of({"a": ["1", "", "NaN"]})["a"][0] == 1.0 and np.isnan(columns_of({"a": ["1", ""]})["a"][1])
    assert columns_of(pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}))["t"].dtype == object
    with pytest.raises(ConfigError, match="of one length"):
        columns_of({"a": [1, 2], "b": [1]})
    with pytest.raises(ConfigError, match=r"an array \(S, K\), found list"):
        columns_of([1.0, 2.0])


def test_snapshots_are_a_table(tmp_path: Path) -> None:
    configs = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.uint8)
    snapshots = Snapshots(configs, np.zeros((2, 2)), {"labels": np.array([1, 0, 1])}, {"delta": np.array([0.5, 1.0, 2.0])})
    write_snapshots(tmp_path / "s.h5", snapshots)
    columns = read_columns(tmp_path / "s.h5")
    assert {name: values.tolist() for name, values in columns.items()} == {
        "n0": [0.0, 1.0, 0.0],
        "n1": [1.0, 1.0, 0.0],
        "label": [1.0, 0.0, 1.0],
        "delta": [0.5, 1.0, 2.0],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "none.csv: no such file"),
        ("x.txt", "a\n1\n", "unknown ending '.txt', expected one of .csv"),
        ("x.csv", "", "is empty"),
        ("x.csv", "a,b\n", "has no rows"),
        ("x.csv", "a,b\n1,2\n3\n", "line 3 has 1 values, the first line has 2"),
        ("x.csv", "a,a\n1,2\n", "two columns have the name 'a'"),
        ("x.csv", b"\xff\xfe\x00", "not a table of text"),
        ("x.h5", "nothing", "not an HDF5 file"),
        ("x.parquet", "nothing", "not a Parquet file"),
    ],
)
def test_files_that_cannot_be_read_are_named(name: str, content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as error:
        read_columns(file)
    assert message in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_columns_that_cannot_be_used_are_named() -> None:
    columns = columns_of(FRAME)
    with pytest.raises(ConfigError, match="where: no column 'kinds'; did you mean 'kind'"):
        numbers_in(columns, ["a", "kinds"], "where")
    with pytest.raises(ConfigError, match="no column 'zzz'; there are a, b, kind, hole"):
        numbers_in(columns, ["zzz"], "where")
    with pytest.raises(ConfigError, match="column 'kind' is not of numbers, row 1 has 'x'"):
        numbers_in(columns, ["a", "kind"], "where")
    assert numbers_in(columns, ["b", "a"], "where").tolist() == [[1.0, 1.0], [2.0, 2.5], [3.0, -3.0], [4.0, 4.0]]


def made(**settings: Any) -> Table:
    return Table({"seed": 0, "split": (1.0, 0.0), **settings}, FRAME)


def test_features_are_those_that_are_named_in_their_order_or_all_others() -> None:
    assert made(targets="b", input_features=["hole", "a"]).thparams.input_features == ("hole", "a")
    assert made(targets=["b"], input_features=["a"]).full.columns[0].tolist() == [[1.0], [2.5], [-3.0], [4.0]]
    several = Table(
        {"targets": "y", "input_features": ["n*", "a"], "seed": 0, "split": 0.0}, {k: [1.0] for k in ("n1", "a", "n0", "y", "m")}
    )
    assert several.thparams.input_features == ("n1", "n0", "a")
    with pytest.raises(ConfigError, match=r"no column 'q\*'"):
        made(targets="b", input_features=["q*"])
    with pytest.raises(ConfigError, match=r"data: data\.input_features: column 'kind' is not of numbers"):
        made(targets="b")
    kinds = made(targets="kind", input_features=["a", "b"])
    assert kinds.classes == ["x", "y", "z"] and kinds.thparams.labels is True
    assert kinds.full.columns[1][:, 0].tolist() == [0.0, 1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "hole", "input_features": ["a"]}, "1 rows have no value, the first is row 2"),
        ({"targets": "c"}, "data.targets: no column 'c'"),
        ({"targets": ["a", "a"]}, "Target columns must be unique."),
        ({"targets": "a", "input_features": []}, "If input_features is specified, it cannot be empty."),
        ({"targets": "a", "input_features": ["b", "b"]}, "Input feature columns must be unique."),
        ({"targets": "a", "input_features": ["a", "b"]}, "cannot overlap. Overlapping columns: ['a']"),
        ({"targets": ["a", "b"], "labels": True}, "needs one target column, found 2"),
        ({"targets": "a", "input_features": ["b"], "split": 1.0}, "must be at least 0 and less than 1"),
        ({"targets": "a", "input_features": ["b"], "split": (0.5, 0.4)}, "must add up to 1, found 0.9"),
        ({"targets": "a", "input_features": ["b"], "split": (0.0, 1.0)}, "that of training greater than 0"),
        (
            {"targets": "kind", "input_features": ["a"], "split": 0.5},
            "leaves a part, or one of the 3 classes of 'kind' in the training data, without rows",
        ),
        ({"targets": ["a", "b"], "input_features": ["b2"], "stratify": True}, "no column 'b2'"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rows", "share", "sizes"), [(10, 0.2, (6, 2, 2)), (100, 0.2, (64, 16, 20)), (7, 0.5, (1, 2, 4)), (5, 0.0, (5, 0, 0))]
)
def test_one_share_is_that_of_the_test_data_and_of_validation_in_the_rest(
    rows: int, share: float, sizes: tuple[int, ...]
) -> None:
    table = Table({"targets": "y", "seed": 3, "split": share}, {"x": np.arange(rows), "y": np.zeros(rows)})
    parts = [table.train, table.val, table.test]
    assert tuple(0 if part is None else len(part) for part in parts) == sizes
    rows_of = torch.cat([part.columns[0][:, 0] for part in parts if part is not None])
    assert sorted(rows_of.tolist()) == list(range(rows))  # nothing twice, nothing lost
    again = Table({"targets": "y", "seed": 3, "split": share}, {"x": np.arange(rows), "y": np.zeros(rows)})
    assert torch.equal(table.train.columns[0], again.train.columns[0])


def test_rows_stay_in_their_order_without_a_shuffle() -> None:
    table = Table({"targets": "y", "seed": 0, "split": 0.2, "shuffle_split": False}, {"x": np.arange(50), "y": np.zeros(50)})
    assert table.train.columns[0][:, 0].tolist() == list(range(32)) and table.test.columns[0][:, 0].tolist() == list(
        range(40, 50)
    )


def test_every_part_has_its_share_of_each_class() -> None:
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 10
    table = Table({"targets": "y", "seed": 0, "split": 0.2}, {"x": np.arange(90), "y": labels})
    counts = [torch.bincount(part.columns[1][:, 0].long()).tolist() for part in (table.train, table.val, table.test)]
    assert counts == [[32, 19, 6], [8, 5, 2], [10, 6, 2]]


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "csv")
    table = Table({"file": str(file), "targets": "a", "input_features": ["b"], "seed": 0, "split": 0.0})
    assert table.thparams.sha256 is not None
    Table(table.thparams)
    file.write_text(file.read_text().replace("2.5", "2.6", 1))
    with pytest.raises(ConfigError, match=r"has changed since data\.sha256="):
        Table(table.thparams)


def test_words_of_the_command_line() -> None:
    tree = parse_sections(["--hsm", "--data", "table.csv", "targets=a,b", "split=0.6,0.2,0.2", "batch_size=8"])
    assert tree["data"] == {
        "type": "table",
        "file": "table.csv",
        "targets": ("a", "b"),
        "split": (0.6, 0.2, 0.2),
        "batch_size": "8",
    }
    settings = TableHparams(**{name: value for name, value in tree["data"].items() if name != "type"})
    assert settings.loader is not None and settings.loader.batch_size == 8 and settings.loader.shuffle
    assert parse_sections(["--hsm", "--data", "file=t.h5", "input_features=x"])["data"]["input_features"] == ("x",)
