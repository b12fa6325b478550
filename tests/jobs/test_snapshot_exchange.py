"""Measured configurations from other programs' files; tests/data/measured: made with braket's schemas, Pulser and Bloqade."""

import json
from pathlib import Path

import numpy as np
import pytest

import qsr
from qsr.hparams import ConfigError
from qsr.jobs import export_snapshots, import_snapshots, make_snapshots
from qsr.jobs.exchange import lattice_order
from qsr.jobs.foreign import read_measured, site_positions
from qsr.snapshots import read_snapshots

FILES = Path(__file__).parents[1] / "data" / "measured"
THREE = [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]]


def test_a_task_result_of_aquila(tmp_path: Path) -> None:
    """Excited atoms are lost: 0 in postSequence; site 6 is empty by design, and one shot lacks atom 3."""
    report = import_snapshots(FILES / "aquila.json", tmp_path / "a.h5")
    found = read_snapshots(tmp_path / "a.h5")
    assert found.configs.tolist() == [[0, 1, 0, 1, 0, 1], [1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert report.dropped == {"not all atoms loaded": 1, "shotStatus Partial Success": 1, "shotStatus Failure": 1}
    assert np.allclose(found.positions, 5.5 * qsr.Lattice(2, 3).positions, rtol=1e-12)  # micrometres
    on_grid = import_snapshots(FILES / "aquila.json", lattice="2x3").snapshots
    assert np.array_equal(on_grid.configs, found.configs) and on_grid.attributes["Ly"] == 3
    assert np.array_equal(on_grid.positions, qsr.Lattice(2, 3).positions)
    assert np.array_equal(site_positions(FILES / "ahs_program.json"), found.positions)


def test_a_batch_of_bloqade() -> None:
    """What bloqade-analog's emulator measured, saved with the program: the register comes along."""
    found = import_snapshots(FILES / "bloqade_emulated.json").snapshots
    excited = [[], [3], [0, 5], [0, 5], [0, 3]]
    assert [np.flatnonzero(config).tolist() for config in found.configs] == excited
    assert found.positions[4] == pytest.approx([11, 5.5 * 3**0.5], abs=1e-9)
    with pytest.raises(ConfigError, match=r"bloqade_aquila\.json: expected counts .* or a batch of Bloqade with results"):
        import_snapshots(FILES / "bloqade_aquila.json")


def test_several_tasks_of_bloqade_are_not_mixed(tmp_path: Path) -> None:
    tree = json.loads((FILES / "bloqade_emulated.json").read_text())
    (batch,) = tree.values()
    batch["tasks"] *= 2
    (tmp_path / "two.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"two\.json: has the results of 2 tasks, expected those of one"):
        import_snapshots(tmp_path / "two.json")
    shots = batch["tasks"][0][1]["bloqade.analog.task.braket_simulator.BraketEmulatorTask"]["task_result_ir"]["shot_outputs"]
    batch["tasks"], shots[0]["pre_sequence"][2], shots[1]["shot_status"] = batch["tasks"][:1], 0, "MissingPostSequence"
    (tmp_path / "one.json").write_text(json.dumps(tree))
    report = import_snapshots(tmp_path / "one.json")
    assert len(report.snapshots.configs) == 3
    assert report.dropped == {"not all atoms loaded": 1, "shot_status MissingPostSequence": 1}
    del shots[0]["post_sequence"]
    (tmp_path / "one.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"one\.json: measurement 0: expected its status and its two sequences"):
        import_snapshots(tmp_path / "one.json")


def test_counts_and_register_of_pulser() -> None:
    """1 is the Rydberg state; Pulser's rectangles run along x first, and are put into our order."""
    register = site_positions(FILES / "pulser_register.json")
    assert register[:3].tolist() == [[-5.5, -2.75], [0, -2.75], [5.5, -2.75]]
    free = import_snapshots(FILES / "pulser_counts.json", positions=FILES / "pulser_register.json").snapshots
    assert free.configs.tolist() == [[0, 1, 0, 1, 0, 1]] * 3 + [[1, 0, 0, 0, 1, 0]] * 2 + [[0] * 6]
    grid = import_snapshots(FILES / "pulser_counts.json", positions=FILES / "pulser_register.json", lattice="3x2").snapshots
    for one, other in zip(free.configs, grid.configs, strict=True):
        places = {tuple(np.rint(place / 5.5 + [1, 0.5]).astype(int)) for place in free.positions[one == 1]}
        assert places == {divmod(int(site), 2) for site in np.flatnonzero(other)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.txt", "# of today\n0110 2\n1000 1\n"),
        ("s.txt", "0110\n0110\n1000  # the last\n"),
        ("s.txt", "0 1 1 0\n0 1 1 0\n1 0 0 0\n"),
        ("s.csv", "bitstring,count\n0110,2\n1000,1\n"),
        ("s.csv", "n0,n1,n2,n3\n0,1,1,0\n0,1,1,0\n1,0,0,0\n"),
        ("s.csv", "0,1,1,0\n0,1,1,0\n1,0,0,0\n"),
        ("s.tsv", "0110\t2\n1000\t1\n"),
        ("s.json", '["0110", "0110", "1000"]'),
        ("s.json", '{"0110": 2, "1000": 1}'),
    ],
)
def test_texts(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_measured(tmp_path / name).configs.tolist() == THREE


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(THREE, dtype=bool))
    np.savez(tmp_path / "a.npz", shots=np.array(THREE, dtype=float))
    np.savez(tmp_path / "b.npz", configs=np.array(THREE), positions=np.eye(2)[[0, 1, 1, 0]] * 3)
    for name in ("a.npy", "a.npz", "b.npz"):
        assert read_measured(tmp_path / name).configs.tolist() == THREE
    assert import_snapshots(tmp_path / "b.npz").snapshots.positions[1].tolist() == [0, 3]
    (tmp_path / "xy.txt").write_text("0 0\n0 2\n2 0\n2 2\n")
    assert import_snapshots(tmp_path / "a.npy", positions=tmp_path / "xy.txt", lattice="2x2").snapshots.configs.tolist() == THREE


def test_a_rotated_or_squeezed_register_is_no_lattice() -> None:
    grid = qsr.Lattice(3, 2)
    order = np.random.default_rng(0).permutation(6)
    assert np.array_equal(grid.positions[order][lattice_order(7 * grid.positions[order] + 2, grid, "f")], grid.positions)
    for wrong in (grid.positions[:, ::-1], grid.positions * [1, 1.3], grid.positions @ np.array([[0.8, 0.6], [-0.6, 0.8]])):
        with pytest.raises(ConfigError, match="f: its positions are not those of a square lattice 3x2"):
            lattice_order(wrong, grid, "f")


def test_out_and_in_again(tmp_path: Path) -> None:
    made = make_snapshots(
        [qsr.Rydberg(Lx=2, Ly=3), qsr.Rydberg(Lx=2, Ly=3, delta=2.0)], tmp_path / "s.h5", shots=7, labels="state"
    )
    assert export_snapshots(tmp_path / "s.h5", tmp_path / "s.npz") == 14
    arrays = np.load(tmp_path / "s.npz", allow_pickle=False)
    assert np.array_equal(arrays["params/delta"], made.snapshots.params["delta"])
    assert np.array_equal(arrays["labels"], made.snapshots.columns["labels"])
    assert json.loads(str(arrays["attributes"]))["Ly"] == 3
    again = import_snapshots(tmp_path / "s.npz").snapshots
    assert np.array_equal(again.configs, made.snapshots.configs) and np.array_equal(again.positions, made.snapshots.positions)
    export_snapshots(tmp_path / "s.h5", tmp_path / "s.csv")
    head, first, *rest = (tmp_path / "s.csv").read_text().splitlines()
    assert head.split(",")[-6:] == [f"n{site}" for site in range(6)] and "delta" in head and len(rest) == 13
    assert first.split(",")[-6:] == [str(value) for value in made.snapshots.configs[0]]


def test_lattices_with_periods_leave_as_every_format(tmp_path: Path) -> None:
    problem = qsr.Rydberg(lattice="triangular", Lx=2, Ly=2, boundary="periodic")
    make_snapshots([problem], tmp_path / "s.h5", shots=5)
    for ending in ("npz", "nc", "csv"):
        assert export_snapshots(tmp_path / "s.h5", tmp_path / f"s.{ending}") == 5
    periods = json.loads(str(np.load(tmp_path / "s.npz", allow_pickle=False)["attributes"]))["periods"]
    assert np.allclose(periods, problem.lattice().periods)


def test_a_measurement_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("0,1\n1,0\n")
    with pytest.raises(ConfigError, match=r"m\.csv: snapshots are written as HDF5; expected a name that ends in \.h5"):
        import_snapshots(tmp_path / "m.csv", tmp_path / "m.csv", lattice="2x1")
    assert (tmp_path / "m.csv").read_text() == "0,1\n1,0\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.txt", "0110\n011\n", r"s\.txt: line 2: 3 sites, expected 4 as before"),
        ("s.txt", "0110\n0120\n", r"s\.txt: line 2: expected 0 and 1, found '0120'"),
        ("s.txt", "0110 many\n", r"s\.txt: line 1: expected a count after the bit string, found 'many'"),
        ("s.csv", "a,b\n0.5,1\n", r"s\.csv: line 2: expected a bit string"),
        ("s.txt", "\n# nothing\n", r"s\.txt: holds no configuration"),
        ("s.json", '{"0110": 1.5}', r"s\.json: expected counts such as"),
        ("s.json", "{0110", r"s\.json: not JSON"),
        ("s.json", '{"measurements": [{"shotResult": {}}]}', r"measurement 0: expected its status and its two sequences"),
        (
            "s.json",
            '{"measurements": [{"shotMetadata": {"shotStatus": "Failure"}, "shotResult": {}}]}',
            r"holds no configuration; 1 shots dropped: shotStatus Failure",
        ),
        ("s.npy", "text", r"s\.npy: not an array of numbers"),
        ("s.xls", "0110", r"s\.xls: unknown ending '\.xls', expected one of \.csv"),
    ],
)
def test_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        import_snapshots(tmp_path / name, tmp_path / "out.h5", lattice="2x2")
    assert not (tmp_path / "out.h5").exists()


