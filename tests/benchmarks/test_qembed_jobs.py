"""The jobs of quantum embeddings: equal chances for all variants, scores that mean what they say, and verdicts."""

import json
import math

import numpy as np
import pytest
import qembed_data as data
import qembed_jobs
import torch
from qembed_scores import Asked, Block, Row, at_least, at_most
from qembed_training import COLLAPSING, DROPOUT, PLAIN, SUPERPOSED, Recipe, Shuffled, adapt, fit, made

from qsr.qembed import QuantumSequenceClassifier
from qsr.training.rows import DictRows

FAST = Recipe(2, 16)


@pytest.fixture
def few(monkeypatch):
    """Everything is a little of what it is."""
    variants = (PLAIN, DROPOUT, qembed_jobs.LIGHT, COLLAPSING)
    monkeypatch.setattr(qembed_jobs, "PHASE_RUNS", ((60, 2, FAST, variants), (90, 2, FAST, variants)))
    monkeypatch.setattr(qembed_jobs, "MANY", 90)
    for name in ("PATCH_RECIPE", "PAIR_RECIPE", "CHEAP_RECIPE", "SCRATCH_RECIPE", "ADAPT_RECIPE", "SENSE_RECIPE"):
        monkeypatch.setattr(qembed_jobs, name, FAST)
    for name in ("PATCHES", "PAIRS", "CHEAP", "SENTENCES", "TESTED"):
        monkeypatch.setattr(qembed_jobs, name, 120)


@pytest.mark.parametrize(("job", "asked"), [("A", 9), ("B", 4), ("C", 3), ("D", 3)])
def test_a_job(few, job, asked, capsys, tmp_path):
    """Two epochs of a few samples: the tables are there with the best possible answer first, which nothing surpasses."""
    assert qembed_jobs.main(True, str(tmp_path / "found.json"), [job]) == 0, "--quick has no verdicts"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["quick"] and {block["job"] for block in found["blocks"]} == {job}
    assert sum(len(block["asked"]) for block in found["blocks"]) == asked
    printed = capsys.readouterr().out
    assert "asked" not in printed and "1 seeds" in printed
    for block in found["blocks"]:
        best, *rows = block["rows"]
        assert best["name"] == "best possible" and any(row["name"].startswith("nn.Embedding") for row in rows)
        assert any(row["name"].startswith("QEmbed") for row in rows)
        metric, sign = ("nll", 1) if "nll" in best["scores"][0] else ("bit error", 1) if job == "B" else ("nmi", -1)
        others = [score[metric] for row in rows for score in row["scores"] if metric in score and row["name"] != "the truth"]
        assert len(others) > 0 and all(sign * (value - best["scores"][0][metric]) > 0 for value in others)


def test_missed_bounds_decide_the_exit_status(monkeypatch, capsys):
    block = Block("A", "made up", ("nll",), [Row("one", [{"nll": 1.0}])], [at_most("nll", 1.0, 0.9), at_least("nll", 1.0, 1.0)])
    monkeypatch.setattr(qembed_jobs, "JOBS", {"A": lambda quick: iter([block])})
    assert qembed_jobs.main(False, None, ["A"]) == 1
    printed = capsys.readouterr().out
    assert "asked: nll 1.0000 <= 0.9000  missed\nasked: nll 1.0000 >= 1.0000\n" in printed and "1 bounds missed" in printed
    assert qembed_jobs.main(True, None, ["A"]) == 0


def test_nothing_holds_of_nan():
    assert at_least("x", 1.0, 1.0).met and at_most("x", 1.0, 1.0).met
    assert not at_least("x", math.nan, 1.0).met and not at_most("x", math.nan, 1.0).met
    assert str(Asked("x", True)) == "asked: x" and str(Asked("x", False)) == "asked: x  missed"


def test_rows_are_means_over_seeds():
    row = Row("one", [{"nll": 1.0}, {"nll": 2.0}, {"nll": 6.0}], [0.3, 0.1, 0.2])
    assert row.mean("nll") == 3.0 and row.epoch == 0.2
    assert row.error("nll") == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))
    assert row.shown("nll") == f"3.0000 +- {row.error('nll'):.4f}" and row.shown("ece") is None
    assert Row("one", [{"nll": 1.0}]).shown("nll") == "1.0000"


