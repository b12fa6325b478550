"""`QuantumTrainer(model, optimizer, loss_fn)`: networks with quantum embeddings on the one Trainer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.imports import dotted_name
from qsr.qembed.arguments import check_count, check_made
from qsr.qembed.config import QuantumConfig
from qsr.qembed.distribution import SharedSupervised, processes_found
from qsr.qembed.history import COLUMNS, BestModel, EpochCallback, EpochRows, LastEpoch, StepCount, of_phase, stopping, visible
from qsr.qembed.learning import QuantumModel
from qsr.qembed.optimizers import warn_of_left_out
from qsr.qembed.predictions import predict
from qsr.qembed.trainer_file import load_weights, read_trainer_file, write_trainer_file
from qsr.qembed.update import QuantumUpdate
from qsr.training.callbacks import ProgressBar
from qsr.training.device import KEEP, device_of
from qsr.training.distribution import ALONE
from qsr.training.fitting import stage_of
from qsr.training.protocols import Callback
from qsr.training.random import forked_generators
from qsr.training.resuming import going_on
from qsr.training.supervised import LoaderSource, Supervised, moved, numbers
from qsr.training.trainer import Trainer, cuda_devices

_COUNTERS = ("current_epoch", "global_step", "task_id", "best_metric", "best_epoch", "stopped_epoch")


class QuantumTrainer:
    """Trains a network with quantum embeddings: schedules of collapse, regularisers, replay, and the metrics of all that.

    The network may be any module; one without quantum embeddings is trained like any other. Batches are mappings with
    `input_ids` (and `attention_mask`, ..., `labels`) or tuples (inputs, labels), see `qsr.qembed.batches.parts_of`.

    Args:
        model: trained in place.
        optimizer: any torch optimizer of its parameters.
        loss_fn: see `qsr.qembed.losses.call_loss`; None: the outputs of the model carry `loss`. The quantum terms of the loss
            and those of the configuration add up.
        device: None: where the model is, or the first GPU if it is on the CPU and there is one; 'keep': never moved.
        quantum_training_config: a mapping of keys, or a `QuantumConfig`; None: its defaults.
        lr_scheduler: any torch scheduler of this optimizer.
        lr_scheduler_interval: whether it is stepped after each 'epoch' or each 'step'.

    Attributes:
        config: the configuration; `quantum_config` is the same as a mapping.
        learner: the model with its loss, as the Trainer sees it.
        training_history: for each metric a list with an entry for each epoch, of all calls of `train`.
        current_epoch: epochs done in the last call of `train`; global_step: steps done in all of them.
        task_id: number of calls of `train` before the last one, -1 before the first.
        best_metric, best_epoch: of the last call of `train`, by `monitor`; stopped_epoch: where it ended early, or None.
        last_metrics: of the last `training_step`.

    Raises:
        TypeError: for a model that is no module, and other arguments of the wrong kind.
        ConfigError: for a configuration that cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Any,
        *,
        device: torch.device | str | None = None,
        quantum_training_config: Mapping[str, Any] | QuantumConfig | None = None,
        lr_scheduler: Any = None,
        lr_scheduler_interval: str = "epoch",
    ) -> None:
        check_made("model", model, nn.Module, "a torch.nn.Module")
        check_made("optimizer", optimizer, torch.optim.Optimizer, "a torch optimizer")
        check_made("loss_fn", loss_fn, (Callable, type(None)), "a function, a module or None")
        check_made("lr_scheduler", lr_scheduler, object, "a scheduler of this optimizer")
        if lr_scheduler_interval not in ("epoch", "step"):
            raise ConfigError(f"lr_scheduler_interval={lr_scheduler_interval!r}: must be 'epoch' or 'step'")
        given = quantum_training_config
        self.config = given if isinstance(given, QuantumConfig) else QuantumConfig.from_dict({} if given is None else given)
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        warn_of_left_out(model, optimizer)
        self.device = device_of(model, device)
        self.learner = QuantumModel({"quantum": self.config.quantum().model_dump()}, model, loss_fn)
        self.learner.optimizer, self.learner.lr_scheduler = optimizer, lr_scheduler
        self.learner.to(self.device) if device != KEEP else None
        self.processes = processes_found() if self.config.distributed_training else ALONE
        self.processes.agree(self.learner)
        self.training_history: dict[str, list[float]] = {name: [] for name in COLUMNS}
        self.current_epoch, self.global_step, self.task_id = 0, 0, -1
        self.best_metric: float | None = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self.last_metrics: dict[str, float] = {}

    @classmethod
    def from_training_args(
        cls,
        args: Any,
        model: nn.Module,
        loss_fn: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Any = None,
        quantum_training_config: Mapping[str, Any] | QuantumConfig | None = None,
    ) -> tuple[QuantumTrainer, dict[str, Any]]:
        """A trainer after `transformers.TrainingArguments`, and what to train it with: `trainer.train(**train_kwargs)`.

        Epochs, batch sizes, AdamW and its rate with its warm-up and decay, clipping, accumulation, bf16, checkpointing of
        gradients and the seed are those of `args`; `load_best_model_at_end` and save_strategy='best' write the best model to
        `output_dir`/best_model.pth, from where `load_model` reads it. There is an evaluation after each epoch if there are data.

        Args:
            args: any object with such attributes; those that are absent have the defaults of transformers.
            train_dataset, eval_dataset: map-style data sets of samples that make batches.
            optimizer: instead of AdamW; scheduled all the same.
            data_collator: makes a batch of samples; None: torch's, and `label` becomes `labels`.
            quantum_training_config: its keys go before those that follow from `args`.

        Raises:
            ConfigError: for arguments that mean what it cannot do: max_steps, fractions of epochs, fp16, other schedulers.
        """
        from qsr.qembed.integrations import from_training_args

        return from_training_args(
            cls, args, model, loss_fn, train_dataset, eval_dataset, optimizer, data_collator, quantum_training_config
        )

    @property
    def quantum_config(self) -> dict[str, Any]:
        """The configuration as a mapping."""
        return self.config.to_dict()

    # --- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        train_dataloader: Any,
        val_dataloader: Any = None,
        num_epochs: int = 10,
        early_stopping_patience: int | None = None,
        save_best_model: bool = False,
        model_save_path: str | Path = "./best_model.pth",
        epoch_callback: EpochCallback | None = None,
        first_epoch: int = 0,
    ) -> dict[str, list[float]]:
        """Train for some epochs; the schedule of the collapse starts anew.

        Args:
            train_dataloader, val_dataloader: iterables of batches with a length.
            num_epochs: at least 1.
            early_stopping_patience: epochs in a row without a better one after which training ends; None: never.
            save_best_model: write the model to `model_save_path` whenever it is the best so far.
            epoch_callback: called with each epoch, from 0 on, and its row of the history; True ends the training.
            first_epoch: epochs of this call that are done already, after `load_model`.

        Returns:
            The history of this call: a list for each of `qsr.qembed.history.COLUMNS`, NaN where there is nothing to report.

        Raises:
            ConfigError: for other numbers, and loaders without batches.
            RunFailed: (a RuntimeError) if the loss stays non-finite.
            Interrupted: on SIGINT or SIGTERM, after a step.
        """
        check_count("num_epochs", num_epochs, 1)
        check_count("first_epoch", first_epoch, 0)
        if first_epoch >= num_epochs:
            raise ConfigError(f"first_epoch={first_epoch}: must be less than num_epochs={num_epochs}")
        monitor = self.config.monitor or ("training/loss" if val_dataloader is None else "validation/loss")
        if val_dataloader is None and monitor.startswith("validation/"):
            raise ConfigError(f"monitor={self.config.monitor}: there is no val_dataloader")

        def save(fit: Trainer) -> None:
            self.current_epoch, self.best_metric, self.best_epoch = fit.epoch, best.value, best.epoch
            self.save_model(model_save_path)

        begun = len(self.training_history["train_loss"])
        best = BestModel(monitor, self.config.min_delta, save if save_best_model else None)
        if first_epoch:  # the call goes on: what was the best still is
            best.value, best.epoch = self.best_metric, self.best_epoch
        else:
            self.task_id += 1
        callbacks: list[Callback] = [EpochRows(self.training_history, epoch_callback), best]
        if early_stopping_patience is not None:
            check_count("early_stopping_patience", early_stopping_patience, 1)
            callbacks.append(stopping(best, early_stopping_patience, first_epoch))
        if save_best_model and val_dataloader is None and self.config.superposition_schedule != "constant":
            warnings.warn("save_best_model: training losses of different collapse probabilities are compared", stacklevel=2)
        self.stopped_epoch = None
        self.learner.begin_fit(num_epochs)
        try:
            self._fit(train_dataloader, val_dataloader, first_epoch, num_epochs, callbacks)
            self.processes.wait()
        finally:
            self.best_metric, self.best_epoch = best.value, best.epoch
            self.current_epoch = first_epoch + len(self.training_history["train_loss"]) - begun
            self.stopped_epoch = self.current_epoch - 1 if self.current_epoch < num_epochs else None
        return {name: values[begun:] for name, values in self.training_history.items()}

    def train_epoch(self, dataloader: Any, epoch: int = 0, collapse_probability: float | None = None) -> dict[str, float]:
        """Train for one epoch, which the history does not hear of.

        Args:
            epoch: from 0 on; decides the collapse probability, of a run of ten epochs unless `set_epoch` says otherwise, and
                what is drawn.
            collapse_probability: instead.

        Returns:
            Means over the samples, those of tokens over valid tokens: loss, task_loss, quantum_loss, uncertainty,
            entanglement_strength, superposition_coherence, collapse_probability, replay_loss, grad_norm, quantum_grad_norm.

        Raises:
            ConfigError, RunFailed, Interrupted: as `train`.
        """
        check_count("epoch", epoch, 0)
        found = LastEpoch()
        with self.learner.collapsing(collapse_probability):
            self._fit(dataloader, None, epoch, epoch + 1, [found])
        return found.metrics

    def _fit(self, data: Any, validation: Any, first: int, epochs: int, callbacks: Sequence[Callback]) -> None:
        """Epochs `first` to `epochs` - 1 on the Trainer."""
        settings = self._settings(epochs)
        objective = self._objective(data, validation)
        stage = stage_of(settings, objective)
        update = QuantumUpdate(self.learner, settings, stage, self.processes)
        bar = [ProgressBar()] if self.config.progress else []
        trainer = Trainer(self.learner, objective, update, [StepCount(self), *callbacks, *bar], settings, None, stage)
        trainer.epoch, trainer.step = first, first * objective.steps_per_epoch
        training = self.model.training
        try:
            trainer.fit()
        finally:
            self.learner.train(training)
            self.learner.release_couplings()

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """The loss of a batch with its graph, for whoever steps the optimizer; `last_metrics` holds what it is made of.

        Nothing else happens: no gradient is cleared or computed, and the batch goes to where the parameters are.
        """
        self.learner.training = self.model.training  # whoever trains switches the model
        loss = self.learner.training_step(moved(batch, self.model), batch_idx)
        self.last_metrics = visible(of_phase(numbers(self.learner.logged), "training"))
        return loss

    def set_epoch(self, epoch: int, num_epochs: int | None = None) -> None:
        """The collapse probability of an epoch, from 0 on, of so many (for loops of one's own)."""
        if num_epochs is not None:
            self.learner.begin_fit(num_epochs)
        self.learner.begin_step(epoch, 0, 1)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validate(self, dataloader: Any, collapse_probability: float | None = None, epoch: int | None = None) -> dict[str, float]:
        """Metrics on other data, without sampling: the likeliest outcome of each token that collapses.

        Args:
            collapse_probability: default: the one that training ends with.
            epoch: ignored.

        Returns:
            loss (with the terms of training), task_loss, quantum_loss, accuracy, nll, ece, uncertainty, entanglement_strength,
            superposition_coherence; NaN for scores of classes where labels are numbers.
        """
        objective = self._objective(dataloader, None)
        with forked_generators(cuda_devices(self.model)), self.learner.collapsing(collapse_probability):
            found = objective.evaluate(self.learner, objective.training, "validation")
        return {**dict.fromkeys(("accuracy", "nll", "ece"), math.nan), **of_phase(found, "validation")}

    def predict(
        self, data: Any, num_samples: int = 0, collapse_probability: float | None = None, seed: int = 0
    ) -> dict[str, Tensor]:
        """Probabilities and uncertainties of other data, see `qsr.qembed.predictions.predict`.

        Args:
            data: a loader, or one batch: a mapping or a tensor.
            num_samples: of sampled collapses; calibrated probabilities need several.
            collapse_probability: default: the one that training ends with.

        Raises:
            ConfigError: as `predict` there.
        """
        batches = [data] if isinstance(data, (Mapping, Tensor)) else data
        with self.learner.collapsing(collapse_probability):
            return predict(self.learner, batches, num_samples, seed)

    # --- what a fit is made of --------------------------------------------------------------------------------------

    def _settings(self, epochs: int) -> RunSettings:
        config = self.config
        train = {
            "max_epochs": epochs,
            "dir": "<NONE>",
            "seed": config.seed,
            "Q": config.gradient_accumulation_steps * self.processes.size,
            "precision": config.precision,
            "device": str(self.device),
        }
        return RunSettings.from_tree(
            {
                "model": {"module_name": dotted_name(QuantumModel), "quantum": config.quantum().model_dump()},
                "train": train,
                "gradient_clipping": {"max_norm": config.max_grad_norm},
                "scheduler": {"name": "none", "interval": self.lr_scheduler_interval},
            }
        )

    def _objective(self, data: Any, validation: Any) -> Supervised:
        config = self.config
        for given in (data, validation):
            if isinstance(given, Dataset):
                raise ConfigError(f"dataloader: wrap {type(given).__name__} into a torch.utils.data.DataLoader")
        return SharedSupervised(
            self.processes,
            config.quantum_sync,
            config.entanglement_sync,
            LoaderSource(data, config.seed),
            None if validation is None else LoaderSource(validation, config.seed),
            config.seed,
            config.gradient_accumulation_steps * self.processes.size,
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
        )

    # --- files ------------------------------------------------------------------------------------------------------

    def save_model(self, path: str | Path, include_optimizer: bool = True) -> None:
        """Write the model, and all that training on depends on, to one file, .pth or .pt; see `qsr.qembed.trainer_file`.

        Raises:
            ConfigError: for another ending, and a file that cannot be written.
        """
        if self.processes.rank == 0:
            write_trainer_file(path, self.state_dict(include_optimizer))

    def load_model(self, path: str | Path, include_optimizer: bool = True, strict: bool = True) -> dict[str, Any]:
        """Read what `save_model` wrote. The configuration of this trainer stays; that of the file is returned.

        Args:
            include_optimizer: also the optimizer, its scheduler, the history and the counters.
            strict: refuse weights of another model, or load those that fit.

        Raises:
            FileNotFoundError: if there is no such file.
            ConfigError: (a RuntimeError) for a damaged file, and for weights that do not fit; names them.
        """
        state = read_trainer_file(path)
        with going_on(str(path)):
            self.load_state_dict(state, include_optimizer, strict, str(path))
            return dict(state["config"])

    def state_dict(self, include_optimizer: bool = True) -> dict[str, Any]:
        """All that training on depends on, in plain containers and tensors."""
        state: dict[str, Any] = {
            "config": self.quantum_config,
            "model": self.model.state_dict(),
            "evaluation_probability": float(self.learner.evaluation_probability),
        }
        if not include_optimizer:
            return state
        replay = self.learner.replay
        return {
            **state,
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
            "replay": None if replay is None else replay.state_dict(),
            "history": self.training_history,
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(
        self, state: Mapping[str, Any], include_optimizer: bool = True, strict: bool = True, where: str = "state"
    ) -> None:
        """Go back to what `state_dict` gave.

        Raises:
            ConfigError: as `load_model`.
        """
        load_weights(self.model, state["model"], strict, where)
        self.learner.evaluation_probability.fill_(state["evaluation_probability"])
        if not include_optimizer or "optimizer" not in state:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_scheduler is not None and state["lr_scheduler"] is not None:
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.learner.replay is not None and state["replay"] is not None:
            self.learner.replay.load_state_dict(state["replay"])
        self.training_history = {name: list(values) for name, values in state["history"].items()}
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
