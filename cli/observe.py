"""`qsr observe` and `qsr extrapolate`: what trained samplers have to say beside their energies, and between them."""

from __future__ import annotations

from pathlib import Path

import click

from qsr import jobs
from qsr.jobs.observe import DATA_FILE, PICTURE_FILE

from .commands import terminal, with_precision, with_symmetry
from .points import PointCommand, parsed_point, point_option
from .showing import show


@click.command(cls=PointCommand, short_help="Structure factor, correlations, order, domains, entropies of a trained model.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("samples", type=int, default=4096)
@click.argument("batch", type=int, default=256)
@click.option("--momentum", "momenta", multiple=True, metavar="KX,KY", help="S(k) at this k, too: pi,pi/2 or 1.5,0.2.")
@click.option("--region", "regions", multiple=True, metavar="REGION", help="Renyi entropy of rows:2, columns:1 or sites:0,1,5.")
@click.option(
    "--fidelity", type=click.Path(path_type=Path), metavar="OTHER_RUN", help="|<psi|phi>|^2 with the state of OTHER_RUN."
)
@point_option("Which point of a run over ranges.")
@with_symmetry
@with_precision
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; default RUN.")
def observe(
    run: Path,
    samples: int,
    batch: int,
    momenta: tuple[str, ...],
    regions: tuple[str, ...],
    fidelity: Path | None,
    point: tuple[str, ...],
    symmetry: str | None,
    precision: str | None,
    seed: int,
    device: str,
    output: Path | None,
) -> None:
    """Draw SAMPLES configurations from RUN in batches of BATCH, and estimate what they say of the state, with errors.

    Writes observables.h5 and observables.png (structure factor, correlations, order parameter, domains) into RUN.

    Example: qsr observe demos/RNN 4096 256 --region rows:1
    """
    with terminal() as bar:
        found = jobs.observe(
            run,
            samples,
            batch,
            momenta=momenta,
            regions=regions,
            fidelity=fidelity,
            hamiltonian=parsed_point(point),
            symmetry=symmetry,
            precision=precision,
            seed=seed,
            device=device,
            output=output,
            write=True,
            progress=bar,
        )
    show(*found.lines())
    show(f"written: {output or run}/{DATA_FILE}, {PICTURE_FILE}")


@click.command(short_help="The energy at zero variance, from several runs of one problem.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--samples", type=int, default=4096, show_default=True, help="Of each run.")
@click.option("--batch", type=int, default=256, show_default=True, help="Samples at once.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="PNG", help="Points and line as a picture.")
def extrapolate(runs: tuple[Path, ...], samples: int, batch: int, seed: int, device: str, picture: Path | None) -> None:
    """Evaluate two or more runs of one problem and extrapolate E/N linearly in Var/N to zero variance.

    Example: qsr extrapolate runs/rydberg/16-B=512-K=512/0 runs/rydberg/16-B=512-K=512/1
    """
    with terminal() as bar:
        found = jobs.extrapolate(runs, samples, batch, seed=seed, device=device, picture=picture, progress=bar)
    show(*found.lines())
    if picture is not None:
        show(f"written: {picture}")
