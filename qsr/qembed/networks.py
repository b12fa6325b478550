"""Networks on quantum embeddings: classify sequences, fill in masked tokens, clean measured configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qsr.hparams.base import ConfigError
from qsr.qembed.arguments import checked_mask, checked_size
from qsr.qembed.embeddings import Noise, QuantumEmbeddings
from qsr.qembed.entanglement import Bonds
from qsr.qembed.functional import check_name
from qsr.qembed.metrics import IGNORED
from qsr.qembed.output import QEmbedOutput

EMBEDDINGS = ("qembed", "plain")
_POSITION_SCALE = 0.02


@dataclass(frozen=True, eq=False)
class QEmbedModelOutput(Mapping[str, Any]):
    """What a network returns, by attribute or by name; also a mapping of `NAMES`, and by position (loss, logits).

    Attributes:
        logits: (B, C), (B, L, V) or (B, N), as the network says.
        hidden_states: (B, L, D) of the last layer, zero at padding.
        mask: (B, L) bool: the tokens that count.
        embedding: of the quantum embedding; None for a plain one, and then all that is read off it is None.
        loss: of the labels; None without labels.
    """

    logits: Tensor
    hidden_states: Tensor
    mask: Tensor
    embedding: QEmbedOutput | None = None
    loss: Tensor | None = None

    NAMES = (
        *("loss", "logits", "uncertainty", "quantum_uncertainty", "superposition_coherence", "bonds", "entanglement"),
        *("collapse_probs", "outcome", "mask", "hidden_states", "embedding"),
    )

    @property
    def uncertainty(self) -> Tensor | None:
        """(B, L) in [0, 1], of the senses before the measurement."""
        return None if self.embedding is None else self.embedding.uncertainty

    @property
    def quantum_uncertainty(self) -> Tensor | None:
        """Another name of `uncertainty`."""
        return self.uncertainty

    @property
    def superposition_coherence(self) -> Tensor | None:
        """(B, L) normalised l1 coherence, dephased by the collapse probability."""
        return None if self.embedding is None else self.embedding.coherence

    @property
    def bonds(self) -> Bonds | None:
        """States of the pairs of tokens; None without entanglement."""
        return None if self.embedding is None else self.embedding.bonds

    @property
    def entanglement(self) -> Tensor | None:
        """(B, P) normalised entropy of the bonds, computed when asked for."""
        return None if self.embedding is None else self.embedding.entanglement

    @property
    def collapse_probs(self) -> Tensor | None:
        """(B, L, K) probabilities of the senses."""
        return None if self.embedding is None else self.embedding.probs

    @property
    def outcome(self) -> Tensor | None:
        """(B, L) int64 sense that was found, -1 where none was."""
        return None if self.embedding is None else self.embedding.outcome

    def __getitem__(self, name: str | int | slice) -> Any:
        if isinstance(name, (int, slice)):  # as transformers.Trainer reads outputs that are no dict
            return (self.loss, self.logits)[name]
        if name not in self.NAMES:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.NAMES  # without computing what stands there

    def __iter__(self) -> Iterator[str]:
        return iter(self.NAMES)

    def __len__(self) -> int:
        return len(self.NAMES)


class _Network(nn.Module):
    """Tokens to hidden vectors: an embedding, learned positions, and pre-norm transformer layers that see all valid tokens.

    Args:
        vocab_size: V.
        embedding_dim: D.
        num_states: K, of embedding='qembed'.
        num_layers: 0: every hidden vector is that of its token and its position alone.
        nhead: heads of a layer.
        max_len: most tokens in a sequence.
        dropout: of embedded tokens and in the layers.
        embedding: 'qembed', or 'plain': nn.Embedding with the same network behind it.
        embedding_kwargs: of `QuantumEmbeddings`; a plain embedding has `padding_idx` alone.

    Raises:
        ConfigError: (a ValueError) for a setting out of bounds.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        num_states: int,
        *,
        num_layers: int = 1,
        nhead: int = 2,
        max_len: int = 512,
        dropout: float = 0.0,
        embedding: str = "qembed",
        **embedding_kwargs: Any,
    ) -> None:
        super().__init__()
        check_name("embedding", embedding, EMBEDDINGS)
        self.vocab_size = checked_size("vocab_size", vocab_size, None, "")
        self.embedding_dim = checked_size("embedding_dim", embedding_dim, None, "")
        self.max_len = checked_size("max_len", max_len, None, "")
        if num_layers < 0:
            raise ConfigError(f"num_layers={num_layers}: must be at least 0")
        if nhead < 1 or (num_layers and embedding_dim % nhead):
            raise ConfigError(f"nhead={nhead}: must divide embedding_dim={embedding_dim}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}: must be at least 0 and less than 1")
        self.padding_idx: int | None = embedding_kwargs.get("padding_idx")
        self.embedding: QuantumEmbeddings | nn.Embedding
        if embedding == "qembed":
            self.embedding = QuantumEmbeddings(vocab_size, embedding_dim, num_states, **embedding_kwargs)
        elif others := [name for name in embedding_kwargs if name != "padding_idx"]:
            raise ConfigError(f"{others[0]}: means nothing for embedding='plain'")
        else:
            self.embedding = nn.Embedding(vocab_size, embedding_dim, **embedding_kwargs)
        self.positions = nn.Parameter(_POSITION_SCALE * torch.randn(max_len, embedding_dim))
        self.dropout = nn.Dropout(dropout)
        # nn.TransformerEncoder would start all layers with the same weights.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embedding_dim, nhead, 4 * embedding_dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embedding_dim) if num_layers else nn.Identity()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        collapse_probability: float | Tensor | None = None,
        context: Tensor | None = None,
        *,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> QEmbedModelOutput:
        """Logits of tokens (B, L).

        Args:
            attention_mask: (B, L) of 0 (padding) and 1.
            labels: as `loss_of` takes them; the loss is computed then.
            collapse_probability, context, noise, sample: of `QuantumEmbeddings`. A plain embedding has nothing that could
                collapse, and refuses a context.

        Raises:
            TypeError, IndexError, ConfigError: as `QuantumEmbeddings`; also for sequences longer than `max_len`.
        """
        if input_ids.dim() == 2 and input_ids.shape[1] > self.max_len:
            raise ConfigError(f"input_ids: {input_ids.shape[1]} tokens; the network has positions for max_len={self.max_len}")
        found: QEmbedOutput | None = None
        if isinstance(self.embedding, QuantumEmbeddings):
            found = self.embedding(
                input_ids,
                attention_mask,
                context=context,
                collapse_probability=collapse_probability,
                noise=noise,
                sample=sample,
            )
            vectors, mask = found.embeddings, found.mask
        else:
            if context is not None:
                raise ConfigError("context: means nothing for embedding='plain'")
            mask = checked_mask(input_ids, attention_mask, self.vocab_size, self.padding_idx)
            vectors = self.embedding(input_ids.long())
        hidden = self._hidden(vectors, mask)
        logits = self._read(hidden, mask)
        loss = None if labels is None else self.loss_of(logits, labels)
        return QEmbedModelOutput(logits, hidden, mask, found, loss)

    def _hidden(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) after the layers, of embedded tokens (B, L, D); zero at padding."""
        hidden = self.dropout(vectors + self.positions[: vectors.shape[1]])
        # A softmax over no keys is NaN where torch takes its fast path: rows without any token attend to their padding, and what
        # they find is cut off below.
        padding = ~mask & mask.any(dim=1, keepdim=True)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return self.norm(hidden) * mask[..., None]

    def _read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits of hidden vectors (B, L, D)."""
        raise TypeError(f"{type(self).__name__} does not define _read")

    @staticmethod
    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy, a scalar, of logits (..., C) and labels (...) int64, over those that are not -100; 0 for none."""
        labels = labels.flatten()
        total = F.cross_entropy(logits.flatten(0, -2), labels, ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp_min(1)


class QuantumSequenceClassifier(_Network):
    """Logits (B, C) of whole sequences.

    Args:
        vocab_size, embedding_dim, num_states, network: see above; `num_layers`, `nhead`, `max_len`, `dropout`, `embedding`
            and what the embedding takes.
        num_labels: C.
        pooling: what is read: 'mean' over valid tokens, the 'first' token, or that at a position. With num_layers=0 a
            position is the embedding of this one token, and all that is known of the others is its collapse.

    Raises:
        ConfigError: (a ValueError) for a setting out of bounds.
    """

    def __init__(
        self,
        vocab_size: int,
        num_labels: int,
        embedding_dim: int = 32,
        num_states: int = 4,
        *,
        pooling: Literal["mean", "first"] | int = "mean",
        **network: Any,
    ) -> None:
        super().__init__(vocab_size, embedding_dim, num_states, **network)
        if isinstance(pooling, int) and not 0 <= pooling < self.max_len:
            raise ConfigError(f"pooling={pooling}: must be a position from 0 to {self.max_len - 1}")
        if not isinstance(pooling, int) and pooling not in ("mean", "first"):
            raise ConfigError(f"pooling={pooling!r}: must be 'mean', 'first' or a position")
        self.pooling = pooling
        self.head = nn.Linear(embedding_dim, checked_size("num_labels", num_labels, None, ""))

    def _read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "mean":
            pooled = hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        else:
            position = 0 if isinstance(self.pooling, str) else self.pooling
            if position >= hidden.shape[1]:
                raise ConfigError(f"pooling={position}: the input has {hidden.shape[1]} tokens")
            pooled = hidden[:, position]
        return self.head(pooled)


class QuantumMaskedLM(_Network):
    """Logits (B, L, V) of the token at each position; labels (B, L) are -100 where none was masked.

    Args:
        vocab_size, embedding_dim, num_states, network: as in `QuantumSequenceClassifier`.
        num_outputs: V, the first tokens of the vocabulary, which are all that can be predicted; None: all.

    Raises:
        ConfigError: (a ValueError) for a setting out of bounds.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 32,
        num_states: int = 4,
        *,
        num_outputs: int | None = None,
        **network: Any,
    ) -> None:
        super().__init__(vocab_size, embedding_dim, num_states, **network)
        outputs = vocab_size if num_outputs is None else num_outputs
        if not 1 <= outputs <= vocab_size:
            raise ConfigError(f"num_outputs={outputs}: must be between 1 and vocab_size={vocab_size}")
        self.head = nn.Linear(embedding_dim, outputs)

    def _read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.head(hidden)


