"""Train, evaluate, fine-tune, transfer and plot as functions, on real directories."""

import json
import logging
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import qsr
from qsr.hamiltonians import configurations
from qsr.jobs.load import SAMPLES_FILE, TEXT_FILE
from qsr.runs import RunDirectory, read_run
from qsr.snapshots import read_snapshots
from qsr.training import BatchKey, TeacherLikelihood, TrainHparams

TINY = {"L": 4, "K": 64, "steps": 30, "lr": 1e-2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    folder = tmp_path_factory.mktemp("trained")
    return qsr.train(
        qsr.Rydberg(Lx=4, Ly=4), qsr.RNN(patch="2x2", Nh=32), {"K": 128, "steps": 400, "lr": 1e-2, "dir": str(folder)}
    )


def enumerated_energy(model: torch.nn.Module, problem: qsr.Rydberg) -> float:
    hamiltonian = problem.build()
    psi = (0.5 * model.log_prob(configurations(problem.num_sites)).detach().double()).exp().numpy()
    return float(psi @ (hamiltonian.to_sparse() @ psi))


def test_a_run_leaves_everything_that_loading_needs(trained: qsr.Run) -> None:
    assert trained.path is not None
    assert trained.path.parts[-3:] == ("rydberg", "16-B=128-K=128", "0")
    settings = json.loads((trained.path / "settings.json").read_text())
    assert settings["schema_version"] == 1 and settings["model"]["type"] == "rnn"
    assert settings["train"]["B"] == 128 and settings["hamiltonian"]["Lx"] == 4
    loaded = qsr.load_model(trained.path)
    configs = configurations(16)[::97]
    assert torch.equal(loaded.log_prob(configs), trained.model.log_prob(configs))
    history = RunDirectory(trained.path).history.read("steps")
    assert history["step"].tolist() == list(range(1, 401))
    assert {"energy", "energy_error", "variance", "gradient_norm", "lr", "seconds"} <= set(history)
    assert "step 400/400  E/N=" in (trained.path / "output.txt").read_text()


def test_training_learns_correlations_in_seconds(trained: qsr.Run) -> None:
    energy = enumerated_energy(trained.model, qsr.Rydberg(Lx=4, Ly=4))
    exact = qsr.exact(qsr.Rydberg(Lx=4, Ly=4))
    assert exact.energy < energy < exact.baselines["product of sites"]


def test_evaluation_agrees_with_enumeration(trained: qsr.Run, tmp_path: Path) -> None:
    found = qsr.evaluate(trained.path or "", 4096, 1000, output=tmp_path, write=True)
    energy = enumerated_energy(trained.model, qsr.Rydberg(Lx=4, Ly=4))
    assert abs(found.z_score(energy)) < 4
    probability = trained.model.log_prob(configurations(16)).detach().double().exp()
    density = (probability[:, None] * configurations(16)).sum(dim=0).numpy()
    z = (found.observables["densities"].mean - density) / found.observables["densities"].error
    assert np.abs(z).max() < 4
    snapshots = read_snapshots(tmp_path / SAMPLES_FILE)
    assert snapshots.configs.shape == (4096, 16) and snapshots.attributes["hamiltonian"]["V"] == 7.0
    assert snapshots.columns["local_energy"].mean() == pytest.approx(found.energy.mean)
    assert set(snapshots.params["delta"]) == {1.0}
    log_prob = trained.model.log_prob(torch.from_numpy(snapshots.configs)).detach().numpy()
    assert np.abs(log_prob - snapshots.columns["log_prob"]).max() < 1e-5
    assert f"energy per site     {found.energy_per_site}" in (tmp_path / TEXT_FILE).read_text()


def test_an_evaluation_is_reproducible_and_independent_of_training(trained: qsr.Run) -> None:
    first, again, other = (qsr.evaluate(trained, 256, 64, seed=seed).energy.mean for seed in (1, 1, 2))
    assert first == again != other


def test_two_runs_of_one_seed_are_equal_and_get_their_own_numbers(tmp_path: Path) -> None:
    runs = [qsr.train(None, qsr.PTF(patch="1x2", Nh=8), {**TINY, "steps": 3, "dir": str(tmp_path)}) for _ in range(2)]
    assert [run.path.name for run in runs if run.path] == ["0", "1"]
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_minibatches_in_one_step_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """K samples in each of Q minibatches are the same draws however many processes share them: here one does all."""
    train = {**TINY, "steps": 2, "K": 16, "Q": 4, "dir": "<NONE>", "precision": "float64"}
    kept = qsr.train(None, qsr.PTF(patch="2x1", Nh=8), {**train, "sgrad": True}).model.state_dict()
    again = qsr.train(None, qsr.PTF(patch="2x1", Nh=8), {**train, "sgrad": False}).model.state_dict()
    assert all(torch.allclose(kept[name], again[name], rtol=0, atol=1e-10) for name in kept)


def test_no_output_directory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = qsr.train(None, qsr.RNN(patch=1, Nh=4), {**TINY, "steps": 2, "dir": "<NONE>"})
    assert run.path is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model", [qsr.PTF(Nh=8, patch="2x2"), qsr.LPTF(Nh=8, patch="2x2", subsampler=qsr.RNN(patch=1))], ids=["ptf", "lptf"]
)
def test_finetuning_to_a_larger_lattice_keeps_the_weights(model: object, tmp_path: Path) -> None:
    small = qsr.train(qsr.Rydberg(Lx=4, Ly=4), model, {"K": 16, "steps": 3, "dir": str(tmp_path)})
    larger = qsr.finetune(small.path or "", {"steps": 0}, {"Lx": 4, "Ly": 6, "delta": 2.0})
    assert larger.settings.train.L == 24 and larger.settings.hamiltonian.delta == 2.0 and larger.settings.hamiltonian.V == 7.0
    before, after = small.model.state_dict(), larger.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "positions" not in name)
    old, new = (state["trunk.positions.learned"] for state in (before, after))
    assert old.shape[:2] == (2, 2) and new.shape[:2] == (2, 3)
    assert torch.allclose(new[:, 0], old[:, 0]) and torch.allclose(new[:, 1], (old[:, 0] + old[:, 1]) / 2)
    assert (
        larger.path is not None and small.path is not None and larger.path.parent.parent.parent == small.path.parent.parent.parent
    )


