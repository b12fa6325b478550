"""`qsr snapshots make`: labelled snapshots of exact ground states and of trained samplers, as a detector would read them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator

from qsr.estimators import sample_observables
from qsr.estimators.posterior import best_accuracy, read_probabilities
from qsr.hamiltonians import exact_observables, ground_state
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError, Hparam, Hparams, nearest
from qsr.hparams.run import sized_hamiltonian
from qsr.hparams.types import dump_typed
from qsr.jobs.points import refuse_ranges
from qsr.jobs.reports import aligned
from qsr.jobs.run import Run, Section, check_writable, path_of, refuse_on_data
from qsr.lattice import Lattice
from qsr.runs import read_run, replacing, restore_model
from qsr.samplers.base import draw_samples
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training.device import find_device
from qsr.training.random import derived_seed, generator_for

_RULE = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
BY_STATE = "state"


class Shots(Hparams):
    """How snapshots are drawn, read out and labelled."""

    section: ClassVar[str] = "snapshots"

    shots: int = Hparam(1000, ge=1, help="snapshots of each state")
    labels: str | None = Hparam(
        None,
        help="'delta>1.75': 1 where this holds of a state, else 0, for a parameter or an observable such as staggered_abs; "
        "'state': the number of the state; None: no labels",
    )
    e10: float = Hparam(0.0, ge=0, le=1, help="P(0|1), how often an excited site is read as ground")
    e01: float = Hparam(0.0, ge=0, le=1, help="P(1|0), how often a ground-state site is read as excited")
    seed: int = Hparam(0, ge=0, help="of the draws and of the readout")

    @field_validator("labels")
    @classmethod
    def _is_a_rule(cls, value: str | None) -> str | None:
        if value not in (None, BY_STATE):
            parsed_rule(value)
        return value


@dataclass(frozen=True, eq=False)
class _State:
    """One state, with its first snapshots before they are read out.

    Attributes:
        problem: settings of its Hamiltonian.
        configs: (shots, N) uint8.
        probs: (2^N,) exact probabilities; None of a trained sampler.
        observables: means in the state; of a sampler those of `configs`.
    """

    problem: Any
    configs: NDArray[np.uint8]
    probs: NDArray[np.float64] | None
    observables: dict[str, float]


@dataclass(frozen=True, eq=False)
class SnapshotReport:
    """Snapshots of several states.

    Attributes:
        snapshots: in the order of the states, with `state_id`, `labels` where there is a rule, and the parameters.
        rows: what there is to say of each state.
        best_accuracy: of any guess of the label from one snapshot; None without labels, or if a state is not known exactly.
    """

    snapshots: Snapshots
    rows: list[dict[str, float]]
    best_accuracy: float | None

    def lines(self) -> list[str]:
        """A table of the states for the terminal, and the best accuracy."""
        lines = aligned([list(self.rows[0]), *([f"{value:.6g}" for value in row.values()] for row in self.rows)], right=True)
        if self.best_accuracy is not None:
            lines.append(f"best possible accuracy of a label from one snapshot: {self.best_accuracy:.4f}")
        return lines


def make_snapshots(
    states: Sequence[Section | str | Path | Run],
    file: str | Path | None = None,
    *,
    device: str = "auto",
    memory_MiB: int = 1024,
    **settings: Any,
) -> SnapshotReport:
    """Draw snapshots of ground states: exact ones (at most 20 sites), or those that samplers were trained to.

    A state has the same snapshots whatever comes after it in the list.

    Args:
        states: Hamiltonians as `Hparams` objects or mappings with their `type`, whose ground states are found exactly; and
            directories of runs of samplers, or such runs.
        file: where to write them (schema `qsr-snapshots/1`).
        device: where trained samplers draw.
        memory_MiB: that they may take.
        **settings: of `Shots`.

    Raises:
        ConfigError: for settings that `Shots` refuses, states on different lattices, a rule that none of them fulfils, or all.
    """
    shots = Shots(**settings)
    if not states:
        raise ConfigError("snapshots: no state; give a problem such as --rydberg Lx=4 Ly=4 delta=0:3:0.25, or runs")
    if file is not None:
        if Path(file).is_dir():
            raise ConfigError(f"{file}: a directory, expected the name of a file")
        check_writable(Path(file).resolve().parent, "FILE")
    drawn: list[_State] = []
    for number, state in enumerate(states):
        if isinstance(state, (Hparams, Mapping)):
            drawn.append(_exact(sized_hamiltonian(state), shots, number))
        else:
            drawn.append(_of_run(state, shots, number, device, memory_MiB * 2**20))
        _check_same_lattice(drawn[0].problem.lattice(), drawn[-1].problem.lattice())
    labels = state_labels(shots.labels, [{**state.observables, **parameters(state.problem)} for state in drawn])
    report = _report(drawn, labels, shots)
    if file is not None:
        with replacing(file) as temporary:
            write_snapshots(temporary, report.snapshots)
    return report


def parameters(problem: Hparams) -> dict[str, float]:
    """The numbers of a Hamiltonian: delta, Omega, V, ..."""
    return {name: value for name, value in problem.items() if isinstance(value, float)}


def parsed_rule(rule: str) -> tuple[str, Callable[[float, float], bool], float]:
    """The quantity, the comparison and the bound of `delta>1.75`.

    Raises:
        ConfigError: for anything else.
    """
    found = _RULE.fullmatch(rule)
    try:
        if found is not None:
            return found[1], _COMPARISONS[found[2]], float(found[3])
    except ValueError:
        pass
    raise ConfigError(f"snapshots.labels={rule}: must be '{BY_STATE}', or a quantity and a bound such as 'delta>1.75'")


def state_labels(rule: str | None, known: Sequence[Mapping[str, float]]) -> NDArray[np.int64] | None:
    """(K,) the label of each state, by what is known of it; None without a rule.

    Raises:
        ConfigError: for a quantity that not all states have, and for one label for all.
    """
    if rule is None:
        return None
    if rule == BY_STATE:
        labels = np.arange(len(known))
    else:
        name, holds, bound = parsed_rule(rule)
        lacking = [number for number, values in enumerate(known) if name not in values]
        if lacking:
            where = "there is" if len(lacking) == len(known) else f"state {lacking[0]} has"
            raise ConfigError(f"snapshots.labels={rule}: {where} no quantity '{name}'{nearest(name, known[lacking[0]])}")
        labels = np.array([int(holds(values[name], bound)) for values in known], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        raise ConfigError(f"snapshots.labels={rule}: all states have the label {labels[0]}; there is nothing to tell apart")
    return labels


def _exact(problem: Any, shots: Shots, number: int) -> _State:
    result = ground_state(problem.build(), num_levels=1)
    probs = np.abs(result.amplitudes) ** 2
    probs /= probs.sum()
    generator = np.random.default_rng(derived_seed(shots.seed, "snapshots", number))
    index = generator.choice(len(probs), size=shots.shots, p=probs)
    configs = configurations(problem.num_sites)[torch.from_numpy(index)].numpy()
    observables = exact_observables(result, problem.lattice())
    return _State(problem, configs, probs, {name: mean for name, mean in observables.items() if isinstance(mean, float)})


def _of_run(run: str | Path | Run, shots: Shots, number: int, device: str, memory_bytes: int) -> _State:
    if isinstance(run, Run):
        settings, model = run.settings, run.model
        refuse_on_data(settings, "snapshots")
    else:
        stored = read_run(path_of(run))
        refuse_on_data(stored.settings, "snapshots")
        settings, model = stored.settings, restore_model(stored, find_device(device, "device"))
    refuse_ranges(settings, "snapshots make", "qsr load RUN with a point writes samples of it")
    generator = generator_for(model.device, shots.seed, "snapshots", number)
    configs, _ = draw_samples(model, shots.shots, generator, memory_bytes)
    means = {name: values.mean(dim=0) for name, values in sample_observables(configs, settings.hamiltonian.lattice()).items()}
    observables = {name: float(mean) for name, mean in means.items() if not mean.dim()}
    return _State(settings.hamiltonian, configs.cpu().numpy(), None, observables)


def _check_same_lattice(first: Lattice, other: Lattice) -> None:
    if first != other:
        sizes = [f"{lattice.Lx}x{lattice.Ly} {lattice.boundary}" for lattice in (first, other)]
        raise ConfigError(f"snapshots: all states must have one lattice, found {sizes[0]} and {sizes[1]}")


def _read_out(configs: NDArray[np.uint8], shots: Shots, number: int) -> NDArray[np.uint8]:
    """Configurations (S, N) as a detector with errors sees them."""
    if not (shots.e10 or shots.e01):
        return configs
    chance = np.random.default_rng(derived_seed(shots.seed, "readout", number)).random(configs.shape)
    return configs ^ (chance < np.where(configs == 1, shots.e10, shots.e01)).astype(np.uint8)


def _report(drawn: Sequence[_State], labels: NDArray[np.int64] | None, shots: Shots) -> SnapshotReport:
    lattice = drawn[0].problem.lattice()
    known = [parameters(state.problem) for state in drawn]
    shared = [name for name in dict.fromkeys(name for numbers in known for name in numbers) if all(name in k for k in known)]
    dumped = [dump_typed(state.problem) for state in drawn]
    columns = {"state_id": np.arange(len(drawn))} | ({} if labels is None else {"labels": labels})
    attributes = {
        **lattice.attributes,
        # What differs from state to state is in the params.
        "hamiltonian": {name: value for name, value in dumped[0].items() if all(value == d.get(name) for d in dumped)},
        **{name: value for name, value in shots.items() if value is not None and name != "labels"},
        **({} if shots.labels is None else {"label_rule": shots.labels}),
    }
    snapshots = Snapshots(
        np.concatenate([_read_out(state.configs, shots, number) for number, state in enumerate(drawn)]),
        lattice.positions,
        {name: np.repeat(values, shots.shots) for name, values in columns.items()},
        {name: np.repeat([numbers[name] for numbers in known], shots.shots) for name in shared},
        attributes,
    )
    varying = [name for name in shared if len({numbers[name] for numbers in known}) > 1]
    shown = [name for name in ("density_mean", "staggered_abs") if all(name in state.observables for state in drawn)]
    rows = [
        {
            **{name: float(values[number]) for name, values in columns.items()},
            **{name: known[number][name] for name in varying},
            **{name: state.observables[name] for name in shown},
        }
        for number, state in enumerate(drawn)
    ]
    exact = [state.probs for state in drawn if state.probs is not None]
    best = None
    if labels is not None and len(exact) == len(drawn):
        best = best_accuracy(read_probabilities(np.stack(exact), shots.e10, shots.e01), labels)
    return SnapshotReport(snapshots, rows, best)
