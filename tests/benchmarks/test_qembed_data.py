"""Data of the quantum-embedding benchmarks: what is known of them exactly, by enumeration and by drawing."""

import itertools
import math

import numpy as np
import pytest
import torch
from qembed_data import (
    AMBIGUOUS,
    CENTRE,
    NOISE,
    OTHER_COUPLINGS,
    PERFECT,
    PHASES,
    TOKENS,
    TRUE_SHARE,
    VOCABULARY,
    WRONG_SHARE,
    Problem,
    Readings,
    ReadoutErrors,
    best_sense_accuracy,
    born,
    entropy,
    labelled,
    masked_problem,
    noisy_pairs,
    phase_problem,
    read_out,
    readings,
    sentences,
    tokens,
)
from scipy.stats import chisquare

from qsr.hamiltonians import configurations

SOME = np.random.default_rng(0).dirichlet(np.ones(16), size=3)  # distributions over four sites


def test_phases_of_the_ring():
    probs = born(PHASES)
    assert probs.shape == (3, 4096) and np.allclose(probs.sum(axis=1), 1, atol=1e-12)
    sites = configurations(12).numpy()
    turned = (np.roll(sites, 1, axis=1) << np.arange(12)).sum(axis=1)
    assert np.abs(probs[:, turned] - probs).max() < 1e-9, "a ring looks the same from each of its sites"
    assert sorted(probs[1].argsort()[-2:]) == [0b010101010101, 0b101010101010]
    assert sorted(probs[2].argsort()[-3:]) == [0b001001001001, 0b010010010010, 0b100100100100]
    assert born(OTHER_COUPLINGS).shape == (3, 4096) and np.abs(born(OTHER_COUPLINGS) - probs).max() > 1e-3


@pytest.mark.parametrize("errors", [NOISE, ReadoutErrors(0.4, 0.2), PERFECT])
def test_readout_errors_are_independent(errors):
    one = np.array([[1 - errors.e01, errors.e01], [errors.e10, 1 - errors.e10]])
    sites = configurations(4).numpy()
    channel = np.array([[math.prod(one[n, s] for n, s in zip(true, seen, strict=True)) for seen in sites] for true in sites])
    assert np.allclose(read_out(SOME, errors), SOME @ channel, atol=1e-14)
    found, joint = Readings.of(SOME[0], errors), SOME[0][:, None] * channel
    assert np.allclose(found.excited, np.einsum("tr,ts->rs", joint, sites), atol=1e-14)
    for decided in (found.raw, found.best, 1 - found.raw):
        wrong = np.einsum("tr,trs->", joint, sites[:, None] != decided[None]) / 4
        assert found.bit_error(decided) == pytest.approx(wrong, abs=1e-14)
    assert found.bit_error(found.best) <= min(found.bit_error(found.raw), found.bit_error(1 - found.raw))


@pytest.mark.parametrize(("errors", "accuracy", "nll"), [(NOISE, 0.8265, 0.4151), (PERFECT, 0.8460, 0.3723)])
def test_best_classifier_of_phases(errors, accuracy, nll):
    problem = phase_problem(errors=errors)
    found = problem.scores(problem.posterior)
    assert (found["accuracy"], found["nll"]) == (pytest.approx(accuracy, abs=5e-5), pytest.approx(nll, abs=5e-5))
    assert found["ece"] < 1e-12 and abs(found["kl"]) < 1e-12


def test_scores_of_any_classifier():
    """Against the sums that define them."""
    problem = Problem(torch.zeros(5, 1), np.random.default_rng(1).dirichlet(np.ones(15)).reshape(5, 3))
    probs = np.array([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.21, 0.49, 0.3], [1.0, 0.0, 0.0], [0.61, 0.2, 0.19]])
    joint, found = problem.joint, problem.scores(np.maximum(probs, 1e-3))
    decided = [1, 0, 1, 0, 0]
    right = np.array([joint[row, column] for row, column in enumerate(decided)])
    assert found["accuracy"] == pytest.approx(right.sum())
    divergence = sum(
        p * math.log(p / joint[row].sum() / max(probs[row, column], 1e-3)) for (row, column), p in np.ndenumerate(joint)
    )
    assert found["kl"] == pytest.approx(divergence) and found["nll"] == pytest.approx(divergence + problem.entropy)
    # Bins of width 1/15, closed above: 0.6 = 9/15 and 0.61 lie in two, 0.49 and 0.5 in one.
    excess = right - joint.sum(axis=1) * probs.max(axis=1)
    gaps = abs(excess[0] + excess[2]) + abs(excess[1]) + abs(excess[3]) + abs(excess[4])
    assert found["ece"] == pytest.approx(gaps)
    doubt = np.array([0.3, 0.1, 0.3, 0.0, 0.2])
    wrong = joint.sum(axis=1) - right
    wins = sum(wrong[a] * right[b] * ((doubt[a] > doubt[b]) + 0.5 * (doubt[a] == doubt[b])) for a in range(5) for b in range(5))
    assert problem.error_auroc(doubt, probs) == pytest.approx(wins / (wrong.sum() * right.sum()))


