"""What number formats do to energies: float32, TF32 and bf16 against float64, on the same samples and in whole trainings.

Local energies with exact flips of trained networks, on samples of the float64 model: the mean of the paired differences is the
bias. Beside it the normalisation, summed over all configurations of 4x4, and how far flips are from differences of log p of two
base passes. Then runs with the same seed that differ in `train.precision` alone, all evaluated in float64.

TF32 is of GPUs. Here it is EMULATED: inputs of every float32 matrix product, forwards and backwards, are rounded to 10 explicit
bits, to nearest, and products are summed in float32. A GPU sums in another order.

About 25 minutes on one core, with --quick ten seconds (demos/RNN alone, no trainings). --runs DIR keeps the trained networks,
and takes those that it finds there.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import Hamiltonian, configurations
from qsr.jobs.run import build_model
from qsr.samplers import Sampler
from qsr.training.precision import computing_in

TF32 = "TF32 (emulated)"
FORMATS = ("float32", TF32, "bf16")
USUAL_SAMPLES = 4096  # of an evaluation, whose standard error is the unit of what is small
DEMO = Path(__file__).parents[1] / "demos" / "RNN"
ATEN = torch.ops.aten


# Which arguments are factors.
PRODUCTS = {ATEN.mm.default: (0, 1), ATEN.bmm.default: (0, 1), ATEN.addmm.default: (1, 2), ATEN.baddbmm.default: (1, 2)}
# These would slip through.
UNKNOWN = (ATEN.addbmm, ATEN._scaled_dot_product_flash_attention_for_cpu_backward)


def rounded_to_tf32(values: Tensor) -> Tensor:
    """float32 with 10 of the 23 explicit bits, to nearest (ties away from zero)."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).view(values.shape)


class EmulatedTF32(TorchDispatchMode):
    """Inside, inputs of float32 products of matrices are rounded to TF32.

    Other operations are left alone, products of a matrix and a vector (which GPUs do not round) and float64 among them.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, Tensor)]
        if not tensors or tensors[0].dtype != torch.float32:
            return func(*args, **kwargs)
        if func is ATEN._scaled_dot_product_flash_attention_for_cpu.default:
            return self._attention(*args, **kwargs)
        if func.overloadpacket in UNKNOWN:
            raise TypeError(f"{func}: a product of matrices that is not rounded")
        places = PRODUCTS.get(func, ())
        return func(*(rounded_to_tf32(arg) if place in places else arg for place, arg in enumerate(args)), **kwargs)

    def _attention(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fused attention of CPUs in its two products, where a sampler calls it by its name."""
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = rounded_to_tf32(query) @ rounded_to_tf32(keys).transpose(-1, -2) * scale
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        if attn_mask is not None:
            scores = scores + attn_mask
        weights, norm = scores.softmax(dim=-1), scores.logsumexp(dim=-1)
        return rounded_to_tf32(weights) @ rounded_to_tf32(values), norm


@contextmanager
def emulated_tf32() -> Iterator[None]:
    """With attention in single products, also backwards."""
    with sdpa_kernel(SDPBackend.MATH), EmulatedTF32():
        yield


@contextmanager
def in_format(name: str, model: Sampler) -> Iterator[None]:
    """float32, TF32 or bf16 for a model with float32 weights."""
    emulated = emulated_tf32() if name == TF32 else nullcontext()
    with torch.no_grad(), computing_in("bf16" if name == "bf16" else "float32", model), emulated:
        yield


