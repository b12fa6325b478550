"""`train.deterministic`, and what repeats bit for bit without it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qsr
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory
from qsr.training import Callback, RunFailed, Trainer
from qsr.training.determinism import WORKSPACE_VARIABLE, deterministic_operations, prepare_determinism
from tests.commands import ROOT, run_qsr
from tests.training.lines import Line, points

TINY = {"K": 32, "steps": 3, "seed": 2, "device": "cpu"}


class Put(Line):
    """As Line, by an operation that has no deterministic version."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            copied = torch.zeros_like(x).put_(torch.arange(x.numel()), x.flatten())
        return super().forward(copied)


class Seen(Callback):
    """Notes the switches of torch in every step."""

    def __init__(self) -> None:
        self.switches: list[tuple[bool, ...]] = []

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.switches.append(switches())


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def weights(path: Path | None) -> dict[str, Tensor]:
    assert path is not None
    return RunDirectory(path).read_weights()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_has_the_switches_on_and_gives_the_same_on_a_cpu(tmp_path: Path) -> None:
    runs = []
    for wanted in (False, True):
        seen = Seen()
        train = {**TINY, "dir": str(tmp_path), "deterministic": wanted}
        runs.append(qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(patch=1, Nh=4), train, callbacks=[seen]))
        assert seen.switches == [(True, True, False) if wanted else switches()] * 3
    assert same(weights(runs[0].path), weights(runs[1].path))


def test_the_switches_come_back() -> None:
    cudnn = torch.backends.cudnn
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = True
    try:
        with pytest.raises(KeyError), deterministic_operations(True):
            assert switches() == (True, True, False) and not torch.is_deterministic_algorithms_warn_only_enabled()
            raise KeyError
        assert switches() == (True, False, True) and torch.is_deterministic_algorithms_warn_only_enabled()
        with deterministic_operations(False):
            assert switches() == (True, False, True)
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = False


def test_other_errors_come_through_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="mine") as error, deterministic_operations(True):
        raise RuntimeError("mine")
    assert not isinstance(error.value, RunFailed)


def test_an_operation_without_a_deterministic_version_ends_the_run_in_one_line(tmp_path: Path) -> None:
    model = "--model module_name=tests.training.test_determinism.Put --data module_name=tests.training.lines.Points"
    words = f"train {model} --allow-import tests --train max_epochs=1 dir={tmp_path}"
    assert run_qsr(*words.split(), cwd=ROOT).returncode == 0
    done = run_qsr(*words.split(), "deterministic=True", cwd=ROOT)
    line = "train.deterministic=True: torch has no deterministic put_ here; train without the setting or this operation"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"Error: {line}" and "Traceback" not in done.stderr
    with pytest.raises(RunFailed, match="no deterministic put_"):
        train = {"max_epochs": 1, "dir": str(tmp_path), "deterministic": True}
        qsr.fit({"type": "model", "module_name": "tests.training.test_determinism.Put"}, points(), train)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_workspace_of_cuda_is_set_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    monkeypatch.delenv(WORKSPACE_VARIABLE, raising=False)
    prepare_determinism(True, cpu)
    prepare_determinism(False, cuda)
    assert WORKSPACE_VARIABLE not in os.environ
    monkeypatch.setenv(WORKSPACE_VARIABLE, ":8:1")
    with pytest.raises(ConfigError) as error:
        prepare_determinism(True, cuda)
    expected = f"export {WORKSPACE_VARIABLE}=:4096:8 before qsr is started"
    assert str(error.value) == f"train.deterministic=True: found {WORKSPACE_VARIABLE}=:8:1; {expected}"
    monkeypatch.setenv(WORKSPACE_VARIABLE, ":16:8")
    prepare_determinism(True, cuda)
    assert os.environ[WORKSPACE_VARIABLE] == ":16:8"


