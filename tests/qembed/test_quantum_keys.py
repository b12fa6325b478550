"""Each key of the configuration does what it says, and keys of performance change no result."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qsr.qembed import QuantumConfig, QuantumOptimizer, QuantumTrainer, UncertaintyOptimizer
from tests.qembed.trainer_cases import loader, network, tokens, trainer

STILL = {"superposition_schedule": "constant", "collapse_probability": 0.0, "uncertainty_regularization": 0.0}
HALF = {"superposition_schedule": "constant", "collapse_probability": 0.5}


def step_of(config, scale=1.0, **settings):
    """How far one step of SGD with rate 1 moves quantum and classical parameters, by name."""
    model = network(**settings)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = QuantumTrainer(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        lambda logits, labels: scale * nn.functional.cross_entropy(logits, labels),
        quantum_training_config={**STILL, **config},
    )
    metrics = found.train_epoch(loader(16, 16))
    moved = {name: value.detach() - before[name] for name, value in model.named_parameters()}
    quantum = {name: value for name, value in moved.items() if hasattr(dict(model.named_parameters())[name], "_qrole")}
    return metrics, quantum, {name: value for name, value in moved.items() if name not in quantum}


def norm(moved):
    return math.sqrt(sum(float(value.square().sum()) for value in moved.values()))


def test_no_clipping_by_default():
    metrics, quantum, classical = step_of({}, scale=100.0)
    assert metrics["quantum_grad_norm"] == pytest.approx(norm(quantum), rel=1e-4) != pytest.approx(1.0)
    assert metrics["grad_norm"] == pytest.approx(math.hypot(norm(quantum), norm(classical)), rel=1e-4)


def test_the_whole_gradient_is_clipped():
    config = {"quantum_gradient_clipping": True, "max_quantum_grad_norm": 0.5}
    metrics, quantum, classical = step_of(config, scale=100.0)
    assert math.hypot(norm(quantum), norm(classical)) == pytest.approx(0.5, rel=1e-4)
    assert metrics["grad_norm"] > 5  # what it was before


def test_quantum_parameters_are_clipped_alone():
    config = {"quantum_gradient_clipping": True, "max_quantum_grad_norm": 0.5, "separate_clipping": True}
    free, _, untouched = step_of({}, scale=100.0)
    metrics, quantum, classical = step_of(config, scale=100.0)
    assert norm(quantum) == pytest.approx(0.5, rel=1e-4)
    assert all(torch.equal(value, untouched[name]) for name, value in classical.items())
    assert metrics["grad_norm"] == pytest.approx(free["grad_norm"], rel=1e-5)
    _, quantum, classical = step_of({**config, "max_grad_norm": 0.25}, scale=100.0)
    assert (norm(quantum), norm(classical)) == (pytest.approx(0.5, rel=1e-4), pytest.approx(0.25, rel=1e-4))


def test_a_bound_without_clipping_is_for_all():
    _, quantum, classical = step_of({"max_grad_norm": 0.25}, scale=100.0)
    assert math.hypot(norm(quantum), norm(classical)) == pytest.approx(0.25, rel=1e-4)


def test_mixed_precision_rounds_the_network_and_not_the_senses():
    seen = {}
    losses = []
    for value in (False, True):
        found = trainer({**HALF, "mixed_precision": value}, entanglement="bell_state")
        found.model.head.register_forward_hook(lambda module, args, out: seen.update(head=out.dtype))
        found.model.embedding.register_forward_hook(lambda module, args, out: seen.update(probs=out.probs.dtype))
        losses.append(found.train(loader(), num_epochs=1)["train_loss"][0])
        assert seen["head"] == (torch.bfloat16 if value else torch.float32)
        assert seen["probs"] == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize(
    ("key", "value", "exactly"),
    [
        ("gradient_checkpointing", True, False),
        ("quantum_memory_efficient", True, False),
        ("entanglement_optimization", "dense", False),
        ("collapse_optimization", "sequential", True),
    ],
)
def test_keys_of_performance_change_no_result(key, value, exactly):
    settings = {"entanglement": "custom", "entanglement_pairs": "all" if key == "entanglement_optimization" else "chain"}
    histories = []
    for config in (HALF, {**HALF, key: value}):
        history = trainer(config, dropout=0.1, **settings).train(loader(), loader(16, seed=1), num_epochs=2)
        histories.append([*history["train_loss"], *history["val_loss"], *history["uncertainty"]])
    assert histories[0] == (histories[1] if exactly else pytest.approx(histories[1], rel=1e-4))


def tasks():
    """Two tasks, one after the other: ids below 4 have the labels 0 and 1, others 2 and 3."""
    ids, _ = tokens(400)
    first = ids % 4
    labels = (first[:, 0] >= 2).long()
    return [DataLoader(TensorDataset(first + 4 * number, labels + 2 * number), 16, shuffle=True) for number in (0, 1)]


def forgotten(config):
    """Accuracy on the first task after the second one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = type(network())(8, 4, embedding_dim=8, num_states=3)
    found = QuantumTrainer(model, QuantumOptimizer(model, lr=1e-2), nn.CrossEntropyLoss(), quantum_training_config=config)
    one, two = tasks()
    found.train(one, num_epochs=6)
    learnt = found.validate(one)["accuracy"]
    history = found.train(two, num_epochs=6)
    return learnt, found.validate(one)["accuracy"], found.validate(two)["accuracy"], history["replay_loss"]


