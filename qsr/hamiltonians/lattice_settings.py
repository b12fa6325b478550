"""What the settings of all problems on a lattice share: its size and kind, and how a problem is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import model_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams
from qsr.hparams.positions import MOST_SITES
from qsr.hparams.ranges import Range
from qsr.lattice import CELLS, Boundary, Kind, Lattice

if TYPE_CHECKING:
    from qsr.hamiltonians.base import Hamiltonian


class LatticeHparams(Hparams):
    """A problem on an Lx x Ly lattice."""

    sizes_itself: ClassVar[bool] = False  # whether the number of sites is known without Lx and Ly
    # Stored settings that mean nothing any more when another value of one is given (name -> those that it replaces).
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {"lattice": ("geometry",)}
    shorthands: ClassVar[dict[str, str]] = {"lattice": "geometry"}

    Lx: int | None = Hparam(None, ge=1, help="rows of the lattice, or unit cells along a1")
    Ly: int | None = Hparam(None, ge=1, help="columns of the lattice, or unit cells along a2; 1 for a chain")
    boundary: Boundary = Hparam("open", help="boundary condition: in both directions, or cylinder: periodic in y only")
    geometry: Kind = Hparam("square", help="kind of lattice, lattice=kagome: Lx x Ly cells of 1 site, honeycomb 2, kagome 3")

    @model_validator(mode="before")
    @classmethod
    def _lattice_is_geometry(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = {**values}
        lattice = named.pop("lattice", None)
        if lattice is not None:
            if named.get("geometry", lattice) != lattice:
                raise ConfigError(f"{cls.section}.lattice={lattice}: excludes geometry={named['geometry']}, which means the same")
            if lattice not in get_args(Kind):
                raise ConfigError(f"{cls.section}.lattice={lattice}: must be one of {', '.join(get_args(Kind))}")
            named["geometry"] = lattice
        if named.get("geometry") == "chain" and named.get("Ly") is None:
            named["Ly"] = 1
        return named

    @model_validator(mode="after")
    def _can_be_held(self) -> Any:
        if self.Lx is not None and self.Ly is not None:
            sites = self.Lx * self.Ly * self.sites_per_cell(self)
            if sites > MOST_SITES:
                raise ConfigError(
                    f"{self.section}.Lx={self.Lx}: with Ly={self.Ly} the lattice has {sites} sites; at most {MOST_SITES}, "
                    "whose distances fill 2 GiB"
                )
        return self

    @model_validator(mode="after")
    def _one_dimension(self) -> Any:
        if self.geometry == "chain":
            if self.Ly != 1:
                raise ConfigError(f"{self.section}.Ly={self.Ly}: must be 1 with lattice=chain")
            if self.boundary == "cylinder":
                raise ConfigError(f"{self.section}.boundary=cylinder: a chain is open or periodic")
        return self

    @classmethod
    def sites_per_cell(cls, values: Mapping[str, Any]) -> int:
        """Sites in a unit cell of the lattice that settings, not yet checked, name."""
        kind = values.get("lattice") or values.get("geometry")
        return len(CELLS[kind].sites) if isinstance(kind, str) and kind in CELLS else 1

    @property
    def is_grid(self) -> bool:
        """Whether the sites are a rectangle, which patches can tile with blocks."""
        return self.geometry not in CELLS

    @property
    def ranges(self) -> dict[str, Range]:
        """The settings that are ranges: then the problem is a family of Hamiltonians, for one network of all of them."""
        return {name: value for name, value in self.items() if isinstance(value, Range)}

    @property
    def energy_unit(self) -> str:
        """What energies are in units of: the parameter that sets their scale, or a unit of frequency."""
        return "J"

    @property
    def energy_scale(self) -> float:
        """The energy, in `energy_unit`, that learning rates and gradients are relative to."""
        return 1.0

    @property
    def basis(self) -> str:
        """Of the amplitudes psi(n), as far as it is not that of n_i alone."""
        return "n_i"

    @property
    def length_unit(self) -> str:
        """What distances are in units of."""
        return "lattice constants"

    @property
    def cells(self) -> tuple[int, int]:
        """(Lx, Ly).

        Raises:
            ConfigError: if a size is not set.
        """
        if self.Lx is None or self.Ly is None:
            missing = "Lx" if self.Lx is None else "Ly"
            raise ConfigError(f"{self.section}.{missing}: the size of the lattice is not set; give Lx and Ly")
        return self.Lx, self.Ly

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of sites; N x 1 where they are no rectangle. Raises ConfigError if the size is not set."""
        rows, columns = self.cells
        return (rows, columns) if self.is_grid else (rows * columns * self.sites_per_cell(self), 1)

    @property
    def num_sites(self) -> int:
        """N. Raises ConfigError if the size is not set."""
        rows, columns = self.shape
        return rows * columns

    def lattice(self) -> Lattice:
        """The lattice of these settings. Raises ConfigError if the size is not set."""
        return Lattice.named(self.geometry, *self.cells, self.boundary)

    def describe_size(self) -> str:
        """'rydberg has Lx*Ly = 8*8 = 64 sites': the second half of an error about a number of sites."""
        rows, columns = self.cells
        if self.is_grid:
            return f"{self.section} has Lx*Ly = {rows}*{columns} = {self.num_sites} sites"
        sites = self.sites_per_cell(self)
        return f"{self.section} has {sites}*Lx*Ly = {sites}*{rows}*{columns} = {self.num_sites} sites ({self.geometry})"

    def describe(self) -> str:
        """'rydberg 8x8 open: V=7.0 Omega=1.0 delta=1.0', for logs and titles. Raises ConfigError if the size is not set."""
        numbers = [f"{name}={value}" for name, value in self.items() if isinstance(value, (float, Range))]
        by_site = {name: getattr(self, name) for name in ("Omega", "delta") if isinstance(getattr(self, name, None), list)}
        numbers += [f"{name}={min(values):g}..{max(values):g} by site" for name, values in by_site.items()]
        return f"{self.section} {self._place()}: {' '.join(numbers)}"

    def _place(self) -> str:
        size = f"{'x'.join(map(str, self.cells))} {self.boundary}"
        return size if self.is_grid else f"{self.geometry} {size}, {self.num_sites} sites"

    def build(self) -> Hamiltonian:
        """The Hamiltonian. Raises ConfigError if the size is not set."""
        raise TypeError(f"{type(self).__name__} is an abstract section")
