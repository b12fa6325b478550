"""Maximum likelihood on snapshots: exact gradients, readout errors against enumeration, and the limit that sampling sets."""

from pathlib import Path

import numpy as np
import pytest
import torch

import qsr
from qsr.estimators import read_probabilities, state_probabilities
from qsr.estimators.readout import posterior_draws
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.jobs import make_snapshots
from qsr.runs import RunDirectory, same_history
from qsr.samplers.base import AutoregressiveSampler
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots
from qsr.training import SnapshotLikelihood, SnapshotsHparams, TrainHparams
from qsr.training.protocols import BatchKey

PROBLEM = qsr.Rydberg(Lx=2, Ly=3, delta=1.5)
ALL = configurations(6)  # (64, 6)
MODELS = [
    qsr.RNN(patch="1", Nh=8),
    qsr.PTF(patch="2x1", Nh=8, nhead=2),
    qsr.LPTF(patch="2x3", Nh=8, nhead=2, subsampler=qsr.RNN(patch="1", Nh=8)),
]


def built(section: qsr.PTF | qsr.RNN | qsr.LPTF, spread: float = 0.7) -> AutoregressiveSampler:
    """A model far from uniform, in float64."""
    torch.manual_seed(3)
    model = section.build(PROBLEM.lattice()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return model


def objective(training: torch.Tensor, held_back: int = 0, train: dict | None = None, **data: object) -> SnapshotLikelihood:
    settings = SnapshotsHparams(**{"file": "f", "e10": 0.0, "e01": 0.0, **data})
    return SnapshotLikelihood(training[held_back:], training[:held_back], settings, TrainHparams(**(train or {})))


def gradient_of(model: AutoregressiveSampler, loss: torch.Tensor) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in gradients if part is not None])


@pytest.mark.parametrize("section", MODELS, ids=lambda section: section.section)
def test_loss_and_gradient_are_those_of_the_mean(section: qsr.PTF) -> None:
    model = built(section)
    snapshots = ALL[torch.randint(64, (40,), generator=torch.Generator().manual_seed(1))]
    learning = objective(snapshots, train={"K": 10, "Q": 4})
    batches, before = learning.prepare(model, [BatchKey(0, 0, minibatch) for minibatch in range(4)])
    losses, found = zip(*(learning.loss(model, batch) for batch in batches), strict=True)
    surprise = -model.log_prob(snapshots)
    assert before == {} and sum(losses).item() == pytest.approx(surprise.mean().item(), rel=1e-12)
    metrics = learning.summarise(found)
    assert metrics["nll"] == pytest.approx(surprise.mean().item(), rel=1e-12)
    assert metrics["nll_error"] == pytest.approx(surprise.std().item() / 40**0.5, rel=1e-9)
    expected = gradient_of(model, surprise.mean())
    assert torch.allclose(gradient_of(model, sum(losses)), expected, rtol=1e-9, atol=1e-12)


def test_every_epoch_takes_each_snapshot_once_in_another_order() -> None:
    numbered = torch.arange(23)[:, None]
    learning = objective(numbered, train={"K": 4, "Q": 2})
    orders = []
    for epoch in range(3):
        keys = list(learning.batches(epoch, 0, 2))
        assert len(keys) == 2  # of 8; 7 wait
        taken = torch.cat([learning._snapshots(key) for step in keys for key in step])[:, 0]
        assert len(taken.unique()) == 16
        orders.append(taken.tolist())
        assert list(learning.batches(epoch, 1, 2)) == keys[1:]
    assert orders[0] != orders[1] != orders[2]
    few = objective(numbered[:3], train={"K": 4, "Q": 2})
    keys = next(few.batches(0, 0, 2))
    assert [len(few._snapshots(key)) for key in keys] == [3, 0]


