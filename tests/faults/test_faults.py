"""Full disks, lost permissions and directories, missing memory, no numbers, clocks that jump: one line, and on it goes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qsr
from qsr.runs import RunDirectory, same_history
from tests.commands import ROOT, run_qsr
from tests.faults.cases import CASES, check_same, finish, leftovers, struck, undisturbed

ADAM = CASES["adam"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on the address space, or capabilities")


def one_line(stderr: str) -> str:
    """The only line that speaks of an error."""
    (line,) = (said for said in stderr.splitlines() if said.startswith("Error: "))
    assert "Traceback" not in stderr and "Logging error" not in stderr
    return line


# --- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "size"), [(0.05, 0), (0.35, 100), (0.6, 3000), (0.8, 0)])
@pytest.mark.parametrize("name", ["adam", "spring"])
def test_a_disk_that_fills_ends_the_run_in_one_line_and_it_goes_on(name: str, share: float, size: int, tmp_path: Path) -> None:
    """Every write that makes a file larger than `size` is cut off and fails, from some call on."""
    call = int(share * undisturbed(name)[1])
    result = struck(f"full:{tmp_path}:{call}:{size}", *CASES[name].command(tmp_path))
    assert result.returncode == 1
    line = one_line(result.stderr)
    assert "File too large" in line
    if RunDirectory(CASES[name].path(tmp_path)).exists():
        assert f"qsr train --resume {CASES[name].path(tmp_path)} goes on from the last checkpoint" in line
    finish(name, tmp_path)


def can_mount() -> bool:
    """Whether this user may mount in a name space of its own, which some systems forbid."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="no file system of one's own may be mounted here")