def test_a_hidden_patch():
    problem = masked_problem()
    assert problem.joint.sum() == pytest.approx(1) and len(problem.inputs) == 4 * 512
    assert problem.entropy == pytest.approx(0.8341, abs=5e-5)
    assert problem.scores(problem.posterior)["nll"] == pytest.approx(problem.entropy)
    probs = born(PHASES).mean(axis=0)
    assert entropy(problem.joint.sum(axis=0)) == pytest.approx(1.5787, abs=5e-5)
    # Each row against the configurations that it stands for.
    everything = tokens(np.arange(4096))
    for row in (0, 511, 700, 1500, 2047):
        shown = problem.inputs[row]
        [hidden] = (shown == TOKENS.mask).nonzero().flatten().tolist()
        same = torch.cat([everything[:, :hidden] == shown[:hidden], everything[:, hidden + 1 :] == shown[hidden + 1 :]], dim=1)
        rows = same.all(dim=1).numpy()
        wanted = np.zeros(8)
        wanted[everything[:, hidden].numpy()[rows]] = probs[rows] / 4
        assert np.allclose(problem.joint[row], wanted, atol=0)


@pytest.mark.parametrize(
    ("errors", "raw", "best", "violation"),
    [((0.05, 0.01), 0.0231, 0.0205, 0.0076), ((0.15, 0.03), 0.0693, 0.0533, 0.0180), ((0.25, 0.05), 0.1154, 0.0864, 0.0261)],
)
def test_readings_of_the_ring(errors, raw, best, violation):
    found = readings(ReadoutErrors(*errors))
    assert found.bit_error(found.raw) == pytest.approx(raw, abs=5e-5)
    assert found.bit_error(found.best) == pytest.approx(best, abs=5e-5)
    assert found.violation(found.raw) == pytest.approx(violation, abs=5e-5)
    assert readings(PERFECT).violation(found.raw) == pytest.approx(0.0015, abs=5e-5)


def test_snapshots_have_the_probabilities_of_their_phases():
    problem = phase_problem()
    ids, labels = labelled(30_000, seed=0)
    assert labels.bincount().tolist() == [10_000] * 3
    index = (ids << 3 * torch.arange(4)).sum(dim=1)
    assert torch.equal(tokens(index.numpy()), ids)
    for phase in range(3):
        counts = torch.bincount(index[labels == phase], minlength=4096).numpy()
        expected = 30_000 * problem.joint[:, phase]
        often = expected >= 5
        observed = [*counts[often], counts[~often].sum()]
        assert chisquare(observed, [*expected[often], expected[~often].sum()]).pvalue > 1e-3
    assert torch.equal(labelled(60, seed=3)[0], labelled(60, seed=3)[0])
    assert not torch.equal(labelled(60, seed=3)[0], labelled(60, seed=4)[0])


def test_noisy_pairs_have_the_errors_of_the_readout():
    errors = ReadoutErrors(0.15, 0.03)
    ids, true = noisy_pairs(20_000, 0, errors)
    seen = configurations(12)[(ids << 3 * torch.arange(4)).sum(dim=1)].float()
    for state, rate in ((1, errors.e10), (0, errors.e01)):
        wrong = (seen != true)[true == state].double()
        assert float(wrong.mean()) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / len(wrong)))
    expected = born(PHASES).mean(axis=0) @ configurations(12).numpy().mean(axis=1)
    assert float(true.mean()) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(20_000))


def test_best_sense_by_enumeration():
    """Over all 3^6 contexts: 1 a word of the first sense, -1 of the second, 0 a common one."""
    share = {1: TRUE_SHARE, -1: WRONG_SHARE, 0: 1 - TRUE_SHARE - WRONG_SHARE}
    accuracy = 0.0
    for context in itertools.product(share, repeat=6):
        first, second = math.prod(share[word] for word in context), math.prod(share[-word] for word in context)
        accuracy += max(first, second) / 2
    assert best_sense_accuracy() == pytest.approx(accuracy, abs=1e-12) and accuracy == pytest.approx(0.7832, abs=5e-5)


def test_sentences_and_what_they_say_of_the_sense():
    data = sentences(20_000, seed=0)
    assert data.ids.shape == (20_000, 7) and int(data.ids.max()) == VOCABULARY - 1
    assert sorted(data.ids[:, CENTRE].unique().tolist()) == list(range(AMBIGUOUS))
    assert int(np.delete(data.ids.numpy(), CENTRE, axis=1).min()) == AMBIGUOUS
    # Where the posterior is p, the first sense is meant in a fraction p of the sentences.
    for value in data.posterior[:, 0].unique():
        rows = data.posterior[:, 0] == value
        meant = (data.senses[rows] == 0).double()
        p = float(value)
        assert float(meant.mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / len(meant)))
    best = float(data.posterior.max(dim=1).values.mean())
    assert best == pytest.approx(best_sense_accuracy(), abs=4 * 0.15 / math.sqrt(20_000))
