"""`qsr plot`: a run as one picture - energy with reference lines, variance, site densities, correlations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hamiltonians import ground_state
from qsr.hparams import ConfigError
from qsr.jobs.exact import product_baselines
from qsr.jobs.points import refuse_ranges
from qsr.jobs.run import Run, path_of
from qsr.runs import RunDirectory, read_run, replacing, restore_model
from qsr.runs.directory import SETTINGS_FILE, read_tree
from qsr.training.random import generator_for

EXACT_SITES = 16  # seconds of diagonalisation
DRAWN_SAMPLES = 1024


def plot(run: str | Path | Run, output: str | Path | None = None) -> Path:
    """Draw a run; the PNG is `plot.png` in the run's directory unless `output` says otherwise.

    Densities and correlations are those of fresh samples.

    Raises:
        ConfigError: for a directory that is not a run, or an output that cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, and the caller's backend stays

    path = path_of(run)
    if not path.is_dir():
        read_run(path)  # says so
    target = Path(output) if output is not None else path / "plot.png"
    if not target.parent.is_dir() or target.is_dir():
        raise ConfigError(f"{target}: cannot be written; expected a file in an existing directory")
    if (path / SETTINGS_FILE).is_file() and read_tree(path / SETTINGS_FILE).get("objective") == {"name": "supervised"}:
        return _plot_epochs(RunDirectory(path), target)  # needs no class of the user's own
    stored = read_run(path)
    refuse_ranges(stored.settings, "plot", f"qsr scan {path} draws the whole diagram")
    lattice = stored.settings.hamiltonian.lattice()
    problem = stored.settings.hamiltonian.build()
    model = restore_model(stored)
    configs = model.sample(DRAWN_SAMPLES, generator_for(model.device, 0, "plot"))[0].cpu().numpy()

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    history = RunDirectory(stored.path).history.read("steps")
    if "nll" in history:
        _draw_likelihood(axes[0], history, RunDirectory(stored.path).history.read("epochs"))
    else:
        _draw_training(axes[0], history, problem, stored.settings.hamiltonian.energy_unit)
    densities = configs.mean(axis=0)
    _draw_sites(figure, axes[1, 0], lattice, densities, "density <n_i>")
    _draw_correlations(axes[1, 1], lattice, configs, stored.settings.hamiltonian.length_unit)
    figure.suptitle(f"{stored.settings.hamiltonian.describe()}\n{stored.settings.model.section}, {stored.path}", fontsize=10)
    try:
        with replacing(target) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    except OSError as error:
        raise ConfigError(f"{target}: cannot write the picture there ({error.strerror}); choose another --output") from None
    return target


def _references(problem: Any) -> dict[str, float]:
    """Energies per site to compare with: exact where that takes seconds, and product states."""
    lines = {name: energy / problem.num_sites for name, energy in product_baselines(problem).items()}
    if problem.num_sites <= EXACT_SITES:
        lines["exact"] = ground_state(problem).energy / problem.num_sites
    return lines


