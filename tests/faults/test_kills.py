"""SIGKILL before any file-system call of a run, and inside any write: the run loads, and goes on bit for bit."""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.cases import CASES, finish, struck, undisturbed

PARTS = 8  # of the exhaustive test


def kill_before(name: str, call: int, folder: Path, again: int | None = None) -> int:
    """Kill a run before a call, the attempt to go on before another one, and finish; how many kills there were."""
    folder.mkdir()
    result = struck(f"kill:{folder}:{call}", *CASES[name].command(folder))
    assert result.returncode == -signal.SIGKILL, f"call {call}: {result.stderr}"
    return 1 + finish(name, folder, None if again is None else f"kill:{folder}:{again}")


@pytest.mark.parametrize("name", CASES)
def test_killed_before_some_calls(name: str, tmp_path: Path) -> None:
    calls = undisturbed(name)[1]
    draws = random.Random(0)
    for call in draws.sample(range(calls), 3):
        kill_before(name, call, tmp_path / str(call), draws.randrange(60))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", CASES)
def test_killed_before_every_call(name: str, part: int, tmp_path: Path) -> None:
    """Every second one is killed again where it goes on."""
    calls = undisturbed(name)[1]
    assert calls > 80
    draws = random.Random(part)
    kills = 0
    for call in range(part, calls, PARTS):
        kills += kill_before(name, call, tmp_path / str(call), draws.randrange(60) if call % 2 else None)
    assert kills >= len(range(part, calls, PARTS))
    print(f"{name}: {kills} kills")


def killed_inside(name: str, draws: random.Random, folder: Path) -> bool:
    """Let the run die in the first write, after a call that is drawn, that makes a file larger than a size that is drawn."""
    folder.mkdir()
    size = draws.choice([0, draws.randrange(1, 400), draws.randrange(400, 20000)])
    call = draws.randrange(undisturbed(name)[1])
    result = struck(f"write:{folder}:{call}:{size}", *CASES[name].command(folder))
    assert result.returncode in (0, 1, -signal.SIGXFSZ), result.stderr
    finish(name, folder)
    return result.returncode == -signal.SIGXFSZ


@pytest.mark.parametrize("name", CASES)
def test_killed_inside_some_writes(name: str, tmp_path: Path) -> None:
    draws = random.Random(1)
    assert any([killed_inside(name, draws, tmp_path / str(index)) for index in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("name", CASES)
def test_killed_inside_many_writes(name: str, seed: int, tmp_path: Path) -> None:
    draws = random.Random(seed)
    kills = sum(killed_inside(name, draws, tmp_path / str(index)) for index in range(10))
    assert kills >= 3, "too little happened to show anything"
    print(f"{name}: {kills} kills")
