"""What is measured on samples of a wave function: local energies, observables and error bars."""

from qsr.estimators.local_energy import LocalEnergy as LocalEnergy
from qsr.estimators.local_energy import differentiable_local_energy as differentiable_local_energy
from qsr.estimators.local_energy import leave_one_out as leave_one_out
from qsr.estimators.local_energy import local_energy as local_energy
from qsr.estimators.local_energy import weighted_loss as weighted_loss
from qsr.estimators.observables import Observables as Observables
from qsr.estimators.observables import connected_correlations as connected_correlations
from qsr.estimators.observables import sample_observables as sample_observables
from qsr.estimators.order import Order as Order
from qsr.estimators.order import OrderParameters as OrderParameters
from qsr.estimators.order import reciprocal_grid as reciprocal_grid
from qsr.estimators.posterior import best_accuracy as best_accuracy
from qsr.estimators.posterior import least_squared_error as least_squared_error
from qsr.estimators.posterior import posterior as posterior
from qsr.estimators.posterior import read_probabilities as read_probabilities
from qsr.estimators.posterior import state_probabilities as state_probabilities
from qsr.estimators.statistics import ArrayEstimate as ArrayEstimate
from qsr.estimators.statistics import Estimate as Estimate
from qsr.estimators.statistics import RunningCovariance as RunningCovariance
from qsr.estimators.statistics import RunningMoments as RunningMoments
from qsr.estimators.statistics import mean_and_error as mean_and_error
from qsr.estimators.statistics import v_score as v_score
