"""`--optimizer name=spring` and `name=minsr`: names, defaults, bounds, and what they are refused with."""

import math
from pathlib import Path
from typing import Any

import pytest

import qsr
from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.run import build_model
from qsr.training import BatchKey, TorchUpdate, update_rule


def settings(name: str = "spring", arguments: dict[str, Any] | None = None) -> RunSettings:
    train = {"L": 4, "K": 8, "dir": "<NONE>"}
    tree = {"model": qsr.RNN(patch=1, Nh=4), "train": train, "optimizer": {"name": name, "kwargs": arguments or {}}}
    return RunSettings.from_tree(tree)


def test_names_and_defaults() -> None:
    run = settings(name="SPRING")
    arguments = run.optimizer.natural_gradient()
    assert run.optimizer.name == "spring" and arguments is not None
    assert (arguments.momentum, arguments.shift, arguments.final_shift, arguments.cap) == (0.9, 1e-2, None, 0.3)
    minsr = settings(name="MinSR", arguments={"cap": None}).optimizer.natural_gradient()
    assert minsr is not None and (minsr.momentum, minsr.shift, minsr.cap) == (0.0, 1e-2, None)
    adam = settings(name="adam")
    assert adam.optimizer.natural_gradient() is None
    assert isinstance(update_rule(build_model(adam), adam), TorchUpdate)
    text = type(run.optimizer).from_text({"name": "spring", "shift": "1e-3", "final_shift": "1e-4", "cap": "none"})
    assert text.kwargs == {"shift": 1e-3, "final_shift": 1e-4, "cap": None}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("spring", {"momentum": 1.0}, r"optimizer\.momentum=1\.0: must be at least 0 and less than 1"),
        ("spring", {"momentum": -0.1}, r"optimizer\.momentum=-0\.1"),
        ("spring", {"shift": 0}, r"optimizer\.shift=0: must be a number greater than 0"),
        ("spring", {"shift": None}, r"optimizer\.shift=None"),
        ("spring", {"shift": "big"}, r"optimizer\.shift=big"),
        ("minsr", {"cap": math.inf}, r"optimizer\.cap=inf"),
        ("minsr", {"final_shift": -1e-3}, r"optimizer\.final_shift=-0\.001"),
        ("minsr", {"momentum": 0.9}, r"optimizer\.momentum: minsr has no such argument"),
        ("spring", {"shfit": 1e-3}, r"optimizer\.shfit: spring has no such argument; did you mean 'shift'"),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(name=name, arguments=arguments)


def test_a_rate_among_the_arguments_is_that_of_the_run() -> None:
    run = settings(name="spring", arguments={"lr": 1e-3, "shift": 1e-2})
    assert run.train.lr == 1e-3 and run.optimizer.kwargs == {"shift": 1e-2}


@pytest.mark.parametrize("name", ["sgrad", "true_grad"])
def test_gradients_of_energies_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.{name}=True: optimizer\.name=minsr"):
        qsr.train(
            qsr.Rydberg(Lx=2, Ly=2),
            qsr.RNN(patch=1),
            {"dir": "<NONE>", name: True},
            optimizer={"name": "minsr"},
        )


def test_transfer_refuses_before_any_work(tmp_path: Path) -> None:
    teacher = qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(patch=1, Nh=4), {"dir": str(tmp_path / "a"), "steps": 0, "K": 4})
    with pytest.raises(ConfigError, match=r"^optimizer\.name=spring: needs the local energies"):
        qsr.transfer(teacher, qsr.RNN(patch=1), {"dir": str(tmp_path / "b")}, optimizer={"name": "spring"})
    assert not (tmp_path / "b").exists()


def test_an_objective_without_energies_is_refused() -> None:
    class Other:
        prepare = batches = loss = summarise = None

    run = settings()
    model = build_model(run)
    with pytest.raises(ConfigError, match=r"^optimizer\.name=spring: .*Other has none"):
        update_rule(model, run).update(model, Other(), [BatchKey(0, 0, 0)])  # type: ignore[arg-type]