# ---- the same samples ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Differences from float64 of local energies per site of the same samples, in units of Omega.

    Attributes:
        bias, error: mean of the differences, with its standard error.
        deviation, largest: standard deviation of one difference, and the largest one.
        own, own_error: of the energy that samples drawn in the format itself would have, by weights p_format / p_float64.
        ratio: root mean square of the differences of log p(flipped) - log p.
        unit: standard error of the energy per site of 4096 samples.
    """

    bias: float
    error: float
    deviation: float
    largest: float
    own: float
    own_error: float
    ratio: float
    unit: float


def paired(model: Sampler, hamiltonian: Hamiltonian, samples: int, batch: int, seed: int = 0) -> dict[str, Paired]:
    """Each format against float64, on samples of the float64 model."""
    exact = deepcopy(model).double()
    reference: list[Tensor] = []
    found: dict[str, list[Tensor]] = {name: [] for name in FORMATS}
    for start in range(0, samples, batch):
        generator = torch.Generator().manual_seed(seed + start)
        with computing_in("float64", exact):
            configs, _ = exact.sample(min(batch, samples - start), generator)
            energy = local_energy(exact, hamiltonian, configs)
        reference.append(energy.values)
        for name in FORMATS:
            with in_format(name, model):
                other = local_energy(model, hamiltonian, configs)
            ratio = 2 * (other.ratios / energy.ratios).log()  # log p has twice that of psi
            weight = (other.log_prob.double() - energy.log_prob).exp() - 1
            found[name].append(torch.stack([other.values - energy.values, weight, ratio.square().mean(dim=1)]))
    energies = torch.cat(reference).numpy() / model.num_sites
    unit = energies.std(ddof=1) / math.sqrt(USUAL_SAMPLES)
    return {name: _summary(torch.cat(parts, dim=1).numpy(), energies, model.num_sites, unit) for name, parts in found.items()}


def _summary(columns: np.ndarray, energies: np.ndarray, num_sites: int, unit: float) -> Paired:
    difference, weight, squares = columns[0] / num_sites, columns[1], columns[2]
    # Weights average to zero: about its mean the energy has the least noise.
    own = difference + weight * (energies + difference - energies.mean())
    root = math.sqrt(len(energies))
    return Paired(
        *(float(difference.mean()), float(difference.std(ddof=1) / root)),
        *(float(difference.std(ddof=1)), float(np.abs(difference).max())),
        *(float(own.mean()), float(own.std(ddof=1) / root)),
        *(math.sqrt(squares.mean()), float(unit)),
    )


def consistency(model: Sampler, configs: Tensor) -> float:
    """Largest |flip_log_ratio - (log p of the flipped configuration - log p)|, of base passes in the same format."""
    with torch.no_grad():
        _, ratios = model.flip_log_ratio(configs)
        plain = model.plain_flip_log_prob(configs) - model.log_prob(configs)[:, None]
    return float((ratios - plain).abs().max())


def normalisation(run: qsr.jobs.Run, formats: tuple[str, ...] = FORMATS) -> dict[str, dict[str, float]]:
    """|log sum_n p(n)| of the run's weights on 4x4, and `consistency` on 256 samples, in float64 and each format."""
    settings = run.settings.updated({"train": {"L": 16, "curriculum": None, "dir": "<NONE>"}, "hamiltonian": {"Lx": 4, "Ly": 4}})
    model = build_model(settings).eval()
    model.load_state_dict(model.resized_weights(run.model.state_dict()))
    everything = configurations(16)
    configs, _ = model.sample(256, torch.Generator().manual_seed(0))
    rows = {}
    for name in ("float64", *formats):
        one = deepcopy(model).double() if name == "float64" else model
        with in_format(name, one):
            log_prob = torch.cat([one.log_prob(part) for part in everything.split(1 << 13)])
            rows[name] = {"norm": float(log_prob.double().logsumexp(0).abs()), "flips": consistency(one, configs)}
    return rows


# ---- trained networks ------------------------------------------------------------------------------------------------

LPTF_8 = {"patch": "4x4", "Nh": 16, "nhead": 2}
CASES = ("RNN 8x8", "PTF 8x8", "LPTF 8x8", "RNN 16x16", "PTF 16x16")


def network(case: str, folder: Path) -> qsr.jobs.Run:
    """A trained network; those on 16x16 go on from 8x8."""
    if case == "RNN 8x8":
        return opened(DEMO)
    kept = folder / case.replace(" ", "-")
    for settings in sorted(kept.rglob("settings.json")):
        return opened(settings.parent)
    train: dict[str, Any] = {"dir": str(kept), "seed": 1, "device": "cpu"}
    larger = {"train": {**train, "L": 256, "K": 128, "K_final": None, "curriculum": None}, "hamiltonian": {"Lx": 16, "Ly": 16}}
    if case == "PTF 8x8":
        qsr.train(None, {"type": "ptf"}, train, preset="fast-8x8")
    elif case == "LPTF 8x8":
        model = qsr.LPTF(**LPTF_8, subsampler=qsr.RNN(patch="2x2", Nh=16))
        qsr.train(qsr.Rydberg(Lx=8, Ly=8), model, {**train, "K": 256, "steps": 400, "lr": 0.01})
    elif case == "RNN 16x16":
        qsr.finetune(DEMO, {**larger["train"], "steps": 60, "lr": 2e-3}, larger["hamiltonian"])
    else:
        before = network("PTF 8x8", folder).path
        assert before is not None
        qsr.finetune(before, {**larger["train"], "steps": 100, "lr": 0.02}, larger["hamiltonian"])
    return network(case, folder)


