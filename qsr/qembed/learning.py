"""The learning of networks with quantum embeddings: when tokens collapse, the loss with what is added to it, its statistics."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError, Hparam, RunSettings
from qsr.qembed.arguments import checked_probability
from qsr.qembed.batches import parts_of
from qsr.qembed.checkpointing import enable_checkpointing
from qsr.qembed.embeddings import QuantumEmbeddings
from qsr.qembed.functional import at_least_single
from qsr.qembed.losses import base_of, entanglement_penalty, ignored_label, observed_loss, uncertainty_penalty
from qsr.qembed.metrics import at_least_two
from qsr.qembed.output import QEmbedOutput
from qsr.qembed.reading import logits_of
from qsr.qembed.replay import ReplayBuffer, replay_loss
from qsr.qembed.schedules import STANDALONE_EPOCHS, schedule
from qsr.qembed.settings import QuantumHparams
from qsr.qembed.statistics import finished, loss_of, of_classes, of_tokens, watched
from qsr.training.model import Model, ModelHparams
from qsr.training.protocols import UpdateRule
from qsr.training.schedule import Stage


class QuantumModelHparams(ModelHparams):
    """Settings of a network with quantum embeddings and of its learning."""

    quantum: QuantumHparams = Hparam(default_factory=QuantumHparams, help="collapse, regularisers, replay")


class QuantumModel(Model[QuantumModelHparams]):
    """A network on tokens, any module, with its loss and the quantum part of its learning.

    Args:
        hparams: the settings.
        network: returns logits, or an object or mapping with `logits`, or a tuple that begins with them; see
            `qsr.qembed.batches.parts_of` for what it is given. With a true attribute `binary` each logit is one of two classes.
        loss_fn: see `qsr.qembed.losses.call_loss`; None: the network's outputs carry `loss`.

    Attributes:
        layers: the quantum embeddings of the network.
        replay: samples of earlier tasks; None if they are not replayed.
        collapse_probability: of the tokens in training, now.
        optimizer, lr_scheduler: what trains it; None: what the settings of the run say.
    """

    shown: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "accuracy_as_read", "nll", "ece", "uncertainty")
    evaluation_probability: Tensor

    def __init__(self, hparams: Any, network: nn.Module, loss_fn: Any = None) -> None:
        super().__init__(hparams)
        self.network, self.loss_fn = network, loss_fn
        self.layers = [module for module in network.modules() if isinstance(module, QuantumEmbeddings)]
        accepted = inspect.signature(network.forward).parameters
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        self._accepted = frozenset(accepted)
        quantum = self.quantum
        self.replay = ReplayBuffer(quantum.replay_buffer_size, seed=0) if quantum.quantum_memory_replay else None
        self.optimizer: torch.optim.Optimizer | None = None
        self.lr_scheduler: Any = None
        self.epoch = 0
        self.epochs: int | None = None  # of the fit, once it is known
        self._schedule = schedule(
            quantum.superposition_schedule, quantum.schedule_epochs, quantum.schedule_period, quantum.collapse_probability
        )
        self.collapse_probability = self._schedule(0.0, None)
        self._fixed: float | None = None
        # Among the weights: a model that is loaded is evaluated as it was while it was trained.
        length = quantum.schedule_period if quantum.superposition_schedule == "cyclic" else quantum.schedule_epochs
        end = float(length or STANDALONE_EPOCHS)
        self.register_buffer("evaluation_probability", torch.tensor(self._schedule(end, None)))
        self.apply_settings()

    @property
    def _binary(self) -> bool:
        return bool(getattr(self.network, "binary", False))

    @property
    def quantum(self) -> QuantumHparams:
        """The quantum part of the settings."""
        return self.thparams.quantum

    def apply_settings(self) -> None:
        """Put the settings that concern them on the quantum embeddings of the network."""
        quantum = self.quantum
        enable_checkpointing(self.network, quantum.gradient_checkpointing)
        for layer in self.layers:
            layer.collapse_strategy = quantum.collapse_strategy or layer.collapse_strategy
            layer.memory_efficient = quantum.quantum_memory_efficient
            layer.drawing = quantum.collapse_optimization
            if layer.entanglement is not None:
                layer.entanglement.layout = quantum.entanglement_optimization
                layer.entanglement.frozen = not quantum.entanglement_training

    # --- along a fit ------------------------------------------------------------------------------------------------

    def begin_fit(self, epochs: int) -> None:
        """Spread the schedule over so many epochs. Evaluations have the collapse probability of the last one."""
        self.epochs = epochs
        self.evaluation_probability.fill_(self._schedule(epochs - 1.0, epochs))
        self.apply_settings()

    def configure_update(self, settings: RunSettings, stage: Stage) -> UpdateRule:
        from qsr.qembed.update import QuantumUpdate

        self.begin_fit(settings.train.max_epochs)
        return QuantumUpdate(self, settings, stage)

    def begin_step(self, epoch: int, step: int, steps: int) -> None:
        self.epoch = epoch
        within = step / steps if self.quantum.schedule_unit == "step" else 0.0
        self.collapse_probability = self._schedule(epoch + within, self.epochs)

    @contextmanager
    def collapsing(self, probability: float | None) -> Iterator[None]:
        """In here tokens collapse with this probability, in training and in evaluations; None: as they do by themselves."""
        before = self._fixed
        if probability is not None:
            checked_probability(probability)
        self._fixed = probability
        try:
            yield
        finally:
            self._fixed = before

    def release_couplings(self) -> None:
        """Let whoever trains the network next train its couplings."""
        for layer in self.layers:
            if layer.entanglement is not None:
                layer.entanglement.frozen = False

    # --- a batch ----------------------------------------------------------------------------------------------------

    @property
    def probability(self) -> float:
        """The collapse probability of the next batch: that of training, or in evaluation mode of evaluations."""
        if self._fixed is not None:
            return self._fixed
        return self.collapse_probability if self.training else float(self.evaluation_probability)

    def forward(self, batch: Any) -> Any:
        """What the network returns for a batch."""
        inputs, labels = parts_of(batch)
        for layer in self.layers:
            layer.set_collapse_probability(self.probability)
        named = dict(inputs) if isinstance(inputs, Mapping) else {}
        if named and not self._takes_all and not self._accepted & named.keys():
            raise ConfigError(f"batch: has {', '.join(named)}; the model takes {', '.join(sorted(self._accepted))}")
        first = () if isinstance(inputs, Mapping) else (inputs,)
        offered = {"collapse_probability": self.probability, **({"labels": labels} if self.loss_fn is None else {}), **named}
        return self.network(
            *first, **{name: value for name, value in offered.items() if self._takes_all or name in self._accepted}
        )

    def class_probs(self, logits: Tensor) -> Tensor:
        """Probabilities (..., C) that logits of the network mean; of two classes, where there is one logit for each label."""
        if self._binary or logits.dim() == 1:
            logits = logits[..., None]
        return at_least_single(at_least_two(logits)).softmax(dim=-1)

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The loss of a batch, its parts, and statistics of its tokens (see `finish_metrics`)."""
        _, labels = parts_of(batch)
        with watched(self.layers) as seen:
            outputs = self(batch)
        loss, task = loss_of(self.loss_fn, outputs, labels, seen)
        loss = loss + self._penalty(seen)
        metrics = {"task_loss": task, "quantum_loss": loss - task, "collapse_probability": loss.new_tensor(self.probability)}
        if not self.training:
            metrics |= self._scores(logits_of(outputs), labels)
        elif self.replay is not None:
            metrics["replay_loss"] = self._replayed(self.replay, batch, outputs, seen)
            loss = loss + metrics["replay_loss"]
        return {"loss": loss, **metrics, **of_tokens(outputs, seen)}

    def _scores(self, logits: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """What accuracy and calibration are made of; {} where labels are no classes but numbers."""
        binary = self._binary or isinstance(base_of(self.loss_fn), nn.BCEWithLogitsLoss)
        if labels is None or (labels.is_floating_point() and not binary):
            return {}
        return of_classes(logits, labels, ignored_label(self.loss_fn))

    def finish_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        return finished(means)

    def _penalty(self, seen: Sequence[QEmbedOutput]) -> Tensor | float:
        """What the quantum settings add to the loss: means over the embeddings of the network."""
        quantum = self.quantum
        total: Tensor | float = 0.0
        for found in seen:
            if quantum.uncertainty_regularization:
                term = uncertainty_penalty(found.uncertainty, found.mask, quantum.uncertainty_target)
                total = total + quantum.uncertainty_regularization / len(seen) * term
            if quantum.entanglement_training and found.bonds is not None:
                term = entanglement_penalty(found.bonds, quantum.entanglement_type)
                total = total + quantum.entanglement_weight / len(seen) * term
        return total

    def _replayed(self, buffer: ReplayBuffer, batch: Any, outputs: Any, seen: Sequence[QEmbedOutput]) -> Tensor:
        """The loss on samples of the buffer; the samples of the batch are offered to it in the first epoch."""
        quantum = self.quantum
        inputs, labels = parts_of(batch)
        if labels is None or self.loss_fn is None:
            raise ConfigError("quantum_memory_replay=True: needs labels and a loss_fn")
        named = isinstance(inputs, Mapping)
        loss = labels.new_zeros((), dtype=torch.float32)
        if len(buffer):
            stored = buffer.draw(quantum.replay_batch_size, labels.device)
            with watched(self.layers) as found:
                again = self(stored.inputs if named else stored.inputs["inputs"])
            weights = quantum.replay_alpha, quantum.replay_beta, quantum.replay_gamma
            first = found[0] if found else None

            def whole_loss(*_: Tensor) -> Tensor:  # of one's own: there is no part that wants logits alone
                return observed_loss(self.loss_fn, again, stored.labels, first)

            base_loss = getattr(self.loss_fn, "base_loss", whole_loss)
            loss = replay_loss(stored, logits_of(again), None if first is None else first.probs, base_loss, *weights)
        if self.epoch == 0 and torch.is_grad_enabled():  # a look at the metrics ahead of the training is none of it
            probs = seen[0].probs if seen else None
            given = inputs if named else {"inputs": inputs}
            kept = {name: values for name, values in given.items() if isinstance(values, Tensor)}
            buffer.add(kept, labels, logits_of(outputs), probs)
        return loss
