"""Hilbert-space models of tables: H(x) = 1/2 sum_k (A_k - x_k)^2, and predictions from its ground state."""

from qsr.hsm.model import HilbertSpaceModel as HilbertSpaceModel
from qsr.hsm.predict import Predictions as Predictions
from qsr.hsm.predict import predict as predict
from qsr.hsm.settings import HSM as HSM
