"""Sweeps under Hydra's launchers, as real processes: their numbers, what fails, and what signals do."""

import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import qsr
from qsr.hparams import ConfigError
from qsr.hparams.launchers import read_launcher
from qsr.jobs.sweep import threads_for
from qsr.runs import RunDirectory, same_history
from tests.cli.sweeping import begun, members, swept, wait_until
from tests.commands import run_qsr
from tests.pages import ROOT, Page

NAMES = "runs/rydberg/4-B=8-K=8/"
LONG = "--train L=4 K=8 steps=1000000 --rnn patch=1x2"  # until something stops it
JOBLIB = "hydra/launcher=joblib hydra.launcher.n_jobs=2"


def listed(output: str) -> list[str]:
    """The lines of the table at the end."""
    return output.partition("runs of the sweep:\n")[2].splitlines()


def check_alone(run: Path, **given: object) -> None:
    """The numbers of a run of a sweep are those of the same run alone, with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = qsr.train(**given)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    assert alone.path is not None
    assert same_history(RunDirectory(run).history, RunDirectory(alone.path).history)
    weights = RunDirectory(run).read_weights()
    assert all(torch.equal(value, weights[name]) for name, value in RunDirectory(alone.path).read_weights().items())


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines run; two of joblib at a time and those of submitit have the numbers of single ones, and leave nothing else."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said = Page("sweeps.md").run_commands(tmp_path)
    basic, joblib, submitit = (listed(output) for output in said.values())
    runs = "runs/rydberg/4-B=16-K=16/"
    names = [f"model.Nh={width} train.{rest}" for width in (4, 8) for rest in ("seed=0", "seed=1", "lr=0.001", "lr=0.002")]
    assert basic == [f"{runs}{number}  {name}" for number, name in enumerate(names[:2] + names[4:6])]
    assert [re.sub(r"/\d+  ", "/N  ", line) for line in joblib] == [f"{runs}N  {name}" for name in names[2:4] + names[6:]]
    assert [re.sub(r"/\d+  ", "/N  ", line) for line in submitit] == [f"{runs}N  model.Nh={width}" for width in (4, 8)]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"rydberg", ".submitit"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    monkeypatch.chdir(tmp_path)
    train = {"L": 4, "K": 16, "steps": 20, "dir": "alone"}
    for line, more in ((joblib[3], {"lr": 2e-3}), (submitit[1], {})):
        check_alone(Path(line.split()[0]), train={**train, **more}, model=qsr.RNN(patch="1x2", Nh=8))


def test_one_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    line = "train -m train.lr=1e38,1e-3 train.device=cpu,cuda:77 --train L=4 K=8 steps=5 --rnn patch=1x2 Nh=4"
    result = run_qsr(*line.split(), cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    table = listed(result.stdout)
    for number, failed in ((0, "failed: train.lr=.*: too large for the number format"), (2, "$")):
        assert re.match(rf"{NAMES}{number // 2}  train.lr=\S+ train.device=cpu( *){failed}", table[number]), table[number]
    refusal = "cuda\\:77  failed: train.device=cuda:77: this machine has "  # Hydra writes \: for the colon
    assert all(row.partition("train.device=")[2].startswith(refusal) for row in table[1::2])
    assert "Error: 3 of the 4 runs of the sweep did not reach their end" in result.stderr
    assert RunDirectory(tmp_path / NAMES / "1").history.length("steps") == 5
    refused = run_qsr(*line.replace("cpu,", "").split(), cwd=tmp_path)
    assert refused.returncode == 2 and len(listed(refused.stdout)) == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_run_and_an_interrupted_sweep(stop: signal.Signals, tmp_path: Path) -> None:
    """The process of one run is killed, the third run takes its place; a signal to all then stops both after their step."""
    with swept(f"train -m train.seed=0,1,2,3 model.Nh=4 {JOBLIB} {LONG}", tmp_path) as started:
        wait_until(lambda: len(begun(tmp_path)) == 2)
        before = members(started.pid)
        os.kill(max(before), signal.SIGKILL)
        wait_until(lambda: len(begun(tmp_path)) == 3)
        os.killpg(started.pid, stop)  # as a terminal does
        output, errors = started.communicate(timeout=100)
    assert started.returncode == 128 + stop, errors
    table = listed(output)
    assert [row.partition("  ")[2].partition("  ")[2] for row in table].count("failed: its process ended with SIGKILL") == 1
    assert re.fullmatch(rf"{NAMES}2  train.seed=2 model.Nh=4  stopped", table[2])
    assert table[3] == "-  train.seed=3 model.Nh=4  not started"
    assert errors.count("everything is saved; resume with: qsr train --resume runs/") == 2 and "Traceback" not in errors
    for row in table[:3]:
        run = RunDirectory(tmp_path / row.split()[0])
        stopped = run.latest_checkpoint()
        assert stopped is not None
        if "stopped" in row:
            assert stopped.step > 0 and run.history.length("steps") == stopped.step


@pytest.mark.slow
def test_runs_end_when_their_sweep_is_killed(tmp_path: Path) -> None:
    with swept(f"train -m train.seed=0,1 model.Nh=4 {JOBLIB} {LONG}", tmp_path) as started:
        wait_until(lambda: len(begun(tmp_path)) == 2)
        started.kill()
        wait_until(lambda: not members(started.pid))
    for run in begun(tmp_path):
        assert (run.path / "output.txt").read_text().splitlines()[-1].startswith("stopped: SIGTERM; saved")


@pytest.mark.slow
def test_a_signal_stops_the_jobs_of_submitit(tmp_path: Path) -> None:
    line = f"train -m train.seed=0,1 model.Nh=4 hydra/launcher=submitit_local {LONG}"
    with swept(line, tmp_path) as started:
        wait_until(lambda: len(begun(tmp_path)) == 2)
        os.killpg(started.pid, signal.SIGINT)
        output, errors = started.communicate(timeout=100)
    assert started.returncode == 130, errors
    assert [row.rpartition("  ")[2] for row in listed(output)] == ["stopped"] * 2
    assert errors.count("everything is saved; resume with: qsr train --resume runs/") == 2 and "Traceback" not in errors
    assert not list(tmp_path.glob("runs/.submitit/stop-*"))


@pytest.mark.slow
def test_a_warned_job_is_queued_again_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's local queue: the warning that Slurm sends before it takes a job's machine away."""
    steps = 1500
    line = f"train -m train.seed=3 hydra/launcher=submitit_local {LONG} Nh=4".replace("1000000", str(steps))
    with swept(line, tmp_path) as started:
        wait_until(lambda: len(begun(tmp_path)) == 1)
        (job,) = members(started.pid, "core._submit")
        os.kill(job, signal.SIGUSR2)
        output, errors = started.communicate(timeout=100)
    assert started.returncode == 0, errors
    (row,) = listed(output)
    monkeypatch.chdir(tmp_path)
    assert f"resuming {NAMES}0 at step " in Path(NAMES, "0", "output.txt").read_text()
    train = {"L": 4, "K": 8, "steps": steps, "seed": 3, "dir": "alone"}
    check_alone(Path(row.split()[0]), train=train, model=qsr.RNN(patch="1x2", Nh=4))


