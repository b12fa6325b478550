import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qsr.hparams import ConfigError
from qsr.qembed import QuantumSequenceClassifier, QuantumTrainer
from tests.qembed.trainer_cases import loader, network, tokens, trainer

EPOCH = ("loss", "quantum_loss", "uncertainty", "entanglement_strength", "superposition_coherence", "task_loss")


def weights(found: QuantumTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in found.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_history_has_an_entry_for_each_epoch_and_is_plain_numbers():
    found = trainer()
    history = found.train(loader(), loader(16, seed=1), num_epochs=3)
    assert {len(values) for values in history.values()} == {3}
    for name in ("train_loss", "val_loss", "uncertainty", "quantum_loss", "val_accuracy", "val_ece", "grad_norm", "lr"):
        assert all(isinstance(value, float) and math.isfinite(value) for value in history[name]), name
    assert json.loads(json.dumps(history)) == history
    found.train(loader(), num_epochs=2)
    assert len(found.training_history["train_loss"]) == 5
    assert math.isnan(found.training_history["val_loss"][-1])
    assert (found.task_id, found.current_epoch, found.global_step) == (1, 2, 15)


def test_it_learns():
    found = trainer({"uncertainty_regularization": 0.0})
    before = found.validate(loader(64, seed=9))
    found.train(loader(256, shuffle=True), num_epochs=12)
    after = found.validate(loader(64, seed=9))
    assert before["accuracy"] < 0.8
    assert after["accuracy"] > 0.98
    assert after["nll"] < 0.3 < before["nll"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"superposition_schedule": "linear"}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"superposition_schedule": "cyclic"}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ({"superposition_schedule": "constant", "collapse_probability": 0.3}, [0.3] * 5),
        ({"superposition_schedule": lambda progress: progress**2}, [0.0, 0.0625, 0.25, 0.5625, 1.0]),
    ],
)
def test_the_schedule_is_what_tokens_collapse_with(config, expected):
    history = trainer(config).train(loader(), num_epochs=5)
    assert history["collapse_probability"] == pytest.approx(expected)


def test_a_schedule_by_steps_moves_within_the_epoch():
    probabilities = []
    found = trainer({"schedule_unit": "step"})
    found.model.embedding.register_forward_pre_hook(lambda module, args: probabilities.append(module.collapse_probability))
    found.train(loader(48, 16), num_epochs=3)  # T = 2 epochs of 3 steps
    assert probabilities == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


def test_an_explicit_probability_wins():
    found = trainer()
    assert found.train_epoch(loader(), epoch=5, collapse_probability=0.25)["collapse_probability"] == 0.25
    assert found.train_epoch(loader(), epoch=5)["collapse_probability"] == 0.5  # of ten epochs
    found.set_epoch(1, num_epochs=5)
    assert found.train_epoch(loader(), epoch=3)["collapse_probability"] == 0.75
    assert found.validate(loader(), collapse_probability=0.0)["loss"] != found.validate(loader())["loss"]


def test_an_epoch_reports_the_documented_numbers():
    metrics = trainer().train_epoch(loader(), epoch=0)
    assert all(isinstance(metrics[name], float) and math.isfinite(metrics[name]) for name in EPOCH)
    assert metrics["loss"] == pytest.approx(metrics["task_loss"] + metrics["quantum_loss"], rel=1e-6)
    validation = trainer().validate(loader())
    assert all(math.isfinite(validation[name]) for name in (*EPOCH, "accuracy", "nll", "ece"))


def test_samples_of_a_smaller_last_batch_weigh_the_same():
    found = trainer({"superposition_schedule": "constant", "collapse_probability": 0.0})
    by_two, whole = found.validate(loader(3, 2)), found.validate(loader(3, 3))
    for name in ("task_loss", "accuracy", "nll", "ece", "uncertainty", "superposition_coherence"):
        assert by_two[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-6), name


def test_couplings_train_only_if_they_are_to():
    frozen = trainer({"entanglement_training": False}, entanglement="bell_state")
    theta = frozen.model.embedding.entanglement.coupling_theta
    before = theta.detach().clone()
    frozen.train(loader(), num_epochs=2)
    assert torch.equal(theta, before)
    assert theta.requires_grad
    moving = trainer({"entanglement_training": True}, entanglement="bell_state")
    history = moving.train(loader(), num_epochs=2)
    assert not torch.equal(moving.model.embedding.entanglement.coupling_theta, before)
    assert history["entanglement_strength"][-1] > 0.1
    # What was frozen is free for whoever comes next.
    frozen.model(next(iter(loader()))[0], collapse_probability=0.0).logits.sum().backward()
    assert theta.grad is not None


