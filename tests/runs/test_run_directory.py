"""A run directory under the things that happen to one: several processes, kills, damaged files."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


def settings_in(directory: Path | str, **train: object) -> RunSettings:
    return RunSettings.from_tree(
        {
            "train": {"L": 16, "K": 8, "dir": str(directory), **train},
            "model": {"type": "rnn", "Nh": 4},
            "hamiltonian": {"type": "rydberg"},
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    claimed = RunDirectory.claim(settings_in(tmp_path))
    assert claimed is not None
    return claimed


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# --- claiming and locking -----------------------------------------------------------------------------------------------


def test_claim_counts_from_zero(tmp_path: Path) -> None:
    paths = [RunDirectory.claim(settings_in(tmp_path / "runs", Q=2)).path for _ in range(3)]
    assert paths == [tmp_path / "runs" / "rydberg" / "16-B=16-K=8" / str(number) for number in range(3)]
    paths[1].rmdir()
    assert RunDirectory.claim(settings_in(tmp_path / "runs", Q=2)).path == paths[1]
    assert RunDirectory.claim(settings_in(tmp_path, sub_directory="2x2")).path == tmp_path / "rydberg" / "16-B=8-K=8-2x2" / "0"


def test_the_newest_run_with_these_settings_that_has_not_ended(tmp_path: Path) -> None:
    settings, other = settings_in(tmp_path), settings_in(tmp_path, lr=0.02)
    assert RunDirectory.unfinished(settings) is None and RunDirectory.unfinished(settings_in("<NONE>")) is None
    given = [settings, settings, settings, other, None]  # the last one was killed before it had settings
    runs = [RunDirectory.claim(settings) for _ in given]
    for run, written in zip(runs, given, strict=True):
        if written is not None:
            run.write_settings(written)
    runs[2].save_weights({"a": torch.zeros(1)})
    assert RunDirectory.unfinished(settings).path == runs[1].path
    assert RunDirectory.unfinished(other).path == runs[3].path
    with runs[1].lock():
        assert RunDirectory.unfinished(settings).path == runs[0].path


def test_no_output() -> None:
    assert RunDirectory.claim(settings_in("<NONE>")) is None


def test_claim_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^train.dir=.*file: cannot make .* \((Not a directory|File exists)\)"):
        RunDirectory.claim(settings_in(tmp_path / "file"))


CLAIMER = """
import sys
from types import SimpleNamespace
from qsr.runs import RunDirectory
settings = SimpleNamespace(
    train=SimpleNamespace(dir=sys.argv[1], writes=True), folder="tfim/4-B=2-K=2"
)
print("ready", flush=True)
sys.stdin.readline()
print(*(RunDirectory.claim(settings).path.name for _ in range(40)))
"""


def test_concurrent_claims_get_different_directories(tmp_path: Path) -> None:
    claimers = [start(CLAIMER, tmp_path) for _ in range(4)]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    numbers = [int(number) for claimer in claimers for number in claimer.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(160))


LOCKER = """
import sys, time
from qsr.runs import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_lock_excludes_and_a_kill_releases_it(run: RunDirectory) -> None:
    holder = start(LOCKER, run.path)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match=rf"{run.path}: is being written by another process"), run.lock():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    for _ in range(2):
        with run.lock(), pytest.raises(ConfigError, match="is being written"), RunDirectory(run.path).lock():
            pass


def test_lock_clears_up_after_a_killed_writer(run: RunDirectory) -> None:
    for name in (".history.0a.tmp.h5", ".weights.0a.tmp.safetensors", ".settings.0a.tmp.json", ".samples.0a.tmp.h5"):
        (run.path / name).touch()
    with run.lock():
        assert {path.name for path in run.path.iterdir()} == {".lock", ".samples.0a.tmp.h5"}  # that one is not of this writer


def test_lock_of_a_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), RunDirectory(tmp_path / "file").lock():
        pass


def test_the_history_can_be_used_again_after_the_lock(run: RunDirectory) -> None:
    with run.lock():
        run.history.append("steps", {"step": 1, "seconds": 0.1})
    with run.lock():
        run.history.append("steps", {"step": 2, "seconds": 0.1})
    assert run.history.read("steps")["step"].tolist() == [1, 2]