def test_finetuning_trains_the_stored_weights_on(tmp_path: Path) -> None:
    first = qsr.train(None, qsr.RNN(patch=1, Nh=8), {**TINY, "dir": str(tmp_path)})
    unchanged = qsr.finetune(first.path or "", {"steps": 0})
    on = qsr.finetune(first.path or "", {"steps": 2})
    weight = "rnn.weight_hh_l0"
    assert torch.equal(first.model.state_dict()[weight], unchanged.model.state_dict()[weight])
    assert not torch.equal(first.model.state_dict()[weight], on.model.state_dict()[weight])


def test_transfer_learns_the_teachers_distribution(trained: qsr.Run, tmp_path: Path) -> None:
    run = qsr.transfer(
        trained.path or "", qsr.PTF(patch="2x2", Nh=16), {"K": 256, "steps": 150, "lr": 1e-2, "dir": str(tmp_path)}
    )
    configs = configurations(16)
    taught, learned = (model.log_prob(configs).detach().double() for model in (trained.model, run.model))
    divergence = (taught.exp() * (taught - learned)).sum().item()
    assert 0 <= divergence < 0.05
    history = RunDirectory(run.path or "").history.read("steps")
    assert history["kl"][0] > 1 and abs(history["kl"][-20:].mean() - divergence) < 0.05
    assert read_run((run.path or Path()) / "teacher").settings == trained.settings


def test_a_model_is_not_its_own_student(trained: qsr.Run) -> None:
    with pytest.raises(qsr.ConfigError, match="no model"):
        qsr.transfer(trained.path or "", train={"steps": 1, "dir": "<NONE>"})
    with pytest.raises(qsr.ConfigError, match=r"train\.L=64: rydberg has Lx\*Ly = 4\*4 = 16 sites"):
        qsr.transfer(trained.path or "", qsr.PTF(), {"L": 64})


@pytest.mark.parametrize("problem", [qsr.TFIM(Lx=4, Ly=1, h=0.5), qsr.Heisenberg(Lx=2, Ly=2)], ids=["tfim", "heisenberg"])
def test_other_hamiltonians_train_and_evaluate(problem: object) -> None:
    run = qsr.train(problem, qsr.RNN(patch=1, Nh=16), {"K": 256, "steps": 120, "lr": 2e-2, "dir": "<NONE>"})
    exact = qsr.exact(problem)
    found = qsr.evaluate(run, 2048, 512)
    assert found.energy.mean - exact.energy < 0.05 * abs(exact.energy)
    assert found.energy.mean > exact.energy - 4 * found.energy.error


def test_atoms_at_free_positions(tmp_path: Path) -> None:
    positions = tmp_path / "sites.txt"
    positions.write_text("0 0\n1 0\n0.5 0.9\n1.5 0.9\n")
    problem = qsr.Rydberg(positions=str(positions))
    run = qsr.train(problem, qsr.RNN(patch=1, Nh=16), {"K": 256, "steps": 120, "lr": 2e-2, "dir": str(tmp_path)})
    positions.unlink()  # settings.json holds the coordinates themselves
    found = qsr.evaluate(run.path or "", 2048, 512)
    exact = qsr.exact(problem)
    assert abs(found.energy.mean - exact.energy) < 0.03 * abs(exact.energy)
    assert qsr.plot(run.path or "").stat().st_size > 10_000


