"""Telling two sides of a crossover apart from few labelled snapshots, with a quantum embedding and with an ordinary one.

Snapshots of a 4x4 array are drawn from exact ground states at several detunings, and read out with errors of 5 % and 1 %. A
network learns from some hundred of them on which side of the crossover they were taken, once on quantum embeddings whose tokens
collapse, and once on ordinary ones. What the exact states say of each snapshot (the posterior probability) is what no network can
beat; the calibration error tells how far its probabilities can be trusted.
"""

import argparse
from pathlib import Path

import qsr
from qsr.jobs import make_snapshots, predict_table

DELTAS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
# The bound lies where the staggered order of the exact ground states begins to grow.
READOUT = {"labels": "delta>=1.2", "e10": 0.05, "e01": 0.01}
MODELS = {"quantum embedding": {}, "ordinary embedding": {"embedding": "plain"}}


def main(labels: int = 105, epochs: int = 25, test: int = 4000, directory: str = "runs/phases") -> dict[str, dict[str, float]]:
    """Metrics of both networks on snapshots that they have not seen, and the best possible accuracy."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    states = [qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta) for delta in DELTAS]
    make_snapshots(states, folder / "train.h5", shots=labels // len(states), seed=0, **READOUT)
    drawn = make_snapshots(states, folder / "test.h5", shots=test // len(states), seed=1, **READOUT)
    best = drawn.best_accuracy
    data = {"file": str(folder / "train.h5"), "split": (0.8, 0.2), "batch_size": 16}
    train = {"max_epochs": epochs, "dir": directory}
    found: dict[str, dict[str, float]] = {"best possible": {"test/accuracy": best}}
    print(f"{len(drawn.snapshots.configs)} snapshots, best possible accuracy {best:.3f}")
    for name, settings in MODELS.items():
        run = qsr.fit({"type": "qembed", "task": "classify", "patch": "2x2", **settings}, data, train)
        found[name] = predict_table(run, folder / "test.h5").metrics
        shown = ", ".join(f"{metric.removeprefix('test/')} {value:.3f}" for metric, value in found[name].items())
        print(f"{name:18}  {shown}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=105, help="labelled snapshots to learn from")
    main(labels=parser.parse_args().labels)
