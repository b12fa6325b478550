"""One network for all detunings from 0 to 3 of the 4x4 array (V = 7): its energies at points between those of training.

Trained with natural gradients over the range, then <psi|H|psi> enumerated over all configurations, without sampling noise, at
25 equidistant detunings (training draws new ones in every step, so that each of these is held out), against exact
diagonalisation. The exit status is 1 if one of them is more than 2e-3 per site too high, or 2e-3 relative. Times are those of the
processor. About 3 minutes on one core; --quick a minute and a half, with the recipe of demos/phase_diagram.py.

Beside it: the same network trained at single detunings, with --singles (half a minute each), says what the range costs.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import report
import torch

import qsr
from qsr.hamiltonians import IsingHamiltonian, configurations, ground_state

SITES = 16
BOUND = 2e-3  # per site, and relative
MODEL: dict[str, Any] = {"type": "ptf", "patch": "2x2", "Nh": 24, "nhead": 4, "dim_feedforward": 48}
SECTIONS: dict[str, Any] = {
    "optimizer": {"name": "spring", "kwargs": {"momentum": 0.8, "shift": 3e-3, "final_shift": 3e-5, "cap": 0.3}},
    "scheduler": {"name": "OneCycleLR", "kwargs": {"pct_start": 0.05}},
}
FULL = {"K": 512, "K_final": 2048, "steps": 400, "lr": 0.07}
QUICK = {"K": 512, "K_final": 1024, "steps": 250, "lr": 0.07}


def energy_per_site(sampler: Any, hamiltonian: IsingHamiltonian) -> float:
    """<psi|H|psi> / N of psi = sqrt(p), over all configurations."""
    configs = configurations(hamiltonian.num_sites)
    with torch.no_grad():
        log_prob = torch.cat([sampler.log_prob(part) for part in configs.split(1 << 13)])
    psi = (0.5 * log_prob.double()).exp()
    total = (hamiltonian.diagonal(configs) * psi * psi).sum()
    index = torch.arange(len(psi))
    for site, field in enumerate(hamiltonian.transverse):
        total -= float(field) * (psi * psi[index ^ (1 << site)]).sum()
    return float(total / (psi * psi).sum()) / hamiltonian.num_sites


def trained(delta: str | float, train: dict[str, Any], seed: int) -> tuple[Any, float]:
    """The sampler of a range or of a single detuning, and the seconds of the processor that it took."""
    start = time.process_time()
    array = qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta)
    run = qsr.train(array, MODEL, {**train, "seed": seed, "dir": "<NONE>", "device": "cpu"}, **SECTIONS)
    return run.model.eval(), time.process_time() - start


def rows_of(sampler: Any, deltas: list[float]) -> list[dict[str, float]]:
    """Energies per site of the sampler at each detuning, exact ones, and how far they are apart."""
    rows = []
    for delta in deltas:
        hamiltonian = qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta).build()
        exact = ground_state(hamiltonian, num_levels=1).energy / SITES
        found = energy_per_site(sampler.at(delta=delta) if hasattr(sampler, "at") else sampler, hamiltonian)
        rows.append(
            {"delta": delta, "found": found, "exact": exact, "error": found - exact, "relative": (found - exact) / -exact}
        )
    return rows


def main() -> int:
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--singles", action="store_true", help="also the same network at delta = 0, 1, 2 and 3 alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report.limit_threads(options.threads)
    recipe = QUICK if options.quick else FULL
    print(f"4x4, V=7, Omega=1, delta=0:3; {report.header()}", flush=True)
    sampler, seconds = trained("0:3", recipe, options.seed)
    rows = rows_of(sampler, [float(delta) for delta in np.linspace(0, 3, 13 if options.quick else 25)])
    print("delta    E/N        exact      error    relative")
    for row in rows:
        print(f"{row['delta']:.3f}    {row['found']:.6f}  {row['exact']:.6f}  {row['error']:.1e}  {row['relative']:.1e}")
    worst, relative = (max(row[name] for row in rows) for name in ("error", "relative"))
    print(f"trained in {seconds:.0f} s; largest error {worst:.1e} per site, {relative:.1e} relative", flush=True)
    found: dict[str, Any] = {"recipe": recipe, "seconds": seconds, "rows": rows, "worst": worst, "worst_relative": relative}
    if options.singles:
        found["singles"] = []
        for delta in (0.0, 1.0, 2.0, 3.0):
            single, took = trained(delta, recipe, options.seed)
            (row,) = rows_of(single, [delta])
            found["singles"].append({**row, "seconds": took})
            print(f"delta={delta:g} alone: error {row['error']:.1e} per site after {took:.0f} s", flush=True)
    if not options.quick:
        report.save("conditioned", found)
    return int(worst > BOUND or relative > BOUND)


if __name__ == "__main__":
    sys.exit(main())
