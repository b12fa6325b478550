"""`--qembed`: networks learn what exact enumeration says can be learnt, and everything is rebuilt from settings.json alone."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import qsr
from qsr import Run
from qsr.hparams import RunSettings, parse_sections
from qsr.jobs import predict_table
from qsr.qembed.data import Sequences
from qsr.qembed.model import QEmbed, QEmbedModel
from qsr.qembed.patches import PatchTokens
from qsr.qembed.predictions import predict, row_batches, token_likelihoods
from qsr.runs import RunDirectory, same_history
from qsr.snapshots import read_snapshots
from tests.qembed.refused import fails
from tests.qembed.snapshot_files import ALL, SHAPE, SITES, checkerboard, disordered, drawn, indices, two_phases, write


def train(words: str, folder: Path, **train: Any) -> Run:
    sections = parse_sections(words.split())
    return qsr.train(**{**sections, "train": {"seed": 1, "dir": str(folder / "runs"), **train}})


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_phases(tmp_path_factory.mktemp("data") / "phases.h5")


@pytest.fixture(scope="module")
def classifier(phases: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(f"--qembed task=classify patch=2x2 K=2 --data {phases}", tmp_path_factory.mktemp("run"), max_epochs=12, lr=0.005)


def test_a_classifier_comes_close_to_the_exact_posterior(classifier: Run, tmp_path: Path) -> None:
    file = two_phases(tmp_path / "new.h5", count=4000, seed=7)
    new = read_snapshots(file)
    likelihoods = np.stack([disordered(), checkerboard()])[:, indices(new.configs)]
    posterior = likelihoods / likelihoods.sum(axis=0)
    labels = new.columns["labels"]
    bayes = {"accuracy": float((posterior.argmax(axis=0) == labels).mean())}
    bayes["nll"] = float(-np.log(posterior[labels, np.arange(len(labels))]).mean())
    assert classifier.path is not None
    report = predict_table(classifier.path, file)
    assert bayes["accuracy"] - 0.04 < report.metrics["test/accuracy"] <= bayes["accuracy"] + 0.01
    assert report.metrics["test/nll"] < bayes["nll"] + 0.08
    columns = report.columns
    assert list(columns) == ["label", "p_0", "p_1", "total_entropy", "aleatoric", "mutual_information", "uncertainty"]
    probs = np.stack([columns["p_0"], columns["p_1"]], axis=1)
    assert np.allclose(columns["total_entropy"], -(probs * np.log(probs)).sum(axis=1))
    assert np.allclose(columns["total_entropy"], columns["aleatoric"] + columns["mutual_information"])
    assert columns["mutual_information"].min() >= 0 and columns["mutual_information"].max() > 1e-4
    assert np.array_equal(columns["label"], probs.argmax(axis=1)) and "4000 predictions" in report.lines()


def test_masked_patches_have_their_conditional_entropy(tmp_path: Path) -> None:
    """Sites of a checkerboard tell each other."""
    probs = checkerboard()
    file = write(tmp_path / "ordered.h5", drawn(probs, 4000, seed=3))
    run = train(f"--qembed task=mlm patch=1x2 K=2 superposition_schedule=constant collapse_probability=0 --data {file}", tmp_path,
                max_epochs=15)  # fmt: skip
    code = PatchTokens.of_lattice(SHAPE, "1x2")
    ids = code.encode(torch.from_numpy(ALL)).numpy()
    exact = []
    for position in range(ids.shape[1]):
        rest = np.delete(ids, position, axis=1) @ 4 ** np.arange(ids.shape[1] - 1)
        of_rest = np.bincount(rest, weights=probs)[rest]
        exact.append(float(-(probs * np.log(probs / of_rest)).sum()))
    new = write(tmp_path / "new.h5", drawn(probs, 4000, seed=4))
    report = predict_table(run, new)
    assert report.columns["nll_0"].shape == (4000,) and next(iter(report.columns)) == "nll"
    assert np.mean(exact) - 0.03 < report.metrics["test/nll"] < np.mean(exact) + 0.05
    assert qsr.evaluate_on_data(run).metrics["test/nll"] < np.mean(exact) + 0.1


def test_noise_is_taken_out(tmp_path: Path) -> None:
    truth = drawn(checkerboard(0.02), 3000, seed=5)
    file = write(tmp_path / "clean.h5", truth)
    run = train(f"--qembed task=denoise patch=1x2 K=2 --data {file} e10=0.2 e01=0.05", tmp_path, max_epochs=10)
    uniforms = np.random.default_rng(6).random(truth.shape)
    noisy = truth ^ (uniforms < np.where(truth == 1, 0.2, 0.05)).astype(np.uint8)
    labels = np.arange(len(noisy))
    report = predict_table(run, write(tmp_path / "noisy.h5", noisy, labels), output=tmp_path / "out", write=True)
    cleaned = read_snapshots(tmp_path / "out" / "cleaned.h5")
    raw, left = (noisy != truth).mean(), (cleaned.configs != truth).mean()
    assert left < 0.4 * raw
    assert (
        np.array_equal(cleaned.columns["labels"], labels) and cleaned.attributes["Lx"] == SHAPE[0] and "delta" in cleaned.params
    )
    with h5py.File(tmp_path / "out" / "cleaned.h5") as written:
        occupation = written["occupation"][:]
    assert np.array_equal(occupation > 0.5, cleaned.configs == 1)
    # The mean of probabilities has no bias, where the read-out has one of -0.2 n + 0.05 (1 - n).
    assert abs(occupation.mean() - truth.mean()) < 0.2 * abs(noisy.mean() - truth.mean())
    summary = f"3000 configurations, {100 * (cleaned.configs != noisy).mean():.3g} % of the sites changed"
    density = f"density {noisy.mean():.5g} as read, {occupation.mean():.5g} in the mean"
    assert report.lines() == [f"{summary}; {density}"]


def test_text_from_training_to_predictions(tmp_path: Path) -> None:
    """An ambiguous word is told by its neighbour, in the collapse alone: the network reads that one word."""
    generator = np.random.default_rng(0)
    rows = ["text,label"]
    for _ in range(600):
        money = generator.random() < 0.5
        near = generator.choice(["loan", "cash", "rate"] if money else ["river", "water", "boat"])
        rows.append(f"{near} bank {generator.choice(['the', 'a'])},{'money' if money else 'shore'}")
    file = tmp_path / "senses.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = f"--qembed task=classify K=2 embedding_dim=8 num_layers=0 pooling=1 --data {file}"
    run = train(words, tmp_path, max_epochs=15, lr=0.01)
    new = tmp_path / "new.csv"
    new.write_text("text,label\nloan bank the,money\nboat bank zeppelin,shore\n", encoding="utf-8")
    report = predict_table(run, new)
    assert report.columns["label"].tolist() == ["money", "shore"] and report.metrics["test/accuracy"] == 1
    assert qsr.evaluate_on_data(run).metrics["test/accuracy"] > 0.95
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(row.partition(",")[0] for row in rows[1:]) + "\n", encoding="utf-8")
    run = train(f"--qembed task=mlm K=2 embedding_dim=8 --data {lines} bos=True", tmp_path, max_epochs=4)
    lines.write_text("boat bank zeppelin\n", encoding="utf-8")
    found = predict_table(run, lines).columns
    assert np.isnan([found["nll_0"][0], found["nll_3"][0]]).all()  # the first token, and a word that training did not have
    assert found["nll"][0] == pytest.approx((found["nll_1"][0] + found["nll_2"][0]) / 2)


def test_the_settings_alone_make_the_model(classifier: Run) -> None:
    assert classifier.path is not None
    model = qsr.load_model(classifier.path)
    assert isinstance(model, QEmbedModel) and not model.training
    settings = model.thparams
    assert (settings.Lx, settings.Ly, settings.num_labels, settings.vocab_size, settings.num_words) == (2, 4, 2, 18, 16)
    batch = {"configs": torch.from_numpy(ALL)}
    ids = {"input_ids": PatchTokens.of_lattice(SHAPE, "2x2").encode(torch.from_numpy(ALL))}
    expected = classifier.model.eval()(ids).logits
    for inputs in (batch, ids, {"configs": batch["configs"][..., None].float()}):
        torch.testing.assert_close(model(inputs).logits, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="configs: must hold 0"):
        model({"configs": torch.full((1, SITES), 2)})
    stored = RunDirectory.open(classifier.path).read_settings()
    assert RunSettings.from_tree(stored.tree()) == stored and stored.data.classes == (0, 1)


def test_a_run_goes_on_as_if_nothing_had_happened(phases: Path, tmp_path: Path) -> None:
    """Collapses, masks and their order are those of the run that was never interrupted."""

    class Stop(qsr.training.Callback):
        def on_step_end(self, trainer: Any, metrics: Any) -> None:
            if trainer.step == 11:
                raise KeyboardInterrupt

    words = f"--qembed task=mlm patch=1x2 K=2 dropout=0.1 entanglement=bell_state --data {phases} --checkpoint every_n_steps=4"
    whole = train(words, tmp_path, max_epochs=2)
    sections = parse_sections(words.split())
    with pytest.raises(KeyboardInterrupt):
        qsr.train(**sections, train={"seed": 1, "dir": str(tmp_path / "cut"), "max_epochs": 2}, callbacks=[Stop()])
    cut = tmp_path / "cut" / "qembed" / "mlm" / "0"
    again = qsr.resume(cut)
    assert whole.path is not None and same_history(RunDirectory(whole.path).history, RunDirectory(cut).history)
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_predictions_are_means_over_collapses(classifier: Run, phases: Path) -> None:
    assert classifier.path is not None
    columns = predict_table(classifier.path, phases).columns
    model = qsr.load_model(classifier.path)
    ids = PatchTokens.of_lattice(SHAPE, "2x2").encode(torch.from_numpy(read_snapshots(phases).configs))
    expected = predict(model, row_batches({"input_ids": ids}), num_samples=8, seed=1)
    assert np.array_equal(columns["p_1"], expected["probs"][:, 1].double().numpy())
    model.thparams.quantum = model.thparams.quantum.updated({"quantum_parallel": True})
    together = predict(model, row_batches({"input_ids": ids}), num_samples=8, seed=1)
    torch.testing.assert_close(together["probs"], expected["probs"], rtol=0, atol=1e-6)
    collapses = torch.stack([predict(model, [{"input_ids": ids}], 1, seed)["probs"] for seed in range(200)])
    error = collapses.std(dim=0) * (1 / 8 + 1 / 200) ** 0.5
    deviation = (expected["probs"] - collapses.mean(dim=0)) / error.clamp_min(1e-6)
    assert 0.8 < float(deviation.square().mean().sqrt()) < 1.2


def test_each_token_is_hidden_in_its_turn() -> None:
    model = QEmbedModel(
        QEmbed(task="mlm", patch="1x2", Lx=2, Ly=4, superposition_schedule="constant", collapse_probability=0)
    ).eval()
    ids = torch.randint(4, (5, 4))
    found = token_likelihoods(model, {"input_ids": ids}, mask=5, num_words=4)
    for position in range(4):
        masked = ids.clone()
        masked[:, position] = 5
        log_probs = model.network(masked).logits[:, position].log_softmax(dim=1).double()
        torch.testing.assert_close(found[:, position], -log_probs.gather(1, ids[:, position, None])[:, 0], rtol=0, atol=1e-6)


def test_a_plain_embedding_has_nothing_to_collapse(phases: Path, tmp_path: Path) -> None:
    run = train(f"--qembed embedding=plain task=classify patch=2x2 --data {phases}", tmp_path, max_epochs=1)
    columns = predict_table(run, phases).columns
    assert "uncertainty" not in columns and not columns["mutual_information"].any()
    assert isinstance(run.model.network.embedding, torch.nn.Embedding)


def test_settings_of_the_learning_stand_beside_those_of_the_network() -> None:
    words = "--qembed task=mlm K=3 strategy=argmax superposition_schedule=cyclic schedule_epochs=None quantum_parallel=True"
    settings = QEmbed(**{name: value for name, value in parse_sections(words.split())["model"].items() if name != "type"})
    assert (settings.num_states, settings.collapse_strategy, settings.quantum.superposition_schedule) == (3, "argmax", "cyclic")
    assert settings.quantum.quantum_parallel and settings.quantum.schedule_epochs is None
    assert settings.quantum.collapse_strategy is None  # that of the embedding is the embedding's own
    again = QEmbed(uncertainty_regularization=0.5, quantum={"uncertainty_target": 0.1}).updated({"num_layers": 2})
    assert (again.quantum.uncertainty_regularization, again.quantum.uncertainty_target, again.num_layers) == (0.5, 0.1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("patch=1x2 --data FILE target=delta", "is no class, and a measured quantity has none; classes are whole numbers"),
        ("--data FILE", "qembed.patch: missing"),
        ("patch=3 --data FILE", "qembed.patch=3: does not divide the 8 sites"),
        ("patch=1x2 Lx=4 --data FILE", "qembed.Lx=4: the data have 2; leave it out"),
        ("patch=1x2 num_labels=3 --data FILE", "qembed.num_labels=3: the data have 2; leave it out"),
        ("patch=1x2 --data FILE task=mlm", "data.task=mlm: the model has task=classify"),
        ("patch=1x2 --data FILE patch=2x2", "data.patch=2x2: the model has patch=1x2"),
        ("patch=1x2 --data FILE e10=0.1", "data.e10=0.1: is for task=denoise, not for classify"),
        ("task=denoise patch=1x2 --data FILE", "data.e10: give the readout errors"),
        ("task=mlm pooling=first patch=1x2 --data FILE", "qembed.pooling=first: is for task=classify, not for mlm"),
        ("patch=1x2 embedding=plain K=2 --data FILE", "qembed.num_states=2: means nothing for embedding=plain"),
        ("patch=1x2 embedding_dim=6 nhead=4 --data FILE", "nhead=4: must divide embedding_dim=6"),
        ("patch=1x2 embedding_dim=7 nhead=1 --data FILE", "embedding_dim=7: must be even"),
        ("patch=1x2 pooling=4 --data FILE", "pooling=4: must be a position from 0 to 3"),
        ("patch=1x2 pooling=last --data FILE", "qembed.pooling=last"),
        ("patch=1x2 uncertainty_regularization=-1 --data FILE", "uncertainty_regularization=-1"),
        ("patch=1x2 superposition_shedule=cyclic --data FILE", "did you mean 'superposition_schedule'?"),
        ("patch=1x2 module_name=a.B --data FILE", "qembed.module_name=a.B"),
        ("patch=1x2 num_samples=0 --data FILE", "qembed.num_samples=0: must be at least 1"),
        ("patch=1x2", "data.file: missing; name snapshots or text (--data file=snapshots.h5)"),
    ],
)
def test_what_does_not_fit_is_named_before_any_work(words: str, message: str, phases: Path, tmp_path: Path) -> None:
    assert message in fails(lambda: train(f"--qembed {words.replace('FILE', str(phases))}", tmp_path, max_epochs=1))
    assert not (tmp_path / "runs").exists()


def test_settings_that_contradict_each_other() -> None:
    given = {"quantum": {"uncertainty_target": 0.1}, "uncertainty_target": 0.2}
    assert "stands in quantum, too" in fails(lambda: QEmbed(**given))
    assert "qembed.vocab_size: missing" in fails(lambda: QEmbed().build())
    assert "qembed.num_labels: missing" in fails(lambda: QEmbed(patch="2x2", Lx=2, Ly=4).build())
    assert "qembed.patch: missing" in fails(lambda: QEmbed(task="denoise", vocab_size=9).build())
    model = QEmbed(task="mlm", vocab_size=9).build()
    assert "batch: has configs" in fails(lambda: model({"configs": torch.zeros(2, 4)}))


def test_new_data_that_do_not_fit_the_run(classifier: Run, phases: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.h5", drawn(disordered(), 20, 0), shape=(4, 2))
    text = tmp_path / "text.txt"
    text.write_text("a b\n", encoding="utf-8")
    assert "other.h5: snapshots of 4x2 sites; the run was trained on 2x4" in fails(lambda: predict_table(classifier, other))
    assert "text.txt: text, and the run was trained on snapshots" in fails(lambda: predict_table(classifier, text))
    assert "no such file" in fails(lambda: predict_table(classifier, tmp_path / "nothing.h5"))
    assert "data: expected a file of snapshots or text, found dict" in fails(lambda: predict_table(classifier, {}))
    assert classifier.path is not None
    stored = RunDirectory.open(classifier.path).read_settings()
    own = stored.data.updated({"file": str(two_phases(tmp_path / "more.h5", seed=2)), "sha256": None})
    found = Sequences(own)  # others of the same kind: evaluated, but the run does not go on with them
    assert qsr.evaluate_on_data(classifier, found).samples == 120
    assert "goes on with the same data only" in fails(lambda: qsr.resume(classifier, data=found))
    relabelled = write(tmp_path / "three.h5", drawn(disordered(), 90, 0), np.arange(90) % 3)
    wrong = Sequences(own.updated({"file": str(relabelled), "classes": None}))
    assert "data.classes=0, 1, 2: the run has 0, 1" in fails(lambda: qsr.evaluate_on_data(classifier, wrong))
    report = predict_table(classifier, relabelled)
    assert "metrics of the 60 rows with a class that training knew" in report.lines()[0]
