"""qsr: neural quantum states for Rydberg-atom arrays and other spin lattices."""

from typing import TYPE_CHECKING, Any

from qsr.hamiltonians.settings import TFIM as TFIM
from qsr.hamiltonians.settings import Heisenberg as Heisenberg
from qsr.hamiltonians.settings import Pauli as Pauli
from qsr.hamiltonians.settings import Rydberg as Rydberg
from qsr.hparams import ConfigError as ConfigError
from qsr.hparams import Range as Range
from qsr.hparams.imports import allow_import as allow_import
from qsr.hparams.registry import resolve as _resolve
from qsr.jobs import Evaluation as Evaluation
from qsr.jobs import ExactReport as ExactReport
from qsr.jobs import Extrapolation as Extrapolation
from qsr.jobs import Observation as Observation
from qsr.jobs import Run as Run
from qsr.jobs import Scan as Scan
from qsr.jobs import compare as compare
from qsr.jobs import evaluate as evaluate
from qsr.jobs import evaluate_on_data as evaluate_on_data
from qsr.jobs import exact as exact
from qsr.jobs import extrapolate as extrapolate
from qsr.jobs import finetune as finetune
from qsr.jobs import fit as fit
from qsr.jobs import info as info
from qsr.jobs import observe as observe
from qsr.jobs import plot as plot
from qsr.jobs import predict_table as predict_table
from qsr.jobs import report as report
from qsr.jobs import resume as resume
from qsr.jobs import scan as scan
from qsr.jobs import train as train
from qsr.jobs import transfer as transfer
from qsr.lattice import Lattice as Lattice
from qsr.runs import load_model as load_model
from qsr.samplers import LPTF as LPTF
from qsr.samplers import PTF as PTF
from qsr.samplers import RNN as RNN
from qsr.training import Model as Model
from qsr.training import ModelHparams as ModelHparams
from qsr.training import PyTorchData as PyTorchData

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qsr.graph.trainer import Trainer as Trainer
    from qsr.qembed.settings import PatchEmbedding as PatchEmbedding

_LATER = {"PatchEmbedding": "qsr.qembed.settings:PatchEmbedding", "Trainer": "qsr.graph.trainer:Trainer"}


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for."""
    if name in _LATER:
        return _resolve(_LATER[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
