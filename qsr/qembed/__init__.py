"""Quantum embeddings: tokens as superpositions of senses, entangled along the sequence and collapsed by their context."""

from qsr.qembed.entanglement import Bonds as Bonds
from qsr.qembed.entanglement import EntanglementCorrelation as EntanglementCorrelation
