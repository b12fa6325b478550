"""`qsr scan` and single points of runs over ranges: against enumeration, and what is refused."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qsr
from qsr.cli.main import main
from qsr.hamiltonians import configurations
from qsr.hparams import ConfigError, parse_grid
from qsr.jobs import suggested_scan
from qsr.jobs.run import open_sampler
from qsr.jobs.snapshots import make_snapshots
from qsr.snapshots import read_snapshots

PROBLEM = qsr.Rydberg(Lx=2, Ly=3, delta="0:3", V="5:7")
POINT = {"delta": 1.5, "V": 6.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    train = {"K": 64, "steps": 60, "lr": 0.05, "dir": str(tmp_path_factory.mktemp("runs")), "device": "cpu"}
    return qsr.train(PROBLEM, qsr.PTF(patch="2x1", Nh=8, nhead=2), train, optimizer={"name": "spring"})


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    train = {"K": 16, "steps": 1, "dir": str(tmp_path_factory.mktemp("single")), "device": "cpu"}
    return qsr.train(qsr.Rydberg(Lx=2, Ly=3), qsr.RNN(patch=1, Nh=4), train)


def enumerated(run: qsr.Run, **point: float) -> tuple[float, float, float]:
    """Energy per site, density and <|m|> of the network's state at a point."""
    configs = configurations(6)
    psi = (0.5 * run.model.at(**point).log_prob(configs).detach().double()).exp().numpy()
    matrix = PROBLEM.updated(point).build().to_sparse()
    signs = qsr.Lattice(2, 3).sublattice_signs()
    staggered = np.abs((configs.numpy() - 0.5) @ signs) / 6
    return float(psi @ (matrix @ psi)) / 6, float(psi**2 @ configs.numpy().mean(axis=1)), float(psi**2 @ staggered)


