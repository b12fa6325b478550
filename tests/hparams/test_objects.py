"""Lists of names that files may use: what stands on them, what is kept off them, and whether the packages have grown since."""

import inspect
import re
import sys

import pytest
import torch
import torch_geometric.nn
import torch_geometric.transforms
import yaml

from qsr.hparams import ConfigError, ConfigLoader, allow_import, dump_yaml, imports
from qsr.hparams.objects import FETCHING, SCORES, find_object, may_be_named, name_of
from qsr.training import scores
from qsr.training.default_early_stopping import DefaultEarlyStopping
from qsr.training.evaluators import Evaluator, Tester, Validator

# Classes whose sources speak of files, downloads or programs, read and found safe to make: what they do.
READ = {
    "torch_geometric.nn.conv.message_passing.MessagePassing": "fills a template of its own from the signatures of its methods",
    "torch_geometric.nn.models.schnet.SchNet": "downloads in from_qm9_pretrained",
    "torch_geometric.nn.models.dimenet.DimeNet": "downloads in from_qm9_pretrained",
    "torch_geometric.nn.models.dimenet.DimeNetPlusPlus": "downloads in from_qm9_pretrained",
    "torch_geometric.nn.models.gpse.GPSE": "downloads in from_pretrained",
}
WORDS = re.compile(
    r"(?<![\w.])(eval|exec|open|compile|__import__|import_module|module_from_template|download_url|urlopen|Popen)\("
    r"|\.(load|torch_load|from_pretrained|system|hf_hub_download|load_state_dict_from_url)\("
)


def test_the_short_names_of_scores_are_those_of_the_evaluators() -> None:
    assert {name: find_object(name, "a") for name in SCORES} == scores.SCORES
    assert yaml.load("a: !pyobject f1_weighted", ConfigLoader) == {"a": scores.f1_weighted}
    assert name_of(scores.accuracy, "a") == "qsr.training.scores.accuracy"


def test_evaluators_and_early_stopping_have_the_names_of_quantumgrav() -> None:
    for kind in (Evaluator, Validator, Tester):
        for name in (f"QuantumGrav.{kind.__name__}", f"QuantumGrav.evaluate.{kind.__name__}", name_of(kind, "a")):
            assert find_object(name, "a") is kind
    for name in ("QuantumGrav.DefaultEarlyStopping", "QuantumGrav.early_stopping.DefaultEarlyStopping"):
        assert find_object(name, "a") is DefaultEarlyStopping
    config = {"validator": {"type": Validator}, "early_stopping": {"type": DefaultEarlyStopping}}
    assert yaml.load(dump_yaml(config), ConfigLoader) == config


@pytest.mark.parametrize("module", FETCHING)
def test_layers_that_fetch_weights_are_asked_for(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_allowed", set())
    layer = type("LLM", (torch.nn.Module,), {"__module__": f"{module}.llm"})
    monkeypatch.setattr(torch_geometric.nn, "LLM", layer, raising=False)
    with pytest.raises(ConfigError, match=rf"fetches weights from the network; add --allow-import {module}\.llm"):
        find_object("torch_geometric.nn.LLM", "a")
    allow_import(module)
    assert find_object("torch_geometric.nn.LLM", "a") is layer


@pytest.mark.parametrize("name", ["torch_geometric.llm.models.LLM", "torch_geometric.llm.models.GLEM", "torch.hub.load"])
def test_what_fetches_weights_elsewhere_is_not_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="not among the objects"):
        find_object(name, "a")


def test_no_class_of_the_roots_has_begun_to_read_files_or_run_text() -> None:
    found = set()
    for kind in _named_classes():
        try:
            source = inspect.getsource(kind)
        except OSError:
            source = inspect.getsource(sys.modules[kind.__module__])
        code = [line for line in source.splitlines() if not line.strip().startswith((">>>", "...", "#", "def "))]
        if any(WORDS.search(line) for line in code):
            found.add(f"{kind.__module__}.{kind.__name__}")
    assert found - set(READ) == set(), "read them before files may name them (REFUSED and FETCHING of qsr.hparams.objects)"
    assert found, "the words find nothing any more"


def _named_classes() -> set[type]:
    """The classes of torch and torch_geometric that files may name, of the modules that are loaded."""
    classes = set()
    for name, module in list(sys.modules.items()):
        if not may_be_named(f"{name}.A") or name.startswith("qsr"):
            continue
        for attribute, thing in list(vars(module).items()):
            if isinstance(thing, type) and not attribute.startswith("_"):
                try:
                    classes.add(find_object(f"{name}.{attribute}", "a"))
                except ConfigError:
                    continue
    return classes
