"""The settings classes as a user meets them: the snippets of hydrantic.md with our names, and what else they promise."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from qsr.hparams import ConfigError, Hparam, Hparams, MissingKeyError


class TestHparams(Hparams):  # the document's name
    __test__ = False

    learning_rate: float = Hparam(default=1e-3, gt=0.0)
    hidden_dim: int = Hparam(default=128, ge=1)
    num_layers: int = Hparam(default=3, ge=1, le=10)
    dropout: float = Hparam(default=0.1, ge=0.0, lt=1.0)


VALUES = {"learning_rate": 0.001, "hidden_dim": 256, "num_layers": 4, "dropout": 0.2}


def test_the_document_s_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hparams = TestHparams(learning_rate=0.001, hidden_dim=256, num_layers=4, dropout=0.2)
    assert hparams.from_dict(VALUES) == hparams
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"model": VALUES}))
    assert TestHparams.from_yaml(file, key="model") == hparams
    assert TestHparams.from_config(OmegaConf.load(file).model) == hparams
    assert (hparams.hidden_dim, hparams["learning_rate"]) == (256, 0.001)
    print(hparams.keys())
    assert capsys.readouterr().out == "dict_keys(['learning_rate', 'hidden_dim', 'num_layers', 'dropout'])\n"
    assert [f"{key}: {value}" for key, value in hparams.items()][1] == "hidden_dim: 256"
    assert dict(**hparams) == VALUES
    with pytest.raises(ValueError, match="learning_rate") as raised:
        TestHparams(learning_rate=-0.001)
    assert "must be larger than 0" in str(raised.value)


def test_it_is_a_mapping() -> None:
    hparams = TestHparams(**VALUES)
    assert list(hparams) == list(VALUES) and len(hparams) == 4 and list(hparams.values()) == list(VALUES.values())
    assert "dropout" in hparams and "keys" not in hparams
    assert hparams.get("nope", 5) == 5 and hparams.get("dropout") == 0.2
    with pytest.raises(KeyError, match=r"hiden_dim.*did you mean 'hidden_dim'"):
        hparams["hiden_dim"]
    with pytest.raises(KeyError):
        hparams["keys"]
    assert pickle.loads(pickle.dumps(hparams)) == hparams != TestHparams()
    assert hparams.model_copy(update={"dropout": 0.3}).dropout == 0.3


def test_assignment_is_validated_and_names_are_guarded() -> None:
    hparams = TestHparams()
    with pytest.raises(ConfigError, match=r"learning_rate=-5.*must be larger than 0"):
        hparams.learning_rate = -5
    with pytest.raises(ConfigError, match=r"hidden_dim=abc.*whole number"):
        TestHparams(hidden_dim="abc")
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        TestHparams(dropuot=0.2)
    with pytest.raises(TypeError, match="items"):

        class Bad(Hparams):
            items: int = 1


@pytest.mark.parametrize(
    ("key", "problem"),
    [("modle", "did you mean 'model'.*it has model, other"), ("model.a.b", "no key"), ("other", "expected a mapping")],
)
def test_a_missing_key_lists_those_that_there_are(tmp_path: Path, key: str, problem: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {hidden_dim: 4}\nother: 3\n")
    with pytest.raises(ConfigError, match=problem) as raised:
        TestHparams.from_yaml(file, key=key)
    assert isinstance(raised.value, MissingKeyError) == (key != "other")


def test_files_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: {hidden_dim: 7, learning_rate: 1e-4}\nb: {hidden_dim: '${a.hidden_dim}'}\n")
    assert TestHparams.from_yaml(file, "a").learning_rate == 1e-4  # a number, as in YAML 1.2
    assert TestHparams.from_yaml(file, "b").hidden_dim == 7
    monkeypatch.setenv("SECRET", "7")
    for text in ("hidden_dim: ${oc.env:SECRET}", "part: env\nhidden_dim: ${oc.${part}:SECRET}", "hidden_dim: ???"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            TestHparams.from_yaml(file)
    assert OmegaConf.create({"a": "${oc.env:SECRET}"}).a == "7"  # everyone else still has it
    for text in ("a: !!python/object/apply:os.system ['true']", "a: !pyobject os.system", "[1, 2", "- 1"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            TestHparams.from_yaml(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        TestHparams.from_yaml(tmp_path / "none.yaml")


def test_yaml_itself_is_as_it_was() -> None:
    import qsr  # noqa: F401

    for text in ("!pyobject os.system", "!sweep {values: [1]}", "!!python/name:os.system"):
        with pytest.raises(yaml.constructor.ConstructorError):
            yaml.safe_load(text)
    assert yaml.safe_load("a: 1e-4") == {"a": "1e-4"}


def test_help_is_the_description() -> None:
    class WithHelp(Hparams):
        rate: float = Hparam(1.0, help="the rate")
        table: dict[str, Any] = Hparam(default_factory=dict, description="a table")

    assert [field.description for field in WithHelp.model_fields.values()] == ["the rate", "a table"]
    assert WithHelp().table is not WithHelp().table
