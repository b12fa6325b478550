"""Training over ranges: the gradient of the mean energy over the box, natural gradients of several states, and the points."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import Rydberg, configurations
from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, same_history
from qsr.samplers import LPTF, PTF, RNN
from qsr.samplers.conditioned import ConditionedSampler
from qsr.training import BatchKey, Callback, FamilyEnergy, TrainHparams, update_rule
from qsr.training.family_energy import latin_hypercube
from qsr.training.per_sample import PerSampleGradients

PROBLEM = Rydberg(Lx=2, Ly=2, V=3.0, delta="0:3", Omega="0.5:2")
MODEL = RNN(patch=1, Nh=6)


def build(problem: Rydberg = PROBLEM, model: Any = MODEL) -> ConditionedSampler:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made: ConditionedSampler = model.build_for(problem).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.5)
    return made


def flat(parts: Any) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    return flat(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


def exact_gradient(model: ConditionedSampler, problem: Rydberg) -> torch.Tensor:
    """Of the mean of <psi|H|psi> over the box, by matrices and Gauss-Legendre quadrature (6 points an axis: smooth in both)."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    total = torch.zeros((), dtype=torch.float64)
    ranges = problem.ranges
    for x, wx in zip(nodes, weights, strict=True):
        for y, wy in zip(nodes, weights, strict=True):
            places = {name: float(u) for name, u in zip(ranges, (x, y), strict=True)}
            point = {name: r.middle + (r.high - r.low) / 2 * places[name] for name, r in ranges.items()}
            psi = (0.5 * model.at(**point).log_prob(configurations(4))).exp()
            matrix = torch.from_numpy(problem.family().at(**point).to_sparse().toarray())
            total = total + wx * wy / 4 * (psi @ matrix @ psi)
    return gradient(model, total)