@pytest.mark.parametrize("section", MODELS, ids=lambda section: section.section)
@pytest.mark.parametrize(("e10", "e01"), [(0.15, 0.05), (0.2, 0.0)])
def test_weights_of_draws_estimate_what_is_read_without_bias(section: qsr.PTF, e10: float, e01: float) -> None:
    model = built(section)
    with torch.no_grad():
        probs = model.log_prob(ALL).exp().numpy()
    exact = torch.from_numpy(read_probabilities(probs, e10, e01))
    generator = torch.Generator().manual_seed(0)
    drawn, log_weights = posterior_draws(model, ALL, e10, e01, 400, generator, 2**30)
    weights = log_weights.exp()
    deviations = (weights.mean(dim=1) - exact) / (weights.std(dim=1) / 20 + 1e-6 * exact)
    assert deviations.abs().max() < 4.5 and deviations.square().mean() < 2
    # A draw and its weight: p(n) P(r|n) = w q(n|r), so that weighted draws follow the posterior.
    if not e01:
        assert (drawn >= ALL[:, None]).all(), "an excited site was read as ground, never the other way round"
    index = (drawn.long() * (1 << torch.arange(6))).sum(dim=-1)
    shares = log_weights.softmax(dim=1)
    found = torch.zeros(64, 64, dtype=torch.float64).scatter_add(1, index, shares)
    agree = (ALL[:, None] == ALL[None]).double()
    chance = torch.where(ALL[None] == 1, torch.where(agree == 1, 1 - e10, e10), torch.where(agree == 1, 1 - e01, e01)).prod(
        dim=-1
    )
    posterior = torch.from_numpy(probs)[None] * chance / exact[:, None]
    assert (found - posterior).abs().max() < 0.12 and (found - posterior).abs().mean() < 0.004


def test_one_patch_of_all_sites_is_the_exact_likelihood_of_the_read_bits() -> None:
    model = built(qsr.RNN(patch="2x3", Nh=8))
    learning = objective(ALL, e10=0.2, e01=0.1, draws=2, train={"K": 64})
    table = model.log_prob(ALL).exp()
    for site in range(6):
        ground, excited = table.view(-1, 2, 2**site).unbind(dim=1)
        table = torch.stack([0.9 * ground + 0.2 * excited, 0.1 * ground + 0.8 * excited], dim=1).flatten()
    assert torch.allclose(learning.surprise(model, ALL), -table.log().detach(), rtol=1e-12)
    # The gradient is that of the bound, which is no bound here: many draws have it.
    learning = objective(ALL, e10=0.2, e01=0.1, draws=4000, train={"K": 64})
    batches, metrics = learning.prepare(model, [BatchKey(0, 0, 0)])
    assert metrics["nll"] == pytest.approx(-table.log().mean().item(), rel=1e-12)
    found = gradient_of(model, sum(learning.loss(model, batch)[0] for batch in batches))
    exact = gradient_of(model, -table.log().mean())
    assert (found - exact).norm() < 0.15 * exact.norm()


