"""What the trainer is made of: objectives own the loss, update rules own the step, callbacks watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:
    from qsr.training.trainer import Trainer

Metrics = dict[str, float]


class RunFailed(RuntimeError):
    """A run that cannot go on; the last good weights are saved."""


class FailedAlone(RunFailed):
    """Of several processes this one cannot go on; the others will only find that it has ended."""


@dataclass(frozen=True)
class BatchKey:
    """Names one minibatch; its draws are seeded by this (see `qsr.training.random`)."""

    seed: int
    step: int
    minibatch: int


class Batch(Protocol):
    """Whatever an objective's loss needs; it knows its key."""

    @property
    def key(self) -> BatchKey: ...


class Objective(Protocol):
    """Owns the loss; each kind says which models and batches it takes."""

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[Sequence[BatchKey]]:
        """The minibatches of each step of an epoch, from its step `first` on; endless for samplers."""

    def prepare(self, model: Any, keys: Sequence[BatchKey]) -> tuple[Sequence[Batch], Metrics]:
        """What must be known of all minibatches of a step before any loss (for VMC: samples and the mean energy).

        A minibatch whose graph would not fit into the memory comes as several batches with one key.
        """

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, Metrics]:
        """Scalar whose gradients are summed over the minibatches of a step, and what to record of it."""

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """What to record of a step, from what its minibatches recorded."""

    def state_dict(self) -> dict[str, Any]:
        """What it has chosen along the way, in plain containers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class BudgetedObjective(Objective, Protocol):
    """An objective whose work is cut into chunks.

    Attributes:
        memory_bytes: that the intermediate results of a step may take; smaller chunks change results by rounding only.
    """

    memory_bytes: int


@runtime_checkable
class ResidualObjective(BudgetedObjective, Protocol):
    """An energy: its gradient is the overlap of residuals with grad log psi, which is what natural gradients need."""

    def residuals(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct configurations (U, N), their weights (U,) and E_u - <E> (U,), float64 or complex128.

        The weights of all minibatches of a step add up to one, and <E> is the mean over all of them, or over their group.
        """

    def conditions(self, batch: Any) -> tuple[Tensor, Tensor] | None:
        """For samples of several states: the sampler's context (U, C) and the number (U,) of each configuration's group."""


@runtime_checkable
class EpochObjective(Objective, Protocol):
    """An objective with a finite number of data, and so with epochs."""

    def end_epoch(self, model: Any, epoch: int) -> Metrics:
        """Metrics of the epoch that has ended (the `epoch`-th), and of an evaluation on data held back."""


class UpdateRule(Protocol):
    """Owns the step: a torch optimizer with its scheduler and clipping, a natural gradient, a closed-form sweep."""

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""

    def update(self, model: nn.Module, objective: Objective, keys: Sequence[BatchKey]) -> Metrics:
        """Change the model's weights by one step."""

    def end_epoch(self, metrics: Metrics) -> None:
        """What changes between epochs of data, with the metrics of the one that has ended."""

    def slow_down(self) -> None:
        """Halve the rate of all steps to come (after a step that was not finite)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs, in plain containers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Callback:
    """Watches a fit; every hook may be left out."""

    def on_fit_start(self, trainer: Trainer) -> None: ...

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None: ...

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None: ...

    def on_epoch_end(self, trainer: Trainer) -> None: ...

    def on_checkpoint(self, trainer: Trainer) -> None: ...

    def on_exception(self, trainer: Trainer, error: BaseException) -> None: ...

    def on_fit_end(self, trainer: Trainer) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
