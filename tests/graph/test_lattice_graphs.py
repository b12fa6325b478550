"""`--graph` on snapshots: batches as PyG makes them, the symmetries of the lattice, and what the network can and cannot learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import GraphConv

import qsr
from qsr.estimators import best_accuracy, least_squared_error, state_probabilities
from qsr.graph.edges import radius_edges
from qsr.graph.lattice_data import GraphsHparams, LatticeData, LatticeGraphs
from qsr.graph.lattice_model import Graph, LatticeModel
from qsr.hparams import ConfigError
from qsr.jobs import make_snapshots, predict_table
from qsr.runs import read_run, restore_model
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots
from tests.graph.graph_files import snapshots

SETTINGS = {"task": "classify", "cutoff": 1.5, "power": 6.0}
EASY = (0.5, 0.75, 1.0, 1.25, 2.25, 2.5, 2.75, 3.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshots(tmp_path_factory.mktemp("data") / "s.h5", shots=20, shape=(3, 3))


def model(**changes: Any) -> LatticeModel:
    torch.manual_seed(1)
    return LatticeModel(Graph(**{"num_classes": 2, "width": 8, **changes})).eval()


def graphs(configs: torch.Tensor, positions: np.ndarray, cutoff: float = 1.5) -> LatticeGraphs:
    edge_index, weights = radius_edges(positions, cutoff)
    return LatticeGraphs(configs, edge_index, weights.float())


def test_batches_are_those_of_torch_geometric(file: Path) -> None:
    data = LatticeData(GraphsHparams(file=str(file), **SETTINGS))
    indices = torch.tensor([7, 2, 95])
    made, collated = data.full.rows(indices), Batch.from_data_list([data.full[int(index)] for index in indices])
    assert made.num_graphs == collated.num_graphs == 3 and set(made.keys()) == set(collated.keys())
    for name in made.keys():  # noqa: SIM118  # iterating a batch gives its graphs
        assert torch.equal(made[name], collated[name]), name


def test_outputs_do_not_depend_on_the_batch_or_on_how_the_lattice_lies() -> None:
    net, points = model(), qsr.Lattice(3, 4).positions
    configs = torch.randint(0, 2, (6, 12), dtype=torch.uint8)
    together = net(graphs(configs, points).rows(torch.arange(6)))
    for index in range(6):
        alone = net(graphs(configs, points).rows(torch.tensor([index])))
        assert torch.allclose(alone[0], together[index], atol=1e-6)
    order = torch.randperm(12)
    permuted = net(graphs(configs[:, order], points[order]).rows(torch.arange(6)))
    turned = net(graphs(configs, points @ np.array([[0.0, -1.0], [1.0, 0.0]]) + 3.7).rows(torch.arange(6)))
    reflected = net(graphs(configs.view(6, 3, 4).flip(1).reshape(6, 12), points).rows(torch.arange(6)))
    for other in (permuted, turned, reflected):
        assert torch.allclose(other, together, atol=1e-6)
    assert (together.std(dim=0) > 1e-3).all(), "configurations do make a difference"
    assert net(graphs(configs, points, cutoff=0.5).rows(torch.arange(6))).shape == (6, 2), "a graph without edges"


def test_a_layer_is_the_formula_of_the_settings() -> None:
    net, points = model(num_layers=1), qsr.Lattice(2, 3).positions
    configs = torch.randint(0, 2, (4, 6), dtype=torch.uint8)
    (layer,) = [module for module in net.modules() if isinstance(module, GraphConv)]
    distances = torch.from_numpy(qsr.Lattice(2, 3).distances()).float()
    weights = torch.where((distances > 0) & (distances < 1.6), distances**-6, 0.0)
    x = configs.float()[..., None]
    hidden = (layer.lin_root(x) + layer.lin_rel(weights @ x)).relu()
    pooled = torch.cat([hidden.mean(dim=1), hidden.amax(dim=1)], dim=1)
    expected = net.network.downstream_tasks[0](pooled)
    assert torch.allclose(net(graphs(configs, points).rows(torch.arange(4))), expected, atol=1e-6)


def test_splits_by_state_leave_no_state_in_two_parts(file: Path) -> None:
    source = read_snapshots(file)
    data = LatticeData(GraphsHparams(file=str(file), split_by="state_id", split=(0.5, 0.2, 0.3), seed=1, **SETTINGS))
    states = [set(source.columns["state_id"][rows].tolist()) for rows in data.parts]
    assert [len(part) for part in states] == [3, 1, 2] and len(set.union(*states)) == 6
    for part, rows in zip((data.train, data.val, data.test), data.parts, strict=True):
        assert torch.equal(part.configs, torch.from_numpy(source.configs[rows]))
        assert part.y.tolist() == source.columns["labels"][rows].tolist()


def permuted(file: Path, seed: int) -> None:
    """Give every snapshot the label of another one."""
    found = read_snapshots(file)
    labels = np.random.default_rng(seed).permutation(found.columns["labels"])
    write_snapshots(file, Snapshots(found.configs, found.positions, {"labels": labels}, {}, found.attributes))


def run_of(tmp_path: Path, row: dict[str, Any], labels: str | None, permute: bool = False) -> tuple[qsr.Run, Any]:
    """A run on 6400 snapshots of a 3x3 array, and 12000 fresh ones."""
    states = [qsr.Rydberg(Lx=3, Ly=3, V=7, delta=delta) for delta in EASY]
    make_snapshots(states, tmp_path / "train.h5", shots=800, labels=labels)
    fresh = make_snapshots(states, tmp_path / "fresh.h5", shots=1500, labels=labels, seed=1)
    if permute:
        permuted(tmp_path / "train.h5", seed=0)
        permuted(tmp_path / "fresh.h5", seed=1)
    data = {"file": str(tmp_path / "train.h5"), "batch_size": 128}
    return qsr.fit({"type": "graph", **row}, data, {"max_epochs": 6, "dir": str(tmp_path)}), fresh


def test_phases_are_told_apart_nearly_as_well_as_possible(tmp_path: Path) -> None:
    run, fresh = run_of(tmp_path, {}, "delta>1.75")
    report = predict_table(run, tmp_path / "fresh.h5")
    accuracy = report.metrics["test/accuracy"]
    assert fresh.best_accuracy == pytest.approx(0.7907, abs=1e-4)
    assert 0.75 <= accuracy <= fresh.best_accuracy + 3 * np.sqrt(0.17 / 12000)
    truth = fresh.snapshots.columns["labels"]
    assert accuracy == pytest.approx((report.columns["predicted"] == truth).mean())
    chosen = np.where(truth == 1, report.columns["p_1"], report.columns["p_0"])
    assert report.metrics["test/nll"] == pytest.approx(-np.log(chosen).mean())
    assert np.allclose(report.columns["p_0"] + report.columns["p_1"], 1)
    restored = restore_model(read_run(run.path))
    again = predict_table(run.path, tmp_path / "fresh.h5")
    assert restored.num_params == run.model.num_params
    assert np.array_equal(again.columns["p_1"], report.columns["p_1"])
    larger = make_snapshots([qsr.Rydberg(Lx=3, Ly=4, delta=d) for d in (0.0, 3.0)], tmp_path / "l.h5", shots=300, labels="state")
    assert predict_table(run, tmp_path / "l.h5").metrics["test/accuracy"] > 0.85, "another lattice"
    assert len(larger.snapshots.configs) == 600


def test_permuted_labels_cannot_be_predicted(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path, {}, "delta>1.75", permute=True)
    accuracy = predict_table(run, tmp_path / "fresh.h5").metrics["test/accuracy"]
    assert abs(accuracy - 0.5) < 3 * 0.5 / np.sqrt(12000)


def test_without_edges_only_the_density_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, _ = run_of(tmp_path, {"cutoff": 0.9}, "delta>1.75")
    assert "graph.cutoff=0.9: no two sites are that close" in caplog.text
    table = state_probabilities([qsr.Rydberg(Lx=3, Ly=3, V=7, delta=delta).build() for delta in EASY])
    excited = np.array([state.bit_count() for state in range(512)])
    of_density = np.stack([np.bincount(excited, row, minlength=10) for row in table])
    best = best_accuracy(of_density, np.array(EASY) > 1.75)
    accuracy = predict_table(run, tmp_path / "fresh.h5").metrics["test/accuracy"]
    assert best - 0.02 < accuracy < best + 3 * np.sqrt(0.2 / 12000)


def test_the_detuning_is_read_off_single_snapshots(tmp_path: Path) -> None:
    run, fresh = run_of(tmp_path, {"task": "regress"}, None)
    table = state_probabilities([qsr.Rydberg(Lx=3, Ly=3, V=7, delta=delta).build() for delta in EASY])
    least = least_squared_error(table, EASY)
    report = predict_table(run, tmp_path / "fresh.h5")
    squares = (report.columns["predicted"] - fresh.snapshots.params["delta"]) ** 2
    assert report.metrics["test/mse"] == pytest.approx(squares.mean())
    assert least - 3 * squares.std() / np.sqrt(12000) < squares.mean() < 1.1 * least < np.var(EASY)
    assert run.settings.data.mean == pytest.approx(run.model.thparams.mean)
    assert qsr.evaluate_on_data(run).metrics["test/mse"] == pytest.approx(least, rel=0.2)


@pytest.mark.parametrize(
    ("row", "data", "said"),
    [
        ({}, {"target": "delta"}, r"data\.target=delta: 0\.5 is no class; classes are whole numbers"),
        ({"task": "regress"}, {"target": "V"}, "V is 7 everywhere"),
        ({}, {"target": "phase"}, "the snapshots have no 'phase'"),
        ({"cutoff": 2}, {"cutoff": 1}, r"data\.cutoff=1.*: the model has cutoff=2"),
        ({"num_classes": 3}, {}, r"graph\.num_classes=3: the data have 2"),
        ({"task": "regress", "num_classes": 2}, {}, r"graph\.num_classes=2: is for task=classify, not for regress"),
        ({"mean": 1.0}, {}, r"graph\.mean=1.0: is for task=regress, not for classify"),
        ({"deviation": 2.0}, {}, r"graph\.deviation=2.0: is for task=regress, not for classify"),
        ({"task": "regress", "mean": 1.0}, {}, "of mean and deviation only one is given; give both, or leave both out"),
        ({"task": "regress"}, {"classes": (0, 1)}, r"data\.classes=\(0, 1\): is for task=classify, not for regress"),
        ({}, {"mean": 1.0, "deviation": 1.0}, r"data\.mean=1.0: is for task=regress, not for classify"),
        ({}, {"classes": (0, 1, 5)}, r"data\.classes=\(0, 1, 5\): no snapshot has the class 5; leave it out"),
        ({}, {"classes": (0, 1, 1)}, "a class stands there twice"),
        ({}, {"classes": (0, 5)}, "1 is no class of the training data"),
        ({"task": "regress"}, {"mean": 1.0}, "only one is given; both are filled in, leave them out"),
        ({"task": "regress"}, {"mean": 9.0, "deviation": 1.0}, r"data\.mean=9.0: the training data have 1\.\d+; leave it out"),
        ({"module_name": "a.B"}, {}, r"graph\.module_name=a\.B: is for models of your own"),
        ({"depth": 2}, {}, r"graph\.depth: unknown setting"),
        ({}, {"split": (0.99, 0.01, 0.0)}, "three shares greater than 0"),
    ],
)
def test_refused(file: Path, row: dict, data: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        qsr.fit({"type": "graph", **row}, {"file": str(file), **data}, {"max_epochs": 1, "dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_labels_of_another_meaning_are_said_to_be_others(file: Path, tmp_path: Path) -> None:
    run = qsr.fit({"type": "graph", "width": 4}, {"file": str(file)}, {"max_epochs": 1, "dir": str(tmp_path)})
    assert predict_table(run, file).summary.endswith("predictions")
    other = tmp_path / "other.h5"
    found = read_snapshots(file)
    write_snapshots(
        other, Snapshots(found.configs, found.positions, found.columns, {}, {**found.attributes, "label_rule": "V>1"})
    )
    rule = found.attributes["label_rule"]
    assert predict_table(run, other).summary.endswith(f"; its labels are V>1, those of the training were {rule}")


def test_what_is_filled_in_may_stand_there_already(file: Path, tmp_path: Path) -> None:
    """As in the settings of a run; the classes may have another order, and a trained model keeps its unit on other data."""
    train = {"max_epochs": 1, "dir": str(tmp_path)}
    turned = qsr.fit({"type": "graph", "width": 4}, {"file": str(file), "classes": (1, 0)}, train)
    assert turned.settings.data.classes == (1, 0) and turned.settings.model.num_classes == 2
    first = qsr.fit({"type": "graph", "task": "regress", "width": 4}, {"file": str(file)}, train)
    unit = (first.model.thparams.mean, first.model.thparams.deviation)
    assert unit == (first.settings.data.mean, first.settings.data.deviation) and 1 < unit[0] < 1.5 and unit[1] > 0.5
    own = {"mean": unit[0], "deviation": unit[1]}
    again = qsr.fit({"type": "graph", "task": "regress", "width": 4}, {"file": str(file), **own}, train)
    assert (again.settings.data.mean, again.model.thparams.deviation) == unit
    other = snapshots(tmp_path / "other.h5", shots=5, shape=(3, 3), seed=4)
    more = qsr.fit(first.model, {"file": str(other), "seed": 3}, train)
    assert (more.model.thparams.mean, more.model.thparams.deviation) == unit
    assert more.settings.data.mean != unit[0], "that of its own training data"


def test_targets_that_nobody_knows_are_left_out(file: Path, tmp_path: Path) -> None:
    train = {"max_epochs": 1, "dir": str(tmp_path)}
    source = read_snapshots(file)

    def read(run: qsr.Run, name: str, unknown: np.ndarray, value: float = np.nan) -> Any:
        target = np.where(unknown, value, {**source.columns, **source.params}[name].astype(float))
        columns = {**source.columns, "labels": np.zeros(len(unknown))} if name != "labels" else source.columns
        return predict_table(run, Snapshots(source.configs, source.positions, {**columns, name: target}, {}, source.attributes))

    run = qsr.fit({"type": "graph", "task": "regress", "width": 4}, {"file": str(file)}, train)
    some = np.arange(len(source.configs)) % 3 == 0
    report = read(run, "delta", some)
    errors = (report.columns["predicted"] - source.params["delta"])[~some]
    assert report.metrics["test/mse"] == pytest.approx((errors**2).mean())
    assert report.summary == f"{len(some)} predictions, metrics of the {(~some).sum()} snapshots whose delta is known"
    assert read(run, "delta", some | True).metrics == {} and len(read(run, "delta", ~some & some).lines()) == 2
    with pytest.raises(ConfigError, match="delta is inf for some snapshots"):
        read(run, "delta", some, np.inf)
    run = qsr.fit({"type": "graph", "width": 4}, {"file": str(file)}, train)
    report = read(run, "labels", some)
    right = report.columns["predicted"] == source.columns["labels"]
    assert report.metrics["test/accuracy"] == pytest.approx(right[~some].mean())
    assert read(run, "labels", some | True).metrics == {}
