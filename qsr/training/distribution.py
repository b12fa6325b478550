"""The processes of torch.distributed that train one model together: who has which minibatch, and what they tell each other.

A step of N processes is that of one process with the same minibatches: each has a contiguous share of them, what concerns all
is gathered in their order, and gradients are summed. Nothing is started when this is imported.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from qsr.training.protocols import BatchKey, Metrics, RunFailed

TIMEOUT = timedelta(minutes=10)  # for a process that is alive and does not answer; of one that has ended all hear at once
CPU = torch.device("cpu")
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")
Shared = TypeVar("Shared", Sequence[BatchKey], Tensor)


class ProcessLost(RunFailed):
    """Another process of the run has ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together; every method but `share` must be called by all of them, in the same order.

    Attributes:
        rank: of this one.
        size: how many there are.
        device: where numbers that are no part of a tensor travel; on a CUDA device by NCCL, which passes them on in trees.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def expected(cls) -> Processes:
        """Those that torchrun has started, or that the program has joined to a process group; nothing is started here."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        if distributed.is_available() and all(name in os.environ for name in _TORCHRUN):
            return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        return cls()

    @classmethod
    def found(cls) -> Processes:
        """As `expected`, joined to a process group: NCCL for tensors on CUDA devices, gloo for those on the CPU."""
        expected = cls.expected()
        if expected.size > 1 and not distributed.is_initialized():
            cuda = torch.cuda.is_available() and distributed.is_nccl_available()
            with _reaching():
                store, rank, size = next(distributed.rendezvous("env://", timeout=TIMEOUT))
                # torchrun may keep its store over restarts, with the addresses of the processes that have ended.
                store = distributed.PrefixStore(f"restart {restarts()}", store)
                backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
                distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        return expected

    def on(self, device: torch.device) -> Processes:
        """The same, of a model on this device."""
        return replace(self, device=device)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, minibatches: Shared) -> Shared:
        """Those of this process, or the rows that belong to them; their number is a multiple of `size`."""
        count = len(minibatches) // self.size
        return minibatches[self.rank * count : (self.rank + 1) * count]

    def wait(self) -> None:
        """Until all processes are here: what the first one writes is there then."""
        if self.size > 1:
            with _reaching():
                distributed.barrier()

    # --- what the first process says --------------------------------------------------------------------------------

    def agree(self, model: nn.Module) -> None:
        """Give the model the parameters and buffers of the first process."""
        for tensor in model.state_dict().values():
            self.from_first(tensor)

    def from_first(self, tensor: Tensor) -> Tensor:
        """The tensor, overwritten by that of the first process; of equal shape in all."""
        if self.size > 1:
            with _reaching():
                distributed.broadcast(tensor, src=0)
        return tensor

    def told(self, value: T) -> T:
        """The first process' value: text, numbers, and lists and mappings of them, as JSON has them."""
        if self.size == 1:
            return value
        found: T = json.loads(self._bytes_from_first(json.dumps(value).encode() if self.first else b""))
        return found

    def told_state(self, state: Any) -> Any:
        """As `told`, with tensors among the values, which come on the CPU."""
        if self.size == 1:
            return state
        buffer = io.BytesIO()
        if self.first:
            torch.save(state, buffer)
        return torch.load(io.BytesIO(self._bytes_from_first(buffer.getvalue())), map_location="cpu", weights_only=True)

    def _bytes_from_first(self, content: bytes) -> bytes:
        length = self.from_first(torch.tensor([len(content)]))
        text = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.first else torch.empty(0, dtype=torch.uint8)
        found = self.from_first(text if self.first else text.new_empty(int(length)))
        return found.numpy().tobytes()

    # --- what all know ----------------------------------------------------------------------------------------------

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over all processes."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, device=self.device)
        with _reaching():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return [int(value) for value in found.tolist()]

    def check_equal(self, model: nn.Module) -> None:
        """Compare checksums of the model's weights.

        Raises:
            RunFailed: if they are not the same in all processes.
        """
        if self.size == 1:
            return
        # Flat first: a single number has no bytes to look at.
        words = [tensor.detach().flatten().view(torch.uint8) for tensor in model.state_dict().values()]
        total = int(sum((part.long() * (1 + torch.arange(len(part), device=part.device) % 8191)).sum() for part in words))
        largest, least = self.largest(total, -total)
        if largest != -least:
            raise RunFailed(
                "the processes no longer have the same weights: they must run on processors of one kind, with the same versions "
                "and as many threads (OMP_NUM_THREADS)"
            )

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (U_r, ...) of each process, one after the other: (sum of U_r, ...)."""
        if self.size == 1:
            return rows
        if rows.is_complex():
            return torch.view_as_complex(self.gather(torch.view_as_real(rows)))
        counts = self.counts(len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in counts]
        with _reaching():
            distributed.all_gather(everyone, padded)
        return torch.cat([part[:count] for part, count in zip(everyone, counts, strict=True)])

    def counts(self, count: int) -> list[int]:
        """One number of each process, in their order."""
        if self.size == 1:
            return [count]
        everyone = [torch.empty(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        with _reaching():
            distributed.all_gather(everyone, torch.tensor([count], device=self.device))
        return [int(found) for found in torch.cat(everyone).tolist()]

    # --- sums -------------------------------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, overwritten by the sum of those of all processes."""
        if self.size > 1:
            with _reaching():
                distributed.all_reduce(tensor)
        return tensor

    def sum_in_first(self, tensor: Tensor) -> Tensor:
        """As `sum`, in the first process; what the others have then is of no use."""
        if self.size > 1:
            with _reaching():
                distributed.reduce(tensor, dst=0)
        return tensor

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the gradients up; a parameter that no process has a gradient of stays without."""
        if self.size == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        there = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
        flat = torch.cat(
            [(torch.zeros_like(value) if value.grad is None else value.grad).flatten() for value in parameters] + [there]
        )
        self.sum(flat)
        used = flat[len(flat) - len(parameters) :] > 0
        first = 0
        for parameter, keep in zip(parameters, used.tolist(), strict=True):
            size = parameter.numel()
            parameter.grad = flat[first : first + size].view_as(parameter).clone() if keep else None
            first += size

    def sum_metrics(self, metrics: Metrics) -> Metrics:
        """Sums over all processes, name by name."""
        if self.size == 1:
            return metrics
        text = torch.frombuffer(bytearray(json.dumps(metrics).encode()), dtype=torch.uint8)
        counts = self.counts(len(text))
        parts = [json.loads(part.numpy().tobytes()) for part in self.gather(text).split(counts)]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    # --- rows for columns -------------------------------------------------------------------------------------------

    def columns(self, count: int) -> list[slice]:
        """The share of each process in so many columns."""
        ends = [count * rank // self.size for rank in range(self.size + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    def exchange(self, block: Tensor, counts: Sequence[int]) -> Tensor:
        """This process' columns of the rows of all.

        Args:
            block: (F, U_r, C), all columns of its own rows.
            counts: U_r of each process.

        Returns:
            (F, U, c), U the sum of U_r and c the width of this process' share of the columns (see `columns`).
        """
        if self.size == 1:
            return block
        functions, rows, _ = block.shape
        shares = self.columns(block.shape[2])
        width = shares[self.rank].stop - shares[self.rank].start
        sent = torch.cat([block[:, :, share].flatten() for share in shares])
        sizes = [functions * rows * (share.stop - share.start) for share in shares]
        arriving = [functions * count * width for count in counts]
        arrived = block.new_empty(sum(arriving))
        with _reaching():
            distributed.all_to_all_single(arrived, sent, arriving, sizes)
        parts = [part.view(functions, -1, width) for part in arrived.split(arriving)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


ALONE = Processes()


def leave() -> None:
    """Take this process out of the group that `found` joined it to, if it is in one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def by_torchrun() -> bool:
    """Whether torchrun has started this process, also as the only one."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarts() -> int:
    """How often torchrun has started the processes again, after one of them had ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if all(name in os.environ for name in _TORCHRUN) else 0


def local_size() -> int:
    """How many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if all(name in os.environ for name in _TORCHRUN) else 1


def speaks() -> bool:
    """Whether this process should tell its errors: before the processes have met, all of a machine make the same ones."""
    return local_rank() == 0 or (distributed.is_available() and distributed.is_initialized())


@contextmanager
def _reaching() -> Iterator[None]:
    """What torch raises when another process cannot be reached, in one line."""
    try:
        yield
    except RuntimeError as error:
        # "[/path/of/gloo.cc:537] Read error [127.0.0.1]:21926: Connection reset by peer. This is typically caused by ..."
        reason = re.sub(r"^\[\S*\] ", "", str(error).strip()).splitlines() or [type(error).__name__]
        raise ProcessLost(
            f"another process of the run has ended or does not answer ({reason[0].partition('. ')[0]}); "
            "qsr train --resume RUN goes on from the last checkpoint"
        ) from error
