"""Global generators: those of torch, NumPy and Python are seeded together, and a user's own are left as they were."""

import random
from typing import Any

import numpy as np
import pytest
import torch

import qsr
from qsr.training.protocols import BatchKey
from qsr.training.random import forked_generators, seed_dropout, seed_global
from qsr.training.supervised import LoaderSource
from tests.training.lines import Line


def drawn() -> list[float]:
    """A number of each global generator."""
    return [torch.rand(()).item(), np.random.rand(), random.random()]


def test_one_seed_is_for_all_global_generators() -> None:
    with forked_generators():
        seed_global(2**62 + 5)
        first = drawn()
        seed_global(2**62 + 5)
        assert drawn() == first
        seed_global(2**62 + 6)
        assert all(a != b for a, b in zip(drawn(), first, strict=True))
        seed_dropout(BatchKey(0, 1, 2))
        one = drawn()
        seed_dropout(BatchKey(0, 1, 2))
        assert drawn()[0] == one[0]


def test_a_block_leaves_the_generators_of_a_user_alone() -> None:
    with forked_generators(seed=3):
        expected = drawn()
    with forked_generators(seed=3):
        with pytest.raises(ZeroDivisionError), forked_generators(seed=4):
            assert drawn() != expected
            raise ZeroDivisionError
        assert drawn() == expected


class Drawing(Line):
    """Noise from all three generators, in the first weights and in every step."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        torch.nn.init.constant_(self.layer.weight, np.random.rand())

    def compute_metrics(self, batch: Any, batch_idx: int) -> Any:
        found = super().compute_metrics(batch, batch_idx)
        return {**found, "loss": found["loss"] * (1 + sum(drawn()))}


def test_a_fit_follows_its_seed_whatever_was_drawn_before_and_leaves_generators_alone() -> None:
    with forked_generators(seed=8):
        weights = []
        for _ in range(2):
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
            run = qsr.train(
                model={"module_name": "tests.training.test_random.Drawing"},
                data={"module_name": "tests.training.lines.Points", "seed": 1, "loader": {"batch_size": 32}},
                train={"dir": "<NONE>", "max_epochs": 2},
            )
            assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
            weights.append(run.model.layer.weight.item())
            drawn()
        assert weights[0] == weights[1]


class Shaking:
    """Five batches, each with numbers of all generators; of a user's own."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        return ([number, *drawn()] for number in range(5))


def test_a_run_that_goes_on_within_an_epoch_gets_the_same_batches() -> None:
    """Before each batch the generators are seeded by the step, as `Supervised` does."""

    def batches(first: int) -> list[Any]:
        found = []
        source = LoaderSource(Shaking(), seed=1).batches(2, first)
        for number in range(first, 5):
            seed_global(number)
            found.append(next(source))
        assert next(source, None) is None
        return found

    with forked_generators():
        whole = batches(0)
        assert [batches(first) for first in range(1, 5)] == [whole[first:] for first in range(1, 5)]
