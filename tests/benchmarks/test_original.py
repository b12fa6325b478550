"""The baseline of the benchmarks computes the same function as qsr."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import qsr
from qsr.hamiltonians import configurations
from qsr.hparams.presets import preset_values

PATH = Path(__file__).parents[2] / "benchmarks" / "original.py"
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
KINDS = pytest.mark.parametrize("kind", ["ptf", "rnn"])


@pytest.fixture(scope="module")
def original():
    spec = importlib.util.spec_from_file_location("benchmarks_original", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def make(original, kind, dtype, scale=1.5):
    """A model on 4x4 whose weights are scaled up, so that the distribution is far from uniform."""
    width = {"Nh": 16, "dim_feedforward": 32} if kind == "ptf" else {"Nh": 16}
    model = original.nnqsr_model(kind, 4, **width).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


@KINDS
@DTYPES
def test_log_prob_equals_qsr(original, kind, dtype):
    model = make(original, kind, dtype)
    configs, _ = model.sample(64, torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        original.baseline_log_prob(model, configs), model.log_prob(configs).detach(), atol=TOLERANCE[dtype], rtol=0
    )


@KINDS
@DTYPES
@pytest.mark.parametrize("num_loops", [None, 1, 2, 4])
def test_flips_equal_qsr(original, kind, dtype, num_loops):
    model = make(original, kind, dtype)
    configs, _ = model.sample(32, torch.Generator().manual_seed(2))
    flips = original.baseline_flips(model, configs, num_loops)
    torch.testing.assert_close(flips, model.flip_log_prob(configs), atol=TOLERANCE[dtype], rtol=0)


@KINDS
def test_samples_follow_the_distribution(original, kind):
    model = make(original, kind, torch.float64)
    configs, log_prob = original.baseline_sample(model, 4096, torch.Generator().manual_seed(3))
    torch.testing.assert_close(log_prob, model.log_prob(configs).detach(), atol=1e-10, rtol=0)
    every = configurations(16)
    p = model.log_prob(every).detach().exp()
    mean = p @ every.double()
    # Four standard errors of a mean of 4096 zeros and ones, for each of 16 sites.
    bound = 4 * (mean * (1 - mean) / len(configs)).sqrt()
    assert ((configs.double().mean(dim=0) - mean).abs() < bound).all()


def test_only_the_original_architecture_is_taken(original):
    model = qsr.PTF(patch="2x2").build(qsr.Lattice(4, 4))
    with pytest.raises(ValueError, match="preset nnqsr"):
        original.baseline_log_prob(model, model.sample(2)[0])
    model = qsr.PTF(**preset_values("nnqsr")["ptf"]).build(qsr.Lattice(4, 4))
    with pytest.raises(ValueError, match="num_loops=3"):
        original.baseline_flips(model, model.sample(2)[0], num_loops=3)