def opened(path: Path) -> qsr.jobs.Run:
    """A stored run on the CPU."""
    from qsr.jobs.run import open_sampler

    return open_sampler(path, "precision", "cpu")


# ---- whole trainings -------------------------------------------------------------------------------------------------

RECIPE = {"K": 256, "K_final": 512, "curriculum": "4x4:100,6x6:80,8x8:220", "device": "cpu"}
PRECISIONS = ("float64", "float32", TF32, "bf16")


def training(precision: str, seed: int, folder: Path) -> dict[str, float]:
    """Energy per site on 8x8 after 400 steps of the recipe `fast-8x8` in a format, evaluated in float64."""
    kept = folder / f"training-{precision.split()[0]}-{seed}"
    done = sorted(kept.rglob("evaluation.txt"))
    if not done:
        name = "float32" if precision == TF32 else precision
        with emulated_tf32() if precision == TF32 else nullcontext():
            run = qsr.train(
                None, {"type": "ptf"}, {**RECIPE, "precision": name, "seed": seed, "dir": str(kept)}, preset="fast-8x8"
            )
        assert run.path is not None
        path = run.path
    else:
        path = done[0].parent
    result = qsr.evaluate(path, USUAL_SAMPLES, 512, precision="float64", seed=seed, device="cpu", write=True)
    energy = result.energy_per_site
    return {"energy": energy.mean, "error": energy.error, "variance": result.variance / result.num_sites}


def trainings(seeds: int, folder: Path) -> list[dict[str, Any]]:
    """A table of runs that differ in their number format alone."""
    table = report.Table({"training": 18, "seed": 6, "E/N": 14, "error": 10, "Var/N": 10, "minus float64": 16})
    rows = []
    for seed in range(seeds):
        exact = None
        for precision in PRECISIONS:
            found = training(precision, seed, folder)
            exact = found if exact is None else exact
            difference = found["energy"] - exact["energy"]
            rows.append({"precision": precision, "seed": seed, **found, "difference": difference})
            table.row(precision, seed, f"{found['energy']:.6f}", found["error"], found["variance"], f"{difference:+.1e}")
    reference, _ = report.reference(8)
    print(f"exact ground state (DMRG): {reference:.6f}\n")
    return rows


def on_the_same_samples(cases: tuple[str, ...], samples: int, folder: Path) -> list[dict[str, Any]]:
    """A table of each network in each format."""
    columns = {"bias": 11, "error": 10, "deviation": 11, "largest": 10, "own bias": 11, "own error": 10}
    table = report.Table({"network": 12, "format": 17, **columns, "log ratio": 11, "bias/unit": 11})
    rows = []
    for case in cases:
        run = network(case, folder)
        large = run.settings.hamiltonian.num_sites > 100
        number = max(64, samples // (4 if large else 1))
        found = paired(run.model, run.settings.hamiltonian.build(), number, 64 if large else 256)
        for name, one in found.items():
            numbers = (one.bias, one.error, one.deviation, one.largest, one.own, one.own_error, one.ratio, one.bias / one.unit)
            table.row(case, name, *numbers)
            rows.append({"network": case, "format": name, "samples": number, **vars(one)})
    print("energies per site in Omega; unit: the standard error of 4096 samples; log ratio: of log p(flipped) - log p\n")
    return rows


def norms(cases: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """A table of normalisation and of flips against base passes, of the same weights on 4x4."""
    table = report.Table({"weights of": 12, "format": 17, "|log sum p|": 13, "flips - passes": 16})
    rows = []
    for case in cases:
        for name, found in normalisation(network(case, folder)).items():
            table.row(case, name, found["norm"], found["flips"])
            rows.append({"network": case, "format": name, **found})
    print()
    return rows


def main() -> None:
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--samples", type=int, default=4096, help="of networks on 8x8; a quarter of them on 16x16 (default 4096)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each format (default 3)")
    parser.add_argument("--runs", type=Path, help="where trained networks are kept (default: nowhere)")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    print(report.header(), "\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        if options.quick:
            norms(CASES[:1], folder)
            on_the_same_samples(CASES[:1], 256, folder)
            return
        of_4x4 = tuple(case for case in CASES if "8x8" in case)
        results: dict[str, Any] = {"norms": norms(of_4x4, folder)}
        results["paired"] = on_the_same_samples(CASES, options.samples, folder)
        report.save("precision", results)
        results["trainings"] = trainings(options.seeds, folder)
        report.save("precision", results)


if __name__ == "__main__":
    main()
