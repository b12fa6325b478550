"""The same weights on a larger lattice: train on 4x4, go on training on 8x8, and compare with a start from nothing."""

import argparse

import qsr

REFERENCE = -0.405680  # E/N of the 8x8 array by DMRG, V=7, delta=Omega=1


def main(steps: int = 400, directory: str = "runs/finetune") -> dict[str, float]:
    """E/N on 8x8 before and after fine-tuning, and after as many steps from nothing."""
    model = qsr.PTF(patch="2x2", Nh=16, nhead=2)
    train = {"steps": steps, "K": 128, "lr": 1e-2, "dir": directory}
    small = qsr.train(qsr.Rydberg(Lx=4, Ly=4), model, train={**train, "steps": 2 * steps, "K": 256})
    before = qsr.finetune(small, train={**train, "steps": 0}, hamiltonian={"Lx": 8, "Ly": 8})
    after = qsr.finetune(small, train=train, hamiltonian={"Lx": 8, "Ly": 8})
    scratch = qsr.train(qsr.Rydberg(Lx=8, Ly=8), model, train=train)

    energies = {}
    names = ("4x4 weights on 8x8, untrained", "fine-tuned from 4x4", "from nothing, as many steps")
    for name, run in zip(names, (before, after, scratch), strict=True):
        found = qsr.evaluate(run, 2048, 512).energy_per_site
        energies[name] = found.mean
        print(f"{name:<32} E/N = {found!s:<14} {(found.mean - REFERENCE) / abs(REFERENCE):+.1e} above DMRG")
    return energies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    main(steps=parser.parse_args().steps)
