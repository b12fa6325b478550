"""`qsr plot`: a run as one picture - energy with references, variance, densities, snapshots, correlations, structure factor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.estimators.order import OrderParameters
from qsr.hparams import ConfigError
from qsr.jobs import drawing
from qsr.jobs.drawing import COLOURS, bound_view, check_picture, in_symbols, plain, sheet, write_picture
from qsr.jobs.exact import EXACT, references
from qsr.jobs.points import suggested_scan
from qsr.jobs.run import Run, open_any_sampler, path_of
from qsr.runs import RunDirectory, read_run
from qsr.runs.directory import SETTINGS_FILE, read_tree
from qsr.samplers.base import draw_samples
from qsr.training.random import generator_for

PICTURE_FILE = "plot.png"
DRAWN_SAMPLES = 1024
MOST_PANELS = 100
ORDER_SITES = 1024  # the covariances behind the errors take 50 MB there, and grow with the square


def plot(run: str | Path | Run, output: str | Path | None = None) -> Path:
    """Draw a run; the PNG is `plot.png` in the run's directory unless `output` says otherwise.

    Of a sampler: energies of training beside the best product states and, up to 16 sites, the exact energy; variances; and of
    fresh samples the densities where the sites are, the first snapshots, connected correlations and structure factor (these up
    to 1024 sites). Of a sampler over ranges: mean energies of training and their variance. Of a model on data: its metrics
    against epochs.

    Raises:
        ConfigError: for a directory that is not a run, or an output that cannot be written.
    """
    path = path_of(run)
    if not path.is_dir():
        read_run(path)  # says so
    target = Path(output) if output is not None else path / PICTURE_FILE
    check_picture(target)
    if (path / SETTINGS_FILE).is_file() and read_tree(path / SETTINGS_FILE).get("objective") == {"name": "supervised"}:
        figure = _epochs(RunDirectory(path))  # needs no class of the user's own
    else:
        opened = open_any_sampler(run, "plot", "cpu")
        figure = (_ranges if opened.settings.hamiltonian.ranges else _sampler)(opened, RunDirectory(path))
    write_picture(figure, target)
    return target


def _sampler(run: Run, directory: RunDirectory) -> Any:
    section = run.settings.hamiltonian
    lattice, unit = section.lattice(), section.length_unit
    generator = generator_for(run.model.device, 0, "plot")
    configs, _ = draw_samples(run.model, DRAWN_SAMPLES, generator, run.settings.train.memory_MiB * 2**20)
    snapshots = configs.cpu().numpy()

    figure = sheet(10, 11)
    axes = figure.subplots(3, 2)
    history = directory.history.read("steps")
    if "nll" in history:
        _draw_likelihood(axes[0], history, directory.history.read("epochs"))
    else:
        _draw_training(axes[0], history, section.num_sites, references(section.build()), section.energy_unit)
    drawing.draw_densities(figure, axes[1, 0], lattice, snapshots, unit)
    drawing.draw_snapshots(axes[1, 1], lattice, snapshots)
    axes[1, 1].set_title(f"{min(drawing.DRAWN_SNAPSHOTS, DRAWN_SAMPLES)} of {DRAWN_SAMPLES} samples; filled: excited")
    if lattice.num_sites <= ORDER_SITES:
        order = OrderParameters(lattice)
        order.update(configs)
        found = order.results()
        drawing.draw_correlation(axes[2, 0], found, unit)
        drawing.draw_structure_factor(figure, axes[2, 1], found, lattice, unit)
    else:
        for axis in axes[2]:
            axis.text(0.5, 0.5, f"more than {ORDER_SITES} sites: see qsr observe", ha="center", transform=axis.transAxes)
            axis.set_axis_off()
    figure.suptitle(plain(f"{section.describe()}\n{run.settings.model.section}, {directory.path}"), fontsize=10)
    return figure


def _ranges(run: Run, directory: RunDirectory) -> Any:
    section = run.settings.hamiltonian
    figure = sheet(10, 4)
    _draw_training(figure.subplots(1, 2), directory.history.read("steps"), section.num_sites, {}, section.energy_unit)
    scanned = suggested_scan(run.settings, directory.path)
    figure.suptitle(plain(f"{section.describe()}: mean over the ranges\n{scanned} draws the diagram"), fontsize=10)
    return figure


def _draw_training(
    axes: Any, history: dict[str, NDArray[np.float64]], num_sites: int, known: dict[str, float], unit: str
) -> None:
    energy_axis, variance_axis = axes
    if "energy" in history:
        steps = history["step"]
        sites = history.get("sites", num_sites)  # one number a step: a curriculum has several lattices
        energy = history["energy"] / sites
        error = history["energy_error"] / sites
        energy_axis.plot(steps, energy, lw=0.8, color=COLOURS[0], label="training")
        energy_axis.fill_between(steps, energy - error, energy + error, color=COLOURS[0], alpha=0.3, lw=0)
        # The first steps are far above everything of interest.
        finite = energy[np.isfinite(energy)]
        lowest = min([*finite, *known.values()], default=0.0)
        highest = max([*([np.quantile(finite, 0.7)] if len(finite) else []), *known.values()], default=0.0)
        margin = 0.15 * max(highest - lowest, 1e-3)
        bound_view(energy_axis, lowest - margin, highest + 2.5 * margin)  # the legend has room
        variance_axis.plot(steps, history["variance"] / sites, lw=0.8, color=COLOURS[0])
        variance_axis.set_yscale("log", nonpositive="mask")  # with sampled flips an estimate may fall below zero
    elif "kl" in history:
        energy_axis.semilogy(history["step"], np.maximum(history["kl"], 1e-8), lw=0.8, color=COLOURS[0])
        variance_axis.semilogy(history["step"], np.maximum(history["kl_variance"], 1e-12), lw=0.8, color=COLOURS[0])
    else:
        for axis in axes:
            axis.text(0.5, 0.5, "no training history", ha="center", transform=axis.transAxes)
        variance_axis.set(xticks=[], yticks=[])
    if "kl" not in history:
        styles = {EXACT: ("black", "-")}
        for index, (name, value) in enumerate(known.items(), start=1):
            colour, style = styles.get(name, (COLOURS[index], ("--", ":", "-.")[index % 3]))
            energy_axis.axhline(value, color=colour, ls=style, lw=1.2, label=f"{name}: {value:.5f}")
    energy_axis.set(
        xlabel="step", ylabel="KL(teacher || model) (nat)" if "kl" in history else f"energy per site ({in_symbols(unit)})"
    )
    if energy_axis.get_legend_handles_labels()[0]:
        energy_axis.legend(fontsize=8, loc="upper right")  # training comes down on the left
    label = r"variance of $\log p$ (nat$^2$)" if "kl" in history else rf"Var $E_\mathrm{{loc}}$ / N ({_squared(unit)})"
    variance_axis.set(xlabel="step", ylabel=label)


def _squared(unit: str) -> str:
    return unit if unit == "1" else "/".join(f"{part}$^2$" for part in in_symbols(unit).split("/"))


def _draw_likelihood(axes: Any, history: dict[str, NDArray[np.float64]], epochs: dict[str, NDArray[np.float64]]) -> None:
    """-log p of snapshots, and the norm of its gradient."""
    axes[0].plot(history["step"], history["nll"], lw=0.8, color=COLOURS[0], label="training")
    if "validation_loss" in epochs:
        axes[0].plot(epochs["step"], epochs["validation_loss"], lw=1.2, color=COLOURS[1], label="held back")
    finite = history["nll"][np.isfinite(history["nll"])]
    if len(finite):
        axes[0].set_ylim(top=np.quantile(finite, 0.95))
    axes[0].set(xlabel="step", ylabel="-log p of a snapshot (nat)")
    axes[0].legend(fontsize=8)
    axes[1].semilogy(history["step"], history["gradient_norm"], lw=0.8, color=COLOURS[0])
    axes[1].set(xlabel="step", ylabel="norm of the gradient")


def _epochs(run: RunDirectory) -> Any:
    """The metrics of a model on data against epochs, training and validation side by side."""
    epochs = run.history.read("epochs")
    names = list(dict.fromkeys(name.partition("_")[2] for name in epochs if "_" in name))
    if not names:
        raise ConfigError(f"{run.path}: no epoch is finished yet; nothing to draw")
    if len(names) > MOST_PANELS:
        raise ConfigError(f"{run.path}: has {len(names)} metrics; at most {MOST_PANELS} are drawn")
    figure, grid = drawing.panels(len(names), 4, 4.5, 3.4)
    for axes, name in zip(grid, names, strict=True):
        for part, colour in (("training", COLOURS[0]), ("validation", COLOURS[1])):
            if f"{part}_{name}" in epochs:
                axes.plot(epochs["epoch"], epochs[f"{part}_{name}"], color=colour, label=part)
        axes.set_xlabel("epoch")
        axes.set_ylabel(plain(name))
        axes.legend()
    figure.suptitle(plain(str(run.path)), fontsize=10)
    return figure
