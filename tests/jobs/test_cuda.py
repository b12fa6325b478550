"""What a CUDA device computes is what the CPU computes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_cases import CASES, build

import qsr
from qsr.hparams import RunSettings
from qsr.jobs.run import build_model
from qsr.runs import RunDirectory
from qsr.training import BatchKey, VariationalEnergy
from qsr.training.determinism import WORKSPACE_VARIABLE, prepare_determinism
from qsr.training.precision import computing_in

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_flips(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = build(name, dtype)
    configs, _ = model.sample(16, torch.Generator().manual_seed(0))
    log_prob, log_ratio = model.flip_log_ratio(configs)
    with computing_in("float32"):
        found = model.to("cuda").flip_log_ratio(configs.cuda())
    assert (found[0].cpu() - log_prob).abs().max() < tolerance
    assert (found[1].cpu() - log_ratio).abs().max() < tolerance


@pytest.mark.parametrize("name", CASES)
def test_samples_and_their_chunks(name: str) -> None:
    model = build(name).to("cuda")
    drawn = [model.sample(32, torch.Generator("cuda").manual_seed(1), memory_bytes=size) for size in (2**30, 1)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert (model.log_prob(drawn[0][0]) - drawn[0][1]).abs().max() < 1e-10


def test_a_gradient() -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        train = {"K": 32, "flips": "exact", "dir": "<NONE>", "precision": "float64", "device": device}
        tree = {"model": qsr.PTF(patch="2x2", Nh=8), "hamiltonian": qsr.Rydberg(Lx=4, Ly=4), "train": train}
        settings = RunSettings.from_tree(tree)
        model = build_model(settings)
        if not gradients:
            configs, _ = model.sample(32, torch.Generator().manual_seed(0))
        objective = VariationalEnergy(settings.hamiltonian.build(), settings.train)
        same = configs.to(device)  # one set of samples for both
        model.sample = lambda *_, same=same, **__: (same, None)
        [batch], _ = objective.prepare(model, [BatchKey(0, 0, 0)])
        objective.loss(model, batch)[0].backward()
        gradients.append(torch.cat([parameter.grad.cpu().flatten() for parameter in model.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-10


@pytest.mark.parametrize("rule", ["Adam", "spring"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_run_and_its_evaluation_elsewhere(rule: str, precision: str, tmp_path: Path) -> None:
    train: dict[str, Any] = {"L": 16, "K": 64, "steps": 4, "device": "cuda", "precision": precision, "dir": str(tmp_path)}
    run = qsr.train(None, qsr.PTF(patch="2x2", Nh=8), train, optimizer={"name": rule}, checkpoint={"every_n_steps": 2})
    assert run.model.device.type == "cuda" and run.path is not None
    there, here = (qsr.evaluate(run.path, 512, 512, device=device).energy for device in ("cuda", "cpu"))
    assert abs(there.mean - here.mean) < 5 * (there.error**2 + here.error**2) ** 0.5


def test_a_deterministic_run_repeats(tmp_path: Path) -> None:
    """Processes of their own: CUDA reads CUBLAS_WORKSPACE_CONFIG when it starts."""
    env = {name: value for name, value in os.environ.items() if name != WORKSPACE_VARIABLE}
    words = "train --ptf patch=2x2 Nh=16 --rydberg Lx=8 Ly=8 --train K=256 steps=5 device=cuda deterministic=True"
    for folder in ("one", "other"):
        command = [sys.executable, "-m", "qsr", *words.split(), f"dir={tmp_path / folder}"]
        subprocess.run(command, env=env, check=True, capture_output=True)
    one, other = (RunDirectory(file.parent).read_weights() for file in sorted(tmp_path.rglob("settings.json")))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_determinism_comes_too_late_where_cuda_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE_VARIABLE, raising=False)
    torch.zeros(1, device="cuda")
    expected = rf"train\.deterministic=True: CUDA is in use already; export {WORKSPACE_VARIABLE}=:4096:8 before qsr is started"
    with pytest.raises(qsr.ConfigError, match=expected):
        prepare_determinism(True, torch.device("cuda"))
