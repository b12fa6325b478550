"""Why our defaults are what they are: training on 4x4 for equal steps, each choice against NN-QSR's preset in the same run.

About 10 minutes on two cores; --quick 1 minute.
"""

import statistics
import time

import report

import qsr
from qsr.hamiltonians import configurations

CANDIDATES = {
    "PTF, preset nnqsr (baseline)": {"model": {"type": "ptf"}, "preset": "nnqsr", "train": {}},
    "PTF, our defaults": {"model": {"type": "ptf"}},
    "PTF, sinusoidal positions": {"model": {"type": "ptf", "positions": "sinusoidal"}},
    "PTF, linear tokens": {"model": {"type": "ptf", "token": "linear"}},
    "PTF, two layers": {"model": {"type": "ptf", "num_layers": 2}},
    "PTF, constant rate": {"model": {"type": "ptf"}, "scheduler": {"name": "none"}},
    "PTF, lr=2e-3": {"model": {"type": "ptf"}, "train": {"lr": 2e-3}},
    "RNN, our defaults": {"model": {"type": "rnn"}},
}


def main(steps: int, seeds: int, samples: int) -> None:
    """Print a table: seconds, relative error of <psi|H|psi> (enumerated), and their ratios to the baseline."""
    array = qsr.Rydberg(Lx=4, Ly=4)
    exact = qsr.exact(array).energy
    hamiltonian = array.build().to_sparse()
    print(f"4x4, V=7, delta=Omega=1, {steps} steps of {samples} samples, median of {seeds} seeds")
    print(f"{report.header()}\n")
    table = report.Table({"": 30, "seconds": 9, "error": 11, "time ratio": 12, "error ratio": 13})
    rows = []
    baseline: tuple[float, float] | None = None
    for name, given in CANDIDATES.items():
        seconds, errors = [], []
        for seed in range(seeds):
            train = {"steps": steps, "K": samples, "seed": seed, "dir": "<NONE>", "device": "cpu", **given.get("train", {})}
            started = time.perf_counter()
            run = qsr.train(array, **{**given, "train": train})
            seconds.append(time.perf_counter() - started)
            psi = (0.5 * run.model.log_prob(configurations(16)).detach().double()).exp().numpy()
            errors.append(float(psi @ (hamiltonian @ psi) - exact) / abs(exact))
        spent, error = statistics.median(seconds), statistics.median(errors)
        baseline = baseline or (spent, error)
        ratios = spent / baseline[0], error / baseline[1]
        table.row(name, f"{spent:.1f}", f"{error:.1e}", f"{ratios[0]:.2f}", f"{ratios[1]:.3f}")
        rows.append({"name": name, "seconds": spent, "error": error, "time_ratio": ratios[0], "error_ratio": ratios[1]})
    report.save("defaults", {"steps": steps, "seeds": seeds, "samples": samples, "rows": rows})


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    report.limit_threads(options.threads)
    main(options.steps // (10 if options.quick else 1), 1 if options.quick else options.seeds, options.samples)
