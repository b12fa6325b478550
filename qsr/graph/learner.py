"""A network on graphs with its criterion, as the Trainer sees it; and the objective that an evaluator evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from qsr.graph.model import apply_model
from qsr.hparams import ConfigError, Hparam
from qsr.hparams.objects import may_be_named
from qsr.hparams.tags import PYOBJECT, resolve_pyobject_tags
from qsr.training import Model, ModelHparams, Supervised
from qsr.training.evaluators import ApplyModel, as_criterion
from qsr.training.metric_table import MetricTable, last_row
from qsr.training.protocols import Metrics
from qsr.training.supervised import BatchSource, LoaderSource


class GraphLearnerHparams(ModelHparams):
    """What a run of `qsr.graph.Trainer` is made of, beside the settings that every run has."""

    section: ClassVar[str] = "graph_run"

    name: str = Hparam("run", help="folder of the runs")
    config: dict[str, Any] = Hparam(
        default_factory=dict, help="the configuration without what stands in other sections; objects stand as !pyobject name"
    )

    @property
    def label_of_runs(self) -> str:
        return self.name

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Modules that someone must allow before another process can load the run."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in _names(self.config) if not may_be_named(name)))

    def build(self) -> GraphLearner:
        """The network and the loss of the configuration, with new weights.

        Raises:
            ConfigError: for objects without a name, and those of modules that are not allowed.
        """
        from qsr.graph.building import built_network

        parts = {name: self.config.get(name) for name in ("model", "criterion", "apply_model")}
        nameless = next((name for name in _names(parts) if name.startswith("<")), None)
        if nameless is not None:
            raise ConfigError(
                f"config: the run has a {nameless}, which no file can name; qsr.graph.Trainer.load_checkpoint(path, config) "
                "takes the configuration as it was"
            )
        found = resolve_pyobject_tags(parts, "config")
        return GraphLearner(self, built_network(found["model"]), found["criterion"], found["apply_model"] or apply_model)


def _names(config: Any) -> Iterator[str]:
    """Names of the objects in a configuration."""
    if isinstance(config, Mapping):
        config = config.values()
    elif isinstance(config, str):
        word, _, name = config.partition(" ")
        if word == PYOBJECT:
            yield name
        return
    elif not isinstance(config, (list, tuple)):
        return
    for inner in config:
        yield from _names(inner)


class GraphLearner(Model[GraphLearnerHparams]):
    """A network on batches of graphs and its loss.

    Args:
        hparams: the settings.
        network: any module.
        criterion: `criterion(outputs, data)`, see `qsr.training.evaluators.as_criterion`.
        apply_model: `apply_model(network, data)`, its outputs.

    Attributes:
        optimizer, lr_scheduler: what trains it.
    """

    optimizer: Any = None
    lr_scheduler: Any = None

    def __init__(
        self, hparams: Any, network: nn.Module, criterion: Callable[..., Tensor], apply_model: ApplyModel = apply_model
    ) -> None:
        super().__init__(hparams)
        self.network = network
        self.criterion = as_criterion(criterion)
        self.apply_model = apply_model

    def forward(self, batch: Any) -> Any:
        """What the network returns for a batch."""
        return self.apply_model(self.network, batch)

    def compute_metrics(self, batch: Any, batch_idx: int) -> Mapping[str, Tensor]:
        """The loss."""
        return {"loss": self.criterion(self(batch), batch)}

    def configure_optimizers(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "lr_scheduler": self.lr_scheduler}


class Evaluated(Supervised):
    """The loss of a `GraphLearner`; after each epoch a validator, if there is one, adds a row to its table.

    Args:
        training, validation: batches.
        validator: has `validate(network, loader)`, which returns a table, and `report(table)`.
        seed: of everything that is drawn.

    Attributes:
        table: what the validator returned last.
    """

    # Columns of a table that have another name among the metrics of a run.
    names: ClassVar[dict[str, str]] = {"loss_avg": "loss"}

    def __init__(self, training: BatchSource, validation: LoaderSource | None, validator: Any, seed: int) -> None:
        super().__init__(training, validation, seed)
        self.validator = validator
        self.table: Any = MetricTable()

    def evaluate(self, model: Model[Any], source: BatchSource, phase: str, batches: int | None = None) -> Metrics:
        if self.validator is None or not isinstance(source, LoaderSource):
            return super().evaluate(model, source, phase, batches)
        self.table = self.validator.validate(model.network, source.seeded(0))
        self.validator.report(self.table)
        return {metric_name(name): float(value) for name, value in last_row(self.table).items() if np.ndim(value) == 0}


def metric_name(column: str) -> str:
    """What a run calls a column of the validator: validation/loss for loss_avg, validation/f1 for f1."""
    return f"validation/{Evaluated.names.get(column, column)}"
