"""Scores against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.qembed.metrics import (
    accuracy,
    class_logits,
    error_detection_auroc,
    expected_calibration_error,
    mutual_information,
    negative_log_likelihood,
    normalized_mutual_information,
    predictive_entropy,
)


def two_classes(confidence: Tensor) -> Tensor:
    return torch.stack([confidence, 1 - confidence], dim=-1)


# --- calibration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_overconfidence_is_the_error(dtype: torch.dtype) -> None:
    probs = two_classes(torch.full((10,), 0.9, dtype=dtype))
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert expected_calibration_error(probs, labels) == pytest.approx(0.2, abs=1e-7)
    ignored = torch.cat([labels, torch.full((5,), -100)])
    assert expected_calibration_error(torch.cat([probs, probs[:5]]), ignored) == pytest.approx(0.2, abs=1e-7)
    assert expected_calibration_error(probs.view(2, 5, 2), labels.view(2, 5)) == pytest.approx(0.2, abs=1e-7)


def test_calibrated_answers_have_almost_no_error() -> None:
    confidence = 0.5 + 0.5 * torch.rand(20_000, dtype=torch.float64)
    right = torch.rand(20_000, dtype=torch.float64) < confidence
    assert expected_calibration_error(two_classes(confidence), (~right).long()) < 0.01
    assert expected_calibration_error(two_classes(confidence), torch.zeros(20_000).long()) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_belong_to_the_bin_below(dtype: torch.dtype) -> None:
    for bins in (5, 10, 15):
        for edge in range(bins // 2 + 1, bins):
            on = torch.tensor(edge / bins, dtype=dtype)
            below, above = (torch.nextafter(on, torch.tensor(end, dtype=dtype)) for end in (0.0, 1.0))
            labels = torch.tensor([0, 1])  # right and wrong: they cancel in one bin only
            together, apart = abs(1 - 2 * edge / bins) / 2, 0.5
            for pair, expected in (((on, below), together), ((on, above), apart)):
                found = expected_calibration_error(two_classes(torch.stack(pair)), labels, bins)
                assert found == pytest.approx(expected, abs=1e-6), (bins, edge)
    for confidence in (0.5, 1.0):
        assert expected_calibration_error(two_classes(torch.tensor([confidence])), torch.tensor([0])) == 1 - confidence
    assert expected_calibration_error(torch.ones(3, 1), torch.zeros(3).long(), bins=1) == 0.0


def test_nll_and_entropies() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert negative_log_likelihood(probs, torch.tensor([1, 1])) == pytest.approx(math.log(2), abs=1e-12)
    assert negative_log_likelihood(probs, torch.tensor([-100, 1])) == 0.0
    assert negative_log_likelihood(probs.float(), torch.tensor([-100, 0])) == pytest.approx(126 * math.log(2))  # and not infinite
    assert predictive_entropy(probs).tolist() == pytest.approx([1.5 * math.log(2), 0.0], abs=1e-12)
    for empty in (torch.tensor([-100, -100]),):
        assert math.isnan(negative_log_likelihood(probs, empty)) and math.isnan(expected_calibration_error(probs, empty))


def test_mutual_information_is_what_samples_disagree_about() -> None:
    sure = torch.eye(2, dtype=torch.float64)
    samples = torch.stack(
        [torch.stack([sure[0], sure[0], torch.tensor([0.5, 0.5]).double()]), torch.stack([sure[0], sure[1], sure[0]])]
    )
    total = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mutual_information(samples).tolist() == pytest.approx([0.0, math.log(2), total - 0.5 * math.log(2)], abs=1e-12)
    same = torch.rand(1, 50, 3).softmax(-1).expand(8, -1, -1)
    assert 0.0 <= mutual_information(same).min().item() and mutual_information(same).max().item() < 1e-6


# --- accuracy -------------------------------------------------------------------------------------------------------


def test_accuracy_of_classes_tokens_and_single_logits() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)
    assert accuracy(logits, torch.tensor([1, -100, 0])) == 0.5
    assert accuracy(logits[None], torch.tensor([[1, 0, -100]])) == 1.0
    single = torch.tensor([0.3, -0.2, 1e-6, 0.0])
    for form in (single, single[:, None]):
        assert accuracy(form, torch.tensor([1, 0, 1, 0])) == 1.0 and accuracy(
            form, torch.tensor([1, 1, -100, 1])
        ) == pytest.approx(1 / 3)
    assert accuracy(single.view(2, 2), torch.tensor([[1, 0], [1, 0]])) == 1.0  # sites of a lattice
    assert math.isnan(accuracy(logits, torch.tensor([0.0, 1.0, 1.0]))) and math.isnan(accuracy(logits, torch.full((3,), -100)))
    probs = class_logits(single, torch.zeros(4).long()).softmax(-1)
    assert torch.allclose(probs[:, 1], single.sigmoid())


# --- error detection and senses -------------------------------------------------------------------------------------


def test_auroc_counts_pairs() -> None:
    doubt = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.4, 0.4])
    right = torch.tensor([True, True, False, False, False, True])
    pairs = [(w > r) + 0.5 * (w == r) for w in doubt[~right] for r in doubt[right]]
    assert error_detection_auroc(doubt, right) == pytest.approx(float(sum(pairs)) / 9)
    assert error_detection_auroc(torch.tensor([0.0, 1.0]), torch.tensor([True, False])) == 1.0
    assert error_detection_auroc(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0.0
    assert error_detection_auroc(torch.ones(7), torch.arange(7) > 2) == 0.5
    assert math.isnan(error_detection_auroc(doubt, torch.ones(6).bool())) and math.isnan(
        error_detection_auroc(doubt, right & ~right)
    )
    many = torch.rand(2000, dtype=torch.float64)
    wrong = torch.rand(2000, dtype=torch.float64) < many  # P(u_wrong > u_right) = int 2u u^2... = 5/6
    assert error_detection_auroc(many, ~wrong) == pytest.approx(5 / 6, abs=0.03)


def test_nmi_of_tables() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    assert normalized_mutual_information(1 - truth, truth) == pytest.approx(1.0, abs=1e-12)
    assert normalized_mutual_information(torch.tensor([0, 1, 0, 1]), truth) == pytest.approx(0.0, abs=1e-12)
    # p(0,0) = 1/2, p(1,0) = p(1,1) = 1/4
    outcome, sense = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    h = math.log(4) - 0.75 * math.log(3)
    shared = math.log(2) + h - 1.5 * math.log(2)
    assert normalized_mutual_information(outcome, sense) == pytest.approx(2 * shared / (math.log(2) + h), abs=1e-12)
    assert normalized_mutual_information(sense, outcome) == pytest.approx(2 * shared / (math.log(2) + h), abs=1e-12)
    left_out = torch.tensor([0, -1, 0, 1, 1, 0]), torch.tensor([0, 1, 0, 0, 1, -100])
    assert normalized_mutual_information(*left_out) == pytest.approx(2 * shared / (math.log(2) + h), abs=1e-12)
    for constant in (torch.zeros(4).long(), truth):
        assert normalized_mutual_information(torch.ones(4).long(), constant) == 0.0
    assert math.isnan(normalized_mutual_information(-torch.ones(4).long(), truth))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_calibration_error(torch.ones(2, 2), torch.zeros(2).long(), 0), "bins=0: must be at least 1"),
        (
            lambda: negative_log_likelihood(torch.ones(2, 2), torch.tensor([0, 2])),
            "labels: lie between 0 and 2; there are 2 classes",
        ),
        (lambda: negative_log_likelihood(torch.ones(2, 2), torch.tensor([0, -1])), "labels: lie between -1 and 0"),
        (
            lambda: negative_log_likelihood(torch.ones(2, 2), torch.zeros(2)),
            r"labels: must be classes \(integers\), found torch.float32",
        ),
        (lambda: expected_calibration_error(torch.ones(2, 2), torch.zeros(3).long()), r"found \(3,\) and \(2, 2\)"),
        (lambda: accuracy(torch.ones(2, 2), torch.zeros(3).long()), r"found \(3,\) and \(2, 2\)"),
        (
            lambda: error_detection_auroc(torch.ones(2), torch.ones(3).bool()),
            r"correct: must have the shape \(2,\), found \(3,\)",
        ),
        (lambda: normalized_mutual_information(torch.ones(2).long(), torch.ones(3).long()), "senses: must have the shape"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
