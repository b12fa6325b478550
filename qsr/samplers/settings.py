"""Settings of the three samplers: `RNN`, `PTF` and `LPTF`. They build the modules of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams
from qsr.hparams.types import Patch, TypedSection, check_patch, patch_block, patch_sites
from qsr.samplers.group import NO_PHASE, symmetry_group
from qsr.symmetries import Symmetry

if TYPE_CHECKING:
    from qsr.hamiltonians.settings import LatticeHparams
    from qsr.lattice import Lattice
    from qsr.samplers.base import AutoregressiveSampler, CountedSampler
    from qsr.samplers.embedding import Tokens

MAX_TABLE_SITES = 12  # a conditional is a table over 2^p patches
MAX_EMBEDDED_SITES = 10  # an embedding has a row for each of 2^p patches


# Bounds of what settings may claim before anything is made of them; a network of these sizes would fill 100 GiB and more.
MOST_WIDTH = 2**15
MOST_LAYERS = 1000


class TokenHparams(Hparams):
    """What makes the tokens of a sampler, where that is a section of its own."""

    def check_sampler(self, section: str, sites: int, width: int) -> None:
        """Whether these tokens suit a sampler with patches of p = `sites` sites and tokens of H = `width` numbers.

        Raises:
            ConfigError: naming the setting, with `section` that of the sampler.
        """
        raise TypeError(f"{type(self).__name__} is an abstract section")

    def build_tokens(self, sites: int, width: int, local_dim: int = 2) -> Tokens:
        """The layer, with torch's initial weights (from its global generator)."""
        raise TypeError(f"{type(self).__name__} is an abstract section")