def _draw_training(axes: Any, history: dict[str, NDArray[np.float64]], problem: Any, unit: str) -> None:
    energy_axis, variance_axis = axes
    num_sites, references = problem.num_sites, _references(problem)
    if "energy" in history:
        steps = history["step"]
        num_sites = history.get("sites", num_sites)  # one number a step: a curriculum has several lattices
        energy = history["energy"] / num_sites
        error = history["energy_error"] / num_sites
        energy_axis.plot(steps, energy, lw=0.8, color="C0", label="training")
        energy_axis.fill_between(steps, energy - error, energy + error, color="C0", alpha=0.3, lw=0)
        # The first steps are far above everything of interest.
        lowest = min([np.nanmin(energy), *references.values()])
        highest = max([np.nanquantile(energy, 0.7), *references.values()])
        margin = 0.15 * max(highest - lowest, 1e-3)
        energy_axis.set_ylim(lowest - margin, highest + margin)
        variance_axis.semilogy(steps, history["variance"] / num_sites, lw=0.8)
    elif "kl" in history:
        energy_axis.semilogy(history["step"], np.maximum(history["kl"], 1e-8), lw=0.8, label="KL(teacher || model)")
        variance_axis.semilogy(history["step"], np.maximum(history["kl_variance"], 1e-12), lw=0.8)
    else:
        energy_axis.text(0.5, 0.5, "no training history", ha="center", transform=energy_axis.transAxes)
    if "kl" not in history:
        for index, (name, value) in enumerate(references.items()):
            energy_axis.axhline(value, color=f"C{index + 1}", ls="--", lw=1, label=f"{name}: {value:.5f}")
    energy_axis.set(xlabel="step", ylabel="KL (nat)" if "kl" in history else f"energy per site ({unit})")
    if energy_axis.get_legend_handles_labels()[0]:
        energy_axis.legend(fontsize=8)
    variance_axis.set(xlabel="step", ylabel="variance of log p (nat^2)" if "kl" in history else f"Var E_loc / N ({unit}^2)")


def _draw_likelihood(axes: Any, history: dict[str, NDArray[np.float64]], epochs: dict[str, NDArray[np.float64]]) -> None:
    """-log p of snapshots, and the norm of its gradient."""
    axes[0].plot(history["step"], history["nll"], lw=0.8, label="training")
    if "validation_loss" in epochs:
        axes[0].plot(epochs["step"], epochs["validation_loss"], lw=1.2, label="held back")
    axes[0].set_ylim(top=np.nanquantile(history["nll"], 0.95))
    axes[0].set(xlabel="step", ylabel="-log p of a snapshot (nat)")
    axes[0].legend(fontsize=8)
    axes[1].semilogy(history["step"], history["gradient_norm"], lw=0.8)
    axes[1].set(xlabel="step", ylabel="norm of the gradient")


def _draw_sites(figure: Any, axis: Any, lattice: Any, values: NDArray[np.float64], title: str) -> None:
    if lattice.coordinates is None:
        drawn = axis.imshow(values.reshape(lattice.shape), cmap="viridis", vmin=0, vmax=max(values.max(), 1e-9))
        axis.set(xlabel="y", ylabel="x")
        axis.locator_params(integer=True)
    else:
        drawn = axis.scatter(*lattice.positions.T, c=values, cmap="viridis", vmin=0)
        axis.set(xlabel="x", ylabel="y", aspect="equal")
    figure.colorbar(drawn, ax=axis)
    axis.set_title(title)


def _draw_correlations(axis: Any, lattice: Any, configs: NDArray[np.uint8], unit: str) -> None:
    """Connected density correlation against distance, averaged over pairs at equal distance."""
    n = configs.astype(float)
    covariance = np.atleast_2d(np.cov(n.T, ddof=1))
    distances, group = lattice.distance_groups()
    pairs = group >= 0
    mean = np.bincount(group[pairs], covariance[pairs]) / np.bincount(group[pairs])
    axis.plot(distances, mean, "o-" if lattice.coordinates is None else "o", ms=3, lw=0.8)
    axis.axhline(0, color="0.7", lw=0.8)
    axis.set(xlabel=f"distance ({unit})", title="correlation <n_i n_j> - <n_i><n_j>")


def _plot_epochs(run: RunDirectory, target: Path) -> Path:
    """The metrics of a model on data against epochs, training and validation side by side."""
    from matplotlib.figure import Figure

    epochs = run.history.read("epochs")
    names = list(dict.fromkeys(name.partition("_")[2] for name in epochs if "_" in name))
    if not names:
        raise ConfigError(f"{run.path}: no epoch is finished yet; nothing to draw")
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        for part in ("training", "validation"):
            if f"{part}_{name}" in epochs:
                axes.plot(epochs["epoch"], epochs[f"{part}_{name}"], label=part)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.legend()
    figure.suptitle(str(run.path), fontsize=10)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return target
