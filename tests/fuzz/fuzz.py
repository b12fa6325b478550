"""A coverage-guided fuzzer of every reader: python tests/fuzz/fuzz.py --seconds 600 --seed 0 [--reader snapshots]

Inputs are mutations of valid files, and of inputs that reached lines of qsr that none had reached before. They are read in forked
processes with a bound on memory and on time. What ends in anything but a value or a ConfigError of one line is a finding: it is
written to tests/fuzz/corpus/READER-HASH, which tests/fuzz/test_corpus.py reads again for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, ROOT, Reader, outcome

CORPUS = Path(__file__).with_name("corpus")
SLOWEST = Path(gettempdir(), "qsr-slowest")  # of each reader the input that took longest
MEMORY = 3 * 2**30  # bytes of address space that a batch may take beyond what the process has
SECONDS = 5  # of computing, for one input
BATCH = 200
Line = tuple[str, int]


class Coverage:
    """Lines of qsr that were reached."""

    def __init__(self) -> None:
        self.seen: set[Line] = set()
        self.fresh: set[Line] = set()

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(f"{ROOT}/qsr/") else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self.fresh.add(place)
        return self._line

    def of(self, reader: Reader, file: Path) -> tuple[str, set[Line]]:
        """The outcome, and the lines that are new."""
        self.fresh = set()
        sys.settrace(self._call)
        try:
            return outcome(reader, file), self.fresh
        finally:
            sys.settrace(None)


def child(reader: Reader, inputs: list[bytes], coverage: Coverage, directory: Path, out: int, seconds: int) -> None:
    """Read the inputs; a line of JSON for each."""
    grown = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (grown, grown))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, signal.SIG_DFL)  # ends the process, also inside a C library
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    file = reader.lay_out(directory)
    for number, data in enumerate(inputs):
        file.write_bytes(data)
        # Following every line takes most of the time of readers that build networks: every fourth input of theirs is followed.
        traced = number % (4 if reader.heavy else 1) == 0
        # Seconds of computing, which a busy machine does not lengthen; and, for what waits for ever, many more by the clock.
        limit = seconds * (1 if not reader.heavy else 8 if traced else 2)
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.alarm(10 * limit)
        began = time.process_time()
        result: dict[str, Any] = {"number": number}
        try:
            result["outcome"], fresh = coverage.of(reader, file) if traced else (outcome(reader, file), set())
            result["fresh"] = sorted(fresh)
        except BaseException as error:
            said = traceback.extract_tb(error.__traceback__)[-1]
            result["finding"] = f"{type(error).__name__}: {ascii(str(error))[:200]} at {said.filename}:{said.lineno}"
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        result["seconds"] = 0.0 if traced and reader.heavy else time.process_time() - began
        os.write(out, (json.dumps(result) + "\n").encode())
    os._exit(0)


@cache
def warm(reader: Reader) -> None:
    """Read a valid file here, so that the processes need not import what readers import when they are called."""
    with TemporaryDirectory() as folder:
        file = reader.lay_out(Path(folder))
        file.write_bytes(reader.seeds()[0])
        outcome(reader, file)


def run_batch(reader: Reader, inputs: list[bytes], coverage: Coverage, seconds: int = SECONDS) -> list[dict[str, Any]]:
    """What became of each input, in their order; a process that dies takes one input with it."""
    warm(reader)
    results: list[dict[str, Any]] = []
    while len(results) < len(inputs):
        rest = inputs[len(results) :]
        with TemporaryDirectory() as folder:
            read_end, write_end = os.pipe()
            process = os.fork()
            if process == 0:
                os.close(read_end)
                try:
                    child(reader, rest, coverage, Path(folder), write_end, seconds)
                finally:
                    os._exit(1)
            os.close(write_end)
            with os.fdopen(read_end) as lines:
                found = [json.loads(line) for line in lines if line.endswith("\n")]
            _, status = os.waitpid(process, 0)
        results += found
        if len(found) < len(rest):
            died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
            results.append({"finding": f"process ended: {died}"})
    return results


def fuzz(name: str, seconds: float, seed: int, known: set[str]) -> dict[str, Any]:
    """Fuzz one reader; what was found, by what was raised and where."""
    reader = READERS[name]
    generator = random.Random(f"{seed} {name}")
    pool = list(reader.seeds())
    coverage = Coverage()
    counts = {"inputs": 0, "read": 0, "refused": 0, "kept": 0, "findings": 0}
    slowest = 0.0
    until = time.monotonic() + seconds
    pending = list(pool)
    while time.monotonic() < until:
        inputs = pending + [mutated(reader.kind, pool, generator) for _ in range(BATCH // (4 if reader.heavy else 1))]
        pending = []
        for data, result in zip(inputs, run_batch(reader, inputs, coverage), strict=True):
            counts["inputs"] += 1
            if "finding" in result:
                counts["findings"] += 1
                key = f"{name}: {result['finding'].partition(': ')[0]} {result['finding'].rpartition(' at ')[2]}"
                if key not in known:
                    known.add(key)
                    CORPUS.mkdir(exist_ok=True)
                    (CORPUS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
                    print(f"FINDING {name}: {result['finding']}", flush=True)
                continue
            counts[result["outcome"]] += 1
            if result["seconds"] > slowest:
                slowest = result["seconds"]
                SLOWEST.mkdir(exist_ok=True)
                (SLOWEST / name).write_bytes(data)
            new = {(place[0], place[1]) for place in result["fresh"]} - coverage.seen
            if new:
                coverage.seen |= new
                counts["kept"] += 1
                pool.append(data)
    return {**counts, "lines": len(coverage.seen), "slowest": f"{slowest:.1f} s"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=sorted(READERS), action="append", help="one of them (may be repeated); default: all")
    options = parser.parse_args()
    names = options.reader or list(READERS)
    known: set[str] = set()
    total = 0
    for name in names:
        found = fuzz(name, options.seconds / len(names), options.seed, known)
        total += found["inputs"]
        print(f"{name:18}" + "  ".join(f"{word} {count}" for word, count in found.items()), flush=True)
    print(f"{total} inputs, {len(known)} findings")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