class SamplerHparams(Hparams):
    """What all samplers share."""

    data_section: ClassVar[str] = "snapshots"  # the kind of --data that they learn from

    shorthands: ClassVar[dict[str, str]] = {"_2D": "True reads patch=2 as the square block 2x2 (NN-QSR's spelling)"}

    L: int | None = Hparam(None, ge=1, help="number of sites; set by the lattice, must agree with it if given")
    patch: Patch = Hparam("2x2", help="sites read and predicted at once: a number of sites in a row (4) or a block (2x2)")

    embedding: TypedSection | None = Hparam(
        None, help="a quantum embedding that makes the tokens: write --qembed after the sampler's section"
    )

    phase: bool = Hparam(False, help="signs or a complex psi = sqrt(p) exp(i phi), phi from a network of its own")
    phase_Nh: int = Hparam(64, ge=1, le=MOST_WIDTH, help="width of the hidden layers of the phase")
    phase_layers: int = Hparam(2, ge=1, le=MOST_LAYERS, help="number of hidden layers of the phase")

    symmetry: Symmetry = Hparam(
        "none",
        help="average p over images under the point group, reflections, translations or all: as many times the cost",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_shorthands(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "_2D" not in values:
            return values
        values = dict(values)
        square = str(values.pop("_2D")).strip().lower()
        if square not in ("true", "false", "0", "1"):
            raise ConfigError(f"{cls.section}._2D={square}: must be True or False")
        patch = values.get("patch")
        if square in ("true", "1") and patch is not None and str(patch).isdigit():
            values["patch"] = f"{patch}x{patch}"
        elif square in ("false", "0") and (patch is None or not str(patch).isdigit()):
            raise ConfigError(
                f"{cls.section}.patch={patch or cls.model_fields['patch'].default}: is a block, but _2D=False was given"
            )
        return values

    @model_validator(mode="before")
    @classmethod
    def _read_embedding(cls, values: Any) -> Any:
        """The only kind of embedding need not be named, or as on the command line."""
        inner = values.get("embedding") if isinstance(values, dict) else None
        if isinstance(inner, dict) and inner.get("type", "qembed") == "qembed":
            return {**values, "embedding": {**inner, "type": "qembed_tokens"}}
        return values

    @model_validator(mode="after")
    def _embedding_fits(self) -> Any:
        if self.embedding is not None:
            if not isinstance(self.embedding, TokenHparams):
                raise ConfigError(f"{self.section}.embedding: {type(self.embedding).__name__} makes no tokens; write --qembed")
            self.embedding.check_sampler(self.section, patch_sites(self.patch), self["Nh"])
        return self

    @model_validator(mode="after")
    def _one_phase(self) -> Any:
        if self.phase and self.symmetry != "none":
            raise ConfigError(f"{self.section}.symmetry={self.symmetry}: {NO_PHASE}")
        return self

    def check_lattice(self, shape: tuple[int, int]) -> int:
        """Check this model against a lattice of `shape` = (Lx, Ly); the number of patches in its sequence.

        Raises:
            ConfigError: a patch that does not tile the lattice, or an L that is not its number of sites.
        """
        num_sites = shape[0] * shape[1]
        if self.L is not None and num_sites != self.L:
            raise ConfigError(f"{self.section}.L={self.L}: the lattice has {shape[0]}*{shape[1]} = {num_sites} sites")
        return check_patch(self.section, self.patch, shape)

    def build(self, lattice: Lattice, context_size: int | None = None, problem: LatticeHparams | None = None) -> CountedSampler:
        """The sampler on `lattice`, with torch's initial weights (from its global generator).

        Args:
            context_size: width of the vector that every sample is conditioned on; None for no conditioning.
            problem: on this lattice, whose Hamiltonian must have the symmetries that p gets; without one, all of the lattice.

        Raises:
            ConfigError: see `check_lattice` and `check_symmetry`.
        """
        from qsr.samplers.phase import PhaseNetwork
        from qsr.samplers.symmetrized import SymmetrizedSampler

        self.check_lattice(lattice.shape)
        sampler = self._network(lattice, context_size)
        if self.phase:  # its weights are drawn last, so that those of p stay as they are
            sampler.add_phase(PhaseNetwork(sampler.num_sites, self.phase_Nh, self.phase_layers, context_size))
        if self.symmetry == "none":
            return sampler
        return SymmetrizedSampler(sampler, symmetry_group(f"{self.section}.symmetry", self.symmetry, lattice, problem))

    def build_for(self, problem: LatticeHparams) -> CountedSampler:
        """The sampler for a problem: of one Hamiltonian, or of all in its ranges (see `ConditionedSampler`).

        Raises:
            ConfigError: see `build`.
        """
        if not problem.ranges:
            return self.build(problem.lattice(), problem=problem)
        from qsr.samplers.conditioned import ConditionedSampler, parameter_network

        width = self["Nh"]  # the only width of a context that every sampler takes
        base: Any = self.build(problem.lattice(), context_size=width)
        return ConditionedSampler(base, parameter_network(len(problem.ranges), width), problem.ranges)

    def check_symmetry(self, problem: LatticeHparams) -> None:
        """Whether a problem has the symmetry that p is to have.

        Raises:
            ConfigError: if its lattice or its Hamiltonian has none.
        """
        if self.symmetry != "none":
            symmetry_group(f"{self.section}.symmetry", self.symmetry, problem.lattice(), problem)

    def _network(self, lattice: Lattice, context_size: int | None) -> AutoregressiveSampler:
        """The network of p."""
        raise TypeError(f"{type(self).__name__} is an abstract section")


class _TableHead(SamplerHparams):
    """A sampler whose conditional is a table over all values of a patch."""

    @model_validator(mode="after")
    def _table_fits(self) -> Any:
        if patch_sites(self.patch) > MAX_TABLE_SITES:
            raise ConfigError(
                f"{self.section}.patch={self.patch}: {patch_sites(self.patch)} sites need a table of 2^{patch_sites(self.patch)} "
                f"entries; at most {MAX_TABLE_SITES} sites, or use --lptf with a smaller patch inside"
            )
        return self


class RNN(_TableHead):
    """Patched recurrent network (arXiv 2306.03921, section 'Patched RNN'; arXiv 2002.02973)."""

    section: ClassVar[str] = "rnn"

    Nh: int = Hparam(64, ge=1, le=MOST_WIDTH, help="hidden width")
    rnntype: Literal["GRU", "ELMAN"] = Hparam("GRU", help="recurrent cell")

    def _network(self, lattice: Lattice, context_size: int | None) -> AutoregressiveSampler:
        from qsr.samplers.rnn import PatchedRNN

        self.check_context(context_size)
        tokens = self.embedding
        layer = tokens.build_tokens(patch_sites(self.patch), self.Nh) if isinstance(tokens, TokenHparams) else None
        return PatchedRNN(lattice, self.patch, self.Nh, self.rnntype, tokens=layer)

    def check_context(self, context_size: int | None) -> None:
        """The context of an RNN is its initial hidden state, so the widths must be equal."""
        if context_size is not None and context_size != self.Nh:
            raise ConfigError(f"rnn.Nh={self.Nh}: as subsampler it must equal the Nh={context_size} of the transformer around it")


class TransformerHparams(SamplerHparams):
    """What PTF and LPTF share."""

    # 32 wide, one layer: see benchmarks/defaults.py.
    Nh: int = Hparam(32, ge=1, le=MOST_WIDTH, help="token width")
    num_layers: int = Hparam(1, ge=1, le=MOST_LAYERS, help="number of transformer layers")
    nhead: int = Hparam(4, ge=1, help="number of attention heads; must divide Nh")
    dim_feedforward: int | None = Hparam(None, ge=1, le=4 * MOST_WIDTH, help="width of the feed-forward layers; None means 4*Nh")
    dropout: float = Hparam(0.0, ge=0.0, lt=1.0, help="dropout probability in the transformer layers while training")
    norm_first: bool = Hparam(True, help="layer norm before (True) or after (False) attention and feed-forward")
    token: Literal["embedding", "linear", "qembed"] = Hparam(
        "embedding", help="patch to token: a table, tanh(Linear), or (set by --qembed) a quantum embedding"
    )
    positions: Literal["sinusoidal", "learned"] = Hparam(
        "learned", help="positional encoding; learned ones are interpolated when the lattice grows"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_tokens(cls, values: Any) -> Any:
        embedded = isinstance(values, dict) and values.get("embedding") is not None
        return {"token": "qembed", **values} if embedded else values

    @model_validator(mode="after")
    def _consistent(self) -> Any:
        if (self.token == "qembed") != (self.embedding is not None):
            expected = "write --qembed after it" if self.embedding is None else "the tokens are those of --qembed; leave it out"
            raise ConfigError(f"{self.section}.token={self.token}: {expected}")
        if self.Nh % self.nhead:
            raise ConfigError(f"{self.section}.nhead={self.nhead}: must divide Nh={self.Nh}")
        sites = patch_sites(self.patch)
        if self.token == "embedding" and sites > MAX_EMBEDDED_SITES:
            raise ConfigError(
                f"{self.section}.token=embedding: a patch of {sites} sites has 2^{sites} values "
                f"(at most {MAX_EMBEDDED_SITES} sites); use token=linear"
            )
        return self


class PTF(TransformerHparams, _TableHead):
    """Patched transformer (arXiv 2306.03921, section 'Patched transformer')."""

    section: ClassVar[str] = "ptf"

    repeat_pre: bool = Hparam(False, help="as subsampler: repeat the context for every token instead of projecting it")

    def _network(self, lattice: Lattice, context_size: int | None) -> AutoregressiveSampler:
        from qsr.samplers.ptf import PatchedTransformer

        self.check_context(context_size)
        return PatchedTransformer(lattice, self, context_size)

    def check_context(self, context_size: int | None) -> None:
        """A repeated context is added to the tokens as it is, so the widths must be equal."""
        if self.repeat_pre and context_size is not None and context_size != self.Nh:
            raise ConfigError(
                f"ptf.repeat_pre=True: needs Nh={self.Nh} equal to the Nh={context_size} of the transformer around it"
            )


class LPTF(TransformerHparams):
    """Large-patched transformer: a subsampler factorises each large patch (arXiv 2306.03921, section 'LPTF')."""

    section: ClassVar[str] = "lptf"

    patch: Patch = Hparam("4x4", help="sites of a large patch, which the subsampler factorises: 4x4, 3x3, 8, ...")
    token: Literal["embedding", "linear", "qembed"] = Hparam(
        "linear", help="patch to token: a table (small patches), tanh(Linear), or (set by --qembed) a quantum embedding"
    )
    subsampler: TypedSection | None = Hparam(
        None, help="the model inside a large patch: write --rnn, --ptf or --lptf after --lptf"
    )

    @model_validator(mode="before")
    @classmethod
    def _match_width(cls, values: Any) -> Any:
        """An RNN subsampler without its own Nh takes the transformer's: they must be equal."""
        inner = values.get("subsampler") if isinstance(values, dict) else None
        if isinstance(inner, Hparams):
            inner = {"type": inner.section, **{name: getattr(inner, name) for name in inner.model_fields_set}}
        if isinstance(inner, dict) and inner.get("type") == "rnn" and "Nh" not in inner:
            width = values.get("Nh", cls.model_fields["Nh"].default)
            values = {**values, "subsampler": {**inner, "Nh": width}}
        return values

    @model_validator(mode="after")
    def _subsampler_fits(self) -> Any:
        inner = self.subsampler
        if inner is None:
            return self
        if not isinstance(inner, SamplerHparams):
            raise ConfigError(f"lptf.subsampler: {type(inner).__name__} is not a sampler; one of --rnn, --ptf, --lptf")
        if inner.phase:
            raise ConfigError(
                f"{inner.section}.phase=True: a phase belongs to all sites, not to a large patch; write --lptf phase=True"
            )
        if inner.symmetry != "none":
            raise ConfigError(
                f"{inner.section}.symmetry={inner.symmetry}: the symmetries are those of all sites; write --lptf symmetry=..."
            )
        inner.check_lattice(self.patch_shape())
        if isinstance(inner, (RNN, PTF)):
            inner.check_context(self.Nh)
        return self

    def patch_shape(self) -> tuple[int, int]:
        """Shape of a large patch as the subsampler's lattice."""
        return patch_block(self.patch) or (patch_sites(self.patch), 1)

    def check_lattice(self, shape: tuple[int, int]) -> int:
        num_large = super().check_lattice(shape)
        if self.subsampler is None:
            raise ConfigError(
                "lptf.subsampler: missing; write the inner model after it, for example --lptf patch=4x4 --rnn patch=2x2"
            )
        inner: Any = self.subsampler
        return num_large * int(inner.check_lattice(self.patch_shape()))

    def _network(self, lattice: Lattice, context_size: int | None) -> AutoregressiveSampler:
        from qsr.samplers.lptf import LargePatchedTransformer

        return LargePatchedTransformer(lattice, self, context_size)
