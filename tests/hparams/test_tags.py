"""Objects in YAML files: which names are taken and which refused, tags and numbers, and the way back into a file."""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch_geometric.nn
import yaml

from qsr.hparams import ConfigError, ConfigLoader, allow_import, convert_to_pyobject_tags, dump_yaml, imports, load_yaml
from qsr.hparams.files import read_yaml
from qsr.hparams.objects import ALIASES, LISTED, find_object, name_of
from qsr.hparams.tags import resolve_pyobject_tags


def compute_loss(outputs: Any, data: Any) -> Any:
    """A criterion as a user writes one."""
    return torch.nn.functional.cross_entropy(outputs[0], data.y)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that defines a loss, and holds what it imports."""
    text = "import os\nfrom os import system\nfrom torch import load\nfrom torch.nn import ReLU\nSIZE = 3\n"
    (tmp_path / "graph_losses.py").write_text(
        text + "def loss(outputs, data):\n    return outputs[0].sum()\nclass Plain:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imports, "_allowed", set())
    yield "graph_losses"
    sys.modules.pop("graph_losses", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.optim.Adam", torch.optim.Adam),
        ("torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR),
        ("torch.nn.ReLU", torch.nn.ReLU),
        ("torch.nn.modules.activation.ReLU", torch.nn.ReLU),
        ("torch_geometric.nn.SAGEConv", torch_geometric.nn.SAGEConv),
        ("torch_geometric.nn.global_mean_pool", torch_geometric.nn.global_mean_pool),
        ("mean_pool", torch_geometric.nn.global_mean_pool),
        ("adam", torch.optim.Adam),
        ("torch.cat", torch.cat),
        ("cat", torch.cat),
        ("numpy.mean", np.mean),
        ("sklearn.metrics.f1_score", sklearn.metrics.f1_score),
        ("torch.float32", torch.float32),
    ],
)
def test_names_on_the_list(name: str, expected: Any) -> None:
    assert yaml.load(f"a: !pyobject {name}", ConfigLoader) == {"a": expected}


@pytest.mark.parametrize(
    "name",
    [
        # What would run, load or write.
        *("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.open", "pickle.loads", "eval", "exec"),
        *("torch.load", "torch.save", "torch.serialization.load", "torch.hub.load", "torch.ops.load_library", "torch.compile"),
        *("torch.utils.cpp_extension.load_inline", "torch.jit.load", "torch.package.PackageImporter", "numpy.load"),
        *("sklearn.metrics.get_scorer", "sklearn.datasets.fetch_openml", "yaml.unsafe_load", "importlib.import_module"),
        # Through what a module of an allowed root imports, or below one of its classes.
        *("logging.os.system", "torch.nn.functional.torch", "torch.nn.functional.torch.load", "torch.nn.init.warnings"),
        *("torch.nn.modules.module.torch.load", "torch.optim.lr_scheduler.partial", "torch.nn.Module.load_state_dict"),
        *("torch_geometric.nn.model_hub.torch", "torch_geometric.nn.SchNet.from_qm9_pretrained", "qsr.hparams.files.os.system"),
        *("qsr.runs.files.shutil", "qsr.hparams.imports.allow_import", "qsr.cli.main.main", "qsr.__main__.main"),
        # A string prefix is no boundary, and neither are classes of another kind.
        *("torch.nnx.ReLU", "torch.optimus.Adam", "torch.nn.Parameter", "torch.nn.functional.relu", "torch.Tensor", "torch.nn"),
        *("torch.nn.__builtins__", "torch.nn._reduction.warnings", "__import__", "torch..nn.ReLU", ".ReLU", "", "torch.nn.Re LU"),
    ],
)
def test_dangerous_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        yaml.load(f"a: !pyobject '{name}'", ConfigLoader)
    with pytest.raises(ConfigError):
        find_object(name, "model.encoder_type")


class Foreign(torch.nn.Module):
    """A layer that is not defined where the list says."""


def test_a_root_does_not_lend_what_is_defined_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn, "Foreign", Foreign, raising=False)
    with pytest.raises(ConfigError, match=f"of {__name__}, which files may not name"):
        find_object("torch.nn.Foreign", "a")


@pytest.mark.parametrize("name", ["torch_geometric.nn.Sequential", "torch_geometric.nn.sequential.Sequential"])
def test_layers_that_run_text_are_refused_even_when_their_package_is_allowed(name: str, user_module: str) -> None:
    with imports.imports_allowed(["torch_geometric"]), pytest.raises(ConfigError, match=r"use qsr\.graph\.Sequential"):
        find_object(name, "a")


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml.*'os\.system' is not among.*--allow-import os .*if you trust it"):
        find_object("os.system", "config.yaml, line 3")
    with pytest.raises(ConfigError, match=r"torch\.nn has no Relu"):
        find_object("torch.nn.Relu", "a")
    with pytest.raises(ConfigError, match="a=3: must be the name"):
        find_object(3, "a")  # type: ignore[arg-type]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "torch_geometric"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_Missing("torch_geometric"), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"SAGEConv.*pip install 'qsr\[graph\]'"):
        find_object("torch_geometric.nn.SAGEConv", "model.encoder_type")


class _Missing:
    """An importer for which a package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def test_a_module_of_ones_own_is_asked_for(user_module: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: mine\ncriterion: !pyobject graph_losses.loss\n")
    with pytest.raises(ConfigError, match=r"config\.yaml, line 2: 'graph_losses\.loss'.*--allow-import graph_losses"):
        load_yaml(file)
    assert "graph_losses" not in sys.modules, "a refused module was imported"
    assert load_yaml(file, allow_import=[user_module])["criterion"].__name__ == "loss"
    with pytest.raises(ConfigError):
        load_yaml(file)  # `allow_import` is for one file
    allow_import(user_module)
    assert load_yaml(file)["criterion"].__module__ == "graph_losses"


@pytest.mark.parametrize("name", ["os", "system", "load", "SIZE", "nothing", "os.system", "_private"])
def test_an_allowed_module_does_not_lend_what_it_imports(name: str, user_module: str) -> None:
    with imports.imports_allowed([user_module]), pytest.raises(ConfigError):
        find_object(f"{user_module}.{name}", "a")


def test_a_longer_name_is_another_module(user_module: str, tmp_path: Path) -> None:
    (tmp_path / "graph_losses_other.py").write_text("def loss(outputs, data):\n    return 0\n")
    with imports.imports_allowed([user_module]), pytest.raises(ConfigError, match="not among the objects"):
        find_object("graph_losses_other.loss", "a")
    assert "graph_losses_other" not in sys.modules


def test_an_allowed_module_may_pass_on_what_is_on_the_list(user_module: str) -> None:
    with imports.imports_allowed([user_module]):
        assert find_object("graph_losses.ReLU", "a") is torch.nn.ReLU
        assert find_object("graph_losses.Plain", "a").__name__ == "Plain"


def test_the_environment_variable_allows_modules(user_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(imports.ENVIRONMENT, "other, graph_losses")
    assert find_object("graph_losses.loss", "a").__name__ == "loss"


def test_what_is_remembered_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_known", {})
    name = f"{__name__}.compute_loss"
    with pytest.raises(ConfigError):
        find_object(name, "criterion")
    imports.remember(compute_loss)
    assert find_object(name, "criterion") is compute_loss


def test_safe_load_stays_as_it_was(tmp_path: Path) -> None:
    loaders = (yaml.SafeLoader, yaml.FullLoader, yaml.Loader)
    texts = ["a: !pyobject os.system", "a: !sweep {values: [1]}", "a: !range {start: 0, stop: 1}"]
    for loader in loaders:
        assert not [tag for tag in loader.yaml_constructors if tag and tag.startswith("!") and tag[1:].isalpha()]
    (tmp_path / "config.yaml").write_text("a: !pyobject torch.nn.ReLU\nb: 1e-4\nc: !sweep {values: [1]}\n")
    load_yaml(tmp_path / "config.yaml")
    dump_yaml({"a": torch.nn.ReLU})
    for text in texts:
        with pytest.raises(yaml.constructor.ConstructorError):
            yaml.safe_load(text)
    assert yaml.safe_load("1e-4") == "1e-4"
    assert yaml.safe_dump({"a": "!pyobject x"}) == "a: '!pyobject x'\n"
    with pytest.raises(ConfigError, match=r"unknown tag tag:yaml.org,2002:python"):
        (tmp_path / "python.yaml").write_text("a: !!python/object/apply:os.system [ls]\n")
        load_yaml(tmp_path / "python.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-4", 1e-4), ("1e9", 1e9), ("-2E5", -2e5), ("1.5", 1.5), ("1.e3", 1e3), (".5e1", 5.0), ("+3e2", 300.0)),
        *(("12", 12), ("1e", "1e"), ("e1", "e1"), ("'1e-4'", "1e-4"), ("1e-4x", "1e-4x"), ("null", None), ("true", True)),
    ],
)
def test_numbers(text: str, value: Any) -> None:
    (found,) = yaml.load(f"[{text}]", ConfigLoader)
    assert found == value and type(found) is type(value)
    assert yaml.load(dump_yaml({"a": value}), ConfigLoader) == {"a": value}


