"""Fields, bounds and their messages; the grammar of the command line; the resolved tree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qsr
from qsr.hparams import (
    PRESETS,
    ConfigError,
    Hparam,
    Hparams,
    RunSettings,
    Section,
    find_section,
    hparams_class,
    parse_sections,
    register_section,
    sections,
)
from qsr.training import OptimizerHparams, SchedulerHparams, TrainHparams

SOURCE_LINE = "--train L=64 NLOOPS=16 K=1024 sub_directory=2x2 --ptf _2D=True patch=2"


def resolve(line: str, preset: str | None = None) -> RunSettings:
    return RunSettings.from_tree(parse_sections(line.split()), preset)


def test_the_sources_own_line() -> None:
    settings = resolve(SOURCE_LINE)
    assert (settings.train.L, settings.train.NLOOPS, settings.train.K, settings.train.B) == (64, 16, 1024, 1024)
    assert settings.train.sub_directory == "2x2"
    assert settings.model.patch == "2x2"
    assert (settings.hamiltonian.Lx, settings.hamiltonian.Ly, settings.hamiltonian.V) == (8, 8, 7.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--trian L=64 --ptf", "--trian: unknown section; did you mean 'train'?"),
        ("--train LL=64 --ptf", "train.LL: unknown setting; did you mean 'L'?"),
        ("--train K=ten --ptf", "train.K=ten: must be a whole number (number of samples per minibatch)"),
        ("--train K=0 --ptf", "train.K=0: must be at least 1 (number of samples per minibatch)"),
        ("--train K=1 --ptf", "train.K=1: a step needs at least two samples (Q*K = 1)"),
        ("--train K=2.5 --ptf", "train.K=2.5: must be a whole number"),
        ("--train sgrad=maybe --ptf", "train.sgrad=maybe: must be True or False"),
        ("--train lr=nan --ptf", "train.lr=nan: must be a finite number"),
        ("--train B=7 K=2 Q=3 --ptf", "train.B=7: must be Q*K = 3*2 = 6"),
        ("--train L=64 L=64 --ptf", "train.L: given twice (64 and 64)"),
        ("--train L --ptf", "--train L: expected name=value"),
        ("L=64 --ptf", "'L=64': expected a section first (--train,"),
        ("--train L=50 --ptf", "train.L=50: not a square number; give the lattice with Lx and Ly"),
        ("--train L=50 --ptf --rydberg Lx=5 Ly=5", "train.L=50: rydberg has Lx*Ly = 5*5 = 25 sites"),
        ("--train L=64", "no model: give one of --rnn, --ptf, --lptf"),
        ("--ptf --rnn", "--rnn: a model is already given (--ptf), and only --lptf and --hsm take another inside"),
        ("--ptf --rydberg --tfim", "--tfim: there is already a hamiltonian section"),
        ("--ptf patch=3x3", "ptf.patch=3x3: does not tile the 8x8 lattice"),
        ("--ptf patch=7", "ptf.patch=7: does not divide the 64 sites"),
        ("--ptf patch=big", "ptf.patch=big: must be a number of sites (patch=4) or a block (patch=2x2)"),
        ("--ptf L=36", "ptf.L=36: the lattice has 8*8 = 64 sites"),
        ("--ptf Nh=30 nhead=4", "ptf.nhead=4: must divide Nh=30"),
        ("--ptf token=words", "ptf.token=words: must be 'embedding', 'linear' or 'qembed'"),
        ("--ptf token=linear --qembed", "ptf.token=linear: the tokens are those of --qembed; leave it out"),
        ("--ptf token=qembed", "ptf.token=qembed: write --qembed after it"),
        ("--qembed K=4 --ptf", "--ptf: a model is already given; --qembed after --ptf makes its tokens"),
        ("--ptf --qembed K=4 --qembed K=2", "--qembed: --ptf has its tokens already"),
        ("--ptf --qembed strategy=born", "qembed_tokens.collapse_strategy=born: draws senses"),
        ("--ptf --qembed Kay=4", "qembed_tokens.Kay: unknown setting; did you mean 'K'?"),
        ("--rnn Nh=9 --qembed", "rnn.Nh=9: must be even for qembed_tokens.readout=concat"),
        ("--ptf patch=4x4", "ptf.patch=4x4: 16 sites need a table of 2^16 entries"),
        ("--ptf dropout=1", "ptf.dropout=1: must be smaller than 1.0"),
        ("--rnn rnntype=LSTM", "rnn.rnntype=LSTM: must be 'GRU' or 'ELMAN'"),
        ("--lptf patch=4x4", "lptf.subsampler: missing"),
        ("--lptf patch=4x4 Nh=32 --rnn Nh=16", "rnn.Nh=16: as subsampler it must equal the Nh=32"),
        ("--lptf patch=4x4 --rnn L=9", "rnn.L=9: the lattice has 4*4 = 16 sites"),
        ("--lptf patch=4x4 --rnn patch=3x3", "rnn.patch=3x3: does not tile the 4x4 lattice"),
        ("--lptf patch=4x4 --ptf patch=2x2 Nh=8 repeat_pre=True", "ptf.repeat_pre=True: needs Nh=8 equal to the Nh=32"),
        ("--train NLOOPS=17 --ptf", "train.NLOOPS=17: must be at most 16"),
        ("--ptf _2D=False patch=2x2", "ptf.patch=2x2: is a block, but _2D=False was given"),
        ("--train precision=float16 --ptf", "train.precision=float16: must be 'float32', 'float64', 'tf32' or 'bf16'"),
        ("--train device=gpu --ptf", "train.device=gpu: must be auto, cpu, cuda or cuda:N"),
        ("--train L=0 --ptf", "train.L=0: must be at least 1"),
        ("--ptf --optimizer name=LBFGS", "optimizer.name=LBFGS: evaluates the loss again"),
        ("--ptf --optimizer name=Adan", "optimizer.name=Adan: unknown optimizer; did you mean 'Adam'?"),
        ("--ptf --optimizer weight_decy=0.1", "optimizer.weight_decy: Adam has no such argument; did you mean 'weight_decay'?"),
        ("--ptf --optimizer lr=0.1 --train lr=0.2", "train.lr=0.2: optimizer.kwargs.lr=0.1 says something else"),
        ("--ptf --scheduler name=StepLR gama=0.5", "scheduler.gama: StepLR has no such argument; did you mean 'gamma'?"),
        ("--ptf --objective name=teacher", "--objective: set by the command itself"),
    ],
)
def test_bad_settings_are_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve(line)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_values_are_typed_by_their_field_and_not_by_their_looks() -> None:
    settings = resolve("--train sub_directory=007 dir=1e3 NLOOPS=none seed=12 L=16 --ptf dropout=0 --rydberg V=7")
    assert (settings.train.sub_directory, settings.train.dir, settings.train.NLOOPS) == ("007", "1e3", None)
    assert settings.train.seed == 12 and isinstance(settings.train.seed, int)
    assert isinstance(settings.model.dropout, float) and isinstance(settings.hamiltonian.V, float)


def test_torch_classes_take_their_own_arguments() -> None:
    settings = resolve("--rnn --optimizer name=sgd momentum=0.9 nesterov=true --scheduler name=steplr step_size=10 gamma=0.5")
    assert settings.optimizer.name == "SGD" and settings.optimizer.kwargs == {"momentum": 0.9, "nesterov": True}
    assert settings.scheduler.name == "StepLR" and settings.scheduler.kwargs == {"step_size": 10, "gamma": 0.5}
    assert resolve("--rnn --optimizer betas=0.8,0.99").optimizer.kwargs == {"betas": [0.8, 0.99]}


def test_a_model_after_lptf_is_its_subsampler_at_any_depth() -> None:
    settings = resolve("--lptf patch=4x4 --lptf patch=2x2 --rnn patch=1 --train L=64")
    assert settings.model.subsampler.section == "lptf"
    assert settings.model.subsampler.subsampler.section == "rnn"
    assert settings.model.subsampler.subsampler.Nh == settings.model.subsampler.Nh


def test_an_embedding_belongs_to_the_sampler_before_it() -> None:
    inner = "--rnn patch=2x2 --qembed K=2 context_encoder=mean"
    model = resolve(f"--lptf patch=4x4 --qembed strategy=none factorization=ketxs {inner} --train L=64").model
    assert (model.token, model.embedding.collapse_strategy, model.embedding.num_states) == ("qembed", "none", 4)
    assert (model.subsampler.embedding.context_encoder, model.subsampler.embedding.num_states) == ("mean", 2)
    model = resolve(f"--lptf patch=4x4 {inner} --train L=64").model
    assert (model.token, model.embedding, model.subsampler.embedding.num_states) == ("linear", None, 2)
    named = {"type": "ptf", "embedding": {"type": "qembed", "K": 3}}
    assert RunSettings.from_tree({"model": named}).model == qsr.PTF(embedding={"num_states": 3})


@pytest.mark.parametrize(
    "line",
    [
        SOURCE_LINE,
        "--lptf patch=4x4 --qembed factorization=ketxs order=4 --ptf --qembed strategy=argmax entanglement=ghz_state ghz_size=3",
        "--train K=4 Q=2 dir=<NONE> --lptf patch=4x4 --ptf patch=2 _2D=True --rydberg Lx=8 Ly=4 boundary=periodic delta=2",
        "--rnn patch=2 --tfim Lx=6 Ly=1 h=0.5 --optimizer name=AdamW --scheduler name=none --gradient_clipping max_norm=none",
        "--lptf patch=2x2 --lptf patch=2x1 --rnn patch=1 --heisenberg Lx=4 Ly=4",
    ],
)
def test_settings_survive_json(line: str) -> None:
    settings = resolve(line)
    assert RunSettings.from_tree(json.loads(json.dumps(settings.tree()))) == settings


def test_presets_lie_below_what_is_written() -> None:
    settings = resolve("--train L=16 lr=0.01 --lptf patch=2x2 nhead=4 --ptf patch=1", preset="nnqsr")
    assert (settings.model.dim_feedforward, settings.model.norm_first, settings.model.nhead) == (2048, False, 4)
    assert (settings.model.subsampler.positions, settings.model.subsampler.Nh) == ("sinusoidal", 128)
    assert (settings.train.lr, settings.scheduler.name, settings.gradient_clipping.max_norm) == (0.01, "none", None)
    embedded = resolve("--train L=16 --lptf patch=2x2 --qembed --ptf patch=1", preset="nnqsr").model
    assert (embedded.token, embedded.subsampler.token, embedded.Nh) == ("qembed", "linear", 128)
    with pytest.raises(ConfigError, match="unknown preset; did you mean 'nnqsr'"):
        resolve("--ptf", preset="nnqs")


def test_every_preset_names_real_settings() -> None:
    for preset in PRESETS.values():
        for section, values in preset.items():
            if section == "model":
                assert find_section(values["type"]).role == "model"
                continue
            assert set(values) <= set(hparams_class(section).model_fields)


def test_a_fast_preset_brings_its_model_and_lattice_and_gives_way() -> None:
    settings = resolve("", preset="fast-8x8")
    assert (settings.model.section, settings.model.Nh, settings.hamiltonian.shape) == ("ptf", 16, (8, 8))
    assert (settings.optimizer.name, settings.train.lr) == ("spring", 0.05)
    changed = resolve("--train lr=0.02 --ptf Nh=32 --optimizer shift=1e-2 name=spring --rydberg delta=1.2", preset="fast-8x8")
    assert (changed.model.Nh, changed.model.nhead, changed.train.lr, changed.hamiltonian.delta) == (32, 2, 0.02, 1.2)
    assert (changed.optimizer.kwargs["shift"], changed.optimizer.kwargs["momentum"]) == (1e-2, 0.8)
    other = resolve("--rnn Nh=32 --optimizer name=Adam", preset="fast-8x8")  # another class takes none of spring's arguments
    assert (other.model.section, other.optimizer.name, other.optimizer.kwargs) == ("rnn", "Adam", {})
    with pytest.raises(ConfigError, match="must end on the lattice of the Hamiltonian, 4x4"):
        resolve("--train L=16", preset="fast-8x8")


def test_natural_gradients_have_a_rate_of_their_own() -> None:
    assert resolve("--ptf --optimizer name=spring").train.lr == 0.05
    assert resolve("--ptf --optimizer name=spring --train lr=0.1").train.lr == 0.1
    assert resolve("--ptf").train.lr == 5e-3


def test_finetuning_changes_what_is_given_and_keeps_the_rest() -> None:
    stored = resolve("--train L=16 K=4 Q=2 NLOOPS=4 lr=0.01 --ptf patch=2x2 L=16 --rydberg V=3 delta=2")
    larger = stored.updated({"train": {"L": 64, "K": 8}})
    assert (larger.hamiltonian.Lx, larger.hamiltonian.Ly, larger.hamiltonian.V) == (8, 8, 3.0)
    assert (larger.train.K, larger.train.Q, larger.train.B, larger.train.NLOOPS, larger.train.lr) == (8, 2, 16, None, 0.01)
    oblong = stored.updated({"hamiltonian": {"type": "rydberg", "Lx": 4, "Ly": 6}})
    assert (oblong.train.L, oblong.hamiltonian.delta, oblong.train.K) == (24, 2.0, 4)
    other = stored.updated({"hamiltonian": {"type": "tfim"}, "train": {"L": 16}})
    assert other.hamiltonian.section == "tfim"
    with pytest.raises(ConfigError, match="transfer"):
        stored.updated({"model": {"type": "rnn"}})


def test_python_objects_and_words_end_in_the_same_settings() -> None:
    written = resolve("--train K=8 --ptf patch=2x2 Nh=16 --rydberg Lx=4 Ly=6 delta=0.5")
    objects = RunSettings.from_tree(
        {"model": qsr.PTF(patch=(2, 2), Nh=16), "hamiltonian": qsr.Rydberg(Lx=4, Ly=6, delta=0.5), "train": {"K": 8}}
    )
    assert written == objects


def test_assignment_is_validated() -> None:
    section = TrainHparams(K=4)
    with pytest.raises(ConfigError, match=r"train\.K=0"):
        section.K = 0


class Toy(Hparams):
    section = "toy"
    count: int = Hparam(3, ge=1, help="how many")


def test_sections_can_be_registered_and_are_imported_lazily() -> None:
    register_section(Section("toy_section", "does.not.exist:Toy", "part", "a toy"))
    assert find_section("TOY_SECTION").title == "a toy"
    with pytest.raises(ModuleNotFoundError):
        hparams_class("toy_section")
    with pytest.raises(ValueError, match="already"):
        register_section(Section("toy_section", "elsewhere:Toy", "part", "another"))


@given(name=st.text("abcdefghijklmnop_", min_size=1, max_size=12))
def test_any_unknown_name_is_refused_with_the_section(name: str) -> None:
    if name not in Toy.known_names():
        with pytest.raises(ConfigError, match=r"^toy\."):
            Toy.from_text({name: "1"})


@given(value=st.integers(-10, 10))
def test_any_value_is_kept_or_refused_by_its_bound(value: int) -> None:
    if value >= 1:
        assert Toy.from_text({"count": str(value)}).count == value
    else:
        with pytest.raises(ConfigError, match="at least 1"):
            Toy.from_text({"count": str(value)})


@pytest.mark.parametrize("cls", [OptimizerHparams, SchedulerHparams])
def test_every_offered_torch_class_is_understood_in_any_case(cls: type) -> None:
    for name in cls.choices():
        assert cls(name=name.upper()).name == name


def test_every_section_documents_every_setting() -> None:
    for section in sections():
        if section.target.startswith("qsr."):
            for name, field in hparams_class(section.name).model_fields.items():
                assert field.description, f"{section.name}.{name} has no help line"


def test_finetuning_keeps_the_lattice_unless_it_is_given() -> None:
    stored = resolve("--train K=4 --rnn patch=1 --rydberg Lx=2 Ly=8 boundary=periodic")
    for change in (
        {"hamiltonian": {"type": "tfim"}},
        {"train": {"L": 16}},
        {"hamiltonian": {"type": "tfim"}, "train": {"L": 16}},
    ):
        kept = stored.updated(change)
        assert (kept.hamiltonian.Lx, kept.hamiltonian.Ly, kept.hamiltonian.boundary) == (2, 8, "periodic")
    free = RunSettings.from_tree({"model": qsr.RNN(patch=1), "hamiltonian": qsr.Rydberg(positions=[[0, 0], [1, 0]])})
    with pytest.raises(ConfigError, match=r"tfim\.Lx: the stored run has free positions"):
        free.updated({"hamiltonian": {"type": "tfim"}})


def test_finetuning_switches_and_merges_torch_classes() -> None:
    stored = resolve("--rnn --optimizer name=AdamW betas=0.8,0.9 --scheduler name=OneCycleLR pct_start=0.2")
    switched = stored.updated({"optimizer": {"name": "sgd"}, "scheduler": {"name": "none"}})
    assert (switched.optimizer.name, switched.optimizer.kwargs, switched.scheduler.kwargs) == ("SGD", {}, {})
    merged = stored.updated({"optimizer": {"kwargs": {"weight_decay": 0.1}}})
    assert merged.optimizer.kwargs == {"betas": [0.8, 0.9], "weight_decay": 0.1}


def test_the_originals_main_architecture_is_a_preset() -> None:
    settings = resolve("--lptf patch=4x4 --rnn patch=2x2", preset="nnqsr")
    assert settings.model.Nh == settings.model.subsampler.Nh == 128


@pytest.mark.parametrize("name", ["a/b", "..\\up", "/../../out", "two\nlines"])
def test_a_sub_directory_is_part_of_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.sub_directory=.*: must be part of a name"):
        TrainHparams(sub_directory=name)


def test_the_batch_follows_its_factors() -> None:
    section = TrainHparams(K=4, Q=2)
    section.K = 8
    assert section.B == 16
