"""From snapshots to the ground state: a network learns what a noisy detector showed of a 4x4 array, then minimises the energy."""

import argparse
from pathlib import Path

import qsr
from qsr.jobs import make_snapshots

PROBLEM = qsr.Rydberg(Lx=4, Ly=4, V=7)
E10, E01 = 0.04, 0.01  # of the detector


def main(shots: int = 5000, steps: int = 200, directory: str = "runs/measured") -> dict[str, qsr.Evaluation]:
    """Energies after learning from the snapshots, and after variational Monte Carlo from there and from scratch."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "measured.h5"
    make_snapshots([PROBLEM], file, shots=shots, e10=E10, e01=E01)
    model = qsr.PTF(patch="2x2", Nh=16, nhead=2)
    train = {"steps": steps, "K": 256, "dir": directory}
    stopping = {"patience": 10, "restore_best_weights": True}
    learned = qsr.train(PROBLEM, model, train, data={"file": str(file), "draws": 8}, early_stopping=stopping)
    runs = {"snapshots": learned, "then energies": qsr.finetune(learned)}
    runs["energies alone"] = qsr.train(PROBLEM, model, train)
    found = {name: qsr.evaluate(run, 8192, 1024) for name, run in runs.items()}
    reference = qsr.exact(PROBLEM).energy / 16
    for name, result in found.items():
        energy = result.energy_per_site
        print(f"{name:<16}E/N = {energy}   relative error {abs(energy.mean / reference - 1):.1e}")
    print(f"{'exact':<16}E/N = {reference:.8f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=200, help="of learning, and as many of variational Monte Carlo")
    options = parser.parse_args()
    main(options.shots, options.steps)