def test_tags_are_read_by_key() -> None:
    loaded = yaml.load(
        """
        a: !sweep {values: [1, null, !pyobject torch.nn.ReLU]}
        b: !coupled-sweep {values: [x, y, z], target: "model.foo[1].x"}
        c: !range {stop: 4, start: 1}
        d: !range {start: 0.5, stop: 0.75}
        e: !range {step: 3, start: 0, stop: 10}
        f: !random_uniform {log: true, start: 1e-4, stop: 1e-1, size: 7}
        g: !random_uniform {start: -1, stop: 1, log: false}
        h: !reference {target: model.foo.1.x}
        """,
        ConfigLoader,
    )
    assert loaded["a"] == {"type": "sweep", "values": [1, None, torch.nn.ReLU]}
    assert loaded["b"] == {"type": "coupled-sweep", "target": ["model", "foo", 1, "x"], "values": ["x", "y", "z"]}
    assert loaded["c"]["tune_values"] == (1, 4, 1) and loaded["c"]["values"].tolist() == [1, 2, 3, 4]
    assert loaded["d"]["tune_values"] == (0.5, 0.75, 0.1)
    assert loaded["d"]["values"] == pytest.approx([0.5, 0.6, 0.7])
    assert loaded["e"]["values"].tolist() == [0, 3, 6, 9]
    assert loaded["f"]["type"] == "random_uniform" and loaded["f"]["tune_values"] == (1e-4, 1e-1, True)
    assert len(loaded["f"]["values"]) == 7 and (1e-4 <= loaded["f"]["values"]).all() and (loaded["f"]["values"] <= 1e-1).all()
    assert len(loaded["g"]["values"]) == 5 and (loaded["g"]["values"] < 0).any()
    assert loaded["h"] == {"type": "reference", "target": ["model", "foo", 1, "x"]}


