"""Two real processes of torch.distributed train as one process with twice the batches does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qsr.qembed import QuantumTrainer, UncertaintyOptimizer
from tests.qembed.trainer_cases import loader, network, trainer

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, sys, torch
from torch import nn
from qsr.qembed import QuantumTrainer, UncertaintyOptimizer
from tests.qembed.trainer_cases import loader, network
out, sync, damped = sys.argv[1], sys.argv[2] == "True", sys.argv[3] == "True"
model = network(seed=0 if torch.distributed.is_available() and __import__("os").environ["RANK"] == "0" else 5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if damped:
    optimizer = UncertaintyOptimizer(model.parameters(), uncertainty_threshold=0.3)
config = {"distributed_training": True, "quantum_sync": sync, "entanglement_sync": sync}
trainer = QuantumTrainer(model, optimizer, nn.CrossEntropyLoss(), quantum_training_config=config)
history = trainer.train(loader(80, 16), num_epochs=2)  # five batches: the last step has one
rank = trainer.processes.rank
history.pop("epoch_time")
factor = getattr(optimizer, "rate_factor", 1.0)
torch.save({"history": history, "model": model.state_dict(), "factor": factor}, f"{out}/{rank}.pt")
trainer.save_model(f"{out}/model-{rank}.pth")
torch.distributed.destroy_process_group()
"""


def run(folder: Path, sync: bool, damped: bool = False) -> list[dict]:
    """What each of two processes ended with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(folder), str(sync), str(damped)]
    started = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings, "RANK": str(rank), "PYTHONPATH": str(ROOT)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_are_one_with_twice_the_batches(tmp_path):
    first, second = run(tmp_path, sync=True)
    assert json.dumps(first["history"]) == json.dumps(second["history"])
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert [path.name for path in tmp_path.glob("model-*")] == ["model-0.pth"]
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    alone = QuantumTrainer(model, sgd, torch.nn.CrossEntropyLoss(), quantum_training_config={"gradient_accumulation_steps": 2})
    history = alone.train(loader(80, 16), num_epochs=2)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-5, atol=1e-6)
    for name in ("train_loss", "uncertainty", "superposition_coherence"):
        assert first["history"][name] == pytest.approx(history[name], rel=1e-5)


@pytest.mark.slow
def test_statistics_are_those_of_each_process_unless_they_are_synced(tmp_path):
    first, second = run(tmp_path, sync=False)
    assert first["history"]["train_loss"] == second["history"]["train_loss"]
    assert first["history"]["uncertainty"] != second["history"]["uncertainty"]


@pytest.mark.slow
def test_the_uncertainty_of_the_whole_step_decides_the_rate(tmp_path):
    first, second = run(tmp_path, sync=False, damped=True)
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    model = network()
    optimizer = UncertaintyOptimizer(model.parameters(), uncertainty_threshold=0.3)
    config = {"gradient_accumulation_steps": 2}
    alone = QuantumTrainer(model, optimizer, torch.nn.CrossEntropyLoss(), quantum_training_config=config)
    alone.train(loader(80, 16), num_epochs=2)
    assert first["factor"] == second["factor"] == pytest.approx(optimizer.rate_factor, rel=1e-4)
    # Also of a step of several batches of one process, the last of them smaller.
    rows = loader(40, 24)
    alone.train(rows, num_epochs=1)
    uncertainty = alone.training_history["uncertainty"][-1]
    assert optimizer.rate_factor == pytest.approx(1 - 0.9 * (uncertainty - 0.3) / 0.7, rel=1e-4)


def test_a_single_process_is_told():
    with pytest.warns(UserWarning, match="only process"):
        trainer({"distributed_training": True, "quantum_sync": True, "entanglement_sync": True}).train(loader(), num_epochs=1)
