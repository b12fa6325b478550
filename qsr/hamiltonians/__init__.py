"""Hamiltonians, their settings, exact diagonalisation and product-state energies."""

from qsr.hamiltonians.base import MAX_EXACT_SITES as MAX_EXACT_SITES
from qsr.hamiltonians.base import Hamiltonian as Hamiltonian
from qsr.hamiltonians.base import basis_index as basis_index
from qsr.hamiltonians.base import configurations as configurations
from qsr.hamiltonians.base import sparse_matrix as sparse_matrix
from qsr.hamiltonians.exact import ExactResult as ExactResult
from qsr.hamiltonians.exact import exact_observables as exact_observables
from qsr.hamiltonians.exact import ground_state as ground_state
from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian as HeisenbergHamiltonian
from qsr.hamiltonians.ising import IsingHamiltonian as IsingHamiltonian
from qsr.hamiltonians.ising import RydbergHamiltonian as RydbergHamiltonian
from qsr.hamiltonians.ising import TransverseFieldIsing as TransverseFieldIsing
from qsr.hamiltonians.pauli import PauliBasis as PauliBasis
from qsr.hamiltonians.pauli import number_of_strings as number_of_strings
from qsr.hamiltonians.pauli import pauli_strings as pauli_strings
from qsr.hamiltonians.pauli_sum import PauliSum as PauliSum
from qsr.hamiltonians.product_state import ProductStateEnergy as ProductStateEnergy
from qsr.hamiltonians.product_state import cluster_product_energy as cluster_product_energy
from qsr.hamiltonians.product_state import site_product_energy as site_product_energy
from qsr.hamiltonians.settings import TFIM as TFIM
from qsr.hamiltonians.settings import Heisenberg as Heisenberg
from qsr.hamiltonians.settings import LatticeHparams as LatticeHparams
from qsr.hamiltonians.settings import Pauli as Pauli
from qsr.hamiltonians.settings import Rydberg as Rydberg