def test_variants_differ_in_the_embedding_alone():
    """The same seed gives the same data; what stands behind the embedding has the same shapes."""
    first, second = (qembed_jobs.snapshots(60, seed=3) for _ in range(2))
    assert torch.equal(first.columns["input_ids"], second.columns["input_ids"])
    plain, quantum = (qembed_jobs.classifier(variant, 0) for variant in (PLAIN, COLLAPSING))

    def rest(network):
        return {name: value.shape for name, value in network.named_parameters() if not name.startswith("embedding.")}

    assert rest(plain) == rest(quantum)
    again = qembed_jobs.classifier(COLLAPSING, 0)
    assert all(torch.equal(one, other) for one, other in zip(quantum.parameters(), again.parameters(), strict=True))


def test_batches_hold_every_row_once():
    batches = Shuffled(DictRows({"input_ids": torch.arange(10)}), 4)
    assert len(batches) == 3
    orders = [torch.cat([batch["input_ids"] for batch in batches]).tolist() for _ in range(2)]
    assert orders[0] != orders[1] and all(sorted(order) == list(range(10)) for order in orders)


@pytest.mark.parametrize(("variant", "probability"), [(SUPERPOSED, 0.0), (COLLAPSING, 1.0)])
def test_networks_are_evaluated_as_their_training_ends(variant, probability):
    fitted = fit(qembed_jobs.classifier(variant, 0), qembed_jobs.snapshots(60, 0), FAST, variant, seed=0)
    assert float(fitted.trainer.learner.evaluation_probability) == probability and fitted.seconds > 0
    probs = fitted.predict(data.phase_problem().inputs)["probs"]
    assert torch.equal(probs, fitted.predict(data.phase_problem().inputs)["probs"])


def test_dropout_predictions_are_means_of_passes():
    fitted = fit(qembed_jobs.classifier(DROPOUT, 0), qembed_jobs.snapshots(60, 0), FAST, DROPOUT, seed=0)
    inputs = data.phase_problem().inputs
    state = torch.random.get_rng_state()
    found = fitted.predict(inputs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.allclose(found["probs"].sum(dim=1), torch.ones(len(inputs)))
    assert float(found["mutual_information"].mean()) > 1e-3, "the passes differ"
    single = fitted.trainer.predict({"input_ids": inputs})["probs"]
    assert 1e-3 < float((found["probs"] - single).abs().mean()) < 0.2


@pytest.mark.parametrize("head_only", [True, False])
def test_adapting(head_only):
    """Only what may move does. What is learned is wrong, so the best for the held-out rows is not the last, and that is kept."""
    network = qembed_jobs.classifier(COLLAPSING, 0)
    before = {name: value.clone() for name, value in network.named_parameters()}
    few = qembed_jobs.snapshots(60, 1)
    held_out, rest = few.part(torch.arange(15)), few.part(torch.arange(15, 60))
    wrong = DictRows({**rest.columns, "labels": (rest.columns["labels"] + 1) % 3})
    fitted = adapt(network, wrong, held_out, Recipe(20, 16, lr=0.01), COLLAPSING, 0, head_only)
    moved = {name.split(".")[0] for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert ("head" in moved) and (moved == {"head"}) == head_only
    losses = fitted.trainer.training_history["val_loss"]
    assert losses[-1] > min(losses) + 0.01 and len(losses) < 20
    assert fitted.trainer.validate(Shuffled(held_out, 15))["loss"] == pytest.approx(min(losses), abs=1e-6)


def test_information_of_outcomes_does_not_ask_how_senses_are_called():
    test = data.sentences(400, 0)
    words = test.ids[:, data.CENTRE]
    renamed = torch.where(words < 2, test.senses, 1 - test.senses)
    assert qembed_jobs.sense_information(test, renamed) == pytest.approx(1.0)
    assert qembed_jobs.sense_information(test, torch.from_numpy(np.random.default_rng(0).integers(2, size=400))) < 0.1


def test_an_ordinary_embedding_knows_nothing_of_the_context():
    network = made(QuantumSequenceClassifier, qembed_jobs.WORDS, PLAIN, 0).eval()
    ids = data.sentences(50, 0).ids
    same = ids[ids[:, data.CENTRE] == 2]
    logits = network(same).logits
    assert torch.equal(logits, logits[:1].expand_as(logits))
