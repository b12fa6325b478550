"""Settings of quantum embeddings, and of the learning with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.samplers.settings import TokenHparams

if TYPE_CHECKING:
    from qsr.qembed.tokens import PatchQEmbed

MAX_TABLE_SITES = 16  # a table has a row for each of 2^p patches
MAX_STATES = 1024  # senses of a token; more of them are a slip of the pen


class EmbeddingHparams(Hparams):
    """The embedding itself: what `QuantumEmbeddings` is made with, but for the sizes of vocabulary and embedding."""

    section: ClassVar[str] = "qembed"
    shorthands: ClassVar[dict[str, str]] = {"K": "num_states", "strategy": "collapse_strategy"}

    num_states: int = Hparam(4, ge=1, le=MAX_STATES, help="senses of a token, K; 1: an embedding without superposition")
    superposition_strength: float = Hparam(
        1.0, ge=0, le=1, help="at the start; 0: each token is in its first sense, 1: in all of them equally"
    )
    collapse_strategy: Literal["context_aware", "born", "soft", "argmax", "none"] = Hparam(
        "context_aware",
        help="what a measurement reads: a sense drawn after the context, drawn without it, the decohered mean, the likeliest "
        "sense; none: never measured",
    )
    context_encoder: Literal["mean", "attention", "conv", "rnn"] | None = Hparam(
        "mean", help="what a token sees of the others; None: nothing"
    )
    context_window: int | None = Hparam(None, ge=1, help="tokens to each side that count as context; None: all")
    temperature: float = Hparam(0.25, gt=0, allow_inf_nan=False, help="of the evidence that the context is")
    readout: Literal["concat", "born", "real"] = Hparam(
        "concat", help="real and imaginary parts, probabilities of measurement vectors, or real parts"
    )
    num_measurements: int | None = Hparam(None, ge=1, help="vectors of readout=born; None: as many as the embedding is wide")
    uncertainty_type: Literal["entropy", "von_neumann", "purity", "variance"] = Hparam("entropy", help="of the senses")
    entanglement: Literal["bell_state", "ghz_state", "custom"] | None = Hparam(None, help="coupling of the tokens; None: none")
    entanglement_strength: float = Hparam(0.5, ge=0, allow_inf_nan=False, help="of the coupling at the start")
    entanglement_pairs: str = Hparam("chain", help="tokens that are coupled: chain, all, or grid:AxB")
    ghz_size: int = Hparam(4, ge=2, help="tokens in a group of entanglement=ghz_state")
    factorization: Literal["ketxs"] | None = Hparam(None, help="ketxs: tables as sums of Kronecker products; None: full tables")
    rank: int = Hparam(4, ge=1, help="of factorization=ketxs")
    order: int | None = Hparam(None, ge=1, help="leaves of each product of factorization=ketxs; None: 2")

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for short, name in EmbeddingHparams.shorthands.items():
            if short in values:
                if name in values:
                    raise ConfigError(f"{cls.label(short)}={values[short]}: another name of {name}, which is given, too")
                values[name] = values.pop(short)
        return values

    def embedding_settings(self) -> dict[str, Any]:
        """Keyword arguments of `QuantumEmbeddings`."""
        return {name: self[name] for name in EmbeddingHparams.model_fields}


class PatchEmbedding(TokenHparams, EmbeddingHparams):
    """Quantum embedding of the patches that a sampler reads: each value of a patch is a superposition of K senses.

    Nothing is drawn and nothing depends on later patches, so that log-probabilities stay exact.
    """

    section: ClassVar[str] = "qembed_tokens"

    collapse_strategy: Literal["context_aware", "born", "soft", "argmax", "none"] = Hparam(
        "soft",
        help="what is read of a patch: soft: the decohered mean; none: the coherent superposition; argmax: the likeliest sense, "
        "with straight-through gradients; those that are drawn are refused. With Adam soft ends lowest of the three "
        "(benchmarks/qembed_vmc.py --strategies)",
    )
    context_encoder: Literal["mean", "attention", "conv", "rnn"] | None = Hparam(
        None,
        help="what a patch sees of those before it: mean, rnn, or None: nothing, which keeps the shortcuts of flips",
    )
    order: int | None = Hparam(
        None, ge=1, help="leaves of each product of factorization=ketxs; None: one for each site, and one for the start"
    )

    @model_validator(mode="after")
    def _of_a_sampler(self) -> Any:
        if self.collapse_strategy in ("context_aware", "born"):
            raise ConfigError(
                f"{self.label('collapse_strategy')}={self.collapse_strategy}: draws senses, which would make p(x) a sum over all "
                f"draws that nothing here computes; use none, soft or argmax"
            )
        if self.context_encoder in ("attention", "conv"):
            raise ConfigError(
                f"{self.label('context_encoder')}={self.context_encoder}: needs all earlier patches again for each new one; use "
                f"mean or rnn, whose state is one vector"
            )
        if self.entanglement is not None and self.entanglement_pairs != "chain":
            raise ConfigError(
                f"{self.label('entanglement_pairs')}={self.entanglement_pairs}: must be chain; other couplings do not act on the "
                f"patches that come later"
            )
        for name in ("context_window", "uncertainty_type"):
            if self[name] != EmbeddingHparams.model_fields[name].default:
                raise ConfigError(f"{self.label(name)}={self[name]}: means nothing in a sampler")
        return self

    def check_sampler(self, section: str, sites: int, width: int) -> None:
        if self.factorization is None and sites > MAX_TABLE_SITES:
            raise ConfigError(
                f"{self.label('factorization')}=None: a patch of {sites} sites has 2^{sites} values, and a table holds those of "
                f"{MAX_TABLE_SITES} sites at most; use factorization=ketxs"
            )
        if self.readout != "real" and width % 2:
            raise ConfigError(
                f"{section}.Nh={width}: must be even for {self.label('readout')}={self.readout}; or use readout=real"
            )

    def build_tokens(self, sites: int, width: int, local_dim: int = 2) -> PatchQEmbed:
        from qsr.qembed.tokens import PatchQEmbed

        return PatchQEmbed(self, sites, width, local_dim)


class QuantumHparams(Hparams):
    """How a network with quantum embeddings learns: when its tokens collapse, what is added to the loss, what is replayed."""

    section: ClassVar[str] = "quantum"

    superposition_schedule: str = Hparam(
        "linear", help="collapse probability along a run: linear 0 to 1, cyclic, constant, or one that was registered"
    )
    collapse_probability: float = Hparam(0.5, ge=0, le=1, help="of superposition_schedule=constant")
    schedule_epochs: int | None = Hparam(None, ge=1, help="epochs until a linear schedule is at 1; None: all but the last")
    schedule_period: float | None = Hparam(
        None, gt=0, allow_inf_nan=False, help="epochs of one cycle of a cyclic schedule; None: one cycle in the run"
    )
    schedule_unit: Literal["epoch", "step"] = Hparam("epoch", help="when the probability changes")
    entanglement_training: bool = Hparam(True, help="whether couplings are trained, and their entanglement rewarded")
    entanglement_weight: float = Hparam(0.05, ge=0, allow_inf_nan=False, help="weight of 1 - entanglement in the loss")
    entanglement_type: Literal[
        "entropy", "mutual_information", "concurrence", "negativity", "purity", "bell_state", "bell_state_lu"
    ] = Hparam("bell_state", help="measure of entanglement in the loss")
    uncertainty_regularization: float = Hparam(
        0.1, ge=0, allow_inf_nan=False, help="weight of (uncertainty - uncertainty_target)^2 in the loss"
    )
    uncertainty_target: float = Hparam(0.5, ge=0, le=1, help="uncertainty of the senses that the loss asks for")
    collapse_strategy: Literal["context_aware", "born", "soft", "argmax", "none"] | None = Hparam(
        None, help="of all quantum embeddings of the network; None: as they are"
    )
    quantum_gradient_clipping: bool = Hparam(False, help="bound the norm of the gradient by max_quantum_grad_norm")
    max_quantum_grad_norm: float = Hparam(1.0, gt=0, allow_inf_nan=False, help="of quantum_gradient_clipping")
    separate_clipping: bool = Hparam(
        False, help="bound the gradient of the quantum parameters alone; the others have gradient_clipping.max_norm"
    )
    quantum_memory_replay: bool = Hparam(False, help="replay samples of earlier tasks (DER++, arXiv 2004.07211)")
    replay_buffer_size: int = Hparam(200, ge=1, help="samples that are kept")
    replay_batch_size: int = Hparam(32, ge=1, help="samples that are replayed in a step")
    replay_alpha: float = Hparam(0.5, ge=0, allow_inf_nan=False, help="weight of the distance to the stored logits")
    replay_beta: float = Hparam(0.5, ge=0, allow_inf_nan=False, help="weight of the loss of the stored labels")
    replay_gamma: float = Hparam(0.1, ge=0, allow_inf_nan=False, help="weight of the divergence from the stored senses")
    gradient_checkpointing: bool = Hparam(False, help="compute layers again in the backward pass: less memory, more time")
    quantum_memory_efficient: bool = Hparam(False, help="look up each different token of a batch once")
    quantum_parallel: bool = Hparam(False, help="draw all collapses of a prediction in one batch, not one after the other")
    entanglement_optimization: Literal["sparse", "dense"] = Hparam(
        "sparse", help="pairs of tokens in a list, or (the plain way) in a table of all pairs"
    )
    collapse_optimization: Literal["batched", "sequential"] = Hparam(
        "batched", help="draw all outcomes at once, or (the plain way) token by token"
    )

    @model_validator(mode="after")
    def _of_its_schedule(self) -> Any:
        """Whether numbers of one schedule are given with another."""
        kind = self.superposition_schedule
        others = {"constant": ("schedule_epochs", "schedule_period", "schedule_unit"), "cyclic": ("schedule_epochs",)}
        idle = others.get(kind, ("schedule_period",))
        for name in (*idle, *(() if kind == "constant" else ("collapse_probability",))):
            if self[name] != type(self).model_fields[name].default:
                raise ConfigError(f"{self.label(name)}={self[name]}: means nothing for superposition_schedule={kind}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _kinds(cls, values: Any) -> Any:
        """A bool is no number here: `uncertainty_regularization: True` does not mean 1."""
        if not isinstance(values, dict):
            return values
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if field is not None and isinstance(value, bool) and field.annotation in (int, float, int | None, float | None):
                raise ConfigError(f"{cls.label(name)}={value}: must be a number")
        return values
