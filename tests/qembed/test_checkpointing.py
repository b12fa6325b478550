"""Checkpointing of a whole network, switched on and off."""

import copy

import torch

from qsr.qembed.checkpointing import enable_checkpointing
from tests.qembed.test_layer import IDS
from tests.qembed.test_performance import Classifier, gradients, loss, saved_bytes


def test_checkpointing_of_a_network_can_be_switched() -> None:
    model = Classifier()
    plain, kept = gradients(model, lambda: loss(model)), saved_bytes(model, lambda: loss(model))
    for _ in range(2):
        enable_checkpointing(model)
    assert torch.equal(gradients(model, lambda: loss(model)), plain)
    assert saved_bytes(model, lambda: loss(model)) < kept / 3
    model.embedding.gradient_checkpointing = False
    assert kept / 3 < saved_bytes(model, lambda: loss(model)) < kept  # the encoder has its share
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    assert torch.equal(gradients(copied, lambda: loss(copied)), plain)  # its layers are its own
    for _ in range(2):
        enable_checkpointing(copied, on=False)
    assert saved_bytes(copied, lambda: loss(copied)) == kept
    assert all("forward" not in vars(module) for module in copied.modules())
    enable_checkpointing(copied)
    with torch.no_grad():
        assert torch.equal(copied.eval()(IDS), copied(IDS))


def test_a_model_that_checkpoints_itself_is_asked_to() -> None:
    class Own(Classifier):
        asked: tuple[str, ...] = ()

        def gradient_checkpointing_enable(self) -> None:
            self.asked += ("on",)

        def gradient_checkpointing_disable(self) -> None:
            self.asked += ("off",)

    model = Own()
    enable_checkpointing(model)
    enable_checkpointing(model, on=False)
    assert model.asked == ("on", "off") and not model.embedding.gradient_checkpointing
