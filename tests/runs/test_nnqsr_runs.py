"""Settings and weights of the original NN-QSR in our terms; runs of it load as ours do."""

import json
import os
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from safetensors.torch import load_file, save_file

from qsr import TFIM, Rydberg
from qsr.hparams import ConfigError
from qsr.runs import convert_settings, convert_weights, is_nnqsr, load_model, read_run

DATA = Path(__file__).resolve().parents[1] / "data" / "nnqsr"
NAMES = sorted(folder.name for folder in DATA.iterdir())
GRU = "rnn_gru_4x4_patch2x2"
# The folder with all weights and expected values, where there is one; two small runs are always here.
REFERENCE = Path(os.environ.get("QSR_REFERENCE", DATA.parent)) / "nnqsr"
WITH_WEIGHTS = {
    folder.name: folder for root in (DATA, REFERENCE) for folder in root.iterdir() if (folder / "weights.safetensors").exists()
}
WITH_VALUES = [name for name in NAMES if (REFERENCE / name / "expected.h5").exists()]


def tree_of(name: str) -> dict:
    return json.loads((DATA / name / "settings.json").read_text())


NETWORK = {"dim_feedforward": 2048, "norm_first": False, "token": "linear", "positions": "sinusoidal", "dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "model", "hamiltonian"),
    [
        ("rnn_elman_4x4_patch1", {"type": "rnn", "L": 16, "patch": "1", "Nh": 32, "rnntype": "ELMAN"}, (4, 1.0)),
        (GRU, {"type": "rnn", "L": 16, "patch": "2x2", "Nh": 32, "rnntype": "GRU"}, (4, 1.0)),
        (
            "ptf_4x4_patch4_1d",
            {"type": "ptf", "L": 16, "patch": "4", "num_layers": 1, "nhead": 4, "repeat_pre": False, **NETWORK},
            (4, 2.0),
        ),
        ("ptf_6x6_patch2x3", {"type": "ptf", "L": 36, "patch": "2x3", "num_layers": 2, "nhead": 4, **NETWORK}, (6, 1.0)),
        ("lptf_6x6_patch3x3_rnn3", {"type": "lptf", "L": 36, "patch": "3x3", "num_layers": 2, "nhead": 4, **NETWORK}, (6, 1.0)),
        ("lptf_8x8_patch4x4_rnn2x2", {"type": "lptf", "L": 64, "patch": "4x4", "num_layers": 2, "nhead": 4, **NETWORK}, (8, 1.0)),
    ],
)
def test_settings(name: str, model: dict, hamiltonian: tuple[int, float]) -> None:
    tree = tree_of(name)
    assert is_nnqsr(tree)
    settings = convert_settings(tree)
    found = settings.tree()
    assert {key: found["model"][key] for key in model} == model
    side, delta = hamiltonian
    assert settings.hamiltonian == Rydberg(Lx=side, Ly=side, V=7.0, Omega=1.0, delta=delta, boundary="open")
    assert {key: found["train"][key] for key in tree["train"]} == tree["train"]
    assert (found["optimizer"]["name"], found["scheduler"]["name"], found["gradient_clipping"]["max_norm"]) == (
        "Adam",
        "none",
        None,
    )
    assert not is_nnqsr({"schema_version": 1, **found})


def test_subsampler_settings() -> None:
    inner = convert_settings(tree_of("lptf_6x6_patch3x3_rnn3")).model.subsampler
    assert (inner.section, inner.L, inner.patch, inner.Nh, inner.rnntype) == ("rnn", 9, "3", 32, "GRU")


def test_older_spelling_of_square_patches_and_empty_values() -> None:
    tree = tree_of(GRU)
    tree["model"].update(patch=2, _2D=True, model_name="RNN")
    tree["train"]["seed"] = None
    settings = convert_settings(tree)
    assert settings.model.patch == "2x2" and settings.train.seed == 0


def test_tfim_is_a_periodic_chain() -> None:
    tree = tree_of("ptf_4x4_patch4_1d")
    tree["hamiltonian"] = {"L": 16, "h_x": -0.5, "J": 2.0, "name": "TFIM"}
    assert convert_settings(tree).hamiltonian == TFIM(Lx=16, Ly=1, boundary="periodic", J=2.0, h=0.5)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        (GRU, "train", ..., "missing train$"),
        (GRU, "model", ..., "missing model$"),
        (GRU, "model.model_name", ..., r"missing model\.model_name"),
        (GRU, "model.rnntype", ..., r"missing model\.rnntype"),
        (GRU, "hamiltonian.delta", ..., r"missing hamiltonian\.delta"),
        (GRU, "train.L", ..., r"missing train\.L"),
        ("lptf_6x6_patch3x3_rnn3", "submodel.patch", ..., r"missing submodel\.patch"),
        ("lptf_6x6_patch3x3_rnn3", "submodel", ..., r"lptf\.subsampler: missing"),
        ("lptf_6x6_patch3x3_rnn3", "model.full_seq", True, r"model\.full_seq=True: only False"),
        (GRU, "submodel", {"model_name": "PRNN"}, "submodel: only LPTF takes one"),
        (GRU, "model.model_name", "MPS", r"model\.model_name=MPS: unknown; one of"),
        (GRU, "hamiltonian.name", "XYZ", r"hamiltonian\.name=XYZ: unknown; one of"),
        (GRU, "model.surprise", 1, r"rnn\.surprise: unknown setting"),
        (GRU, "train.B", 7, r"train\.B=7: must be Q\*K"),
        (GRU, "model", [], "model: expected a section"),
    ],
)
def test_settings_that_are_not_ours(tmp_path: Path, name: str, path: str, value: object, message: str) -> None:
    tree = tree_of(name)
    *parents, last = path.split(".")
    section = tree[parents[0]] if parents else tree
    if value is ...:
        del section[last]
    else:
        section[last] = value
    (tmp_path / "settings.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=message) as caught:
        read_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'settings.json'}: ") and "\n" not in str(caught.value)