def test_mappings_can_be_merged() -> None:
    text = "base: &base {k: 1, l: 2}\nx: {inner: &more {<<: *base, k: 3}}\ny: {<<: *more, z: 4}\n"
    merged = yaml.load(text, ConfigLoader)
    assert merged == yaml.safe_load(text) and merged["y"] == {"k": 3, "l": 2, "z": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!sweep [1, 2]", r"line 1: !sweep takes \{values: \.\.\.\}"),
        ("!sweep {value: [1]}", "!sweep has no 'value'; did you mean 'values'"),
        ("!sweep {values: 1}", "values=1: must be a list"),
        ("!sweep {values: []}", "at least one value"),
        ("!coupled-sweep {values: [1]}", "!coupled-sweep needs target"),
        ("!coupled-sweep {values: [1], target: 'a..b'}", "must be a path"),
        ("!range {start: 0, stop: 1, step: 0}", "a step of 0 does not lead there"),
        ("!range {start: 0, stop: 1, step: -0.5}", "does not lead there"),
        ("!range {start: a, stop: 1}", "start='a': must be a number"),
        ("!random_uniform {start: 0, stop: 1, log: true}", "above 0 for log"),
        ("!random_uniform {start: 0, stop: 1, log: 1}", "log true or false"),
        ("!random_uniform {start: 0, stop: 1}", "needs log"),
        ("!reference {target: 3}", "must be a path"),
        ("!pyobject [torch.nn.ReLU]", "takes one name"),
        ("{a: 1, a: 2}", "'a' stands there twice"),
        ("!other {a: 1}", "unknown tag !other; known: "),
        ("[1, 2]", "expected a mapping"),
        ("&a {b: *a}", "contains itself|recursive"),
    ],
)
def test_wrong_tags(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(file)


def test_every_alias_and_listed_name_is_there() -> None:
    for name in (*ALIASES, *LISTED):
        assert find_object(name, "a") is not None
    for name in LISTED:
        assert find_object(name_of(find_object(name, "a"), "a"), "a") is find_object(name, "a")


def test_names_are_the_public_ones() -> None:
    assert name_of(torch.nn.ReLU, "a") == "torch.nn.ReLU"
    assert name_of(torch.optim.Adam, "a") == "torch.optim.Adam"
    assert name_of(torch_geometric.nn.SAGEConv, "a") == "torch_geometric.nn.SAGEConv"
    assert name_of(torch_geometric.nn.global_max_pool, "a") == "torch_geometric.nn.global_max_pool"
    assert name_of(torch.cat, "a") == "torch.cat"
    assert name_of(compute_loss, "a") == f"{__name__}.compute_loss"


def test_a_configuration_goes_into_a_file_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "layers": [[torch_geometric.nn.SAGEConv, [1, 4], {"aggr": "mean"}, "x, edge_index"], [torch.nn.ReLU, [], {}, "x"]],
        "pool": torch_geometric.nn.global_mean_pool,
        "early_stopping": {"tasks": {0: {"delta": 1e-4, "init_best_score": 1e9}}},
        "dtype": torch.float64,
        "text": ["1e-4", "null", "yes", "a: b"],
        "criterion": compute_loss,
    }
    monkeypatch.setattr(imports, "_known", {})
    imports.remember(compute_loss)
    assert yaml.load(dump_yaml(config), ConfigLoader) == config
    plain = convert_to_pyobject_tags(config)
    assert plain["layers"][1][0] == "!pyobject torch.nn.ReLU"
    assert resolve_pyobject_tags(json.loads(json.dumps(plain["layers"])), "layers") == config["layers"]
    other = convert_to_pyobject_tags({"a": (np.float64(0.5), np.int64(2), np.arange(2)), "b": Path("x/y")})
    assert other == {"a": [0.5, 2, [0, 1]], "b": "x/y"} and type(other["a"][0]) is float


