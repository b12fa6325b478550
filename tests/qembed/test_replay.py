"""The memory of earlier examples: a fair sample, saved and padded faithfully, and its loss by hand."""

import io
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch.nn import CrossEntropyLoss

from qsr.hparams import ConfigError
from qsr.qembed import ReplayBuffer
from qsr.qembed.replay import ReplayBatch, replay_loss


def numbered(start: int, count: int) -> dict[str, Any]:
    """Examples that carry their number in every field."""
    number = torch.arange(start, start + count)
    wide = number[:, None].double()
    return {"inputs": {"configs": number[:, None].expand(-1, 3)}, "labels": number, "logits": wide, "probs": wide[..., None]}


def contents(buffer: ReplayBuffer) -> list[int]:
    return sorted(buffer.draw(len(buffer)).labels.tolist())


def test_the_buffer_fills_and_keeps_its_size_and_examples_whole() -> None:
    buffer = ReplayBuffer(7)
    for start in range(0, 40, 4):
        buffer.add(**numbered(start, 4))
        assert len(buffer) == min(7, start + 4) and buffer.num_seen == start + 4
    found = buffer.draw(5)
    assert len(set(found.labels.tolist())) == 5
    assert found.probs is not None and set(found.inputs) == {"configs"}
    for i, label in enumerate(found.labels.tolist()):
        assert found.inputs["configs"][i].tolist() == 3 * [label]
        assert found.logits[i].item() == label and found.probs[i].item() == label
    assert len(buffer.draw(100).labels) == 7
    assert {tuple(buffer.draw(3).labels.tolist()) for _ in range(20)} != {tuple(buffer.draw(3).labels.tolist())}


def test_every_example_is_kept_equally_often() -> None:
    size, total, repeats = 5, 20, 4000
    counts = torch.zeros(total)
    for seed in range(repeats):
        buffer = ReplayBuffer(size, seed)
        buffer.add({}, torch.arange(total), torch.zeros(total, 1))
        counts[contents(buffer)] += 1
    # The counts of one buffer are drawn without replacement, which lowers every variance by (n - k)/(n - 1).
    expected = repeats * size / total
    statistic = ((counts - expected) ** 2).sum().item() / (expected * (1 - size / total) * total / (total - 1))
    assert stats.chi2.sf(statistic, total - 1) > 1e-3


def test_rows_are_copies_without_graph() -> None:
    logits = torch.zeros(4, 2, requires_grad=True)
    ids = torch.zeros(4, 3, dtype=torch.int64)
    buffer = ReplayBuffer(2)
    buffer.add({"input_ids": ids}, torch.zeros(4).long(), logits * 2)
    ids += 1
    found = buffer.draw(2)
    assert found.inputs["input_ids"].abs().max().item() == 0 and not found.logits.requires_grad and found.probs is None
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    wide = ReplayBuffer(2)
    wide.add({"input_ids": torch.zeros(4, 100_000)}, torch.zeros(4).long(), torch.zeros(4, 2))
    other = io.BytesIO()
    torch.save(wide.state_dict(), other)
    assert len(other.getvalue()) - len(file.getvalue()) < 2 * 100_000 * 4 + 2000  # two rows, and not the batch of four


