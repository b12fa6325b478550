"""Devices: the setting, its refusal, runs that travel between machines, and no tensor or synchronisation in a wrong place."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_cases import CASES, build
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

import qsr
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model
from qsr.training import BatchKey, TeacherLikelihood, VariationalEnergy, update_rule
from qsr.training.device import find_device

PACKAGE = Path(qsr.__file__).parent
TINY = {"L": 16, "K": 16, "steps": 2}
WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens on a machine without CUDA")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_devices_of_a_machine_with_two_gpus(two_gpus: None) -> None:
    found = {wish: str(find_device(wish)) for wish in ("auto", "cpu", "cuda", "cuda:1")}
    assert found == {"auto": "cuda:0", "cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    with pytest.raises(qsr.ConfigError, match=r"^train\.device=cuda:2: this machine has cuda:0, cuda:1; expected auto, cpu"):
        find_device("cuda:2")


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
    for name, value in {**started, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert {wish: str(find_device(wish)) for wish in ("auto", "cpu", "cuda")} == {
        "auto": "cuda:1",
        "cpu": "cpu",
        "cuda": "cuda:1",
    }
    with pytest.raises(qsr.ConfigError, match=r"^train\.device=cuda:1: each of the 2 processes .* or auto or cuda$"):
        find_device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(qsr.ConfigError, match=r"^train\.device=auto: .* there are 2; expected cpu, or at most 2 processes$"):
        find_device("auto")


@WITHOUT_CUDA
def test_a_missing_device_is_refused_before_any_work(tmp_path: Path) -> None:
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(qsr.ConfigError, match=r"^train\.device=cuda: this machine has no CUDA device .*; expected auto or cpu"):
        qsr.train(None, qsr.PTF(patch="2x2"), {**TINY, "device": "cuda", "dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())
    with pytest.raises(qsr.ConfigError, match=r"^device=tpu: must be auto, cpu, cuda or cuda:N"):
        find_device("tpu", "device")


@WITHOUT_CUDA
def test_a_run_of_another_machine_is_read_but_not_resumed(tmp_path: Path) -> None:
    run = qsr.train(None, qsr.RNN(patch=1, Nh=4), {**TINY, "dir": str(tmp_path)})
    assert run.path is not None
    file = run.path / "settings.json"
    settings = json.loads(file.read_text())
    assert settings["train"]["device"] == "auto"
    expected = qsr.evaluate(run.path, 16, 16).energy.mean
    settings["train"]["device"] = "cuda:1"
    file.write_text(json.dumps(settings))
    shutil.rmtree(run.path / "checkpoint" / "2")
    assert qsr.load_model(run.path, device="cpu").device == torch.device("cpu")
    assert qsr.evaluate(run.path, 16, 16).energy.mean == expected
    with pytest.raises(qsr.ConfigError, match=r"train\.device=cuda:1: this machine has no CUDA device"):
        qsr.resume(run.path)
    with pytest.raises(qsr.ConfigError, match=r"^device=cuda: this machine"):
        qsr.evaluate(run.path, 16, 16, device="cuda")


class NoWaiting(TorchDispatchMode):
    """Fails where a GPU would have to be waited for: a tensor's value in Python, or a shape that depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        boolean = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        copied = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if boolean or copied or name.startswith(self.WAITS):
            raise AssertionError(f"a GPU would be waited for in {func.name()}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_sampling_does_not_wait_and_makes_nothing_elsewhere(name: str) -> None:
    sampler = build(name)
    expected, _ = sampler.sample(3, torch.Generator().manual_seed(1))
    with NoWaiting():
        configs, _ = sampler.sample(3, torch.Generator().manual_seed(1))
    assert torch.equal(configs, expected)
    # A tensor without a value: Python cannot ask for one, and it does not mix with those of another device.
    configs, log_prob = sampler.to("meta").sample(3)
    assert configs.is_meta and log_prob.is_meta


def test_waiting_would_be_seen() -> None:
    x = torch.ones(3)
    for wait in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 0], lambda: torch.nonzero(x)):
        with pytest.raises(AssertionError, match="waited for"), NoWaiting():
            wait()


class SaysWhere(TorchFunctionMode):
    """Fails where the package makes a tensor without saying on which device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = sys._getframe(1).f_code.co_filename  # torch's own optimizers keep numbers on the CPU on purpose
        if func in _device_constructors() and (kwargs or {}).get("device") is None and Path(caller).is_relative_to(PACKAGE):
            raise AssertionError(f"{func.__name__} in {caller}:{sys._getframe(1).f_lineno} does not say where")
        return func(*args, **(kwargs or {}))


def test_a_missing_device_would_be_seen() -> None:
    with pytest.raises(AssertionError, match=r"tensor in .* does not say where"), SaysWhere():
        exec(compile("import torch; torch.tensor([1.0])", str(PACKAGE / "made_up.py"), "exec"))


@pytest.mark.parametrize("rule", ["Adam", "spring"])
@pytest.mark.parametrize("flips", ["exact", 2, "auto"])
@pytest.mark.parametrize(
    "model",
    [
        qsr.PTF(patch="2x2", Nh=8),
        qsr.PTF(patch="2x2", Nh=8, num_layers=2, positions="sinusoidal", token="linear"),
        qsr.RNN(patch="1x2", Nh=8),
        qsr.LPTF(patch="2x2", Nh=8, subsampler=qsr.RNN(patch=1)),
    ],
    ids=["ptf", "ptf-original", "rnn", "lptf"],
)
def test_every_tensor_of_a_step_is_made_where_the_model_is(model: Any, flips: str | int, rule: str) -> None:
    for problem in (qsr.Rydberg(Lx=4, Ly=4), qsr.Heisenberg(Lx=4, Ly=4)):
        train = {"K": 8, "flips": flips, "dir": "<NONE>", "device": "cpu"}
        tree = {"model": model, "hamiltonian": problem, "train": train, "optimizer": {"name": rule}}
        settings = RunSettings.from_tree(tree)
        sampler, hamiltonian = build_model(settings), settings.hamiltonian.build()
        with SaysWhere():
            objective = VariationalEnergy(hamiltonian, settings.train)
            metrics = update_rule(sampler, settings).update(sampler, objective, [BatchKey(0, 0, 0)])
        assert metrics["samples"] == 8
    teacher = build_model(settings)
    with SaysWhere():
        teaching = TeacherLikelihood(teacher, settings.train)
        batches, _ = teaching.prepare(sampler, [BatchKey(0, 0, 0)])
        teaching.loss(sampler, batches[0])[0].backward()
