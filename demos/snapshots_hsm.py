"""Reading the detuning and the phase off single snapshots of a 4x4 array, with a Hilbert-space model.

A transformer is trained to the ground states of several detunings, one after the other, and draws the snapshots. A model then
learns from single snapshots, 16 zeros and ones, at which detuning they were taken, and on which side of the crossover. What the
exact ground states allow (the posterior mean, and the more probable side) is the bound that no model can beat.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import qsr
from qsr.hamiltonians import ground_state
from qsr.hamiltonians.base import basis_index
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training.table import Table

DELTAS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
ORDERED_FROM = 1.2  # |staggered magnetisation| of the exact ground state passes one half here
FEATURES = {"input_features": ["n*"], "seed": 0, "batch_size": 256, "stratify": False}  # the same rows are held back both times


def draw(directory: Path, steps: int, shots: int) -> Path:
    """A snapshot file: `shots` configurations for each detuning from a network trained there."""
    run: qsr.Run | None = None
    configs, deltas = [], []
    for delta in DELTAS:
        if run is None:
            train = {"L": 16, "K": 512, "lr": 1e-2, "steps": 3 * steps, "dir": str(directory)}
            run = qsr.train(qsr.Rydberg(V=7, delta=delta), qsr.PTF(patch="2x2"), train=train)
        else:
            run = qsr.finetune(run, train={"steps": steps, "lr": 5e-3}, hamiltonian={"delta": delta})
        drawn, _ = run.model.sample(shots, torch.Generator().manual_seed(len(deltas)))
        configs.append(drawn.numpy())
        deltas.append(np.full(shots, delta))
    values = np.concatenate(deltas)
    positions = np.array([[x, y] for x in range(4) for y in range(4)], dtype=float)
    labels = {"labels": (values >= ORDERED_FROM).astype(np.int64)}
    file = directory / "snapshots.h5"
    write_snapshots(file, Snapshots(np.concatenate(configs), positions, labels, {"delta": values}, {"Lx": 4, "Ly": 4}))
    return file


def bounds(configs: torch.Tensor, deltas: NDArray[np.float64]) -> tuple[float, float]:
    """Least mean square error of the detuning, and best accuracy of the side, for these snapshots and equal priors."""
    index = basis_index(configs.to(torch.uint8))
    states = [ground_state(qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta).build()) for delta in DELTAS]
    likelihoods = [state.amplitudes[index] ** 2 for state in states]
    posterior = np.stack(likelihoods, axis=1)
    posterior /= posterior.sum(axis=1, keepdims=True)
    error = float(np.mean((posterior @ np.array(DELTAS) - deltas) ** 2))
    side = posterior @ (np.array(DELTAS) >= ORDERED_FROM) > 0.5
    return error, float(np.mean(side == (deltas >= ORDERED_FROM)))


def main(steps: int = 150, shots: int = 2000, epochs: int = 30, directory: str = "runs/snapshots") -> dict[str, float]:
    """Errors and accuracies on snapshots that were held back, beside the bounds."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    file = draw(folder, steps, shots)
    train = {"max_epochs": epochs, "lr": 0.02, "dir": directory}
    rest = {"optimizer": {"name": "AdamW"}, "scheduler": {"name": "CosineAnnealingLR"}}
    metrics = {}
    for target in ("delta", "label"):
        loss = "MSELoss" if target == "delta" else "CrossEntropyLoss"
        model = {"type": "hsm", "hilbert_space_dims": 16, "loss": {"name": loss}}
        run = qsr.fit(model, {"file": str(file), "targets": target, **FEATURES}, train, **rest)
        metrics[target] = qsr.evaluate_on_data(run).metrics
    configs, deltas = Table({"file": str(file), "targets": "delta", **FEATURES}).test.columns
    least, best = bounds(configs, deltas[:, 0].numpy())
    found = {"mse": metrics["delta"]["test/rmse"] ** 2, "least": least, "prior": float(deltas.var(correction=0))}
    found |= {"accuracy": metrics["label"]["test/accuracy"], "best": best}
    print(f"detuning of one snapshot: mean square error {found['mse']:.4f}, least {least:.4f}, a guess {found['prior']:.4f}")
    print(f"side of the crossover:    accuracy {found['accuracy']:.4f}, best {best:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="of training at each detuning")
    main(steps=parser.parse_args().steps)