def test_the_entanglement_term_is_weighted():
    losses = []
    for weight in (0.0, 1.0):
        config = {"entanglement_weight": weight, "uncertainty_regularization": 0.0, "superposition_schedule": "constant"}
        found = trainer({**config, "collapse_probability": 0.0}, nn.CrossEntropyLoss(), entanglement="bell_state")
        losses.append(found.validate(loader())["quantum_loss"])
        with torch.no_grad():
            bonds = found.model(next(iter(loader(48, 48)))[0], collapse_probability=0.0).bonds
    assert losses[0] == 0
    assert losses[1] == pytest.approx(1 - float(bonds.strength("bell_state")), rel=1e-5)


def test_the_uncertainty_is_drawn_to_its_target():
    ends = {}
    for weight in (0.0, 1.0):
        config = {"uncertainty_regularization": weight, "uncertainty_target": 0.5}
        found = trainer(config, nn.CrossEntropyLoss(), rate=3e-2)
        with torch.no_grad():
            found.model.embedding.amplitude_logits[:, 0] += 4  # sure of its senses
        ends[weight] = found.train(loader(), num_epochs=20)["uncertainty"][-1]
    assert abs(ends[1.0] - 0.5) < 0.5 * abs(ends[0.0] - 0.5)


def test_seeds_decide_everything():
    histories = [trainer({"seed": seed}).train(loader(shuffle=True), num_epochs=2)["train_loss"] for seed in (0, 0, 1)]
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_validation_repeats_itself_and_changes_nothing():
    found = trainer(dropout=0.5)
    found.model.train()
    before, state = weights(found), torch.get_rng_state()
    first = found.validate(loader(shuffle=True))
    assert found.validate(loader(shuffle=True)) == first
    assert same(before, weights(found))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.model.training


def test_accumulated_batches_are_one_large_batch():
    found = []
    for batches, size in ((3, 16), (1, 48)):
        model = network()
        config = {"gradient_accumulation_steps": batches, "superposition_schedule": "constant", "collapse_probability": 0.0}
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        found.append(QuantumTrainer(model, sgd, nn.CrossEntropyLoss(), quantum_training_config=config))
        found[-1].train(loader(48, size), num_epochs=1)
        assert found[-1].global_step == 1
    for name, value in weights(found[1]).items():
        torch.testing.assert_close(weights(found[0])[name], value, rtol=1e-5, atol=1e-6)


def test_it_stops_early_and_keeps_the_best(tmp_path):
    found = trainer(rate=0.0)
    path = tmp_path / "new" / "best.pth"
    found.train(loader(), loader(16, seed=1), 9, early_stopping_patience=1, save_best_model=True, model_save_path=path)
    assert (found.stopped_epoch, found.best_epoch, found.current_epoch) == (1, 0, 2)
    assert path.is_file()
    with pytest.warns(UserWarning, match="different collapse probabilities"):
        found.train(loader(), num_epochs=1, save_best_model=True, model_save_path=path)


def test_a_callback_of_epochs_ends_it():
    seen = []
    found = trainer()
    found.train(loader(), num_epochs=5, epoch_callback=lambda epoch, row: seen.append((epoch, row["train_loss"])) or epoch == 1)
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert found.stopped_epoch == 1


def test_a_saved_trainer_goes_on_where_it_was(tmp_path):
    whole, part = trainer(dropout=0.1), trainer(dropout=0.1)
    expected = whole.train(loader(shuffle=True), num_epochs=4)
    part.train(loader(shuffle=True), num_epochs=4, epoch_callback=lambda epoch, row: epoch == 1)
    part.save_model(tmp_path / "half.pt")
    fresh = trainer({"superposition_schedule": "linear"}, dropout=0.1)
    assert fresh.load_model(tmp_path / "half.pt") == part.quantum_config
    found = fresh.train(loader(shuffle=True), num_epochs=4, first_epoch=2)
    assert found["train_loss"] == expected["train_loss"][2:]
    assert same(weights(whole), weights(fresh))
    assert fresh.training_history["train_loss"] == expected["train_loss"]


