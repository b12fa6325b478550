"""Native runs load by their path alone, from whatever weights they have; anything else is one clear line."""

import os
from pathlib import Path

import pytest
import torch

from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, fit_weights, load_model, read_run


def settings_in(directory: Path, **train: object) -> RunSettings:
    tree = {
        "train": {"L": 16, "dir": str(directory), **train},
        "model": {"type": "rnn", "Nh": 4},
        "hamiltonian": {"type": "tfim"},
    }
    return RunSettings.from_tree(tree)


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    return settings_in(tmp_path)


@pytest.fixture
def run(settings: RunSettings) -> RunDirectory:
    claimed = RunDirectory.claim(settings)
    assert claimed is not None
    claimed.write_settings(settings)
    return claimed


def model_of(settings: RunSettings) -> torch.nn.Module:
    return settings.model.build(settings.hamiltonian.lattice())


def test_load_model(run: RunDirectory, settings: RunSettings) -> None:
    model = model_of(settings)
    run.save_weights(model.state_dict())
    stored = read_run(run.path)
    assert stored.settings == settings and stored.path == run.path
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    loaded = load_model(str(run.path))
    assert torch.equal(torch.get_rng_state(), untouched), "loading drew from the user's generator"
    assert not loaded.training
    configs = torch.randint(0, 2, (5, 16))
    with torch.no_grad():
        assert torch.equal(loaded.log_prob(configs), model.log_prob(configs))


def test_precision(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, precision="float64")
    run = RunDirectory.claim(settings)
    run.write_settings(settings)
    model = model_of(settings).double()
    torch.nn.init.normal_(model.head[0].weight)  # numbers that float32 does not have
    run.save_weights(model.state_dict())
    loaded = load_model(run.path).state_dict()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == torch.float64 for name, tensor in model.state_dict().items()
    )


def test_interrupted_run_loads_from_its_checkpoint(run: RunDirectory, settings: RunSettings) -> None:
    with pytest.raises(ConfigError, match=rf"^{run.path}: has no weights; expected weights.safetensors, T or a checkpoint"):
        read_run(run.path)
    model = model_of(settings)
    for step, factor in ((1, 1.0), (2, 2.0)):
        run.save_checkpoint(step, {name: factor * tensor for name, tensor in model.state_dict().items()}, {})
    loaded = load_model(run.path).state_dict()
    assert all(torch.equal(loaded[name], 2 * tensor) for name, tensor in model.state_dict().items())
    run.save_weights(model.state_dict())  # what a finished run has comes first
    loaded = load_model(run.path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("nowhere", "no such directory"),
        ("file", "not a directory"),
        ("empty", r"not a run, it has no settings\.json"),
    ):
        with pytest.raises(ConfigError, match=f"^{tmp_path / name}: {message}"):
            load_model(tmp_path / name)


def test_damaged_weights(run: RunDirectory, settings: RunSettings) -> None:
    run.save_weights(model_of(settings).state_dict())
    os.truncate(run.path / "weights.safetensors", 500)
    with pytest.raises(ConfigError, match=r"weights\.safetensors: damaged"):
        load_model(run.path)


def test_weights_of_another_model(run: RunDirectory, settings: RunSettings) -> None:
    weights = model_of(settings).state_dict()
    weights["extra"] = weights.pop("head.0.weight")
    weights["head.2.weight"] = torch.ones(3, 4)
    run.save_weights(weights)
    message = r"do not fit .*: head\.0\.weight is missing; extra is not in the model; head\.2\.weight is 3x4, expected 16x4$"
    with pytest.raises(ConfigError, match=message):
        load_model(run.path)


def test_misfits_are_counted(settings: RunSettings) -> None:
    model = model_of(settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"^elsewhere: .* is missing \(and {len(before) - 3} more\)$"):
        fit_weights(model, {}, "elsewhere")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
