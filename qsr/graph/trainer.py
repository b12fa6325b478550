"""`Trainer.from_config(config)`: networks on graphs, trained as a configuration says, on the one Trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from qsr.graph.building import built_evaluator, built_network, built_stopper, check_same, run_settings
from qsr.graph.callbacks import BestModel, EpochLosses, SameData, Stopping, TrialReport, ValidationRows
from qsr.graph.config import GraphConfig
from qsr.graph.learner import Evaluated, GraphLearner
from qsr.graph.loading import chosen_parts, loader
from qsr.graph.model import apply_model
from qsr.graph.naming import as_config
from qsr.graph.prediction import check_first_batch, outputs_of
from qsr.graph.splits import SPLIT
from qsr.hparams import ConfigError
from qsr.hparams.sweeps import dotted, nodes
from qsr.hparams.tags import dump_yaml
from qsr.runs import RunDirectory, bounded_by, fit_weights, write_atomically
from qsr.runs.directory import CHECKPOINTS
from qsr.training import Callback, HistoryWriter, Interrupted, ProgressBar, ProgressLog, TorchUpdate
from qsr.training import Trainer as OneTrainer
from qsr.training.device import find_device
from qsr.training.evaluators import Tester, Validator, as_criterion
from qsr.training.fitting import placed, stage_of
from qsr.training.logs import locked, logged
from qsr.training.metric_table import MetricTable
from qsr.training.protocols import Metrics
from qsr.training.random import derived_seed, forked_generators
from qsr.training.resuming import going_on
from qsr.training.supervised import LoaderSource
from qsr.training.trainer import cuda_devices

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"


class Trainer:
    """Trains a network on graphs.

    Everything is in the configuration (`qsr.graph.config.GraphConfig`): the model, the criterion, the optimizer, evaluators,
    early stopping, the data. It is checked, and all objects are made, before anything is written. Then a run directory is
    claimed, `<training.path>/<name>/<number>`; its config.yaml holds the configuration, if all objects in it have names.

    Args:
        config: a mapping, or a YAML file.
        directory: of a run that goes on; None: a new one.
        allow_import: modules that a file may name objects of, beside those that are there anyway.

    Attributes:
        config: the configuration as it was given.
        settings: what it means as settings of a run, which settings.json holds. The optimizer and the scheduler there are
            those of torch; classes of a user's own, and arguments that the house sets elsewhere, stand in the model's section.
        criterion, apply_model, validator, tester, early_stopper: as configured; None where there is none.
        model, optimizer, lr_scheduler: what is trained and by what.
        device, seed, checkpoint_at: of the training.
        epoch: number of epochs done.
        data_path: the run directory; None where `training.path` is <NONE>.
        checkpoint_path: the folder of its checkpoints.
        train_dataset, val_dataset, test_dataset: of the last `prepare_dataloaders`.

    Raises:
        ConfigError: for a configuration that cannot be run.
    """

    schema: ClassVar[type[GraphConfig]] = GraphConfig

    def __init__(
        self, config: Mapping[str, Any] | str | Path, directory: RunDirectory | None = None, allow_import: Iterable[str] = ()
    ) -> None:
        self.config = as_config(config, allow_import)
        for place, node in nodes(self.config):
            raise ConfigError(f"{dotted(place)} is a !{node['type']}; ConfigHandler(config).run_configs are single runs")
        self._config = checked = GraphConfig(**self.config)
        training = checked.training
        self.device = find_device(training.device, "training.device")
        self.seed, self.checkpoint_at, self.epoch = training.seed, training.checkpoint_at, 0
        self.criterion, self.apply_model = checked.criterion, checked.apply_model
        self.validator = built_evaluator(Validator, "validation.validator", checked.validation.validator, self)
        self.tester = built_evaluator(Tester, "testing.tester", checked.testing.tester, self)
        self.early_stopper = built_stopper(checked.early_stopping, self.validator)
        self.settings = run_settings(checked, self.validator)
        self.train_dataset = self.val_dataset = self.test_dataset = None
        self._begun, self.directory = directory is not None, directory
        self.initialize_model()
        self._losses, self._best = EpochLosses(), BestModel(self._is_better)
        self._watchers: list[Callback] = [self._losses]
        if hasattr(self.validator, "load_state_dict"):
            self._watchers.append(ValidationRows(self.validator))
        if self.early_stopper is not None:
            self._watchers.append(Stopping(self.early_stopper))
        self._watchers.append(self._best)
        self.directory = directory or self._claimed()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path, allow_import: Iterable[str] = ()) -> Trainer:
        """As the constructor, for a new run."""
        return cls(config, allow_import=allow_import)

    @classmethod
    def load_checkpoint(
        cls, path: str | Path, config: Mapping[str, Any] | str | Path | None = None, allow_import: Iterable[str] = ()
    ) -> Trainer:
        """The trainer of a run directory, as it was at the last checkpoint; `run_training` goes on from there.

        Args:
            path: the run directory.
            config: that of the run; None: its config.yaml. Only `training.path` and `training.device` may differ.
            allow_import: as for the constructor.

        Raises:
            ConfigError: if there is no run, it has no checkpoint yet, or the configuration is another one.
        """
        if Path(path).parent.name == CHECKPOINTS:
            raise ConfigError(f"{path}: a checkpoint, expected its run, {Path(path).parent.parent} (it goes on from the last)")
        directory = RunDirectory.open(path)
        if config is None and not (directory.path / CONFIG_FILE).is_file():
            raise ConfigError(f"{path}: has no {CONFIG_FILE}, because not all its objects have names; pass config=...")
        trainer = cls(directory.path / CONFIG_FILE if config is None else config, directory, allow_import)
        check_same(directory, trainer.settings)
        found = directory.latest_checkpoint()
        if found is None:
            raise ConfigError(f"{path}: the run has no checkpoint")
        trainer._restore(found.weights, found.state, f"{directory.path / CHECKPOINTS / str(found.step)}")
        return trainer

    # --- what is trained --------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._learner.network

    @property
    def optimizer(self) -> Any:
        """What trains it."""
        return self._learner.optimizer

    @property
    def lr_scheduler(self) -> Any:
        """What changes the learning rate; None: it is constant."""
        return self._learner.lr_scheduler

    def initialize_model(self) -> nn.Module:
        """Make the model anew, with the first weights of the seed, and with it what trains it."""
        bounded = bounded_by(self.directory if self._begun else None)
        with forked_generators(seed=derived_seed(self.seed, "init")), bounded:
            network = built_network(self._config.model)
        learner = GraphLearner(self.settings.model, network, as_criterion(self.criterion, self), self.apply_model or apply_model)
        placed(learner, self.settings)
        self._learner = learner
        self.initialize_optimizer()
        return network

    def initialize_optimizer(self) -> Any:
        """Make the optimizer anew, and with it the learning-rate scheduler.

        Raises:
            ConfigError: for arguments that it refuses, and a type that makes no optimizer.
        """
        training = self._config.training
        arguments = (self.model.parameters(), *training.optimizer_args), training.optimizer_kwargs
        self._learner.optimizer = _made("optimizer", Optimizer, training.optimizer_type, *arguments)
        self.initialize_lr_scheduler()
        return self.optimizer

    def initialize_lr_scheduler(self) -> Any:
        """Make the learning-rate scheduler anew, if there is to be one.

        Raises:
            ConfigError: for arguments that it refuses, and a type that makes no scheduler.
        """
        training = self._config.training
        if training.lr_scheduler_type is not None:
            arguments = (self.optimizer, *training.lr_scheduler_args), training.lr_scheduler_kwargs
            self._learner.lr_scheduler = _made("lr_scheduler", LRScheduler, training.lr_scheduler_type, *arguments)
        return self.lr_scheduler

    # --- data -------------------------------------------------------------------------------------------------------

    def prepare_dataloaders(
        self,
        dataset: Any = None,
        split: Sequence[float] = SPLIT,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        training_sampler: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Loaders of training, validation and test data.

        Args:
            dataset: to be split; None, and no parts: that of the configuration.
            split: shares of the three; those of the configuration's `data` go first.
            train_dataset, val_dataset, test_dataset: parts that are there already.
            training_sampler: of the order of the training data, in place of shuffling.

        Raises:
            ConfigError: for shares that do not add up to 1, empty parts, and data sets that contradict each other.
        """
        config = self._config
        found = chosen_parts(config, dataset, split, (train_dataset, val_dataset, test_dataset))
        self.train_dataset, self.val_dataset, self.test_dataset = found
        return (
            loader(found.train, config.training, self.device, config.training.shuffle, self.seed, training_sampler),
            loader(found.validation, config.validation, self.device, config.validation.shuffle, self.seed),
            loader(found.test, config.testing, self.device, config.testing.shuffle, self.seed),
        )

    # --- training and testing ---------------------------------------------------------------------------------------

    def run_training(
        self,
        train_loader: Any,
        val_loader: Any = None,
        trial: Any = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> tuple[MetricTable, Any]:
        """Train to the last epoch, or until early stopping ends it; from a checkpoint on, if there is one.

        Loaders that draw from the global generators only, as those of `prepare_dataloaders`, give the same batches to a run
        that goes on.

        Args:
            train_loader, val_loader: iterables of batches with a length.
            trial: of a search (`qsr.hparams.search`): hears of the validation loss of every epoch, and may end the training.
            callbacks: called at every hook of the Trainer, after those of this one.
            progress: show a bar on stderr.

        Returns:
            The table of the training (see `qsr.graph.callbacks.EpochLosses`) and that of the validator, a row for each epoch;
            the second is empty without a validator.

        Raises:
            ConfigError: for loaders without batches, other loaders than before, and what a criterion or monitor refuses.
            RunFailed: (a RuntimeError) if the loss stays non-finite.
            optuna.TrialPruned: when the trial says so.
            Interrupted: on a signal, or when `max_time` has passed, with everything saved.
        """
        if not len(train_loader):
            training = self._config.training
            raise ConfigError(
                f"train_loader: has no batches (training.batch_size={training.batch_size}, drop_last={training.drop_last})"
            )
        if val_loader is None and self.early_stopper is not None:
            raise ConfigError("early_stopping: needs validation data, and there is no val_loader")
        if self._begun and self.directory is None:
            raise ConfigError("training.path=<NONE>: such a trainer trains once, and cannot go on")
        validation = None if val_loader is None else LoaderSource(val_loader, self.seed)
        objective = Evaluated(LoaderSource(train_loader, self.seed), validation, self.validator, self.seed)
        if not self._begun:
            check_first_batch(self._learner, LoaderSource(train_loader, self.seed))
        stage = stage_of(self.settings, objective)
        history = [] if self.directory is None else [HistoryWriter(self.directory.history)]
        reports = [] if trial is None else [TrialReport(trial)]
        bar = [ProgressBar()] if progress else []
        same = SameData(train_loader, self.seed)
        watching = [*history, ProgressLog(), *bar, same, *self._watchers, *reports, *callbacks]
        rule = TorchUpdate(self._learner, self.settings, stage)
        trainer = OneTrainer(self._learner, objective, rule, watching, self.settings, self.directory, stage)
        with ExitStack() as stack:
            stack.enter_context(locked(self.directory))
            stack.enter_context(logged(self.directory, self._config.log_level))
            self._begin(trainer, objective.steps_per_epoch)
            try:
                trainer.fit()
            except Interrupted as stop:
                raise Interrupted(stop.signum, stop.directory, "Trainer.load_checkpoint") from None
            finally:
                self.epoch = trainer.epoch
        return self._losses.table, objective.table if self.validator is None else self.validator.data

    def run_test(self, test_loader: Any, weights: Literal["best", "last"] = "best") -> Any:
        """Evaluate the model on data that it has not seen, with the weights of its best epoch; it keeps its own.

        The best epoch is the last that early stopping found better; without early stopping that of the smallest validation
        loss, and without a validation the last.

        Args:
            weights: 'last' for those of the last epoch.

        Returns:
            A table with one row (of a tester of one's own: what it returns); without a tester it is empty.

        Raises:
            ConfigError: for a loader without batches, and what a monitor refuses.
        """
        if self.tester is None:
            return MetricTable()
        with self._weights(weights), logged(self.directory, self._config.log_level):
            table = self.tester.test(self.model, LoaderSource(test_loader, self.seed).seeded(0))
            self.tester.report(table)
        return table.tail(1) if hasattr(table, "tail") else table

    def predict(self, loader: Any, weights: Literal["best", "last"] = "best") -> dict[str, Tensor]:
        """What the network returns for the graphs of a loader, see `qsr.graph.prediction.outputs_of`; weights as for `run_test`.

        Raises:
            ConfigError: for a loader without batches.
        """
        with self._weights(weights):
            return outputs_of(self._learner, LoaderSource(loader, self.seed).seeded(0))

    @contextmanager
    def _weights(self, which: str) -> Iterator[None]:
        """The weights of the best or the last epoch in the model, for a while; the global generators are left as they were."""
        kept = {name: tensor.detach().clone() for name, tensor in self._learner.state_dict().items()}
        try:
            if which == "best" and self._best.weights is not None:
                self._learner.load_state_dict(self._best.weights)
            with forked_generators(cuda_devices(self.model)):
                yield
        finally:
            self._learner.load_state_dict(kept)

    def _begin(self, trainer: OneTrainer, steps_per_epoch: int) -> None:
        """Go on from the last checkpoint, or write the first one and the settings."""
        if not self._begun:
            self._begun = True
            trainer.checkpoint()
            if self.directory is not None:
                self.directory.write_settings(self.settings)
                logger.info("run directory %s", self.directory.path)
            return
        trainer.resume()
        if trainer.step != trainer.epoch * steps_per_epoch + trainer.step_in_epoch:
            raise ConfigError(f"train_loader: has {steps_per_epoch} batches, and the run was begun with another number")
        logger.info("resuming at step %d of %d", trainer.step, trainer.steps)

    def _restore(self, weights: Mapping[str, Tensor], state: Mapping[str, Any], where: str) -> None:
        """Go back to a checkpoint.

        Raises:
            ConfigError: for one of another kind of run.
        """
        names = [type(watcher).__name__ for watcher in self._watchers]
        missing = [name for name in ("epoch", "update_rule", "callbacks") if name not in state]
        missing += [name for name in names if name not in state.get("callbacks", {})]
        if missing:
            raise ConfigError(f"{where}: missing required keys: {', '.join(missing)}; not a checkpoint of this trainer")
        fit_weights(self._learner, weights, where)
        with going_on(where):
            self.optimizer.load_state_dict(state["update_rule"]["optimizer"])
            if self.lr_scheduler is not None:
                self.lr_scheduler.load_state_dict(state["update_rule"]["scheduler"])
            for watcher, name in zip(self._watchers, names, strict=True):
                watcher.load_state_dict(state["callbacks"][name])
            self.epoch = int(state["epoch"])

    def _is_better(self, metrics: Metrics, best: Metrics | None) -> bool:
        if hasattr(self.early_stopper, "found_better_model"):
            return bool(self.early_stopper.found_better_model)
        loss = metrics.get("validation/loss", math.nan)
        return not math.isnan(loss) and (best is None or loss < best.get("validation/loss", math.inf))

    # --- the run directory ------------------------------------------------------------------------------------------

    @property
    def data_path(self) -> Path | None:
        """The run directory."""
        return None if self.directory is None else self.directory.path

    @property
    def checkpoint_path(self) -> Path | None:
        """Where its checkpoints are."""
        return None if self.directory is None else self.directory.path / CHECKPOINTS

    def _claimed(self) -> RunDirectory | None:
        directory = RunDirectory.claim(self.settings)
        if directory is not None:
            try:
                text = dump_yaml(self.config)
            except ConfigError as error:
                logger.info("no %s: %s", CONFIG_FILE, error)
            else:
                write_atomically(directory.path / CONFIG_FILE, text)
        return directory


def _made(what: str, base: type, kind: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    where = f"training.{what}_type={getattr(kind, '__name__', kind)}"
    try:
        found = kind(*arguments, **named)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(found, base):
        raise ConfigError(f"{where}: must make torch's {base.__name__}, found {type(found).__name__}")
    return found
