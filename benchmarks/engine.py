"""Seconds of exact single flips and of sampling: qsr against the original's algorithm, and against the machine.

Both sides have the same weights, the same samples and the same number of threads, and take turns; the times are medians, and
the largest difference of their log-probabilities is printed beside them. The last column is the rate at which qsr's flips do
the arithmetic that they need (`flip_flops`), as a share of the float32 matrix-product rate measured in the same run on the
shapes that dominate them. Above 1 would mean that the engine needs fewer operations than are counted. About 3 minutes on two
cores; --quick half a minute.
"""

from __future__ import annotations

import time
from functools import partial

import report
import torch
from original import baseline_flips, nnqsr_model, original

from qsr.jobs.allocator import keep_freed_memory
from qsr.samplers.ptf import PatchedTransformer
from qsr.samplers.rnn import PatchedRNN

# kind, size, width (None: the preset's), samples
CASES = [
    ("ptf", 8, None, 128),
    ("ptf", 16, None, 16),
    ("rnn", 8, 128, 128),
    ("rnn", 8, 256, 128),
    ("rnn", 16, 128, 32),
    ("rnn", 16, 256, 32),
]
QUICK = [("ptf", 8, None, 32), ("ptf", 16, None, 2), ("rnn", 8, 128, 64), ("rnn", 16, 128, 8)]


def flip_flops(model: PatchedTransformer | PatchedRNN) -> float:
    """Floating-point operations for log p and all single flips of one sample.

    One pass over the n tokens, and for a flip in patch k the n-1-k tokens after it: N(n-1)/2 token evaluations. A product
    with a d x e matrix counts 2de; element-wise work is not counted.
    """
    n, p = model.num_tokens, model.sites_per_token
    values = model.num_values
    tokens = n + model.num_sites * (n - 1) / 2
    if isinstance(model, PatchedRNN):
        d = model.width
        return tokens * 2 * (3 * (p * d + d * d) + d * d + d * values)
    d, layers = model.trunk.width, len(model.trunk.layers)
    per_token = layers * 2 * (4 * d * d + 2 * d * model.trunk.feedforward) + 2 * (p * d + d * d + d * values)
    # Token t sees t+1 tokens: 4d(t+1) for scores and values. It is in the pass itself and in the flips of t patches.
    seen = sum((t + 1) * (1 + p * t) for t in range(n))
    return tokens * per_token + layers * 4 * d * seen


def product_rate(rows: int, inner: int, columns: int, seconds: float) -> float:
    """Measured float32 rate of (rows x inner)(inner x columns), operations per second.

    The best call of `seconds`: other work on the machine can only lower it.
    """
    left, right, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
    torch.mm(left, right, out=out)
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        rates.append(2 * rows * inner * columns / (time.perf_counter() - started))
    return max(rates)


def dominant_rate(model: PatchedTransformer | PatchedRNN, rows: int, seconds: float) -> tuple[float, str]:
    """Rate on the matrix products that most of the operations are in, and their shapes."""
    if isinstance(model, PatchedRNN):
        d = model.width
        return product_rate(rows, d, 3 * d, seconds), f"({rows} x {d})({d} x {3 * d})"
    d, wide = model.trunk.width, model.trunk.feedforward
    up, down = product_rate(rows, d, wide, seconds), product_rate(rows, wide, d, seconds)
    return 2 / (1 / up + 1 / down), f"({rows} x {d})({d} x {wide}) and ({rows} x {wide})({wide} x {d})"


def main(threads: int, repeats: int, quick: bool) -> None:
    """Print the table."""
    report.limit_threads(threads)
    keep_freed_memory()  # as every training job does; it serves both sides
    budget = 0.2 if quick else 1.0
    print(f"{report.header()}, float32")
    square = product_rate(2048, 2048, 2048, budget)
    print(f"matrix products: {square / 1e9:.0f} GFLOP/s on (2048 x 2048)(2048 x 2048)\n")
    print("flips and sampling in seconds; GFLOP/s: rate of the flips of qsr\n")
    titles = {"": 26, "flips: original": 16, "qsr": 9, "ratio": 7, "sampling: original": 19, "qsr ": 9, "ratio ": 7}
    titles |= {"GFLOP/s": 9, "of products": 13, "of square": 11, "difference": 12}
    table = report.Table(titles)
    rows = []
    shapes = []
    for kind, size, width, samples in QUICK if quick else CASES:
        model = nnqsr_model(kind, size, **({} if width is None else {"Nh": width}))
        configs, _ = model.sample(samples, torch.Generator().manual_seed(0))
        difference = (baseline_flips(model, configs) - model.flip_log_prob(configs)).abs().max().item()
        baseline = original(model)  # the weights are read before the clock runs
        works = {"original": partial(baseline.flips, configs), "qsr": partial(model.flip_log_ratio, configs)}
        flips = report.in_turns(works, repeats)
        works = {"original": partial(baseline.sample, samples), "qsr": partial(model.sample, samples)}
        sampling = report.in_turns(works, 2 * repeats + 1)
        # In the middle of the sequence p flips read half of it.
        height = samples * model.sites_per_token * (model.num_tokens if kind == "ptf" else 2) // 2
        products, shape = dominant_rate(model, height, budget)
        rate = samples * flip_flops(model) / flips["qsr"].median
        name = f"{kind.upper()} {size}x{size}" + (f" Nh={width}" if width else "") + f" K={samples}"
        ratios = [times["original"].median / times["qsr"].median for times in (flips, sampling)]
        cells = [f"{flips['original'].median:.4f}", f"{flips['qsr'].median:.4f}", f"{ratios[0]:.2f}"]
        cells += [f"{sampling['original'].median:.4f}", f"{sampling['qsr'].median:.4f}", f"{ratios[1]:.2f}"]
        table.row(name, *cells, f"{rate / 1e9:.1f}", f"{rate / products:.2f}", f"{rate / square:.2f}", f"{difference:.0e}")
        found = {"name": name, "flips": flips, "flips_ratio": ratios[0], "sampling": sampling, "sampling_ratio": ratios[1]}
        rows.append({**found, "rate": rate, "of_products": rate / products, "of_square": rate / square, "difference": difference})
        shapes.append(f"{name}: {products / 1e9:.0f} GFLOP/s on {shape}")
    print("\nproducts\n" + "\n".join(shapes))
    report.save("engine", {"quick": quick, "rows": rows})


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each side (sampling: twice as many, and one)")
    options = parser.parse_args()
    main(options.threads, max(1, options.repeats), options.quick)
