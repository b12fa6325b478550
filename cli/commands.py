"""The subcommands. Each parses its words, calls one function of `qsr.jobs` and prints the result."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qsr import jobs
from qsr.hparams import PRESETS, ConfigError, RunSettings, blueprint, imports_allowed, parse_sections
from qsr.hparams.files import as_yaml
from qsr.hparams.launchers import read_launcher, split_launcher
from qsr.hparams.overrides import merged, read_tree_of, split_words, sweep
from qsr.jobs.sweep import Outcome, SweepRun, Watch, attempt
from qsr.runs import RunDirectory, read_run
from qsr.runs.log import PlainText
from qsr.symmetries import SYMMETRIES
from qsr.training import Callback, Interrupted
from qsr.training.distribution import Processes

from .help import section_table, sections_overview
from .points import PointCommand, parsed_point, point_option
from .showing import show
from .sweep import run_sweep

# Section words are not click's options: they come through as they are, in their order.
SECTION_WORDS: dict[str, Any] = {"ignore_unknown_options": True}


def section_command(name: str, usage: str, has_run: bool, summary: str) -> Any:
    """A click command that takes section words and has its own `--help`."""

    def decorate(function: Any) -> click.Command:
        words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
        run = click.Argument(["run"], required=False, type=click.Path(path_type=Path))
        helped = click.Option(["--help", "-h", "helped"], is_flag=True, help="Show this message; with a section: its settings.")
        command = click.command(name, context_settings=SECTION_WORDS, add_help_option=False, short_help=summary)(function)
        command.params += [*([run] if has_run else []), words, helped]
        command.help = f"{summary}\n\nUsage: {usage}"
        return command

    return decorate


def explain(context: click.Context, words: Sequence[str]) -> None:
    """Print the help of the command, or the tables of the sections named in `words`."""
    flags = [word.removeprefix("--") for word in words]
    if flags:
        click.echo("\n".join(section_table(flag) for flag in flags))
    else:
        click.echo(f"{context.command.help}\n\n{sections_overview()}")


def words_of(run: Path | None, words: tuple[str, ...]) -> tuple[str, ...]:
    """The section words of a help line: click takes the first of them for RUN."""
    return words if run is None or not str(run).startswith("--") else (str(run), *words)


def required(run: Path | None, words: tuple[str, ...]) -> Path:
    """RUN, which comes before the sections."""
    if run is None or str(run).startswith("--"):
        raise ConfigError(f"RUN: expected a run directory before the sections, found {' '.join([str(run or ''), *words])!r}")
    return run


@contextmanager
def terminal() -> Iterator[bool]:
    """Show the package's log on stderr; yields whether a progress bar fits there (it does on a terminal only)."""
    first = Processes.expected().first
    bar = sys.stderr.isatty() and first
    handler = logging.StreamHandler(sys.stderr) if first else logging.NullHandler()
    handler.setFormatter(PlainText("%(message)s"))
    handler.setLevel(logging.INFO)  # a run's file may have more
    if bar:  # the bar shows what these lines say
        handler.addFilter(lambda record: not record.name.endswith("callbacks") or record.levelno > logging.INFO)
    # What an evaluator reports stands in the line of the epoch, too.
    handler.addFilter(lambda record: not record.name.endswith("evaluators") or record.levelno > logging.INFO)
    package = logging.getLogger("qsr")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield bar
    finally:
        package.removeHandler(handler)


def allowing(settings: RunSettings) -> str:
    """The option without which another process may not load a run on data."""
    named = [section and section.module_name for section in (settings.model, settings.data)]
    loss = getattr(settings.model, "loss", None)
    named.append(loss.name if loss is not None and "." in loss.name else None)
    modules = dict.fromkeys(
        [name.rpartition(".")[0] for name in named if name] + list(getattr(settings.model, "own_modules", ()))
    )
    return "".join(f" --allow-import {module}" for module in modules)


def finish(run: jobs.Run) -> None:
    """The last line of a training command."""
    if not Processes.expected().first:
        return
    if run.path is None:
        click.echo("done (no output directory)")
    elif run.settings.on_data:
        load_it = f"qsr load {run.path}{allowing(run.settings)}"
        lines = [f"done: {run.path}", f"  {load_it}    metrics on the test data"]
        if jobs.predicts(run.settings):
            lines.append(f"  {load_it} --data FILE    predictions for new data")
        show(*lines, f"  qsr plot {run.path}")
    elif run.settings.hamiltonian.ranges:
        show(f"done: {run.path}", f"  {jobs.suggested_scan(run.settings, run.path)}    energies and order over the ranges")
    else:
        show(f"done: {run.path}", f"  qsr load {run.path} 4096 256    energy, observables and samples", f"  qsr plot {run.path}")


