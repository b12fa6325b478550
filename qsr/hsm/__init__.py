"""Hilbert-space models of tables: H(x) = 1/2 sum_k (A_k - x_k)^2, and predictions from its ground state."""

from qsr.hsm.geometry import Geometry as Geometry
from qsr.hsm.geometry import berry_curvature as berry_curvature
from qsr.hsm.geometry import geometric_tensor as geometric_tensor
from qsr.hsm.geometry import intrinsic_dimension as intrinsic_dimension
from qsr.hsm.geometry import laplacian_spectrum as laplacian_spectrum
from qsr.hsm.geometry import matrix_geometry as matrix_geometry
from qsr.hsm.geometry import quantum_metric as quantum_metric
from qsr.hsm.model import HilbertSpaceModel as HilbertSpaceModel
from qsr.hsm.overlaps import similarity as similarity
from qsr.hsm.overlaps import transform as transform
from qsr.hsm.settings import HSM as HSM
