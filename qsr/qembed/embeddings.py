"""Tokens as superpositions of K senses: context moves the amplitudes, a measurement picks a sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qsr.hparams.base import ConfigError
from qsr.qembed.arguments import check_fits, checked_mask, checked_probability, checked_size, is_exactly
from qsr.qembed.collapse import COLLAPSE_STRATEGIES, Noise, draw_noise, is_random, measure
from qsr.qembed.context import context_encoder as make_encoder
from qsr.qembed.entanglement import Correlations, EntanglementCorrelation
from qsr.qembed.functional import (
    UNCERTAINTIES,
    at_least_single,
    bayes_update,
    check_name,
    l1_coherence,
    straight_through,
    uncertainty_by_overlaps,
    unit,
)
from qsr.qembed.measurement import VectorMeasurement
from qsr.qembed.output import QEmbedOutput
from qsr.qembed.roles import Tagged
from qsr.qembed.senses import Senses, SharedSenses, as_complex
from qsr.qembed.tables import KroneckerTable, factorised_tables, initial_log_prior, token_tables

READOUTS = ("concat", "born", "real")
_CONTEXT_SCALE = 0.05  # the context says almost nothing at the start


class QuantumEmbeddings(Tagged):
    """|Psi_v> = sum_k a_vk |k>|s_vk> for each token v: K complex amplitudes, sum_k |a_vk|^2 = 1, and K unit vectors in C^C.

    The context c_t of a token multiplies its amplitudes by exp(Re <s_k|c_t> / (2 temperature)) (Bayes' rule for the sense
    probabilities p -> p'), entanglement correlates the outcomes of the tokens, and with the collapse probability a token is
    measured: z_t = s_k with k ~ p', where it is not z_t = sum_k a'_tk s_k. All parameters are real.

    Args:
        vocab_size, embedding_dim: V and D; or `config` with `.vocab_size` and `.hidden_size`.
        num_states: K.
        superposition_strength: 0: each token starts in its first sense; 1: in all of them equally.
        collapse_strategy: 'context_aware': sample from p'; 'born': from p, without context; 'soft': the decohered mean
            sum_k p'_k s_k, no outcome is read; 'argmax': the likeliest sense; 'none': never collapse.
        context_encoder: 'mean', 'attention', 'conv' ('convolution') or 'rnn' over the other tokens; `context_window`: how many
            to each side. None: tokens are what they are without a context, p' = p.
        temperature: of the evidence.
        causal: outputs at t depend on tokens up to t only.
        readout: 'concat': [Re z; Im z] times a trainable scale, D = 2C; 'born': probabilities |<u_m|z>|^2 of
            `num_measurements` (default D) vectors that resolve the identity, through Linear; 'real': Re z, D = C.
        uncertainty_type: 'entropy', 'von_neumann', 'purity' or 'variance' (`qsr.qembed.functional`).
        entanglement: None, a correlation type, or an `EntanglementCorrelation`; `entanglement_strength`,
            `entanglement_pairs`, `ghz_size`: its settings, for a type.
        padding_idx: a token whose outputs are zero.
        factorization: None, or 'ketxs': tables as sums of `rank` Kronecker products of `order` (default 2) leaves.
        dropout: of the outputs.
        seed: of the parameters; None: torch's global generator.

    Attributes:
        memory_efficient: senses are looked up once for each different token, and nothing of size B L K C is made or kept
            for the backward pass. The results are the same, as they are for the next two.
        gradient_checkpointing: the backward pass computes the layer again instead of keeping what it needs.
        drawing: of outcomes, 'batched' or 'sequential', see `Correlations.draw`.
        sample: of calls that do not give it, see `forward`.
        generators: draw the noise of calls that do not give it, each that of an equal share of the batch, in order; none:
            torch's global generator does.

    Raises:
        ConfigError: (a ValueError) for a setting out of bounds.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "amplitude_logits": "amplitude",
        "phases": "phase",
        "sense_real": "sense",
        "sense_imag": "sense",
        "context_proj": "context",
        "context_encoder": "context",
        "measurement": "measurement",
        "entanglement": "coupling",
    }
    log_prior: Tensor

    def __init__(
        self,
        vocab_size: int | None = None,
        embedding_dim: int | None = None,
        num_states: int = 4,
        *,
        config: Any = None,
        superposition_strength: float = 1.0,
        collapse_strategy: str = "context_aware",
        context_encoder: str | None = "mean",
        context_window: int | None = None,
        temperature: float = 0.25,
        causal: bool = False,
        readout: str = "concat",
        num_measurements: int | None = None,
        uncertainty_type: str = "entropy",
        entanglement: str | EntanglementCorrelation | None = None,
        entanglement_strength: float = 0.5,
        entanglement_pairs: str | Tensor = "chain",
        ghz_size: int = 4,
        padding_idx: int | None = None,
        factorization: str | None = None,
        rank: int = 4,
        order: int | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = checked_size("vocab_size", vocab_size, config, "vocab_size")
        self.embedding_dim = checked_size("embedding_dim", embedding_dim, config, "hidden_size")
        self.num_states = checked_size("num_states", num_states, None, "")
        if not 0 <= superposition_strength <= 1:
            raise ConfigError(f"superposition_strength={superposition_strength}: must be between 0 and 1")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature={temperature}: must be a finite number above 0")
        check_name("readout", readout, READOUTS)
        check_name("uncertainty_type", uncertainty_type, UNCERTAINTIES)
        if readout != "real" and self.embedding_dim % 2:
            raise ConfigError(f"embedding_dim={self.embedding_dim}: must be even for readout={readout!r}; or use readout='real'")
        if num_measurements is not None and readout != "born":
            raise ConfigError(f"num_measurements={num_measurements}: is for readout='born', not for {readout!r}")
        if padding_idx is not None and not 0 <= padding_idx < self.vocab_size:
            raise ConfigError(f"padding_idx={padding_idx}: must be between 0 and vocab_size - 1 = {self.vocab_size - 1}")
        if factorization not in (None, "ketxs"):
            raise ConfigError(f"factorization={factorization!r}: must be None or 'ketxs'")
        if order is not None and factorization is None:
            raise ConfigError(f"order={order}: is for factorization='ketxs'")
        self.collapse_strategy = collapse_strategy
        self.temperature, self.causal, self.readout, self.padding_idx = temperature, causal, readout, padding_idx
        self.uncertainty_type, self.factorization = uncertainty_type, factorization
        self.collapse_probability: float | Tensor = 0.0  # of calls that do not give one
        self.memory_efficient, self.gradient_checkpointing, self.drawing = False, False, "batched"
        self.sample: bool | None = None
        self.generators: Sequence[torch.Generator] = ()
        # Everything that torch's own modules draw follows the seed too, and nothing outside notices.
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            log_prior = initial_log_prior(self.num_states, superposition_strength)
            sizes = self.vocab_size, self.sense_dim
            tables: Mapping[str, nn.Parameter | KroneckerTable] = (
                token_tables(*sizes, log_prior)
                if factorization is None
                else factorised_tables(*sizes, self.num_states, rank, 2 if order is None else order)
            )
            self.register_buffer("log_prior", log_prior, persistent=False)
            for name, table in tables.items():
                setattr(self, name, table)
            self._add_readout(num_measurements)
            self._add_context(context_encoder, context_window, causal)
            if isinstance(entanglement, str):
                entanglement = EntanglementCorrelation(
                    self.num_states, entanglement, entanglement_strength, entanglement_pairs, ghz_size
                )
        if entanglement is not None and entanglement.num_states != self.num_states:
            raise ConfigError(f"entanglement: has num_states={entanglement.num_states}; the embedding has {self.num_states}")
        self.entanglement = entanglement
        self.dropout = nn.Dropout(dropout)
        self.tag()
        self.to(device)

    def _add_context(self, encoder: str | None, window: int | None, causal: bool) -> None:
        self.context_proj: nn.Linear | None = None
        self.context_encoder: nn.Module | None = None
        if encoder is None:
            if window is not None:
                raise ConfigError(f"context_window={window}: there is no context_encoder")
            return
        self.context_proj = nn.Linear(self.embedding_dim, 2 * self.sense_dim, bias=False)
        nn.init.normal_(self.context_proj.weight, std=_CONTEXT_SCALE)
        self.context_encoder = make_encoder(encoder, self.embedding_dim, window, causal)

    def _add_readout(self, num_measurements: int | None) -> None:
        self.measurement: VectorMeasurement | None = None
        scale = math.sqrt(self.embedding_dim / 2)
        if self.readout == "born":
            outcomes = self.embedding_dim if num_measurements is None else num_measurements
            self.measurement = VectorMeasurement(self.sense_dim, outcomes)
            self.linear = nn.Linear(outcomes, self.embedding_dim)
            scale = 1.0  # the linear layer has a scale of its own
        self.output_scale = nn.Parameter(torch.tensor(scale))

    @property
    def sense_dim(self) -> int:
        """C, complex dimensions of a sense vector."""
        return self.embedding_dim if self.readout == "real" else self.embedding_dim // 2

    @property
    def collapse_strategy(self) -> str:
        """One of `COLLAPSE_STRATEGIES`; may be changed at any time."""
        return self._collapse_strategy

    @collapse_strategy.setter
    def collapse_strategy(self, value: str) -> None:
        check_name("collapse_strategy", value, COLLAPSE_STRATEGIES)
        self._collapse_strategy = value

    def set_collapse_probability(self, probability: float | Tensor) -> None:
        """The collapse probability of calls that do not give one: a number, or a tensor that fits (B, L).

        Raises:
            ConfigError: if it lies outside [0, 1].
        """
        self.collapse_probability = checked_probability(probability)

    def draw_noise(self, batch: int, length: int, generator: torch.Generator | None = None) -> Noise:
        """The uniforms of one call, each (B, L): which tokens collapse, and to which sense; from `generators` by default.

        A checkpointed region must be given them: a generator inside it would draw anew when it is computed again.

        Raises:
            ConfigError: if the batch cannot be shared out equally among the generators.
        """
        return draw_noise(batch, length, self.output_scale, self.generators if generator is None else [generator])

    # --- the state of the tokens ------------------------------------------------------------------------------------

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln p (..., K), phases (..., K) and unit senses [Re s; Im s] (..., K, 2C) of tokens (...), at least single precision."""
        log_probs, phases, vectors = self._rows(ids)
        return log_probs, phases, unit(vectors)

    def state(self, ids: Tensor) -> tuple[Tensor, Tensor, Senses]:
        """ln p (B, L, K), phases (B, L, K) and senses of tokens (B, L), as `rows` gives them."""
        if not self.memory_efficient:
            log_probs, phases, senses = self.rows(ids)
            return log_probs, phases, Senses(senses)
        tokens, index = ids.unique(return_inverse=True)
        log_probs, phases, vectors = self._rows(tokens)
        look_up = nn.functional.embedding
        return look_up(index, log_probs), look_up(index, phases), SharedSenses(vectors, index)

    def _rows(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `rows` gives, with senses of any norm."""
        logits, phases, real, imag = (self._row(name, ids) for name in ("amplitude_logits", "phases", "sense_real", "sense_imag"))
        if self.factorization is not None:
            logits = logits + self.log_prior
        if self.num_states == 1:
            phases = torch.zeros_like(phases)  # of the token as a whole: nothing that is measured depends on it
        shape = (*ids.shape, self.num_states, self.sense_dim)
        return torch.log_softmax(logits, dim=-1), phases, torch.cat([real.view(shape), imag.view(shape)], dim=-1)

    def _row(self, name: str, ids: Tensor) -> Tensor:
        table = getattr(self, name)
        found = table(ids) if isinstance(table, KroneckerTable) else nn.functional.embedding(ids, table.flatten(1))
        return at_least_single(found)

    def posterior(self, log_probs: Tensor, phases: Tensor, senses: Senses, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """ln p' (B, L, K) after the context, before entanglement, of what `state` gives for tokens (B, L)."""
        if self.collapse_strategy == "born" or self.context_proj is None:
            return log_probs
        if context is None:
            assert self.context_encoder is not None, "there is one with every context_proj"
            superposed = self.superposed(log_probs, phases, senses) * mask[..., None]
            weights = next(self.context_encoder.parameters(), superposed)  # layers of torch want inputs of their own format
            context = self.context_encoder(superposed.to(weights.dtype), mask)
        direction = nn.functional.linear(context.to(phases.dtype), at_least_single(self.context_proj.weight))
        return bayes_update(log_probs, senses.along(direction) / self.temperature)

    def superposed(self, log_probs: Tensor, phases: Tensor, senses: Senses) -> Tensor:
        """(..., D) what context encoders see of the tokens of `state`: sum_k a_k s_k."""
        return self._flat(senses.superposed(log_probs, phases))

    def _flat(self, states: Tensor) -> Tensor:
        """[Re z; Im z] (..., 2C) as D real numbers: all of them, or for readout='real' the real parts."""
        return states[..., : self.sense_dim] if self.readout == "real" else states

    def correlate(self, log_probs: Tensor, mask: Tensor) -> Correlations:
        """Entangle the registers of tokens (B, L, K)."""
        return Correlations(log_probs) if self.entanglement is None else self.entanglement(log_probs, mask, self.causal)

    # --- the layer --------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        context: Tensor | None = None,
        collapse: bool | None = None,
        collapse_probability: float | Tensor | None = None,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> QEmbedOutput:
        """Embed tokens (B, L).

        Args:
            attention_mask: (B, L) of 0 and 1 (padding: 0).
            token_type_ids, position_ids: accepted as BERT's embeddings do, and ignored.
            context: (B, L, D) in place of what the context encoder finds.
            collapse: True or False for probability 1 or 0.
            collapse_probability: in [0, 1], a number or a tensor that fits (B, L); default: as set before, 0 at first.
            noise: see `draw_noise`; default: drawn so where something is random.
            sample: measure at random (default in training mode), or take the likeliest sense and, for probabilities between
                0 and 1, the mean of both cases (default in evaluation mode).

        Raises:
            TypeError: for ids that are no integers.
            IndexError: for ids outside the vocabulary.
            ConfigError: for a probability outside [0, 1] and shapes that do not fit.
        """
        mask = self.valid_tokens(input_ids, attention_mask)
        if context is not None and self.context_proj is None:
            raise ConfigError("context: this embedding has no context (context_encoder=None)")
        if context is not None and context.shape != (*input_ids.shape, self.embedding_dim):
            expected = (*input_ids.shape, self.embedding_dim)
            raise ConfigError(f"context: must be (B, L, D) = {expected}, found {tuple(context.shape)}")
        chance = self._chance(collapse, collapse_probability)
        if isinstance(chance, Tensor):
            check_fits("collapse_probability", chance, tuple(input_ids.shape))
        for part in noise or ():
            check_fits("noise", part, tuple(input_ids.shape))
        sample = self.sample if sample is None else sample
        if not (self.training if sample is None else sample) or not is_random(self.collapse_strategy, chance):
            noise = None
        elif noise is None:
            noise = self.draw_noise(*input_ids.shape)
        # Rounding phases and probabilities to 8 bits would ruin interference and normalisation.
        with torch.autocast(input_ids.device.type, enabled=False):
            given = input_ids.long(), mask, context, chance, noise
            if self.gradient_checkpointing and torch.is_grad_enabled():
                return checkpoint(self._forward, *given, use_reentrant=False)
            return self._forward(*given)

    def _forward(
        self, ids: Tensor, mask: Tensor, context: Tensor | None, chance: float | Tensor, noise: Noise | None
    ) -> QEmbedOutput:
        prior, phases, senses = self.state(ids)
        found = self.correlate(self.posterior(prior, phases, senses, mask, context), mask)
        probs = found.log_marginals.exp()
        share = torch.as_tensor(chance, dtype=probs.dtype, device=probs.device).expand(ids.shape)
        weight, outcome = measure(self.collapse_strategy, found, chance, share, noise, self.drawing)
        collapsed = mask & (weight >= 1)

        states = probs.new_zeros(*ids.shape, 2 * self.sense_dim)
        if not is_exactly(chance, 1.0):
            states = (1 - weight[..., None]) * senses.superposed(found.log_marginals, phases)
        if not is_exactly(chance, 0.0):
            choice = probs if outcome is None else straight_through(outcome, probs)
            states = states + weight[..., None] * senses.mean(choice)
        embeddings = self.dropout(self.read(states)) * mask[..., None]

        keep = mask.to(probs.dtype)
        doubt = uncertainty_by_overlaps(self.uncertainty_type, probs, senses.overlaps, self.sense_dim) * keep
        log_prob = probs.new_zeros(len(ids))
        if outcome is not None:
            outcome = outcome.masked_fill(~collapsed, -1)
            log_prob = found.log_prob(outcome)
        return QEmbedOutput(
            embeddings=embeddings.to(self.output_scale.dtype),
            uncertainty=doubt,
            residual_uncertainty=doubt if self.collapse_strategy == "soft" else doubt * (1 - weight),
            probs=probs * keep[..., None],
            amplitudes=torch.polar((0.5 * found.log_marginals).exp(), phases) * keep[..., None],
            outcome=torch.full_like(ids, -1) if outcome is None else outcome,
            collapse_mask=collapsed,
            coherence=l1_coherence(probs, share) * keep,
            log_prob_outcome=log_prob,
            bonds=found.bonds,
            mask=mask,
            sense_vectors=senses,
        )

    def read(self, states: Tensor) -> Tensor:
        """Embeddings (..., D) of states [Re z; Im z] (..., 2C)."""
        scale = at_least_single(self.output_scale)
        if self.measurement is None:
            return scale * self._flat(states)
        probs = self.measurement(unit(as_complex(states)))
        # The mean over outcomes is 1/M; times M they have the size that the layer's initial weights are made for.
        weight, bias = at_least_single(self.linear.weight), at_least_single(self.linear.bias)
        return scale * nn.functional.linear(probs.shape[-1] * probs, weight, bias)

    def get_uncertainty(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) uncertainty of tokens before a measurement."""
        return self(input_ids, attention_mask, collapse=False).uncertainty

    def valid_tokens(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) bool: the tokens that count; raises as `forward` does."""
        return checked_mask(ids, attention_mask, self.vocab_size, self.padding_idx)

    def _chance(self, collapse: bool | None, probability: float | Tensor | None) -> float | Tensor:
        """The collapse probability of a call."""
        if collapse is not None:
            if probability is not None:
                raise ConfigError("collapse: stands for collapse_probability 1 or 0; give one of the two")
            probability = float(collapse)
        chance = self.collapse_probability if probability is None else checked_probability(probability)
        return 0.0 if self.collapse_strategy == "none" else chance
