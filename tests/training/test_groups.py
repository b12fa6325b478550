"""Optimizers of models on data: groups of parameters, and one that evaluates the loss several times a step."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qsr
from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, same_history
from qsr.training import OptimizerHparams, Stage, TorchUpdate
from qsr.training.protocols import BatchKey
from tests.training.lines import CopyAt, Line, points
from tests.training.test_fit import fit


def update_of(optimizer: dict[str, Any], scheduler: dict[str, Any] | None = None) -> TorchUpdate:
    model = Line({})
    tree = {"model": {"type": "model", "module_name": "tests.training.lines.Line"}, "train": {"lr": 0.5}}
    settings = RunSettings.from_tree({**tree, "optimizer": optimizer, **({"scheduler": scheduler} if scheduler else {})})
    return TorchUpdate(model, settings, Stage(0, 100))


def group(part: str, **params: Any) -> dict[str, Any]:
    return {"param_name_contains": [part], "params": params}


def test_a_group_has_the_arguments_of_the_section_where_it_says_nothing_else() -> None:
    update = update_of({"name": "AdamW", "kwargs": {"weight_decay": 0.1}, "groups": [group("bias", lr=1e-3)]})
    bias, rest = update.optimizer.param_groups
    assert (bias["lr"], bias["weight_decay"], len(bias["params"])) == (1e-3, 0.1, 1)
    assert (rest["lr"], rest["weight_decay"], len(rest["params"])) == (0.5, 0.1, 1)


def test_the_first_group_that_fits_a_parameter_has_it() -> None:
    groups = [group("layer.weight", lr=1.0), group("layer", lr=2.0), group("nothing", lr=3.0)]
    update = update_of({"name": "SGD", "groups": groups})
    assert [(part["lr"], [p.dim() for p in part["params"]]) for part in update.optimizer.param_groups] == [(1.0, [2]), (2.0, [1])]


def test_a_group_that_nothing_fits_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qsr"):
        update_of({"name": "SGD", "groups": [group("nothing", lr=3.0)]})
    assert "no parameter left with nothing in its name; there are layer.weight, layer.bias" in caplog.text


def test_the_peak_of_a_one_cycle_is_that_of_each_group() -> None:
    update = update_of({"name": "SGD", "groups": [group("bias", lr=0.1)]}, {"name": "OneCycleLR", "kwargs": {"pct_start": 0.5}})
    peaks = [0.0, 0.0]
    for _ in range(99):
        update.step()
        rates = [part["lr"] for part in update.optimizer.param_groups]
        peaks = [max(pair) for pair in zip(peaks, rates, strict=True)]
    assert peaks == pytest.approx([0.1, 0.5], rel=1e-2)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"groups": [group("bias", momentun=1)], "name": "SGD"}, "SGD has no argument momentun; did you mean 'momentum'"),
        ({"groups": [group("", lr=1)]}, "no part may be empty"),
        ({"groups": [{"param_name_contains": [], "params": {}}]}, "param_name_contains"),
        ({"groups": [group("bias", lr=1.0)], "name": "LBFGS"}, "LBFGS takes all parameters in one group"),
        ({"name": "Muon"}, "is for matrices only"),
        ({"name": "SparseAdam"}, "is for sparse gradients"),
    ],
)
def test_groups_that_cannot_be_are_refused(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerHparams(**optimizer)


def test_samplers_have_no_groups() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups: are for models on data"):
        RunSettings.from_tree({"model": {"type": "ptf"}, "optimizer": {"groups": [group("bias", lr=1.0)]}})


def test_lbfgs_solves_a_line_in_one_epoch_and_resumes(tmp_path: Path) -> None:
    run, copy = tmp_path / "a" / "Line" / "0", tmp_path / "b" / "Line" / "0"
    arguments = {"optimizer": {"name": "LBFGS", "kwargs": {"line_search_fn": "strong_wolfe"}}, "checkpoint": {"every_n_steps": 1}}
    whole = fit(tmp_path / "a", **arguments, train={"lr": 1.0, "max_epochs": 2}, callbacks=[CopyAt(3, run, copy)])
    x, y = (torch.stack(column) for column in zip(*points(noise=0.1).train, strict=True))  # type: ignore[arg-type]
    design = torch.cat([x, torch.ones_like(x)], dim=1).double()
    best = float((design @ torch.linalg.lstsq(design, y.double()).solution - y).square().mean())
    found = (whole.model(x) - y).square().mean().item()
    assert best <= found < 1.3 * best  # batches of 16 differ
    history = RunDirectory(run).history.read("epochs")
    first = fit(tmp_path / "c", optimizer={"name": "SGD"}, train={"lr": 1e-9, "max_epochs": 1})
    assert first.path is not None
    # What is recorded of a step is the loss before it, once: the first step starts from the same weights as with SGD.
    start = RunDirectory(first.path).history.read("steps")["training_loss"][0]
    assert RunDirectory(run).history.read("steps")["training_loss"][0] == pytest.approx(start, rel=1e-6)
    assert history["training_loss"][0] == pytest.approx(
        RunDirectory(run).history.read("steps")["training_loss"][:10].mean(), rel=1e-6
    )
    resumed = qsr.resume(copy, data=points(noise=0.1))
    assert torch.equal(whole.model.layer.weight, resumed.model.layer.weight)
    assert same_history(RunDirectory(run).history, RunDirectory(copy).history)


def test_a_closure_computes_the_gradient_at_the_weights_of_the_moment() -> None:
    """One LBFGS step on a quadratic with an exact line search is the minimum along the gradient."""
    update = update_of({"name": "LBFGS", "kwargs": {"line_search_fn": "strong_wolfe", "max_iter": 50}})
    assert isinstance(update.optimizer, torch.optim.LBFGS)

    class Bowl:
        def prepare(self, model: Any, keys: Any) -> Any:
            return [type("B", (), {"key": keys[0]})()], {}

        def loss(self, model: Line, batch: Any) -> tuple[Tensor, dict[str, float]]:
            loss = (model.layer.weight - 3).square().sum() + (model.layer.bias + 1).square().sum()
            return loss, {"training/loss": loss.item()}

        def summarise(self, found: Any) -> dict[str, float]:
            return dict(found[0])

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    model = Line({})
    tree = {"model": {"type": "model", "module_name": "tests.training.lines.Line"}, "train": {"lr": 1.0}}
    settings = RunSettings.from_tree(
        {
            **tree,
            "optimizer": {"name": "LBFGS", "kwargs": {"line_search_fn": "strong_wolfe"}},
            "gradient_clipping": {"max_norm": None},
        }
    )
    TorchUpdate(model, settings, Stage(0, 1)).update(model, Bowl(), [BatchKey(0, 0, 0)])  # type: ignore[arg-type]
    assert model.layer.weight.item() == pytest.approx(3, abs=1e-5) and model.layer.bias.item() == pytest.approx(-1, abs=1e-5)
