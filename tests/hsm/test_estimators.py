"""The estimators keep scikit-learn's rules, and predict, doubt and compare as the mathematics of the model says."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import qsr
from qsr.hparams import ConfigError
from qsr.hsm import HSM, HSMClassifier, HSMRegressor, estimators
from qsr.training.trainer import Interrupted

SMALL: dict[str, Any] = {"hilbert_space_dims": 4, "max_epochs": 20, "lr": 0.05}
ANALYTIC = {"hsm_model": "general_fullenergy", "method": "analytic", "hilbert_space_dims": 4, "max_epochs": 20}
PAULI = {"hsm_model": "pauli", "qubits_count": 2, "max_epochs": 20, "lr": 0.05}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
CLASSES = np.array(["down", "up"])[(X[:, 0] + X[:, 1] > 0).astype(int)]
NUMBERS = X[:, 0] - 2 * X[:, 1]


SETTINGS = [kind(**settings) for kind in (HSMClassifier, HSMRegressor) for settings in (SMALL, ANALYTIC, PAULI)]
CHECKS = parametrize_with_checks(SETTINGS)  # a generator in some versions, which pytest refuses


@pytest.mark.parametrize(CHECKS.args[0], [*CHECKS.args[1]], **CHECKS.kwargs)
def test_rules_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def in_a_new_process(code: str, *, blocked: bool = False) -> str:
    block = "import sys; sys.modules['sklearn'] = None\n" if blocked else "import sys\n"
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_scikit_learn_is_imported_when_an_estimator_is_asked_for() -> None:
    seen = "print('sklearn' in sys.modules)\n"
    assert in_a_new_process(f"import qsr, qsr.hsm\n{seen}from qsr.hsm import HSMClassifier\n{seen}").split() == ["False", "True"]


def test_without_scikit_learn_one_line_says_what_to_install() -> None:
    assert in_a_new_process("import qsr, qsr.hsm; print(qsr.hsm.HSM.__name__)", blocked=True) == "HSM\n"
    found = in_a_new_process("from qsr.hsm import HSMClassifier", blocked=True)
    assert found.splitlines()[-1] == "ImportError: qsr.hsm.HSMClassifier: needs scikit-learn: pip install 'qsr[hsm]'"
    assert "During handling" not in found
    with pytest.raises(AttributeError, match="has no attribute 'HSMClusterer'"):
        qsr.hsm.HSMClusterer  # noqa: B018


def test_defaults_are_those_of_the_section() -> None:
    arguments = HSMRegressor().get_params()
    for name in estimators._OF_HSM:
        assert arguments[name] == HSM.model_fields[name].default, name


# --- in scikit-learn's machinery --------------------------------------------------------------------------------------


def test_searches_and_pipelines() -> None:
    pipeline = make_pipeline(StandardScaler(), HSMClassifier(**SMALL))
    search = GridSearchCV(pipeline, {"hsmclassifier__hilbert_space_dims": np.array([1, 4])}, cv=3).fit(X, CLASSES)
    assert search.best_params_["hsmclassifier__hilbert_space_dims"] == 4 and search.best_score_ > 0.85
    assert cross_val_score(HSMRegressor(**SMALL), X, NUMBERS, cv=3).min() > 0.7


def test_states_as_features_of_another_model() -> None:
    stacked = make_pipeline(HSMClassifier(**SMALL), LogisticRegression()).fit(X, CLASSES)
    assert stacked.score(X, CLASSES) > 0.8
    model = HSMClassifier(**SMALL).set_output(transform="pandas").fit(X, CLASSES)
    frame = model.transform(X)
    assert list(frame.columns) == [f"hsmclassifier{index}" for index in range(8)]
    assert HSMClassifier(**SMALL, complex=False).fit_transform(X, CLASSES).shape == (60, 4)
    kernel = SVC(kernel=model.similarity).fit(X, CLASSES)
    assert kernel.score(X, CLASSES) > 0.9


def test_frames_with_columns_of_words() -> None:
    frame = pd.DataFrame({"size": X[:, 0], "colour": np.where(X[:, 1] > 0, "red", "blue")})
    columns = ColumnTransformer(
        [("size", StandardScaler(), ["size"]), ("colour", OneHotEncoder(sparse_output=False), ["colour"])]
    )
    pipeline = make_pipeline(columns.set_output(transform="pandas"), HSMClassifier(**SMALL)).fit(frame, CLASSES)
    assert list(pipeline[-1].feature_names_in_) == ["size__size", "colour__colour_blue", "colour__colour_red"]
    assert pipeline.score(frame, CLASSES) > 0.8 and pipeline[-1].n_features_in_ == 3
    assert set(pipeline.predict(frame)) == {"down", "up"}


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL, ANALYTIC, PAULI, {**SMALL, "loss": "MSELoss"}])
def test_probabilities(settings: dict[str, Any]) -> None:
    model = HSMClassifier(**settings).fit(X, CLASSES)
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (60, 2) and (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert model.classes_.tolist() == ["down", "up"]
    assert (model.predict(X) == model.classes_[probabilities.argmax(axis=1)]).all() and model.score(X, CLASSES) > 0.85
    assert len(model.loss_curve_) == model.n_iter_ == 20 and model.loss_curve_[-1] < model.loss_curve_[0]


def test_the_largest_expectation_value_wins_where_none_is_positive() -> None:
    model = HSMClassifier(**ANALYTIC).fit(X, CLASSES)
    before = model.predict(X)
    model.model_.set_operators("output", model.model_.operators_of("output").detach() - 5 * torch.eye(4, dtype=torch.float64))
    assert set(before) == {"down", "up"} and (model.predict(X) == before).all()


@pytest.fixture(scope="module")
def bloch() -> HSMRegressor:
    """sigma_x, sigma_y, sigma_z as the operators of three features, and b . sigma as that of the target."""
    model = HSMRegressor(hilbert_space_dims=2, max_epochs=1, standardize="none").fit(X, NUMBERS)
    sigma = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)
    model.model_.set_operators("input", sigma)
    model.model_.set_operators("output", torch.einsum("k,kij->ij", torch.tensor(B, dtype=torch.complex128), sigma)[None])
    return model


B = np.array([0.3, -1.2, 0.5])


def test_quantum_deviations_and_energies_of_pauli_matrices(bloch: HSMRegressor) -> None:
    length = np.linalg.norm(X, axis=1)
    mean = X @ B / length
    predicted, deviations = bloch.predict(X, return_std=True)
    np.testing.assert_allclose(predicted, mean, atol=1e-12)
    np.testing.assert_allclose(deviations, np.sqrt(B @ B - mean**2), atol=1e-12)  # (b . sigma)^2 = |b|^2
    np.testing.assert_allclose(bloch.energy(X), (3 + length**2) / 2 - length, atol=1e-12)
    assert (bloch.score_samples(X) == -bloch.energy(X)).all() and (bloch.predict(X) == predicted).all()


def test_states_and_fidelities_of_pauli_matrices(bloch: HSMRegressor) -> None:
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(bloch.similarity(X[:20], X[20:]), (1 + unit[:20] @ unit[20:].T) / 2, atol=1e-12)
    np.testing.assert_allclose(np.diag(bloch.similarity(X)), 1, atol=1e-12)
    # cos(theta/2) |0> + e^(i phi) sin(theta/2) |1>, turned so that the larger component is real
    theta, phi = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    up, down = np.cos(theta / 2), np.sin(theta / 2) * np.exp(1j * phi)
    turn = np.where(unit[:, 2] > 0, 1, np.exp(-1j * phi))
    expected = np.stack([(up * turn).real, (down * turn).real, (up * turn).imag, (down * turn).imag], axis=1)
    np.testing.assert_allclose(bloch.transform(X), expected, atol=1e-12)


def test_several_targets_keep_their_shape() -> None:
    targets = np.stack([NUMBERS, 100 + 10 * X[:, 2]], axis=1)
    model = HSMRegressor(**{**SMALL, "max_epochs": 60}).fit(X, targets)
    values, deviations = model.predict(X, return_std=True)
    assert values.shape == deviations.shape == (60, 2) and (deviations >= 0).all()
    assert model.score(X, targets) > 0.9
    assert HSMRegressor(**SMALL).fit(X, NUMBERS[:, None]).predict(X).shape == (60, 1)
    assert HSMRegressor(**SMALL).fit(X, NUMBERS).predict(X).shape == (60,)


def test_points_unlike_the_training_data_have_a_high_energy() -> None:
    model = HSMRegressor(**ANALYTIC).fit(X, NUMBERS)
    directions = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert model.energy(10 * directions).min() > model.energy(X).max()
    assert model.score_samples(10 * directions).max() < model.score_samples(X).min()


@pytest.mark.parametrize(
    ("load", "model", "floor"),
    [
        (load_breast_cancer, HSMClassifier(max_epochs=20), 0.95),
        (load_iris, HSMClassifier(hilbert_space_dims=4), 0.93),
    ],
)
def test_accuracy_on_tables(load: Any, model: Any, floor: float) -> None:
    x, y = load(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    assert model.fit(train_x, train_y).score(test_x, test_y) >= floor


@pytest.mark.slow
def test_accuracy_of_numbers() -> None:
    x, y = load_diabetes(return_X_y=True)  # single splits differ by 0.5
    folds = KFold(5, shuffle=True, random_state=0)
    assert cross_val_score(HSMRegressor(hilbert_space_dims=4), x, y, cv=folds).mean() >= 0.38


def test_arrays_that_are_read_only_or_run_backwards(bloch: HSMRegressor) -> None:
    fixed = X.copy()
    fixed.setflags(write=False)
    for call in (bloch.predict, bloch.energy, bloch.transform):
        np.testing.assert_allclose(call(fixed), call(X))
        np.testing.assert_allclose(call(X[::-1]), call(X)[::-1], atol=1e-12)


def test_missing_features() -> None:
    holes = X.copy()
    holes[RNG.random(X.shape) < 0.1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        HSMClassifier(**SMALL).fit(holes, CLASSES)
    taken = [get_tags(HSMClassifier(missing=missing)).input_tags.allow_nan for missing in ("error", "drop_terms")]
    assert taken == [False, True]
    model = HSMClassifier(**SMALL, missing="drop_terms").fit(holes, CLASSES)
    assert model.score(holes, CLASSES) > 0.8 and np.isfinite(model.transform(holes)).all()
    with pytest.raises(ValueError, match="infinity"):
        model.predict(np.full((1, 3), np.inf))


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL, {**SMALL, "init": "kmeans"}, {**SMALL, "early_stopping": True}])
def test_random_state_decides_and_global_generators_rest(settings: dict[str, Any]) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second, other = (HSMRegressor(**settings, random_state=seed).fit(X, NUMBERS).predict(X) for seed in (3, 3, 4))
    assert first.tobytes() == second.tobytes() and not np.allclose(first, other)
    drawn = [HSMRegressor(**settings, random_state=None).fit(X, NUMBERS).predict(X) for _ in range(2)]
    assert not np.allclose(*drawn)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    generators = [np.random.RandomState(5) for _ in range(2)]
    found = [HSMRegressor(**settings, random_state=generator).fit(X, NUMBERS).predict(X) for generator in generators]
    assert found[0].tobytes() == found[1].tobytes()


def test_early_stopping_keeps_the_best_weights() -> None:
    noise = RNG.normal(size=60)
    settings = {"hilbert_space_dims": 8, "max_epochs": 200, "lr": 0.1, "scheduler": None, "validation_fraction": 0.3}
    model = HSMRegressor(**settings, early_stopping=True).fit(X, noise)
    assert 10 < model.n_iter_ < 200
    patient = HSMRegressor(**settings, early_stopping={"patience": 15, "restore_best_weights": True}).fit(X, noise)
    # The same weights are the best ones of both; without restoring they would be five epochs apart.
    assert patient.n_iter_ == model.n_iter_ + 5 and (patient.predict(X) == model.predict(X)).all()


def test_other_optimizers_and_losses() -> None:
    sgd = {"name": "SGD", "kwargs": {"momentum": 0.9}}
    model = HSMRegressor(**SMALL, optimizer=sgd, loss="HuberLoss", scheduler="none", max_norm=None).fit(X, NUMBERS)
    assert model.score(X, NUMBERS) > 0.5 and model.model_.thparams.loss.name == "HuberLoss"
    assert HSMClassifier(**SMALL, optimizer="LBFGS").fit(X, CLASSES).score(X, CLASSES) > 0.85


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (HSMClassifier(hilbert_space_dims=0), "hsm.hilbert_space_dims=0: Hilbert space dimension must be greater than 0."),
        (HSMClassifier(hsm_model="pauli"), "hsm.qubits_count: missing"),
        (HSMClassifier(max_epochs=0), "train.max_epochs=0: must be at least 1"),
        (HSMClassifier(batch_size=0), "batch_size=0: must be at least 1"),
        (HSMClassifier(optimizer="Adamw2"), "optimizer.name=Adamw2: unknown optimizer"),
        (HSMClassifier(loss={"name": "CrossEntropyLoss", "kwargs": {"weigt": [1, 2]}}), "loss.weigt: CrossEntropyLoss has no"),
        (HSMClassifier(early_stopping=True, validation_fraction=1.5), "data.split=-0.5, 1.5: must be"),
        (HSMClassifier(early_stopping={"monitor": "validation/los"}), "early_stopping.monitor=validation/los: no such metric"),
        (HSMClassifier(random_state=-1), "train.seed=-1"),
        (HSMClassifier(hsm_model="geometry"), "hsm_model=geometry learns the features alone"),
        (HSMRegressor(loss="CrossEntropyLoss"), "loss.name=CrossEntropyLoss: is for classes; use HSMClassifier"),
    ],
)
def test_settings_are_refused_in_one_line(model: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model.fit(X, CLASSES if isinstance(model, HSMClassifier) else NUMBERS)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_thermal_states_are_no_vectors() -> None:
    model = HSMClassifier(**SMALL, beta=5.0).fit(X, CLASSES)
    assert model.score(X, CLASSES) > 0.85
    for call in (model.transform, model.similarity):
        with pytest.raises(ConfigError, match="a model of thermal states"):
            call(X)


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="y: has 1 class"):
        HSMClassifier(**SMALL).fit(X, np.full(60, "up"))


def test_the_interrupt_key_ends_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise Interrupted(signal.SIGINT, None)

    monkeypatch.setattr(estimators, "train_in_memory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(HSMClassifier(**SMALL), {"lr": [0.1]}, cv=2).fit(X, CLASSES)


def test_a_fit_is_silent_and_a_verbose_one_has_a_bar(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    HSMClassifier(**SMALL).fit(X, CLASSES)
    assert capfd.readouterr() == ("", "")
    HSMClassifier(**SMALL, verbose=True).fit(X, CLASSES)
    out, err = capfd.readouterr()
    assert out == "" and "20/20" in err
    assert list(tmp_path.iterdir()) == []


# --- runs -------------------------------------------------------------------------------------------------------------


def test_estimators_from_runs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "label": CLASSES, "number": NUMBERS})
    frame.to_csv(tmp_path / "table.csv", index=False)
    train = {"max_epochs": 20, "lr": 0.05, "dir": str(tmp_path), "precision": "float64", "device": "cpu"}
    runs = {}
    for target in ("label", "number"):
        data = {
            "type": "table",
            "file": str(tmp_path / "table.csv"),
            "targets": target,
            "input_features": ["a", "b", "c"],
            "seed": 0,
        }
        runs[target] = qsr.fit({"type": "hsm", "hilbert_space_dims": 4}, data, train)
    classifier, regressor = HSMClassifier.from_run(runs["label"].path), HSMRegressor.from_run(runs["number"].path)
    assert classifier.classes_.tolist() == ["down", "up"] and classifier.score(frame[["a", "b", "c"]], CLASSES) > 0.85
    assert list(regressor.feature_names_in_) == ["a", "b", "c"] and regressor.n_iter_ == 20
    with torch.no_grad():
        expected = runs["number"].model(torch.from_numpy(X))[:, 0].numpy()
    np.testing.assert_allclose(regressor.predict(frame[["a", "b", "c"]]), expected, atol=1e-12)
    assert regressor.get_params()["hilbert_space_dims"] == 4 and regressor.get_params()["lr"] == 0.05
    assert regressor.fit(X, NUMBERS).score(X, NUMBERS) > 0.7  # its arguments are good for a fit of its own
    with pytest.raises(ConfigError, match="HSMRegressor needs a run that predicts numbers, and this one predicts classes"):
        HSMRegressor.from_run(runs["label"].path)
    with pytest.raises(NotFittedError):
        HSMRegressor().predict(X)