def test_weight_names() -> None:
    layer = "transformer.transformer.layers.1."
    names = {
        "tokenize.0.weight": "trunk.tokens.linear.weight",
        layer + "self_attn.in_proj_bias": "trunk.layers.1.qkv.bias",
        layer + "self_attn.out_proj.weight": "trunk.layers.1.out.weight",
        layer + "linear2.weight": "trunk.layers.1.linear2.weight",
        layer + "norm1.bias": "trunk.layers.1.norm1.bias",
        "lin.2.bias": "head.2.bias",
        "subsampler.rnn.weight_hh_l0": "subsampler.rnn.weight_hh_l0",
        "subsampler.lin.0.weight": "subsampler.head.0.weight",
        "subsampler.subsampler.lin.0.weight": "subsampler.subsampler.head.0.weight",
        **dict.fromkeys(
            ["lin0.0.weight", "lin1.2.bias", "pe.pe", "options", "transformer.mask", "patch.mixed", "subsampler.options"]
        ),
    }
    tensors = {name: torch.tensor(float(index)) for index, name in enumerate(names)}
    found = convert_weights(tensors)
    assert found == {ours: tensors[name] for name, ours in names.items() if ours is not None}


def test_unknown_weight_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown weights lin\.1\.weight, other, rnn\.weight_ih_l1 \(expected"):
        convert_weights(dict.fromkeys(["lin.0.weight", "lin.1.weight", "other", "rnn.weight_ih_l1"], torch.ones(1)))


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_runs_load(name: str) -> None:
    folder = WITH_WEIGHTS[name]
    model = load_model(folder)
    assert not model.training
    original = load_file(folder / "weights.safetensors")
    state = model.state_dict()
    assert state.keys() == convert_weights(original).keys()
    prefix = "" if "lin.0.weight" in original else "subsampler."
    assert torch.equal(state[f"{prefix}head.0.weight"], original[f"{prefix}lin.0.weight"])


def test_log_probabilities_of_the_original() -> None:
    """Against the original's own values for all runs that are here (QSR_REFERENCE), and from a few of them for the GRU."""
    configs = torch.tensor([[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1]])
    with torch.no_grad():
        assert torch.allclose(load_model(DATA / GRU).log_prob(configs), torch.tensor([-6.571937, -7.936171]), atol=1e-4)
        for name in WITH_VALUES:
            with h5py.File(REFERENCE / name / "expected.h5", "r") as file:
                configs, expected = torch.from_numpy(file["configs"][:]), torch.from_numpy(file["log_prob"][:])
            assert (load_model(REFERENCE / name).log_prob(configs) - expected).abs().max() < 1e-4, name


def test_the_file_that_linux_puts_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "16-B=256-K=256" / "0"
    run.mkdir(parents=True)
    shutil.copy(DATA / GRU / "weights.safetensors", run)
    beside = run.with_name("0\\settings.json")
    shutil.copy(DATA / GRU / "settings.json", beside)
    assert read_run(run).settings == read_run(DATA / GRU).settings
    monkeypatch.chdir(run)
    assert read_run(".").settings == read_run(DATA / GRU).settings
    beside.write_text("{")
    with pytest.raises(ConfigError, match=r"0\\settings\.json: not JSON"):
        read_run(run)


class Original(torch.nn.Module):
    """As NN-QSR saves its RNN."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.GRU(4, 32)
        self.lin = torch.nn.Sequential(
            torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.Softmax(dim=-1)
        )
        self.options = torch.zeros(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(self.rnn(x)[0]) + self.options.sum()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_archive_of_a_run(tmp_path: Path) -> None:
    original = Original()
    original.load_state_dict(load_file(DATA / GRU / "weights.safetensors"))
    torch.jit.script(original).save(str(tmp_path / "T"))
    shutil.copy(DATA / GRU / "settings.json", tmp_path)
    found, expected = read_run(tmp_path).weights, read_run(DATA / GRU).weights
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    load_model(tmp_path)
    os.truncate(tmp_path / "T", 1000)
    with pytest.raises(ConfigError, match=f"^{tmp_path}/T: not a readable TorchScript archive"):
        load_model(tmp_path)


def test_our_names_in_a_run_of_nnqsr(tmp_path: Path) -> None:
    shutil.copy(DATA / GRU / "settings.json", tmp_path)
    save_file(read_run(DATA / GRU).weights, tmp_path / "weights.safetensors")
    load_model(tmp_path)
