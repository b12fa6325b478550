"""One network for all detunings from 0 to 3 of the 4x4 array: energy and order parameter, beside the exact curves."""

import argparse

import numpy as np

import qsr


def main(steps: int = 250, samples: int = 2048, points: int = 13, directory: str = "runs/phase_diagram") -> qsr.Scan:
    """Train over the range and go through it; the table is printed, the picture is scan.png in the run's directory."""
    run = qsr.train(
        qsr.Rydberg(Lx=4, Ly=4, V=7, delta="0:3"),
        qsr.PTF(patch="2x2", Nh=24, nhead=4, dim_feedforward=48),
        train={"K": 512, "K_final": 1024, "steps": steps, "lr": 0.07, "dir": directory},
        optimizer={"name": "spring", "kwargs": {"momentum": 0.8, "shift": 3e-3, "final_shift": 3e-5, "cap": 0.3}},
        scheduler={"name": "OneCycleLR", "kwargs": {"pct_start": 0.05}},
        progress=True,
    )
    found = qsr.scan(run, {"delta": np.linspace(0, 3, points)}, samples, write=True, progress=True)
    print("\n".join(found.lines()))
    print(f"picture: {run.path}/scan.png")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--dir", default="runs/phase_diagram")
    options = parser.parse_args()
    main(options.steps, directory=options.dir)
