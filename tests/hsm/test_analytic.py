"""The closed-form solver of full-energy models: it never goes up, and where it stops no operator is better."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

import qsr
from qsr.hamiltonians.pauli import PauliBasis, pauli_strings
from qsr.hparams import ConfigError
from qsr.hsm.analytic import best_coefficients, best_operators
from qsr.runs import RunDirectory, same_history
from qsr.training import Callback, Trainer
from qsr.training.table import Table
from tests.training.lines import CopyAt

KINDS: dict[str, dict[str, Any]] = {
    "complex": {"hsm_model": "general_fullenergy", "hilbert_space_dims": 4},
    "real": {"hsm_model": "general_fullenergy", "hilbert_space_dims": 4, "complex": False},
    "pauli": {"hsm_model": "pauli_fullenergy", "qubits_count": 2},
    "short pauli": {"hsm_model": "pauli_fullenergy", "qubits_count": 3, "input_operator_pauli_weight": 1},
}


def blobs(count: int = 120, features: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(3, features, generator=generator, dtype=torch.float64)
    which = torch.randint(3, (count,), generator=generator)
    x = centres[which] + torch.randn(count, features, generator=generator, dtype=torch.float64)
    return x, (x[:, :1] * x[:, 1:2] + x[:, 2:3])


def train(path: Path | str, epochs: int, batch: int = 1000, callbacks: Any = (), **settings: Any) -> qsr.Run:
    x, y = blobs()
    columns = {f"x{i}": x[:, i].numpy() for i in range(x.shape[1])} | {"y": y[:, 0].numpy()}
    data = Table({"targets": "y", "seed": 0, "split": (1.0, 0.0), "batch_size": batch}, columns)
    where = {"max_epochs": epochs, "dir": str(path), "precision": "float64", "seed": 0}
    return qsr.fit({"type": "hsm", "method": "analytic", **settings}, data, where, callbacks=callbacks)


class Losses(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.found.append(metrics["training/loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_never_rises_and_ends_where_no_operator_is_better(kind: str) -> None:
    losses = Losses()
    run = train("<NONE>", 150, callbacks=[losses], **KINDS[kind])
    steps = np.diff(losses.found)
    assert len(losses.found) == 150 and steps.max() < 1e-9 * losses.found[0]
    assert losses.found[-1] < 0.8 * losses.found[0]
    x, y = blobs()
    run.model.train()
    loss = run.model.compute_metrics((x, y), 0)["loss"]
    gradients = torch.autograd.grad(loss, list(run.model.parameters()))
    start = run.model.thparams.build().double().train()
    at_first = torch.autograd.grad(
        start.compute_metrics((run.model.scaled_inputs(x), run.model.scaled_targets(y)), 0)["loss"], list(start.parameters())
    )
    ratio = sum(g.square().sum() for g in gradients).sqrt() / sum(g.square().sum() for g in at_first).sqrt()
    assert ratio.item() < 2e-2


def test_batches_are_summed_up() -> None:
    whole, parts = (train("<NONE>", 5, batch, **KINDS["complex"]) for batch in (1000, 17))
    for first, second in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(first, second, rtol=0, atol=1e-9)


def test_operators_solve_their_equation() -> None:
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(6, 5, dtype=torch.complex128))[0].T  # 5 states in 6 dimensions
    z = torch.randn(5, 3, dtype=torch.float64)
    occupation = torch.einsum("bi,bj->ij", vectors, vectors.conj())
    moments = torch.einsum("bk,bi,bj->kij", z.to(vectors.dtype), vectors, vectors.conj())
    before = torch.zeros(3, 6, 6, dtype=torch.complex128)
    before[:, 5, 5] = 7.0
    found = best_operators(before, occupation, moments)
    assert torch.allclose(occupation @ found + found @ occupation, 2 * moments, atol=1e-12)
    empty = torch.linalg.eigh(occupation)[1][:, 0]  # nothing is known there: as it was
    assert torch.allclose((empty.conj() @ found @ empty), empty.conj() @ before @ empty, atol=1e-12)


@pytest.mark.parametrize(("qubits", "weight"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_coefficients_solve_the_least_squares_of_their_strings(qubits: int, weight: int) -> None:
    torch.manual_seed(0)
    basis = PauliBasis(pauli_strings(qubits, weight))
    states = torch.randn(40, 2**qubits, dtype=torch.complex128)
    states = states / states.norm(dim=1, keepdim=True)
    z = torch.randn(40, 2, dtype=torch.float64)
    occupation = torch.einsum("bi,bj->ij", states, states.conj())
    moments = torch.einsum("bk,bi,bj->kij", z.to(states.dtype), states, states.conj())
    found = best_coefficients(basis, occupation, moments)
    strings = basis.operators(torch.eye(len(basis), dtype=torch.float64))
    # sum_b |(A - z_b) psi_b|^2 is a least-squares problem in the coefficients
    columns = torch.einsum("pij,bj->bip", strings, states).reshape(-1, len(basis))
    targets = torch.einsum("bk,bi->bik", z.to(states.dtype), states).reshape(-1, 2)
    design = torch.cat([columns.real, columns.imag])
    expected = torch.linalg.lstsq(design, torch.cat([targets.real, targets.imag])).solution.T
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)  # the ridge is 1e-6
    best = (design @ expected.T - torch.cat([targets.real, targets.imag])).square().sum()
    value = (design @ found.T - torch.cat([targets.real, targets.imag])).square().sum()
    assert value.item() <= best.item() * (1 + 1e-8)


def test_diagonal_operators_are_clusters() -> None:
    """The mean energy is half the inertia of k-means, and the solver ends at or below it."""
    losses = Losses()
    run = train("<NONE>", 60, callbacks=[losses], init="kmeans", **KINDS["complex"])
    x, y = blobs()
    data = torch.cat([run.model.scaled_inputs(x), run.model.scaled_targets(y)], dim=1).detach().numpy()
    inertia = min(
        float(np.mean(np.min(((data[:, None] - kmeans2(data, 4, minit="++", rng=seed)[0][None]) ** 2).sum(-1), axis=1)))
        for seed in range(5)
    )
    centres, member = kmeans2(data, 4, minit="++", rng=0)
    model = run.model
    diagonal = torch.diag_embed(torch.from_numpy(centres).T).to(torch.complex128)
    model.set_operators("input", diagonal[:4])
    model.set_operators("output", diagonal[4:])
    model.train()
    own = np.mean(((data - centres[member]) ** 2).sum(-1))
    assert model.compute_metrics((x, y), 0)["loss"].item() == pytest.approx(own / 2, abs=1e-9)
    assert losses.found[-1] <= inertia / 2 + 1e-3
    one = train("<NONE>", 3, hsm_model="general_fullenergy", hilbert_space_dims=1).model.train()
    variance = torch.cat([one.scaled_inputs(x), one.scaled_targets(y)], dim=1).var(dim=0, correction=0).sum()
    assert one.compute_metrics((x, y), 0)["loss"].item() == pytest.approx(variance.item() / 2, abs=1e-9)


@pytest.mark.parametrize("step", [3, 4, 9])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, step: int) -> None:
    folder = Path("hsm") / "general_fullenergy" / "0"
    run, copy = tmp_path / "a" / folder, tmp_path / "b" / folder
    x, y = blobs()
    columns = {f"x{i}": x[:, i].numpy() for i in range(4)} | {"y": y[:, 0].numpy()}
    data = Table({"targets": "y", "seed": 0, "split": (1.0, 0.0), "batch_size": 40}, columns)
    model = {"type": "hsm", "method": "analytic", **KINDS["complex"]}
    where = {"max_epochs": 6, "dir": str(tmp_path / "a"), "seed": 0}
    whole = qsr.fit(model, data, where, checkpoint={"every_n_steps": 1}, callbacks=[CopyAt(step, run, copy)])
    resumed = qsr.resume(copy, data=Table(whole.settings.data, columns))
    for first, second in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(first, second)
    assert same_history(RunDirectory(run).history, RunDirectory(copy).history)


def test_what_it_cannot_solve_is_refused() -> None:
    for settings, message in (
        ({"hsm_model": "general"}, "solves fullenergy models"),
        ({"hsm_model": "general_fullenergy", "beta": 1.0}, "is for ground states"),
        ({"hsm_model": "general_fullenergy", "missing": "drop_terms"}, "which needs every feature"),
    ):
        with pytest.raises(ConfigError, match=message):
            train("<NONE>", 1, **settings)