def test_files_that_cannot_be_used_say_why(tmp_path):
    found = trainer()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        found.load_model(tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"must end in \.pth or \.pt"):
        found.save_model(tmp_path / "model.bin")
    found.save_model(tmp_path / "model.pth", include_optimizer=False)
    other = trainer(num_layers=2)
    with pytest.raises(RuntimeError, match=r"weights of another model \(missing: layers\.1"):
        other.load_model(tmp_path / "model.pth")
    other.load_model(tmp_path / "model.pth", strict=False)
    assert torch.equal(other.model.head.weight, found.model.head.weight)
    content = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeError, match="damaged"):
        found.load_model(tmp_path / "model.pth")
    for state in ({}, {"model": 3}, {"model": {"a": 1}}, {"model": found.model.state_dict(), "evaluation_probability": "x"}):
        torch.save({"format_version": 1, **state}, tmp_path / "other.pth")
        with pytest.raises(ConfigError, match=r"other\.pth"):
            found.load_model(tmp_path / "other.pth", strict=False)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_hostile_file_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 1, "model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(RuntimeError, match="damaged, or not ours: it asks for"):
        trainer().load_model("evil.pth")
    assert not Path("executed").exists()


class LogitsOnly(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.table = nn.Embedding(8, 2)

    def forward(self, input_ids):
        logits = self.table(input_ids).mean(dim=1)
        return {"tensor": logits, "tuple": (logits, None), "dict": {"logits": logits}}[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_networks_without_quantum_embeddings_are_trained_too(form):
    model = LogitsOnly(form)
    found = QuantumTrainer(model, torch.optim.SGD(model.parameters(), lr=1.0), nn.CrossEntropyLoss())
    history = found.train(loader(), loader(16, seed=1), num_epochs=20)
    assert history["train_loss"][-1] < 0.8 * history["train_loss"][0]
    assert history["quantum_loss"] == [0.0] * 20
    assert 0 < history["uncertainty"][-1] < 1
    assert history["entanglement_strength"] == [0.0] * 20


def test_a_loss_of_the_network_itself():
    model = network()
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in loader()]
    found = QuantumTrainer(model, torch.optim.Adam(model.parameters(), lr=1e-2), None)
    history = found.train(rows, num_epochs=4)
    assert history["train_loss"][-1] < history["train_loss"][0]


def test_loss_of_the_loss_function_counts_and_not_the_networks():
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in loader()]
    config = {"superposition_schedule": "constant", "collapse_probability": 0.0, "uncertainty_regularization": 0.0}
    doubled = trainer(config, lambda logits, labels: 2 * nn.functional.cross_entropy(logits, labels))
    single = trainer(config, nn.CrossEntropyLoss())
    assert doubled.validate(rows)["loss"] == pytest.approx(2 * single.validate(rows)["loss"], rel=1e-6)


def test_numbers_as_targets_have_no_accuracy():
    model = nn.Sequential(nn.Linear(3, 1))
    data = DataLoader(TensorDataset(torch.randn(8, 3), torch.randn(8, 1)), 4)
    found = QuantumTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    history = found.train(data, data, num_epochs=2)
    assert math.isnan(history["val_accuracy"][0])
    assert history["val_loss"][1] < history["val_loss"][0]


def test_a_step_is_the_loss_alone():
    found = trainer()
    before = weights(found)
    loss = found.training_step(next(iter(loader())), 0)
    assert loss.requires_grad and loss.dim() == 0
    assert found.last_metrics["loss"] == pytest.approx(float(loss.detach()))
    assert all(parameter.grad is None for parameter in found.model.parameters())
    assert same(before, weights(found))