# The commands of Slurm that submitit calls, as far as it looks at what they do: an array of jobs that run here.
SLURM = {
    "sbatch": """cp "$1" sbatch.txt
export SLURM_ARRAY_JOB_ID=77 SLURM_NTASKS=1 SLURM_PROCID=0
for SLURM_ARRAY_TASK_ID in 0 1; do export SLURM_ARRAY_TASK_ID; SLURM_JOB_ID=7$SLURM_ARRAY_TASK_ID bash "$1" & done >/dev/null 2>&1
echo Submitted batch job 77""",
    "srun": """while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done; exec "$@" """,
    "sacct": """printf 'JobID|State|NodeList\\n77_0|RUNNING|here\\n77_1|RUNNING|here\\n'""",
}


def slurm_in(folder: Path, commands: Mapping[str, str]) -> None:
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)


@pytest.mark.slow
def test_jobs_that_wait_at_slurm_are_cancelled(tmp_path: Path) -> None:
    waiting = {"sbatch": "touch submitted; echo Submitted batch job 77", "scancel": 'echo "$1" >> cancelled.txt'}
    slurm_in(tmp_path, {**SLURM, **waiting, "sacct": SLURM["sacct"].replace("RUNNING", "PENDING")})
    line = f"train -m train.seed=0,1 model.Nh=4 hydra/launcher=submitit_slurm {LONG}"
    with swept(line, tmp_path, str(tmp_path)) as started:
        wait_until((tmp_path / "submitted").exists)
        os.killpg(started.pid, signal.SIGTERM)
        output, errors = started.communicate(timeout=100)
    assert started.returncode == 143, errors
    assert listed(output) == [f"-  train.seed={seed} model.Nh=4  not started" for seed in (0, 1)]
    assert (tmp_path / "cancelled.txt").read_text().split() == ["77_0", "77_1"]