def command(*words: str) -> int:
    """The exit status of the command, run in this process."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_a_scan_is_the_states_of_the_network(run: qsr.Run) -> None:
    grid = {"delta": np.linspace(0, 3, 4), "V": 6.5}
    found = qsr.scan(run, grid, 2000, 700)
    assert [point.values for point in found.points] == [{"delta": float(delta), "V": 6.5} for delta in range(4)]
    for point in found.points:
        names = ("energy_per_site", "density_mean", "staggered_abs")
        for name, expected in zip(names, enumerated(run, **point.values), strict=True):
            assert abs(point.found[name].mean - expected) < 4 * point.found[name].error, (point.values, name)
        exact = qsr.exact(PROBLEM.updated(point.values))
        assert point.exact["energy_per_site"] == pytest.approx(exact.energy / 6)
        assert point.exact["staggered_abs"] == pytest.approx(exact.observables["staggered_abs"])
    worst = max(abs(point.found["energy_per_site"].mean - point.exact["energy_per_site"]) for point in found.points)
    assert found.deviation() == worst and f"E/N {worst:.1e}" in found.lines()[-1]
    assert found.lines() == qsr.scan(run.path, grid, 2000, 700).lines(), "draws depend on the seed alone"


def test_the_command_writes_a_table_and_a_picture(run: qsr.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("scan", str(run.path), "200", "100", "--output", str(tmp_path), "--rydberg", "delta=0:3:5")
    assert command(*words, "V=5:7:2") == 0 and f"written: {tmp_path}/scan.csv, scan.png" in capsys.readouterr().out
    with (tmp_path / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and [float(row["V"]) for row in rows[:3]] == [5, 7, 5] and float(rows[9]["delta"]) == 3
    known = qsr.scan(run, {"delta": [0, 0.75, 1.5, 2.25, 3], "V": [5, 7]}, 200, 100)
    for row, point in zip(rows, known.points, strict=True):
        for name, estimate in point.found.items():
            assert (float(row[name]), float(row[f"{name}_error"])) == (estimate.mean, estimate.error)
        assert float(row["energy_per_site_exact"]) == point.exact["energy_per_site"]
    assert (tmp_path / "scan.png").stat().st_size > 20_000
    assert command("scan", "--rydberg", "delta=0:3:3", "V=6", str(run.path), "200", "--output", str(tmp_path)) == 0
    assert command(*words, "V=6", "Omega=1") == 0, "what is no range may repeat the run's number"
    assert (tmp_path / "scan.png").stat().st_size > 20_000
    assert len((tmp_path / "scan.csv").read_text().splitlines()) == 6
    assert command("scan", str(run.path), "200", "--output", str(tmp_path), "--rydberg", "delta=1", "V=6") == 0
    assert not (tmp_path / "scan.png").exists(), "that of another scan is gone"


def test_a_point_is_a_run_of_one_hamiltonian(run: qsr.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    energy, density, _ = enumerated(run, **POINT)
    found = qsr.evaluate(run.path, 4096, hamiltonian=POINT)  # type: ignore[arg-type]
    assert abs(found.energy_per_site.mean - energy) < 4 * found.energy_per_site.error
    assert found.problem == qsr.Rydberg(Lx=2, Ly=3, **POINT).describe()
    observed = qsr.observe(run, 4096, hamiltonian=POINT).order.scalars["density_mean"]
    assert abs(observed.mean - density) < 4 * observed.error
    assert command("load", str(run.path), "4096", "--rydberg", "delta=1.5", "V=6", "--output", str(tmp_path)) == 0
    assert str(found.energy_per_site) in capsys.readouterr().out
    assert read_snapshots(tmp_path / "samples.h5").params["delta"].tolist() == [1.5] * 4096
    assert f"  {suggested_scan(run.settings, run.path)}" in qsr.info(run).lines()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("load RUN", r"evaluate: this run is for all of V=5:7 delta=0:3; choose one, --rydberg V=6 delta=1\.5"),
        ("load RUN --rydberg delta=4 V=6", r"delta=4\.0: outside the range 0:3"),
        ("load RUN --rydberg delta=1", r"V: choose a value in 5:7"),
        ("load RUN --rydberg delta=1 V=6 Omega=2", r"rydberg\.Omega=2\.0: this run has 1\.0 there; only V=5:7 delta=0:3"),
        ("load RUN --rydberg delta=0:1 V=6", r"delta=0:1: must be one number in the range 0:3"),
        ("load RUN --rydberg Delta=1", r"rydberg\.Delta: unknown setting; did you mean 'delta'"),
        ("observe RUN", r"observe: this run is for all of V=5:7 delta=0:3; choose one"),
        ("scan RUN --rydberg delta=0:3.5:8 V=6", r"delta=3\.5: outside the range 0:3"),
        ("scan RUN --rydberg delta=0:3:7", r"V: choose a value in 5:7"),
        ("scan RUN --rydberg delta=0:3:0.5 V=6", r"rydberg\.delta=0:3:0\.5: expected a number, or first:last:count"),
        ("scan RUN --rydberg delta=1 V=6 Omega=0:1:3", r"rydberg\.Omega=\[0\.0, 0\.5, 1\.0\]: this run has 1\.0 there"),
        ("scan RUN 1 --rydberg delta=1 V=6", r"SAMPLES=1: must be at least 2"),
        ("scan RUN", r"Missing option '--rydberg'"),
        ("scan ONE --rydberg delta=0:3:4", r"scan: this run is for one Hamiltonian, rydberg 2x3 .*; train over a range, such as"),
        ("load ONE --rydberg delta=1", r"evaluate: this run is for one Hamiltonian"),
    ],
)
def test_what_is_refused_in_one_line(
    words: str, message: str, run: qsr.Run, single: qsr.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words.replace("RUN", str(run.path)).replace("ONE", str(single.path)).split()) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and re.search(message, said), said


def test_a_point_may_be_averaged_over_a_symmetry(run: qsr.Run) -> None:
    configs, hamiltonian = configurations(6), PROBLEM.updated(POINT).build()
    opened = open_sampler(run, "here", hamiltonian=POINT, symmetry="point")
    psi = (0.5 * opened.model.log_prob(configs).detach().double()).exp().numpy()
    assert psi @ psi == pytest.approx(1, abs=1e-6)
    averaged = float(psi @ (hamiltonian.to_sparse() @ psi)) / 6
    assert averaged < enumerated(run, **POINT)[0], "exact: psi >= 0 and H has the symmetry"
    found = qsr.evaluate(run, 4096, hamiltonian=POINT, symmetry="point")  # type: ignore[arg-type]
    assert abs(found.energy_per_site.mean - averaged) < 4 * found.energy_per_site.error
    with pytest.raises(
        ConfigError, match=r"rnn\.symmetry=point: is for one Hamiltonian, and rydberg\.V=5:7 is for many; train without"
    ):
        qsr.train(PROBLEM, qsr.RNN(patch=1, symmetry="point"), {"dir": "<NONE>"})


def test_a_plot_has_the_mean_energies_of_the_training(run: qsr.Run, tmp_path: Path) -> None:
    assert qsr.plot(run, tmp_path / "plot.png").stat().st_size > 10_000


def test_jobs_on_one_state_refuse_a_run_over_ranges(run: qsr.Run, single: qsr.Run) -> None:
    jobs: list[Any] = [
        lambda: qsr.report(run),
        lambda: qsr.compare([run, single]),
        lambda: qsr.extrapolate([run, single]),
        lambda: qsr.transfer(run, qsr.RNN(patch=1)),
        lambda: make_snapshots([run]),
        lambda: qsr.finetune(single, hamiltonian={"delta": "0:3"}),
    ]
    for job in jobs:
        with pytest.raises(ConfigError, match=r"this run is for all of V=5:7 delta=0:3|give single numbers"):
            job()


def test_grids_have_the_numbers_that_are_written() -> None:
    assert parse_grid(["--rydberg", "delta=0:3:31", "V=6.5"])["delta"] == [round(0.1 * index, 10) for index in range(31)]
    assert parse_grid(["--rydberg", "delta=-1:1:3"]) == {"type": "rydberg", "delta": [-1.0, 0.0, 1.0]}
    for text in ("3:0:4", "0:3", "0:3:1", "0:3:2.5", "a", "0:nan:3", "inf", "0:1:2:3"):
        with pytest.raises(ConfigError, match=rf"rydberg\.delta={text}: expected a number, or first:last:count"):
            parse_grid(["--rydberg", f"delta={text}"])
    with pytest.raises(ConfigError, match="expected one problem section such as --rydberg delta=0:3:31"):
        parse_grid(["--rnn", "Nh=4"])