# --- settings -----------------------------------------------------------------------------------------------------------


def test_settings_round_trip(run: RunDirectory, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, lr=1e-3, seed=7)
    run.write_settings(settings)
    text = (run.path / "settings.json").read_text()
    tree = json.loads(text)
    assert next(iter(tree)) == "schema_version" and list(tree)[-1] == "versions" and '\n  "train": {' in text
    assert tree["versions"]["torch"] == torch.__version__ and tree["versions"]["python"] and tree["versions"]["qsr"]
    assert RunDirectory.open(run.path).read_settings() == settings
    run.write_settings(settings)
    with pytest.raises(ConfigError, match=r"settings\.json: exists and holds other settings"):
        run.write_settings(settings_in(tmp_path, lr=2e-3, seed=7))
    assert (run.path / "settings.json").read_text() == text


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such directory"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"not a run, it has no settings\.json"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: "{", "not JSON"),
        (lambda tree: "", "not JSON"),
        (lambda tree: "[1]", "expected a JSON object"),
        (lambda tree: {k: v for k, v in tree.items() if k not in ("model", "train")}, "missing train, model$"),
        (lambda tree: {k: v for k, v in tree.items() if k != "schema_version"}, "missing schema_version"),
        (lambda tree: {**tree, "schema_version": 99}, "schema_version=99: written by a newer qsr"),
        (lambda tree: {**tree, "schema_version": "1"}, "must be a whole number"),
        (lambda tree: {**tree, "train": {**tree["train"], "K": 0}}, r"train\.K=0"),
        (lambda tree: {**tree, "model": {"Nh": 4}}, r"model\.type: missing"),
    ],
)
def test_unusable_settings(run: RunDirectory, tmp_path: Path, change, message: str) -> None:
    run.write_settings(settings_in(tmp_path))
    file = run.path / "settings.json"
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ConfigError, match=message) as caught:
        run.read_settings()
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


# --- weights and checkpoints --------------------------------------------------------------------------------------------


def test_weights_round_trip(run: RunDirectory) -> None:
    base = torch.arange(12.0).view(3, 4)
    weights = {
        "view": base.T,
        "tied": base.T,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "trained": base.clone().requires_grad_(),
    }
    run.save_weights(weights)
    found = run.read_weights()
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype and not found[name].requires_grad


@pytest.mark.parametrize("content", [None, b"", b"not tensors at all", 0.5, 0.99])
def test_damaged_weights(run: RunDirectory, content: bytes | float | None) -> None:
    run.save_weights({"a": torch.ones(100)})
    file = run.path / "weights.safetensors"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[: int(content * file.stat().st_size)])
    with pytest.raises(ConfigError, match=rf"^{file}: (damaged|cannot be read) \(.*\)$"):
        run.read_weights()


def save(run: RunDirectory, step: int) -> None:
    optimizer = {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.full((2,), float(step))}},
        "param_groups": [{"lr": 1e-3}],
    }
    run.save_checkpoint(
        step, {"a": torch.full((3,), float(step))}, {"update_rule": optimizer, "history": {"steps": step}, "pair": (1, "x")}
    )


