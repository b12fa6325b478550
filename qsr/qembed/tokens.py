"""A quantum embedding as the tokens of a sampler: deterministic and causal, read all at once or one patch at a time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsr.qembed.chain import left_messages
from qsr.qembed.embeddings import QuantumEmbeddings
from qsr.qembed.functional import straight_through
from qsr.qembed.senses import Senses
from qsr.qembed.settings import PatchEmbedding
from qsr.qembed.tables import KroneckerTable
from qsr.samplers.embedding import Tokens, TokenState
from qsr.samplers.flips import Rows
from qsr.samplers.memory import TokenMemory

MAX_TABLE = 2**11  # rows of a table of all patches' vectors, made anew in every pass


@dataclass(frozen=True)
class VectorTable:
    """The vectors (V+1, H) of all patches and the start, for one set of weights."""

    vectors: Tensor

    def branch(self, length: int, copies: int, rows: Rows) -> VectorTable:
        return self


@dataclass(frozen=True)
class SenseState:
    """What earlier tokens leave for the senses of later ones, after each of the last w tokens and before them.

    Attributes:
        read: number of tokens so far, the start token among them; w = `read` in a state of `begin`, else 0.
        context: (B, w+1, D) states of the context encoder; None without context.
        message: (B, w+1, K) ln of the weights of a token's senses summed over all before it; None without entanglement.
    """

    read: int
    context: Tensor | None
    message: Tensor | None

    def branch(self, length: int, copies: int, rows: Rows) -> SenseState:
        read = length + 1

        def chosen(states: Tensor | None) -> Tensor | None:
            assert states is None or states.shape[1] == self.read + 1, "only a state of `begin` can be branched"
            return None if states is None else states[rows, read : read + 1].repeat_interleave(copies, dim=0)

        return SenseState(read, chosen(self.context), chosen(self.message))


class PatchQEmbed(Tokens):
    """`QuantumEmbeddings` of patches: id = sum_i n_i 2^i for the i-th site of the patch, 2^p for the start token.

    Without context and entanglement a patch has one vector wherever it stands. With them its senses depend on the tokens before
    it, the start among them: through the context, and through the left messages of the chain.

    Args:
        settings: of the embedding.
        sites: p.
        width: H, numbers of a vector.
        local_dim: states per site, 2 in the id above.
    """

    differentiated_whole = True  # see `qsr.training.per_sample`: parameters are used outside the modules that own them
    digits: Tensor

    def __init__(self, settings: PatchEmbedding, sites: int, width: int, local_dim: int = 2) -> None:
        super().__init__()
        self.register_buffer("digits", local_dim ** torch.arange(sites), persistent=False)
        self.start = local_dim**sites
        arguments = settings.embedding_settings()
        vocabulary = self.start + 1
        if settings.factorization is not None:
            # Each leaf holds the digits of a few neighbouring sites, the first one the start's as well.
            arguments["order"] = sites + 1 if settings.order is None else settings.order
            leaf = -(-(sites + 1) // arguments["order"])
            vocabulary = local_dim ** (leaf * arguments["order"])
        self.strategy = settings.collapse_strategy
        self.embedding = QuantumEmbeddings(vocabulary, width, causal=True, **arguments)
        self.context_free = settings.context_encoder is None and settings.entanglement is None
        self.memory = self._counted(settings, width)
        self._freeze_unused()

    def forward(self, values: Tensor) -> tuple[Tensor, TokenState | None]:
        """As `begin`."""
        return self._read(None, nn.functional.pad(self._ids(values), (1, 0), value=self.start))

    def begin(self, values: Tensor) -> tuple[Tensor, TokenState | None]:
        found: tuple[Tensor, TokenState | None] = self(values)  # a call of the module: per-sample gradients listen to it
        return found

    def read(self, state: TokenState | None, values: Tensor) -> tuple[Tensor, TokenState | None]:
        return self._read(state, self._ids(values))

    def _ids(self, values: Tensor) -> Tensor:
        return (values.long() * self.digits).sum(dim=-1)

    def _read(self, state: Any, ids: Tensor) -> tuple[Tensor, TokenState | None]:
        # As in the embedding: rounding phases and probabilities to 8 bits would ruin interference and normalisation.
        kind = ids.device.type
        rounding = torch.amp.is_autocast_available(kind)  # not for tensors without values
        with torch.autocast(kind, enabled=False) if rounding else nullcontext():
            return self._by_table(state, ids) if self.context_free else self._in_sequence(state, ids)

    def _by_table(self, state: VectorTable | None, ids: Tensor) -> tuple[Tensor, VectorTable | None]:
        count = self.embedding.vocab_size
        if state is None and count <= min(ids.numel(), MAX_TABLE):
            everything = torch.arange(count, device=ids.device)
            state = VectorTable(self._vectors(*self._rows(everything)))
        vectors = self._vectors(*self._rows(ids)) if state is None else nn.functional.embedding(ids, state.vectors)
        return vectors, state

    def _in_sequence(self, state: SenseState | None, ids: Tensor) -> tuple[Tensor, SenseState]:
        log_probs, phases, senses = self._rows(ids)
        read = 0 if state is None else state.read
        context, message = self._first(log_probs) if state is None else (state.context, state.message)
        encoder: Any = self.embedding.context_encoder
        if context is not None:
            seen, context = encoder.follow(context[:, -1], read, self.embedding.superposed(log_probs, phases, senses))
            log_probs = self.embedding.posterior(log_probs, phases, senses, torch.ones_like(ids, dtype=torch.bool), seen)
        if message is not None:
            message = self._messages(message[:, -1], read, log_probs)
            log_probs = message[:, 1:]
        if state is not None:  # nothing goes back behind the last token any more
            context, message = (None if states is None else states[:, -1:] for states in (context, message))
        return self._vectors(log_probs, phases, senses), SenseState(read + ids.shape[1], context, message)

    def _first(self, log_probs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The states (B, 1, ...) before the start token."""
        zeros = log_probs.new_zeros
        context = None if self.embedding.context_encoder is None else zeros(len(log_probs), 1, self.embedding.embedding_dim)
        return context, None if self.embedding.entanglement is None else zeros(len(log_probs), 1, log_probs.shape[-1])

    def _messages(self, before: Tensor, read: int, log_probs: Tensor) -> Tensor:
        """(B, w+1, K) left messages: that of the token before w tokens (B, w, K), and theirs."""
        assert self.embedding.entanglement is not None
        if not read:
            found, _ = left_messages(log_probs, self.embedding.entanglement.chain_couplings(log_probs.shape[1])[0])
            return torch.cat([before[:, None], found], dim=1)
        # The message of a token stands for all up to it, as its own probabilities do for the first of a chain.
        couplings, _ = self.embedding.entanglement.chain_couplings(read + log_probs.shape[1])
        return left_messages(torch.cat([before[:, None], log_probs], dim=1), couplings[:, read - 1 :])[0]

    def _rows(self, ids: Tensor) -> tuple[Tensor, Tensor, Senses]:
        """ln p and phases (..., K) and senses of ids (...)."""
        log_probs, phases, vectors = self.embedding.rows(ids)
        return log_probs, phases, Senses(vectors)

    def _vectors(self, log_probs: Tensor, phases: Tensor, senses: Senses) -> Tensor:
        """(..., H) of what `_rows` gives, with the probabilities after context and entanglement."""
        if self.strategy == "none":
            states = senses.superposed(log_probs, phases)
        else:
            probs = log_probs.exp()
            weights = probs if self.strategy == "soft" else straight_through(probs.argmax(dim=-1), probs)
            states = senses.mean(weights)
        return self.embedding.read(states).to(self.embedding.output_scale.dtype)

    def _freeze_unused(self) -> None:
        """Parameters that nothing depends on are no variational parameters."""
        unused: list[Any] = []
        if self.strategy != "none" and self.embedding.context_encoder is None:
            unused.append(self.embedding.phases)
        if self.embedding.num_states == 1:
            unused += [self.embedding.amplitude_logits, self.embedding.phases]
        coupling = self.embedding.entanglement
        if coupling is not None and coupling.correlation_type == "custom":
            unused.append(coupling.coupling_imag)  # of |exp J|, all that probabilities depend on, it is the phase
        for part in unused:
            part.requires_grad_(False)

    def _counted(self, settings: PatchEmbedding, width: int) -> TokenMemory:
        """Measured in units of what the senses of a token take, and of its vector."""
        senses = 2 * settings.num_states * self.embedding.sense_dim
        reading = 3 * senses + 2 * width
        graph = 5 * senses + (6 * width if settings.readout == "born" else 0)
        graph += {"mean": 3, "rnn": 11}.get(settings.context_encoder or "", 0) * width
        if settings.factorization is not None:
            factors = sum(part.row_graph() for part in self.embedding.children() if isinstance(part, KroneckerTable))
            products = settings.rank * senses
            reading = max(reading, senses + 9 * products // 8)
            graph = factors + max(graph, senses + 2 * products)  # the tables' own gradients come last
        if self.context_free and self.embedding.vocab_size <= MAX_TABLE:
            return TokenMemory(graph=graph, table=self.embedding.vocab_size)
        kept = 0 if settings.context_encoder is None else width
        kept += 0 if settings.entanglement is None else settings.num_states
        return TokenMemory(reading, kept, graph)
