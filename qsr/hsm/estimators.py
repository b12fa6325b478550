"""Hilbert-space models as estimators of scikit-learn: fit, predict, transform, in pipelines and searches."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from qsr.hparams import ConfigError, RunSettings
from qsr.hsm.model import HilbertSpaceModel
from qsr.hsm.overlaps import similarity, transform
from qsr.hsm.predictions import Predictions, predict
from qsr.runs import RunDirectory, read_run, restore_model
from qsr.training.callbacks import EpochMetrics, ProgressBar
from qsr.training.device import find_device
from qsr.training.fitting import started_fit, train_in_memory
from qsr.training.settings import NO_OUTPUT
from qsr.training.table import Table
from qsr.training.trainer import Interrupted

# Arguments of an estimator that are settings of a section.
_OF_HSM = (
    *("hsm_model", "hilbert_space_dims", "qubits_count", "input_operator_pauli_weight", "output_operator_pauli_weight", "beta"),
    *("complex", "weighted_layer", "energy_form", "init", "init_scale", "standardize", "missing", "method"),
    "target_scale",
)
_OF_TRAIN = ("max_epochs", "lr", "device", "precision")
_STOPPING = {"patience": 10, "restore_best_weights": True}  # early_stopping=True


class _Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What both estimators share; arguments are described at `HSMClassifier`."""

    labels: ClassVar[bool]  # whether targets are classes
    own_optimizer: ClassVar[dict[str, Any]] = {"name": "AdamW"}  # for optimizer=None
    model_: HilbertSpaceModel

    def __init__(
        self,
        hsm_model: str = "general",
        *,
        hilbert_space_dims: int | None = None,
        qubits_count: int | None = None,
        input_operator_pauli_weight: int | None = None,
        output_operator_pauli_weight: int | None = None,
        beta: float | None = None,
        complex: bool = True,
        weighted_layer: bool = False,
        energy_form: str = "squared",
        init: str = "gue",
        init_scale: float = 0.5,
        standardize: str = "auto",
        missing: str = "error",
        method: str = "gradient",
        target_scale: float | None = None,
        loss: str | Mapping[str, Any] = "auto",
        max_epochs: int = 60,
        batch_size: int = 64,
        lr: float = 0.02,
        optimizer: str | Mapping[str, Any] | None = None,
        scheduler: str | Mapping[str, Any] = "CosineAnnealingLR",
        max_norm: float | None = 1.0,
        early_stopping: bool | Mapping[str, Any] = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
        precision: str = "float64",
        verbose: bool = False,
    ) -> None:
        self.hsm_model = hsm_model
        self.hilbert_space_dims = hilbert_space_dims
        self.qubits_count = qubits_count
        self.input_operator_pauli_weight = input_operator_pauli_weight
        self.output_operator_pauli_weight = output_operator_pauli_weight
        self.beta = beta
        self.complex = complex
        self.weighted_layer = weighted_layer
        self.energy_form = energy_form
        self.init = init
        self.init_scale = init_scale
        self.standardize = standardize
        self.missing = missing
        self.method = method
        self.target_scale = target_scale
        self.loss = loss
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.max_norm = max_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "drop_terms"
        return tags

    # --- fitting ----------------------------------------------------------------------------------------------------

    def _fit(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Train on features (S, K) and targets (S, T), which are numbers of classes for `labels`."""
        features = {f"x{index}": column for index, column in enumerate(x.T)}
        targets = {f"y{index}": column for index, column in enumerate(y.T)}
        settings = self._settings(tuple(targets), _seed(self.random_state))
        started = started_fit(settings, Table(settings.data, {**features, **targets}))
        metrics = EpochMetrics()
        try:
            train_in_memory(started, [metrics, *([ProgressBar()] if self.verbose else [])])
        except Interrupted as interrupted:
            # A search takes an exception for a fit that failed, and goes on; Ctrl-C must end it.
            if interrupted.signum == signal.SIGINT:
                raise KeyboardInterrupt from interrupted
            raise SystemExit(interrupted.status) from interrupted
        assert isinstance(started.model, HilbertSpaceModel)
        self.model_ = started.model
        self.loss_curve_ = [row["training/loss"] for row in metrics.epochs]
        self.n_iter_ = len(self.loss_curve_)

    def _settings(self, targets: tuple[str, ...], seed: int) -> RunSettings:
        """All settings of the fit.

        Raises:
            ConfigError: for those that cannot be run.
        """
        held = self.validation_fraction if self.early_stopping else 0.0
        data = {"targets": targets, "labels": self.labels or None, "split": (1 - held, held), "seed": seed}
        tree: dict[str, Any] = {
            "model": {"type": "hsm", **{name: getattr(self, name) for name in _OF_HSM}, "checkpoint": None},
            "train": {**{name: getattr(self, name) for name in _OF_TRAIN}, "seed": seed, "dir": NO_OUTPUT},
            "data": {**data, "batch_size": self.batch_size},
            "loss": _section(self.loss),
            **self._of_gradients(),
            "optimizer": self.own_optimizer if self.optimizer is None else _section(self.optimizer),
        }
        if self.early_stopping:
            tree["early_stopping"] = _STOPPING if self.early_stopping is True else dict(self.early_stopping)
        settings = RunSettings.from_tree(_plain(tree))
        if settings.model.loss.of_classes and not self.labels:
            raise ConfigError(f"loss.name={settings.model.loss.name}: is for classes; use HSMClassifier")
        return settings

    def _of_gradients(self) -> dict[str, Any]:
        """Sections that mean nothing for a closed form."""
        if self.method == "analytic":
            return {}
        return {"gradient_clipping": {"max_norm": self.max_norm}, "scheduler": _section(self.scheduler)}

    # --- using ------------------------------------------------------------------------------------------------------

    def energy(self, X: Any) -> NDArray[np.float64]:
        """(S,) ground energy E_0 of H(x), in units of standardised features: high for points unlike the training data.

        (The free energy of thermal states with `beta`; it is no measure of likeness for energy_form=linear.)
        """
        return self._predictions(X).energy

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """(S,) -`energy`: the lower, the less a point is like the training data, as scikit-learn has it."""
        return -self.energy(X)

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Ground states psi(x) as real features: (S, 2d) real parts and imaginary parts, or (S, d) for complex=False.

        The phase is that which makes the largest component real and positive. Rows have norm 1. Two points whose largest
        components differ may have states that are alike and rows that are not: compare points by `similarity`.

        Raises:
            ConfigError: with `beta`: thermal states are no vectors.
        """
        states = transform(self.model_, self._features(X)).cpu().numpy()  # (S, d)
        return np.hstack([states.real, states.imag]) if np.iscomplexobj(states) else states

    def similarity(self, X: Any, X2: Any = None) -> NDArray[np.float64]:
        """(S, S2) fidelities |<psi(x)|psi(x')>|^2 of all pairs of points, from 0 to 1; of X with itself without X2.

        (A positive semidefinite kernel: `SVC(kernel=estimator.similarity)`. Rosaler et al., arXiv 2502.01495.)

        Raises:
            ConfigError: as `transform`.
        """
        others = None if X2 is None else self._features(X2)
        return np.asarray(similarity(self.model_, self._features(X), others).cpu().numpy())

    @property
    def _n_features_out(self) -> int:
        settings = self.model_.thparams
        return int(settings.dimension * (2 if settings.complex or settings.pauli else 1))

    def _features(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, **self._checks()))

    def _checks(self) -> dict[str, Any]:
        """How features are checked."""
        return {"dtype": np.float64, "ensure_all_finite": "allow-nan" if self.missing == "drop_terms" else True}

    def _predictions(self, X: Any) -> Predictions:
        features = self._features(X)
        return predict(self.model_, features)

    # --- runs -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_run(cls, path: str | Path, device: str = "cpu") -> Any:
        """A fitted estimator from the directory of a run (`qsr train --hsm`), with the names of its features and classes.

        Its arguments are those of the run as far as an estimator has them.

        Raises:
            ConfigError: as `qsr.load_model`; for a run of another kind of model or target.
        """
        stored = read_run(path)
        settings = stored.settings
        kind = settings.model.section
        if kind != "hsm" or settings.model.hsm_model == "geometry":
            raise ConfigError(f"{path}: {cls.__name__} needs a run of --hsm with targets, found one of --{kind}")
        if (settings.model.classes is not None) != cls.labels:
            found_targets, wanted = ("numbers", "classes") if cls.labels else ("classes", "numbers")
            raise ConfigError(f"{path}: {cls.__name__} needs a run that predicts {wanted}, and this one predicts {found_targets}")
        sections = {"optimizer": settings.optimizer, "scheduler": settings.scheduler, "loss": settings.model.loss}
        found = cls(
            **{name: settings.model[name] for name in _OF_HSM},
            **{name: settings.train[name] for name in ("max_epochs", "lr", "precision")},
            **{name: section.model_dump() for name, section in sections.items()},
            max_norm=settings.gradient_clipping.max_norm,
            random_state=settings.train.seed,
            device=device,
        )
        found.model_ = restore_model(stored, find_device(device))
        found.n_features_in_ = found.model_.num_features
        if settings.model.features is not None:
            found.feature_names_in_ = np.array(settings.model.features, dtype=object)
        if cls.labels:
            found.classes_ = np.array(settings.model.classes)
        if not cls.labels:
            found._single = found.model_.num_outputs == 1
        found.loss_curve_ = RunDirectory(stored.path).history.read("epochs")["training_loss"].tolist()
        found.n_iter_ = len(found.loss_curve_)
        return found


