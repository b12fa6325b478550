"""The history: every acknowledged row once, in order, whatever happens between and inside the writes."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from qsr.hparams import ConfigError
from qsr.runs import History, same_history

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def history(tmp_path: Path):
    opened = History(tmp_path, units={"energy": "Omega"})
    yield opened
    opened.close()


def append_steps(history: History, first: int, last: int) -> None:
    for step in range(first, last):
        history.append("steps", {"step": step, "energy": -step / 3})


def steps_of(directory: Path) -> list[int]:
    return History(directory).read("steps")["step"].tolist()


def test_rows_come_back_before_and_after_flush(history: History, tmp_path: Path) -> None:
    append_steps(history, 1, 4)
    history.append("epochs", {"epoch": 0, "loss": float("inf")})
    for _ in range(2):
        found = History(tmp_path).read("steps")
        assert found["step"].dtype == np.int64 and found["energy"].dtype == np.float64
        assert found["step"].tolist() == [1, 2, 3]
        assert found["energy"].tolist() == [-1 / 3, -2 / 3, -1.0]  # every bit of them
        assert History(tmp_path).read("epochs")["loss"].tolist() == [float("inf")]
        assert History(tmp_path).length("steps") == history.length("steps") == 3
        assert History(tmp_path).length("epochs") == history.length("epochs") == 1
        history.flush()
    assert not (tmp_path / "history.journal").exists()


def test_nothing_recorded(history: History, tmp_path: Path) -> None:
    history.flush()
    assert history.read("steps") == {} and history.length("epochs") == 0
    assert list(tmp_path.iterdir()) == []


def test_file_layout_and_units(history: History, tmp_path: Path) -> None:
    history.append("steps", {"step": 1, "energy": -1.0, "b": 2.0, "a": 3.0})
    history.flush()
    history.close()
    continued = History(tmp_path, units={"a": "s"})  # does not know the unit of the energy
    continued.append("steps", {"step": 2, "energy": -2.0})
    continued.flush()
    with h5py.File(tmp_path / "history.h5", "r") as file:
        assert list(file["steps"]) == ["step", "energy", "b", "a"]
        assert {name: column.attrs["unit"] for name, column in file["steps"].items()} == {
            "step": "",
            "energy": "Omega",
            "b": "",
            "a": "s",
        }


def test_new_columns_are_nan_where_no_row_gave_them(history: History) -> None:
    history.append("steps", {"step": 1, "energy": -1.0})
    history.append("steps", {"step": 2, "norm": 5.0})
    history.flush()
    history.append("steps", {"step": 3, "late": 7.0})
    found = history.read("steps")
    assert list(found) == ["step", "energy", "norm", "late"]
    np.testing.assert_equal(found["energy"], [-1.0, np.nan, np.nan])
    np.testing.assert_equal(found["norm"], [np.nan, 5.0, np.nan])
    np.testing.assert_equal(found["late"], [np.nan, np.nan, 7.0])


def test_wrong_rows_are_refused(history: History) -> None:
    for group, row in (("batches", {"step": 1}), ("steps", {"energy": 1.0}), ("steps", {"step": 1, "val/loss": 1.0})):
        with pytest.raises(ValueError, match=r"no group|needs a 'step'"):
            history.append(group, row)
    with pytest.raises(ValueError, match="no group"):
        history.read("batches")


@pytest.mark.parametrize("flushed", [0, 3, 6])
def test_truncate(history: History, tmp_path: Path, flushed: int) -> None:
    append_steps(history, 0, flushed)
    history.flush()
    append_steps(history, flushed, 6)
    history.append("epochs", {"epoch": 0})
    history.truncate({"steps": 4, "epochs": 1})
    assert steps_of(tmp_path) == [0, 1, 2, 3] and history.length("epochs") == 1
    append_steps(history, 4, 5)
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4] and history.length("steps") == 5
    with pytest.raises(ConfigError, match=r"history.h5: 5 rows of 'steps', expected at least the 9"):
        history.truncate({"steps": 9})
    history.truncate({"steps": 0, "epochs": 0})
    assert steps_of(tmp_path) == [] and history.length("epochs") == 0


@pytest.mark.parametrize(
    "torn", [b"", b"0", b"00000000 [", b'00000000 ["steps",{"step":9}]', b'00000000 ["steps",{"step":9}]\n', b"\0" * 40]
)
def test_torn_last_line(history: History, tmp_path: Path, torn: bytes) -> None:
    append_steps(history, 0, 3)
    history.close()
    with open(tmp_path / "history.journal", "ab") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [0, 1, 2]
    append_steps(history, 3, 5)
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]
    history.flush()
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(0, 20, 3))
def test_torn_first_line(history: History, tmp_path: Path, cut: int) -> None:
    append_steps(history, 0, 2)
    history.flush()
    append_steps(history, 2, 3)
    history.close()
    journal = tmp_path / "history.journal"
    journal.write_bytes(journal.read_bytes()[:cut])  # the header was never finished: no row was acknowledged after it
    assert steps_of(tmp_path) == [0, 1]
    append_steps(history, 2, 4)
    assert steps_of(tmp_path) == [0, 1, 2, 3]


def test_rows_after_a_damaged_one_are_left_out_unless_a_checkpoint_has_them(
    history: History, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append_steps(history, 0, 5)
    history.close()
    journal = tmp_path / "history.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"step":2', b'"step":7')
    journal.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING, logger="qsr"):
        assert steps_of(tmp_path) == [0, 1]
    assert re.search(r"history.journal: damaged at byte \d+; rows from there on are left out", caplog.text)
    with pytest.raises(ConfigError, match=r"2 rows of 'steps', expected at least the 3 of the checkpoint"):
        history.truncate({"steps": 3})
    assert journal.read_bytes() == b"".join(lines), "nothing is thrown away that somebody may want to mend"
    history.truncate({"steps": 1})
    append_steps(history, 1, 3)
    assert steps_of(tmp_path) == [0, 1, 2]


def test_damaged_or_missing_file_is_an_error(history: History, tmp_path: Path) -> None:
    append_steps(history, 0, 50)
    history.flush()
    append_steps(history, 50, 51)
    file = tmp_path / "history.h5"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"text", b""):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"history.h5: damaged"):
            history.read("steps")
    file.unlink()
    with pytest.raises(ConfigError, match=r"history.h5: missing or older"):
        history.read("steps")
    with h5py.File(file, "w"):
        pass
    with pytest.raises(ConfigError, match="not a history"):
        history.read("steps")


class Crash(Exception):
    """Stands for a kill at one instant: the object is thrown away, the files stay."""


@pytest.mark.parametrize("stop_at", ["rename", "unlink", "journal"])
@pytest.mark.parametrize("operation", ["flush", "truncate"])
def test_a_crash_between_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str, operation: str) -> None:
    history = History(tmp_path)
    append_steps(history, 0, 3)
    history.flush()
    append_steps(history, 3, 6)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    if stop_at == "rename":
        monkeypatch.setattr(os, "replace", crash)
    elif stop_at == "unlink":
        unlink = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda path, **rest: crash() if "journal" in path.name else unlink(path, **rest))
    else:
        monkeypatch.setattr(history, "_open_journal", crash)
    with pytest.raises(Crash):
        history.flush() if operation == "flush" else history.truncate({"steps": 4})
        append_steps(history, 6, 7)
    history.close()
    monkeypatch.undo()

    left = 4 if operation == "truncate" and stop_at != "rename" else 6
    assert steps_of(tmp_path) == list(range(left))
    after = History(tmp_path)
    append_steps(after, left, left + 2)
    assert steps_of(tmp_path) == list(range(left + 2))
    after.flush()
    assert steps_of(tmp_path) == list(range(left + 2))
    after.close()


def test_a_journal_that_was_merged_before_a_crash_is_removed(history: History, tmp_path: Path) -> None:
    append_steps(history, 0, 3)
    journal = (tmp_path / "history.journal").read_bytes()
    history.merge()
    (tmp_path / "history.journal").write_bytes(journal)  # as if it had not come to be removed
    History(tmp_path).merge()
    assert not (tmp_path / "history.journal").exists() and steps_of(tmp_path) == [0, 1, 2]


def test_a_full_disk_loses_only_the_row_it_reports(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    for rows in (0, 3):  # also when the first line of the journal does not fit
        append_steps(history, 0, rows)
        history.flush()
        with monkeypatch.context() as patched:

            class Full(io.FileIO):
                def write(self, line: bytes) -> int:
                    return super().write(line[: len(line) // 2])

            patched.setattr(io, "FileIO", Full)
            with pytest.raises(OSError, match="no space left"):
                append_steps(history, rows, rows + 1)
        append_steps(history, rows, rows + 2)
        assert steps_of(tmp_path) == list(range(rows + 2))
        history.truncate({"steps": 0})


KILLED_WRITER = """
import os, random, signal, struct, sys, time
from pathlib import Path
from qsr.runs import History

