"""Atomic writing: the old content or the new one, and nothing left behind."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from qsr.hparams import ConfigError
from qsr.runs import replacing, replacing_directory, write_atomically
from qsr.runs.files import previous_of, remove_leftovers
from qsr.runs.tensors import read_tensors


class Crash(Exception):
    pass


def test_write_replaces_text_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, "grüß\n")
    assert file.read_bytes() == "grüß\n".encode()
    write_atomically(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    file.write_text("old")
    with pytest.raises(Crash), replacing(file) as temporary:
        assert temporary.suffix == ".h5" and temporary.parent == tmp_path
        temporary.write_text("half")
        assert file.read_text() == "old"
        raise Crash
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in (".a.0123abcd.tmp.h5", ".b.0123abcd.tmp.h5", "a.h5", ".a.h5"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.h5", ".b.0123abcd.tmp.h5", "a.h5"]


def test_directory_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with replacing_directory(tmp_path / "d") as folder:
            (folder / content).write_text(content)
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text(content)
        assert sorted(path.name for path in (tmp_path / "d").iterdir()) == sorted([content, "inner"])
        assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_failed_directory_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replacing_directory(tmp_path / "d") as folder:
        (folder / "old").touch()
    with pytest.raises(Crash), replacing_directory(tmp_path / "d") as folder:
        (folder / "new").touch()
        raise Crash
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]

    rename = os.replace

    def second_fails(source: Path, target: Path) -> None:
        if source.name.endswith(".tmp"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="no"), replacing_directory(tmp_path / "d") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_a_kill_between_the_renames_leaves_the_old_directory_aside(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "d") as folder:
        (folder / "old").touch()
    (tmp_path / "d").rename(previous_of(tmp_path / "d"))
    with replacing_directory(tmp_path / "d") as folder:
        (folder / "new").touch()
        assert (previous_of(tmp_path / "d") / "old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "new"]


def test_storages_that_claim_more_than_they_have(tmp_path: Path) -> None:
    """torch before 2.10 believed them."""
    file = tmp_path / "state.pt"
    torch.save({"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.uint8)}, file)
    assert read_tensors(file)["a"].tolist() == [0, 1, 2, 3]
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    begin = b"X\x03\x00\x00\x00cpuq\x06K"  # the number of elements comes after the device
    longer = begin + b"\x04", begin + b"\x11", "has 16 bytes, and claims 17"
    narrower = b"ctorch\nFloatStorage", b"ctorch\nByteStorage", "has 16 bytes, and claims 4"
    for old, new, said in (longer, narrower):
        assert old in entries[name]
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content.replace(old, new) if entry == name else content)
        with pytest.raises(ConfigError, match=said):
            read_tensors(file)


def test_items_are_set_on_mappings_only(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    torch.save({"a": torch.arange(4.0)}, file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in entries.items():
            ending = content.rpartition(b"s.")[0] + b"K\x00K\x01ss." if entry.endswith("data.pkl") else content
            archive.writestr(entry, ending)
    with pytest.raises(ConfigError, match="does not support item assignment"):
        read_tensors(file)


@pytest.mark.parametrize("writing", [replacing, replacing_directory])
def test_a_write_that_fails_names_the_file(writing: Any, tmp_path: Path) -> None:
    """The system tells no name when a write fails, only when an opening does."""
    read_only = os.open(__file__, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="descriptor") as failed, writing(tmp_path / "target"):
            os.write(read_only, b"x")
    finally:
        os.close(read_only)
    assert failed.value.filename == str(tmp_path / "target") and not list(tmp_path.iterdir())