def folders(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoint").iterdir())


def test_checkpoints(run: RunDirectory) -> None:
    assert run.latest_checkpoint() is None
    for step in (0, 5, 100, 90, 95):  # going back to 90 gives up what was 100
        save(run, step)
        found = run.latest_checkpoint()
        assert found.step == step and found.weights["a"].tolist() == [step] * 3
        assert found.state["update_rule"]["state"][0]["exp_avg"].tolist() == [step] * 2
        assert found.state["history"] == {"steps": step} and found.state["pair"] == (1, "x")
    assert folders(run) == ["90", "95"]


def flip_last_number(file: Path) -> None:
    """Damage that leaves a file readable but for its checksum: one bit of a stored tensor."""
    raw = bytearray(file.read_bytes())
    position = raw.rindex(torch.full((2,), 2.0).numpy().tobytes())
    raw[position] ^= 1
    file.write_bytes(raw)


DAMAGE = {
    "weights cut": lambda folder: os.truncate(folder / "weights.safetensors", 40),
    "weights gone": lambda folder: (folder / "weights.safetensors").unlink(),
    "state cut": lambda folder: os.truncate(folder / "state.pt", 300),
    "state empty": lambda folder: os.truncate(folder / "state.pt", 0),
    "state gone": lambda folder: (folder / "state.pt").unlink(),
    "state text": lambda folder: (folder / "state.pt").write_text("hello"),
    "state bit": lambda folder: flip_last_number(folder / "state.pt"),
    "state list": lambda folder: torch.save([1], folder / "state.pt"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_falls_back(run: RunDirectory, damage, caplog: pytest.LogCaptureFixture) -> None:
    save(run, 1)
    save(run, 2)
    damage(run.path / "checkpoint" / "2")
    with caplog.at_level(logging.WARNING, logger="qsr.runs"):
        assert run.latest_checkpoint().step == 1
    assert len(caplog.records) == 1 and "going back to the checkpoint of step 1" in caplog.text
    os.truncate(run.path / "checkpoint" / "1" / "state.pt", 100)
    with pytest.raises(ConfigError, match="no checkpoint of the run can be read"):
        run.latest_checkpoint()


def test_a_state_that_is_code_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    save(run, 1)
    torch.save({"step": Attack()}, run.path / "checkpoint" / "1" / "state.pt")
    with pytest.raises(ConfigError, match=r"state.pt: damaged"):
        run.latest_checkpoint()
    assert not (tmp_path / "executed").exists()


def test_crash_leftovers_are_ignored_and_cleared(run: RunDirectory) -> None:
    save(run, 1)
    save(run, 2)
    root = run.path / "checkpoint"
    (root / ".3.0a.tmp").mkdir()  # killed while writing
    (root / "2").rename(root / ".2.previous")  # killed between the renames of a second checkpoint of step 2
    assert run.latest_checkpoint().step == 2
    save(run, 3)
    assert folders(run) == [".2.previous", "3"]
    os.truncate(root / "3" / "state.pt", 10)
    assert run.latest_checkpoint().step == 2


def test_the_new_checkpoint_comes_before_the_one_it_replaced(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save(run, step)
        (run.path / "checkpoint" / f".{step}.previous").mkdir()  # killed after the renames, before the old one was removed
    assert run.latest_checkpoint().step == 2
    os.truncate(run.path / "checkpoint" / "2" / "state.pt", 10)
    assert run.latest_checkpoint().step == 1
    assert len(caplog.records) == 1


CHECKPOINTER = """
import sys, torch
from qsr.runs import RunDirectory
run = RunDirectory(sys.argv[1])
print("ready", flush=True)
step = 0
while True:
    step += 1
    run.save_checkpoint(step // 2, {"a": torch.full((2000,), float(step // 2))}, {"step": step // 2, "filler": torch.zeros(2000)})
    print(step // 2, flush=True)
"""


@pytest.mark.parametrize("delay", [0.05, 0.21])
def test_kill_while_saving(run: RunDirectory, delay: float) -> None:
    writer = start(CHECKPOINTER, run.path)
    assert writer.stdout.readline() == "ready\n" and writer.stdout.readline() == "0\n"
    try:
        writer.wait(delay)
    except subprocess.TimeoutExpired:
        os.kill(writer.pid, signal.SIGKILL)
    acknowledged = int(writer.communicate()[0].split("\n")[-2] or 0)
    found = run.latest_checkpoint()
    assert found.step >= acknowledged and found.state["step"] == found.step
    assert found.weights["a"].tolist() == [found.step] * 2000


def test_output_is_appended(run: RunDirectory) -> None:
    for line in ("one", "größer"):
        handler = run.log_handler()
        handler.emit(logging.LogRecord("qsr", logging.INFO, "", 0, "%s", (line,), None))
        handler.close()
    assert (run.path / "output.txt").read_text(encoding="utf-8") == "one\ngrößer\n"
    (run.path / "output.txt").unlink()
    (run.path / "output.txt").mkdir()
    with pytest.raises(ConfigError, match=r"output.txt: cannot be written"):
        run.log_handler()
