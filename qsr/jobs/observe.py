"""`qsr observe`: order, correlations, entropies and fidelities of a trained sampler, each with its error bar."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from qsr.estimators import ArrayEstimate, Estimate, RunningMoments
from qsr.estimators.order import Order, OrderParameters, reciprocal_grid
from qsr.estimators.replicas import Fidelity, overlap_terms, renyi2, swap_terms
from qsr.hparams import ConfigError
from qsr.hparams.hdf5 import written_hdf5
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.observe_picture import draw_order
from qsr.jobs.run import Run, Section, batches, open_sampler, results_folder, symmetry_line
from qsr.jobs.sampling import memory_of
from qsr.lattice import Lattice
from qsr.runs import replacing
from qsr.samplers.base import Sampler, draw_samples
from qsr.training.precision import computing_in, reporting_precision
from qsr.training.random import generator_for

SCHEMA = "qsr-observables/1"
DATA_FILE, PICTURE_FILE = "observables.h5", "observables.png"
_COMPONENT = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)?(pi)?(?:/(\d+\.?\d*))?")


@dataclass(frozen=True)
class Observation:
    """What samples of a run say beside their energy. Every estimate has its standard error.

    Attributes:
        order: structure factor, correlations, Binder cumulant, domains; see `qsr.estimators.Order`.
        momenta: position in `order.momenta` of those with a name: the checkerboard's, and those that were asked for.
        purity: Tr rho_A^2 by region.
        renyi2: S_2 = -ln Tr rho_A^2 in nat by region.
        fidelity: |<psi|phi>|^2 with another run, if one was given.
        num_samples: S.
        lattice: of the run.
        problem: the Hamiltonian in one line.
        symmetry: of the sampler, and the number of images that it averages over; empty if there is none.
    """

    order: Order
    momenta: dict[str, int]
    purity: dict[str, Estimate]
    renyi2: dict[str, Estimate]
    fidelity: Estimate | None
    num_samples: int
    lattice: Lattice
    problem: str
    symmetry: str = ""

    def lines(self) -> list[str]:
        """The numbers as text, one quantity a line."""
        rows = [("problem", self.problem), *([("symmetry", self.symmetry)] if self.symmetry else [])]
        rows.append(("samples", str(self.num_samples)))
        rows += [(name, str(value)) for name, value in self.order.scalars.items()]
        if not self.lattice.has_sublattices:
            why = "none of a checkerboard: bonds of neighbours do not alternate between two sublattices; see --momentum"
            rows.append(("order parameter", why))
        for name, index in self.momenta.items():
            rows.append((f"S({name})", str(self.order.structure_factor[index])))
            rows.append((f"S({name}) connected", str(self.order.connected_structure_factor[index])))
        for region, purity in self.purity.items():
            rows.append((f"purity {region}", str(purity)))
            rows.append((f"renyi2 {region}", self._entropy(region)))
        if self.fidelity is not None:
            rows.append(("fidelity", str(self.fidelity)))
        return [f"{name:<23} {value}" for name, value in rows]

    def _entropy(self, region: str) -> str:
        purity = self.purity[region]
        if purity.mean > 3 * purity.error:
            return str(self.renyi2[region])
        bound = -math.log(max(purity.mean, 0) + 2 * purity.error)
        return f"above {bound:.2f} (more samples are needed: the purity is not resolved)"


def observe(
    run: str | Path | Run,
    num_samples: int = 4096,
    batch_size: int = 256,
    *,
    momenta: Sequence[str | tuple[float, float]] = (),
    regions: Sequence[str] = (),
    fidelity: str | Path | Run | None = None,
    hamiltonian: Section = None,
    symmetry: str | None = None,
    precision: str | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
    progress: bool = False,
) -> Observation:
    """Draw independent samples of a trained model and estimate order, correlations, entropies and a fidelity.

    Memory does not grow with the number of samples.

    Args:
        run: a run directory of qsr or of NN-QSR, or the result of a training job.
        num_samples: S, in batches of at most `batch_size`.
        momenta: wave vectors beside the lattice's own: 'pi,pi/2', or two numbers in 1/(lattice constant).
        regions: whose second Renyi entropy is wanted: 'rows:2', 'columns:1', 'sites:0,1,5'. Pairs of samples of one batch are
            swapped, at most S/2 in all.
        fidelity: another run on the same lattice, of which as many samples are drawn.
        hamiltonian: of a run over ranges, which one: {"delta": 1.3}.
        symmetry: over which p is averaged, as for `evaluate`; not that of the other run.
        precision: as for `evaluate`; also of the other run.
        seed: of the draws, independent of those of training and of `evaluate`.
        device: auto, cpu, cuda or cuda:N, for runs that are read.
        output: directory for `observables.h5` and `observables.png`; default the run's own.
        write: whether to write them.
        progress: show a tqdm bar on stderr.

    Raises:
        ConfigError: for numbers of samples, momenta or regions that make no sense, another lattice or basis, an output that
            cannot be written, and for whatever `load_model` refuses.
    """
    starts = batches(num_samples, batch_size)
    if regions and (batch_size < 2 or num_samples < 4):
        raise ConfigError(f"SAMPLES={num_samples} BATCH={batch_size}: an entropy needs at least 4 samples and 2 per batch")
    opened = open_sampler(run, "observe", device, hamiltonian, symmetry, precision)
    settings, model = opened.settings, opened.model
    lattice = settings.hamiltonian.lattice()
    named = _named_momenta(lattice, momenta)
    sites = {region: lattice.region(region) for region in regions}
    other = (
        None
        if fidelity is None
        else _comparable(open_sampler(fidelity, "observe", device, precision=precision), settings.hamiltonian)
    )
    target = results_folder(opened, output) if write else None

    keep_freed_memory()
    grid = reciprocal_grid(lattice)
    order = OrderParameters(lattice, np.concatenate([grid, *(np.array([k]) for k in named.values())]))
    swaps = {region: RunningMoments() for region in regions}
    overlap = Fidelity()
    memory = memory_of(settings)
    precision = reporting_precision(settings.train.precision)

    def drawn(index: int, size: int, memory_bytes: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Samples, the swap terms of each region, and the overlap terms at samples of both states."""
        with computing_in(precision, model, other):
            configs, _ = draw_samples(model, size, generator_for(model.device, seed, "observe", index), memory_bytes)
            first, second = configs[: size // 2], configs[size // 2 : 2 * (size // 2)]
            swapped = [swap_terms(model, first, second, sites[region], memory_bytes) for region in swaps]
            if other is None:
                return configs, swapped, []
            generator = generator_for(other.device, seed, "observe other", index)
            theirs, _ = draw_samples(other, size, generator, memory_bytes)
            both = (configs, theirs.to(model.device))
            return configs, swapped, [overlap_terms(model, other, of_one, memory_bytes) for of_one in both]

    for index, start in enumerate(tqdm(starts, unit="batch", disable=not progress)):
        configs, swapped, overlaps = memory.run(partial(drawn, index, min(batch_size, num_samples - start)))
        for moments, terms in zip(swaps.values(), swapped, strict=True):
            moments.update(terms.cpu().numpy())
        if overlaps:
            overlap.update(*overlaps)
        order.update(configs)
    result = Observation(
        order=order.results(),
        momenta={name: len(grid) + index for index, name in enumerate(named)},
        purity={region: moments.estimate() for region, moments in swaps.items()},
        renyi2={region: renyi2(moments) for region, moments in swaps.items()},
        fidelity=None if other is None else overlap.estimate(),
        num_samples=num_samples,
        lattice=lattice,
        problem=settings.hamiltonian.describe(),
        symmetry=symmetry_line(opened),
    )
    if target is not None:
        with replacing(target / DATA_FILE) as temporary:
            _write(temporary, result)
        title = f"{result.problem}\n{num_samples} samples of {opened.path or 'a run'}"
        draw_order(target / PICTURE_FILE, result.order, lattice, settings.hamiltonian.length_unit, title)
    return result


def momentum(text: str) -> tuple[float, float]:
    """A wave vector from 'pi,pi/2', '2pi/3,0' or '1.5,0.2', in 1/(lattice constant).

    Raises:
        ConfigError: for another form.
    """
    found = [_COMPONENT.fullmatch(word.strip()) for word in text.split(",")]
    if len(found) != 2 or not all(part and (part[2] or part[3]) and float(part[4] or 1) for part in found):
        raise ConfigError(f"momentum={text}: expected kx,ky such as pi,pi/2 or 1.5,0.2")
    kx, ky = (
        float(f"{part[1]}{part[2] or 1}") * (math.pi if part[3] else 1) / float(part[4] or 1)
        for part in found
        if part is not None
    )
    return kx, ky


def _named_momenta(lattice: Lattice, momenta: Sequence[str | tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The checkerboard's wave vector on a grid, and those that were asked for."""
    wanted = list(momenta)
    if lattice.coordinates is None and lattice.has_sublattices:
        wanted.insert(0, ",".join("pi" if length > 1 else "0" for length in lattice.shape))
    return {k if isinstance(k, str) else f"{k[0]:g},{k[1]:g}": momentum(k) if isinstance(k, str) else k for k in wanted}


def _comparable(other: Run, problem: Any) -> Sampler:
    lattice, theirs = problem.lattice(), other.settings.hamiltonian.lattice()
    if (theirs.shape, theirs.coordinates) != (lattice.shape, lattice.coordinates):
        found = "other positions" if theirs.shape == lattice.shape else f"{theirs.Lx}x{theirs.Ly} sites"
        raise ConfigError(f"fidelity={other.path}: expected a run on the same {lattice.Lx}x{lattice.Ly} sites, found {found}")
    bases = [section.basis for section in (problem, other.settings.hamiltonian)]
    if bases[0] != bases[1]:
        raise ConfigError(f"fidelity={other.path}: expected amplitudes in the same basis ({bases[0]}), found {bases[1]}")
    model: Sampler = other.model
    return model


def _write(path: Path, found: Observation) -> None:
    order = found.order
    arrays: dict[str, tuple[ArrayEstimate | None, str, np.ndarray | None]] = {
        "structure_factor": (order.structure_factor, "momenta", order.momenta),
        "connected_structure_factor": (order.connected_structure_factor, "momenta", order.momenta),
        "correlation": (order.correlation, "distances", order.distances),
        "connected_correlation": (order.connected_correlation, "distances", order.distances),
        "staggered_distribution": (order.staggered_distribution, "levels", order.staggered_levels),
        "domain_sizes": (order.domain_sizes, "sizes", np.arange(1, found.lattice.num_sites + 1)),
    }
    numbers = {f"scalars/{name}": value for name, value in order.scalars.items()}
    numbers |= {f"purity/{region}": value for region, value in found.purity.items()}
    numbers |= {f"renyi2/{region}": value for region, value in found.renyi2.items()}
    numbers |= {} if found.fidelity is None else {"fidelity": found.fidelity}
    with written_hdf5(path) as file:
        file.attrs.update({"schema": SCHEMA, "problem": found.problem, "num_samples": found.num_samples})
        file.attrs.update({"Lx": found.lattice.Lx, "Ly": found.lattice.Ly, "boundary": found.lattice.boundary})
        file["positions"] = found.lattice.positions
        for name, number in numbers.items():
            file[f"{name}/mean"], file[f"{name}/error"] = number.mean, number.error
        for name, (values, axis, ticks) in arrays.items():
            if values is not None:
                file[f"{name}/{axis}"], file[f"{name}/mean"], file[f"{name}/error"] = ticks, values.mean, values.error
