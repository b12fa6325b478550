"""Quantum embeddings: tokens as superpositions of senses, entangled along the sequence and collapsed by their context."""

from qsr.qembed.collapse import COLLAPSE_STRATEGIES as COLLAPSE_STRATEGIES
from qsr.qembed.config import QuantumConfig as QuantumConfig
from qsr.qembed.embeddings import QuantumEmbeddings as QuantumEmbeddings
from qsr.qembed.entanglement import Bonds as Bonds
from qsr.qembed.entanglement import EntanglementCorrelation as EntanglementCorrelation
from qsr.qembed.losses import EntanglementLoss as EntanglementLoss
from qsr.qembed.losses import QuantumLoss as QuantumLoss
from qsr.qembed.losses import SuperpositionLoss as SuperpositionLoss
from qsr.qembed.losses import UncertaintyLoss as UncertaintyLoss
from qsr.qembed.measurement import POVMMeasurement as POVMMeasurement
from qsr.qembed.measurement import ProjectiveMeasurement as ProjectiveMeasurement
from qsr.qembed.measurement import VectorMeasurement as VectorMeasurement
from qsr.qembed.measurement import WeakMeasurement as WeakMeasurement
from qsr.qembed.networks import QEmbedModelOutput as QEmbedModelOutput
from qsr.qembed.networks import QuantumDenoiser as QuantumDenoiser
from qsr.qembed.networks import QuantumMaskedLM as QuantumMaskedLM
from qsr.qembed.networks import QuantumSequenceClassifier as QuantumSequenceClassifier
from qsr.qembed.optimizers import EntanglementOptimizer as EntanglementOptimizer
from qsr.qembed.optimizers import QuantumOptimizer as QuantumOptimizer
from qsr.qembed.optimizers import UncertaintyOptimizer as UncertaintyOptimizer
from qsr.qembed.output import QEmbedOutput as QEmbedOutput
from qsr.qembed.replay import ReplayBuffer as ReplayBuffer
from qsr.qembed.sampler import SenseSampler as SenseSampler
from qsr.qembed.schedules import register_schedule as register_schedule
from qsr.qembed.trainer import QuantumTrainer as QuantumTrainer
