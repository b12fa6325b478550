"""What is recorded of batches: which labels are classes, which of them count, and with how many digits."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qsr.qembed import QuantumTrainer, UncertaintyLoss
from qsr.qembed.statistics import of_classes
from tests.qembed.trainer_cases import network, tokens, trainer

SCORES = ("accuracy", "nll", "ece")


@pytest.mark.parametrize(
    "loss_fn",
    [nn.CrossEntropyLoss(ignore_index=-1), UncertaintyLoss(nn.CrossEntropyLoss(ignore_index=-1), 0.3, "calibration")],
    ids=["plain", "calibration"],
)
def test_labels_that_the_loss_leaves_out_count_nowhere(loss_fn):
    ids, labels = tokens(32)
    some = DataLoader(TensorDataset(ids, torch.where(torch.arange(32) < 8, -1, labels)), 32)
    rest = DataLoader(TensorDataset(ids[8:], labels[8:]), 24)
    config = {"uncertainty_regularization": 0.0}
    found, expected = (trainer(config, loss_fn).validate(data) for data in (some, rest))
    for name in (*SCORES, "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_numbers_that_happen_to_be_zeros_and_ones_have_no_scores():
    ids, _ = tokens(24)
    model = network()
    model.head = nn.Linear(8, 1)
    numbers = DataLoader(TensorDataset(ids, (ids[:, 0] % 3).float()), 1)  # some batches hold a 0 or a 1 alone
    found = QuantumTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss()).validate(numbers)
    assert all(math.isnan(found[name]) for name in SCORES)
    shares = nn.functional.one_hot((ids[:, 0] >= 4).long(), 2).float()
    found = trainer(loss_fn=nn.CrossEntropyLoss()).validate(DataLoader(TensorDataset(ids, shares), 8))
    assert all(math.isnan(found[name]) for name in SCORES)


def test_zeros_and_ones_of_a_binary_cross_entropy_are_classes():
    ids, labels = tokens(48)
    model = network()
    model.head = nn.Linear(8, 1)
    rows = DataLoader(TensorDataset(ids, labels.float()), 16)
    found = QuantumTrainer(model, torch.optim.Adam(model.parameters(), lr=1e-2), nn.BCEWithLogitsLoss()).validate(rows)
    with torch.no_grad():
        claimed = (model.eval()(ids, collapse_probability=1.0).logits[:, 0] > 0).long()
    assert found["accuracy"] == pytest.approx(float((claimed == labels).double().mean()))
    assert found["nll"] == pytest.approx(found["task_loss"], rel=1e-5)


def test_confidences_of_rounded_logits_are_not_rounded_again():
    logits = torch.tensor([[0.0, 3.0], [0.0, -1.0]], dtype=torch.bfloat16)  # exact in eight bits; their probabilities are not
    labels = torch.tensor([1, 1])
    expected = of_classes(logits.double(), labels)
    for name, value in of_classes(logits, labels).items():
        assert float(value) == pytest.approx(float(expected[name]), abs=1e-6), name
