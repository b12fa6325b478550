"""Variational Monte Carlo of models with a phase: exact gradients, frustrated magnets, and runs on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

import qsr
from qsr.estimators.local_energy import differentiable_local_energy, local_energy, weighted_loss
from qsr.hamiltonians import Pauli, PauliSum
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError, RunSettings
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN, Sampler
from qsr.training import Callback, VariationalEnergy, update_rule

MODELS = {
    "rnn": RNN(Nh=6, patch=1, phase=True, phase_Nh=5),
    "ptf": PTF(Nh=8, nhead=2, patch="2x1", phase=True, phase_Nh=5),
    "lptf": LPTF(Nh=8, nhead=2, patch="2x1", phase=True, phase_Nh=5, subsampler=RNN(patch=1)),
}


def exchange(bonds: list[tuple[int, int, float]], num_sites: int) -> str:
    """sum J_ij S_i . S_j as terms."""
    return "\n".join(f"{J / 4} {letter}{i} {letter}{j}" for i, j, J in bonds for letter in "XYZ") + f"\n0 I{num_sites - 1}"


def chain(num_sites: int, J2: float = 0.5) -> str:
    """The J1-J2 ring without a sign rule; at J2 = 1/2 its ground states are products of dimers, E0 = -3N/8."""
    return exchange([(i, (i + d) % num_sites, J) for d, J in ((1, 1.0), (2, J2)) for i in range(num_sites)], num_sites)


def random_sum() -> PauliSum:
    """With imaginary elements."""
    generator = np.random.default_rng(0)
    strings = ["".join(generator.choice(list("IXYZ"), 6)) for _ in range(25)]
    return PauliSum(strings, generator.normal(size=25).tolist(), Lattice(2, 3))


def flat(gradients: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in gradients])


def wave_function(model: Sampler) -> torch.Tensor:
    configs = configurations(model.num_sites)
    return torch.polar((0.5 * model.log_prob(configs)).double().exp(), model.phase(configs).double())


def relative_error(run: qsr.Run) -> float:
    """(E - E0)/|E0| with E enumerated: no sampling noise."""
    matrix = run.settings.hamiltonian.build().to_sparse()
    psi = wave_function(run.model).detach().numpy()
    energy = np.vdot(psi, matrix @ psi).real / np.vdot(psi, psi).real
    exact = eigsh(matrix, k=1, which="SA")[0][0]
    return float((energy - exact) / abs(exact))


@pytest.mark.parametrize("problem", [PauliSum.from_text(chain(6), Lattice(2, 3)), random_sum()], ids=["real", "complex"])
@pytest.mark.parametrize("true_grad", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_enumerated_energy(name: str, true_grad: bool, problem: PauliSum) -> None:
    torch.manual_seed(4)
    model = MODELS[name].build(Lattice(2, 3)).double()
    parameters = list(model.parameters())
    psi = wave_function(model)
    matrix = torch.from_numpy(problem.to_sparse().toarray()).to(psi.dtype)
    expected = flat(torch.autograd.grad((psi.conj() @ matrix @ psi).real, parameters, materialize_grads=True))

    configs = configurations(6)
    log_prob = model.log_prob(configs)
    probability = log_prob.detach().exp()
    energies = local_energy(model, problem, configs).values
    terms = probability * (energies - (probability * energies).sum())
    through = differentiable_local_energy(model, problem, configs) if true_grad else None
    loss = weighted_loss(log_prob, terms, probability, model.phase(configs), through)
    found = flat(torch.autograd.grad(loss, parameters, materialize_grads=True))
    assert expected.norm() > 0.1
    assert (found - expected).abs().max() < 1e-8


@pytest.mark.parametrize("name", MODELS)
def test_a_natural_gradient_solves_the_stacked_real_equations(name: str) -> None:
    """One step of minsr on samples against (Re S + shift) phi = Re F, from the complex O of every configuration by autograd."""
    shift, rate = 1e-3, 1e-3
    tree = {
        "model": MODELS[name],
        "hamiltonian": Pauli(terms=chain(6), Lx=2, Ly=3),
        "train": {"K": 64, "steps": 1, "lr": rate, "dir": "<NONE>", "precision": "float64", "flips": "exact"},
        "optimizer": {"name": "minsr", "kwargs": {"shift": shift, "cap": None}},
        "scheduler": {"name": "none"},
    }
    settings = RunSettings.from_tree(tree)
    torch.manual_seed(4)
    model = MODELS[name].build(Lattice(2, 3)).double()
    before = flat(tuple(parameter.detach().clone() for parameter in model.parameters()))
    objective = VariationalEnergy(settings.hamiltonian.build(), settings.train)
    keys = next(objective.batches(0, 0, 1))
    batches, _ = objective.prepare(model, keys)
    configs, weights, residuals = objective.residuals(batches[0])
    rows = []
    for config in configs:
        log_prob, phase = model.log_prob(config[None]).sum(), model.phase(config[None]).sum()
        parts = [flat(torch.autograd.grad(f, list(model.parameters()), materialize_grads=True)) for f in (log_prob, phase)]
        rows.append(torch.complex(0.5 * parts[0], parts[1]))
    O = torch.stack(rows)  # noqa: E741
    O = weights.sqrt()[:, None] * (O - (weights[:, None] * O).sum(dim=0))  # noqa: E741
    S, F = (O.mH @ O).real, (O.mH @ (weights.sqrt() * residuals).to(O.dtype)).real
    phi = torch.linalg.solve(S + shift * torch.eye(len(S)), F)
    update_rule(model, settings).update(model, objective, keys)
    after = flat(tuple(parameter.detach() for parameter in model.parameters()))
    torch.testing.assert_close(before - after, rate * phi, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (RNN(Nh=16, patch=1, phase=True, phase_Nh=32), {"flips": "exact", "steps": 250}),
        pytest.param(PTF(Nh=16, patch=1, phase=True, phase_Nh=32), {"flips": 8, "steps": 400}, marks=pytest.mark.slow),
        pytest.param(
            LPTF(Nh=16, nhead=2, patch=3, phase=True, phase_Nh=32, subsampler=RNN(Nh=16, patch=1)),
            {"flips": "exact", "steps": 250},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["exact flips", "drawn flips", "lptf"],
)
def test_a_frustrated_ring(model: Sampler, train: dict) -> None:
    settings = {"K": 256, "dir": "<NONE>", **train}
    run = qsr.train(Pauli(terms=chain(6)), model, settings, optimizer={"name": "spring"})
    assert -1e-9 < relative_error(run) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "model"),
    [
        (Pauli(terms=chain(12)), RNN(Nh=32, patch=2, phase=True)),
        (Pauli(terms=chain(12)), PTF(Nh=32, patch=2, phase=True)),
    ],
    ids=["rnn", "ptf"],
)
def test_a_frustrated_ring_of_twelve(problem: Pauli, model: Sampler) -> None:
    train = {"K": 512, "steps": 800, "dir": "<NONE>"}
    assert -1e-9 < relative_error(qsr.train(problem, model, train, optimizer={"name": "spring"})) < 1e-2


def test_a_model_without_phase_is_refused_before_there_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PauliSum is not stoquastic.*set phase=True"):
        qsr.train(Pauli(terms=chain(6)), RNN(Nh=8, patch=1), {"K": 16, "steps": 2, "dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> qsr.Run:
    folder = tmp_path_factory.mktemp("phase")
    train = {"K": 64, "steps": 30, "dir": str(folder), "seed": 3}
    return qsr.train(Pauli(terms=chain(6)), MODELS["rnn"], train, optimizer={"name": "spring"})


def test_a_run_is_read_back_and_evaluated(trained: qsr.Run) -> None:
    assert trained.path is not None
    tree = json.loads((trained.path / "settings.json").read_text())
    assert tree["model"]["phase"] is True and tree["hamiltonian"]["terms"] == chain(6)
    model = qsr.load_model(trained.path)
    configs = configurations(6)
    assert torch.equal(model.phase(configs), trained.model.phase(configs))
    psi = wave_function(model).detach().numpy()
    matrix = trained.settings.hamiltonian.build().to_sparse()
    energy = np.vdot(psi, matrix @ psi).real
    variance = np.linalg.norm(matrix @ psi - energy * psi) ** 2
    found = qsr.evaluate(trained.path, 8192, write=True)
    assert abs(found.z_score(energy)) < 4
    assert found.variance == pytest.approx(variance, rel=0.1)
    real = np.average((((matrix @ psi) / psi).real - energy) ** 2, weights=np.abs(psi) ** 2)
    assert found.energy.error == pytest.approx((real / 8192) ** 0.5, rel=0.1)
    assert found.problem == "pauli 6x1 open: 37 terms on 6 sites"


def test_a_resumed_run_is_the_uninterrupted_one(trained: qsr.Run, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step_end(self, trainer: object, metrics: object) -> None:
            if trainer.step == 17:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    train = {"K": 64, "steps": 30, "dir": str(tmp_path), "seed": 3}
    with pytest.raises(KeyboardInterrupt):
        qsr.train(
            Pauli(terms=chain(6)),
            MODELS["rnn"],
            train,
            optimizer={"name": "spring"},
            checkpoint={"every_n_steps": 10},
            callbacks=[Stop()],
        )
    found = qsr.resume(next(tmp_path.glob("*/*/0")))
    for name, weights in trained.model.state_dict().items():
        assert torch.equal(weights, found.model.state_dict()[name]), name


def test_finetuning_keeps_the_phase_and_the_lattice(trained: qsr.Run) -> None:
    run = qsr.finetune(trained.path or "", {"steps": 1, "lr": 1e-9}, {"terms": chain(6, J2=0.2)})
    assert run.settings.hamiltonian.terms == chain(6, J2=0.2)
    torch.testing.assert_close(run.model.phase(configurations(6)), trained.model.phase(configurations(6)))
    with pytest.raises(ConfigError, match=r"rnn\.phase=True: its weights are for one lattice; pauli has .* 8 sites"):
        qsr.finetune(trained.path or "", {"steps": 1, "L": 8}, {"terms": chain(8)})


def test_what_a_phase_cannot_do_is_refused(trained: qsr.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.curriculum=2x2:1,4x4:1: not with rnn\.phase=True"):
        qsr.train(qsr.Rydberg(), RNN(patch=1, phase=True), {"curriculum": "2x2:1,4x4:1", "dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"rnn\.phase=True: the teacher's model has a phase"):
        qsr.transfer(trained.path or "", PTF(patch=1), {"steps": 1, "dir": str(tmp_path)})
    plain = qsr.train(qsr.Rydberg(Lx=2, Ly=2), RNN(patch=1, Nh=4), {"K": 4, "steps": 1, "dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"ptf\.phase=True: the new model has a phase"):
        qsr.transfer(plain.path or "", PTF(patch=1, phase=True), {"steps": 1, "dir": str(tmp_path)})