@pytest.mark.parametrize("kibibytes", [8, 40, 64, 90])
def test_a_file_system_without_room(kibibytes: int, tmp_path: Path) -> None:
    """A real one, of so many KiB; what is in it at the end is copied out."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    words = " ".join(["python", "-m", "qsr", *ADAM.command(disk)])
    script = f"mount -t tmpfs -o size={kibibytes}k none {disk} && {{ {words}; status=$?; cp -a {disk} {kept}; exit $status; }}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert result.returncode == 1 and "No space left on device" in one_line(result.stderr)
    finish("adam", kept)


@linux
def test_nothing_is_begun_in_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        result = struck("powerless", *ADAM.command(tmp_path))
    finally:
        tmp_path.chmod(0o755)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    said = f"train.dir={tmp_path}: cannot make {ADAM.path(tmp_path).parent} (Permission denied); give a writable directory"
    assert one_line(result.stderr) == f"Error: {said}"


@linux
def test_a_run_that_becomes_read_only_goes_on_when_it_no_longer_is(tmp_path: Path) -> None:
    result = struck(f"powerless,readonly:{tmp_path}:100", *ADAM.command(tmp_path))
    resumed = struck("powerless", "train", "--resume", str(ADAM.path(tmp_path)))
    for place in (tmp_path, *tmp_path.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    assert result.returncode == 1 and "Permission denied; when that is mended, qsr train --resume" in one_line(result.stderr)
    assert resumed.returncode == 2
    assert one_line(resumed.stderr) == f"Error: {ADAM.path(tmp_path)}: cannot be written (Permission denied)"
    finish("adam", tmp_path)


def test_a_run_whose_directory_is_removed_ends(tmp_path: Path) -> None:
    run = ADAM.path(tmp_path)
    result = struck(f"remove:{run}:100", *ADAM.command(tmp_path))
    assert result.returncode == 1 and f"there is no run at {run}" in one_line(result.stderr)
    assert not run.exists()


def test_a_run_that_is_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    run, elsewhere = ADAM.path(tmp_path), ADAM.path(tmp_path / "elsewhere")
    elsewhere.parent.mkdir(parents=True)
    result = struck(f"move:{run}:100:{elsewhere}", *ADAM.command(tmp_path))
    assert result.returncode == 1 and f"there is no run at {run}" in one_line(result.stderr)
    finish("adam", tmp_path / "elsewhere")


def test_results_that_find_no_room_leave_the_old_ones(tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed("adam")[0], tmp_path / "run")
    whole = ["load", str(run), "64", "64"]
    assert run_qsr(*whole).returncode == 0
    before = (run / "samples.h5").read_bytes()
    result = struck(f"full:{run}:0:500", *whole, "--seed", "1")
    assert result.returncode == 1 and "File too large" in one_line(result.stderr)
    assert (run / "samples.h5").read_bytes() == before and not leftovers(run)


# --- memory -------------------------------------------------------------------------------------------------------------

LARGE = "--train L=36 K=1024 steps=2 flips=exact dir={} --ptf patch=2x2 Nh=64 num_layers=1"  # in one piece 130 MiB
HUGE = "--train L=4 K=8000000 steps=1 dir={} --rnn patch=1 Nh=4"  # the samples alone take more than any chunk saves


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    assert run_qsr("train", *LARGE.format(folder).split()).returncode == 0
    return folder / "rydberg/36-B=1024-K=1024/0"


@linux
def test_missing_memory_makes_smaller_chunks(large: Path, tmp_path: Path) -> None:
    """They change the rounding of sums, and nothing else."""
    result = struck("memory:50", "train", *LARGE.format(tmp_path).split())
    assert result.returncode == 0, result.stderr
    run = tmp_path / "rydberg/36-B=1024-K=1024/0"
    said = "out of memory; again from step 0 with train.memory_MiB=512"
    assert said in result.stderr and said in (run / "output.txt").read_text()
    with_room, without = (RunDirectory(path).history.read("steps")["energy"] for path in (large, run))
    assert len(without) == 2 and without == pytest.approx(with_room, rel=1e-4)
    checkpoint = RunDirectory(run).latest_checkpoint()
    assert checkpoint is not None and checkpoint.state["memory_bytes"] < 2**29  # a resumed run cuts alike


@linux
def test_memory_that_is_not_there_at_all_ends_the_run(tmp_path: Path) -> None:
    result = struck("memory:50", "train", *HUGE.format(tmp_path).split())
    assert result.returncode == 1
    assert one_line(result.stderr) == "Error: out of memory, also with train.memory_MiB=1: a smaller train.K or model takes less"
    qsr.load_model(tmp_path / "rydberg/4-B=8000000-K=8000000/0")


@linux
def test_missing_memory_makes_smaller_chunks_of_an_evaluation(large: Path, tmp_path: Path) -> None:
    words = ["load", str(large), "1024", "1024"]
    calm = run_qsr(*words, "--output", str(tmp_path / "calm"))
    result = struck("memory:50", *words, "--output", str(tmp_path / "struck"))
    assert result.returncode == calm.returncode == 0, result.stderr
    assert "out of memory; again with train.memory_MiB=512" in result.stderr
    assert result.stdout.replace("struck", "calm") == calm.stdout


# --- numbers and clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gradient", "back"), [(9, 6), (12, 6), (6, 0)])
def test_a_gradient_that_is_no_number_is_survived_and_kills_after_it(gradient: int, back: int, tmp_path: Path) -> None:
    """The run goes back to its checkpoint with half the rate, beyond the newest one if no step came of that; killed then, or
    later, it resumes with that rate."""
    whole = ADAM.path(tmp_path / "whole")
    result = struck(f"nan:{gradient},calls:{tmp_path}", *ADAM.command(tmp_path / "whole"))
    assert f"is not finite; back to step {back} with half the learning rate" in result.stderr
    calls = int(result.stderr.splitlines()[-1])
    left = RunDirectory(whole).history.read("steps")
    assert left["step"].tolist() == list(range(1, ADAM.steps + 1))
    survived = 0
    for call in range(40 + 5 * gradient, calls, 31):
        cut = ADAM.path(tmp_path / str(call))
        result = struck(f"nan:{gradient},kill:{tmp_path / str(call)}:{call}", *ADAM.command(tmp_path / str(call)))
        assert result.returncode == -signal.SIGKILL
        if "back to step" not in result.stderr:  # killed before: there is no such gradient where it goes on
            continue
        resumed = run_qsr("train", "--resume", str(cut))
        assert resumed.returncode == 0, resumed.stderr
        assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)
        first, second = (RunDirectory(path).read_weights() for path in (whole, cut))
        assert all(torch.equal(first[name], second[name]) for name in first)
        survived += 1
    assert survived >= 2


def test_a_run_that_failed_for_good_can_be_looked_at_and_resumed(tmp_path: Path) -> None:
    """Four gradients in a row, right after a checkpoint."""
    result = struck("nan:12,nan:13,nan:14,nan:15,nan:16,nan:17,nan:18,nan:19,nan:20,nan:21", *ADAM.command(tmp_path))
    assert result.returncode == 1 and "after 3 rewinds" in one_line(result.stderr)
    assert run_qsr("load", str(ADAM.path(tmp_path)), "16", "16").returncode == 0
    assert run_qsr("train", "--resume", str(ADAM.path(tmp_path))).returncode == 0


def test_a_run_that_blows_up_keeps_its_last_good_weights(tmp_path: Path) -> None:
    words = ADAM.words.replace("lr=0.01", "lr=1e30").replace("every_n_steps=6", "every_n_steps=1")
    given = f"{words} --optimizer name=SGD --gradient_clipping max_norm=None --scheduler name=none".replace("DIR", str(tmp_path))
    result = run_qsr(*given.split())
    assert result.returncode == 1
    assert "after 3 rewinds; the weights of step 0 are kept (a train.lr smaller than 1e+30 may help)" in one_line(result.stderr)
    first = RunDirectory(ADAM.path(tmp_path)).read_weights()
    assert all(values.isfinite().all() for values in first.values())
    assert run_qsr("load", str(ADAM.path(tmp_path)), "16", "16").returncode == 0


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    result = struck("clock", *" ".join(ADAM.command(tmp_path)).replace("dir=", "max_time=1h dir=").split())
    assert result.returncode == 0, result.stderr
    check_same("adam", ADAM.path(tmp_path))


# --- time ---------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_out_of_time_saves_says_so_and_goes_on(tmp_path: Path) -> None:
    """Always the same command, as a queue starts it again; in one of them the step is longer than the time."""
    command = " ".join(ADAM.command(tmp_path)).replace("dir=", "max_time=0.001s dir=")
    run = ADAM.path(tmp_path)
    for _ in range(ADAM.steps - 1):
        result = run_qsr(*f"{command} --resume auto".split())
        assert result.returncode == 75
        line = f"train.max_time has passed: everything is saved; resume with: qsr train --resume {run}"
        assert result.stderr.splitlines()[-1] == line
    last = run_qsr(*f"{command} --resume auto".split())
    assert last.returncode == 0, last.stderr
    check_same("adam", run)
    again = run_qsr(*f"{command} --resume auto".split())
    assert again.returncode == 0 and [path.name for path in run.parent.iterdir()] == ["0"]
    check_same("adam", run)


ON_DATA = {
    "hsm": f"--hsm hilbert_space_dims=2 --data {ROOT}/demos/observables.csv targets=delta input_features=density,staggered"
    " --train max_epochs=1 lr=0.02",
    "snapshots": "--rnn patch=1 Nh=4 --rydberg Lx=2 Ly=2 --data s.h5 --train K=16 steps=4",
}


@pytest.mark.parametrize("words", ON_DATA.values(), ids=ON_DATA)
def test_runs_on_data_have_limits_of_time_and_are_found_again(words: str, tmp_path: Path) -> None:
    words_of_file = "snapshots make s.h5 --rydberg Lx=2 Ly=2 delta=1 --shots 40"
    made = run_qsr(*words_of_file.split(), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    command = f"train --resume auto {words} max_time=0.001s".split()
    statuses = [run_qsr(*command, cwd=tmp_path).returncode for _ in range(4)]
    assert statuses == [75, 75, 75, 0]
    assert run_qsr(*f"train {words}".split(), cwd=tmp_path).returncode == 0  # another run: it has no limit
    cut, whole = sorted(file.parent for file in tmp_path.glob("runs/**/settings.json"))
    first, second = (RunDirectory(path).read_weights() for path in (cut, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert same_history(RunDirectory(cut).history, RunDirectory(whole).history)


@pytest.mark.parametrize("launcher", ["", "hydra/launcher=joblib hydra.launcher.n_jobs=2"])
def test_a_sweep_that_is_out_of_time_goes_on_where_each_run_was(launcher: str, tmp_path: Path) -> None:
    words = "--rnn patch=1 Nh=4 --rydberg Lx=2 Ly=2 --train K=16 steps=2 max_time=0.001s"
    command = f"train -m train.seed=0,1 {launcher} --resume auto {words}".split()
    first, second = (run_qsr(*command, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 75 and first.stdout.count("  stopped") == 2, first.stderr
    assert second.returncode == 0 and "stopped" not in second.stdout, second.stderr
    third = run_qsr(*command, cwd=tmp_path)
    assert third.returncode == 0 and "not started" not in third.stdout
    assert third.stdout.splitlines()[-2:] == second.stdout.splitlines()[-2:], "with their directories, also when they had ended"
    runs = sorted(file.parent for file in tmp_path.glob("runs/**/settings.json"))
    assert [RunDirectory(path).history.length("steps") for path in runs] == [2, 2]
    assert sorted(RunDirectory(path).read_settings().train.seed for path in runs) == [0, 1]


def test_without_a_directory_there_is_nothing_to_go_on_with() -> None:
    result = run_qsr(*["train", "--resume", "auto", "--rnn", "patch=1", "--train", "L=4", "K=16", "steps=2", "dir=<NONE>"])
    assert result.returncode == 2
    assert one_line(result.stderr) == "Error: train.dir=<NONE>: keeps nothing that --resume auto could go on with"
