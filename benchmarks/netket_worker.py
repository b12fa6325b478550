"""Trains NetKet's variational states on the 8x8 Rydberg array; run by netket_8x8.py with an interpreter that has NetKet.

Prints one JSON object a line: `start` (versions, number of parameters), `step` (training seconds so far, energy per site and
its variance over N), `reached` (a relative error that an evaluation with fresh samples confirmed) and `end`. Evaluations do
not count as training seconds; compilation does, and `end` says how much it was.

Needs nothing of qsr, so that jax and torch can live in two environments.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import netket as nk
import numpy as np
import optax
from netket.operator import DiscreteJaxOperator

# Every recipe is `VMC_SR` with plain Sgd; `rate` and `shift` go from their first value to the last over `decay` steps, and a
# momentum makes it SPRING. Larger rates (0.1), or a momentum of 0.9 without the symmetries, end in NaN.
RECIPES: dict[str, dict[str, Any]] = {
    "rbm": {"model": "rbm", "alpha": 1, "rate": (0.03, 0.03), "shift": (1e-2, 1e-2)},
    "rbm-schedule": {"model": "rbm", "alpha": 1, "rate": (0.05, 0.01), "shift": (5e-2, 1e-3), "decay": 400},
    "rbm-symmetric": {
        "model": "rbm-symmetric",
        "alpha": 1,
        "momentum": 0.8,
        "rate": (0.03, 0.01),
        "shift": (5e-2, 2e-3),
        "decay": 250,
    },
    "rbm-symmetric-wide": {
        "model": "rbm-symmetric",
        "alpha": 2,
        "momentum": 0.8,
        "rate": (0.03, 0.01),
        "shift": (5e-2, 2e-3),
        "decay": 250,
    },
    "arnn-dense": {
        "model": "arnn-dense",
        "layers": 2,
        "features": 2,
        "samples": 512,
        "rate": (0.05, 0.02),
        "shift": (1e-2, 1e-3),
        "decay": 200,
    },
    "arnn-conv": {
        "model": "arnn-conv",
        "layers": 2,
        "features": 4,
        "kernel": 3,
        "samples": 256,
        "rate": (0.05, 0.02),
        "shift": (1e-2, 1e-3),
        "decay": 200,
    },
}


@jax.tree_util.register_pytree_node_class
class RydbergArray(DiscreteJaxOperator):
    """H = -Omega/2 sum_i X_i - delta sum_i n_i + V sum_{i<j} n_i n_j / |r_i - r_j|^6: its N+1 connected states in closed form.

    Much faster than the sum of 2016 general strings; n_i = 1 is the local state +1.
    """

    def __init__(self, hilbert: Any, size: int, interaction: float, omega: float, detuning: float) -> None:
        super().__init__(hilbert)
        x, y = np.divmod(np.arange(size * size), size)
        distance = np.hypot(x[:, None] - x, y[:, None] - y)
        np.fill_diagonal(distance, np.inf)
        self._coupling = jnp.asarray(0.5 * interaction / distance**6)
        self._omega, self._detuning = omega, detuning

    @property
    def dtype(self) -> Any:
        return jnp.float64

    @property
    def is_hermitian(self) -> bool:
        return True

    @property
    def max_conn_size(self) -> int:
        return int(self.hilbert.size) + 1

    def get_conn_padded(self, x: Any) -> tuple[Any, Any]:
        """(..., N) states to their connected states (..., N+1, N) and matrix elements (..., N+1)."""
        sites = x.shape[-1]
        occupied = (x + 1) / 2
        diagonal = ((occupied @ self._coupling) * occupied).sum(-1) - self._detuning * occupied.sum(-1)
        signs = jnp.concatenate([jnp.ones((1, sites), x.dtype), 1 - 2 * jnp.eye(sites, dtype=x.dtype)])
        off_diagonal = jnp.full((*x.shape[:-1], sites), -0.5 * self._omega)
        return x[..., None, :] * signs, jnp.concatenate([diagonal[..., None], off_diagonal], axis=-1)

    def n_conn(self, x: Any) -> Any:
        return jnp.full(x.shape[:-1], self.max_conn_size, dtype=jnp.int32)

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self._coupling,), (self.hilbert, self._omega, self._detuning)

    @classmethod
    def tree_unflatten(cls, static: Any, arrays: Any) -> RydbergArray:
        new = object.__new__(cls)
        DiscreteJaxOperator.__init__(new, static[0])
        new._coupling, new._omega, new._detuning = arrays[0], *static[1:]
        return new


def build_model(hilbert: Any, recipe: dict[str, Any]) -> Any:
    """The NetKet model of a recipe."""
    dtype = jnp.dtype(recipe.get("dtype", "float64"))
    if recipe["model"] == "rbm":
        return nk.models.RBM(alpha=recipe["alpha"], param_dtype=dtype)
    if recipe["model"] == "rbm-symmetric":
        # Density alpha as above: alpha*N/8 features, each with its images under the eight symmetries of the square.
        size = math.isqrt(hilbert.size)
        symmetries = nk.graph.Grid([size, size], pbc=False).automorphisms()
        return nk.models.RBMSymm(symmetries=symmetries, alpha=recipe["alpha"], param_dtype=dtype)
    if recipe["model"] == "arnn-dense":  # FastARNNDense of NetKet 3.23 fails under jax 0.10
        return nk.models.ARNNDense(hilbert, layers=recipe["layers"], features=recipe["features"], param_dtype=dtype)
    kernel = (recipe["kernel"], recipe["kernel"])
    return nk.models.FastARNNConv2D(
        hilbert, layers=recipe["layers"], features=recipe["features"], kernel_size=kernel, param_dtype=dtype
    )


def build_state(hilbert: Any, model: Any, recipe: dict[str, Any], samples: int, seed: int, fresh: bool = False) -> Any:
    """A Monte Carlo state of `samples` samples; a `fresh` one forgets its starting configurations for longer."""
    if recipe["model"].startswith("arnn"):
        return nk.vqs.MCState(nk.sampler.ARDirectSampler(hilbert), model, n_samples=samples, seed=seed)
    dtype = jnp.dtype(recipe.get("dtype", "float64"))
    # A sweep is N proposals; between steps, which change the weights little, the chains go on without a new warm-up.
    sampler = nk.sampler.MetropolisLocal(hilbert, n_chains=recipe.get("chains", 256), dtype=dtype)
    discard = 50 if fresh else 0
    return nk.vqs.MCState(sampler, model, n_samples=samples, n_discard_per_chain=discard, seed=seed)


def schedule(ends: tuple[float, float], decay: int) -> Any:
    """A constant, or a geometric way from the first to the last value."""
    first, last = ends
    return first if first == last else optax.exponential_decay(first, decay, last / first, end_value=last)


def emit(kind: str, **values: Any) -> None:
    """One line of output."""
    print(json.dumps({"kind": kind, **values}), flush=True)


def main(options: argparse.Namespace) -> None:
    """Train until the seconds are spent."""
    recipe = {**RECIPES[options.recipe], **json.loads(options.change)}
    sites = options.size**2
    hilbert = nk.hilbert.Spin(0.5, sites)
    hamiltonian = RydbergArray(hilbert, options.size, options.V, options.omega, options.delta)
    model = build_model(hilbert, recipe)
    state = build_state(hilbert, model, recipe, recipe.get("samples", 1024), options.seed)
    judge = build_state(hilbert, model, recipe, options.evaluation, options.seed + 1, fresh=True)
    decay = recipe.get("decay", 1)
    driver = nk.driver.VMC_SR(
        hamiltonian,
        nk.optimizer.Sgd(schedule(recipe["rate"], decay)),
        diag_shift=schedule(recipe["shift"], decay),
        momentum=recipe.get("momentum"),
        variational_state=state,
    )
    emit("start", netket=nk.__version__, jax=jax.__version__, recipe=recipe, parameters=state.n_parameters)

    def evaluate() -> tuple[float, float]:
        judge.variables = state.variables
        judge.reset()
        found = judge.expect(hamiltonian)
        return float(found.mean.real) / sites, float(found.error_of_mean.real) / sites

    durations: list[float] = []
    energies: list[float] = []
    waiting = sorted(options.errors, reverse=True)
    next_try = 20
    clock = time.perf_counter()

    def after_step(_: int, log: dict[str, Any], __: Any) -> bool:
        nonlocal clock, next_try
        stats = log["Energy"]
        energy = float(stats.mean.real) / sites
        durations.append(time.perf_counter() - clock)
        energies.append(energy)
        step, seconds, mean = len(energies), sum(durations), statistics.fmean(energies[-20:])
        emit("step", step=step, seconds=seconds, energy=energy, mean=mean, variance=float(stats.variance) / sites)
        if waiting and step >= next_try and abs(mean / options.reference - 1) < waiting[0]:
            found, error = evaluate()
            while waiting and abs(found / options.reference - 1) < waiting[0] and error < waiting[0] * abs(options.reference) / 4:
                emit("reached", error=waiting.pop(0), seconds=seconds, step=step, energy=found, standard_error=error)
            next_try = step + 5
        clock = time.perf_counter()
        return seconds < options.seconds and bool(np.isfinite(energy))

    driver.run(10**9, callback=after_step, show_progress=False)
    spent, step = sum(durations), len(durations)
    usual = statistics.median(durations)
    found, error = evaluate()
    emit(
        "end",
        seconds=spent,
        steps=step,
        seconds_per_step=usual,
        compile_seconds=sum(max(0.0, duration - usual) for duration in durations[:2]),
        energy=found,
        standard_error=error,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="rbm")
    parser.add_argument("--change", default="{}", help="JSON object over the recipe's settings")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--V", type=float, default=7.0)
    parser.add_argument("--omega", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1.0)
    parser.add_argument("--reference", type=float, required=True, help="energy per site to compare with")
    parser.add_argument("--errors", type=float, nargs="+", default=[1e-2, 3e-3])
    parser.add_argument("--evaluation", type=int, default=8192, help="fresh samples of an evaluation")
    main(parser.parse_args())
