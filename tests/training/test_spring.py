"""MinSR and SPRING against their definitions, solved densely in the space of the parameters."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import Rydberg
from qsr.hamiltonians.base import configurations
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model
from qsr.runs import RunDirectory
from qsr.samplers import Sampler
from qsr.training import BatchKey, NaturalGradient, RunFailed, Trainer, VariationalEnergy, update_rule


def settings(model: Any = None, name: str = "spring", arguments: dict[str, Any] | None = None, **sections: Any) -> RunSettings:
    train = {
        "K": 24,
        "steps": 10,
        "dir": "<NONE>",
        "lr": 0.05,
        "precision": "float64",
        "flips": "exact",
        **sections.pop("train", {}),
    }
    tree = {
        "model": model or qsr.PTF(Nh=8, nhead=2, patch=1, dim_feedforward=8),
        "train": train,
        "hamiltonian": Rydberg(Lx=2, Ly=3, V=3.0),
        "optimizer": {"name": name, "kwargs": arguments or {}},
        "scheduler": {"name": "none"},
        **sections,
    }
    return RunSettings.from_tree(tree)


class Phased(Sampler):
    """psi = sqrt(p) exp(i phi) with one layer that both read."""

    has_phase = True

    def __init__(self, num_sites: int) -> None:
        super().__init__()
        self.num_sites = num_sites
        self.shared = nn.Linear(num_sites, 5)
        self.logits, self.angle = nn.Linear(5, 2 * num_sites), nn.Linear(5, 1)

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        """Site j depends on the sites before it through a mask: normalised, and samples are exact."""
        x = configs.to(self.dtype)
        total = x.new_zeros(len(x))
        for site in range(self.num_sites):
            seen = x * (torch.arange(self.num_sites) < site)
            table = self.logits(self.shared(seen).tanh())[:, 2 * site : 2 * site + 2].log_softmax(dim=1)
            total = total + table.gather(1, configs[:, site : site + 1].long()).squeeze(1)
        return total

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        return 2 * self.angle(self.shared(configs.to(self.dtype)).tanh()).squeeze(1)

    def sample(
        self, num_samples: int, generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            every = configurations(self.num_sites)
            log_prob = self.log_prob(every)
            drawn = torch.multinomial(log_prob.exp(), num_samples, replacement=True, generator=generator)
            return every[drawn], log_prob[drawn]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def log_psi_gradients(model: Any, configs: Tensor) -> Tensor:
    """(B, P) complex grad log psi, one backward pass for each."""
    rows = []
    for config in configs:
        parts = [0.5 * model.log_prob(config[None]).sum()]
        if model.has_phase:
            parts.append(model.phase(config[None]).sum())
        found = [torch.autograd.grad(part, list(model.parameters()), materialize_grads=True) for part in parts]
        flattened = [torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found]
        rows.append(torch.complex(flattened[0], flattened[1] if len(flattened) == 2 else torch.zeros_like(flattened[0])))
    return torch.stack(rows)


def dense_system(model: Any, objective: VariationalEnergy, keys: Sequence[BatchKey]) -> tuple[Tensor, Tensor]:
    """S = Re <dO^* dO> and F = Re <dO^* dE> of the samples of a step, one row for each of the B samples."""
    samples = []
    for key in keys:
        for batch in objective.prepare(model, [key])[0]:
            count = (objective.settings.K * batch.weights).round().long()
            samples.append(batch.configs.repeat_interleave(count, dim=0))
    configs = torch.cat(samples)
    gradients = log_psi_gradients(model, configs)
    energies = local_energy(model, objective.hamiltonian, configs).values.to(gradients.dtype)
    gradients, energies = gradients - gradients.mean(dim=0), energies - energies.mean()
    return (gradients.mH @ gradients / len(configs)).real, (gradients.mH @ energies / len(configs)).real


def step_of(run: RunSettings, model: Any, keys: Sequence[BatchKey], rule: Any = None) -> tuple[Tensor, dict[str, float], Any]:
    """phi as it was applied, the metrics, and the rule."""
    rule = rule or update_rule(model, run)
    before = flat(model)
    metrics = rule.update(model, VariationalEnergy(run.hamiltonian.build(), run.train), keys)
    return (before - flat(model)) / metrics["lr"], metrics, rule


KEYS = [BatchKey(5, 0, 0)]
MODELS = {
    "ptf": qsr.PTF(Nh=8, nhead=2, patch=1, dim_feedforward=8),
    "rnn": qsr.RNN(Nh=6, patch="1x3"),
    "lptf": qsr.LPTF(Nh=4, nhead=2, patch="2x1", subsampler=qsr.RNN(patch=1)),
    "quantum": qsr.PTF(Nh=8, nhead=2, patch=1, dim_feedforward=8, embedding={"K": 2, "strategy": "none"}),
    "quantum-context": qsr.RNN(Nh=6, patch="1x3", embedding={"K": 2, "context_encoder": "mean", "entanglement": "bell_state"}),
}


@pytest.mark.parametrize("memory_MiB", [256, 0])
@pytest.mark.parametrize("name", MODELS)
def test_minsr_is_stochastic_reconfiguration(name: str, memory_MiB: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = settings(MODELS[name], "minsr", {"shift": 1e-3, "cap": None})
    model = build_model(run)
    objective = VariationalEnergy(run.hamiltonian.build(), run.train)
    matrix, force = dense_system(model, objective, KEYS)
    expected = torch.linalg.solve(matrix + 1e-3 * torch.eye(len(force), dtype=torch.float64), force)
    rule = update_rule(model, run)
    assert isinstance(rule, NaturalGradient)
    if memory_MiB == 0:
        rule.gradients.memory_bytes = 30_000
        assert len(rule.gradients.groups(24)) > 1
    found, metrics, _ = step_of(run, model, KEYS, rule)
    assert (found - expected).norm() < 1e-8 * expected.norm()
    assert metrics["gradient_norm"] == pytest.approx(2 * force.norm().item(), rel=1e-9)
    assert metrics["fisher_norm"] == pytest.approx(0.05 * (expected @ matrix @ expected).sqrt().item(), rel=1e-8)
    assert metrics["shift"] == pytest.approx(1e-3) and math.isfinite(metrics["energy"])


def test_the_gradient_norm_is_that_of_first_order_training() -> None:
    """But for the leave-one-out factor B/(B-1) of unbiased gradients."""
    run = settings()
    keys, model = KEYS, build_model(run)
    other = settings(name="SGD")
    _, metrics, _ = step_of(other, build_model(other), keys)
    assert step_of(run, model, keys)[1]["gradient_norm"] * 24 / 23 == pytest.approx(metrics["gradient_norm"], rel=1e-9)


def test_spring_is_its_definition() -> None:
    """The phi with the least |Obar phi - eps|^2 + shift |phi - mu phi_prev|^2, over three steps."""
    run = settings(arguments={"shift": 2e-3, "momentum": 0.8, "cap": None})
    model = build_model(run)
    objective = VariationalEnergy(run.hamiltonian.build(), run.train)
    rule, previous = None, torch.zeros(len(flat(model)), dtype=torch.float64)
    for step in range(3):
        keys = [BatchKey(5, step, 0)]
        matrix, force = dense_system(model, objective, keys)
        # Its gradient vanishes: (S + shift) phi = F + shift mu phi_prev.
        previous = torch.linalg.solve(matrix + 2e-3 * torch.eye(len(force), dtype=torch.float64), force + 2e-3 * 0.8 * previous)
        found, _, rule = step_of(run, model, keys, rule)
        assert (found - previous).norm() < 1e-8 * previous.norm()
    assert torch.allclose(rule.direction, previous, atol=1e-9)


def test_equal_samples_may_be_joined() -> None:
    """A weighted row for a configuration is as good as a row for each of its copies."""
    run = settings(qsr.RNN(Nh=4, patch=1), arguments={"cap": None})
    model = build_model(run)
    joined = VariationalEnergy(run.hamiltonian.build(), run.train)

    class Unjoined(VariationalEnergy):
        def residuals(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            configs, weights, residuals = super().residuals(batch)
            counts = (24 * weights).round().long()
            assert counts.max() > 1
            return (
                configs.repeat_interleave(counts, 0),
                torch.full((24,), 1 / 24, dtype=torch.float64),
                residuals.repeat_interleave(counts),
            )

    found = []
    for objective in (joined, Unjoined(joined.hamiltonian, joined.settings)):
        copy = build_model(run)
        rule = update_rule(copy, run)
        rule.update(copy, objective, KEYS)
        found.append(flat(copy) - flat(model))
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-9 * found[0].abs().max().item())


def test_residuals_are_deviations_from_the_mean() -> None:
    run = settings(train={"K": 7, "Q": 3})
    model, objective = build_model(run), VariationalEnergy(run.hamiltonian.build(), run.train)
    batches, metrics = objective.prepare(model, [BatchKey(0, 0, index) for index in range(3)])
    parts = [objective.residuals(batch) for batch in batches]
    configs, weights, residuals = (torch.cat(column) for column in zip(*parts, strict=True))
    assert weights.sum().item() == pytest.approx(1)
    energies = local_energy(model, objective.hamiltonian, configs).values
    assert torch.allclose(residuals, energies - metrics["energy"], atol=1e-12)
    assert residuals.dtype == torch.float64


def test_minibatches_are_one_system() -> None:
    """Four minibatches solve the equations of all their samples: those that one batch of the same samples gives."""
    run = settings(train={"K": 6, "Q": 4}, arguments={"cap": None, "shift": 1e-3})
    model = build_model(run)
    keys = [BatchKey(5, 0, index) for index in range(4)]

    class Together(VariationalEnergy):
        def prepare(self, model: Sampler, keys: Sequence[BatchKey]) -> tuple[list[Any], dict[str, float]]:
            batches, metrics = super().prepare(model, keys)
            configs = torch.cat([batch.configs for batch in batches])
            self.settings = run.train.updated({"Q": 1, "K": 24})
            first = batches[0]
            first.configs, first.terms, first.weights = (
                configs,
                torch.cat([batch.terms for batch in batches]),
                torch.cat([batch.weights for batch in batches]),
            )
            return [first], metrics

    objective = VariationalEnergy(run.hamiltonian.build(), run.train)
    together, apart = build_model(run), build_model(run)
    metrics = update_rule(apart, run).update(apart, objective, keys)
    assert metrics == update_rule(together, run).update(together, Together(objective.hamiltonian, run.train), keys)
    assert torch.equal(flat(apart), flat(together)) and not torch.equal(flat(apart), flat(model))
    matrix, force = dense_system(model, objective, keys)
    expected = torch.linalg.solve(matrix + 1e-3 * torch.eye(len(force), dtype=torch.float64), force)
    assert torch.allclose((flat(model) - flat(apart)) / 0.05, expected, atol=1e-8 * expected.abs().max().item())


@pytest.mark.parametrize("memory_bytes", [2**28, 4000])
def test_a_phase_is_complex_stochastic_reconfiguration(memory_bytes: int) -> None:
    run = settings(name="minsr", arguments={"shift": 1e-3, "cap": None})
    torch.manual_seed(3)
    model = Phased(6).double()
    matrix, force = dense_system(model, VariationalEnergy(run.hamiltonian.build(), run.train), KEYS)
    expected = torch.linalg.solve(matrix + 1e-3 * torch.eye(len(force), dtype=torch.float64), force)
    rule = NaturalGradient(model, run)
    rule.gradients.memory_bytes = memory_bytes
    found, metrics, _ = step_of(run, model, KEYS, rule)
    assert (found - expected).norm() < 1e-8 * expected.norm()
    assert metrics["gradient_norm"] == pytest.approx(2 * force.norm().item(), rel=1e-9)


def test_the_cap_bounds_the_step_and_not_the_momentum() -> None:
    free, _, rule = step_of(settings(arguments={"cap": None}), build_model(settings()), KEYS)
    capped, metrics, bound = step_of(settings(arguments={"cap": 0.01}), build_model(settings()), KEYS)
    assert metrics["fisher_norm"] > 0.01
    assert torch.allclose(capped, free * 0.01 / metrics["fisher_norm"], atol=1e-10)
    assert torch.equal(bound.direction, rule.direction)
    loose, metrics, _ = step_of(settings(arguments={"cap": 1.0}), build_model(settings()), KEYS)
    assert metrics["fisher_norm"] < 1 and torch.equal(loose, free)


def test_the_shift_goes_geometrically_to_its_final_value() -> None:
    run = settings(arguments={"shift": 1e-1, "final_shift": 1e-5}, train={"steps": 5})
    rule = NaturalGradient(build_model(run), run)
    assert [rule.shift(step) for step in range(5)] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    assert rule.shift(99) == pytest.approx(1e-5)
    assert NaturalGradient(build_model(run), settings(train={"steps": 1})).shift(0) == 1e-2


def test_the_scheduler_sets_the_rate() -> None:
    run = settings(scheduler={"name": "StepLR", "kwargs": {"step_size": 1, "gamma": 0.5}})
    model = build_model(run)
    rule = update_rule(model, run)
    objective = VariationalEnergy(run.hamiltonian.build(), run.train)
    rates = [rule.update(model, objective, [BatchKey(0, step, 0)])["lr"] for step in range(2)]
    rule.slow_down()
    assert [*rates, rule.update(model, objective, [BatchKey(0, 2, 0)])["lr"]] == [0.05, 0.025, 0.00625]


@pytest.mark.parametrize("name", ["spring", "minsr"])
def test_a_resumed_run_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Six steps at once equal three, a checkpoint on disk, and three more; dropout and the moving shift included."""
    network = qsr.PTF(Nh=8, nhead=2, patch=1, dropout=0.1)
    arguments = {"final_shift": 1e-4}
    schedule = {"name": "OneCycleLR"}
    run = settings(network, name, arguments, train={"steps": 6}, checkpoint={"every_n_steps": 3}, scheduler=schedule)

    def trainer() -> Trainer:
        model = build_model(run)
        objective = VariationalEnergy(run.hamiltonian.build(), run.train)
        return Trainer(model, objective, update_rule(model, run), [], run, RunDirectory(tmp_path))

    whole = trainer()
    whole.fit()
    (tmp_path / "checkpoint" / "6").rename(tmp_path / "gone")
    rest = trainer()
    rest.resume()
    assert rest.step == 3
    rest.fit()
    assert torch.equal(flat(whole.model), flat(rest.model))
    assert not torch.equal(flat(whole.model), flat(build_model(run)))


