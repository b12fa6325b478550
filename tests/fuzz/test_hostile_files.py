"""What lies under the name of a file may be a pipe, a device, a folder, a loop or a bomb: one line, at once, in little memory."""

import json
import os
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import qsr
from qsr.hparams import ConfigError
from qsr.hparams.bounded import FREE_BYTES, npy_array, parse_json, read_bounded
from qsr.hparams.files import MOST_RESOLVED, read_yaml
from qsr.jobs.foreign import read_measured
from qsr.runs import History
from qsr.snapshots import read_snapshots, write_snapshots
from tests.commands import run_line
from tests.fuzz.fuzz import Coverage, run_batch
from tests.fuzz.readers import READERS, Reader, outcome, small_run, snapshots_of

# A history and its journal may be missing, and are then empty; a missing parameter file has an error of Python's own.
MAY_BE_MISSING = ("history", "journal", "state", "trainer_file")


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if not reader.heavy])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "dangling", "empty", "sparse"])
def test_what_is_not_a_regular_file(tmp_path: Path, name: str, kind: str) -> None:
    """In this process: a reader that waited for a pipe would hang the tests, one that read /dev/zero would fill the memory."""
    reader = READERS[name]
    file = reader.lay_out(tmp_path)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    elif kind in ("loop", "dangling"):
        file.symlink_to(file if kind == "loop" else "nowhere")
    else:
        file.write_bytes(b"")
        if kind == "sparse":
            os.truncate(file, 2**42)
    try:
        found = outcome(reader, file)
    except FileNotFoundError:
        found = "missing"
    empty = kind == "empty" and name in ("journal", "yaml", "run_config")
    missing = kind in ("dangling", "loop") and name in MAY_BE_MISSING
    assert found == "refused" or empty or missing


BOMBS = {
    **{f"model.{name}": {"model": {name: 10**9}} for name in ("Nh", "num_layers", "dim_feedforward", "phase_Nh", "phase_layers")},
    "model.width": {"model": {"Nh": 2**15, "nhead": 1, "num_layers": 1000}},
    "lattice": {"hamiltonian": {"Lx": 10**6, "Ly": 10**6}, "train": {"L": 10**12}},
    "kagome": {"hamiltonian": {"Lx": 10**4, "Ly": 10**4, "geometry": "kagome"}, "train": {"L": 3 * 10**8}},
}


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_settings_that_claim_more_than_there_is(bomb: str) -> None:
    tree = json.loads(small_run()["settings.json"])
    tree["model"].pop("L", None)
    for section, changes in BOMBS[bomb].items():
        tree[section] = {**tree[section], **changes}
    phase = {"phase": True} if "phase" in bomb else {}
    content = json.dumps({**tree, "model": {**tree["model"], **phase}}).encode()
    (result,) = run_batch(READERS["run"], [content], Coverage())
    assert result.get("outcome") == "refused", result


def test_positions_and_pauli_strings_of_many_sites() -> None:
    with pytest.raises(ConfigError, match="has 16385 sites; at most 16384"):
        qsr.Rydberg(positions=[[x, 0.0] for x in range(2**14 + 1)])
    with pytest.raises(ConfigError, match="at most 16384 sites"):
        qsr.Pauli(terms="X0 Z999999999999")


def test_an_hdf5_file_that_names_others_or_claims_much(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(24)))
    other = tmp_path / "other.h5"
    write_snapshots(other, snapshots_of())

    def changed(change) -> None:  # type: ignore[no-untyped-def]
        write_snapshots(tmp_path / "s.h5", snapshots_of())
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            del file["configs"]
            change(file)
        read_snapshots(tmp_path / "s.h5")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape=(6, 4), dtype="u1")
        layout[:] = h5py.VirtualSource(str(other), "configs", shape=(6, 4))
        file.create_virtual_dataset("configs", layout)

    with pytest.raises(ConfigError, match="configs: is a link"):
        changed(lambda file: file.__setitem__("configs", h5py.ExternalLink(str(other), "configs")))
    with pytest.raises(ConfigError, match="configs: lies in other files"):
        changed(virtual)
    with pytest.raises(ConfigError, match="configs: lies in other files"):
        changed(lambda file: file.create_dataset("configs", (6, 4), "u1", external=[(str(secret), 0, 24)]))
    with pytest.raises(ConfigError, match=f"configs: claims {2**50 * 4} bytes"):
        changed(lambda file: file.create_dataset("configs", (2**50, 4), "u1", chunks=True))
    changed(lambda file: file.create_dataset("configs", data=snapshots_of().configs))