class QuantumDenoiser(_Network):
    """Logits (B, N) of the true state of each site being 1, from the patches of a measured configuration.

    Args:
        vocab_size, embedding_dim, num_states, network: as in `QuantumSequenceClassifier`.
        token_sites: (L, p) int64 the sites of each token; together all sites, each once.

    Raises:
        ConfigError: (a ValueError) for a setting out of bounds.
    """

    binary: ClassVar[bool] = True  # each logit is one of two classes
    order: Tensor

    def __init__(
        self, vocab_size: int, token_sites: Tensor, embedding_dim: int = 32, num_states: int = 4, **network: Any
    ) -> None:
        super().__init__(vocab_size, embedding_dim, num_states, **network)
        sites = token_sites.flatten()
        order = sites.argsort()
        if token_sites.dim() != 2 or not torch.equal(sites[order].cpu(), torch.arange(len(sites))):
            raise ConfigError(f"token_sites: must be (L, p) and hold the sites 0 to {len(sites) - 1}, each once")
        self.num_tokens = len(token_sites)
        self.register_buffer("order", order, persistent=False)
        self.head = nn.Linear(embedding_dim, token_sites.shape[1])

    def _read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if hidden.shape[1] != self.num_tokens:
            raise ConfigError(f"input_ids: {hidden.shape[1]} tokens; the configurations have {self.num_tokens} patches")
        return self.head(hidden).flatten(1)[:, self.order]

    @staticmethod
    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross entropy, a scalar, of logits (B, N) and states (B, N) of 0 and 1."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
