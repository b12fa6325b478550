"""What tests of the trainer train: a small network, and tokens whose first one says the label."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from qsr.qembed import QuantumOptimizer, QuantumSequenceClassifier, QuantumTrainer
from qsr.qembed.losses import QuantumLoss


def tokens(count: int = 48, length: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (S, L) below 8, and labels (S,): whether the first is at least 4."""
    ids = torch.randint(8, (count, length), generator=torch.Generator().manual_seed(seed))
    return ids, (ids[:, 0] >= 4).long()


def loader(count: int = 48, batch_size: int = 16, seed: int = 0, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tokens(count, seed=seed)), batch_size, shuffle)


def network(seed: int = 0, **settings: Any) -> QuantumSequenceClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return QuantumSequenceClassifier(8, 2, embedding_dim=8, num_states=3, **settings)


def trainer(config: dict[str, Any] | None = None, loss_fn: Any = None, rate: float = 1e-2, **settings: Any) -> QuantumTrainer:
    model = network(**settings)
    loss = QuantumLoss(uncertainty_weight=0.1) if loss_fn is None else loss_fn
    return QuantumTrainer(model, QuantumOptimizer(model.parameters(), lr=rate), loss, quantum_training_config=config)
