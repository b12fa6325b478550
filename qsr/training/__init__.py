"""Training: the one Trainer, its objectives, update rules and callbacks, and their settings."""

from qsr.training.callbacks import HistoryWriter as HistoryWriter
from qsr.training.callbacks import ProgressBar as ProgressBar
from qsr.training.callbacks import ProgressLog as ProgressLog
from qsr.training.objectives import TeacherLikelihood as TeacherLikelihood
from qsr.training.objectives import VariationalEnergy as VariationalEnergy
from qsr.training.protocols import BatchKey as BatchKey
from qsr.training.protocols import Callback as Callback
from qsr.training.protocols import Objective as Objective
from qsr.training.protocols import ResidualObjective as ResidualObjective
from qsr.training.protocols import UpdateRule as UpdateRule
from qsr.training.schedule import Stage as Stage
from qsr.training.settings import CheckpointHparams as CheckpointHparams
from qsr.training.settings import GradientClippingHparams as GradientClippingHparams
from qsr.training.settings import OptimizerHparams as OptimizerHparams
from qsr.training.settings import SchedulerHparams as SchedulerHparams
from qsr.training.settings import TrainHparams as TrainHparams
from qsr.training.spring import NaturalGradient as NaturalGradient
from qsr.training.spring import check_natural_gradient as check_natural_gradient
from qsr.training.trainer import Interrupted as Interrupted
from qsr.training.trainer import RunFailed as RunFailed
from qsr.training.trainer import Trainer as Trainer
from qsr.training.update import TorchUpdate as TorchUpdate
from qsr.training.update import update_rule as update_rule
