"""Settings of Hilbert-space models: which operators, how large, and what state is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from qsr.hamiltonians.pauli import number_of_strings
from qsr.hamiltonians.pauli_squares import MAX_PAIRS
from qsr.hparams import ConfigError, Hparam
from qsr.hparams.types import TypedSection
from qsr.hsm.rows import check_rows, features_and_targets
from qsr.training.losses import LossHparams
from qsr.training.model import ModelHparams
from qsr.training.table import Table, TableHparams

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel

logger = logging.getLogger(__name__)

DEFAULT_DIMENSION = 8
LARGE_DIMENSION = 256
MAX_DIMENSION = 4096  # an operator has 256 MiB
MAX_STRINGS = 2**17
MAX_QUBITS = 62  # strings are masks in an int64
MAX_DENSE_QUBITS = 12  # a Hamiltonian of 2^12 x 2^12 complex numbers has 128 MiB, for every point of a batch
STANDARDISED = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "GaussianNLLLoss")  # losses of differences


class HSM(ModelHparams):
    """A Hilbert-space model: H(x) = 1/2 sum_k (A_k - x_k)^2, and y_t = <B_t> in its ground state.

    (Candelori et al., Sci. Rep. 15, 6933 (2025); Samson et al., Quantum Cognition Machine Learning (2024).)
    """

    section: ClassVar[str] = "hsm"
    data_section: ClassVar[str] = "table"
    # benchmarks/hsm_tables.py
    default_rates: ClassVar[Mapping[str, float]] = {"Adam": 0.02, "AdamW": 0.02}
    default_epochs: ClassVar[int | None] = 60

    hsm_model: Literal["general", "pauli", "general_fullenergy", "pauli_fullenergy", "geometry"] = Hparam(
        "general",
        help="Hermitian matrices, or sums of Pauli strings; trained on a loss of the predictions, or (fullenergy) on the energy "
        "of features and targets; geometry: features alone",
    )
    weighted_layer: bool = Hparam(False, help="a trainable factor on every feature")
    input_operator_count: int | None = Hparam(None, help="number of features; None: as the data have")
    output_operator_count: int | None = Hparam(None, help="number of targets, or of classes; None: as the data have")
    hilbert_space_dims: int | None = Hparam(None, help="dimension d of the Hilbert space, for Hermitian matrices; None: 8")
    qubits_count: int | None = Hparam(None, help="number of qubits, for Pauli strings: d = 2^qubits_count")
    input_operator_pauli_weight: int | None = Hparam(None, help="most letters other than I in a string of A_k; None: all")
    output_operator_pauli_weight: int | None = Hparam(None, help="most letters other than I in a string of B_t; None: all")
    beta: float | None = Hparam(
        None, gt=0, allow_inf_nan=False, help="inverse temperature of the state exp(-beta H)/Z; None: the ground state"
    )
    complex: bool = Hparam(True, help="whether Hermitian matrices are complex, or real and symmetric")
    eigh_eps: float | None = Hparam(
        1e-8, ge=0, allow_inf_nan=False, help="added to the diagonal of H; shifts all levels alike and changes no result"
    )
    energy_form: Literal["squared", "linear"] = Hparam("squared", help="H(x) as above, or A_0 - sum_k x_k A_k")
    degenerate: Literal["drop", "average"] = Hparam(
        "drop", help="of a degenerate ground level: the state that the solver gives, or the average over the level"
    )
    predict_mode: Literal["input", "self_consistent"] = Hparam(
        "input", help="fullenergy: predict from the state of the features, or iterate features and prediction until they agree"
    )
    method: Literal["gradient", "analytic"] = Hparam(
        "gradient", help="analytic: the operators of fullenergy are solved for, once an epoch, and there is no learning rate"
    )
    init: Literal["gue", "kmeans"] = Hparam(
        "gue", help="first operators: random matrices, or the clusters of the data on the diagonals"
    )
    init_scale: float = Hparam(
        0.5, gt=0, allow_inf_nan=False, help="size of the first operators: spectra fill -2 to 2 times this (for classes: -4 to 4)"
    )
    standardize: Literal["auto", "inputs", "none"] = Hparam(
        "auto", help="to mean 0 and deviation 1: features, and targets of losses of differences; features only; nothing"
    )
    target_scale: float | None = Hparam(
        None, gt=0, allow_inf_nan=False, help="fullenergy: factor on the targets in the energy; None: 1, and 2 for classes"
    )
    fluctuation_weight: float = Hparam(
        0.1, ge=0, allow_inf_nan=False, help="geometry: w of the loss (<A_k> - x_k)^2 + w Var A_k, averaged over k"
    )
    missing: Literal["error", "drop_terms"] = Hparam(
        "error", help="features without a value: refused, or their terms are left out of H(x)"
    )
    sampler: TypedSection | None = Hparam(
        None,
        help="many qubits: the sampler of the states of a Pauli model, with phase=True; write --ptf or another after --hsm",
    )
    num_samples: int = Hparam(64, ge=2, help="configurations that the sampler draws for every point of a batch")
    loss: LossHparams = Hparam(default_factory=LossHparams, help="as the section loss")
    classes: tuple[str | float, ...] | None = Hparam(None, help="names or values of the classes; filled in from the data")
    features: tuple[str, ...] | None = Hparam(None, help="names of the features of a table; filled in")

    @property
    def label_of_runs(self) -> str:
        return f"hsm/{self.hsm_model}"

    @property
    def pauli(self) -> bool:
        """Whether operators are sums of Pauli strings."""
        return self.hsm_model.startswith("pauli")

    @property
    def full_energy(self) -> bool:
        """Whether the energy of features and targets is what is minimised."""
        return self.hsm_model.endswith("_fullenergy")

    @property
    def dimension(self) -> int:
        """d."""
        return 2 ** (self.qubits_count or 0) if self.pauli else int(self.hilbert_space_dims or 0)

    def build(self) -> HilbertSpaceModel:
        from qsr.hsm.model import HilbertSpaceModel
        from qsr.hsm.variational import SampledHilbertSpaceModel

        if self.sampler is not None:
            return SampledHilbertSpaceModel(self)
        return HilbertSpaceModel(self)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Any:
        for name, words in (("input_operator_count", "Input operator count"), ("output_operator_count", "Output operator count")):
            if self[name] is not None and self[name] < 1:
                raise ConfigError(f"hsm.{name}={self[name]}: {words} must be greater than 0.")
        weights = ("qubits_count", "input_operator_pauli_weight", "output_operator_pauli_weight")
        others = ("hilbert_space_dims",) if self.pauli else weights
        for name in others:
            if self[name] is not None:
                raise ConfigError(f"hsm.{name}={self[name]}: means nothing for hsm_model={self.hsm_model}")
        if self.pauli:
            self._check_pauli()
        else:
            if self.hilbert_space_dims is None:
                self.__dict__["hilbert_space_dims"] = DEFAULT_DIMENSION
            if self.dimension < 1:
                raise ConfigError(f"hsm.hilbert_space_dims={self.dimension}: Hilbert space dimension must be greater than 0.")
        self._check_effect()
        self._check_energy()
        if self.sampler is not None:
            self._check_sampler()
        if self.pauli and self.init == "kmeans":
            raise ConfigError("hsm.init=kmeans: needs hsm_model=general; clusters on a diagonal are no short Pauli strings")
        if self.hsm_model == "geometry":
            self._check_geometry()
        return self

    def _check_pauli(self) -> None:
        qubits = self.qubits_count
        if qubits is None:
            raise ConfigError(f"hsm.qubits_count: missing; hsm_model={self.hsm_model} needs a number of qubits")
        if qubits < 1:
            raise ConfigError(f"hsm.qubits_count={qubits}: Qubits count must be greater than 0.")
        if qubits > MAX_DENSE_QUBITS and self.sampler is None:
            raise ConfigError(
                f"hsm.qubits_count={qubits}: matrices of 2^{qubits} rows are not diagonalised, at most {MAX_DENSE_QUBITS}; "
                "write a sampler of the states after --hsm, for example --ptf patch=1 phase=True"
            )
        if qubits > MAX_QUBITS:
            raise ConfigError(f"hsm.qubits_count={qubits}: must be at most {MAX_QUBITS}")
        for side in ("input", "output"):
            name = f"{side}_operator_pauli_weight"
            weight = self[name] if self[name] is not None else qubits
            if not 1 <= weight <= qubits:
                words = f"{side.capitalize()} Pauli weight cannot be greater than qubits count or less than 1."
                raise ConfigError(f"hsm.{name}={weight}: {words}")
            self.__dict__[name] = weight
            strings = number_of_strings(qubits, weight)
            most = MAX_STRINGS if self.sampler is None or self.energy_form == "linear" else math.isqrt(MAX_PAIRS)
            if strings > most:
                raise ConfigError(f"hsm.{name}={weight}: {qubits} qubits have {strings} strings of this weight, at most {most}")

    def _check_effect(self) -> None:
        """No setting may be without one."""
        fields = type(self).model_fields
        idle = {
            "complex": self.pauli,
            "num_samples": self.sampler is None,
            "init_scale": self.init == "kmeans",
            "module_name": True,
            "fluctuation_weight": self.hsm_model != "geometry",
        }
        for name, without in idle.items():
            if without and self[name] != fields[name].default:
                raise ConfigError(f"hsm.{name}={self[name]}: has no effect with the other settings of this model")
        if self.init == "kmeans" and self.energy_form == "linear":
            raise ConfigError("hsm.init=kmeans: clusters are states of energy_form=squared only")
        if self.dimension > MAX_DIMENSION and self.sampler is None:
            raise ConfigError(f"hsm.hilbert_space_dims={self.dimension}: must be at most {MAX_DIMENSION}")

    def _check_energy(self) -> None:
        if self.full_energy and self.weighted_layer:
            raise ConfigError("hsm.weighted_layer=True: fullenergy would go down by making all features small")
        kind = self.hsm_model
        if self.energy_form == "linear" and (self.full_energy or kind == "geometry"):
            raise ConfigError(f"hsm.energy_form=linear: is not bounded below, so hsm_model={kind} cannot minimise it")
        if self.energy_form == "linear" and self.missing == "drop_terms":
            raise ConfigError("hsm.missing=drop_terms: has a meaning for energy_form=squared only")
        if self.method == "analytic" and not self.full_energy:
            raise ConfigError(f"hsm.method=analytic: solves fullenergy models; hsm_model={self.hsm_model} is trained on a loss")
        if self.method == "analytic" and (self.beta is not None or self.degenerate == "average"):
            raise ConfigError("hsm.method=analytic: is for ground states; leave out beta and degenerate=average")
        if self.predict_mode == "self_consistent" and not self.full_energy:
            raise ConfigError(f"hsm.predict_mode=self_consistent: is for fullenergy models, not for {self.hsm_model}")
        if self.beta is not None and self.degenerate == "average":
            raise ConfigError(f"hsm.degenerate=average: means nothing with beta={self.beta}, which averages anyway")
        if self.target_scale is not None and not self.full_energy:
            raise ConfigError(f"hsm.target_scale={self.target_scale}: is for fullenergy models, not for {self.hsm_model}")
        if self.full_energy and self.loss.name == "GaussianNLLLoss":
            raise ConfigError(f"loss.name=GaussianNLLLoss: needs the variance of predictions, which {kind} does not train")
        if self.loss.name == "BCELoss":
            raise ConfigError("loss.name=BCELoss: needs predictions between 0 and 1, and <B> is not; use BCEWithLogitsLoss")
        if self.output_operator_count == 1 and self.loss.of_classes:
            raise ConfigError(f"loss.name={self.loss.name}: {self.loss.name} needs at least 2 output operators (one per class)")

    def _check_sampler(self) -> None:
        sampler: Any = self.sampler
        if not hasattr(sampler, "check_lattice"):
            raise ConfigError(f"hsm.sampler={sampler.section}: must be a sampler: --rnn, --ptf or --lptf")
        if not self.pauli:
            raise ConfigError(f"hsm.sampler: samples the states of Pauli models, not of hsm_model={self.hsm_model}")
        if not sampler.phase:
            raise ConfigError(f"{sampler.section}.phase=False: states of Hilbert-space models have phases; write phase=True")
        sampler.check_lattice((self.qubits_count, 1))
        needs = {"method": "gradient", "beta": None, "degenerate": "drop", "predict_mode": "input", "missing": "error"}
        for name, value in {**needs, "weighted_layer": False}.items():
            if self[name] != value:
                raise ConfigError(f"hsm.{name}={self[name]}: must be {value} where a sampler gives the states")
        if self.loss.name == "GaussianNLLLoss":
            raise ConfigError("loss.name=GaussianNLLLoss: is not evaluated where a sampler gives the states")

    def _check_geometry(self) -> None:
        if self.weighted_layer:
            raise ConfigError("hsm.weighted_layer=True: would lower the loss of hsm_model=geometry by making all features small")
        if self.output_operator_count is not None or self.loss.name != "auto" or self.beta is not None:
            given = {"output_operator_count": self.output_operator_count is not None, "beta": self.beta is not None}
            name = next((name for name, there in given.items() if there), "loss")
            raise ConfigError(f"hsm.{name}: means nothing for hsm_model=geometry, which has no targets and reads ground states")

    # --- with data --------------------------------------------------------------------------------------------------

    def agreed(self, data: Any) -> Any:
        if not isinstance(data, TableHparams):
            return data
        targets = data.targets
        if self.hsm_model == "geometry":
            if targets:
                raise ConfigError(f"data.targets={list(targets)}: hsm_model=geometry learns the features alone")
            return data
        if not targets:
            raise ConfigError("data.targets: At least one target must be specified.")
        if self.loss.of_classes and len(targets) == 1 and data.labels is False:
            raise ConfigError(f"data.labels=False: {self.loss.name} of one target column takes it as the name of a class")
        if self.loss.of_classes and len(targets) == 1 and data.labels is None:
            data = data.updated({"labels": True})
        count = self.output_operator_count
        may_be_classes = self.loss.of_classes or self.loss.name == "auto" or self.full_energy
        one_label = len(targets) == 1 and data.labels is not False and may_be_classes
        if count is not None and count != len(targets) and not one_label:
            words = f"Output operator count ({count}) must match the number of targets ({len(targets)})."
            raise ConfigError(f"hsm.output_operator_count={count}: {words}")
        features = data.input_features
        if features is not None and self.input_operator_count not in (None, len(features)):
            raise ConfigError(self._mismatch("input", len(features)))
        return data

    def fitted(self, data: Any, batch: Any) -> HSM:
        x, y = features_and_targets(batch)
        table = data if isinstance(data, Table) else None
        features = x.shape[-1]
        if self.input_operator_count not in (None, features):
            raise ConfigError(self._mismatch("input", features))
        found: dict[str, Any] = {"input_operator_count": features}
        if table is not None:
            names = found["features"] = table.thparams.input_features
            # Every row, also of what is held back.
            check_rows(table.full.columns[0], self.missing, table.thparams.file or "data", names)
        if self.dimension == 1:
            logger.warning("hsm.hilbert_space_dims=1: predicts the same number for every row")
        if self.sampler is None and self.dimension > LARGE_DIMENSION:
            size = 16 * self.dimension**2 / 2**20
            logger.warning("hsm: a Hamiltonian of %d rows has %.0f MiB, for every row of a batch", self.dimension, size)
        if self.hsm_model == "geometry":
            return self.updated(found)
        if y is None:
            raise ConfigError(f"data: hsm_model={self.hsm_model} needs batches of (features, targets)")
        classes = self._classes(table, y)
        loss = self.loss
        if loss.name == "auto":
            loss = loss.updated({"name": "CrossEntropyLoss" if classes is not None else "MSELoss"})
        elif classes is not None and isinstance(classes[0], str) and not (loss.of_classes or self.full_energy):
            raise ConfigError(f"loss.name={loss.name}: the target is the name of a class; use CrossEntropyLoss")
        outputs = len(classes) if classes is not None else self._width(y)
        if loss.of_classes and outputs < 2:
            raise ConfigError(f"loss.name={loss.name}: {loss.name} needs at least 2 output operators (one per class)")
        if self.output_operator_count not in (None, outputs):
            raise ConfigError(self._mismatch("output", outputs))
        return self.updated({**found, "output_operator_count": outputs, "classes": classes, "loss": loss})

    def _classes(self, table: Table | None, y: Tensor) -> tuple[str | float, ...] | None:
        """Of labels: their names, or the numbers that stand for them."""
        labels = self._width(y) == 1 and (self.loss.of_classes or (table is not None and table.thparams.labels))
        if not labels:
            if self.classes is not None:
                raise ConfigError(f"hsm.classes={list(self.classes)}: the targets are numbers, not labels; leave it out")
            return None
        if table is not None:
            found = tuple(table.classes or table.full.columns[1].unique().tolist())
            if self.classes not in (None, found):
                raise ConfigError(
                    f"hsm.classes={list(self.classes or ())}: the data have {list(found)}, in this order; leave it out"
                )
            return found
        if self.classes is not None:
            return self.classes
        if self.output_operator_count is None:
            raise ConfigError("hsm.output_operator_count: give the number of classes; batches alone do not tell it")
        return tuple(float(number) for number in range(self.output_operator_count))

    @staticmethod
    def _width(y: Tensor) -> int:
        return 1 if y.dim() == 1 else int(y.shape[1])

    def _mismatch(self, side: str, found: int) -> str:
        count = self[f"{side}_operator_count"]
        what = "feature" if side == "input" else "target"
        return (
            f"hsm.{side}_operator_count={count}: {side.capitalize()} operator count ({what} dimension) mismatch: "
            f"Hyperparameters: {count} != Data: {found}"
        )