@section_command(
    "train",
    "qsr train [--preset NAME] --SECTION name=value ... --SECTION name=value ...\n"
    "   or  qsr train --config-name FILE section.setting=value +key=value ...   or   qsr train --resume RUN\n"
    "   or  qsr train --resume auto ...    (the newest run of these settings goes on, or begins)",
    False,
    "Train a model to the ground state of a Hamiltonian, or on data.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Named settings below the given ones.")
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on with an interrupted run; auto: with the newest one of the settings given, or start it if there is none.",
)
@click.option("--config-name", metavar="NAME", help="Settings from NAME.yaml; what is written beside it goes before it.")
@click.option("--config-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where it lies; default $HYDRA_CONFIG_PATH.")
@click.option("--allow-import", multiple=True, metavar="MODULE", help="Trust a module of your own that the settings name.")
@click.option(
    "--multirun", "-m", is_flag=True, help="Run every combination of values such as train.lr=1e-3,1e-2 (docs/sweeps.md)."
)
@click.option("--print-config", is_flag=True, help="Print the resolved settings as YAML, and do nothing.")
@click.option("--print-blueprint", is_flag=True, help="Print a commented file of all settings of the given sections.")
@click.pass_context
def train(
    context: click.Context,
    words: tuple[str, ...],
    helped: bool,
    preset: str | None,
    resume: str | None,
    config_name: str | None,
    config_dir: Path | None,
    allow_import: tuple[str, ...],
    multirun: bool,
    print_config: bool,
    print_blueprint: bool,
) -> None:
    with imports_allowed(allow_import):
        if helped or not (words or resume or preset or config_name or print_blueprint):
            return explain(context, words)
        auto = resume == "auto"
        if resume is not None and not auto and (words or preset or config_name or multirun or print_config or print_blueprint):
            raise ConfigError(f"--resume {resume}: a resumed run keeps its settings ('qsr finetune' changes those of a sampler)")
        if resume is not None and not auto:
            with interruptible(), terminal() as bar:
                finish(jobs.resume(resume, progress=bar))
            return None
        overrides, sections = split_words(words)
        written = parse_sections(sections)
        overrides, of_hydra = split_launcher(overrides)
        if of_hydra and not multirun:
            raise ConfigError(f"{of_hydra[0]}: is for the runs of a sweep; add -m, or take it out")
        combinations = sweep(overrides) if multirun else [overrides]
        trees = [merged(read_tree_of(config_name, config_dir, chosen), written) for chosen in combinations]
        if print_blueprint:
            for tree in trees:
                click.echo(
                    blueprint(tree or {"model": {"type": "ptf"}}, "All settings of a run (qsr train --config-name)."), nl=False
                )
            return None
        resolved = [RunSettings.from_tree(tree, preset) for tree in trees]  # all, before the first one starts
        launcher = read_launcher(of_hydra, str(resolved[0].train.dir) if resolved[0].train.writes else None)
        if print_config:
            for settings in resolved:
                shown = {name: section for name, section in settings.tree().items() if name != "objective"}
                click.echo(as_yaml(shown), nl=False)
        elif multirun:
            chosen = zip(combinations, trees, strict=True)
            runs = [SweepRun(words, tree, preset, allow_import, auto) for words, tree in chosen]
            run_sweep(runs, launcher, in_this_process, saved)
        else:
            with interruptible(), terminal() as bar:
                run = jobs.train(**trees[0], preset=preset, resume_auto=auto, progress=bar)
            finish(run)
    return None


def in_this_process(run: SweepRun) -> Outcome:
    """A run of a sweep, as a single one looks in the terminal."""

    def started(callbacks: Sequence[Callback]) -> jobs.Run:
        done = run.start(callbacks, bar)
        finish(done)
        return done

    with terminal() as bar:
        return attempt(started, Watch())


@section_command(
    "finetune",
    "qsr finetune RUN --train name=value ... --rydberg name=value ...",
    True,
    "Train a model further: larger lattice, changed Hamiltonian, new settings.",
)
@click.option(
    "--symmetry", type=click.Choice(SYMMETRIES), help="Average over images of the lattice from now on; none: no longer."
)
@click.pass_context
def finetune(context: click.Context, run: Path | None, words: tuple[str, ...], helped: bool, symmetry: str | None) -> None:
    if helped:
        return explain(context, words_of(run, words))
    stored = required(run, words)
    jobs.refuse_on_data(read_run(stored).settings, "finetune")
    tree = parse_sections(words)
    if "model" in tree:
        raise ConfigError(f"--{tree['model']['type']}: the weights fix the model; use 'qsr transfer' for another architecture")
    with interruptible(), terminal() as bar:
        finish(jobs.finetune(stored, **tree, symmetry=symmetry, progress=bar))
    return None


@section_command(
    "transfer",
    "qsr transfer RUN --train name=value ... --ptf name=value ...",
    True,
    "Train another architecture on the samples of a trained model.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Named settings below the given ones.")