def test_what_slurm_is_given(tmp_path: Path) -> None:
    """The page's line for a cluster, with a smaller model: the script, and its jobs as Slurm would start them."""
    slurm_in(tmp_path, SLURM)
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^qsr (train .*=submitit_slurm.*)--preset fast-16x16$", text, re.MULTILINE)
    line = line.replace("model.Nh=64,128", "model.Nh=4,8").replace("train.seed=0,1", "train.seed=0")
    words = f"{line} --train L=4 K=8 steps=3 --rnn patch=1x2"
    result = run_qsr(*words.split(), cwd=tmp_path, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.returncode == 0, result.stderr
    assert [row.partition("  ")[2] for row in listed(result.stdout)] == [f"model.Nh={width} train.seed=0" for width in (4, 8)]
    script = (tmp_path / "sbatch.txt").read_text()
    wanted = ["array=0-1%2", "cpus-per-task=8", "gpus-per-node=1", "job-name=qsr", "nodes=1", "ntasks-per-node=1"]
    for option in [*wanted, "partition=gpu", "signal=USR2@120", "time=600"]:
        assert f"#SBATCH --{option}\n" in script, option
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}/runs/.submitit/%j\n" in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hydra/launcher=jobli", "hydra/launcher=jobli: there is no such launcher; did you mean 'joblib'?"),
        ("JOBLIB hydra.launcher.n_job=2", "hydra.launcher.n_job=2: joblib has no such setting; did you mean 'n_jobs'?"),
        ("JOBLIB hydra.launcher.n_jobs=a", "hydra.launcher.n_jobs=a: Value 'a' of type 'str' could not be conv"),
        ("JOBLIB hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: must be a number of processes, or -1"),
        ("JOBLIB hydra.launcher.verbose=9", "hydra.launcher.verbose=9: every run is a process of its own here; only"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2: basic has no such setting"),
        ("LOCAL hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system: submitit_local has no such setting"),
        ("LOCAL hydra.launcher.nodes=2", "hydra.launcher.nodes=2: each run of a sweep is one process; torchrun"),
        ("hydra.run.dir=here", "hydra.run.dir=here: of Hydra's own settings only hydra/launcher and hydra.launcher.* are used"),
        (
            "hydra/sweeper=optuna",
            "hydra/sweeper=optuna: of Hydra's own settings only hydra/launcher and hydra.launcher.* are used",
        ),
        ("~hydra.launcher.nodes LOCAL", "~hydra.launcher.nodes: a launcher keeps all of its settings"),
    ],
)
def test_what_is_refused(words: str, expected: str) -> None:
    for short, name in (("JOBLIB", "joblib"), ("LOCAL", "submitit_local")):
        words = words.replace(short, f"hydra/launcher={name}")
    with pytest.raises(ConfigError) as raised:
        read_launcher(words.split(), "runs")
    assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


def test_a_launcher_needs_a_sweep_its_extra_and_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "--train L=4 K=8 steps=1 hydra/launcher=joblib --rnn patch=1x2 Nh=4"
    refused = run_qsr("train", *line.split(), cwd=tmp_path)
    assert (
        refused.returncode == 2
        and refused.stderr == "Error: hydra/launcher=joblib: is for the runs of a sweep; add -m, or take it out\n"
    )
    without = line.replace("joblib", "submitit_local").replace("steps=1", "dir=<NONE>")
    nowhere = run_qsr("train", "-m", *without.split(), cwd=tmp_path)
    assert nowhere.returncode == 2 and "needs a directory for its jobs, and there is none" in nowhere.stderr
    slurm = run_qsr("train", "-m", *line.replace("joblib", "submitit_slurm").split(), cwd=tmp_path)
    assert slurm.returncode == 2 and 'Error: hydra/launcher=submitit_slurm: Could not detect "srun"' in slurm.stderr
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "0"}
    torchrun = run_qsr("train", "-m", *line.split(), cwd=tmp_path, env=shared)
    assert torchrun.returncode == 2 and "the processes of torchrun share every run" in torchrun.stderr
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_joblib_launcher.config", None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=joblib: the extra is missing: pip install 'qsr\[joblib\]'"):
        read_launcher(["hydra/launcher=joblib"], "runs")


def test_processes_times_threads_are_at_most_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert [threads_for(count) for count in (1, cores, 3 * cores)] == [cores, 1, 1]