def test_sweeps_go_into_a_file_and_back() -> None:
    text = """
    a: !sweep {values: [1, !pyobject torch.nn.ReLU]}
    b: !coupled-sweep {target: a, values: [1e-3, 2]}
    c: !range {start: 0, stop: 1.0, step: 0.25}
    d: !random_uniform {start: 1e-3, stop: 1, log: true, size: 3}
    e: !reference {target: c}
    """
    config = yaml.load(text, ConfigLoader)
    again = yaml.load(dump_yaml(config), ConfigLoader)
    for name in ("c", "d"):
        assert again[name].pop("values").tolist() == config[name].pop("values").tolist()
    assert again == config


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (functools.partial(compute_loss, data=None), r"model\.criterion: functools\.partial has no name; give the function"),
        (lambda outputs, data: 0, "define it there"),
        (torch.nn.ReLU(), "a ReLU has no name.*class and arguments"),
        (torch.zeros(2), "a Tensor has no name"),
        (torch.nn.ReLU.forward, "has no ReLU.forward at its top level"),
        ({1, 2}, "a set has no name"),
    ],
)
def test_what_has_no_name_cannot_be_written(thing: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dump_yaml({"model": {"criterion": thing}})


def test_misspelt_tags_and_short_names(tmp_path: Path) -> None:
    for text, said in (
        ("a: !swep {values: [1]}", "line 1: unknown tag !swep; did you mean '!sweep'"),
        ("a: !pyobject adm", "'adm' is no short name; did you mean 'adam'"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_yaml(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"could not determine a constructor.*; files with such tags are for 'qsr graph train'"):
        read_yaml(tmp_path / "config.yaml")
