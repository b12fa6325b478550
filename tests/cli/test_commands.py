"""The commands as a user types them: real processes, real files, exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qsr.cli.main import qsr as qsr_group
from tests.commands import run_qsr as qsr

ROOT = Path(__file__).resolve().parents[2]
NNQSR = ROOT / "tests" / "data" / "nnqsr"
SHORT = "K=16 steps=2 dir=DIR"


def line(text: str, folder: Path) -> list[str]:
    return text.replace("DIR", str(folder)).split()


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Exit code 2, one line, nothing else."""
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr and result.stdout == ""


@pytest.fixture(scope="module")
def rnn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 8x8 RNN, as the source's demos/RNN."""
    folder = tmp_path_factory.mktemp("rnn")
    result = qsr(*line(f"train --train L=64 {SHORT} --rnn patch=2x2 Nh=16", folder))
    assert result.returncode == 0, result.stderr
    return folder / "rydberg" / "64-B=16-K=16" / "0"


# --- the source's own lines, with shorter runs ------------------------------------------------------------------------


def test_train_as_in_the_source(tmp_path: Path) -> None:
    result = qsr(*line("train --train L=64 NLOOPS=16 K=16 steps=2 sub_directory=2x2 dir=DIR --ptf _2D=True patch=2", tmp_path))
    assert result.returncode == 0, result.stderr
    run = tmp_path / "rydberg" / "64-B=16-K=16-2x2" / "0"
    settings = json.loads((run / "settings.json").read_text())
    assert settings["model"]["patch"] == "2x2" and settings["train"]["NLOOPS"] == 16
    assert f"done: {run}" in result.stdout


def test_a_sum_of_pauli_strings_and_a_model_with_phase(tmp_path: Path) -> None:
    """The triangle of spins: three bonds without a sign rule."""
    file = tmp_path / "triangle.txt"
    file.write_text("".join(f"0.25 {letter}{i} {letter}{j}\n" for i, j in ((0, 1), (1, 2), (0, 2)) for letter in "XYZ"))
    short = line(f"--train {SHORT}", tmp_path)
    assert_refused(qsr("train", *short, "--rnn", "patch=1", "--pauli", f"file={file}"), "phase=True")
    result = qsr("train", *short, "--rnn", "patch=1", "Nh=8", "phase=True", "--pauli", f"file={file}")
    assert result.returncode == 0, result.stderr
    loaded = qsr("load", str(tmp_path / "pauli" / "3-B=16-K=16" / "0"), "64", "32")
    assert loaded.returncode == 0 and "pauli 3x1 open: 9 terms on 3 sites" in loaded.stdout
    exact = qsr("exact", "--pauli", f"file={file}")
    assert exact.returncode == 0 and "-0.75" in exact.stdout
    assert_refused(qsr("train", *short, "--rnn", "phase=True", "--pauli", "terms=0.5 x0"), "pauli.terms: line 1: 'x0'")


@pytest.mark.parametrize("spelled", ["--training", "--train"])
def test_help_of_the_training_section(spelled: str) -> None:
    result = qsr("train", "--help", spelled)
    assert result.returncode == 0
    for name in ("L", "Q", "K", "B", "NLOOPS", "steps", "dir", "lr", "seed", "sgrad", "true_grad", "sub_directory"):
        assert re.search(rf"^  {name} +\(", result.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("rnn", "L Nh patch _2D rnntype"),
        ("ptf", "L Nh patch _2D dropout num_layers nhead repeat_pre dim_feedforward norm_first token positions"),
        ("lptf", "L Nh patch _2D dropout num_layers nhead subsampler"),
        ("qembed", "num_states K collapse_strategy strategy context_encoder factorization"),
        ("rydberg", "Lx Ly V Omega delta boundary positions"),
        ("optimizer", "name"),
    ],
)
def test_help_of_the_other_sections(section: str, names: str) -> None:
    result = qsr("train", "--help", f"--{section}")
    assert result.returncode == 0
    for name in names.split():
        assert re.search(rf"^  {name} +\(", result.stdout, re.MULTILINE), name


def test_help_says_what_the_hamiltonian_is() -> None:
    assert "H = -(Omega/2) sum_i X_i" in qsr("train", "--help", "--rydberg").stdout
    bare = qsr()
    assert bare.returncode == 0 and "Ground states:" in bare.stdout and bare.stderr == ""


@pytest.mark.parametrize("command", ["train", "load", "observe", "extrapolate", "finetune", "transfer", "exact", "plot"])
def test_help_of_the_commands(command: str) -> None:
    result = qsr(command, "--help")
    assert result.returncode == 0 and f"qsr {command}" in result.stdout
    if command in ("train", "finetune", "transfer", "exact"):
        assert all(f"--{section}" in result.stdout for section in ("train", "rnn", "ptf", "lptf", "rydberg"))