def test_refused_arrays_and_places(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "two.npy", np.array([[0, 2]]))
    np.save(tmp_path / "good.npy", np.array(THREE))
    np.savez(tmp_path / "several.npz", a=np.zeros(1), b=np.zeros(1))
    for words, said in (
        ({"source": "pickled.npy"}, "pickled.npy: not an array of numbers"),
        ({"source": "two.npy"}, r"two.npy: configs: expected 0 \(ground\) and 1 \(excited\), found 2"),
        ({"source": "several.npz"}, "several.npz: expected an array 'configs', or one alone; found a, b"),
        ({"source": "missing.npy"}, "missing.npy: no such file"),
        ({"source": "good.npy"}, "good.npy: says nothing of where the sites are"),
        ({"source": "good.npy", "lattice": "3x2"}, "--lattice 3x2: has 6 sites, but the snapshots have 4"),
        ({"source": "good.npy", "lattice": "four"}, "--lattice four: expected Lx x Ly"),
        ({"source": "good.npy", "positions": FILES / "pulser_register.json"}, "positions of 6 sites, but the snapshots have 4"),
        ({"source": "good.npy", "positions": FILES / "pulser_counts.json"}, "pulser_counts.json: no register"),
    ):
        with pytest.raises(ConfigError, match=said):
            import_snapshots(tmp_path / str(words.pop("source")), **words)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"out\.xls: unknown ending '\.xls', expected \.npz, \.csv or \.nc"):
        export_snapshots(tmp_path / "good.npy", tmp_path / "out.xls")
