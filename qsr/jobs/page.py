"""`qsr report`: a run as one self-contained HTML page: what was asked, what came out with error bars, and pictures."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qsr.hparams import ConfigError
from qsr.hparams.base import printable
from qsr.jobs.exact import references
from qsr.jobs.info import info
from qsr.jobs.load import evaluate
from qsr.jobs.plot import plot
from qsr.jobs.points import refuse_ranges
from qsr.jobs.run import Run, check_writable, open_any_sampler, path_of
from qsr.runs import write_atomically

PAGE_FILE = "report.html"
ABOUT_ERRORS = (
    "Numbers in brackets are standard errors, in units of the last digits. They tell the noise of the samples; what training "
    "has left above the ground state is not in them."
)
ABOUT_PICTURE = "Energy and variance in training; densities, snapshots, correlations and structure factor of fresh samples"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem 1.5rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number { font-variant-numeric: tabular-nums; }
img { max-width: 100%; } pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""


def report(
    run: str | Path | Run,
    num_samples: int = 4096,
    batch_size: int = 256,
    *,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
) -> Path:
    """Write a page about a trained sampler, with fresh samples.

    Args:
        output: the file; default report.html in the run's directory.

    Returns:
        The file.

    Raises:
        ConfigError: for the run of a model on data, for a place that cannot be written, and as `qsr.evaluate`.
    """
    opened = open_any_sampler(run, "report", device)
    refuse_ranges(opened.settings, "report", f"qsr scan {opened.path} has the whole diagram")
    path, section = path_of(opened), opened.settings.hamiltonian
    target = Path(output) if output is not None else path / PAGE_FILE
    check_writable(target.parent)
    if target.is_dir():
        raise ConfigError(f"{target}: is a directory; expected a file, such as {target / PAGE_FILE}")
    facts = info(path)
    unit = "the coefficients" if section.energy_unit == "1" else section.energy_unit
    result = evaluate(opened, num_samples, batch_size, seed=seed)
    energy = result.energy_per_site
    compared = [
        (
            f"E/N, {name}",
            f"{value:.8f}",
            (f"{(energy.mean - value) / abs(value):+.2e} relative, " if value else "")
            + f"{result.z_score(value * section.num_sites):+.1f} errors",
        )
        for name, value in references(section.build()).items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        picture = base64.b64encode(plot(opened, Path(folder) / "plot.png").read_bytes()).decode()
    settings = json.dumps(opened.settings.tree(), indent=2)
    parts = [
        f"<h1>{_escaped(facts.problem)}</h1>",
        _table([(name, value) for name, value in (("model", facts.model), ("training", facts.training), ("state", facts.state))]),
        f"<h2>From {result.num_samples} fresh, independent samples</h2>",
        _table([(name, value) for name, value in result.rows() if name not in ("problem", "samples")]),
        f"<p>Energies are in units of {html.escape(unit)}. {ABOUT_ERRORS}</p>",
        *(["<h2>Beside other energies</h2>", _table(compared)] if compared else []),
        "<h2>Pictures</h2>",
        f'<img alt="{ABOUT_PICTURE}" src="data:image/png;base64,{picture}">',
        "<h2>Settings</h2>",
        f"<details><summary>as settings.json has them</summary><pre>{html.escape(settings)}</pre></details>",
        "<h2>Made with</h2>",
        _table(list(facts.versions.items())),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_escaped(str(path))}</title>'
    body = "\n".join(parts)
    page = f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    write_atomically(target, page)
    return target


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    cells = [
        f"<tr><th>{_escaped(row[0])}</th>" + "".join(f'<td class="number">{_escaped(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    ]
    return "<table>\n" + "\n".join(cells) + "\n</table>"