class HSMClassifier(ClassifierMixin, _Estimator):
    """Classes from the ground state of H(x) = 1/2 sum_k (A_k - x_k)^2: one operator for each, whose expectation values compete.

    Features are standardised in here. Settings are those of the sections of the same name (`qsr train --help --hsm`), with their
    bounds, and are checked in `fit`.

    Args:
        hsm_model, ... target_scale: as in the section hsm; hilbert_space_dims None: 8.
        loss, optimizer, scheduler: name of a class of torch, or the settings of the section: {"name": "SGD", "kwargs": {...}}.
            Of optimizers None is AdamW, for `HSMRegressor` with a weight decay of 1; of schedulers none.
        max_epochs: passes over the training data.
        batch_size: samples per step.
        lr: learning rate.
        max_norm: bound on the norm of the gradient, or None.
        early_stopping: keep the weights that are best on held-back data and stop after 10 epochs without better ones; or the
            settings of the section.
        validation_fraction: share of the data that is held back for that.
        random_state: of first weights and order; None: another one at every fit. Global generators are left alone.
        device: as in the section train; the CPU, unless another is named.
        precision: as in the section train; in float64, the default, predictions are the same to 9 digits in any company of rows.
        verbose: show a bar on stderr.

    Attributes:
        model_: the `HilbertSpaceModel`.
        classes_: (C,) labels.
        n_features_in_, feature_names_in_: of the training data; the names if they have some.
        n_iter_, loss_curve_: epochs, and the loss of each.

    Raises:
        ConfigError: (a ValueError) from `fit`, for settings that cannot be run.
    """

    labels = True

    def fit(self, X: Any, y: Any) -> HSMClassifier:
        """Train on features (S, K) and labels (S,) of any kind.

        Raises:
            ConfigError: also for labels that are all the same.
            RunFailed: if the loss stays non-finite.
        """
        features, labels = validate_data(self, X, y, **self._checks())
        check_classification_targets(labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ConfigError(f"y: has 1 class, {classes[0]!r}, expected at least 2")
        self._fit(features, numbers.astype(np.float64)[:, None])
        self.classes_ = classes
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """(S,) the most probable labels."""
        numbers = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[numbers])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(S, C) probabilities: softmax of the expectation values, for fullenergy models shares of them."""
        return np.asarray(self._predictions(X).probabilities)


class HSMRegressor(RegressorMixin, _Estimator):
    """Numbers y_t = <B_t> in the ground state of H(x) = 1/2 sum_k (A_k - x_k)^2, one or several for each point.

    Features and targets are standardised in here. Arguments and attributes are those of `HSMClassifier`, without classes.
    """

    labels = False
    # R^2 of five folds of diabetes goes from 0.35 to 0.42 (d=4) and from 0.16 to 0.30 (d=8) with it, and that of Friedman's first
    # function stays 0.76; classes do not gain by it.
    own_optimizer: ClassVar[dict[str, Any]] = {"name": "AdamW", "kwargs": {"weight_decay": 1.0}}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> HSMRegressor:
        """Train on features (S, K) and targets (S,) or (S, T).

        Raises:
            RunFailed: if the loss stays non-finite.
        """
        features, targets = validate_data(self, X, y, multi_output=True, y_numeric=True, **self._checks())
        self._fit(features, np.asarray(targets, dtype=np.float64).reshape(len(targets), -1))
        self._single = targets.ndim == 1
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(S,) or (S, T), as the targets were.

        Args:
            return_std: return a pair: the same, and the quantum standard deviations sqrt(<B^2> - <B>^2), in the same units.
        """
        found = self._predictions(X)
        values, deviations = (part[:, 0] if self._single else part for part in (found.values, found.deviations))
        return (values, deviations) if return_std else values


def _seed(random_state: Any) -> int:
    """The seed of a fit. A generator is asked for one; None is another number every time."""
    if random_state is None:
        return secrets.randbits(31)
    return int(random_state.randint(2**31 - 1)) if hasattr(random_state, "randint") else random_state


def _section(value: Any) -> Any:
    """A section from the name in it."""
    return {"name": value} if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """The same with Python's numbers in place of numpy's, which searches draw."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value
