"""Files that once ended in a traceback, a hang or a crash are read again for ever."""

from pathlib import Path

import pytest

from tests.fuzz.fuzz import CORPUS, Coverage, run_batch
from tests.fuzz.readers import READERS

BY_READER = {name: sorted(CORPUS.glob(f"{name}-*")) for name in READERS}


def test_every_file_of_the_corpus_belongs_to_a_reader() -> None:
    known = {file for files in BY_READER.values() for file in files}
    assert known == set(CORPUS.iterdir()) and len(known) > 50


@pytest.mark.parametrize("name", [name for name, files in BY_READER.items() if files])
def test_what_was_found_stays_fixed(name: str) -> None:
    inputs = [file.read_bytes() for file in BY_READER[name]]
    results = run_batch(READERS[name], inputs, Coverage())  # in a process of its own, with bounds on memory and time
    found = [(file.name, result["finding"]) for file, result in zip(BY_READER[name], results, strict=True) if "finding" in result]
    assert not found


def test_the_fuzzer_sees_tracebacks_hangs_crashes_and_memory(tmp_path: Path) -> None:
    """A reader with one of each: the harness itself must be able to fail."""
    import os
    import time

    from tests.fuzz.readers import Reader

    def read(file: Path) -> None:
        word = file.read_text()
        if word == "traceback":
            raise KeyError("x")
        if word == "hang":
            time.sleep(60)
        if word == "crash":
            os.abort()
        if word == "memory":
            bytearray(2**40)

    words = ["fine", "traceback", "crash", "memory", "hang", "fine"]
    reader = Reader("x", "bytes", read, lambda: [b"fine"])
    results = run_batch(reader, [word.encode() for word in words], Coverage(), seconds=1)
    said = [result.get("finding", result.get("outcome")).partition(":")[0] for result in results]
    assert said == ["read", "KeyError", "process ended", "MemoryError", "process ended", "read"]
