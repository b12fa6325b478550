"""The Born distribution of a chain of sense registers as a sampler: for K = 2 a wave function on a lattice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.chain import bond_terms, chain_log_prob, chain_messages, draw_chain, left_messages, site_terms
from qsr.qembed.embeddings import QuantumEmbeddings
from qsr.qembed.entanglement import EntanglementCorrelation
from qsr.qembed.functional import at_least_single
from qsr.qembed.roles import Tagged
from qsr.samplers.base import Sampler

_MAX_STATES = 256  # configurations are uint8


class SiteAmplitudes(Tagged):
    """Trainable amplitudes of L sites: logits of their squares, and phases if they have some.

    Args:
        amplitudes: (L, K) real >= 0, or complex; of any norm, but no row all zero.

    Raises:
        ConfigError: for other amplitudes.
    """

    roles: ClassVar[Mapping[str, str]] = {"amplitude_logits": "amplitude", "phases": "phase"}

    def __init__(self, amplitudes: Tensor) -> None:
        super().__init__()
        if amplitudes.dim() != 2 or not amplitudes.numel():
            raise ConfigError(f"amplitudes: must be (L, K), found {tuple(amplitudes.shape)}")
        if not (amplitudes.is_complex() or amplitudes.is_floating_point()):
            raise ConfigError(f"amplitudes: must be real or complex numbers, found {amplitudes.dtype}")
        sizes = at_least_single(amplitudes.detach().abs())
        if not bool(torch.isfinite(sizes).all()) or bool((sizes.sum(dim=-1) == 0).any()):
            raise ConfigError("amplitudes: must be finite, with at least one in each row that is not zero")
        # A zero becomes the smallest number whose square has a logarithm.
        floor = torch.finfo(sizes.dtype).tiny ** 0.5
        self.amplitude_logits = nn.Parameter(2 * sizes.clamp_min(floor).log())
        signed = not amplitudes.is_complex() and bool((amplitudes < 0).any())
        self.phases = nn.Parameter(amplitudes.detach().angle().to(sizes.dtype)) if amplitudes.is_complex() or signed else None
        self.tag()

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """ln p (L, K) and phases (L, K), None where all are 0."""
        return torch.log_softmax(self.amplitude_logits, dim=-1), self.phases


class TokenAmplitudes(nn.Module):
    """The amplitudes of the tokens of one sequence after their context, differentiable in the parameters of the embedding."""

    input_ids: Tensor

    def __init__(self, embeddings: QuantumEmbeddings, input_ids: Tensor) -> None:
        super().__init__()
        if input_ids.dim() != 1:
            raise ConfigError(f"input_ids: must be one sequence (L,), found {tuple(input_ids.shape)}")
        if not bool(embeddings.valid_tokens(input_ids[None]).all()):
            raise ConfigError(f"input_ids: hold the padding token {embeddings.padding_idx}, which has no state")
        self.embeddings = embeddings
        self.register_buffer("input_ids", input_ids.long(), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """ln p' (L, K) before entanglement, and phases (L, K)."""
        ids = self.input_ids[None]
        log_probs, phases, senses = self.embeddings.state(ids)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return self.embeddings.posterior(log_probs, phases, senses, mask)[0], phases[0]