@pytest.mark.parametrize("where", ["weights", "energies"])
def test_what_is_not_finite_ends_in_the_metrics(where: str) -> None:
    run = settings()
    model = build_model(run)
    objective: Any = VariationalEnergy(run.hamiltonian.build(), run.train)
    if where == "weights":
        # Only the check of a step that is under way: a model with NaN does not sample.
        configs, weights, residuals = objective.residuals(objective.prepare(model, KEYS)[0][0])
        objective.prepare = lambda model, keys: ([None], {})
        objective.residuals = lambda batch: (configs, weights, residuals)
        objective.conditions = lambda batch: None
        with torch.no_grad():
            model.head[0].weight[0, 0] = math.nan
    else:
        plain = objective.residuals
        objective.residuals = lambda batch: (*plain(batch)[:2], plain(batch)[2] * math.nan)
    metrics = update_rule(model, run).update(model, objective, KEYS)
    assert math.isnan(metrics["gradient_norm"]) and math.isnan(metrics["fisher_norm"])


def test_a_run_that_blows_up_is_rewound() -> None:
    run = settings(train={"steps": 5, "lr": 1e200}, arguments={"cap": None})
    model = build_model(run)
    start = flat(model)
    objective = VariationalEnergy(run.hamiltonian.build(), run.train)
    with pytest.raises(RunFailed, match="the weights of step 0 are kept"):
        Trainer(model, objective, update_rule(model, run), [], run).fit()
    assert torch.equal(flat(model), start)


@pytest.mark.parametrize(("name", "rate"), [("spring", 0.02), ("minsr", 0.2)])
def test_a_run_reaches_the_exact_energy(name: str, rate: float) -> None:
    """With few samples it would not: inverting the S of a sample is biased by 1/K, as if rare configurations were absent."""
    problem = qsr.Rydberg(Lx=2, Ly=3, V=7.0)
    run = qsr.train(
        problem,
        qsr.PTF(Nh=16, nhead=2, dim_feedforward=32, patch="2x1"),
        {"K": 1024, "steps": 300, "lr": rate, "dir": "<NONE>"},
        optimizer={"name": name, "kwargs": {"shift": 1e-3}},
    )
    matrix = torch.from_numpy(problem.build().to_sparse().toarray())
    exact = torch.linalg.eigvalsh(matrix)[0].item()
    with torch.no_grad():
        psi = (0.5 * run.model.log_prob(configurations(6)).double()).exp()
    assert psi.square().sum().item() == pytest.approx(1, abs=1e-5)
    assert -1e-5 < (psi @ matrix @ psi).item() - exact < 1e-3
