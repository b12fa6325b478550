"""Short runs to train in one process and, as `python -m tests.training.shared_runs FOLDER PRECISION CASE ...`, in several."""

import sys
from pathlib import Path
from typing import Any

import torch

import qsr
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model
from qsr.jobs.train import variational_energy
from qsr.training import BatchKey, Callback, Trainer
from qsr.training.distribution import Processes, leave
from qsr.training.protocols import Metrics

STEPS = 20
SPRING = {"name": "spring"}
CASES: dict[str, dict[str, Any]] = {
    "RNN, Adam": {"hamiltonian": qsr.Rydberg(Lx=2, Ly=3), "model": qsr.RNN(patch=1, Nh=8)},
    "PTF, SPRING": {
        "hamiltonian": qsr.Rydberg(Lx=3, Ly=3),
        "model": qsr.PTF(patch=1, Nh=8, nhead=2),
        "optimizer": SPRING,
        "train": {"memory_MiB": 1},  # the Jacobian in several blocks
    },
    "PTF, Adam, drawn flips": {
        "hamiltonian": qsr.Rydberg(Lx=3, Ly=3),
        "model": qsr.PTF(patch=1, Nh=8, nhead=2, dropout=0.1),
        "train": {"flips": 2, "window": 1},
    },
    "RNN with a phase, SPRING": {
        "hamiltonian": qsr.TFIM(Lx=2, Ly=3),
        "model": qsr.RNN(patch=1, Nh=8, phase=True),
        "optimizer": SPRING,
    },
    "RNN, MinSR": {"hamiltonian": qsr.TFIM(Lx=2, Ly=3), "model": qsr.RNN(patch=1, Nh=8), "optimizer": {"name": "minsr"}},
    "PTF with a quantum embedding, Adam": {  # one of its weights is a single number
        "hamiltonian": qsr.Rydberg(Lx=2, Ly=2),
        "model": qsr.PTF(patch="2x1", Nh=8, nhead=2, embedding={"type": "qembed_tokens"}),
    },
    "PTF of a range, SPRING": {
        "hamiltonian": qsr.Rydberg(Lx=2, Ly=2, delta="0:2"),
        "model": qsr.PTF(patch=1, Nh=8, nhead=2),
        "optimizer": SPRING,
        "train": {"points": 2},
    },
}


class Rows(Callback):
    """Keeps the metrics of every step."""

    def __init__(self) -> None:
        self.rows: list[Metrics] = []

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.rows.append(dict(metrics))


def given(name: str, precision: str) -> dict[str, Any]:
    """The sections of a case."""
    case = CASES[name]
    train = {"K": 16, "Q": 4, "steps": STEPS, "dir": "<NONE>", "device": "cpu", "precision": precision}
    return {**case, "train": {**train, **case.get("train", {})}}


def trained(name: str, precision: str) -> dict[str, Any]:
    """The samples of the first step that are drawn here, the metrics of every step, and the weights at the end."""
    settings = RunSettings.from_tree(given(name, precision))
    processes = Processes.found()
    objective = variational_energy(settings, settings.train.stages()[0], processes)
    keys = processes.share([BatchKey(settings.train.seed, 0, minibatch) for minibatch in range(settings.train.Q)])
    batches, _ = objective.prepare(build_model(settings), keys)
    rows = Rows()
    run = qsr.train(**given(name, precision), callbacks=[rows])
    samples = [(batch.configs, batch.weights, batch.terms) for batch in batches]
    return {"samples": samples, "rows": rows.rows, "weights": run.model.state_dict()}


if __name__ == "__main__":
    found = {name: trained(name, sys.argv[2]) for name in sys.argv[3:]}
    torch.save(found, Path(sys.argv[1]) / f"{Processes.found().rank}.pt")
    leave()
