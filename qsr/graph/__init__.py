"""Graph networks on lattice snapshots: data from files, models from settings, with the layers of torch_geometric (the extra
`graph`)."""

from qsr.graph.blocks import GNNBlock as GNNBlock
from qsr.graph.blocks import LinearSequential as LinearSequential
from qsr.graph.blocks import SkipConnection as SkipConnection
from qsr.graph.data import GraphDataset as GraphDataset
from qsr.graph.edges import radius_edges as radius_edges
from qsr.graph.model import GNNModel as GNNModel
from qsr.graph.model import apply_model as apply_model
from qsr.graph.sequential import Sequential as Sequential
from qsr.graph.settings import GNNModelHparams as GNNModelHparams
from qsr.graph.snapshots import SnapshotReader as SnapshotReader
from qsr.graph.trainer import Trainer as Trainer
