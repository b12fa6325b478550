"""A budget that turns out not to be there."""

import logging

import pytest
import torch

from qsr.training import RunFailed
from qsr.training.memory import MemoryBudget, is_out_of_memory


def test_a_budget_is_halved_until_the_work_fits_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def work(memory_bytes: int) -> int:
        asked.append(memory_bytes // 2**20)
        # Beyond any address space: torch's own error, not one that a test has made up.
        return len(torch.empty(2**60 if memory_bytes > 3 * 2**20 else 8, dtype=torch.uint8))

    budget = MemoryBudget(16, "a smaller BATCH takes less")
    with caplog.at_level(logging.WARNING, logger="qsr"):
        assert budget.run(work) == 8 and budget.run(work) == 8
    assert asked == [16, 8, 4, 2, 2]
    assert [record.message for record in caplog.records][-1] == "out of memory; again with train.memory_MiB=2"


def test_memory_that_is_never_there_is_said_in_one_line() -> None:
    with pytest.raises(RunFailed, match=r"out of memory, also with train\.memory_MiB=1: a smaller BATCH takes less"):
        MemoryBudget(4, "a smaller BATCH takes less").run(lambda _: bytearray(2**62))


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        MemoryBudget(4, "").run(lambda _: torch.zeros(2).reshape(3))
    assert not is_out_of_memory(RunFailed("step 3: out of memory; ..."))
    assert not is_out_of_memory(OSError("out of memory"))
