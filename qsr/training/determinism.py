"""`train.deterministic`: a run takes only those operations of torch that repeat bit for bit, and ends at one that does not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qsr.hparams import ConfigError
from qsr.training.protocols import RunFailed

WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # those with which matrix products of CUDA repeat
_NO_SUCH_OPERATION = re.compile(r"(\S+) does not have a deterministic implementation")


def prepare_determinism(wanted: bool, device: torch.device) -> None:
    """Set CUBLAS_WORKSPACE_CONFIG, which CUDA reads when it starts: before a model goes to its device.

    It stays set, since later runs in the same process need it, too.

    Args:
        wanted: `train.deterministic`.
        device: of the run; on others than CUDA's there is nothing to prepare.

    Raises:
        ConfigError: if CUDA is in use already without it, or it has a value that does not do.
    """
    found = os.environ.get(WORKSPACE_VARIABLE)
    if not wanted or device.type != "cuda" or found in WORKSPACES:
        return
    if found is not None or torch.cuda.is_initialized():
        why = "CUDA is in use already" if found is None else f"found {WORKSPACE_VARIABLE}={found}"
        expected = f"{WORKSPACE_VARIABLE}={WORKSPACES[0]}"
        raise ConfigError(f"train.deterministic=True: {why}; export {expected} before qsr is started")
    os.environ[WORKSPACE_VARIABLE] = WORKSPACES[0]


@contextmanager
def deterministic_operations(wanted: bool) -> Iterator[None]:
    """In here torch takes deterministic algorithms only, cuDNN's among them; what was set before comes back.

    Raises:
        RunFailed: from an operation that has none.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    mode, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        found = _NO_SUCH_OPERATION.match(str(error))
        if found is None:
            raise
        raise RunFailed(
            f"train.deterministic=True: torch has no deterministic {found[1]} here; train without the setting or this operation"
        ) from None
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before
