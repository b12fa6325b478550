"""One picture, results/bench.png, of whatever results there are in results/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Panel = Callable[[Axes, dict[str, Any]], None]
PARTS = ("sample", "flips", "kernel", "solve", "rest")
COLUMNS = 3


def engine(axes: Axes, results: dict[str, Any]) -> None:
    rows = results["rows"][::-1]
    for offset, what in ((0.2, "flips"), (-0.2, "sampling")):
        axes.barh([i + offset for i in range(len(rows))], [row[f"{what}_ratio"] for row in rows], height=0.38, label=what)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(title="times faster than the original's algorithm", xlabel="ratio of seconds")
    axes.legend()


def steps(axes: Axes, results: dict[str, Any]) -> None:
    rows = results["rows"][::-1]
    left = [0.0] * len(rows)
    for part in PARTS:
        share = [100 * row["seconds"].get(part, 0.0) / row["seconds"]["step"] for row in rows]
        axes.barh(range(len(rows)), share, left=left, label=part)
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.tick_params(axis="y", labelsize=7)
    axes.set(title="where the time of a step goes", xlabel="% of the step", xlim=(0, 125))
    axes.legend(loc="center right")


def windows(axes: Axes, results: dict[str, Any]) -> None:
    found = results["study"]
    for color, window in enumerate(dict.fromkeys(row["window"] for row in found["rows"])):
        for weights, style in (("plain", "o:"), ("learned", "^-")):
            rows = [row for row in found["rows"] if (row["window"], row["weights"]) == (window, weights)]
            label = f"window {window}" if weights == "learned" else None
            axes.plot([row["tokens"] for row in rows], [row["added"] for row in rows], style, color=f"C{color}", label=label)
    axes.axhline(found["exact"]["variance"], color="grey", linewidth=1)
    axes.axvline(found["exact"]["tokens"], color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="token-forwards a sample", ylabel="added Var/N")
    axes.set_title("drawn flips, M = 1, 2, 4; dotted: without learned weights; grey: exact flips", fontsize=9)
    axes.legend(fontsize=7)


def sampled_steps(axes: Axes, results: dict[str, Any]) -> None:
    rows = results["steps"][::-1]
    axes.barh([i + 0.2 for i in range(len(rows))], [row["faster"] for row in rows], height=0.38, label="times faster")
    gains = [1 / row["product"] if row["product"] else 0 for row in rows]
    axes.barh([i - 0.2 for i in range(len(rows))], gains, height=0.38, label="less error$^2$ x seconds")
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row['model']}: {row['window']}" for row in rows], fontsize=7)
    axes.set(title="a 16x16 step with drawn flips, against exact ones", xlabel="ratio")
    axes.legend()


def training(axes: Axes, results: dict[str, Any]) -> None:
    for size in sorted({row["size"] for row in results["rows"]}):
        for seed in sorted({row["seed"] for row in results["rows"]}):
            rows = [row for row in results["rows"] if (row["size"], row["seed"]) == (size, seed)]
            for flips, style in (("auto", "-"), ("exact", "--")):
                products = [row[f"{flips}_product"] for row in rows]
                axes.plot([row["seconds"] for row in rows], products, style, label=f"{size}x{size} {flips}, seed {seed}")
    axes.set(xscale="log", yscale="log", xlabel="training seconds", ylabel="error$^2$ x seconds")
    axes.set_title(f"training with flips=auto and exact, {results['optimizer']}")
    axes.legend(fontsize=7)


def scaling(axes: Axes, results: dict[str, Any]) -> None:
    other = axes.twinx()
    for kind in dict.fromkeys(row["kind"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["kind"] == kind]
        sites = [row["size"] ** 2 for row in rows]
        power = results["exponents"][kind]["tokens"]
        (line,) = axes.plot(sites, [row["tokens"] for row in rows], "o-", label=f"{kind}: N^{power:.2f}")
        other.plot(sites, [row["seconds"] for row in rows], "x:", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="sites N", ylabel="token-forwards a sample (full)")
    other.set(yscale="log", ylabel="seconds a sample (dotted)")
    axes.set_title("cost of a training step")
    axes.legend()


def accuracy(axes: Axes, results: dict[str, Any]) -> None:
    reference = abs(results["reference"])
    size = f"{results['size']}x{results['size']}, {results['device']}"
    axes.set_title(f"{size}: error of checkpoints, median times to it (stars)", fontsize=9)
    above = {
        run["seed"]: [p for p in run["curve"] if p["energy"] is not None and p["energy"] > results["reference"]]
        for run in results["runs"]
    }
    if not any(above.values()):
        return  # nothing that a logarithmic axis could show
    for seed, points in above.items():
        errors = [p["energy"] / reference + 1 for p in points]
        bars = [(p["error"] or 0.0) / reference for p in points]
        axes.errorbar([p["seconds"] for p in points], errors, bars, marker=".", linewidth=0.8, label=f"seed {seed}")
    for goal, median, *_ in results["summary"]:
        axes.axhline(float(goal), color="grey", linewidth=0.5)
        if median is not None:
            axes.plot([median], [float(goal)], "k*")
    axes.set(xscale="log", yscale="log", xlabel="training seconds", ylabel="relative error")
    axes.legend()


def overhead(axes: Axes, results: dict[str, Any]) -> None:
    rows = results["rows"][::-1]
    axes.barh(range(len(rows)), [100 * row["overhead"] for row in rows])
    axes.axvline(5, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(title="overhead of the trainer", xlabel="% of a loop by hand (asked: at most 5)")


def netket(axes: Axes, results: dict[str, Any]) -> None:
    axes.set(title="8x8, beside NetKet")
    if not any(row["reached"] for row in results["rows"]):
        return
    for index, name in enumerate(dict.fromkeys(row["name"] for row in results["rows"])):
        for row in results["rows"]:
            if row["name"] == name:
                points = sorted((float(error), seconds) for error, seconds in row["reached"].items())
                label = name if row["seed"] == results["rows"][0]["seed"] else None
                axes.plot([s for _, s in points], [e for e, _ in points], "o-", color=f"C{index}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="training seconds", ylabel="relative error reached")
    axes.legend(fontsize=7)


# file of results/ -> panels
PANELS: dict[str, tuple[Panel, ...]] = {
    "engine": (engine,),
    "steps": (steps,),
    "flips": (windows, sampled_steps),
    "flips-training": (training,),
    "scaling": (scaling,),
    "overhead": (overhead,),
    **{f"accuracy-{size}{where}": (accuracy,) for size in ("4x4", "8x8", "16x16", "32x32") for where in ("", "-gpu")},
    "netket-8x8": (netket,),
}


def draw(folder: Path | None = None) -> Path | None:
    """Draw bench.png beside the results; None if there are none."""
    folder = folder or report.RESULTS
    panels = [(panel, found) for name, chosen in PANELS.items() if (found := report.load(name, folder)) for panel in chosen]
    if not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(7 * COLUMNS, 4.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, (panel, found) in zip(grid, panels, strict=False):
        panel(axes, found)
        here = found["machine"]
        quick = ", quick" if found.get("quick") else ""
        axes.text(1, -0.2, f"{here['threads']} threads, {here['date']}{quick}", transform=axes.transAxes, fontsize=6, ha="right")
    for axes in grid[len(panels) :]:
        axes.remove()
    here = panels[0][1]["machine"]
    figure.suptitle(f"qsr on {here['processor']}, {here['cores']} cores, torch {here['torch']}")
    path = folder / "bench.png"
    figure.savefig(path, dpi=80)
    return path


if __name__ == "__main__":
    drawn = draw()
    print(f"drew {drawn.name}" if drawn else "no results yet")
