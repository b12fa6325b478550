"""Configurations with sweeps, against products written out by hand, and searches over them with Optuna."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml

from qsr.hparams import ConfigError, ConfigHandler, ConfigLoader, load_yaml, range_inclusive
from qsr.hparams.search import build_search_space, create_study, save_best_config
from qsr.hparams.sweeps import parse_path

TEXT = """
name: graphs
model:
  widths: !sweep {values: [[16, 16], [32, 32], null]}
  layers:
  - [!pyobject torch.nn.ReLU, !sweep {values: [a, b]}]
  - [!pyobject torch.nn.ReLU, !coupled-sweep {values: [A, B], target: "model.layers[0].1"}]
  depth: !reference {target: training.epochs}
training:
  epochs: 3
  lr: !sweep {values: [1e-2, 1e-3]}
  decay: !coupled-sweep {target: training.lr, values: [0.5, 0.25]}
  heads: !reference {target: model.layers}
  dropout: !range {start: 0.0, stop: 0.5, step: 0.1}
"""


def config() -> Any:
    return yaml.load(TEXT, ConfigLoader)


def test_the_runs_are_the_product_of_the_sweeps() -> None:
    runs = ConfigHandler(config(), "lattice").run_configs
    expected = list(itertools.product([[16, 16], [32, 32], None], ["a", "b"], [1e-2, 1e-3]))
    assert len(runs) == len(expected) == 12
    for number, (run, (widths, letter, rate)) in enumerate(zip(runs, expected, strict=True)):
        layers = [[torch.nn.ReLU, letter], [torch.nn.ReLU, letter.upper()]]
        assert run["name"] == f"graphs_lattice_{number}"
        assert run["model"] == {"widths": widths, "layers": layers, "depth": 3}
        assert run["training"].pop("dropout")["type"] == "range", "ranges are for searches"
        assert run["training"] == {"epochs": 3, "lr": rate, "decay": {1e-2: 0.5, 1e-3: 0.25}[rate], "heads": layers}


def test_the_configuration_and_the_runs_share_nothing_that_changes() -> None:
    tree = config()
    runs = ConfigHandler(tree).run_configs
    runs[0]["model"]["widths"].append(8)
    runs[0]["training"]["heads"][0][1] = "changed"
    assert runs[1]["model"]["widths"] == [16, 16] and runs[0]["model"]["layers"][0][1] == "a"
    assert tree["model"]["widths"]["values"][0] == [16, 16]
    assert [run["name"] for run in runs[:2]] == ["graphs_0", "graphs_1"]


def test_a_configuration_without_sweeps_is_one_run() -> None:
    assert ConfigHandler({"training": {"seed": (1, 2)}}).run_configs == [{"training": {"seed": [1, 2]}, "name": "run_0"}]


def test_targets_may_be_keys_that_are_numbers() -> None:
    tasks = {
        0: {"delta": {"type": "sweep", "values": [1, 2]}},
        1: {"delta": {"type": "reference", "target": ["tasks", 0, "delta"]}},
    }
    tree = {"tasks": tasks, "other": {"type": "coupled-sweep", "target": ["tasks", "0", "delta"], "values": [3, 4]}}
    assert [(run["tasks"][1]["delta"], run["other"]) for run in ConfigHandler(tree).run_configs] == [(1, 3), (2, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !sweep {values: [1, 2]}\nb: !coupled-sweep {target: a, values: [1]}", "Incompatible lengths for coupled-sweep b: 1"),
        (
            "abc: !sweep {values: [1]}\nb: !coupled-sweep {target: abd, values: [1]}",
            "target abd is not a !sweep; did you mean 'abc'",
        ),
        ("a: 1\nb: !coupled-sweep {target: a, values: [1]}", "target a is not a !sweep; there is none"),
        ("a: !sweep {values: [!sweep {values: [1]}, 2]}", "a: has another sweep among its values"),
        ("a: !reference {target: b}", "reference to b: there is no 'b'"),
        ("a: [1]\nb: !reference {target: 'a[1]'}", "reference to a.1: there is no '1'"),
        ("a: !reference {target: b}\nb: !reference {target: a}", "refers to itself"),
        ("a: {b: !reference {target: a}}", "refers to itself"),
    ],
)
def test_what_cannot_be_combined(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConfigHandler(yaml.load(text, ConfigLoader))


def test_inclusive_ranges() -> None:
    assert range_inclusive(0, 10, 5).tolist() == [0, 5, 10]
    assert range_inclusive(0, 10, 4).tolist() == [0, 4, 8]
    assert range_inclusive(3, 1, -1).tolist() == [3, 2, 1]
    assert range_inclusive(2, 2, 1).tolist() == [2]
    assert range_inclusive(0, 10, 5).dtype.kind == "i"
    tenths = range_inclusive(0.0, 1.0, 0.1)  # ten times 0.1 is more than 1 when it is added up
    assert len(tenths) == 11 and np.abs(tenths - np.linspace(0, 1, 11)).max() < 1e-15
    for start, stop, step in ((0, 1, 0), (0, 1, -1), (0, float("inf"), 1)):
        with pytest.raises(ConfigError, match="does not lead there"):
            range_inclusive(start, stop, step)


def test_paths() -> None:
    assert parse_path("model.foo[1].x") == parse_path("model.foo.1.x") == ["model", "foo", 1, "x"]
    assert parse_path("a[0][1]") == ["a", 0, 1]
    for text in ("", "a.", ".a", "a[b]", "a[1", "a[1]x"):
        with pytest.raises(ConfigError, match="must be a path"):
            parse_path(text)


def aliases(first: str, levels: int, line: str) -> str:
    """Lines of which each holds the one before ten times."""
    more = [line.format(name=f"a{number}", ten=", ".join([f"*a{number - 1}"] * 10)) for number in range(1, levels)]
    return "\n".join([f"a0: &a0 {first}", *more])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            aliases("[1, 2]", 12, "{name}: &{name} [{ten}]"),
            r"has more than 100000 parts, with all aliases \(\*name\) written out",
        ),
        (aliases("!sweep {values: [1]}", 12, "{name}: &{name} [{ten}]"), "has more than 100000 parts"),
        (aliases("[1]", 12, "{name}: &{name} [{ten}]") + "\nb: !sweep {values: [*a11]}", "has more than 100000 parts"),
        (aliases("{k: 1}", 12, "{name}: &{name} {{<<: [{ten}]}}"), "has more than 100000 keys, with all << written out"),
        (aliases("[1]", 12, "{name}: &{name} [{ten}]") + "\nb: !sweep {values: {c: *a11}}", "must be a list"),
        (aliases("[1]", 12, "{name}: &{name} [{ten}]") + "\nb: !range {start: *a11, stop: 2}", "must be a number"),
        (aliases("[1]", 12, "{name}: &{name} [{ten}]") + "\nb: !reference {target: *a11}", "must be a path"),
    ],
)
def test_aliases_of_aliases_end(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as raised:
        load_yaml(tmp_path / "config.yaml")
    assert len(str(raised.value)) < 500
    (tmp_path / "few.yaml").write_text(aliases("[1, 2]", 4, "{name}: &{name} [{ten}]"))
    assert len(load_yaml(tmp_path / "few.yaml")["a3"]) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!range {start: 0, stop: 1000000000000}", "has 1000000000001 values, at most 1000000"),
        ("!range {start: 0, stop: 1000000}", "has 1000001 values"),
        ("!range {start: 0.0, stop: 1.0, step: 1e-300}", "values, at most 1000000"),
        ("!range {start: 0, stop: 1e30}", "between -2\\^63 and 2\\^63"),
        ("!random_uniform {start: 0, stop: .inf, log: false}", "between -2\\^63 and 2\\^63"),
        ("!random_uniform {start: 0, stop: 1, log: false, size: 1000000000000}", "a size of 1 to 1000000"),
    ],
)
def test_ranges_have_an_end(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        yaml.load(f"a: {text}", ConfigLoader)


def test_ranges_may_be_long_and_products_too_long() -> None:
    assert len(range_inclusive(1, 1_000_000, 1)) == 1_000_000
    tree = {f"a{number}": {"type": "sweep", "values": list(range(10))} for number in range(12)}
    with pytest.raises(ConfigError, match="its 12 sweeps make 1000000000000 runs; at most 100000"):
        ConfigHandler(tree)


SPACE = """
optimizer: !sweep {values: [!pyobject torch.optim.Adam, !pyobject torch.optim.SGD]}
momentum: !coupled-sweep {target: optimizer, values: [null, 0.9]}
width: !sweep {values: [16, 32]}
deep: !sweep {values: [1, true]}
layers: !range {start: 1, stop: 6, step: 2}
dropout: !range {start: 0.0, stop: 0.55, step: 0.25}
training: {lr: !random_uniform {start: 1e-4, stop: 1e-1, log: true}, again: !reference {target: width}}
"""


def test_a_search_stays_in_its_space_and_finds_the_best(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    study = create_study({"study_name": "graphs", "direction": "maximize", "storage": str(tmp_path / "trials.log")})
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    seen = []

    def objective(trial: Any) -> float:
        chosen = build_search_space(file, trial)
        seen.append(chosen)
        return chosen["layers"] + chosen["dropout"] + chosen["width"] / 32 + (chosen["optimizer"] is torch.optim.SGD)

    study.optimize(objective, n_trials=60)
    assert {trial["optimizer"] for trial in seen} == {torch.optim.Adam, torch.optim.SGD}
    assert all(trial["momentum"] == {torch.optim.Adam: None, torch.optim.SGD: 0.9}[trial["optimizer"]] for trial in seen)
    assert {trial["layers"] for trial in seen} == {1, 3, 5} and {trial["dropout"] for trial in seen} == {0.0, 0.25, 0.5}
    assert {trial["width"] for trial in seen} == {16, 32} and all(trial["training"]["again"] == trial["width"] for trial in seen)
    assert {type(trial["deep"]) for trial in seen} == {int, bool}
    rates = np.log10([trial["training"]["lr"] for trial in seen])
    assert -4 <= rates.min() < -3.5 and -1.5 < rates.max() <= -1 and abs(rates.mean() + 2.5) < 4 * 3 / np.sqrt(12 * 60)
    assert study.best_trial.params["training.lr"] == seen[study.best_trial.number]["training"]["lr"]
    assert study.best_trial.params["width"] == 32 and study.best_value == 7.5

    save_best_config(file, study.best_trial, tmp_path / "best.yaml")
    assert load_yaml(tmp_path / "best.yaml") == seen[study.best_trial.number]
    again = create_study({"study_name": "graphs", "direction": "maximize", "storage": str(tmp_path / "trials.log")})
    assert len(again.trials) == 60 and isinstance(again.pruner, optuna.pruners.MedianPruner)


def test_settings_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"study\.storage=trials\.pkl: must be a file that ends with \.log"):
        create_study({"study_name": "a", "storage": "trials.pkl"})
    with pytest.raises(ConfigError, match=r"study\.direction=up"):
        create_study({"study_name": "a", "direction": "up"})
    with pytest.raises(ConfigError, match="did you mean 'study_name'"):
        create_study({"studyname": "a"})
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'qsr\[optuna\]'"):
        create_study({"study_name": "a"})