def test_the_workspace_of_cuda_where_nothing_has_used_it() -> None:
    code = (
        "import os, torch; from qsr.training.determinism import prepare_determinism;"
        "prepare_determinism(True, torch.device('cuda')); print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    env = {name: value for name, value in os.environ.items() if name != WORKSPACE_VARIABLE}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout == ":4096:8\n"


INDEX = torch.randint(0, 7, (200_000,), generator=torch.Generator().manual_seed(0))
VALUES = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
GRID = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "operation",
    [
        lambda: torch.zeros(7).index_add(0, INDEX, VALUES),
        lambda: torch.zeros(7).scatter_add(0, INDEX, VALUES),
        lambda: torch.zeros(7).scatter_reduce(0, INDEX, VALUES, "mean"),
        lambda: torch.zeros(7, 4).index_add(0, INDEX[:50_000], VALUES.view(-1, 4)),
        lambda: VALUES.sum() + VALUES.view(400, 500).softmax(dim=1).var(),
        lambda: VALUES.view(400, 500) @ VALUES.view(500, 400),
        lambda: torch.nn.functional.interpolate(GRID, scale_factor=2, mode="bilinear"),
    ],
)
def test_sums_on_a_cpu_repeat_with_as_many_threads(threads: int, operation: Callable[[], Tensor]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, *others = (operation() for _ in range(3))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, other) for other in others)


def test_sums_at_equal_indices_repeat_with_the_setting() -> None:
    """Without it two threads give about ten sums in twenty tries."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with deterministic_operations(True):
            sums = [torch.zeros(7).index_put((INDEX,), VALUES, accumulate=True) for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sums[0], other) for other in sums)


TABLE = "demos/observables.csv targets=delta input_features=density,staggered"
CASES = {
    "ptf": "--ptf patch=2x2 Nh=16 nhead=2 --rydberg Lx=4 Ly=4 --optimizer name=spring --train K=256 steps=5",
    "rnn": "--rnn patch=2x2 Nh=32 --rydberg Lx=6 Ly=6 --train K=128 steps=5",
    "table": f"--hsm hilbert_space_dims=8 --data {ROOT}/{TABLE} --train max_epochs=2",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_runs_on_a_cpu_repeat_with_as_many_threads(case: str, tmp_path: Path) -> None:
    for threads in ("1", "2"):
        found = []
        for repeat in range(3):
            folder = tmp_path / f"{threads}-{repeat}"
            words = [sys.executable, "-m", "qsr", "train", *CASES[case].split(), f"dir={folder}", "seed=1"]
            subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": threads}, check=True, capture_output=True)
            [settings] = folder.rglob("settings.json")
            assert json.loads(settings.read_text())["versions"]["threads"] == int(threads)
            found.append(weights(settings.parent))
        assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("kind", ["sampler", "model on data"])
def test_a_resumed_run_says_that_the_number_of_threads_has_changed(kind: str, tmp_path: Path) -> None:
    path, data = started(kind, tmp_path), None if kind == "sampler" else points()
    file = path / "settings.json"
    settings: dict[str, Any] = json.loads(file.read_text())
    now = torch.get_num_threads()
    assert settings["versions"]["threads"] == now
    qsr.resume(path, data=data)
    log = path / "output.txt"
    assert "bit for bit" not in log.read_text()
    settings["versions"] |= {"threads": now + 1, "torch": "1.0"}
    file.write_text(json.dumps(settings))
    qsr.resume(path, data=data)
    changes = f"torch={torch.__version__} (before: '1.0'), threads={now} (before: {now + 1})"
    assert f"{changes}: the rest is not bit for bit what it would have been\n" in log.read_text()


def started(kind: str, folder: Path) -> Path:
    if kind == "sampler":
        run = qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(patch=1, Nh=4), {**TINY, "dir": str(folder)})
    else:
        train = {"max_epochs": 1, "dir": str(folder)}
        run = qsr.fit({"type": "model", "module_name": "tests.training.lines.Line"}, points(), train)
    assert run.path is not None
    return run.path