def test_an_optimizer_that_misses_parameters_is_noticed():
    model = network()
    with pytest.warns(UserWarning, match="does not train positions"):
        QuantumTrainer(model, torch.optim.SGD([model.head.weight], lr=0.1), nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_epochs": 0}, "num_epochs=0"),
        ({"num_epochs": True}, "num_epochs=True"),
        ({"early_stopping_patience": 0}, "early_stopping_patience=0"),
        ({"first_epoch": 10}, "first_epoch=10"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer().train(loader(), **arguments)


def test_other_refusals():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        QuantumTrainer(lambda ids: ids, None, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="no batch"):
        trainer().train([])
    with pytest.raises(ValueError, match="no val_dataloader"):
        trainer({"monitor": "val_accuracy"}).train(loader(), num_epochs=1)
    with pytest.raises(ValueError, match="batch: has ids, mask; the model takes attention_mask"):
        trainer().validate([{"ids": tokens()[0], "mask": tokens()[0], "labels": tokens()[1]}])
    with pytest.raises(ValueError, match="has no labels"):
        trainer(loss_fn=nn.CrossEntropyLoss()).validate([(tokens()[0],)])
    with pytest.raises(RuntimeError, match=r"training/loss=nan.* after 3 rewinds"):
        trainer(loss_fn=lambda logits, labels: math.nan * logits.sum()).train(loader(), num_epochs=1)


def test_a_sequence_of_one_token_and_a_batch_of_one():
    ids = torch.tensor([[3]])
    found = trainer(entanglement="bell_state")
    history = found.train(DataLoader(TensorDataset(ids, torch.tensor([1])), 1), num_epochs=2)
    assert all(math.isfinite(value) for value in history["train_loss"])
    assert history["entanglement_strength"] == [0.0, 0.0]


def test_labels_that_are_all_left_out_cost_nothing():
    from qsr.qembed import QuantumMaskedLM

    torch.manual_seed(0)
    model = QuantumMaskedLM(8, embedding_dim=8, num_states=2)
    found = QuantumTrainer(model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss())
    labels = torch.full((4, 3), -100)
    metrics = found.validate([(torch.zeros(4, 3, dtype=torch.long), labels)])
    assert metrics["task_loss"] == 0
    assert math.isnan(metrics["accuracy"])


def test_a_model_of_one_sense_trains_as_plain_embeddings_do():
    model = QuantumSequenceClassifier(8, 2, embedding_dim=8, num_states=1)
    found = QuantumTrainer(model, torch.optim.Adam(model.parameters(), lr=1e-2), nn.CrossEntropyLoss())
    history = found.train(loader(), num_epochs=3)
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert history["uncertainty"] == [0.0] * 3


def test_predictions_average_over_sampled_collapses():
    config = {"superposition_schedule": "constant", "collapse_probability": 1.0}
    found = trainer(config)
    found.train(loader(), num_epochs=2)
    single, many = found.predict(loader(20, 8)), found.predict(loader(20, 8), num_samples=16)
    for name, shape in (("probs", (20, 2)), ("predictions", (20,)), ("total_entropy", (20,)), ("uncertainty", (20,))):
        assert single[name].shape == many[name].shape == shape
    torch.testing.assert_close(many["probs"].sum(dim=1), torch.ones(20))
    assert float(single["mutual_information"].abs().max()) < 1e-6
    assert float(many["mutual_information"].mean()) > 1e-3
    torch.testing.assert_close(many["total_entropy"], many["aleatoric"] + many["mutual_information"])
    again = found.predict(loader(20, 8), num_samples=16)
    assert torch.equal(again["probs"], many["probs"])
    parallel = trainer({**config, "quantum_parallel": True})
    parallel.model.load_state_dict(found.model.state_dict())
    torch.testing.assert_close(parallel.predict(loader(20, 8), num_samples=16)["probs"], many["probs"])
    assert not torch.equal(found.predict(loader(20, 8), num_samples=16, seed=1)["probs"], many["probs"])
    # One batch, without labels, of a network in its training mode.
    found.model.train()
    torch.testing.assert_close(found.predict(tokens(20)[0])["probs"], single["probs"])
    assert found.model.training


def test_samples_agree_with_the_mean_over_all_outcomes():
    """One token with three senses: the network's probabilities, averaged with those of the senses, are what sampling tends to."""
    found = trainer({"superposition_schedule": "constant", "collapse_probability": 1.0})
    ids = torch.tensor([[5]])
    model = found.model.eval()
    with torch.no_grad():
        senses = model.embedding(ids, collapse=False)
        given = []
        for k in range(3):
            edges = senses.probs[0, 0].cumsum(dim=0)
            uniform = (edges[k] - 0.5 * senses.probs[0, 0, k]).view(1, 1)
            noise = (torch.zeros(1, 1), uniform)
            given.append(model(ids, collapse_probability=1.0, noise=noise, sample=True).logits.softmax(dim=-1)[0])
        exact = senses.probs[0, 0] @ torch.stack(given)
        variance = senses.probs[0, 0] @ (torch.stack(given) - exact).square()
    sampled = found.predict(ids, num_samples=4000)["probs"][0]
    assert bool(((sampled - exact).abs() < 4 * (variance / 4000).sqrt() + 1e-6).all())  # 4 sigma
