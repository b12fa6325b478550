"""One setting says what a network computes in: base pass and flips alike, undone afterwards, and not for what is reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_cases import build

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import Rydberg
from qsr.runs import RunDirectory
from qsr.samplers import AutoregressiveSampler
from qsr.training import BatchKey, Callback, Trainer
from qsr.training.per_sample import PerSampleGradients
from qsr.training.precision import computing_in

KINDS = ["ptf-2x2-two-layers", "ptf-1", "ptf-4-original", "rnn-gru-2x2", "lptf-2x2-rnn-1", "lptf-2x3-ptf-1x3"]
KINDS += ["ptf-quantum", "rnn-quantum-superposed", "lptf-quantum-ptf"]
BF16 = 2.0**-8  # of a number near one


def switches() -> tuple[Any, ...]:
    backends = torch.backends
    finer = [getattr(part, "fp32_precision", None) for part in (backends.cuda.matmul, *_cudnn_parts())]
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, *finer


def _cudnn_parts() -> list[Any]:
    return [getattr(torch.backends.cudnn, name, None) for name in ("rnn", "conv")]


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("float64", False), ("bf16", False), ("tf32", True)])
def test_the_switches_of_torch_are_set_and_put_back(precision: str, allowed: bool) -> None:
    before = switches()
    with pytest.raises(KeyError), computing_in(precision):
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed  # recurrent networks; on unless it is switched off
        raise KeyError
    assert switches() == before


def small(name: str) -> tuple[AutoregressiveSampler, torch.Tensor]:
    model = build(name, torch.float32, scale=1.0)
    return model, model.sample(16, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("name", KINDS)
def test_flips_are_differences_of_log_probabilities_in_the_same_precision(name: str) -> None:
    model, configs = small(name)
    exact = model.plain_flip_log_prob(configs).detach() - model.log_prob(configs).detach()[:, None]
    with computing_in("bf16", model):
        log_prob, log_ratio = model.flip_log_ratio(configs)
        plain = model.plain_flip_log_prob(configs).detach() - model.log_prob(configs).detach()[:, None]
    assert log_prob.dtype == log_ratio.dtype == torch.float32
    rounding = BF16 * max(1.0, float(exact.abs().max())) * model.num_tokens**0.5
    assert (log_ratio - plain).abs().max() < 4 * rounding
    assert (log_ratio - exact).abs().max() < 4 * rounding
    assert (plain - exact).abs().max() > 1e-6, "bf16 must be seen to act"
    assert torch.equal(model.flip_log_ratio(configs)[0], model.log_prob(configs).detach()) or not model.autocast_dtype
    assert (model.flip_log_ratio(configs)[1] - exact).abs().max() < 1e-4, "what was set before comes back"


@pytest.mark.parametrize("window", [(), (1,), (1, 2)])
def test_windows_work_in_bf16(window: tuple[int, ...]) -> None:
    for name in ("ptf-1", "ptf-2x2-source"):
        model, configs = small(name)
        expected = model.flip_log_ratio(configs, window=window)[1]
        with computing_in("bf16", model):
            found = model.flip_log_ratio(configs, window=window)[1]
        assert (found - expected).abs().max() < 0.1


@pytest.mark.parametrize("name", KINDS)
def test_sampling_energies_and_gradients_in_bf16(name: str) -> None:
    model, _ = small(name)
    problem = Rydberg(Lx=model.lattice.Lx, Ly=model.lattice.Ly).build()
    with computing_in("bf16", model):
        configs, log_prob = model.sample(64, torch.Generator().manual_seed(1))
        assert (log_prob - model.log_prob(configs)).abs().max() < 0.3
        energy = local_energy(model, problem, configs)
        model.log_prob(configs).sum().backward()
        gradients = PerSampleGradients(model, 2**28)
        jacobian = torch.cat([block for _, block in gradients.blocks(configs, BatchKey(0, 0, 0))], dim=1)
    assert energy.values.dtype == torch.float64
    assert (energy.values - local_energy(model, problem, configs).values).abs().mean() < 0.1
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert found.dtype == jacobian.dtype == torch.float32
    assert (jacobian.sum(dim=0) - found).norm() < 0.05 * jacobian.norm(dim=1).sum()


class Watch(Callback):
    """Notes what a training computes in."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.dtype | None, bool]] = []

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.seen.append((trainer.model.autocast_dtype, torch.backends.cudnn.allow_tf32))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "seen"),
    [("float32", (None, False)), ("float64", (None, False)), ("tf32", (None, True)), ("bf16", (torch.bfloat16, False))],
)
@pytest.mark.parametrize("rule", ["Adam", "spring"])
def test_a_run_trains_in_its_precision_and_is_reported_in_float32(
    precision: str, seen: tuple[Any, ...], rule: str, tmp_path: Path
) -> None:
    before, watch = switches(), Watch()
    train = {"L": 16, "K": 32, "steps": 3, "precision": precision, "dir": str(tmp_path), "device": "cpu"}
    run = qsr.train(None, qsr.PTF(patch="2x2", Nh=8), train, optimizer={"name": rule}, callbacks=[watch])
    assert watch.seen == [seen] * 3 and switches() == before
    expected = torch.float64 if precision == "float64" else torch.float32
    assert run.path is not None and run.model.autocast_dtype is None
    assert {tensor.dtype for tensor in RunDirectory(run.path).read_weights().values()} == {expected}
    model = qsr.load_model(run.path)
    configs, _ = model.sample(8)
    assert model.log_prob(configs).dtype == expected
    with computing_in("bf16", run.model):  # also if the caller has it switched on
        found = qsr.evaluate(run, 64, 64).energy.mean
    assert found == qsr.evaluate(run.path, 64, 64, device="cpu").energy.mean
