"""Sampled against exact flips, with the same weights: what a window leaves over, what a step costs, how training fares.

1. On a trained 8x8 state, for every window and number M of drawn flips: the variance that drawing adds, the bias if the window
   were trusted, the cost in token-forwards and in seconds, and cost x variance of a step relative to exact flips (below 1:
   sampled flips give the smaller error for equal work). "q" says whether the proposals know how far the window is off for each
   flip (learned on other samples) or take the windowed terms alone. The state is trained for a minute, or given by --run.
2. Seconds of a step (Adam) on 16x16, and error^2 x seconds relative to exact flips, from 8x8 weights on the larger lattice.
3. --train: training with flips=auto against flips=exact, equal steps, evaluated at equal training seconds (`flip_training.py`).

Parts 1 and 2 take about 4 minutes on two cores, --quick half a minute; --train a quarter of an hour more for each seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from flip_training import compare_training
from stepping import DEEP, SMALL, Stepper, neighbour_window, row_window, sample_configs, trained
from torch import Tensor

import qsr
from qsr.estimators import local_energy
from qsr.estimators.flip_choice import FlipCosts, WindowCost, flip_costs
from qsr.estimators.sampled_flips import FlipSampling, proposal, sampled_local_energy, uncovered_flips
from qsr.hamiltonians import Hamiltonian
from qsr.samplers.flips import Window

NUM_FLIPS = (1, 2, 4)
TARGETS = {"no window": 8.0, "one row": 3.0, "neighbours": 3.0}  # how many times faster a step should be


def describe(window: Window) -> str:
    """'1-4', '1,3,4,5' or 'none'."""
    if not window:
        return "none"
    whole = window == tuple(range(1, len(window) + 1))
    return f"1-{window[-1]}" if whole and len(window) > 2 else ",".join(map(str, window))


def flip_terms(model: Any, hamiltonian: Hamiltonian, configs: Tensor, window: Window | None) -> Tensor:
    """(B, flips) terms of the off-diagonal local energy: exact, or what a window says."""
    masks, coefficients = hamiltonian.connected(configs)
    log_ratio = model.flip_log_ratio(configs, masks, window=window)[1]
    return coefficients * (0.5 * log_ratio.double()).exp()


def added_variance(exact: Tensor, windowed: Tensor, possible: Tensor, weights: Tensor | None) -> Tensor:
    """(B,) variance of the local energy that one drawn flip adds, over the draws; M of them add a fraction 1/M of it."""
    missing = exact - windowed
    q = proposal(windowed, possible, weights)
    square = torch.where(q > 0, missing.square() / q.clamp_min(torch.finfo(q.dtype).tiny), 0.0)
    return (square.sum(dim=1) - missing.sum(dim=1).square()).clamp_min(0)


def window_rows(
    model: Any, hamiltonian: Hamiltonian, costs: FlipCosts, configs: Tensor, exact: Tensor
) -> Iterator[tuple[WindowCost, bool, float, float]]:
    """For every window, without and with learned weights: added variance of one flip and bias, per site."""
    masks, coefficients = hamiltonian.connected(configs)
    xor = model.encode(masks.to(torch.uint8))
    for entry in costs.windows:
        windowed = flip_terms(model, hamiltonian, configs, entry.window)
        possible = (coefficients != 0) & uncovered_flips(xor, entry.window)
        bias = (windowed - exact).sum(dim=1).mean().item() / model.num_sites
        for learned in (False, True):
            weights = torch.tensor(entry.weights, dtype=torch.float64) if learned else None
            added = added_variance(exact, windowed, possible, weights).mean().item() / model.num_sites
            yield entry, learned, added, bias


def all_windows(model: Any) -> list[Window]:
    """Those that the sampler suggests, and the plain row of patches."""
    return list(dict.fromkeys([*model.windows(), row_window(model)]))


def fixed_seconds(model: Any, samples: int, repeats: int) -> float:
    """Seconds per sample of the rest of a step: sampling, and log p with its gradient."""
    configs = sample_configs(model, samples)

    def work() -> None:
        model.sample(samples)
        model.log_prob(configs).mean().backward()

    return report.in_turns({"work": work}, repeats)["work"].median / samples


def study(model: Any, hamiltonian: Hamiltonian, samples: int, timed: int, repeats: int) -> dict[str, Any]:
    """Print part 1; its rows."""
    n = model.num_sites
    windows = all_windows(model)
    costs = flip_costs(model, hamiltonian, sample_configs(model, samples // 4, seed=1), windows)
    configs = sample_configs(model, samples, seed=2)
    exact = flip_terms(model, hamiltonian, configs, None)
    energies = hamiltonian.diagonal(configs) + exact.sum(dim=1)
    variance = energies.var().item() / n

    batch = configs[:timed]
    works = {"exact": partial(local_energy, model, hamiltonian, batch)}
    for window in windows:
        for number in NUM_FLIPS:
            sampling = FlipSampling(number, window, costs.windows[windows.index(window)].weights)
            uniforms = torch.rand(timed, number, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
            works[f"{window} {number}"] = partial(sampled_local_energy, model, hamiltonian, batch, sampling, uniforms)
    seconds = {name: found.median / timed for name, found in report.in_turns(works, repeats).items()}
    rest = fixed_seconds(model, timed, repeats)

    mean, error = energies.mean().item() / n, (variance / n / samples) ** 0.5
    print(f"E/N = {mean:.5f}({error:.0e}), Var/N = {variance:.2e} ({samples} samples); exact flips: ", end="")
    print(f"{costs.exact_tokens:.0f} token-forwards, {1e3 * seconds['exact']:.3f} ms a sample; ", end="")
    print(f"rest of a step: {costs.fixed_tokens:.0f}, {1e3 * rest:.3f} ms\n")
    titles = {
        "window": 34,
        "q": 9,
        "M": 4,
        "added Var/N": 13,
        "bias": 10,
        "tokens": 8,
        "ms": 8,
        "x by tokens": 13,
        "by seconds": 12,
    }
    table = report.Table(titles)
    rows = []
    for entry, learned, added, bias in window_rows(model, hamiltonian, costs, configs, exact):
        for number in NUM_FLIPS:
            tokens = entry.window_tokens + number * entry.flip_tokens
            spent = seconds[f"{entry.window} {number}"]
            ratio = 1 + added / number / variance
            by_tokens = ratio * (costs.fixed_tokens + tokens) / (costs.fixed_tokens + costs.exact_tokens)
            by_seconds = ratio * (rest + spent) / (rest + seconds["exact"])
            kind = "learned" if learned else "plain"
            name = describe(entry.window) + (" (one row)" if entry.window == row_window(model) else "")
            table.row(
                name, kind, number, f"{added / number:.1e}", f"{bias:.0e}", f"{tokens:.0f}", 1e3 * spent, by_tokens, by_seconds
            )
            found = {"window": name, "weights": kind, "flips": number, "added": added / number, "bias": bias, "tokens": tokens}
            rows.append({**found, "seconds": spent, "by_tokens": by_tokens, "by_seconds": by_seconds})
    exactly = {"variance": variance, "tokens": costs.exact_tokens, "seconds": seconds["exact"], "fixed_seconds": rest}
    return {"exact": exactly, "rows": rows}


def step_times(name: str, small: Any, settings: dict[str, Any], size: int, samples: int, repeats: int) -> list[dict[str, Any]]:
    """Print a part of 2: a step with sampled flips against one with exact flips; the rows."""
    steppers = {"exact": Stepper(settings, size, samples)}
    model = steppers["exact"].model
    kinds = {"no window": ((), 8), "one row": (row_window(model), 2), "neighbours": (neighbour_window(model), 2)}
    steppers["exact"].load(small)
    hamiltonian = steppers["exact"].objective.hamiltonian
    windows = [window for window, _ in kinds.values()]
    costs = flip_costs(model, hamiltonian, sample_configs(model, 4 * samples, seed=4), windows)
    for (kind, (window, number)), entry in zip(kinds.items(), costs.windows, strict=True):
        steppers[kind] = Stepper(settings, size, samples, sampling=FlipSampling(number, window, entry.weights))
        steppers[kind].load(small)
    times = report.in_turns({kind: stepper.step for kind, stepper in steppers.items()}, repeats)
    rows = []
    table = report.Table({name: 34, "M": 4, "s a step": 32, "faster": 9, "target": 9, "error^2 x seconds": 19})
    table.row("exact", None, times["exact"], 1.0, None, 1.0)
    for (kind, (window, number)), entry in zip(kinds.items(), costs.windows, strict=True):
        faster = times["exact"].median / times[kind].median
        product = (1 + entry.flip_variance / number / costs.exact_variance) / faster
        table.row(f"{kind}: {describe(window)}", number, times[kind], faster, f">= {TARGETS[kind]:g}", product)
        rows.append(
            {"model": name, "window": kind, "flips": number, "seconds": times[kind], "faster": faster, "product": product}
        )
    print()
    return [{"model": name, "window": "exact", "seconds": times["exact"], "faster": 1.0, "product": 1.0}, *rows]


def main(options: Any) -> None:
    """Print all parts and keep them."""
    quick = options.quick
    print(
        f"{report.header()}\n\n1. "
        + (f"the state of {options.run}" if options.run else "8x8, one layer, width 16, trained briefly")
    )
    steps = (50, 50, 50) if quick else (150, 100, 300)
    curriculum = ",".join(f"{size}x{size}:{number}" for size, number in zip((4, 6, 8), steps, strict=True))
    model = qsr.load_model(options.run) if options.run else trained(SMALL, curriculum)
    rows, columns = model.lattice.shape
    hamiltonian = qsr.Rydberg(Lx=rows, Ly=columns).build()
    samples, timed, repeats = (256, 16, 2) if quick else (4096, 64, 5)
    samples = max(256, samples * 64 // model.num_sites)
    results: dict[str, Any] = {"quick": quick, "study": study(model, hamiltonian, samples, timed, repeats)}

    samples, repeats = (4, 2) if quick else (64, 3)
    print(f"\n2. a step of {samples} samples on 16x16, patches 2x2, Adam")
    small = model if not options.run else trained(SMALL, curriculum)
    deep = trained(DEEP, f"4x4:{steps[0]},6x6:{steps[1]}")
    results["steps"] = step_times("PTF d16, 1 layer", small, SMALL, 16, samples, repeats)
    results["steps"] += step_times("PTF d32, 2 layers", deep, DEEP, 16, samples, repeats)
    report.save("flips", results)
    if options.train:
        print("3. training with flips=auto and flips=exact")
        report.save("flips-training", compare_training(options.optimizer, options.seeds, quick))


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--run", type=Path, help="directory of a trained run (Rydberg, V=7, Omega=delta=1) for part 1")
    parser.add_argument("--train", action="store_true", help="part 3, too")
    parser.add_argument("--optimizer", choices=["spring", "adam"], default="spring", help="of part 3")
    parser.add_argument("--seeds", type=int, default=1, help="of part 3")
    chosen = parser.parse_args()
    report.limit_threads(chosen.threads)
    main(chosen)
