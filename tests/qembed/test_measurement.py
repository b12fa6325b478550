"""Trainable measurements stay measurements while they are trained."""

import pytest
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.qembed import POVMMeasurement, ProjectiveMeasurement, VectorMeasurement, WeakMeasurement
from qsr.qembed.functional import density_matrix, unit


def states(count: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(count, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)))


def density(count: int) -> Tensor:
    probs = torch.softmax(torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=-1)
    return density_matrix(probs, torch.stack([states(count, seed) for seed in range(4)], dim=1))


def trained(module: nn.Module, inputs: Tensor) -> nn.Module:
    """After 100 steps towards certainty about the first outcome."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    first = module(inputs)[:, 0].mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        (-module(inputs)[:, 0].mean()).backward()
        optimizer.step()
    assert module(inputs)[:, 0].mean().item() > first + 0.05
    return module


def test_a_trained_povm_is_a_povm() -> None:
    module = trained(POVMMeasurement(3, 5).double(), density(20))
    assert isinstance(module, POVMMeasurement)
    effects = module.effects()
    assert torch.allclose(effects.sum(dim=0), torch.eye(3, dtype=torch.complex128), rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(effects).min().item() > -1e-10
    probs = module(density(20))
    assert torch.allclose(probs.sum(dim=-1), torch.ones(20, dtype=torch.float64)) and probs.min().item() > -1e-12


@pytest.mark.parametrize("kind", ["projective", "vectors"])
def test_trained_vectors_resolve_the_identity(kind: str) -> None:
    fresh = ProjectiveMeasurement(3) if kind == "projective" else VectorMeasurement(3, 6)
    module = trained(fresh.double(), states(20))
    assert isinstance(module, ProjectiveMeasurement | VectorMeasurement)
    vectors = module.vectors()
    assert torch.allclose(vectors.mT @ vectors.conj(), torch.eye(3, dtype=torch.complex128), rtol=0, atol=1e-10)
    assert torch.allclose(module(states(20)).sum(dim=-1), torch.ones(20, dtype=torch.float64))
    single = ProjectiveMeasurement(8).vectors()
    assert torch.allclose(single @ single.mH, torch.eye(8, dtype=torch.complex64), rtol=0, atol=1e-6)


def test_a_weak_measurement_takes_coherence_by_its_strength() -> None:
    module = WeakMeasurement(0.3).double()
    before, after = density(5), WeakMeasurement(0.3).double()(density(5))
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.allclose(after[:, off], 0.7 * before[:, off])
    assert torch.allclose(after.diagonal(dim1=1, dim2=2), before.diagonal(dim1=1, dim2=2))
    kraus = module.kraus(3).to(torch.complex128)
    assert torch.allclose((kraus @ before[:, None] @ kraus.mH).sum(dim=1), after, rtol=0, atol=1e-7)


def test_sizes_that_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strength=1\.5: must be between 0 and 1"):
        WeakMeasurement(1.5)
    with pytest.raises(ConfigError, match="num_measurements=2: must be at least the 3 dimensions"):
        VectorMeasurement(3, 2)
    with pytest.raises(ConfigError, match="POVMMeasurement: sizes must be at least 1"):
        POVMMeasurement(3, 0)
