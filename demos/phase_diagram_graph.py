"""The crossover of a 4x4 array as a graph network sees it, which was only shown snapshots from both ends.

The network learns to tell snapshots at small detunings from those at large ones. Asked about fresh snapshots at all detunings, it
draws its own phase diagram: the mean probability that it gives the ordered side. Beside it, the same from the exact distributions
(what an ideal reader of single snapshots would say), and the staggered order of the exact ground states.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import qsr
from qsr.estimators import posterior, state_probabilities
from qsr.jobs import make_snapshots, predict_table
from qsr.jobs.phase_diagram import means_of_states

ENDS = (0.5, 0.75, 1.0, 1.25, 2.25, 2.5, 2.75, 3.0)
RULE = "delta>1.75"


def states(deltas: tuple[float, ...]) -> list[qsr.Rydberg]:
    """Problems at these detunings."""
    return [qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta) for delta in deltas]


def main(
    deltas: tuple[float, ...] = tuple(np.linspace(0, 3.5, 15).tolist()),
    shots: int = 800,
    epochs: int = 8,
    directory: str = "runs/phase_diagram",
) -> list[tuple[float, float, float]]:
    """Detuning, probability of the ordered side by the network, and by the exact distributions, in ascending order."""
    deltas = tuple(sorted(deltas))
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    make_snapshots(states(ENDS), folder / "ends.h5", shots=shots, labels=RULE, seed=0)
    data = {"file": str(folder / "ends.h5"), "batch_size": 128}
    run = qsr.fit({"type": "graph", "task": "classify"}, data, {"max_epochs": epochs, "dir": directory})

    fresh = make_snapshots(states(deltas), folder / "all.h5", shots=shots, seed=1)
    seen = predict_table(run, folder / "all.h5").columns["p_1"]
    of_states = posterior(state_probabilities([state.build() for state in states(ENDS)]), fresh.snapshots.configs)
    ideal = of_states @ (np.array(ENDS) > 1.75)
    detuning = fresh.snapshots.params["delta"][:, None]
    (_, of_network, errors), (_, of_exact, _) = (means_of_states(detuning, values) for values in (seen, ideal))

    print("delta   network   exact distributions   2 |m_s|")
    order = [2 * row["staggered_abs"] for row in fresh.rows]
    for delta, network, exact, staggered in zip(deltas, of_network, of_exact, order, strict=True):
        print(f"{delta:5.2f}   {network:7.4f}   {exact:19.4f}   {staggered:7.4f}")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(deltas, of_exact, color="0.5", label="exact distributions")
    axes.errorbar(deltas, of_network, errors, fmt="o", ms=4, label="graph network")
    axes.plot(deltas, order, ls="--", color="C1", label=r"$2\,\langle|m_s|\rangle$, exact")
    for start, end in ((ENDS[0], ENDS[3]), (ENDS[4], ENDS[-1])):
        axes.axvspan(start, end, color="C0", alpha=0.08, lw=0)
    axes.set(xlabel=r"detuning $\delta / \Omega$", ylabel="probability of the ordered side", ylim=(0, 1))
    axes.set_title("shaded: where the network was trained", fontsize=10)
    axes.legend()
    figure.savefig(folder / "phase_diagram.png", dpi=120)
    print(f"written: {folder / 'phase_diagram.png'}")
    return [(delta, float(network), float(exact)) for delta, network, exact in zip(deltas, of_network, of_exact, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=800, help="snapshots of each state")
    main(shots=parser.parse_args().shots)
