"""`qsr graph`: networks on graphs of any kind, as a configuration in YAML says."""

from __future__ import annotations

from pathlib import Path

import click

from qsr.hparams import Hparams, imports_allowed

from .commands import allowing, interruptible, terminal
from .help import settings_table
from .showing import show


@click.group("graph", short_help="Networks on graphs of your own, from a YAML configuration.")
def graph() -> None:
    """Work with configurations of qsr.graph.Trainer (docs/graph_networks.md)."""


@graph.command(short_help="Train and test as CONFIG says; every run of its sweeps.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--allow-import", multiple=True, metavar="MODULE", help="Trust a module of your own that CONFIG names.")
def train(config: Path, allow_import: tuple[str, ...]) -> None:
    """Train as CONFIG says, on the data that it names, and test with the weights of the best epoch.

    With !sweep in it every combination is a run. An interrupted run goes on with `qsr train --resume RUN`. `qsr graph settings`
    lists what CONFIG may hold.

    Example: qsr graph train config.yaml --allow-import mymodule
    """
    from qsr.jobs.graph_runs import graph_configs, sweep_table, train_graphs

    done = []
    with imports_allowed(allow_import):
        configs, swept = graph_configs(config)
        for settings in configs:
            with interruptible(), terminal() as bar:
                run = train_graphs(settings, progress=bar)
            show(*run.lines())
            load_it = f"  qsr load {run.path}{allowing(run.settings)}    metrics on the test data, or --data FILE"
            saved = [f"done: {run.path}", load_it, f"  qsr plot {run.path}"]
            show(*(["done (no output directory)"] if run.path is None else saved))
            done.append(run)
        if len(done) > 1:
            show("runs of the sweep:", *sweep_table(swept, done))


@graph.command(short_help="What a configuration may hold.")
def settings() -> None:
    """Name, type, default and meaning of all settings of a configuration, section by section."""
    from qsr.graph.config import GraphConfig, config_sections

    tables: dict[str, type[Hparams]] = {"the whole": GraphConfig, **config_sections()}
    click.echo("\n".join(settings_table(cls, title) for title, cls in tables.items()).rstrip())
