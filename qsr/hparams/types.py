"""Types of settings that need more than Python's own: patch shapes, site positions, models inside models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from qsr.hparams.base import ConfigError, Hparams
from qsr.hparams.registry import find_section, hparams_class

_PATCH = re.compile(r"([1-9]\d*)(?:x([1-9]\d*))?")


def normalise_patch(value: Any) -> str:
    """'4' for four sites in a row of the site order, '2x3' for a block of two by three."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    text = str(value).strip()
    if not _PATCH.fullmatch(text) or isinstance(value, (bool, float)):
        raise ValueError("must be a number of sites (patch=4) or a block (patch=2x2)")
    return text


def patch_block(patch: str) -> tuple[int, int] | None:
    """Rows and columns of a two-dimensional patch; None for a one-dimensional one."""
    rows, cross, columns = patch.partition("x")
    return (int(rows), int(columns)) if cross else None


def patch_sites(patch: str) -> int:
    """Number of sites in a patch."""
    block = patch_block(patch)
    return block[0] * block[1] if block else int(patch)


def check_patch(section: str, patch: str, shape: tuple[int, int]) -> int:
    """Number of patches that tile an Lx x Ly lattice.

    Raises:
        ConfigError: if the patch does not tile it.
    """
    rows, columns = shape
    block = patch_block(patch)
    if block is None:
        if (rows * columns) % int(patch):
            raise ConfigError(
                f"{section}.patch={patch}: does not divide the {rows * columns} sites of the {rows}x{columns} lattice"
            )
        return rows * columns // int(patch)
    if columns == 1 and block[1] > 1:
        raise ConfigError(
            f"{section}.patch={patch}: the sites form a line of {rows}; give a number of sites, such as patch=1 or patch=2"
        )
    if rows % block[0] or columns % block[1]:
        raise ConfigError(
            f"{section}.patch={patch}: does not tile the {rows}x{columns} lattice; rows and columns must be multiples"
        )
    return (rows // block[0]) * (columns // block[1])


Patch = Annotated[str, BeforeValidator(normalise_patch)]


def read_positions(value: Any) -> list[list[float]]:
    """Site coordinates (N, 2): given as numbers, or read from a .npy or a text file with two columns."""
    if isinstance(value, (str, Path)):
        try:
            if str(value).endswith(".npy"):
                loaded = np.load(value, allow_pickle=False)
            else:
                lines = Path(value).read_text(encoding="utf-8").replace(",", " ").splitlines()
                loaded = np.loadtxt(lines, ndmin=2)
        except OSError as error:
            raise ValueError(f"cannot read site positions ({error.strerror})") from None
        except ValueError:
            raise ValueError("cannot read site positions: expected two numbers, x and y, on each line") from None
        value = loaded
    array = np.asarray(value, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or array.shape[0] < 2:
        raise ValueError(f"expected at least two rows of x and y, found an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("coordinates must be finite")
    distances = np.linalg.norm(array[:, None] - array[None], axis=-1) + np.diag(np.full(len(array), np.inf))
    if distances.min() < 1e-9:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(f"sites {first} and {second} lie on the same point")
    return [[float(x), float(y)] for x, y in array]


Positions = Annotated[list[list[float]], BeforeValidator(read_positions)]


def typed_section(value: Any) -> Any:
    """A section from a mapping with a `type`, as settings.json stores models and Hamiltonians."""
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        raise ConfigError(f"a section without 'type': found {sorted(value)}")
    rest = {name: part for name, part in value.items() if name != "type"}
    return hparams_class(find_section(str(value["type"])).name)(**rest)


def dump_typed(section: Hparams) -> dict[str, Any]:
    """The mapping that `typed_section` reads: every field, resolved, with its `type`."""
    return {"type": section.section, **section.model_dump(mode="json")}


TypedSection = Annotated[Hparams, BeforeValidator(typed_section), PlainSerializer(dump_typed)]


_PHASES = {"train": "training", "val": "validation", "test": "test"}


def _canonical_metric(name: str) -> str:
    phase, _, rest = name.partition("_")
    return f"{_PHASES[phase]}/{'accuracy' if rest == 'acc' else rest}" if phase in _PHASES and rest else name


# A metric by its name, validation/loss, or as other programs write it: val_loss, train_loss, val_acc.
MetricName = Annotated[str, AfterValidator(_canonical_metric)]
