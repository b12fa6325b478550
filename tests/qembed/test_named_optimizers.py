"""Optimizers of quantum embeddings by their names, in runs of models on data."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import qsr
from qsr.cli.help import section_table
from qsr.hparams import ConfigError, RunSettings, register_optimizer
from qsr.hparams.imports import dotted_name
from qsr.qembed.optimizers import EntanglementOptimizer, UncertaintyOptimizer
from qsr.training import Model, ModelHparams, OptimizerHparams
from tests.commands import run_qsr
from tests.qembed.trainer_cases import network, tokens


class Classifier(Model[ModelHparams]):
    """A network with quantum embeddings, trained as any model is."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.network = network(entanglement="bell_state", collapse_strategy="soft")

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.network(ids, collapse_probability=1.0).logits
        return logits

    def compute_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.cross_entropy(outputs, targets)}


def fit(folder: Path, name: str, **kwargs: Any) -> Any:
    data = TensorDataset(*tokens()), TensorDataset(*tokens(16, seed=1))
    train = {"dir": str(folder), "max_epochs": 2, "lr": 1e-2}
    return qsr.fit(Classifier({}), data, train, optimizer={"name": name, "kwargs": kwargs})


def test_quantum_parameters_have_a_rate_of_their_own(tmp_path: Path) -> None:
    run = fit(tmp_path, "EntanglementOptimizer", entanglement_lr=0.5, quantum_learning_rate=0.0)
    fresh = Classifier({}).state_dict()
    moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, fresh[name])}
    assert "network.head.weight" in moved and "network.embedding.entanglement.coupling_theta" in moved
    assert not any("sense" in name or "phase" in name or "amplitude" in name for name in moved)
    name = "network.embedding.entanglement.coupling_theta"
    assert abs(run.model.state_dict()[name] - fresh[name]) > 0.1


def settings(optimizer: dict[str, Any]) -> RunSettings:
    return RunSettings.from_tree({"model": {"type": "model", "module_name": dotted_name(Classifier)}, "optimizer": optimizer})


def test_names_in_any_spelling_and_their_arguments() -> None:
    for name in ("QuantumOptimizer", "quantumoptimizer", "qsr.qembed.optimizers.QuantumOptimizer"):
        section = OptimizerHparams(name=name, kwargs={"quantum_learning_rate": 0.1})
        assert (section.name, section.module_name) == ("QuantumOptimizer", "qsr.qembed.optimizers.QuantumOptimizer")
    assert OptimizerHparams(name="AdamW").module_name == "torch.optim.AdamW"
    assert OptimizerHparams.target("UncertaintyOptimizer") is UncertaintyOptimizer
    assert OptimizerHparams.target("EntanglementOptimizer") is EntanglementOptimizer
    typed = OptimizerHparams.parse_text({"name": "UncertaintyOptimizer", "uncertainty_threshold": "0.4", "mode": "boost"})
    assert typed["kwargs"] == {"uncertainty_threshold": 0.4, "mode": "boost"}
    assert settings({"name": "quantumoptimizer"}).optimizer.name == "QuantumOptimizer"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "QuantunOptimizer"}, "optimizer.name=QuantunOptimizer: unknown optimizer; did you mean 'QuantumOptimizer'?"),
        (
            {"name": "QuantumOptimizer", "kwargs": {"quantum_lr": 1.0}},
            "optimizer.quantum_lr: QuantumOptimizer has no such argument; did you mean 'quantum_learning_rate'?",
        ),
        (
            {"name": "UncertaintyOptimizer", "groups": [{"param_name_contains": ["bias"], "params": {"mode": "x"}}]},
            "optimizer.groups.params: UncertaintyOptimizer refuses",
        ),
    ],
)
def test_wrong_names_and_arguments_are_refused(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(optimizer)
    assert str(caught.value).startswith(message)


def test_samplers_do_not_have_them() -> None:
    with pytest.raises(ConfigError, match=r"^optimizer.name=QuantumOptimizer: is for models on data"):
        RunSettings.from_tree({"model": {"type": "ptf"}, "optimizer": {"name": "QuantumOptimizer"}})


def test_help_names_them() -> None:
    assert "QuantumOptimizer, EntanglementOptimizer and UncertaintyOptimizer" in section_table("optimizer")


def test_a_name_is_taken_once() -> None:
    register_optimizer("QuantumOptimizer", "qsr.qembed.optimizers:QuantumOptimizer")
    with pytest.raises(ValueError, match=r"'QuantumOptimizer' is already qsr.qembed.optimizers:QuantumOptimizer"):
        register_optimizer("QuantumOptimizer", "elsewhere:Other")


def test_from_the_command_line(tmp_path: Path) -> None:
    line = (
        "train --train max_epochs=2 dir=runs --hsm hsm_model=general hilbert_space_dims=2"
        " --optimizer name=QuantumOptimizer quantum_learning_rate=1e-3 weight_decay=0.1"
        " --data file=table.csv targets=y"
    )
    rows = [f"{a},{b},{a * b}" for a in range(6) for b in range(6)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,y", *rows]))
    result = run_qsr(*shlex.split(line), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (stored,) = tmp_path.glob("runs/**/settings.json")
    assert '"name": "QuantumOptimizer"' in stored.read_text()
