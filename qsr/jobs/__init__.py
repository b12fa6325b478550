"""The jobs of the command line as plain functions, with the same arguments."""

from qsr.jobs.compare import PICTURE_FILE as COMPARISON  # noqa: F401
from qsr.jobs.compare import Comparison as Comparison
from qsr.jobs.compare import compare as compare
from qsr.jobs.exact import ExactReport as ExactReport
from qsr.jobs.exact import exact as exact
from qsr.jobs.exchange import ImportReport as ImportReport
from qsr.jobs.exchange import export_snapshots as export_snapshots
from qsr.jobs.exchange import import_snapshots as import_snapshots
from qsr.jobs.extrapolate import Extrapolation as Extrapolation
from qsr.jobs.extrapolate import extrapolate as extrapolate
from qsr.jobs.finetune import finetune as finetune
from qsr.jobs.fit import DataEvaluation as DataEvaluation
from qsr.jobs.fit import evaluate_on_data as evaluate_on_data
from qsr.jobs.fit import fit as fit
from qsr.jobs.geometry import GeometryReport as GeometryReport
from qsr.jobs.geometry import hsm_geometry as hsm_geometry
from qsr.jobs.info import RunInfo as RunInfo
from qsr.jobs.info import info as info
from qsr.jobs.load import Evaluation as Evaluation
from qsr.jobs.load import evaluate as evaluate
from qsr.jobs.observe import Observation as Observation
from qsr.jobs.observe import observe as observe
from qsr.jobs.page import report as report
from qsr.jobs.plot import plot as plot
from qsr.jobs.predict import predict_table as predict_table
from qsr.jobs.predict import predicts as predicts
from qsr.jobs.rows import PredictionReport as PredictionReport
from qsr.jobs.run import Run as Run
from qsr.jobs.run import refuse_on_data as refuse_on_data
from qsr.jobs.snapshots import SnapshotReport as SnapshotReport
from qsr.jobs.snapshots import make_snapshots as make_snapshots
from qsr.jobs.train import resume as resume
from qsr.jobs.train import train as train
from qsr.jobs.transfer import transfer as transfer
