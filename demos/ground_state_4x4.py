"""Ground state of the 4x4 Rydberg array (V=7, delta=Omega=1) with a patched transformer, beside the exact answer."""

import argparse
import logging
import sys
import time

import qsr

TOLERANCE = 1e-3


def main(steps: int = 700, samples: int = 32768, directory: str = "runs/demo") -> float:
    """Train, evaluate and draw; the relative error of the energy comes back."""
    array = qsr.Rydberg(Lx=4, Ly=4, V=7, delta=1, Omega=1)
    started = time.perf_counter()
    run = qsr.train(
        array, qsr.PTF(patch="2x2"), train={"steps": steps, "K": 1024, "lr": 0.01, "dir": directory}, progress=sys.stderr.isatty()
    )
    seconds = time.perf_counter() - started
    found = qsr.evaluate(run, samples, 1024, write=True)
    exact = qsr.exact(array)
    picture = qsr.plot(run)

    relative = abs(found.energy.mean - exact.energy) / abs(exact.energy)
    print(f"trained {steps} steps in {seconds:.0f} s: {run.path}")
    print(f"energy per site   {found.energy_per_site}   ({samples} samples)")
    print(f"exact             {exact.energy / 16:.8f}")
    print(f"relative error    {relative:.1e}   z-score {found.z_score(exact.energy):+.1f}")
    print(f"density           {found.observables['density_mean']}   exact {exact.observables['density_mean']:.6f}")
    print(f"|staggered|       {found.observables['staggered_abs']}   exact {exact.observables['staggered_abs']:.6f}")
    print(f"picture           {picture}")
    return relative


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--dir", default="runs/demo")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    error = main(steps=options.steps, directory=options.dir)
    if error > TOLERANCE:
        raise SystemExit(f"the relative error {error:.1e} is above {TOLERANCE:.0e}")
