"""Knowledge transfer: a patched transformer learns the distribution of the trained RNN in demos/RNN."""

import argparse
from pathlib import Path

import qsr
from qsr.training.random import generator_for

TEACHER = Path(__file__).parent / "RNN"


def main(teacher: str | Path = TEACHER, steps: int = 1500, directory: str = "runs/transfer") -> tuple[float, float]:
    """KL(teacher || student) in nat with its standard error."""
    student = qsr.PTF(patch="2x2", Nh=32)
    run = qsr.transfer(teacher, student, train={"steps": steps, "K": 256, "lr": 0.01, "dir": directory})
    model = qsr.load_model(teacher)
    configs, log_prob = model.sample(4096, generator_for("cpu", 1, "demo"))
    difference = log_prob.double() - run.model.log_prob(configs).detach().double()
    divergence, error = difference.mean().item(), difference.std().item() / 64
    taught, learned = (qsr.evaluate(source, 2048, 512).energy_per_site for source in (str(teacher), run))
    print(f"KL(RNN || PTF) = {divergence:.4f} +- {error:.4f} nat after {steps} steps")
    print(f"teacher  E/N = {taught}")
    print(f"student  E/N = {learned}   (no energy was computed while it learned)")
    return divergence, error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    main(steps=parser.parse_args().steps)