def test_a_global_heap_that_libhdf5_turns_in_for_ever(tmp_path: Path) -> None:
    write_snapshots(tmp_path / "s.h5", snapshots_of())
    raw = bytearray((tmp_path / "s.h5").read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 16 : heap + 32] = bytes(16)
    (tmp_path / "s.h5").write_bytes(raw)
    with pytest.raises(ConfigError, match="an object of 0 bytes in a global heap"):
        read_snapshots(tmp_path / "s.h5")


def test_a_history_of_a_stranger(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "history.h5", "w") as file:
        file.attrs["format"], file.attrs["generation"] = "qsr-history/1", 1
        file.create_dataset("steps/step", (2**40,), "i8", chunks=True)
    with pytest.raises(ConfigError, match="steps/step: claims 8796093022208 bytes"):
        History(tmp_path).read("steps")


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(4294967296, 4294967296)", "(0, 1000000000000)"])
def test_an_array_that_claims_more_than_its_file(shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with pytest.raises(ValueError, match="claims"):
        npy_array(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def test_our_arrays_are_numpys() -> None:
    import io

    for array in (np.arange(6).reshape(2, 3), np.asfortranarray(np.random.default_rng(0).random((3, 4))), np.float32(2.5)):
        stream = io.BytesIO()
        np.save(stream, array)
        np.testing.assert_array_equal(npy_array(stream.getvalue()), array)
        assert npy_array(stream.getvalue()).dtype == array.dtype


def test_a_zip_that_inflates(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("configs.npy", b"\x93NUMPY")
    raw = bytearray((tmp_path / "m.npz").read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)  # the size that the directory claims
    (tmp_path / "m.npz").write_bytes(raw)
    with pytest.raises(ConfigError, match="claims 4294967294 bytes"):
        read_measured(tmp_path / "m.npz")


def test_yaml_whose_aliases_or_interpolations_explode(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20))]))
    with pytest.raises(ConfigError, match="more than 100000 parts"):
        read_yaml(file)
    file.write_text("\n".join([*(f"a{i}: '${{a{i + 1}}}${{a{i + 1}}}'" for i in range(40)), "a40: x"]))
    with pytest.raises(ConfigError, match=f"more than {MOST_RESOLVED} interpolations"):
        read_yaml(file)
    file.write_text("a: '${b}${b}'\nb: 'x${c}'\nc: y\n")
    assert read_yaml(file)["a"] == "xyxy"


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 70 + "]" * 70, '"\\ud800"', b"\xff\xfe", "1" * 5000, ""])
def test_json_that_python_or_a_disk_chokes_on(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_larger_files_than_are_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bounded(tmp_path / "f", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, at most 4 are read"):
        read_bounded(tmp_path / "f", 4)
    assert FREE_BYTES == 2**30


def test_errors_are_one_line_of_printable_text() -> None:
    said = str(ConfigError("a\nb\x1b[31m\ud800" + "x" * 10_000 + "end"))
    assert said.startswith("a b [31m ") and said.endswith("end") and said.isprintable() and len(said) < 2010
    said.encode()


def test_load_of_a_strangers_directory(tmp_path: Path) -> None:
    """Through the command line: exit status 2 and one line; nothing of what the files ask for happens."""
    for name, content in small_run().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tree = json.loads(small_run()["settings.json"])
    tree["model"] = {"type": "model", "module_name": "os.system"}
    (tmp_path / "settings.json").write_text(json.dumps({**tree, "objective": {"name": "supervised"}}))
    result = run_line(f"qsr load {tmp_path} 16", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr and "os.system" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_reader_is_more_than_its_name() -> None:
    assert all(isinstance(reader, Reader) and reader.seeds() for reader in READERS.values())
