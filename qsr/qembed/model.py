"""`--qembed`: a network on quantum embeddings, as a model on snapshots or text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from qsr.hparams import ConfigError, Hparam
from qsr.hparams.types import Patch
from qsr.qembed.data import Sequences, SequencesHparams, Task
from qsr.qembed.learning import QuantumModel, QuantumModelHparams
from qsr.qembed.networks import QuantumDenoiser, QuantumMaskedLM, QuantumSequenceClassifier
from qsr.qembed.patches import PatchTokens, SnapshotSource
from qsr.qembed.settings import EmbeddingHparams, QuantumHparams

if TYPE_CHECKING:
    from torch import Tensor, nn

LONGEST_TEXT = 512
_OF_QUANTUM = {name: field for name, field in QuantumHparams.model_fields.items() if name not in EmbeddingHparams.model_fields}


class QEmbed(QuantumModelHparams, EmbeddingHparams):
    """A transformer on quantum embeddings of patches of snapshots, or of words: it classifies, fills in, or cleans.

    Settings of the learning (`quantum`) may be written as if they stood here.
    """

    section: ClassVar[str] = "qembed"
    data_section: ClassVar[str] = "sequences"
    default_rates: ClassVar[dict[str, float]] = {"Adam": 2e-3, "AdamW": 2e-3}
    default_epochs: ClassVar[int] = 25
    shorthands: ClassVar[dict[str, str]] = {
        **EmbeddingHparams.shorthands,
        **{name: f"{field.description} (default {field.default})" for name, field in _OF_QUANTUM.items()},
    }

    task: Task = Hparam("classify", help="classes of whole sequences, tokens that are masked, or the true states of noisy sites")
    patch: Patch | None = Hparam(None, help="of snapshots: sites in a token, 4 in a row of the site order or a block 2x2")
    embedding: Literal["qembed", "plain"] = Hparam(
        "qembed", help="plain: an ordinary embedding, with the same network behind it, to compare with"
    )
    embedding_dim: int = Hparam(32, ge=1, help="width of the network, D")
    num_layers: int = Hparam(1, ge=0, le=1000, help="transformer layers")
    nhead: int = Hparam(2, ge=1, help="heads of a layer")
    dropout: float = Hparam(0.0, ge=0, lt=1, help="of embedded tokens and in the layers")
    pooling: Literal["mean", "first"] | int = Hparam(
        "mean", help="task=classify: what is read, the mean over tokens, the first one, or that at a position"
    )
    num_samples: int = Hparam(8, ge=1, help="collapses that are drawn for a prediction of new data")
    vocab_size: int | None = Hparam(None, ge=1, help="number of tokens; filled in")
    num_words: int | None = Hparam(None, ge=1, help="the first of them, those that stand for something; filled in")
    max_len: int | None = Hparam(None, ge=1, help="most tokens in a sequence; None: patches of the lattice, 512 for text")
    num_labels: int | None = Hparam(None, ge=2, help="task=classify: number of classes; filled in")
    Lx: int | None = Hparam(None, ge=1, help="rows of the lattice of snapshots; filled in")
    Ly: int | None = Hparam(None, ge=1, help="columns of the lattice of snapshots; filled in")

    def __init__(self, **values: Any) -> None:
        inside = {name: values.pop(name) for name in list(values) if name in _OF_QUANTUM}
        if inside:
            quantum = values.get("quantum") or {}
            if not isinstance(quantum, Mapping):
                raise ConfigError(f"qembed.quantum={quantum!r}: expected a mapping of settings")
            given = quantum.model_dump(exclude_unset=True) if isinstance(quantum, QuantumHparams) else dict(quantum)
            if twice := [name for name in inside if name in given]:
                raise ConfigError(f"qembed.{twice[0]}={inside[twice[0]]}: stands in quantum, too; give one of the two")
            values["quantum"] = {**given, **inside}
        super().__init__(**values)

    @classmethod
    def parse_value(cls, name: str, text: str) -> Any:
        if name in _OF_QUANTUM:
            return QuantumHparams.parse_value(name, text)
        return super().parse_value(name, text)

    @property
    def label_of_runs(self) -> str:
        return f"qembed/{self.task}"

    def build(self) -> QEmbedModel:
        return QEmbedModel(self)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Any:
        if self.module_name is not None:
            raise ConfigError(f"qembed.module_name={self.module_name}: is for models of your own (--model)")
        if self.task != "classify":
            for name in ("pooling", "num_labels"):
                if self[name] != type(self).model_fields[name].default:
                    raise ConfigError(f"qembed.{name}={self[name]}: is for task=classify, not for {self.task}")
        if self.embedding == "plain":
            for name, value in self.embedding_settings().items():
                if value != type(self).model_fields[name].default:
                    raise ConfigError(f"qembed.{name}={value}: means nothing for embedding=plain")
        return self

    # --- with data --------------------------------------------------------------------------------------------------

    def agreed(self, data: Any) -> Any:
        if not isinstance(data, SequencesHparams):
            return data
        for name in ("task", "patch"):
            if data[name] not in (None, self[name]):
                raise ConfigError(f"data.{name}={data[name]}: the model has {name}={self[name]}")
        return data.updated({"task": self.task, "patch": self.patch})

    def fitted(self, data: Any, batch: Any) -> QEmbed:
        found: dict[str, Any] = {}
        if isinstance(data, Sequences):
            self.agreed(data.thparams)
            found = {"vocab_size": data.code.vocab_size, "num_words": data.code.num_words}
            if self.task == "classify":
                found["num_labels"] = len(data.thparams.classes or ())
            if isinstance(data.source, SnapshotSource):
                found |= {"Lx": data.source.shape[0], "Ly": data.source.shape[1]}
        for name, value in found.items():
            if self[name] not in (None, value):
                raise ConfigError(f"qembed.{name}={self[name]}: the data have {value}; leave it out")
        return self.updated(found)

    def code(self) -> PatchTokens | None:
        """How configurations become tokens; None for text."""
        if self.patch is None or self.Lx is None or self.Ly is None:
            return None
        return PatchTokens.of_lattice((self.Lx, self.Ly), self.patch)

    def network(self) -> nn.Module:
        """The network, with new weights.

        Raises:
            ConfigError: if something is missing that the data tell, and for settings that do not fit each other.
        """
        code = self.code()
        vocab_size = self.vocab_size if code is None else code.vocab_size
        length = self.max_len or (LONGEST_TEXT if code is None else len(code.token_sites))
        if vocab_size is None:
            raise ConfigError("qembed.vocab_size: missing; the data of a run tell it, or give it (or patch, Lx and Ly)")
        own = {"embedding": "plain"} if self.embedding == "plain" else self.embedding_settings()
        sizes = {name: self[name] for name in ("embedding_dim", "num_layers", "nhead", "dropout")}
        rest: dict[str, Any] = {**own, **sizes, "max_len": length}
        if self.task == "classify":
            if self.num_labels is None:
                raise ConfigError("qembed.num_labels: missing; the data of a run tell it, or give it")
            return QuantumSequenceClassifier(vocab_size, self.num_labels, pooling=self.pooling, **rest)
        if self.task == "mlm":
            return QuantumMaskedLM(vocab_size, num_outputs=self.num_words if code is None else code.num_words, **rest)
        if code is None:
            raise ConfigError("qembed.patch: missing; task=denoise cleans configurations of a lattice (patch, Lx, Ly)")
        return QuantumDenoiser(vocab_size, code.token_sites, **rest)


class QEmbedModel(QuantumModel):
    """The network that the settings name, with the loss of its task.

    Batches have `input_ids`, or in their place `configs` (B, N) of 0 and 1.
    """

    hparams_schema = QEmbed
    named_by_module = False
    thparams: QEmbed

    def __init__(self, hparams: QEmbed | Mapping[str, Any]) -> None:
        settings = hparams if isinstance(hparams, QEmbed) else QEmbed(**hparams)
        network: Any = settings.network()
        super().__init__(settings, network, network.loss_of)
        self.code = settings.code()

    def forward(self, batch: Any) -> Any:
        if not isinstance(batch, Mapping) or "configs" not in batch:
            return super().forward(batch)
        if self.code is None:
            raise ConfigError("batch: has configs; the model was not made for them (qembed.patch, Lx, Ly)")
        rest = {name: value for name, value in batch.items() if name != "configs"}
        return super().forward({**rest, "input_ids": self.code.encode(batch["configs"])})

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        metrics = super().compute_metrics(batch, batch_idx)
        if self.thparams.task == "denoise" and self.code is not None and not self.training:
            # What nobody has cleaned, to compare with.
            read = self.code.decode(batch["input_ids"]) if "input_ids" in batch else batch["configs"]
            metrics["accuracy_as_read"] = (read == batch["labels"]).float().mean()
        return metrics

    def describe_data(self, objective: Any) -> list[str]:
        settings = self.thparams
        sizes = [getattr(part, "samples", 0) for part in (objective.training, objective.validation)]
        patches = "" if self.code is None else f"{len(self.code.token_sites)} patches of {settings.Lx}x{settings.Ly} sites, "
        classes = f", {settings.num_labels} classes" if settings.task == "classify" else ""
        tokens = f"{settings.vocab_size} tokens{classes}; {sizes[0]} sequences to train on, {sizes[1]} to validate"
        return [f"{settings.task}: {patches}{tokens}"]