class SenseSampler(Sampler):
    """Psi(k_1..k_L) = prod_i a_i(k_i) prod_i exp J(k_i, k_{i+1}) / sqrt Z on {0..K-1}^L: exact samples, probabilities, phases.

    Real amplitudes >= 0 with real couplings have no phase, psi = sqrt(p), as stoquastic Hamiltonians want.

    Args:
        amplitudes: (L, K), see `SiteAmplitudes`.
        entanglement: couplings of a chain; None: a product state.

    Raises:
        ConfigError: for amplitudes and couplings that do not fit, and for couplings that are no chain.
    """

    def __init__(self, amplitudes: Tensor, entanglement: EntanglementCorrelation | None = None) -> None:
        super().__init__()
        self._build(SiteAmplitudes(amplitudes), amplitudes.shape[0], amplitudes.shape[1], entanglement)

    @classmethod
    def of_tokens(cls, embeddings: QuantumEmbeddings, input_ids: Tensor) -> SenseSampler:
        """The distribution of the outcomes that `embeddings` draws for one sequence (L,), in evaluation mode.

        Raises:
            ConfigError: for entanglement that is no chain, or causal: then outcomes are drawn token by token.
        """
        if embeddings.causal and embeddings.entanglement is not None:
            raise ConfigError("embeddings: draw token by token with causal=True and entanglement, which is no chain state")
        sampler = cls.__new__(cls)
        Sampler.__init__(sampler)
        sampler._build(TokenAmplitudes(embeddings, input_ids), len(input_ids), embeddings.num_states, embeddings.entanglement)
        sampler.train(embeddings.training)  # flips go to evaluation mode and come back to this
        return sampler

    def _build(self, state: nn.Module, num_sites: int, local_dim: int, entanglement: EntanglementCorrelation | None) -> None:
        if local_dim > _MAX_STATES:
            raise ConfigError(f"amplitudes: {local_dim} states per site; a configuration holds at most {_MAX_STATES}")
        if entanglement is not None and not entanglement.is_chain:
            raise ConfigError(f"entanglement: pairs='{entanglement.pairs}' cannot be sampled exactly; write pairs='chain'")
        if entanglement is not None and entanglement.num_states != local_dim:
            raise ConfigError(f"entanglement: has num_states={entanglement.num_states}; the amplitudes have {local_dim}")
        self.state, self.entanglement = state, entanglement
        self.num_sites, self.local_dim = num_sites, local_dim
        has_phases = not isinstance(state, SiteAmplitudes) or state.phases is not None
        self.has_phase = has_phases or (entanglement is not None and entanglement.correlation_type == "custom")

    def _chain(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """ln p (1, L, K), phases (1, L, K) or None, couplings (1, L-1, K, K)."""
        log_probs, phases = self.state()
        if self.entanglement is None:
            couplings = log_probs.new_zeros(self.num_sites - 1, self.local_dim, self.local_dim)[None]
        else:
            couplings, _ = self.entanglement.chain_couplings(self.num_sites)
        return log_probs[None], None if phases is None else phases[None], couplings

    def sample(
        self, num_samples: int, generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), _full_precision(self.device):
            _refuse(context)
            log_probs, _, couplings = self._chain()
            messages = chain_messages(log_probs, couplings)
            shape = num_samples, self.num_sites
            uniforms = torch.rand(shape, generator=generator, dtype=log_probs.dtype, device=log_probs.device)
            outcomes = draw_chain(messages.right, couplings, uniforms)
            return outcomes.to(torch.uint8), chain_log_prob(log_probs, couplings, outcomes, messages.log_norm)

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        with _full_precision(self.device):
            _refuse(context)
            log_probs, _, couplings = self._chain()
            _, log_norm = left_messages(log_probs, couplings)
            return chain_log_prob(log_probs, couplings, self._outcomes(configs), log_norm)

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        with _full_precision(self.device):
            _refuse(context)
            log_probs, phases, couplings = self._chain()
            outcomes = self._outcomes(configs)
            found = log_probs.new_zeros(len(configs)) if phases is None else site_terms(phases, outcomes)
            return found + bond_terms(couplings.imag, outcomes) if couplings.is_complex() else found

    def log_amplitude(self, configs: Tensor) -> Tensor:
        """ln Psi, (B,) complex: sum ln a + sum J - ln(Z) / 2."""
        return torch.complex(0.5 * self.log_prob(configs), self.phase(configs))

    def _outcomes(self, configs: Tensor) -> Tensor:
        if configs.dim() != 2 or configs.shape[1] != self.num_sites:
            raise ConfigError(f"configs: must be (B, {self.num_sites}), found {tuple(configs.shape)}")
        return configs.long()


def _full_precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def _refuse(context: Tensor | None) -> None:
    if context is not None:
        raise ConfigError("context: a SenseSampler has none; its state is that of fixed amplitudes or tokens")
