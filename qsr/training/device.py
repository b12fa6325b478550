"""Which device a job runs on."""

from __future__ import annotations

import torch
from torch import nn

from qsr.hparams import ConfigError
from qsr.training.distribution import local_rank, local_size

KEEP = "keep"  # a model stays where it is


def find_device(wish: str, setting: str = "train.device") -> torch.device:
    """The device that `train.device` means on this machine: auto is the first CUDA device, or the CPU if there is none.

    Of the processes that torchrun starts on a machine, the first one takes the first CUDA device, the second one the second.

    Args:
        wish: auto, cpu, cuda or cuda:N.
        setting: its name in the error message.

    Raises:
        ConfigError: for a device that this machine does not have, or not for each of its processes.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wish == "auto" and not count:
        return torch.device("cpu")
    processes = local_size()
    if processes > 1 and count and wish != "cpu" and (count < processes or wish not in ("auto", "cuda")):
        raise ConfigError(
            f"{setting}={wish}: each of the {processes} processes on this machine takes a CUDA device of its own, and there are "
            f"{count}; expected cpu" + (", or auto or cuda" if count >= processes else f", or at most {count} processes")
        )
    if wish == "auto":
        return torch.device("cuda", local_rank())
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ConfigError(f"{setting}={wish}: must be auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    found = ", ".join(f"cuda:{index}" for index in range(count)) or f"no CUDA device (torch {torch.__version__})"
    if device.type != "cuda" or (device.index or 0) >= count:
        expected = f"auto, cpu, cuda or one of {found}" if count else "auto or cpu"
        raise ConfigError(f"{setting}={wish}: this machine has {found}; expected {expected}")
    return torch.device("cuda", local_rank() if device.index is None else device.index)


def device_of(model: nn.Module, wish: torch.device | str | None) -> torch.device:
    """Where a model is to be trained: None means where it is, or from the CPU the first CUDA device, if there is one.

    Args:
        wish: None, 'keep', or as for `find_device`.

    Raises:
        ConfigError: as `find_device`.
    """
    here = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if wish == KEEP or (wish is None and here.type != "cpu"):
        return here
    return find_device("auto" if wish is None else str(wish), "device")
