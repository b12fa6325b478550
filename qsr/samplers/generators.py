"""torch's global generators by device."""

from __future__ import annotations

import torch


def default_generator(device: torch.device) -> torch.Generator:
    """What draws on a device when no generator is given."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