@click.pass_context
def transfer(context: click.Context, run: Path | None, words: tuple[str, ...], helped: bool, preset: str | None) -> None:
    if helped:
        return explain(context, words_of(run, words))
    stored = required(run, words)
    jobs.refuse_on_data(read_run(stored).settings, "transfer")
    tree = parse_sections(words)
    if "hamiltonian" in tree:
        raise ConfigError(
            f"--{tree['hamiltonian']['type']}: a transfer keeps the teacher's Hamiltonian; change it with 'qsr finetune'"
        )
    with interruptible(), terminal() as bar:
        finish(jobs.transfer(stored, **tree, preset=preset, progress=bar))
    return None


with_symmetry = click.option(
    "--symmetry",
    type=click.Choice(SYMMETRIES[1:]),
    help="Average the probabilities of a run that was trained without over images of the lattice: as many times the cost.",
)
with_precision = click.option(
    "--precision", type=click.Choice(["float64"]), help="Compute in float64 (default: in float32, or as trained if that is more)."
)


@click.command(cls=PointCommand, short_help="Samples, energy and observables of a trained model.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("samples", type=int, default=4096)
@click.argument("batch", type=int, default=256)
@with_symmetry
@with_precision
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto: the first CUDA device, if any.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; default RUN.")
@click.option("--allow-import", multiple=True, metavar="MODULE", help="Trust a module of your own that the run's settings name.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Predict for this file (runs of --hsm, --qembed, --graph, qsr graph).",
)
@point_option("Which point of a run over ranges.")
def load(
    run: Path,
    samples: int,
    batch: int,
    symmetry: str | None,
    precision: str | None,
    seed: int,
    device: str,
    output: Path | None,
    allow_import: tuple[str, ...],
    data: Path | None,
    point: tuple[str, ...],
) -> None:
    """Draw SAMPLES configurations from RUN in batches of BATCH, and average local energies and observables.

    The run of a model on data is evaluated on its test data instead, or predicts for a file (--data); that goes to
    predictions.csv (of graph networks also to a picture), or to cleaned.h5 where the prediction is a configuration.

    Writes evaluation.txt and samples.h5 (configurations, log-probabilities, local energies) into RUN.

    Example: qsr load demos/RNN 4096 256
    """
    chosen = parsed_point(point)
    with imports_allowed(allow_import):
        stored = read_run(run)
        if chosen is not None:
            jobs.refuse_on_data(stored.settings, "--rydberg")
        for option, value in (("symmetry", symmetry), ("precision", precision)):
            if value is not None and (data is not None or stored.settings.on_data):
                raise ConfigError(f"--{option} {value}: is for the samples of a sampler, not for predictions from data")
        if data is not None:
            report = jobs.predict_table(stored, data, device=device, output=output, write=True)
            show(*report.lines(), f"written: {output or run}/{', '.join(report.files)}")
            return
        if stored.settings.on_data:
            with terminal():
                show(*jobs.evaluate_on_data(stored, device=device, output=output, write=True).lines())
            show(f"written: {output or run}/evaluation.txt")
            return
    with terminal() as bar:
        result = jobs.evaluate(
            run,
            samples,
            batch,
            hamiltonian=chosen,
            symmetry=symmetry,
            precision=precision,
            seed=seed,
            device=device,
            output=output,
            write=True,
            progress=bar,
        )
    show(*result.lines(), f"written: {output or run}/samples.h5, evaluation.txt")


@section_command("exact", "qsr exact --rydberg Lx=4 Ly=4", False, "Exact ground state of a small lattice (at most 20 sites).")
@click.pass_context
def exact(context: click.Context, words: tuple[str, ...], helped: bool) -> None:
    if helped or not words:
        return explain(context, words)
    tree = parse_sections(words)
    if set(tree) != {"hamiltonian"}:
        found = " ".join(word for word in words if word.startswith("--"))
        raise ConfigError(f"exact: expected one problem section such as --rydberg Lx=4 Ly=4, found {found}")
    show(*jobs.exact(tree["hamiltonian"]).lines())
    return None


@click.command(short_help="A picture of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), metavar="PNG", help="Where the picture goes; default RUN/plot.png.")
def plot(run: Path, output: Path | None) -> None:
    """Energy with reference lines, variance, densities, snapshots, correlations and structure factor of RUN as one PNG.

    Of the run of a model on data: its metrics against epochs.
    """
    show(str(jobs.plot(run, output)))


@contextmanager
def interruptible() -> Iterator[None]:
    """Say how to go on when a signal ended a run."""
    try:
        yield
    except Interrupted as stop:
        if not Processes.expected().first:
            raise
        show(f"{stop.cause}: {saved(stop.directory)}", err=True)
        raise


def saved(directory: RunDirectory | None) -> str:
    """What there is of a run that a signal ended."""
    if directory is None:
        return "nothing was saved (dir=<NONE>)"
    settings = directory.read_settings()
    more = allowing(settings) if settings.on_data else ""
    return f"everything is saved; resume with: qsr train --resume {directory.path}{more}"
