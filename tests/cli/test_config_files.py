"""Settings from files and Hydra overrides, as a user types them: the command lines of hydrantic.md with our names."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import qsr
from qsr.hparams import ConfigError, RunSettings, imports_allowed, parse_sections, sections
from qsr.hparams.overrides import merged, read_tree_of, split_words, sweep
from qsr.training import OptimizerHparams
from tests.commands import run_qsr

ROOT = Path(__file__).resolve().parents[2]
OWN = "--allow-import demos.own_model"
OWN_SECTIONS = "--model module_name=demos.own_model.Perceptron --data module_name=demos.own_model.Energies"


def run(line: str, *words: str, module: str = "qsr.cli.fit", **environment: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*line.split(), *words, module=module, cwd=ROOT, env=environment)


def resolve(line: str, directory: Path | None = None, name: str | None = None) -> RunSettings:
    overrides, sections = split_words(line.split())
    return RunSettings.from_tree(merged(read_tree_of(name, directory, overrides), parse_sections(sections)))


def test_the_document_s_command_lines(tmp_path: Path) -> None:
    short = f"train.dir={tmp_path} train.max_epochs=2 data.num_samples=40"
    result = run(
        f"--config-name config_blueprint {OWN} optimizer.kwargs.lr=0.0005 data.batch_size=16 +new_key=new_value {short}",
        HYDRA_CONFIG_PATH="demos",
    )
    assert result.returncode == 0, result.stderr
    path = tmp_path / "Perceptron" / "0"
    stored = json.loads((path / "settings.json").read_text())
    assert stored["train"]["lr"] == 0.0005 and stored["data"]["loader"]["batch_size"] == 16
    assert stored["extra"] == {"new_key": "new_value"}
    refused = run(f"load {path}", module="qsr")
    assert refused.returncode == 2 and "add --allow-import demos" in refused.stderr and refused.stderr.count("\n") == 1
    loaded = run(f"load {path} {OWN}", module="qsr")
    assert loaded.returncode == 0 and "test/loss" in loaded.stdout and (path / "evaluation.txt").is_file()


README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.removeprefix("qsr ")
    for line in README.splitlines()
    if line.startswith(("qsr train --config-name", "qsr train -m", "qsr train --print"))
]


@pytest.mark.parametrize("line", LINES)
def test_the_readme_s_lines(line: str, tmp_path: Path) -> None:
    shorter = [f"train.dir={tmp_path}", *([] if "config-name" in line or "print" in line else ["++train.steps=1"])]
    line = line.replace(" steps=100", "").replace("K=64", "K=8")
    before, sections, rest = line.partition(" --train" if " --train" in line else "\n")
    result = run(before, *shorter, *(sections + rest).split(), module="qsr")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 3
    if "--print" not in line:
        assert len(list(tmp_path.rglob("settings.json"))) == (4 if "-m" in line.split() else 1)


def test_a_typo_is_refused_with_a_hint() -> None:
    result = run(f"--config-name config_blueprint --config-dir demos {OWN} train.max_epoch=3")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "train.max_epoch: unknown setting; did you mean 'max_epochs'?" in result.stderr


def test_the_blueprint_is_kept_equal() -> None:
    result = run(f"--print-blueprint {OWN} {OWN_SECTIONS} seed=0")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "demos" / "config_blueprint.yaml").read_text()


def test_nothing_is_imported_because_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "harmless.py").write_text("raise SystemExit('imported')\n")
    for name in ("harmless.Model", "os.system", "torch.nn.Linear"):
        (tmp_path / "x.yaml").write_text(f"model: {{module_name: {name}}}\n")
        with pytest.raises(ConfigError, match=r"model\.module_name=.*--allow-import"):
            resolve("", tmp_path, "x")
    with imports_allowed(["os", "torch"]):
        for name in ("os.system", "torch.nn.Linear"):
            (tmp_path / "x.yaml").write_text(f"model: {{module_name: {name}}}\n")
            with pytest.raises(ConfigError, match="must name a subclass of Model"):
                resolve("", tmp_path, "x")


def test_sections_and_overrides_end_in_the_same_settings(tmp_path: Path) -> None:
    optimizer = "--optimizer name=AdamW weight_decay=0.1"
    sections = resolve(f"--train L=16 K=64 lr=5e-4 --ptf patch=2x2 Nh=32 --rydberg delta=0.5 {optimizer}")
    dotted = resolve(
        "train.L=16 train.K=64 model.type=ptf model.patch=2x2 model.Nh=32 hamiltonian.type=rydberg hamiltonian.delta=0.5 "
        "optimizer.name=AdamW optimizer.kwargs.weight_decay=0.1 optimizer.kwargs.lr=5e-4"
    )
    (tmp_path / "all.yaml").write_text("model: {type: ptf}\ntrain: {K: 8, L: 16}\n")
    mixed = resolve(f"model.patch=2x2 --train K=64 lr=5e-4 model.Nh=32 --rydberg delta=0.5 {optimizer}", tmp_path, "all")
    assert sections.tree() == dotted.tree() == mixed.tree()


def test_print_config_says_what_runs(tmp_path: Path) -> None:
    result = run("train --print-config --preset fast-8x8 train.seed=5", module="qsr")
    assert result.returncode == 0, result.stderr
    (tmp_path / "again.yaml").write_text(result.stdout)
    again = resolve("", tmp_path, "again")
    assert again.train.seed == 5 and again.optimizer.name == "spring"
    assert {**again.tree(), "objective": None} == {**OmegaConf.to_container(OmegaConf.create(result.stdout)), "objective": None}


def test_a_sweep_runs_every_combination(tmp_path: Path) -> None:
    line = f"train -m --train L=4 K=8 steps=1 dir={tmp_path} --rnn Nh=4,8 patch=1x2"
    assert run(line, module="qsr").returncode == 2  # a section's setting is text, not a sweep
    line = f"train -m model.Nh=4,8 train.seed=1,2 --train L=4 K=8 steps=1 dir={tmp_path} --rnn patch=1x2"
    result = run(line, module="qsr")
    assert result.returncode == 0, result.stderr
    assert "runs of the sweep:" in result.stdout and "model.Nh=8 train.seed=2" in result.stdout
    found = {
        (stored["model"]["Nh"], stored["train"]["seed"])
        for stored in (json.loads(file.read_text()) for file in tmp_path.rglob("settings.json"))
    }
    assert found == {(4, 1), (4, 2), (8, 1), (8, 2)}


def test_hydra_grammar(tmp_path: Path) -> None:
    text = "model: {type: ptf, Nh: 16}\ntrain: {K: 64, sub_directory: '${extra.tag}'}\nextra: {tag: hi}\n"
    (tmp_path / "x.yaml").write_text(text)
    tree = read_tree_of("x", tmp_path, ["~model.Nh", "++train.K=1e2", "+extra.list=[1,{a: b}]", "train.dir='a,b'", "name=null"])
    assert tree["model"] == {"type": "ptf"} and tree["train"]["K"] == 100.0 and tree["extra"]["list"] == [1, {"a": "b"}]
    assert tree["train"]["dir"] == "a,b" and tree["train"]["sub_directory"] is None
    assert sweep(["a.b=1,2", "c.d=x"]) == [["a.b=1", "c.d=x"], ["a.b=2", "c.d=x"]]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train.K=1,2"], "a sweep; add -m"),
        (["trian.K=1"], "unknown section 'trian'; did you mean 'train' .with [+]"),
        (["+train.K=3"], "is there already"),
        (["~train.Q"], "there is no train.Q to take out"),
        (["~train.K=65"], "train.K is 64"),
        (["train.K.x=3"], "train.K is 64, not a section"),
        (["train.K=[1"], "not an override"),
        (["@x.y=1"], r"packages \(@\)"),
    ],
)
def test_bad_overrides_are_explained(tmp_path: Path, words: list[str], problem: str) -> None:
    (tmp_path / "x.yaml").write_text("train: {K: 64}\n")
    with pytest.raises(ConfigError, match=problem) as refusal:
        read_tree_of("x", tmp_path, words)
    assert "\n" not in str(refusal.value)


def test_defaults_lists_and_groups(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "adam.yaml").write_text("name: Adam\n")
    (tmp_path / "optimizer" / "sgd.yaml").write_text("name: SGD\nkwargs: {momentum: 0.9}\n")
    (tmp_path / "x.yaml").write_text("defaults: [optimizer: adam, _self_]\nmodel: {type: rnn}\ntrain: {lr: 1e-2}\n")
    assert resolve("", tmp_path, "x").optimizer.name == "Adam"
    found = resolve("optimizer=sgd optimizer.kwargs.momentum=0.5 train.K=32", tmp_path, "x")
    assert found.optimizer.name == "SGD" and found.optimizer.kwargs == {"momentum": 0.5} and found.train.K == 32
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        resolve("optimizer=lion", tmp_path, "x")
    with pytest.raises(ConfigError, match=r"--config-name y: no file .*y\.yaml.*known: x"):
        resolve("", tmp_path, "y")


def test_the_document_s_names_of_sections(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model_config: {type: rnn}\nrun_config: {trainer: {K: 32}, logger: {kind: csv}}\nname: test\n"
        "hamiltonian: {type: rydberg, Lx: 4, Ly: 4}\n"
    )
    found = resolve("model_config.Nh=8", tmp_path, "x")
    assert (found.train.K, found.logger.kind, found.train.sub_directory, found.model.Nh) == (32, "csv", "test", 8)
    (tmp_path / "x.yaml").write_text("model_confg: {type: rnn}\n")
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        resolve("", tmp_path, "x")


REGISTERED = {
    "rnn": {"type": "rnn", "Nh": 8},
    "ptf": {"type": "ptf", "Nh": 8, "nhead": 2, "patch": "2x2"},
    "lptf": {"type": "lptf", "Nh": 8, "nhead": 2, "patch": "2x2", "subsampler": {"type": "rnn", "patch": 1, "Nh": 8}},
}


ON_DATA = ("hsm", "qembed", "graph")  # tests/hsm, tests/qembed, tests/graph


def test_every_registered_sampler_is_here() -> None:
    assert {section.name for section in sections("model")} == {*REGISTERED, "model", *ON_DATA}


@pytest.mark.parametrize("name", REGISTERED)
def test_a_run_from_its_settings_alone_is_bit_identical(name: str, tmp_path: Path) -> None:
    train = {"L": 16, "K": 16, "steps": 5, "dir": str(tmp_path / "a"), "seed": 3}
    first = qsr.train(model=REGISTERED[name], train=train, optimizer={"name": "spring"})
    assert first.path is not None
    tree = json.loads((first.path / "settings.json").read_text())
    settings = RunSettings.from_tree({key: value for key, value in tree.items() if key not in ("schema_version", "versions")})
    assert settings == first.settings and settings.tree() == first.settings.tree()
    tree["train"]["dir"] = str(tmp_path / "b")
    second = qsr.train(**{key: value for key, value in tree.items() if key not in ("schema_version", "versions", "objective")})
    for weights, others in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(weights, others)


BAD_FILES = [
    ("train: {1: 2}", "keys must be text"),
    ("a: &a [*a]", "x.yaml"),
    ("extra: {x: !!binary aGVsbG8=}", "extra.x is a bytes"),
    ("extra: {x: !!python/object/apply:pathlib.Path [a]}", "x.yaml"),
    ("model: {module_name: [a.B]}", "must be the name of a class"),
    ("model: 5", "expected a section"),
    ("hamiltonian: {type: rydburg}\nmodel: {type: rnn}", "hamiltonian.type=rydburg: not a hamiltonian; did you mean 'rydberg'"),
    ("[1]", "expected a mapping"),
    ("defaults: [_self_]\nhydra: {searchpath: ['pkg://os']}\nmodel: {type: rnn}", "settings of Hydra itself"),
    ("defaults: [_self_, {model: bad}]", "x.yaml"),
    ("defaults: [_self_, {model: '${oc.env:SECRET}'}]\nmodel: {type: rnn}", "x.yaml"),
    ("train: {sub_directory: '${oc.env:SECRET}'}\nmodel: {type: rnn}", "x.yaml"),
]


@pytest.mark.parametrize(("text", "problem"), BAD_FILES)
def test_bad_files_are_explained(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bad.yaml").write_text("a: [\n")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        resolve("", tmp_path, "x")
    assert problem in str(refusal.value) and "hunter2" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_interpolations_see_the_overrides(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.yaml").write_text("K: 32\n")
    text = "train: {lr: '???', seed: 4}\nmodel: {type: rnn}\noptimizer: {kwargs: {weight_decay: '${train.lr}'}}\n"
    (tmp_path / "x.yaml").write_text(text + "extra: {K: '${train.K}'}\ndefaults: [{train: a}, _self_]\n")
    found = resolve("train.lr=0.5 train.sub_directory=seed-${train.seed}", tmp_path, "x")
    assert found.train.lr == found.optimizer.kwargs["weight_decay"] == 0.5 and found.extra["K"] == found.train.K == 32
    assert found.train.sub_directory == "seed-4"


def test_sections_of_a_file_and_of_the_command_line_are_joined(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: a\nptf: {Nh: 16, nhead: 2}\nrydberg: {Lx: 4, Ly: 4}\ntrain: {K: 32}\nlogger: {kind: csv, name: one}\n"
        "optimizer: {module_name: torch.optim.AdamW, kwargs: {weight_decay: 0.1}}\n"
    )
    found = resolve("rydberg.delta=0.5 ptf.patch=2x2 --logger name=two", tmp_path, "x")
    assert (found.logger.kind, found.logger.name, found.train.sub_directory, found.model.Nh) == ("csv", "two", "a", 16)
    assert found.hamiltonian.delta == 0.5 and found.optimizer.kwargs == {"weight_decay": 0.1}
    other = resolve("optimizer.module_name=torch.optim.SGD ~optimizer.kwargs --tfim h=2", tmp_path, "x")
    assert other.hamiltonian.section == "tfim" and other.hamiltonian.Lx == 4 and other.optimizer.name == "SGD"
    with pytest.raises(ConfigError, match=r"optimizer\.lr: unknown setting.*optimizer\.kwargs\.lr"):
        resolve("optimizer.lr=0.1", tmp_path, "x")
    with pytest.raises(ConfigError, match=r"unknown section 'delta'.*with [+] before it"):
        resolve("delta=1.3", tmp_path, "x")


def test_the_document_s_model_section_and_its_overrides(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model_config:\n  module_name: demos.own_model.Perceptron\n"
        "  optimizer: {module_name: torch.optim.AdamW, kwargs: {lr: 0.001}}\n  early_stopping: {patience: 10}\n"
    )
    with imports_allowed(["demos.own_model"]):
        found = resolve("optimizer.kwargs.lr=0.0005 model.early_stopping.patience=4 model.hidden_dim=8", tmp_path, "x")
    assert found.train.lr == 0.0005 and found.early_stopping.patience == 4 and found.model.optimizer.name == "AdamW"
    assert found.model.optimizer.kwargs == {"lr": 0.0005} and found.model.hidden_dim == 8


def test_a_full_name_of_a_class_updates_stored_settings() -> None:
    stored = resolve("--train L=16 --rnn Nh=8 --optimizer name=AdamW weight_decay=0.1")
    same = stored.updated({"optimizer": {"module_name": "torch.optim.AdamW", "kwargs": {"eps": 1e-6}}})
    assert same.optimizer.kwargs == {"weight_decay": 0.1, "eps": 1e-6}
    assert stored.updated({"optimizer": {"module_name": "torch.optim.SGD"}}).optimizer == OptimizerHparams(name="SGD")


SAMPLER_TREES = st.fixed_dictionaries(
    {
        "train": st.fixed_dictionaries(
            {"L": st.sampled_from([16, 64])},
            optional={
                "K": st.integers(2, 4096),
                "Q": st.integers(1, 8),
                "steps": st.integers(0, 10**6),
                "lr": st.floats(1e-8, 10),
                "seed": st.integers(0, 2**63 - 1),
                "sub_directory": st.text("abcXYZ019-_=", max_size=12),
                "flips": st.one_of(st.sampled_from(["auto", "exact"]), st.integers(1, 64)),
                "precision": st.sampled_from(["float32", "float64", "tf32", "bf16"]),
            },
        ),
        "model": st.one_of(
            st.fixed_dictionaries({"type": st.just("rnn")}, optional={"Nh": st.integers(1, 64), "patch": st.just("2x2")}),
            st.fixed_dictionaries(
                {"type": st.just("ptf")}, optional={"dropout": st.floats(0, 0.99), "norm_first": st.booleans()}
            ),
            st.fixed_dictionaries({"type": st.just("lptf"), "patch": st.just("4x4"), "subsampler": st.just({"type": "rnn"})}),
        ),
        "hamiltonian": st.one_of(
            st.fixed_dictionaries({"type": st.just("rydberg")}, optional={"delta": st.floats(-5, 5), "V": st.floats(0, 20)}),
            st.fixed_dictionaries({"type": st.just("tfim")}, optional={"h": st.floats(0.1, 5)}),
        ),
    },
    optional={
        "optimizer": st.fixed_dictionaries({"name": st.sampled_from(["Adam", "SGD", "spring"])}),
        "scheduler": st.fixed_dictionaries({"name": st.sampled_from(["none", "auto", "ExponentialLR"])}),
        "logger": st.fixed_dictionaries({"kind": st.sampled_from(["none", "csv"])}),
        "extra": st.dictionaries(st.sampled_from(["note", "tag"]), st.one_of(st.integers(), st.booleans(), st.text("abc"))),
    },
)


@settings(max_examples=60, deadline=None)
@given(tree=SAMPLER_TREES)
def test_settings_survive_yaml_and_json(tmp_path_factory: pytest.TempPathFactory, tree: dict) -> None:  # type: ignore[type-arg]
    file = tmp_path_factory.mktemp("yaml") / "x.yaml"
    OmegaConf.save(OmegaConf.create(tree), file)
    first = RunSettings.from_tree(read_tree_of("x", file.parent, []))
    again = RunSettings.from_tree(json.loads(json.dumps(first.tree())))
    assert again == first and again.tree() == first.tree()
    for section, values in tree.items():
        for name, value in values.items():
            found = first.tree()[section]
            if name not in ("type", "name", "subsampler"):
                assert found[name] == value, (section, name)


@settings(max_examples=40, deadline=None)
@given(tree=SAMPLER_TREES, data=st.data())
def test_mutated_names_and_values_are_refused_by_name(tree: dict, data: st.DataObject) -> None:  # type: ignore[type-arg]
    section = data.draw(st.sampled_from(["train", "model", "hamiltonian"]))
    name = data.draw(st.sampled_from(["K", "Nh", "delta"])) + "x"
    with pytest.raises(ConfigError, match=rf"\.{name}: unknown setting"):
        RunSettings.from_tree({**tree, section: {**tree[section], name: 1}})
    values = [("K", 0), ("Q", 0), ("lr", 0.0), ("lr", float("nan")), ("seed", -1), ("steps", -1), ("flips", 0)]
    bad = data.draw(st.sampled_from(values))
    with pytest.raises(ConfigError, match=rf"train\.{bad[0]}"):
        RunSettings.from_tree({**tree, "train": {**tree["train"], bad[0]: bad[1]}})
