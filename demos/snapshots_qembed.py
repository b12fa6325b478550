"""Telling two sides of a crossover apart from few labelled snapshots, with a quantum embedding and with an ordinary one.

Snapshots of a 4x4 array are drawn from exact ground states at several detunings, and read out with errors of 5 % and 1 %. A
network learns from some hundred of them on which side of the crossover they were taken, once on quantum embeddings whose tokens
collapse, and once on ordinary ones. What the exact states say of each snapshot (the posterior probability) is what no network can
beat; the calibration error tells how far its probabilities can be trusted.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import qsr
from qsr.hamiltonians import ground_state
from qsr.jobs import predict_table
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots

DELTAS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
ORDERED_FROM = 1.2  # |staggered magnetisation| of the exact ground state passes one half here
E10, E01 = 0.05, 0.01  # an excited atom that is read as ground, and the reverse
MODELS = {"quantum embedding": {}, "ordinary embedding": {"embedding": "plain"}}


def probabilities() -> NDArray[np.float64]:
    """(detunings, 2^16) probabilities of the configurations as they are read out."""
    states = np.stack([ground_state(qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta).build()).amplitudes ** 2 for delta in DELTAS])
    read = np.array([[1 - E01, E10], [E01, 1 - E10]])  # (read, true)
    tensor = states.reshape(len(DELTAS), *(2,) * 16)
    for axis in range(1, 17):
        tensor = np.moveaxis(np.tensordot(read, tensor, axes=(1, axis)), 0, axis)
    return tensor.reshape(len(DELTAS), -1)


def draw(file: Path, probs: NDArray[np.float64], shots: int, seed: int) -> float:
    """A snapshot file with `shots` configurations, labels 1 for the ordered side; the best possible accuracy on them."""
    generator = np.random.default_rng(seed)
    which = generator.integers(len(DELTAS), size=shots)
    index = np.empty(shots, dtype=np.int64)
    for number in range(len(DELTAS)):
        of_these = which == number
        index[of_these] = generator.choice(probs.shape[1], size=of_these.sum(), p=probs[number] / probs[number].sum())
    configs = (index[:, None] >> np.arange(16)) & 1
    positions = np.array([[x, y] for x in range(4) for y in range(4)], dtype=float)
    ordered = np.array(DELTAS) >= ORDERED_FROM
    labels, params = {"labels": ordered[which].astype(np.int64)}, {"delta": np.array(DELTAS)[which]}
    write_snapshots(file, Snapshots(configs.astype(np.uint8), positions, labels, params, {"Lx": 4, "Ly": 4, "boundary": "open"}))
    posterior = probs[ordered][:, index].sum(axis=0) / probs[:, index].sum(axis=0)
    return float(np.mean((posterior > 0.5) == ordered[which]))


def main(labels: int = 100, epochs: int = 25, test: int = 4000, directory: str = "runs/phases") -> dict[str, dict[str, float]]:
    """Metrics of both networks on snapshots that they have not seen, and the best possible accuracy."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    probs = probabilities()
    draw(folder / "train.h5", probs, labels, seed=0)
    best = draw(folder / "test.h5", probs, test, seed=1)
    data = {"file": str(folder / "train.h5"), "split": (0.8, 0.2), "batch_size": 16}
    train = {"max_epochs": epochs, "dir": directory}
    found: dict[str, dict[str, float]] = {"best possible": {"test/accuracy": best}}
    print(f"{len(read_snapshots(folder / 'test.h5').configs)} snapshots, best possible accuracy {best:.3f}")
    for name, settings in MODELS.items():
        run = qsr.fit({"type": "qembed", "task": "classify", "patch": "2x2", **settings}, data, train)
        found[name] = predict_table(run, folder / "test.h5").metrics
        shown = ", ".join(f"{metric.removeprefix('test/')} {value:.3f}" for metric, value in found[name].items())
        print(f"{name:18}  {shown}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100, help="labelled snapshots to learn from")
    main(labels=parser.parse_args().labels)