@pytest.mark.parametrize("options", [{}, {"true_grad": True}, {"flips": 1, "window": 1}], ids=["exact", "true_grad", "drawn"])
def test_the_sampled_gradient_is_that_of_the_mean_energy_over_the_box(options: dict[str, Any]) -> None:
    """Along 20 random directions the mean over independent steps is within 4 standard errors (|z| < 4)."""
    model, exact = build(), exact_gradient(build(), PROBLEM)
    # As few samples as there can be: with 2 a point a baseline that is not leave-one-out is off by half.
    objective = FamilyEnergy(PROBLEM.family(), TrainHparams(K=4, Q=2, points=2, **options))
    directions = torch.randn(20, len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = []
    for step in range(300):
        batches, _ = objective.prepare(model, [BatchKey(1, step, minibatch) for minibatch in range(2)])
        found.append(directions @ sum(gradient(model, objective.loss(model, batch)[0]) for batch in batches))
    values = torch.stack(found)
    z = (values.mean(dim=0) - directions @ exact) / (values.std(dim=0) / len(values) ** 0.5)
    assert z.abs().max() < 4
    assert (exact.abs() > 1e-3).any()


def prepared(points: int = 4, **options: Any) -> tuple[ConditionedSampler, FamilyEnergy, Any, dict[str, float]]:
    model = build()
    objective = FamilyEnergy(PROBLEM.family(), TrainHparams(**{"K": 24, "Q": 2, "points": points, "flips": "exact", **options}))
    batches, metrics = objective.prepare(model, [BatchKey(0, 5, minibatch) for minibatch in range(2)])
    return model, objective, batches, metrics


def test_baselines_and_metrics_are_those_within_points() -> None:
    model, objective, batches, metrics = prepared()
    energies, groups, terms = [], [], []
    for batch in batches:
        count = (48 * batch.weights).round().long()
        found = local_energy(model, objective.family.rows(batch.context), batch.configs, batch.context).values
        energies.append(found.repeat_interleave(count))
        groups.append(batch.groups.repeat_interleave(count))
        terms.append((batch.terms / count).repeat_interleave(count))
    energy, group, term = (torch.cat(column) for column in (energies, groups, terms))
    assert torch.bincount(group).tolist() == [6] * 8
    by_point = [energy[group == number] for number in range(8)]
    for number, own in enumerate(by_point):
        # (E - mean of the 5 others) / 48, in units of the mean over 8 points.
        assert torch.allclose(term[group == number], (own - (own.sum() - own) / 5) / 48, atol=1e-12)
    assert metrics["energy"] == pytest.approx(np.mean([own.mean() for own in by_point]))
    assert metrics["variance"] == pytest.approx(np.mean([own.var() for own in by_point]))
    assert metrics["energy_error"] == pytest.approx(math.sqrt(sum(own.var() / 6 for own in by_point)) / 8)
    assert metrics["samples"] == 48


def test_a_natural_gradient_solves_the_equations_of_the_mean_over_the_points() -> None:
    """(S + shift) phi = F, S and F the means of the points' covariances, written out with all parameters."""
    tree = {"hamiltonian": PROBLEM, "model": MODEL, "optimizer": {"name": "minsr", "kwargs": {"shift": 1e-2, "cap": None}}}
    settings = RunSettings.from_tree({**tree, "train": {"K": 24, "Q": 2, "points": 4, "lr": 1.0}, "scheduler": {"name": "none"}})
    model, objective, batches, _ = prepared()
    gradients = PerSampleGradients(model, 2**30)
    size = gradients.num_parameters
    metric, force = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for batch in batches:
        [(_, jacobian)] = gradients.blocks(batch.configs, batch.key, batch.context)
        residuals = objective.residuals(batch)[2]
        for number in batch.groups.unique():
            own = batch.groups == number
            share = batch.weights[own] / batch.weights[own].sum()
            centred = 0.5 * (jacobian[own] - share @ jacobian[own])
            metric += (centred.T * share) @ centred / 8
            force += centred.T @ (share * residuals[own]) / 8
    expected = torch.linalg.solve(metric + 1e-2 * torch.eye(size, dtype=torch.float64), force)
    before = flat(model.parameters()).detach().clone()
    update_rule(model, settings).update(model, objective, [BatchKey(0, 5, minibatch) for minibatch in range(2)])
    found = before - flat(model.parameters()).detach()
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8 * expected.abs().max())
    assert expected.norm() > 1e-2


def test_minibatches_draw_their_points_alone_and_every_step_covers_the_box() -> None:
    _, _, batches, _ = prepared()
    for batch in batches:
        model = build()
        objective = FamilyEnergy(PROBLEM.family(), TrainHparams(K=24, points=4, flips="exact"))
        (alone,), _ = objective.prepare(model, [batch.key])
        assert torch.equal(alone.configs, batch.configs) and torch.equal(alone.context, batch.context)
        points = batch.context.unique(dim=0)
        low, high = (torch.tensor([getattr(r, end) for r in PROBLEM.ranges.values()]) for end in ("low", "high"))
        slices = ((points - low) / (high - low) * 4).floor().sort(dim=0).values
        assert torch.equal(slices, torch.arange(4.0).double()[:, None].expand(-1, 2))
    assert not torch.equal(batches[0].context.unique(dim=0), batches[1].context.unique(dim=0))


