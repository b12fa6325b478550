"""Reading the detuning and the phase off single snapshots of a 4x4 array, with a Hilbert-space model.

A transformer is trained to the ground states of several detunings, one after the other, and draws the snapshots. A model then
learns from single snapshots, 16 zeros and ones, at which detuning they were taken, and on which side of the crossover. What the
exact ground states allow (the posterior mean, and the more probable side) is the bound that no model can beat.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import qsr
from qsr.estimators import posterior, state_probabilities
from qsr.jobs import make_snapshots
from qsr.training.table import Table

DELTAS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
ORDERED_FROM = 1.2  # where the staggered order of the exact ground states begins to grow
FEATURES = {"input_features": ["n*"], "seed": 0, "batch_size": 256, "stratify": False}  # the same rows are held back both times


def draw(directory: Path, steps: int, shots: int) -> Path:
    """A snapshot file: `shots` configurations for each detuning from a network trained there."""
    runs: list[qsr.Run] = []
    for delta in DELTAS:
        if not runs:
            train = {"L": 16, "K": 512, "lr": 1e-2, "steps": 3 * steps, "dir": str(directory)}
            runs.append(qsr.train(qsr.Rydberg(V=7, delta=delta), qsr.PTF(patch="2x2"), train=train))
        else:
            runs.append(qsr.finetune(runs[-1], train={"steps": steps, "lr": 5e-3}, hamiltonian={"delta": delta}))
    file = directory / "snapshots.h5"
    make_snapshots(runs, file, shots=shots, labels=f"delta>={ORDERED_FROM}")
    return file


def bounds(configs: NDArray[np.uint8], deltas: NDArray[np.float64]) -> tuple[float, float]:
    """Least mean square error of the detuning, and best accuracy of the side, for these snapshots and equal priors."""
    table = state_probabilities([qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta).build() for delta in DELTAS])
    of_states = posterior(table, configs)
    error = float(np.mean((of_states @ np.array(DELTAS) - deltas) ** 2))
    side = of_states @ (np.array(DELTAS) >= ORDERED_FROM) > 0.5
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
    least, best = bounds(configs.numpy().astype(np.uint8), deltas[:, 0].numpy())
    found = {"mse": metrics["delta"]["test/rmse"] ** 2, "least": least, "prior": float(deltas.var(correction=0))}
    found |= {"accuracy": metrics["label"]["test/accuracy"], "best": best}
    print(f"detuning of one snapshot: mean square error {found['mse']:.4f}, least {least:.4f}, a guess {found['prior']:.4f}")
    print(f"side of the crossover:    accuracy {found['accuracy']:.4f}, best {best:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="of training at each detuning")
    main(steps=parser.parse_args().steps)
