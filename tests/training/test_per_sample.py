"""Per-sample gradients against one backward pass for every row, for every sampler and for odd modules."""

from typing import Any

import pytest
import torch
from sampler_cases import CASES, build
from torch import Tensor, nn

import qsr
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.samplers import Sampler
from qsr.training import BatchKey
from qsr.training.per_sample import PerSampleGradients

KEY = BatchKey(0, 0, 0)
AMPLE = 2**30


def some_configs(num_sites: int, rows: int = 11) -> Tensor:
    return torch.randint(0, 2, (rows, num_sites), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def jacobian(model: Any, configs: Tensor, memory_bytes: int = AMPLE) -> Tensor:
    gradients = PerSampleGradients(model, memory_bytes)
    blocks = list(gradients.blocks(configs, KEY))
    assert [columns.start for columns, _ in blocks] == [0, *(columns.stop for columns, _ in blocks[:-1])]
    assert blocks[-1][0].stop == gradients.num_parameters
    return torch.cat([block for _, block in blocks], dim=1)


def row_by_row(model: Any, configs: Tensor) -> Tensor:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for function in [model.log_prob, *([model.phase] if model.has_phase else [])]:
        for config in configs:
            found = torch.autograd.grad(function(config[None]).sum(), parameters, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


class Phased(Sampler):
    """A sampler's log p, and a phase from a small network that also reads one of the sampler's layers."""

    has_phase = True

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside
        self.num_sites = inside.num_sites
        self.angle = nn.Sequential(nn.Linear(self.num_sites, 5), nn.Tanh(), nn.Linear(5, 1))

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.inside.log_prob(configs)

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.angle(configs.to(self.dtype)).squeeze(1)

    def sample(self, num_samples: int, generator: torch.Generator | None = None, context: Any = None) -> tuple[Tensor, Tensor]:
        return self.inside.sample(num_samples, generator)


@pytest.mark.parametrize("name", CASES)
def test_every_sampler_row_by_row(name: str) -> None:
    model = build(name)
    configs = some_configs(model.num_sites)
    expected = row_by_row(model, configs)
    found = jacobian(model, configs)
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = torch.autograd.grad(model.log_prob(configs).sum(), trained, materialize_grads=True)
    assert torch.allclose(found.sum(dim=0), torch.cat([part.flatten() for part in total]), atol=1e-10)


@pytest.mark.parametrize("name", ["rnn-gru-2x2", "ptf-2x2-two-layers", "lptf-of-lptf"])
@pytest.mark.parametrize("memory_bytes", [1, 20_000, 200_000])
def test_little_memory_changes_nothing(name: str, memory_bytes: int) -> None:
    model = build(name)
    configs = some_configs(model.num_sites)
    gradients = PerSampleGradients(model, memory_bytes)
    if memory_bytes == 1:
        assert len(gradients.groups(len(configs))) == len(list(model.parameters()))
        assert len(list(gradients._chunks(len(configs)))) == len(configs)
    assert torch.allclose(jacobian(model, configs, memory_bytes), jacobian(model, configs), atol=1e-12)
    coefficients = torch.linspace(-1, 2, len(configs), dtype=torch.float64)
    found = gradients.weighted_sum(configs, coefficients, KEY)
    assert torch.allclose(found, coefficients @ row_by_row(model, configs), atol=1e-10)


def test_blocks_hold_what_the_memory_allows() -> None:
    gradients = PerSampleGradients(build("ptf-1"), 8 * 10 * 300)  # ten rows of 300 parameters in float64
    groups = gradients.groups(10)
    widths = [sum(gradients.sizes[group.start : group.stop]) for group in groups]
    assert sum(widths) == gradients.num_parameters and 1 < len(groups) < len(gradients.sizes)
    assert all(width <= 300 for width in widths)


@pytest.mark.parametrize("memory_bytes", [AMPLE, 3000])
def test_the_phase_is_a_second_set_of_rows(memory_bytes: int) -> None:
    model = Phased(build("rnn-gru-1")).double()
    configs = some_configs(model.num_sites)
    expected = row_by_row(model, configs)
    assert torch.allclose(jacobian(model, configs, memory_bytes), expected, atol=1e-10)
    coefficients = torch.linspace(-1, 2, 2 * len(configs), dtype=torch.float64)
    found = PerSampleGradients(model, memory_bytes).weighted_sum(configs, coefficients, KEY)
    assert torch.allclose(found, coefficients @ expected, atol=1e-10)


def test_frozen_parameters_are_left_out() -> None:
    model = build("ptf-1")
    model.trunk.layers[0].qkv.weight.requires_grad_(False)
    configs = some_configs(model.num_sites)
    assert torch.allclose(jacobian(model, configs), row_by_row(model, configs), atol=1e-10)


def test_dropout_is_the_same_in_every_block() -> None:
    """The masks of a pass come from the key, so that blocks of columns belong to one and the same function."""
    torch.manual_seed(1)
    model = qsr.PTF(Nh=8, nhead=2, patch=1, dropout=0.3).build(Lattice(2, 3)).double().train()
    configs = some_configs(6)
    whole = PerSampleGradients(model, AMPLE)
    few = PerSampleGradients(model, 8 * len(configs) * 300)
    few._chunks = whole._chunks  # type: ignore[method-assign]  # chunks of rows draw their own masks
    assert len(few.groups(len(configs))) > 2
    [(_, expected)] = whole.blocks(configs, KEY)
    assert torch.equal(torch.cat([block for _, block in few.blocks(configs, KEY)], dim=1), expected)
    coefficients = torch.linspace(-1, 2, len(configs), dtype=torch.float64)
    assert torch.allclose(whole.weighted_sum(configs, coefficients, KEY), coefficients @ expected, atol=1e-10)
    assert not torch.allclose(expected, jacobian(model.eval(), configs), atol=1e-3)


class Odd(Sampler):
    """Whatever a user may write: a module with two kinds of arguments and a name, tied weights, an unused layer."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor([0.3, -0.7, 1.1]))
            self.offset = nn.Parameter(torch.tensor(0.2))

        def forward(self, x: Tensor, power: int, *, mask: Tensor) -> Tensor:
            return (self.slope * x + self.offset).sin() ** power * mask

    def __init__(self) -> None:
        super().__init__()
        self.num_sites = 4
        self.first = nn.Linear(4, 3, bias=False)
        self.second = nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(3, bias=False)
        self.gate = self.Gate()
        self.table = nn.Embedding(2, 3, padding_idx=0)
        self.cell = nn.RNN(3, 3, nonlinearity="relu", batch_first=True, bias=False)
        self.unused = nn.Linear(2, 2)

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        x = configs.to(self.dtype)
        x = self.norm(self.first(x) * self.second(1 - x))
        x = self.gate(x, 2, mask=torch.tensor([1.0, 0.5, 2.0], dtype=self.dtype))
        _, last = self.cell(self.table(configs.long()) + x[:, None])
        return (last[0] * x).sum(dim=1)


def test_odd_modules_row_by_row() -> None:
    torch.manual_seed(0)
    model = Odd().double()
    configs = configurations(4)
    expected = row_by_row(model, configs)
    assert torch.allclose(jacobian(model, configs), expected, atol=1e-12)
    assert torch.allclose(jacobian(model, configs, 1), expected, atol=1e-12)
    position = [name for name, _ in model.named_parameters()].index("unused.weight")
    assert expected[:, sum(p.numel() for p in list(model.parameters())[:position]) :].abs().max() == 0


class Wrong(Sampler):
    """Uses a weight without its layer, mixes the rows of the batch, or has one parameter of its own."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.num_sites = 4
        self.layer = nn.Linear(4, 3)
        self.own = nn.Parameter(torch.ones(3))

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        x = configs.to(self.dtype)
        if self.fault == "own":
            return self.layer(x).tanh() @ self.own
        if self.fault == "weight":
            return self.layer(x).tanh().sum(dim=1) + self.layer.weight.square().sum()
        if self.fault == "shared":
            return self.layer(x[:1]).expand(len(x), -1).sum(dim=1) + x.sum(dim=1)
        return self.layer(x.flip(0)).tanh().sum(dim=1).flip(0)


@pytest.mark.parametrize(
    ("fault", "named"),
    [("own", "that of own"), ("weight", "that of layer.weight"), ("shared", "of Linear"), ("rows", "that of layer.weight")],
)
def test_what_cannot_be_collected_is_refused_by_name(fault: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"^optimizer.name: .*{named}"):
        jacobian(Wrong(fault).double(), some_configs(4))


def test_recurrent_layers_of_other_kinds_are_refused() -> None:
    model = build("rnn-gru-1")
    model.rnn = nn.GRU(1, 8, num_layers=2, batch_first=True).double()
    with pytest.raises(ConfigError, match="of GRU: it must be a single layer"):
        jacobian(model, some_configs(model.num_sites))


def test_weights_that_are_not_finite_are_the_trainers_business() -> None:
    model = build("ptf-1")
    with torch.no_grad():
        model.head[0].weight[0, 0] = torch.nan
    assert jacobian(model, some_configs(model.num_sites)).isnan().any()
