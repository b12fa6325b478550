"""A network that knows nothing of the lattice's symmetry, averaged over it afterwards, and trained further with it."""

import argparse

import torch

import qsr
from qsr.hamiltonians import configurations


def main(steps: int = 300, directory: str = "runs/symmetries") -> dict[str, float]:
    """(E - E0) / |E0| on 4x4 by enumeration: as trained, averaged over the point group, and fine-tuned with it."""
    array = qsr.Rydberg(Lx=4, Ly=4)
    matrix, exact = array.build().to_sparse(), qsr.exact(array).energy
    train = {"K": 256, "lr": 0.01, "dir": directory}
    plain = qsr.train(array, qsr.RNN(patch="2x2", Nh=32), train={**train, "steps": steps})
    averaged = qsr.finetune(plain, train={**train, "steps": 0}, symmetry="point")
    tuned = qsr.finetune(plain, train={**train, "lr": 0.002, "steps": steps // 4}, symmetry="point")

    errors = {}
    print(f"{'':<28}{'(E - E0)/|E0|':>14}{'corner densities':>20}")
    for name, run in (("as trained", plain), ("averaged over 8 images", averaged), ("trained further with them", tuned)):
        with torch.no_grad():
            p = run.model.eval().log_prob(configurations(16)).double().exp()
        psi = p.sqrt().numpy()
        errors[name] = float(psi @ (matrix @ psi)) / float(p.sum()) / abs(exact) + 1
        corners = (p @ configurations(16)[:, [0, 3, 12, 15]].double()).tolist()
        print(f"{name:<28}{errors[name]:>14.1e}   {' '.join(f'{density:.4f}' for density in corners)}")
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    main(steps=parser.parse_args().steps)
