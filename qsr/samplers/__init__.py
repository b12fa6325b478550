"""Autoregressive samplers: normalised probability models with exact, independent samples."""

from qsr.samplers.base import AutoregressiveSampler as AutoregressiveSampler
from qsr.samplers.base import Sampler as Sampler
from qsr.samplers.lptf import LargePatchedTransformer as LargePatchedTransformer
from qsr.samplers.ptf import PatchedTransformer as PatchedTransformer
from qsr.samplers.rnn import PatchedRNN as PatchedRNN
from qsr.samplers.settings import LPTF as LPTF
from qsr.samplers.settings import PTF as PTF
from qsr.samplers.settings import RNN as RNN
from qsr.samplers.symmetrized import SymmetrizedSampler as SymmetrizedSampler
