"""Memory of earlier examples, against forgetting: a fair sample of all that were seen, and the loss of answering otherwise.

DER++ (Buzzega et al., NeurIPS 2020, arXiv 2004.07211) remembers labels and logits; here the sense probabilities, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import masked_mean, relative_entropy
from qsr.qembed.losses import task_loss
from qsr.qembed.metrics import IGNORED

_TOKENS, _MASK, _LABELS = "input_ids", "attention_mask", "labels"
_STORED = (_LABELS, "logits", "probs")
Row = dict[str, Tensor]


@dataclass(frozen=True)
class ReplayBatch:
    """n examples of a `ReplayBuffer`; sequences are padded to the longest of them.

    Attributes:
        inputs: (n, ...) each; with an `attention_mask` (n, L) if tokens had to be padded.
        labels: (n,) or (n, L), -100 at padding.
        logits: (n, ...) that the model gave, 0 at padding.
        probs: (n, L, K) sense probabilities, 0 where a token did not count; None if there are none.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    logits: Tensor
    probs: Tensor | None


class ReplayBuffer:
    """A uniform sample of the examples that were added: of t so far, each is here with probability min(1, size/t).

    (Vitter, ACM Trans. Math. Softw. 11, 37 (1985), algorithm R.) Examples lie in main memory, without graph; all draws come
    from the buffer's own generator.

    Args:
        size: how many examples are kept.
        seed: of the generator.

    Raises:
        ConfigError: for a size below 1.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ConfigError(f"replay_buffer_size={size}: must be at least 1")
        self.size = size
        self.num_seen = 0
        self._rows: list[Row] = []
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, inputs: Mapping[str, Tensor], labels: Tensor, logits: Tensor, probs: Tensor | None = None) -> None:
        """Show B examples to the buffer.

        Args:
            inputs: arguments of the model, (B, ...) each; not called `labels`, `logits` or `probs`.
            labels: (B,) or (B, L).
            logits: (B, ...) that the model gave.
            probs: (B, L, K) sense probabilities, 0 where a token does not count.

        Raises:
            ConfigError: if they are not equally many, or not the same fields as in earlier calls.
        """
        clash = [name for name in inputs if name in _STORED]
        if clash:
            raise ConfigError(f"inputs: must not hold {', '.join(clash)}, which have arguments of their own")
        fields = {**inputs, _LABELS: labels, "logits": logits, **({} if probs is None else {"probs": probs})}
        counts = {name: len(values) for name, values in fields.items()}
        if len(set(counts.values())) > 1:
            raise ConfigError(f"replay: must be equally many of each field, found {counts}")
        if self._rows and set(self._rows[0]) != set(fields):
            raise ConfigError(f"replay: must have the fields {', '.join(self._rows[0])} as before, found {', '.join(fields)}")
        for index in range(len(labels)):
            place = self._next_place()
            if place is not None:
                # A copy: a view would keep the whole batch alive, and be saved with it.
                row = {name: values[index].detach().to("cpu", copy=True) for name, values in fields.items()}
                self._rows[place : place + 1] = [row]

    def _next_place(self) -> int | None:
        """Where the next example goes; None: nowhere."""
        self.num_seen += 1
        if len(self._rows) < self.size:
            return len(self._rows)
        drawn = int(torch.randint(self.num_seen, (), generator=self._generator))
        return drawn if drawn < self.size else None

    def draw(self, count: int, device: torch.device | str = "cpu") -> ReplayBatch:
        """`count` different examples at random, all if there are fewer.

        Raises:
            ConfigError: for an empty buffer, a count below 1, and examples of different shapes that are no sequences of
                `input_ids`.
        """
        if count < 1:
            raise ConfigError(f"replay_batch_size={count}: must be at least 1")
        if not self._rows:
            raise ConfigError("replay: the buffer is empty")
        order = torch.randperm(len(self._rows), generator=self._generator)[:count]
        rows = [self._rows[index] for index in order.tolist()]
        lengths = [len(row[_TOKENS]) if _TOKENS in row else None for row in rows]
        found = {name: _stacked(name, [row[name] for row in rows], lengths).to(device) for name in rows[0]}
        if len(set(lengths)) > 1 and _MASK not in found:
            positions = torch.arange(found[_TOKENS].shape[1], device=device)
            found[_MASK] = (positions < torch.tensor(lengths, device=device)[:, None]).long()
        inputs = {name: values for name, values in found.items() if name not in _STORED}
        return ReplayBatch(inputs, found[_LABELS], found["logits"], found.get("probs"))

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors in plain containers."""
        return {
            "size": self.size,
            "num_seen": self.num_seen,
            "rows": list(self._rows),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another buffer was.

        Raises:
            ConfigError: if it had another size.
        """
        if state["size"] != self.size:
            raise ConfigError(f"replay_buffer_size={self.size}: the saved buffer has {state['size']}")
        self.num_seen = state["num_seen"]
        self._rows = [{name: value.cpu() for name, value in row.items()} for row in state["rows"]]
        self._generator.set_state(state["generator"].cpu())


def replay_loss(
    batch: ReplayBatch,
    logits: Tensor,
    probs: Tensor | None,
    base_loss: Callable[[Tensor, Tensor], Tensor],
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 0.1,
) -> Tensor:
    """alpha <(z - z')^2> + beta base_loss(z, y) + gamma <KL(p' || p)> of what the model says now to remembered examples.

    Primes mark what it said then; means are over the tokens that count. Without sense probabilities the last term is 0.

    Args:
        logits: z, as `batch.logits`.
        probs: p (n, L, K), or None.
        base_loss: of logits and labels, passed on as `losses.task_loss` does.

    Raises:
        ConfigError: for logits or probs of other shapes than those of the batch.
    """
    for name, now, then in (("logits", logits, batch.logits), ("probs", probs, batch.probs)):
        if now is not None and then is not None and now.shape != then.shape:
            raise ConfigError(f"{name}: must have the shape {tuple(then.shape)} of the batch, found {tuple(now.shape)}")
    squares = (logits - batch.logits).square()
    mask = batch.inputs.get(_MASK)
    if mask is not None and mask.shape == batch.labels.shape == logits.shape[:2]:  # logits of each token
        squares = squares[mask != 0]
    total = alpha * masked_mean(squares) + beta * task_loss(base_loss, logits, batch.labels)
    if probs is None or batch.probs is None:
        return total
    there = batch.probs.sum(dim=-1) > 0.5
    return total + gamma * masked_mean(relative_entropy(batch.probs, probs), there)


def _stacked(name: str, values: list[Tensor], lengths: list[int | None]) -> Tensor:
    """Values of n examples as one tensor; the first axis is padded where it is that of the tokens."""
    if len({value.shape for value in values}) == 1:
        return torch.stack(values)
    of_tokens = all(value.dim() and len(value) == length for value, length in zip(values, lengths, strict=True))
    if not of_tokens or len({value.shape[1:] for value in values}) > 1:
        shapes = sorted({tuple(value.shape) for value in values})
        raise ConfigError(f"{name}: examples of different shapes {shapes} can be replayed together only along {_TOKENS}")
    if name == _LABELS and values[0].is_floating_point():
        raise ConfigError(f"{_LABELS}: of different lengths must be classes, which can be left out, found {values[0].dtype}")
    padding = float(IGNORED) if name == _LABELS else 0.0
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding)
