"""A training step of a Hilbert-space model against the plain way to write it, in the same run.

plain      all B*K matrices (A_k - x_k)^2 at once, and torch's own derivative of the eigenvectors
expanded   H = 1/2 sum_k A_k^2 - sum_k x_k A_k, and torch's own derivative
qsr        the same H, and the derivative of the ground state alone

A step is the mean squared error of the predictions of a batch and its gradient with respect to every operator. Seconds are
medians of rounds in which the three take turns; the peak is what a process of its own held at most above what it held before
the step; the error is that of the gradient against the plain way in float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
# points, features, dimension; the first is the document's example
CASES = [(64, 77, 32), (64, 77, 16), (256, 30, 8), (64, 10, 64), (32, 10, 128)]
WAYS = ["plain", "expanded", "qsr"]


def problem(case: tuple[int, int, int], is_complex: bool, wide: bool) -> tuple[Any, ...]:
    """Features, targets, and the parameters of the operators, from fixed seeds."""
    import torch

    from qsr.hsm.operators import random_parameters

    torch.manual_seed(0)
    points, features, dimension = case
    dtype = torch.float64 if wide else torch.float32
    x, y = torch.randn(points, features).to(dtype), torch.randn(points, 1).to(dtype)
    pairs = [random_parameters(count, dimension, is_complex, 0.5) for count in (features, 1)]
    return x, y, [part.to(dtype).requires_grad_() for pair in pairs for part in pair]


def step_of(way: str, x: Any, y: Any, parameters: list[Any]) -> Callable[[], Any]:
    """A function that computes the loss and puts its gradient into the parameters."""
    import torch

    from qsr.hsm.operators import error_hamiltonian, hermitian
    from qsr.hsm.states import states_of

    def predictions() -> Any:
        inputs, outputs = hermitian(*parameters[:2]), hermitian(*parameters[2:])
        if way == "qsr":
            return states_of(error_hamiltonian(inputs, x), outputs).expectations
        if way == "expanded":
            hamiltonian = error_hamiltonian(inputs, x)
        else:
            identity = torch.eye(inputs.shape[-1], dtype=inputs.dtype)
            shifted = inputs[None] - x[:, :, None, None] * identity
            hamiltonian = 0.5 * (shifted @ shifted).sum(dim=1)
        psi = torch.linalg.eigh(hamiltonian)[1][..., 0]
        return torch.einsum("bi,tij,bj->bt", psi.conj(), outputs, psi).real

    def step() -> Any:
        for parameter in parameters:
            parameter.grad = None
        loss = (predictions() - y).square().mean()
        loss.backward()
        return loss.detach()

    return step


def gradient(parameters: list[Any]) -> Any:
    """All gradients as one vector in float64."""
    import torch

    return torch.cat([parameter.grad.double().flatten() for parameter in parameters])


def seconds(case: tuple[int, int, int], is_complex: bool, rounds: int) -> dict[str, list[float]]:
    """Of each way, in turns."""
    steps = {way: step_of(way, *problem(case, is_complex, wide=False)) for way in WAYS}
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:  # the first one warms up
                found[way].append(time.perf_counter() - began)
    return found


def errors(case: tuple[int, int, int], is_complex: bool) -> dict[str, float]:
    """Relative errors of the gradients of each way in float32."""
    x, y, parameters = problem(case, is_complex, wide=True)
    step_of("plain", x, y, parameters)()
    exact = gradient(parameters)
    found = {}
    for way in WAYS:
        x, y, parameters = problem(case, is_complex, wide=False)
        step_of(way, x, y, parameters)()
        found[way] = float((gradient(parameters) - exact).norm() / exact.norm())
    return found


def high_water() -> float:
    """Most MiB that this process has held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def one_peak(case: tuple[int, int, int], is_complex: bool, way: str) -> float:
    """In a process of its own: MiB above rest at the peak of one step."""
    import torch

    torch.set_num_threads(1)
    torch.linalg.eigh(torch.eye(2, dtype=torch.complex64))  # the library is loaded when it is first used
    step = step_of(way, *problem(case, is_complex, wide=False))
    before = high_water()
    step()
    return high_water() - before


def peak(case: tuple[int, int, int], is_complex: bool, way: str) -> float:
    """`one_peak` of a new process."""
    words = [sys.executable, __file__, "--peak", json.dumps([case, is_complex, way])]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each way")
    parser.add_argument("--quick", action="store_true", help="the document's example only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        case, is_complex, way = json.loads(arguments.peak)
        print(one_peak(tuple(case), is_complex, way))
        return
    import torch

    from qsr.jobs.allocator import keep_freed_memory

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as every training does
    rows = []
    print(f"{'B':>4} {'K':>4} {'d':>4} {'':8} {'way':9} {'ms':>8} {'IQR':>7} {'plain/way':>9} {'peak MiB':>9} {'error':>8}")
    for case in CASES[:1] if arguments.quick else CASES:
        for is_complex in (True, False):
            times, wrong = seconds(case, is_complex, arguments.rounds), errors(case, is_complex)
            plain = statistics.median(times["plain"])
            for way in WAYS:
                middle = statistics.median(times[way])
                low, _, high = statistics.quantiles(times[way], n=4)
                held = peak(case, is_complex, way)
                kind = "complex" if is_complex else "real"
                sizes = " ".join(f"{size:>4}" for size in case)
                print(
                    f"{sizes} {kind:8} {way:9} {1e3 * middle:8.2f} {1e3 * (high - low):7.2f} {plain / middle:8.1f}x "
                    f"{held:9.1f} {wrong[way]:8.1e}"
                )
                rows.append({"case": case, "kind": kind, "way": way, "ms": 1e3 * middle, "ratio": plain / middle, "peak": held})
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
