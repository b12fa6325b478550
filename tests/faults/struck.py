"""`qsr`, hit by faults that were told beforehand: python -m tests.faults.struck FAULT,FAULT,... words of qsr

    calls:FOLDER              nothing; how many file-system calls there were in FOLDER is the last line of stderr
    kill:FOLDER:N             SIGKILL before the N-th file-system call in FOLDER, from 0 on
    write:FOLDER:N:BYTES      after N calls: death inside the first write that makes a file larger than BYTES
    full:FOLDER:N:BYTES       after N calls: such a write is cut off at BYTES and fails, as all that follow
    memory:MIB                so many MiB of address space beyond what the process has once it has started
    nan:N                     the N-th gradient of an optimizer is not a number
    clock                     a wall clock that jumps by years, forward and back, at each look
    powerless                 permissions hold for root, too
    readonly:FOLDER:N         before the N-th call the folder and all in it become read-only (with powerless)
    remove:FOLDER:N           before the N-th call the folder is removed
    move:FOLDER:N:TO          before the N-th call the folder is renamed

A call is an event of Python's auditing (PEP 578): open, rename, remove, mkdir, rmdir. The process is a real one, and dies or
goes on as it would: only when it is hit is chosen here.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def on_call(folder: str, act: Callable[[int], None]) -> None:
    """Call `act` with the number of every file-system call in the folder, before it is made."""
    counter = count()
    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if event in CALLS and not busy and any(folder in str(found) for found in arguments[:2]):
            busy = True
            try:
                act(next(counter))
            finally:
                busy = False

    sys.addaudithook(hook)


def calls(folder: str) -> None:
    seen = []
    on_call(folder, seen.append)
    atexit.register(lambda: print(len(seen), file=sys.stderr))


def kill(folder: str, number: str) -> None:
    on_call(folder, lambda found: os.kill(os.getpid(), signal.SIGKILL) if found == int(number) else None)


def write(folder: str, number: str, size: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which ends the process inside of the system call
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    full(folder, number, size)


def full(folder: str, number: str, size: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    through_pipes(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))
    on_call(folder, lambda at: resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), hard)) if at == int(number) else None)


def through_pipes(before: Callable[[], None]) -> None:
    """Keep what is said in pipes until the end, if there is one: the files that it goes to are to have no part in the fault."""
    kept = [(stream, os.dup(stream), os.pipe()) for stream in (1, 2)]
    for stream, _, (_, end) in kept:
        os.dup2(end, stream)
        os.close(end)

    def say() -> None:
        before()
        for stream, place, (begin, _) in kept:
            (sys.stdout if stream == 1 else sys.stderr).flush()
            os.dup2(place, stream)  # the last that could write into the pipe
            os.write(place, os.read(begin, 2**16))

    atexit.register(say)


def memory(mebibytes: str) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(mebibytes) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def nan(number: str) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    steps = count()

    def spoil(optimizer: Any, *_: Any) -> None:
        if next(steps) == int(number):
            optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))

    register_optimizer_step_pre_hook(spoil)


def clock() -> None:
    real, turns = time.time, count()
    year = 365 * 86400
    time.time = lambda: real() + year * (next(turns) % 7 - 3)
    time.time_ns = lambda: int(time.time() * 1e9)


def readonly(folder: str, number: str) -> None:
    def protect(found: int) -> None:
        if found == int(number):
            for place in (Path(folder), *Path(folder).rglob("*")):
                place.chmod(0o555 if place.is_dir() else 0o444)

    on_call(folder, protect)


def remove(folder: str, number: str) -> None:
    on_call(folder, lambda found: shutil.rmtree(folder) if found == int(number) else None)


def move(folder: str, number: str, to: str) -> None:
    on_call(folder, lambda found: os.rename(folder, to) if found == int(number) else None)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def powerless() -> None:
    """Without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities 1 and 2); nothing where the user is not root."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (ctypes.c_uint32 * 6)()  # (effective, permitted, inheritable), twice 32 capabilities
    assert libc.capget(ctypes.byref(header), sets) == 0
    sets[0] &= ~0b110
    assert libc.capset(ctypes.byref(header), sets) == 0


def main() -> None:
    from qsr.cli.main import main as qsr

    known = (calls, kill, write, full, memory, nan, clock, powerless, readonly, remove, move)
    for fault in sys.argv[1].split(","):
        name, *arguments = fault.split(":")
        {found.__name__: found for found in known}[name](*arguments)
    qsr(sys.argv[2:])


if __name__ == "__main__":
    main()
