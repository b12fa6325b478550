"""The benchmark of number formats: TF32 is emulated as said, and paired differences are those of the energies."""

from copy import deepcopy

import precision
import pytest
import torch

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import configurations
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model


def test_rounding_to_tf32():
    given = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -(3 + 3 * 2**-11), 0.0, 5e-30])
    found = precision.rounded_to_tf32(given)
    assert found.tolist()[:5] == [1 + 2**-10, 1 + 2**-10, 1.0, -(3 + 2**-9), 0.0]
    assert (found / given - 1)[[0, 1, 2, 3, 5]].abs().max() <= 2**-11
    assert torch.equal(precision.rounded_to_tf32(found), found)


def test_products_are_those_of_rounded_factors_forwards_and_backwards():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((5, 7), (3, 7), (3,)))
    leaf = weight.clone().requires_grad_()
    with precision.emulated_tf32():
        found = torch.nn.functional.linear(x, leaf, bias)
        found.backward(gradient := torch.ones(5, 3) / 3)
        wide = x.double() @ weight.double().T
    rounded = precision.rounded_to_tf32
    assert (found - rounded(x) @ rounded(weight).T - bias).abs().max() < 1e-6
    assert (leaf.grad - rounded(gradient).T @ rounded(x)).abs().max() < 1e-6
    assert torch.equal(wide, x.double() @ weight.double().T)
    assert 1e-5 < (found - torch.nn.functional.linear(x, weight, bias)).abs().max() < 1e-2


def test_attention_is_rounded_too():
    generator = torch.Generator().manual_seed(1)
    query, keys, values = (torch.randn(2, 2, 6, 8, generator=generator) for _ in range(3))
    attention = torch.nn.functional.scaled_dot_product_attention
    exact = attention(query, keys, values, is_causal=True)
    mask = torch.full((6, 6), -torch.inf).triu(1)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with precision.emulated_tf32():
        composed, called = attention(query, keys, values, is_causal=True), fused(query, keys, values, attn_mask=mask)
    for found in (composed, called[0]):
        assert 1e-5 < (found - exact).abs().max() < 1e-2
    assert (called[1] - fused(query, keys, values, attn_mask=mask)[1]).abs().max() < 1e-2


@pytest.mark.parametrize("name", ["bf16", precision.TF32])
def test_paired_differences_are_those_of_the_energies(name):
    """The energy that samples of the format itself would have, against all 64 configurations; 20000 samples, 4 sigma."""
    problem = qsr.Rydberg(Lx=2, Ly=3)
    tree = {"model": qsr.PTF(patch=1, Nh=8, nhead=2), "hamiltonian": problem, "train": {"dir": "<NONE>", "seed": 4}}
    model, hamiltonian = build_model(RunSettings.from_tree(tree)).eval(), problem.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    configs, exact = configurations(6), deepcopy(model).double()
    reference = local_energy(exact, hamiltonian, configs)
    with precision.in_format(name, model):
        other = local_energy(model, hamiltonian, configs)
    weights = reference.log_prob.exp(), other.log_prob.double().exp()
    expected = [float((weight * energy.values).sum()) / 6 for weight, energy in zip(weights, (reference, other), strict=True)]
    bias = float((weights[0] * (other.values - reference.values)).sum()) / 6
    found = precision.paired(model, hamiltonian, 20_000, 20_000)[name]
    assert abs(found.bias - bias) < 4 * found.error and found.deviation > 1e-5
    assert abs(found.own - (expected[1] - expected[0])) < 4 * found.own_error
