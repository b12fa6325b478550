"""Arguments of a quantum embedding, checked: errors name what was found and what was expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def checked_mask(ids: Tensor, attention_mask: Tensor | None, vocab_size: int, padding_idx: int | None) -> Tensor:
    """(B, L) bool: the tokens that count, of ids (B, L) and an attention mask (B, L) of 0 and 1.

    Raises:
        TypeError: for ids that are no integers.
        IndexError: for ids outside the vocabulary.
        ConfigError: for other shapes, and other values in the mask.
    """
    if ids.dtype not in _INTEGERS:
        raise TypeError(f"input_ids: must be integers, found {ids.dtype}")
    if ids.dim() != 2 or not ids.shape[1]:
        raise ConfigError(f"input_ids: must be (B, L) with L of at least 1, found {tuple(ids.shape)}")
    if ids.numel():
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= vocab_size:
            raise IndexError(f"input_ids: lie between {low} and {high}; the vocabulary has vocab_size={vocab_size} from 0 on")
    mask = torch.ones_like(ids, dtype=torch.bool)
    if attention_mask is not None:
        if attention_mask.shape != ids.shape:
            raise ConfigError(f"attention_mask: must be (B, L) = {tuple(ids.shape)}, found {tuple(attention_mask.shape)}")
        mask = attention_mask != 0
        if not torch.equal(mask.to(attention_mask.dtype), attention_mask):
            raise ConfigError("attention_mask: must hold 0 (padding) and 1, nothing else")
    return mask if padding_idx is None else mask & (ids != padding_idx)


def checked_probability(value: float | Tensor) -> float | Tensor:
    """A collapse probability, a float or a tensor.

    Raises:
        ConfigError: if it lies outside [0, 1].
    """
    if isinstance(value, Tensor):
        if not bool(((value >= 0) & (value <= 1)).all()):
            raise ConfigError("collapse_probability: must be between 0 and 1 in every element")
        return value
    if not 0 <= value <= 1:
        raise ConfigError(f"collapse_probability={value}: must be between 0 and 1")
    return float(value)


def check_fits(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that does not broadcast to a shape.

    Raises:
        ConfigError: names both shapes.
    """
    own = (1,) * (len(shape) - values.dim()) + tuple(values.shape)
    if len(own) != len(shape) or any(size not in (1, wanted) for size, wanted in zip(own, shape, strict=True)):
        raise ConfigError(f"{name}: must fit the shape {shape}, found {tuple(values.shape)}")


def checked_size(name: str, value: int | None, config: Any, attribute: str) -> int:
    """A number of at least 1, from `config.attribute` where there is a config.

    Raises:
        ConfigError: if it is missing or too small.
    """
    found = value if config is None else getattr(config, attribute, None)
    if found is None:
        raise ConfigError(f"{name}: missing; give it, or a config that has .{attribute}")
    if found < 1:
        raise ConfigError(f"{name}={found}: must be at least 1")
    return int(found)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        ConfigError: names it.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}={value!r}: must be a whole number of at least {least}")


def check_made(name: str, value: Any, kind: Any, wanted: str) -> None:
    """Refuse what is no `kind`, and a class where one of its objects is wanted.

    Raises:
        TypeError: names both.
    """
    if isinstance(value, type):
        raise TypeError(f"{name}: must be {wanted}, found the class {value.__name__} itself")
    if not isinstance(value, kind):
        raise TypeError(f"{name}: must be {wanted}, found {type(value).__name__}")


def is_exactly(chance: float | Tensor, value: float) -> bool:
    """Whether it is a float of this value; of tensors nothing is known without a look at the device."""
    return isinstance(chance, float) and chance == value
