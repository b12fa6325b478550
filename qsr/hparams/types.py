"""Types of settings that need more than Python's own: patch shapes, positions and numbers of sites, models inside models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from qsr.hparams.base import ConfigError, Hparams
from qsr.hparams.bounded import npy_array, read_bounded, read_text
from qsr.hparams.positions import read_positions
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


Positions = Annotated[list[list[float]], BeforeValidator(read_positions)]


def read_site_values(value: Any) -> float | list[float]:
    """One number for all sites, or (N,) numbers in the order of the sites: a list, `0.5,1,0.5`, a .npy or a text file."""
    if isinstance(value, (str, Path)):
        text = str(value).strip()
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            return read_site_values(_numbers_of_file(text))
        value = numbers if len(numbers) > 1 else numbers[0]
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number, or one for each site") from None
    if not array.size or not np.isfinite(array).all():
        raise ValueError("must be a finite number" if not array.ndim else "must be finite numbers, one for each site")
    return float(array) if not array.ndim else [float(number) for number in array.ravel()]


def _numbers_of_file(text: str) -> NDArray[np.float64]:
    expected = "must be a number, or one for each site: separated by commas, or in a .npy or text file"
    try:
        if text.endswith(".npy"):
            return np.asarray(npy_array(read_bounded(text)), dtype=float)
        return np.loadtxt(read_text(text).replace(",", " ").splitlines(), ndmin=1)
    except FileNotFoundError:
        raise ValueError(f"{expected} (there is no such file)") from None
    except OSError as error:
        raise ValueError(f"{expected} ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"{expected} (this file has something else)") from None


SiteValues = Annotated[float | list[float], BeforeValidator(read_site_values)]


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