directory, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
ack = os.open(directory / "acknowledged", os.O_RDWR | os.O_CREAT)
os.pwrite(ack, struct.pack("q", 0), 0)

def acknowledged():
    return struct.unpack("q", os.pread(ack, 8, 0))[0]

def write():
    history = History(directory)
    step = history.length("steps")
    while True:
        history.append("steps", {"step": step, "energy": -step / 3, **({"rare": step} if step % 5 == 0 else {})})
        step += 1
        os.pwrite(ack, struct.pack("q", step), 0)
        if step % 17 == 0:
            history.append("epochs", {"epoch": step // 17 - 1})
        if rng.random() < 0.1:
            history.flush()

def check():
    before = acknowledged()
    found = History(directory).read("steps")
    steps = found["step"].tolist() if found else []
    assert steps == list(range(len(steps))), steps
    assert len(steps) >= before, (len(steps), before)
    assert not found or found["energy"].tolist() == [-step / 3 for step in steps]
    return len(steps)

reads = 0
for _ in range(25):
    child = os.fork()
    if child == 0:
        write()
    deadline = time.monotonic() + rng.uniform(0.005, 0.08)
    while time.monotonic() < deadline:
        check()  # beside the writer
        reads += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert check() <= acknowledged() + 1
print(reads, check())
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_kill_minus_nine_at_any_instant(tmp_path: Path, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reads, rows = map(int, done.stdout.split())
    assert reads > 20 and rows > 100, "too little happened between the kills to show anything"
    epochs = History(tmp_path).read("epochs")["epoch"]
    assert (np.diff(epochs) > 0).all()  # a kill may fall between a step and its epoch, which no one acknowledged


def test_same_history(tmp_path: Path) -> None:
    made = []
    for name, energy, seconds, flush in (("a", np.nan, 1.0, True), ("b", np.nan, 2.0, False), ("c", -1.0, 1.0, False)):
        (tmp_path / name).mkdir()
        history = History(tmp_path / name)
        history.append("steps", {"step": 1, "energy": energy, "seconds": seconds})
        if flush:
            history.flush()
        history.close()
        made.append(history)
    first, second, third = made
    assert same_history(first, second)
    assert not same_history(first, second, ignore=())
    assert not same_history(first, third)
    third.append("epochs", {"epoch": 0})
    second.append("steps", {"step": 2})
    assert not same_history(first, second) and not same_history(first, third, ignore=("seconds", "energy"))
    for history in made:
        history.close()


def test_long_histories_are_rewritten_seldom(history: History, tmp_path: Path) -> None:
    """A checkpoint every ten steps: each merge makes the file at least a sixteenth longer, so that there are O(log n) of them."""
    rows = 0
    for _ in range(1000):
        append_steps(history, rows, rows + 10)
        history.flush()
        rows += 10
    with h5py.File(tmp_path / "history.h5") as file:
        merges = int(file.attrs["generation"])
        merged = len(file["steps/step"])
    assert merges < 16 + np.log(rows / 160) / np.log(16 / 15) + 1
    assert rows - merged <= rows / 16
    assert history.length("steps") == rows and steps_of(tmp_path) == list(range(rows))
    history.merge()
    assert not (tmp_path / "history.journal").exists() and steps_of(tmp_path) == list(range(rows))