def test_load_as_in_the_source(rnn_run: Path) -> None:
    result = qsr("load", str(rnn_run), "64", "32")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^energy per site +-?\d+\.\d+\(\d+\)$", result.stdout, re.MULTILINE)
    assert (rnn_run / "samples.h5").is_file()
    assert (rnn_run / "evaluation.txt").read_text() in result.stdout
    assert "rydberg 8x8 open: V=7.0 Omega=1.0 delta=1.0" in result.stdout


def test_observe_and_extrapolate(rnn_run: Path, tmp_path: Path) -> None:
    words = ["--region", "rows:1", "--momentum", "pi,0"]
    result = qsr("observe", str(rnn_run), "64", "32", *words, "--fidelity", str(rnn_run), "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    for name in ("binder", "domain_size", r"S\(pi,pi\) connected", r"S\(pi,0\)", "renyi2 rows:1", "fidelity"):
        assert re.search(rf"^{name} +-?\d", result.stdout, re.MULTILINE), name
    assert (tmp_path / "observables.h5").is_file() and (tmp_path / "observables.png").is_file()
    other = NNQSR / "rnn_gru_4x4_patch2x2"
    assert_refused(qsr("observe", str(rnn_run), "64", "32", "--fidelity", str(other)), "expected a run on the same 8x8 sites")
    assert_refused(qsr("extrapolate", str(rnn_run), str(other)), "expected the Hamiltonian of")
    picture = tmp_path / "line.png"
    words = ["extrapolate", str(other), str(NNQSR / "rnn_elman_4x4_patch1")]
    result = qsr(*words, "--samples", "64", "--batch", "32", "--picture", str(picture))
    assert result.returncode == 0, result.stderr
    assert re.search(r"^E/N at zero variance +-?\d", result.stdout, re.MULTILINE) and picture.is_file()


def test_finetune_as_in_the_source(rnn_run: Path, tmp_path: Path) -> None:
    words = line(f"--train L=256 NLOOPS=64 {SHORT} --rydberg Lx=16 Ly=16", tmp_path)
    result = qsr("finetune", str(rnn_run), *words)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "rydberg" / "256-B=16-K=16" / "0"
    settings = json.loads((run / "settings.json").read_text())
    assert settings["hamiltonian"]["Lx"] == 16 and settings["model"]["Nh"] == 16


def test_transfer_as_in_the_source(rnn_run: Path, tmp_path: Path) -> None:
    result = qsr("transfer", str(rnn_run), *line(f"--train L=64 {SHORT} --ptf _2D=True patch=2", tmp_path))
    assert result.returncode == 0, result.stderr
    assert "KL=" in result.stderr
    assert (tmp_path / "rydberg" / "64-B=16-K=16" / "0" / "weights.safetensors").is_file()


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_plot_and_exact(rnn_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "run.png"
    result = qsr("plot", str(rnn_run), "--output", str(picture))
    assert result.returncode == 0 and picture.stat().st_size > 10_000
    result = qsr("exact", "--rydberg", "Lx=2", "Ly=2")
    reference = json.loads((ROOT / "tests" / "data" / "rydberg.json").read_text())
    (record,) = [
        entry
        for entry in reference
        if (entry["model"], entry["Lx"], entry["Ly"], entry["params"].get("delta")) == ("rydberg", 2, 2, 1.0)
    ]
    assert f"{record['energy']:.10f}" in result.stdout and f"{record['observables']['gap']:.10f}" in result.stdout


def test_python_m_qsr_works_from_anywhere_and_shows_the_version(tmp_path: Path) -> None:
    for folder in (ROOT, tmp_path):
        result = qsr("--version", cwd=folder)
        assert result.returncode == 0 and result.stdout.startswith("qsr, version 0.1.0")


def test_runs_of_the_original_are_read_where_a_run_is_expected(tmp_path: Path) -> None:
    run = NNQSR / "rnn_gru_4x4_patch2x2"
    result = qsr("load", str(run), "64", "64", "--output", str(tmp_path / "results"))
    assert result.returncode == 0 and (tmp_path / "results" / "samples.h5").is_file()
    result = qsr("finetune", str(run), *line(f"--train {SHORT}", tmp_path))
    assert result.returncode == 0, result.stderr
    assert not (run / "samples.h5").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --trian L=64 --ptf", "--trian: unknown section; did you mean 'train'?"),
        ("train --train LL=64 --ptf", "train.LL: unknown setting; did you mean 'L'?"),
        ("train --train K=many --ptf", "train.K=many: must be a whole number"),
        ("train --train L=50 --ptf", "train.L=50: not a square number"),
        ("train --ptf patch=3x3", "ptf.patch=3x3: does not tile the 8x8 lattice"),
        ("train --ptf Nh=30 nhead=4", "ptf.nhead=4: must divide Nh=30"),
        ("train --train B=7 K=2 --ptf", "train.B=7: must be Q*K = 1*2 = 2"),
        ("train --train L=64", "no model"),
        ("train --help --pft", "--pft: unknown section; did you mean 'ptf'?"),
        ("train --resume nowhere", "nowhere: no such directory"),
        ("load nowhere", "nowhere: no such directory"),
        ("load", "Missing argument 'RUN'"),
        ("finetune nowhere --train steps=1", "nowhere: no such directory"),
        ("finetune --train steps=1", "RUN: expected a run directory before the sections"),
        ("transfer", "RUN: expected a run directory before the sections"),
        ("train --help nonsense", "--nonsense: unknown section"),
        ("train --ptf --train sub_directory=/../up", "train.sub_directory='/../up': must be part of a name"),
        ("train --ptf --scheduler name=StepLR", "scheduler.name=StepLR"),
        ("transfer nowhere --ptf", "nowhere: no such directory"),
        ("plot nowhere", "nowhere: no such directory"),
        ("observe nowhere", "nowhere: no such directory"),
        ("observe nowhere 1", "SAMPLES=1: must be at least 2"),
        ("extrapolate nowhere", "RUN: a line needs at least 2 runs, found 1"),
        ("extrapolate", "Missing argument 'RUN RUN ...'"),
        ("exact --rydberg Lx=5 Ly=5", "at most 20 sites"),
        ("exact --ptf", "expected one problem section such as --rydberg Lx=4 Ly=4, found --ptf"),
        ("exact --rydberg Lx=4 Ly=4 --ptf", "expected one problem section"),
        ("train --ptf --preset nnqs", "'nnqs' is not"),
        ("trian", "No such command 'trian'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: str, message: str, tmp_path: Path) -> None:
    result = qsr(*words.split(), cwd=tmp_path)
    assert_refused(result, message)
    assert not list(tmp_path.iterdir()), "nothing is written before the settings are checked"


def copy_of(run: Path, folder: Path) -> Path:
    target = folder / "copy"
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoint"))
    return target


def test_foreign_and_damaged_directories_are_refused(rnn_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(qsr("load", str(tmp_path / "empty")), "not a run, it has no settings.json")

    run = copy_of(rnn_run, tmp_path)
    whole = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_refused(qsr("load", str(run)), "weights.safetensors: damaged")
    (run / "weights.safetensors").write_bytes(os.urandom(100))
    assert_refused(qsr("finetune", str(run), "--train", "steps=1", "dir=<NONE>"), "weights.safetensors: damaged")

    tensors = load_file(rnn_run / "weights.safetensors")
    save_file({**tensors, "head.2.bias": tensors["head.2.bias"][:3].clone()}, run / "weights.safetensors")
    assert_refused(qsr("load", str(run)), "the weights do not fit the model of its settings: head.2.bias is 3, expected 16")
    (run / "weights.safetensors").unlink()
    assert_refused(qsr("load", str(run)), "has no weights")

    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({name: value for name, value in settings.items() if name != "model"}))
    assert_refused(qsr("load", str(run)), "settings.json: missing model")
    (run / "settings.json").write_text("{not json")
    assert_refused(qsr("plot", str(run)), "settings.json: not JSON")


def test_an_existing_run_is_never_overwritten(rnn_run: Path) -> None:
    before = (rnn_run / "weights.safetensors").read_bytes()
    result = qsr(*line(f"train --train L=64 {SHORT} --rnn patch=2x2 Nh=16", rnn_run.parents[2]))
    assert result.returncode == 0
    assert (rnn_run / "weights.safetensors").read_bytes() == before
    assert (rnn_run.parent / "1" / "weights.safetensors").is_file()


def test_energies_that_are_not_finite_end_the_run_with_the_good_weights(tmp_path: Path) -> None:
    result = qsr(*line("train --train L=4 K=16 steps=20 dir=DIR --rnn patch=1 Nh=4 --rydberg V=1e308", tmp_path))
    assert result.returncode == 1
    assert result.stderr.count("with half the learning rate") == 3
    assert "Error: step 0: energy=nan" in result.stderr and "Traceback" not in result.stderr
    run = tmp_path / "rydberg" / "4-B=16-K=16" / "0"
    assert all(tensor.isfinite().all() for tensor in load_file(run / "weights.safetensors").values())


def test_the_help_has_every_command_with_an_example() -> None:
    said = qsr("--help").stdout
    for name in qsr_group.commands:
        assert re.search(rf"^  {name} +\S.*\n +qsr {name} ", said, re.MULTILINE), name


def test_shells_complete_commands() -> None:
    environment = {**os.environ, "_QSR_COMPLETE": "bash_complete", "COMP_WORDS": "qsr tr", "COMP_CWORD": "1"}
    script = Path(sys.executable).parent / "qsr"
    found = subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=True).stdout
    assert found.split() == ["plain,train", "plain,transfer"]