@pytest.mark.slow
def test_replay_keeps_what_was_learnt():
    learnt, lost, _, silent = forgotten({"uncertainty_regularization": 0.0})
    assert silent == [0.0] * 6
    kept, remembered, new, replayed = forgotten({"uncertainty_regularization": 0.0, "quantum_memory_replay": True})
    assert min(learnt, kept, new) > 0.95
    assert remembered > lost + 0.3
    assert all(value > 0 for value in replayed)


def test_losses_of_ones_own_are_replayed_as_they_are():
    class OfOutputs(nn.Module):
        def forward(self, outputs, labels, uncertainty=None):
            return nn.functional.cross_entropy(outputs.logits, labels) + 0 * uncertainty.mean()

    config = {"quantum_memory_replay": True, "replay_batch_size": 8}
    known = trainer(config, nn.CrossEntropyLoss()).train(loader(), num_epochs=2)["replay_loss"]
    assert trainer(config, OfOutputs()).train(loader(), num_epochs=2)["replay_loss"] == known and known[1] > 0


def test_columns_that_are_no_tensors_are_not_replayed():
    config = {"quantum_memory_replay": True}
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in loader()]
    named = [{**row, "names": ["a"] * len(row["labels"])} for row in rows]
    assert trainer(config).train(named, num_epochs=2)["train_loss"] == trainer(config).train(rows, num_epochs=2)["train_loss"]


def test_a_line_search_cannot_replay():
    model = network()
    found = QuantumTrainer(
        model,
        torch.optim.LBFGS(model.parameters()),
        nn.CrossEntropyLoss(),
        quantum_training_config={"quantum_memory_replay": True},
    )
    with pytest.raises(ValueError, match="quantum_memory_replay=True: not with LBFGS"):
        found.train(loader(), num_epochs=1)


def test_evaluations_before_any_training_have_the_end_of_the_schedule():
    ends = {"linear": (1.0, {"schedule_epochs": 5}), "cyclic": (0.0, {"schedule_period": 3.0}), "constant": (0.5, {})}
    for kind, (end, keys) in ends.items():
        config = {"superposition_schedule": kind, **keys}
        assert float(trainer(config).learner.evaluation_probability) == pytest.approx(end, abs=1e-6)


def test_replayed_samples_are_saved_with_the_trainer(tmp_path):
    config = {"quantum_memory_replay": True, "replay_buffer_size": 10}
    found = trainer(config)
    found.train(loader(), num_epochs=1)
    assert len(found.learner.replay) == 10
    found.save_model(tmp_path / "model.pth")
    again = trainer(config)
    again.load_model(tmp_path / "model.pth")
    assert torch.equal(again.learner.replay.draw(5).logits, found.learner.replay.draw(5).logits)


def test_uncertainty_slows_its_optimizer_down():
    moved = []
    for threshold in (0.999, 1e-3):
        model = network()
        before = model.head.weight.detach().clone()
        optimizer = UncertaintyOptimizer(model.parameters(), lr=1e-2, uncertainty_threshold=threshold)
        QuantumTrainer(model, optimizer, nn.CrossEntropyLoss()).train(loader(16, 16), num_epochs=1)
        moved.append(float((model.head.weight - before).abs().max().detach()))
    assert moved[1] < 0.3 * moved[0]  # its senses are about 0.9 uncertain: 1 - 0.9 * 0.9 = 0.19


def test_the_strategy_is_put_on_the_embeddings():
    found = trainer({"collapse_strategy": "argmax"})
    assert found.model.embedding.collapse_strategy == "argmax"
    assert trainer().model.embedding.collapse_strategy == "context_aware"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"superposition_shedule": "linear"}, "unknown setting; did you mean 'superposition_schedule'"),
        ({"superposition_schedule": "liner"}, "superposition_schedule='liner'"),
        ({"superposition_schedule": lambda progress: 2.0}, "gave 2.0"),
        ({"uncertainty_regularization": -0.1}, "uncertainty_regularization=-0.1: must be at least 0"),
        ({"uncertainty_regularization": True}, "uncertainty_regularization=True: must be a number"),
        ({"uncertainty_regularization": math.nan}, "uncertainty_regularization=nan"),
        ({"entanglement_training": "no idea"}, "entanglement_training=no idea"),
        ({"collapse_strategy": "greedy"}, "collapse_strategy=greedy"),
        ({"quantum_gradient_clipping": True, "max_quantum_grad_norm": 0.0}, "max_quantum_grad_norm=0.0: must be larger than 0"),
        ({"quantum_gradient_clipping": True, "max_quantum_grad_norm": math.inf}, "max_quantum_grad_norm=inf"),
        ({"entanglement_optimization": "spars"}, "entanglement_optimization=spars"),
        ({"collapse_optimization": "loop"}, "collapse_optimization=loop"),
        ({"mixed_precision": "fp16"}, "mixed_precision=fp16: gradients of float16 need scaling"),
        ({"replay_buffer_size": 0}, "replay_buffer_size=0: must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
    ],
)
def test_keys_that_cannot_be_used_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        trainer(config).train(loader(), num_epochs=1)


def test_unknown_keys_may_be_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="superposition_shedule: unknown"):
        found = QuantumConfig.from_dict({"superposition_shedule": "linear", "seed": 3}, strict=False)
    assert found.seed == 3
    assert QuantumConfig.from_dict(found.to_dict()) == found


def test_a_bound_that_means_nothing_is_noticed():
    with pytest.warns(UserWarning, match="means nothing without quantum_gradient_clipping"):
        QuantumConfig.from_dict({"max_quantum_grad_norm": 2.0})