def test_a_transfer_with_one_sample_a_minibatch_has_its_error(trained: qsr.Run, tmp_path: Path) -> None:
    run = qsr.transfer(trained, qsr.RNN(patch="2x2", Nh=4), {"K": 1, "Q": 4, "steps": 3, "dir": str(tmp_path)})
    history = RunDirectory(run.path or "").history.read("steps")
    assert (history["kl_variance"] > 0).all()
    with pytest.raises(qsr.ConfigError, match=r"train\.sgrad=True: concerns energies"):
        qsr.transfer(trained, qsr.RNN(), {"sgrad": True})


def test_kl_moments_are_those_of_the_whole_step(trained: qsr.Run) -> None:
    """Q minibatches of K samples record the mean and variance of all Q*K."""
    objective = TeacherLikelihood(trained.model, TrainHparams(K=5, Q=3))
    student = qsr.RNN(patch="2x2", Nh=4).build(qsr.Lattice(4, 4))
    batches, _ = objective.prepare(student, [BatchKey(0, 0, index) for index in range(3)])
    found = objective.summarise([objective.loss(student, batch)[1] for batch in batches])
    configs, taught = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("configs", "teacher_log_prob"))
    difference = taught.double() - student.log_prob(configs).detach().double()
    assert found["kl"] == pytest.approx(difference.mean().item())
    assert found["kl_variance"] == pytest.approx(difference.var().item())


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [({"name": "StepLR"}, "step_size"), ({"name": "OneCycleLR", "kwargs": {"pct_start": 0.1}}, "scheduler.name=OneCycleLR")],
    ids=["missing argument", "division by zero in torch"],
)
def test_what_torch_refuses_is_refused_before_there_is_a_directory(scheduler: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(qsr.ConfigError, match=message):
        qsr.train(None, qsr.RNN(patch=1), {**TINY, "steps": 10, "dir": str(tmp_path)}, scheduler=scheduler)
    assert not list(tmp_path.iterdir())


def test_dropout_repeats_with_the_graph_kept_from_sampling(tmp_path: Path) -> None:
    train = {**TINY, "steps": 6, "sgrad": True, "dir": str(tmp_path)}
    model = qsr.PTF(patch=1, Nh=8, dropout=0.3)
    runs = [qsr.train(None, model, train, checkpoint={"every_n_steps": 3}) for _ in range(2)]
    shutil.rmtree((runs[1].path or tmp_path) / "checkpoint" / "6")
    first, second = runs[0].model.state_dict(), qsr.resume(runs[1]).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_results_are_not_drawn_if_they_cannot_be_written(trained: qsr.Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(qsr.ConfigError, match="cannot write the results there"):
        qsr.evaluate(trained, 10**9, 1, output=tmp_path / "file", write=True)
    with pytest.raises(qsr.ConfigError, match="expected a file in an existing directory"):
        qsr.plot(trained, tmp_path / "nowhere" / "run.png")


def test_plotting_leaves_the_callers_backend_alone(trained: qsr.Run, tmp_path: Path) -> None:
    matplotlib.use("svg")
    qsr.plot(trained, tmp_path / "run.png")
    assert matplotlib.get_backend() == "svg"


def test_a_plot_is_a_png_of_some_size(trained: qsr.Run, tmp_path: Path) -> None:
    picture = qsr.plot(trained.path or "", tmp_path / "run.png")
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 30_000


def test_the_library_does_not_change_the_callers_generators_or_log_level(trained: qsr.Run) -> None:
    torch.manual_seed(5)
    before, level = torch.random.get_rng_state(), logging.getLogger("qsr").level
    qsr.train(None, qsr.PTF(patch=1, Nh=8, dropout=0.1), {**TINY, "steps": 2, "dir": "<NONE>"})
    qsr.load_model(trained.path or "")
    assert torch.equal(torch.random.get_rng_state(), before) and logging.getLogger("qsr").level == level


@pytest.mark.parametrize(
    ("samples", "batch", "message"), [(1, 4, "SAMPLES=1: must be at least 2"), (8, 0, "BATCH=0: must be at least 1")]
)
def test_too_few_samples_are_refused(trained: qsr.Run, samples: int, batch: int, message: str) -> None:
    with pytest.raises(qsr.ConfigError, match=message):
        qsr.evaluate(trained, samples, batch)
