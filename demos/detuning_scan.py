"""From the disordered phase to the checkerboard: |staggered magnetisation| of the 4x4 array against the detuning."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import qsr

Row = tuple[float, float, float, float]


def main(deltas: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5), steps: int = 300, directory: str = "runs/scan") -> list[Row]:
    """Rows of (delta, |staggered|, its error, the exact value); a picture is written into `directory`.

    Each point starts from the one before: a start from nothing in the ordered phase settles on one of its two
    checkerboards, which are nearly degenerate.
    """
    rows: list[Row] = []
    run: qsr.Run | None = None
    train = {"K": 512, "lr": 1e-2, "dir": directory}
    print("delta    E/N            exact       |staggered|    exact")
    for delta in deltas:
        array = qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta)
        if run is None:
            run = qsr.train(array, qsr.RNN(patch="2x2"), train={**train, "steps": 2 * steps})
        else:
            run = qsr.finetune(run, train={**train, "steps": steps, "lr": 5e-3}, hamiltonian={"delta": delta})
        found, exact = qsr.evaluate(run, 8192, 1024), qsr.exact(array)
        order, known = found.observables["staggered_abs"], exact.observables["staggered_abs"]
        rows.append((delta, order.mean, order.error, known))
        print(f"{delta:5.2f}    {found.energy_per_site!s:<14} {exact.energy / 16:.6f}   {order!s:<12}   {known:.6f}")

    figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
    x, y, error, known = zip(*rows, strict=True)
    axis.plot(x, known, "k-", lw=0.8, label="exact")
    axis.errorbar(x, y, error, fmt="o", ms=4, label="RNN 2x2")
    axis.set(xlabel="detuning delta / Omega", ylabel="|staggered magnetisation|")
    axis.legend()
    picture = Path(directory) / "detuning_scan.png"
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    print(f"picture: {picture}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    main(steps=parser.parse_args().steps)