def test_draws_do_not_depend_on_memory() -> None:
    model = built(MODELS[1])
    draws = [posterior_draws(model, ALL, 0.1, 0.1, 3, torch.Generator().manual_seed(0), memory) for memory in (1, 2**30)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.allclose(draws[0][1], draws[1][1], rtol=1e-12)


def written(folder: Path, shots: int, problem: qsr.Rydberg = PROBLEM, **more: object) -> str:
    make_snapshots([problem], folder / "s.h5", shots=shots, **more)
    return str(folder / "s.h5")


def exact_kl(run: qsr.Run, problem: qsr.Rydberg) -> tuple[float, np.ndarray, np.ndarray]:
    """KL(exact || model), and both distributions."""
    exact = state_probabilities([problem.build()])[0]
    with torch.no_grad():
        log_prob = run.model.log_prob(configurations(problem.num_sites)).double().numpy()
    return float((exact * (np.log(exact) - log_prob)).sum()), exact, log_prob


@pytest.mark.slow
def test_many_snapshots_lead_to_the_exact_distribution(tmp_path: Path) -> None:
    """To the limit of sampling: the best model of S snapshots with k numbers is about k / 2S nat away."""
    problem = qsr.Rydberg(Lx=3, Ly=3)
    shots = 30000
    file = written(tmp_path, shots, problem)
    train = {"steps": 700, "K": 512, "lr": 0.01, "dir": str(tmp_path)}
    run = qsr.train(problem, qsr.PTF(patch="3", Nh=16, nhead=2), train, data={"file": file})
    kl, exact, log_prob = exact_kl(run, problem)
    entropy = -(exact * np.log(exact)).sum()
    assert 0 < kl < 511 / (2 * 0.9 * shots), f"a histogram has {511 / (2 * 0.9 * shots)}"
    epochs, steps = (RunDirectory(run.path).history.read(group) for group in ("epochs", "steps"))
    assert -(exact * log_prob).sum() == pytest.approx(entropy + kl, rel=1e-9) and entropy + kl > entropy
    held_back, error = epochs["validation_loss"][-1], epochs["validation_loss_error"][-1]
    assert abs(held_back - entropy - kl) < 4 * error
    assert np.all(steps["nll"] > entropy - 5 * steps["nll_error"])
    assert len(epochs["epoch"]) == -(-700 // (27000 // 512))


def test_readout_errors_are_taken_off(tmp_path: Path) -> None:
    problem = qsr.Rydberg(Lx=2, Ly=3, delta=1.5)
    file = written(tmp_path, 20000, problem, e10=0.1, e01=0.03)
    train = {"steps": 150, "K": 256, "lr": 0.02, "dir": "<NONE>"}
    found = {}
    for name, data in (("corrected", {}), ("as read", {"e10": 0.0, "e01": 0.0})):
        run = qsr.train(problem, qsr.PTF(patch="2x1", Nh=16, nhead=2), train, data={"file": file, "draws": 8, **data})
        found[name], exact, log_prob = exact_kl(run, problem)
    assert found["corrected"] < 0.01 < 0.05 < found["as read"]
    read = read_probabilities(exact, 0.1, 0.03)
    assert (read * (np.log(read) - log_prob)).sum() < 0.01, "without a correction: the distribution of what was read"


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    file = written(tmp_path, 300, e10=0.05)
    sections = {
        "hamiltonian": PROBLEM,
        "model": qsr.PTF(patch="2x1", Nh=8, nhead=2, dropout=0.1),
        "data": {"file": file, "draws": 3},
        "early_stopping": {"patience": 50, "restore_best_weights": True},
        "checkpoint": {"every_n_steps": 7},
    }
    train = {"steps": 40, "K": 24, "Q": 2, "dir": str(tmp_path)}
    whole = qsr.train(train=train, **sections)

    class Kill(qsr.training.Callback):
        def on_step_end(self, trainer, metrics) -> None:  # type: ignore[no-untyped-def]
            if trainer.step == 31:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qsr.train(train=train, **sections, callbacks=[Kill()])
    cut = Path(whole.path).with_name("1")
    resumed = qsr.resume(cut)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    )
    assert same_history(RunDirectory(whole.path).history, RunDirectory(cut).history)
    written(tmp_path, 301, e10=0.05)
    with pytest.raises(ConfigError, match=r"s\.h5: has changed since data\.sha256="):
        qsr.resume(cut)


def test_early_stopping_keeps_what_was_best_on_held_back_snapshots(tmp_path: Path) -> None:
    file = written(tmp_path, 60)
    train = {"steps": 4000, "K": 48, "lr": 0.02, "dir": str(tmp_path)}
    stopping = {"patience": 20, "restore_best_weights": True}
    model = qsr.PTF(patch="2x3", Nh=16, nhead=2)
    run = qsr.train(PROBLEM, model, train, data={"file": file, "validation": 0.2}, early_stopping=stopping)
    history = RunDirectory(run.path).history.read("epochs")
    values = history["validation_loss"]
    assert len(values) < 4000 and len(values) - 1 - values.argmin() == 20
    data, training, validation = run.settings.data.read(PROBLEM)
    assert len(validation) == 12 and len(training) == 48 and data == run.settings.data
    objective = SnapshotLikelihood(training, validation, data, run.settings.train)
    assert objective.surprise(run.model, validation).mean().item() == pytest.approx(values.min(), rel=1e-5)


def test_energies_go_on_where_snapshots_end(tmp_path: Path) -> None:
    problem = qsr.Rydberg(Lx=3, Ly=3)
    file = written(tmp_path, 4000, problem)
    train = {"steps": 200, "K": 256, "lr": 0.01, "dir": str(tmp_path)}
    run = qsr.train(problem, qsr.PTF(patch="3", Nh=16, nhead=2), train, data={"file": file}, early_stopping={"patience": 30})
    exact = -0.532877928
    assert abs(qsr.evaluate(run, 2048).energy_per_site.mean - exact) < 0.02
    tuned = qsr.finetune(run, train={"steps": 60, "lr": 0.005})
    assert tuned.settings.data is None and tuned.settings.early_stopping is None
    assert tuned.settings.objective.name == "energy"
    assert tuned.settings.hamiltonian == run.settings.hamiltonian
    assert abs(qsr.evaluate(tuned, 4096).energy_per_site.mean - exact) < 0.002
    assert qsr.plot(run).stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hamiltonian": qsr.Rydberg(Lx=2, Ly=4)}, r"snapshots of 6 sites, but rydberg has Lx\*Ly = 2\*4 = 8 sites"),
        ({"hamiltonian": qsr.Rydberg(Lx=6, Ly=1, delta=1.5)}, r"its sites are not those of the problem"),
        ({"hamiltonian": qsr.Rydberg(Lx=2, Ly=3)}, r"snapshots with delta=1.5, but the problem has delta=1$"),
        (
            {"hamiltonian": qsr.Rydberg(Lx=2, Ly=3, delta=[1.5] * 5 + [1.0])},
            r"snapshots with delta=1.5, but the problem has delta=1 to 1.5$",
        ),
        ({"data": {"file": "nowhere.h5"}}, r"nowhere\.h5: no such file"),
        ({"data": {"file": "F", "e10": 0.6, "e01": 0.5}}, r"data\.e10=0\.6: with e01=0\.5 .* must be below 1"),
        ({"data": {"file": "F", "e10": -0.1}}, r"data\.e10=-0\.1: must be at least 0"),
        ({"data": {"file": "F", "validation": 0.001}}, r"data\.validation=0\.001: leaves 0 of 50 snapshots"),
        ({"data": {"type": "table", "file": "F"}}, r"--table: is for models on data; ptf is a sampler"),
        ({"data": {"file": "F", "validation": 0.0}, "early_stopping": {"patience": 2}}, r"data\.validation=0: early_stopping"),
        ({"early_stopping": {"monitor": "nll"}}, r"early_stopping\.monitor=nll: no such metric"),
        ({"optimizer": {"name": "spring"}}, r"optimizer\.name=spring: needs the local energies"),
        ({"model": qsr.RNN(patch="1", phase=True)}, r"rnn\.phase=True: the new model has a phase"),
        ({"train": {"NLOOPS": 2}}, r"train\.NLOOPS=2: concerns energies, and learning from snapshots computes none"),
        ({"train": {"max_epochs": 3}}, r"train\.max_epochs=3: means nothing in a run of a sampler"),
    ],
)
def test_refused(changes: dict, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, 50)
    sections = {"hamiltonian": PROBLEM, "model": qsr.PTF(patch="2x1", Nh=8, nhead=2), "data": {"file": file}, **changes}
    if sections["data"]["file"] == "F":
        sections["data"] = {**sections["data"], "file": file}
    train = {"steps": 3, "K": 16, "dir": str(tmp_path / "runs"), **sections.pop("train", {})}
    with pytest.raises(ConfigError, match=said):
        qsr.train(train=train, **sections)
    if "early_stopping" not in changes:
        assert not (tmp_path / "runs").exists()


def test_a_mixture_of_states_is_refused_and_units_of_length_are_not(tmp_path: Path) -> None:
    make_snapshots([PROBLEM, qsr.Rydberg(Lx=2, Ly=3, delta=0.5)], tmp_path / "two.h5", shots=20)
    train = {"steps": 1, "K": 16, "dir": "<NONE>"}
    with pytest.raises(ConfigError, match=r"snapshots with delta=0\.5 to 1\.5, but the problem has delta=1\.5"):
        qsr.train(PROBLEM, MODELS[0], train, data={"file": str(tmp_path / "two.h5")})
    found = read_snapshots(written(tmp_path, 20))
    moved = Snapshots(found.configs, 5.5 * found.positions + 3)
    write_snapshots(tmp_path / "um.h5", moved)
    qsr.train(PROBLEM, MODELS[0], train, data={"file": str(tmp_path / "um.h5")})