def test_a_latin_hypercube_is_uniform() -> None:
    found = torch.stack([latin_hypercube(5, 2, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert (found >= 0).all() and (found < 1).all()
    for axis in range(2):
        values = found[:, 2, axis]  # of one row: uniform, 4 sigma of its mean and of its second moment
        assert abs(values.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / 2000)
        assert abs(values.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / 2000)
    product = (found[:, 2, 0] - 0.5) * (found[:, 2, 1] - 0.5)
    assert abs(product.mean()) < 4 / 12 / math.sqrt(2000)


class Stop(Callback):
    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("model", "words", "optimizer"),
    [
        (PTF(patch="2x1", Nh=8, nhead=2, dropout=0.1), {}, {"name": "spring"}),
        (LPTF(patch="2x1", Nh=8, nhead=2, subsampler=RNN(patch=1)), {"sgrad": True, "K_final": 32}, {"name": "Adam"}),
        (RNN(patch=1, Nh=6, phase=True), {"flips": 2, "window": 1}, {"name": "minsr"}),
    ],
    ids=["ptf", "lptf", "rnn"],
)
def test_runs_resume_bit_for_bit(model: Any, words: dict[str, Any], optimizer: dict[str, Any], tmp_path: Path) -> None:
    train = {"K": 16, "Q": 2, "points": 4, "steps": 7, "lr": 0.02, "device": "cpu", **words}
    settings = {"optimizer": optimizer, "checkpoint": {"every_n_steps": 3}}
    whole = qsr.train(PROBLEM, model, {**train, "dir": str(tmp_path / "whole")}, **settings)
    with pytest.raises(KeyboardInterrupt):
        qsr.train(PROBLEM, model, {**train, "dir": str(tmp_path / "cut")}, **settings, callbacks=[Stop()])
    (cut,) = {path.parent for path in (tmp_path / "cut").rglob("settings.json")}
    resumed = qsr.resume(cut)
    assert whole.path is not None and same_history(RunDirectory(whole.path).history, RunDirectory(cut).history)
    assert all(torch.equal(one, other) for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    loaded = qsr.load_model(cut)
    point = {"delta": 1.0, "Omega": 1.5}
    expected = whole.model.eval().at(**point).log_prob(configurations(4))
    assert torch.equal(loaded.at(**point).log_prob(configurations(4)), expected)


def test_a_size_curriculum_and_new_ranges_go_on_with_the_weights() -> None:
    model = PTF(patch="2x1", Nh=8, nhead=2)
    train = {"K": 16, "points": 4, "lr": 0.01, "curriculum": "2x2:2,4x3:2", "dir": "<NONE>"}
    run = qsr.train(PROBLEM.updated({"Lx": 4, "Ly": 3}), model, train)
    assert run.model.at(delta=1.0, Omega=1.0).sample(3)[0].shape == (3, 12)


def test_finetuning_over_other_ranges_begins_with_the_same_states(tmp_path: Path) -> None:
    run = qsr.train(PROBLEM, MODEL, {"K": 16, "points": 4, "steps": 4, "lr": 0.05, "dir": str(tmp_path), "precision": "float64"})
    wider = qsr.finetune(run, {"steps": 0}, {"delta": "-1:5", "Omega": "1:1.5"})
    for point in ({"delta": 0.3, "Omega": 1.1}, {"delta": 3.0, "Omega": 1.5}):
        found, expected = (made.model.at(**point).log_prob(configurations(4)).detach() for made in (wider, run))
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert wider.model.at(delta=-1.0, Omega=1.0).ranges["delta"] == qsr.Range(-1, 5)
    with pytest.raises(ConfigError, match=r"finetune: the network of this run reads Omega, delta, and .* ranges of Omega"):
        qsr.finetune(run, {"steps": 1}, {"delta": 1.2})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train": {"K": 20}}, r"train\.K=20: must be a multiple of train\.points=8, at least .*: rydberg\.Omega=0\.5:2"),
        ({"train": {"K": 8}}, r"train\.K=8: must be a multiple of train\.points=8, at least twice as large"),
        ({"train": {"points": 4}, "hamiltonian": Rydberg(Lx=2, Ly=2)}, r"train\.points=4: is for a range, such as"),
        ({"objective": {"name": "teacher"}}, r"rydberg\.Omega=0\.5:2: a range is trained by energies"),
    ],
)
def test_contradictions_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunSettings.from_tree({"model": MODEL, "hamiltonian": PROBLEM, **tree})
    assert replace(RunSettings.from_tree({"model": MODEL, "hamiltonian": PROBLEM})).train.points is None
