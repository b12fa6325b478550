"""Senses of a batch in both forms: the same numbers, and derivatives of every order."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from qsr.qembed.functional import overlaps, unit
from qsr.qembed.senses import Senses, SharedSenses, as_complex

DOUBLE = torch.float64
INDEX = torch.tensor([[2, 0, 2], [3, 3, 0]])  # token 1 of 4 does not occur
K, WIDTH = 3, 6


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE).requires_grad_()


def plain(vectors: Tensor) -> Senses:
    return Senses(unit(vectors)[INDEX])


def test_a_superposition_is_a_sum_of_complex_vectors() -> None:
    vectors, logits, phases = drawn(4, K, WIDTH), drawn(2, 3, K), drawn(2, 3, K)
    log_probs = torch.log_softmax(logits, dim=-1)
    amplitudes = torch.polar(log_probs.exp().sqrt(), phases)
    senses = torch.complex(*unit(vectors).split(3, dim=-1))[INDEX]
    expected = (amplitudes[..., None] * senses).sum(dim=-2)
    directions = drawn(2, 3, WIDTH)
    real_part = (senses.conj() * as_complex(directions)[..., None, :]).sum(dim=-1).real
    for form in (plain(vectors), SharedSenses(vectors, INDEX)):
        assert torch.allclose(as_complex(form.superposed(log_probs, phases)), expected, rtol=0, atol=1e-14)
        assert torch.allclose(form.along(directions), real_part, rtol=0, atol=1e-14)
        assert torch.allclose(form.complex(), senses, rtol=0, atol=1e-14)
        assert torch.allclose(form.overlaps(), overlaps(senses), rtol=0, atol=1e-14)
        mean = (log_probs.exp()[..., None] * senses).sum(dim=-2)
        assert torch.allclose(as_complex(form.mean(log_probs.exp())), mean, rtol=0, atol=1e-14)


def test_gradients_of_both_forms_are_those_of_finite_differences() -> None:
    vectors, weights, directions = drawn(4, K, WIDTH), drawn(2, 3, 2, K), drawn(2, 3, WIDTH)
    logits, phases = drawn(2, 3, K), drawn(2, 3, K)
    for form in (plain, lambda v: SharedSenses(v, INDEX)):
        for check in (gradcheck, gradgradcheck):
            assert check(lambda w, v, form=form: form(v).mixed(w), (weights, vectors))
            assert check(lambda d, v, form=form: form(v).along(d), (directions, vectors))
            assert check(lambda v, form=form: form(v).overlaps().abs(), vectors)
        assert gradcheck(
            lambda a, f, v, form=form: form(v).superposed(torch.log_softmax(a, dim=-1), f), (logits, phases, vectors)
        )


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 0)])
def test_empty_batches_and_tokens_that_do_not_occur(shape: tuple[int, int]) -> None:
    vectors = drawn(2, K, WIDTH)
    senses = SharedSenses(vectors, torch.zeros(shape, dtype=torch.int64))
    mixed, along = senses.mixed(torch.ones(*shape, 2, K, dtype=DOUBLE)), senses.along(torch.ones(*shape, WIDTH, dtype=DOUBLE))
    assert mixed.shape == (*shape, 2, WIDTH) and along.shape == (*shape, K)
    (mixed.sum() + along.square().sum()).backward()
    assert vectors.grad is not None and vectors.grad[1].abs().max().item() == 0
    assert bool(vectors.grad[0].any()) == (shape == (1, 1))
