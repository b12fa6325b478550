"""A training that is saved, loaded and continued knows what came before it: the best model, and how long ago that was."""

import pytest

from tests.qembed.trainer_cases import loader, trainer


def test_the_best_model_of_a_resumed_training_is_that_of_all_its_epochs(tmp_path):
    whole, first, second = trainer(rate=0.3), trainer(rate=0.3), trainer(rate=0.3)
    kept = {"save_best_model": True, "model_save_path": tmp_path / "best.pth"}
    losses = whole.train(loader(), loader(seed=1), num_epochs=6)["val_loss"]
    half = min(range(5), key=lambda epoch: losses[epoch]) + 1  # the best epoch of all but the last is done before the break
    first.train(loader(), loader(seed=1), num_epochs=6, epoch_callback=lambda epoch, row: epoch + 1 == half, **kept)
    first.save_model(tmp_path / "last.pth")
    second.load_model(tmp_path / "last.pth")
    later = second.train(loader(), loader(seed=1), num_epochs=6, first_epoch=half, **kept)["val_loss"]
    assert later == losses[half:] and later[0] > min(losses)
    assert (second.best_metric, second.best_epoch) == (whole.best_metric, whole.best_epoch)
    assert second.task_id == whole.task_id == 0
    best = trainer()
    best.load_model(tmp_path / "best.pth")
    assert best.validate(loader(seed=1))["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_patience_counts_epochs_before_the_break(tmp_path):
    data = loader(), loader(seed=1)
    whole, first, second = trainer(rate=0.3), trainer(rate=0.3), trainer(rate=0.3)
    epochs = len(whole.train(*data, num_epochs=20, early_stopping_patience=2)["val_loss"])
    assert 2 < epochs < 20
    first.train(*data, num_epochs=20, epoch_callback=lambda epoch, row: epoch + 2 == epochs)
    first.save_model(tmp_path / "last.pth")
    second.load_model(tmp_path / "last.pth")
    later = second.train(*data, num_epochs=20, first_epoch=epochs - 1, early_stopping_patience=2)
    assert len(later["val_loss"]) == 1 and second.stopped_epoch == whole.stopped_epoch == epochs - 1
