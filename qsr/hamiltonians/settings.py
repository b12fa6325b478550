"""Settings of the problems: `Rydberg`, `TFIM`, `Heisenberg` and `Pauli`. They build the Hamiltonians of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import PrivateAttr, field_validator, model_validator

from qsr.hamiltonians.lattice_settings import LatticeHparams as LatticeHparams
from qsr.hamiltonians.pauli_text import read_terms
from qsr.hparams.base import ConfigError, Hparam
from qsr.hparams.bounded import read_text
from qsr.hparams.ranges import Range, RangedNumber, RangedSiteValues
from qsr.hparams.types import Positions
from qsr.lattice import Lattice

if TYPE_CHECKING:
    from qsr.hamiltonians.base import Hamiltonian
    from qsr.hamiltonians.family import RydbergFamily


FAR = 3.0  # from one lattice constant: distances are in another unit


class Rydberg(LatticeHparams):
    """Rydberg atoms: H = -(Omega/2) sum_i X_i - delta sum_i n_i + V sum_{i<j} n_i n_j / |r_i - r_j|^6.

    All pairs interact. Distances are in lattice constants, so V = C6/a^6 = Omega Rb^6; V, Omega and delta share one unit of
    energy (Omega, with the default Omega = 1). With `units`, distances are in micrometres and C6 takes the place of V; C6, Omega,
    delta and all energies are angular frequencies in rad/us, or frequencies in MHz: 1 MHz is 2 pi rad/us.

    delta, Omega and V (C6) may be ranges, delta=0:3: one network for all Hamiltonians in them.
    """

    section: ClassVar[str] = "rydberg"
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {
        **LatticeHparams.replaces,
        "units": ("V", "C6", "Omega", "delta"),
        "positions": ("spacing", "geometry", "boundary"),
    }

    positions: Positions | None = Hparam(
        None,
        help="site coordinates instead of Lx and Ly: rows of x and y, or a file: text, .npy, or .json of Pulser, Braket, Bloqade",
    )
    V: RangedNumber = Hparam(7.0, help="interaction of two excited atoms at distance 1, or a range 5:7; not with units")
    # Omega < 0 is the same physics after a rotation about z, but psi would change sign: only the stoquastic sign is taken.
    Omega: RangedSiteValues = Hparam(
        1.0, help="Rabi frequency: one number, one for each site (0.5,1,1,0.5), a file with them, or a range 0.5:2 to train over"
    )
    delta: RangedSiteValues = Hparam(1.0, help="detuning, likewise (0:3 is a range); positive favours the excited state")
    units: Literal["rad/us", "MHz"] | None = Hparam(
        None, help="of C6, Omega, delta and energies, with lengths in micrometres; MHz: Omega = 2 pi f, and f is given"
    )
    C6: RangedNumber = Hparam(None, help="interaction times distance^6: rad/us um^6, or MHz um^6; a number or a range")
    spacing: float | None = Hparam(None, gt=0.0, allow_inf_nan=False, help="distance of neighbours in um, with units and Lx, Ly")

    @field_validator("Omega")
    @classmethod
    def _not_negative(cls, value: float | list[float] | Range) -> float | list[float] | Range:
        if (value.low if isinstance(value, Range) else np.min(value)) < 0:
            raise ValueError("must be at least 0")
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_default_interaction(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("units") is None:
            return values
        return {"V": None, **values}

    @model_validator(mode="after")
    def _one_geometry(self) -> Any:
        if self.positions is not None:
            for name in ("Lx", "Ly", "spacing"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"rydberg.positions: excludes {name}={getattr(self, name)}; the coordinates set the sites")
            if self.boundary != "open":
                raise ConfigError(f"rydberg.positions: excludes boundary={self.boundary}; free positions have an open boundary")
            if self.geometry != "square":
                raise ConfigError(f"rydberg.positions: excludes lattice={self.geometry}; the coordinates set the sites")
            nearest = Lattice.from_positions(self.positions).distance_groups()[0][0]
            if self.units is None and "V" not in self.model_fields_set and not 1 / FAR < nearest < FAR:
                raise ConfigError(
                    f"rydberg.V: its default is for distances in lattice constants, but the nearest positions are {nearest:g} "
                    "apart; give units=rad/us (or MHz), C6, Omega and delta, or V, the interaction at distance 1"
                )
        return self

    @model_validator(mode="after")
    def _as_many_values_as_sites(self) -> Any:
        if self.positions is None and None in (self.Lx, self.Ly):
            return self
        for name in ("Omega", "delta"):
            values = getattr(self, name)
            if isinstance(values, list) and len(values) != self.num_sites:
                found = f"has {len(values)} numbers, and {self.describe_size()}"
                raise ConfigError(f"rydberg.{name}: {found}; give one number, or one for each site")
        return self

    @model_validator(mode="after")
    def _one_system_of_units(self) -> Any:
        if self.units is None:
            for name in ("C6", "spacing"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"rydberg.{name}={getattr(self, name)}: needs units=rad/us or units=MHz")
            if self.V is None:
                raise ConfigError("rydberg.V=None: must be a number, unless units and C6 are given")
            return self
        if self.V is not None:
            raise ConfigError(f"rydberg.V={self.V}: excludes units={self.units}, where the interaction is C6/r^6; leave V out")
        missing = [name for name in ("C6", "Omega", "delta") if name not in self.model_fields_set or self[name] is None]
        if self.positions is None and self.spacing is None:
            missing.append("spacing")
        if missing:
            raise ConfigError(f"rydberg.{missing[0]}: must be given with units={self.units}")
        return self

    @property
    def energy_unit(self) -> str:
        return self.units or "Omega"

    @property
    def energy_scale(self) -> float:
        largest = self.Omega.high if isinstance(self.Omega, Range) else float(np.max(self.Omega))
        return 1.0 if self.units is None else largest or 1.0

    @property
    def length_unit(self) -> str:
        if self.positions is None:
            return super().length_unit
        return "units of the positions" if self.units is None else "um"

    @property
    def shape(self) -> tuple[int, int]:
        return super().shape if self.positions is None else (len(self.positions), 1)

    @property
    def interaction(self) -> float | Range:
        """V at the distance 1 of `lattice()`: a lattice constant, or a micrometre for positions in units."""
        given = self.V if self.C6 is None else self.C6
        return given if isinstance(given, Range) else (given or 0.0) * self._per_interaction

    @property
    def _per_interaction(self) -> float:
        """What V or C6 is multiplied with to be the interaction at the distance 1 of `lattice()`."""
        return 1.0 if self.spacing is None else self.spacing**-6

    @property
    def is_grid(self) -> bool:
        return super().is_grid and self.positions is None

    def _place(self) -> str:
        return super()._place() if self.positions is None else f"{self.num_sites} sites"

    def lattice(self) -> Lattice:
        return super().lattice() if self.positions is None else Lattice.from_positions(self.positions)

    def describe_size(self) -> str:
        return super().describe_size() if self.positions is None else f"rydberg.positions has {self.num_sites} sites"

    def describe(self) -> str:
        """Also the blockade radius, V(Rb) = Omega (of all sites), in units of the smallest distance a; and the units."""
        parts = [super().describe()]
        interaction = self.interaction
        if isinstance(interaction, float) and interaction > 0 and isinstance(self.Omega, float) and self.Omega > 0:
            distances = self.lattice().distances() if self.positions is not None else np.ones((1, 1))
            nearest = float(distances[distances > 0].min())
            radius = (interaction / self.Omega) ** (1 / 6)
            parts += [] if self.units is None else [f"Rb={radius * (self.spacing or 1.0):.4g} um"]
            parts.append(f"Rb/a={radius / nearest:.4g}")
        return ", ".join([*parts, *([] if self.units is None else [f"energies in {self.units}"])])

    def build(self) -> Hamiltonian:
        """The Hamiltonian.

        Raises:
            ConfigError: if the size is not set, and for ranges, which are many Hamiltonians (`family`).
        """
        for name, found in self.ranges.items():
            raise ConfigError(f"rydberg.{name}={found}: is a range; one number is needed here, such as {name}={found.middle:g}")
        return self.family().at()

    def family(self) -> RydbergFamily:
        """The Hamiltonians of all values in the ranges. Raises ConfigError if the size is not set."""
        from qsr.hamiltonians.family import RydbergFamily

        interaction = "V" if self.C6 is None else "C6"
        values = {name: value for name, value in self.items() if name in (interaction, "Omega", "delta")}
        return RydbergFamily(self.lattice(), values, self._per_interaction)


class TFIM(LatticeHparams):
    """Transverse-field Ising model: H = -J sum_<ij> Z_i Z_j - h sum_i X_i, Pauli matrices, nearest neighbours."""

    section: ClassVar[str] = "tfim"

    J: float = Hparam(1.0, allow_inf_nan=False, help="coupling; positive is ferromagnetic")
    h: float = Hparam(1.0, ge=0.0, allow_inf_nan=False, help="transverse field")

    def build(self) -> Hamiltonian:
        from qsr.hamiltonians.ising import TransverseFieldIsing

        return TransverseFieldIsing(self.lattice(), J=self.J, h=self.h)


class Heisenberg(LatticeHparams):
    """Antiferromagnet H = J sum_<ij> (Sx_i Sx_j + Sy_i Sy_j + Delta Sz_i Sz_j), spin 1/2, nearest neighbours.

    Delta = 1 is Heisenberg's, 0 the XY model, large Delta Ising's. On a bipartite lattice X and Y are turned on one sublattice
    (Marshall's sign rule), which makes psi >= 0. Frustrated lattices need sign_rule=False and a model with phase=True.
    """

    section: ClassVar[str] = "heisenberg"

    J: float = Hparam(1.0, gt=0.0, allow_inf_nan=False, help="exchange; positive is antiferromagnetic")
    Delta: float = Hparam(1.0, allow_inf_nan=False, help="anisotropy (XXZ): the exchange of z is J*Delta")
    sign_rule: bool = Hparam(True, help="turn one sublattice, so that psi >= 0; False on lattices that are not bipartite")

    @model_validator(mode="after")
    def _bipartite(self) -> Any:
        if not self.sign_rule:
            return self
        around = {"open": (), "cylinder": ("Ly",), "periodic": ("Lx", "Ly")}[self.boundary] if self.is_grid else ()
        for name in around:
            size = getattr(self, name)
            if size is not None and size > 1 and size % 2:
                raise ConfigError(
                    f"heisenberg.{name}={size}: must be even with boundary={self.boundary}; an odd ring is not bipartite, "
                    "so no change of basis makes all amplitudes positive (sign_rule=False, for a model with phase=True)"
                )
        return self

    @property
    def basis(self) -> str:
        return "n_i with the sign rule" if self.sign_rule else "n_i"

    def build(self) -> Hamiltonian:
        from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian

        return HeisenbergHamiltonian(self.lattice(), J=self.J, Delta=self.Delta, sign_rule=self.sign_rule)


class Pauli(LatticeHparams):
    """Any sum of Pauli strings with real coefficients: H = sum_s c_s sigma_s, with n = (1 - Z)/2.

    Written as `0.5 X0 Z3 + 1.2 Y1 Y2`, as strings with one letter for each site, `XIZI 0.5` in a line each (letter i acts on
    site i), or as OpenFermion prints operators. Without Lx and Ly the sites are a chain. Energies are in the coefficients' unit.
    """

    section: ClassVar[str] = "pauli"
    sizes_itself: ClassVar[bool] = True
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {**LatticeHparams.replaces, "file": ("terms",)}
    shorthands: ClassVar[dict[str, str]] = {**LatticeHparams.shorthands, "file": "text file to read the terms from"}

    terms: str = Hparam(help="the sum: 0.5 X0 Z3 + 1.2 Y1 Y2, or strings such as XIZI 0.5, separated by line ends or ;")
    _sizes: tuple[int, int] = PrivateAttr((0, 0))  # number of sites, number of terms

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("file") is None:
            return values
        path = values["file"]
        if values.get("terms") is not None:
            raise ConfigError(f"pauli.file={path}: excludes terms; give one of the two")
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ConfigError(f"pauli.file={path}: cannot read the terms ({reason})") from None
        read_terms(text, None, f"pauli.file={path}")
        return {**{name: value for name, value in values.items() if name != "file"}, "terms": text}

    @model_validator(mode="after")
    def _sites_fit(self) -> Any:
        if not self.is_grid:
            raise ConfigError(f"pauli.lattice={self.geometry}: the sites of Pauli strings are a rectangle or a chain")
        num_sites = self.Lx * self.Ly if self.Lx is not None and self.Ly is not None else None
        strings, _ = read_terms(self.terms, num_sites, "pauli.terms")
        self._sizes = len(strings[0]), len(strings)
        for name in ("Lx", "Ly"):
            size = getattr(self, name)
            if size is not None and len(strings[0]) % size:
                raise ConfigError(f"pauli.{name}={size}: does not divide the {len(strings[0])} sites of the terms")
        return self

    @property
    def energy_unit(self) -> str:
        return "1"

    @property
    def cells(self) -> tuple[int, int]:
        num_sites, _ = self._sizes
        if self.Ly is not None:
            return num_sites // self.Ly, self.Ly
        rows = num_sites if self.Lx is None else self.Lx
        return rows, num_sites // rows

    def describe(self) -> str:
        num_sites, count = self._sizes
        return f"pauli {'x'.join(map(str, self.shape))} {self.boundary}: {count} terms on {num_sites} sites"

    def build(self) -> Hamiltonian:
        from qsr.hamiltonians.pauli_sum import PauliSum

        return PauliSum.from_text(self.terms, self.lattice())
