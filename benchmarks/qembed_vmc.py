"""Quantum embeddings as the tokens of the samplers: ground states of the 4x4 array with and without them.

Every sampler with its own tokens, with a quantum embedding (K senses), and with one whose senses depend on the patches before
(context). The rest is equal: natural gradients, steps, samples, seeds; the embedding brings weights of its own. Energies are
<psi|H|psi>, enumerated. The exit status is 1 if a sampler with an embedding, at its median seed, ends more than 2e-3 per site
too high. Times are those of the processor. About 5 minutes on one core; --quick half a minute, without verdict. A table of the
values of a large patch learns slowly, with or without senses: the embedding of large patches is a product over their sites.

--strategies compares what is read of a patch instead, on the PTF with Adam (500 steps of 256 samples, 6 seeds): why `soft` is the
default. About 5 minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import report

import qsr
from qsr.hamiltonians import configurations

SIZE = 4
BOUND = 2e-3  # per site
SMALL: dict[str, Any] = {"Nh": 16, "nhead": 2, "dim_feedforward": 32}
SAMPLERS: dict[str, dict[str, Any]] = {
    "PTF": {"type": "ptf", "patch": "2x2", **SMALL},
    "RNN": {"type": "rnn", "patch": "2x2", "Nh": 32},
    "LPTF": {"type": "lptf", "patch": "4x2", **SMALL, "subsampler": {"type": "rnn", "patch": "2x2"}},
}
TOKENS: dict[str, dict[str, Any] | None] = {
    "own tokens": None,
    "embedding": {"num_states": 4},
    "embedding, context": {"num_states": 4, "context_encoder": "mean"},
}
STRATEGIES: dict[str, dict[str, Any] | None] = {
    "own tokens": None,
    **{name: {"num_states": 4, "collapse_strategy": name} for name in ("soft", "none", "argmax")},
    "soft, context": {"num_states": 4, "context_encoder": "mean"},
}


@dataclass(frozen=True)
class Recipe:
    """How all are trained."""

    name: str
    steps: int
    samples: int
    seeds: int
    rate: float
    sections: dict[str, Any] = field(default_factory=dict)


SPRING = Recipe(
    "spring",
    200,
    512,
    3,
    0.05,
    {
        "optimizer": {"name": "spring", "kwargs": {"momentum": 0.8, "shift": 3e-3, "final_shift": 3e-5, "cap": 0.3}},
        "scheduler": {"name": "OneCycleLR", "kwargs": {"pct_start": 0.05}},
    },
)
ADAM = Recipe("Adam", 500, 256, 6, 0.01)


def with_tokens(model: dict[str, Any], embedding: dict[str, Any] | None) -> dict[str, Any]:
    """A model whose samplers, also the one inside, have these tokens; those of large patches are products over sites."""
    if embedding is None:
        return model
    if "subsampler" not in model:
        return {**model, "embedding": embedding}
    inner = with_tokens(model["subsampler"], embedding)
    return {**model, "subsampler": inner, "embedding": {**embedding, "factorization": "ketxs"}}


def train(model: dict[str, Any], recipe: Recipe, seed: int) -> tuple[float, float, int]:
    """E/N, seconds of the processor per step, and the number of weights."""
    array = qsr.Rydberg(Lx=SIZE, Ly=SIZE)
    settings = {"steps": recipe.steps, "K": recipe.samples, "lr": recipe.rate, "seed": seed, "dir": "<NONE>", "device": "cpu"}
    started = time.process_time()
    run = qsr.train(array, model, settings, **recipe.sections)
    spent = time.process_time() - started
    psi = (0.5 * run.model.log_prob(configurations(SIZE**2)).detach().double()).exp().numpy()
    weights = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    return float(psi @ (array.build().to_sparse() @ psi)) / SIZE**2, spent / recipe.steps, weights


def main(result: str, samplers: list[str], choices: dict[str, dict[str, Any] | None], recipe: Recipe) -> bool:
    """Print the table and keep it; whether every sampler with an embedding is within the bound."""
    exact, _ = report.reference(SIZE)
    print(f"4x4, V=7, delta=Omega=1, exact E/N = {exact:.9f}; {recipe.name}, {recipe.steps} steps of {recipe.samples} samples")
    print(f"{report.header()}; median of {recipe.seeds} seeds\n")
    table = report.Table({"": 26, "weights": 9, "E/N": 11, "error": 10, "lowest": 10, "highest": 10, "ms a step": 11})
    rows, good = [], True
    for sampler in samplers:
        for tokens, embedding in choices.items():
            found = [train(with_tokens(SAMPLERS[sampler], embedding), recipe, seed) for seed in range(recipe.seeds)]
            energies, seconds, weights = zip(*found, strict=True)
            errors = [energy - exact for energy in energies]
            energy, error, spent = (statistics.median(values) for values in (energies, errors, seconds))
            spread = (f"{value:.1e}" for value in (error, min(errors), max(errors)))
            name = f"{sampler}, {tokens}"
            table.row(name, weights[0], f"{energy:.5f}", *spread, f"{1e3 * spent:.1f}")
            rows.append({"name": name, "weights": weights[0], "energies": energies, "seconds_per_step": spent})
            good = good and (embedding is None or error < BOUND)
    report.save(result, {**asdict(recipe), "exact": exact, "rows": rows})
    return good


if __name__ == "__main__":
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--strategies", action="store_true", help="compare what is read of a patch")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    name, samplers, choices, recipe = "qembed-vmc", list(SAMPLERS), TOKENS, SPRING
    if options.strategies:
        name, samplers, choices, recipe = "qembed-strategies", ["PTF"], STRATEGIES, ADAM
    if options.quick:
        recipe = replace(recipe, steps=recipe.steps // 5, samples=recipe.samples // 4, seeds=1)
    passed = main(name, samplers, choices, recipe)
    sys.exit(not (passed or options.quick or options.strategies))
