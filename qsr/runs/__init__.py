"""Run directories: what a run leaves on disk, how it is written safely, and how it is read back."""

from qsr.runs.directory import Checkpoint as Checkpoint
from qsr.runs.directory import RunDirectory as RunDirectory
from qsr.runs.files import replacing as replacing
from qsr.runs.files import replacing_directory as replacing_directory
from qsr.runs.files import write_atomically as write_atomically
from qsr.runs.history import History as History
from qsr.runs.history import same_history as same_history
from qsr.runs.load import StoredRun as StoredRun
from qsr.runs.load import bounded_by as bounded_by
from qsr.runs.load import fit_weights as fit_weights
from qsr.runs.load import load_model as load_model
from qsr.runs.load import read_run as read_run
from qsr.runs.load import restore_model as restore_model
from qsr.runs.nnqsr import convert_settings as convert_settings
from qsr.runs.nnqsr import convert_weights as convert_weights
from qsr.runs.nnqsr import is_nnqsr as is_nnqsr
from qsr.runs.torchscript import read_archive as read_archive
from qsr.runs.weights import read_metadata as read_metadata
from qsr.runs.weights import read_weights as read_weights
from qsr.runs.weights import save_weights as save_weights