def test_the_generator_is_the_buffers_own_and_is_saved() -> None:
    state = torch.get_rng_state()
    first = ReplayBuffer(6, seed=3)
    first.add(**numbered(0, 10))
    first.draw(2)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ReplayBuffer(6, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    for buffer in (first, second):
        buffer.add(**numbered(10, 30))
    assert contents(first) == contents(second)
    assert first.draw(4).labels.tolist() == second.draw(4).labels.tolist() and second.num_seen == 40
    assert torch.equal(state, torch.get_rng_state())
    others = []
    for seed in range(5):
        buffer = ReplayBuffer(6, seed)
        buffer.add(**numbered(0, 40))
        others.append(contents(buffer))
    assert len({tuple(other) for other in others}) > 1
    with pytest.raises(ConfigError, match="replay_buffer_size=5: the saved buffer has 6"):
        ReplayBuffer(5).load_state_dict(first.state_dict())


def test_sequences_of_different_lengths_are_padded() -> None:
    buffer = ReplayBuffer(4)
    for length in (2, 4):
        tokens = torch.full((1, length), length)
        fields: dict[str, Any] = {"labels": tokens, "logits": torch.ones(1, length, 3), "probs": torch.full((1, length, 2), 0.5)}
        buffer.add({"input_ids": tokens}, **fields)
    found = buffer.draw(2)
    short = found.inputs["input_ids"].tolist().index([2, 2, 0, 0])
    assert found.inputs["attention_mask"][short].tolist() == [1, 1, 0, 0]
    assert found.inputs["attention_mask"][1 - short].tolist() == [1, 1, 1, 1]
    assert found.labels[short].tolist() == [2, 2, -100, -100] and found.labels[1 - short].tolist() == [4, 4, 4, 4]
    assert found.logits[short, 2:].abs().max().item() == 0 and found.probs is not None
    assert found.probs[short].sum(-1).tolist() == [1, 1, 0, 0]
    masked = ReplayBuffer(4)
    for length in (2, 4):
        mask = torch.ones(1, length)
        mask[0, 0] = 0
        masked.add({"input_ids": torch.ones(1, length), "attention_mask": mask}, torch.zeros(1).long(), torch.zeros(1, 2))
    assert sorted(masked.draw(2).inputs["attention_mask"].tolist()) == [[0, 1, 0, 0], [0, 1, 1, 1]]


# --- the loss -------------------------------------------------------------------------------------------------------


def test_replay_loss_by_hand() -> None:
    then, now = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    senses = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.0, 0.0]]])  # the last token is padding
    found = torch.tensor([[[0.25, 0.75], [0.5, 0.5]], [[0.25, 0.75], [0.9, 0.1]]])
    labels = torch.tensor([0, 0])
    batch = ReplayBatch({}, labels, then, senses)
    mse = (1 + 9) / 4
    cross = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3))) / 2
    divergence = (0.5 * math.log(2) + 0.5 * math.log(2 / 3) + math.log(2) + 0.0) / 3
    loss = replay_loss(batch, now, found, CrossEntropyLoss(), alpha=0.3, beta=0.6, gamma=0.2)
    assert loss.item() == pytest.approx(0.3 * mse + 0.6 * cross + 0.2 * divergence, abs=1e-6)
    assert replay_loss(batch, now, found, CrossEntropyLoss()).item() == pytest.approx(
        0.5 * (mse + cross) + 0.1 * divergence, abs=1e-6
    )
    assert replay_loss(batch, now, None, CrossEntropyLoss(), 0.3, 0.6, 0.2).item() == pytest.approx(
        0.3 * mse + 0.6 * cross, abs=1e-6
    )
    assert replay_loss(batch, then, senses, CrossEntropyLoss(), 1.0, 0.0, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_replay_loss_of_tokens_leaves_padding_out() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    labels = torch.tensor([[0, -100, -100], [1, -100, -100]])
    then, now = torch.zeros(2, 3, 2), torch.full((2, 3, 2), 2.0)
    now[0, 2], now[1, 1:] = 99.0, -99.0
    batch = ReplayBatch({"input_ids": mask, "attention_mask": mask}, labels, then, None)
    loss = replay_loss(batch, now.requires_grad_(), None, CrossEntropyLoss(), alpha=1.0, beta=1.0)
    assert loss.item() == pytest.approx(4.0 + math.log(2), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, now)
    assert gradient[mask == 0].abs().max().item() == 0 and gradient[mask == 1].abs().min().item() > 0
    classes = ReplayBatch({"attention_mask": mask[:, :2]}, torch.tensor([0, 1]), torch.zeros(2, 2), None)
    answers = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
    assert replay_loss(classes, answers, None, CrossEntropyLoss(), 1.0, 0.0).item() == 3.0  # two classes are no two tokens


def test_replay_gradients_are_finite_at_impossible_senses() -> None:
    probs = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    batch = ReplayBatch({}, torch.tensor([0]), torch.zeros(1, 2), torch.tensor([[[1.0, 0.0]]]))
    loss = replay_loss(batch, torch.zeros(1, 2), probs, CrossEntropyLoss(), 0.0, 0.0, 1.0)
    (gradient,) = torch.autograd.grad(loss, probs)
    assert math.isfinite(loss.item()) and loss.item() > 20 and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReplayBuffer(0), "replay_buffer_size=0: must be at least 1"),
        (lambda: ReplayBuffer(3).draw(2), "replay: the buffer is empty"),
        (lambda: ReplayBuffer(3).draw(0), "replay_batch_size=0: must be at least 1"),
        (lambda: ReplayBuffer(3).add({}, torch.zeros(2), torch.zeros(3, 1)), "replay: must be equally many of each field"),
        (lambda: ReplayBuffer(3).add({"logits": torch.zeros(2)}, torch.zeros(2), torch.zeros(2)), "inputs: must not hold logits"),
        (lambda: mixed({"probs": torch.zeros(1, 1, 1)}, {}), "replay: must have the fields x, labels, logits, probs as before"),
        (lambda: mixed({}, {"inputs": {"x": torch.zeros(1, 4)}}).draw(2), r"x: examples of different shapes \[\(3,\), \(4,\)\]"),
        (
            lambda: mixed(*({"inputs": {"input_ids": torch.zeros(1, n)}, "labels": torch.zeros(1, n)} for n in (3, 4))).draw(2),
            "labels: of different lengths must be classes",
        ),
        (
            lambda: mixed(*({"inputs": {"input_ids": torch.zeros(1, n)}, "logits": torch.zeros(1, 9 - n)} for n in (3, 4))).draw(
                2
            ),
            "logits: examples of different shapes",
        ),
        (
            lambda: replay_loss(
                ReplayBatch({}, torch.zeros(2), torch.zeros(2, 1), None), torch.zeros(2), None, CrossEntropyLoss()
            ),
            r"logits: must have the shape \(2, 1\) of the batch, found \(2,\)",
        ),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def mixed(*others: dict[str, Any]) -> ReplayBuffer:
    """A buffer that was given examples of different kinds."""
    buffer = ReplayBuffer(3)
    for other in others:
        buffer.add(**{"inputs": {"x": torch.zeros(1, 3)}, "labels": torch.zeros(1).long(), "logits": torch.zeros(1, 2), **other})
    return buffer
