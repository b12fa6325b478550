"""`QuantumTrainer` beside other frameworks: arguments and losses of Hugging Face's Trainer, Lightning's Trainer, Ray's reports.

Nothing of those packages is imported before it is used: their arguments are read by the names of their attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, default_collate

from qsr.hparams import ConfigError
from qsr.qembed.config import NO_FLOAT16, QuantumConfig
from qsr.qembed.losses import observed_loss
from qsr.qembed.metrics import IGNORED
from qsr.qembed.optimizers import QuantumOptimizer, UncertaintyOptimizer
from qsr.qembed.update import clip_by_role
from qsr.training.lightning import adapter_class

if TYPE_CHECKING:
    from qsr.qembed.trainer import QuantumTrainer

SCHEDULES = ("linear", "constant", "constant_with_warmup")
# Settings that Lightning's Trainer has itself -> what they are called there.
_OF_LIGHTNING = {
    "mixed_precision": "precision='bf16-mixed'",
    "gradient_accumulation_steps": "accumulate_grad_batches",
    "distributed_training": "devices and strategy",
}

# --- transformers -----------------------------------------------------------------------------------------------------


class HfArguments:
    """Arguments as `transformers.TrainingArguments` has them, by the same names; those that are absent have its defaults.

    Args:
        args: any object with such attributes.

    Raises:
        ConfigError: for what a `QuantumTrainer` cannot do.
    """

    def __init__(self, args: Any) -> None:
        self._args = args
        epochs = self("num_train_epochs", 3)
        if epochs != int(epochs) or epochs < 1:
            raise ConfigError(f"num_train_epochs={epochs}: must be a whole number of at least 1")
        self.epochs = int(epochs)
        if self("max_steps", -1) > 0:
            raise ConfigError(f"max_steps={self('max_steps', -1)}: training goes by epochs; set num_train_epochs")
        if self("fp16", False):
            raise ConfigError(f"fp16=True: {NO_FLOAT16}, set bf16")
        if self("label_smoothing_factor", 0.0):
            raise ConfigError(f"label_smoothing_factor={self('label_smoothing_factor', 0.0)}: belongs into loss_fn here")
        self.schedule = str(self("lr_scheduler_type", "linear"))
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"lr_scheduler_type={self.schedule}: must be one of {', '.join(SCHEDULES)}")
        self.best_metric = str(self("metric_for_best_model", "loss")).removeprefix("eval_")
        greater = self("greater_is_better", self.best_metric == "accuracy")
        if self.saves_best and greater != (self.best_metric == "accuracy"):
            raise ConfigError(f"greater_is_better={greater}: metric_for_best_model={self.best_metric} goes the other way")

    def __call__(self, name: str, default: Any) -> Any:
        """An argument; None is absence, and an enumeration is what its member means."""
        found = getattr(self._args, name, None)
        return default if found is None else getattr(found, "value", found)

    @property
    def saves_best(self) -> bool:
        """Whether the best model is kept."""
        return bool(self("load_best_model_at_end", False) or self("save_strategy", "steps") == "best")

    def config(self) -> dict[str, Any]:
        """The keys of `QuantumConfig` that they decide."""
        return {
            "max_grad_norm": self("max_grad_norm", 1.0) or None,
            "gradient_accumulation_steps": self("gradient_accumulation_steps", 1),
            "mixed_precision": bool(self("bf16", False)),
            "gradient_checkpointing": bool(self("activation_checkpointing", self("gradient_checkpointing", False))),
            "seed": self("seed", 42),
            **({"monitor": f"validation/{self.best_metric}"} if self.saves_best and self.best_metric != "loss" else {}),
        }

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with one rate for all parameters of the model; quantum ones do not decay.

        Raises:
            ConfigError: if `optim` asks for another one.
        """
        kind = str(self("optim", "adamw_torch"))
        if not kind.startswith("adamw_torch"):
            raise ConfigError(f"optim={kind}: must be adamw_torch; give any other one as optimizer")
        betas = self("adam_beta1", 0.9), self("adam_beta2", 0.999)
        decay, eps = self("weight_decay", 0.0), self("adam_epsilon", 1e-8)
        return QuantumOptimizer(model, self("learning_rate", 5e-5), betas=betas, eps=eps, weight_decay=decay)

    def rate_factor(self, steps: int) -> Callable[[int], float]:
        """What the learning rate is multiplied by in each of so many steps."""
        asked = self("warmup_steps", 0) or self("warmup_ratio", 0.0)
        warmup = math.ceil(steps * asked) if asked < 1 else int(asked)
        schedule = self.schedule

        def factor(step: int) -> float:
            if schedule == "constant":
                return 1.0
            if step < warmup:
                return step / warmup
            return 1.0 if schedule == "constant_with_warmup" else max(0.0, (steps - step) / max(1, steps - warmup))

        return factor

    def loader(self, name: str, dataset: Any, collate: Any) -> DataLoader[Any]:
        """Batches of a data set: `name` is 'train', in a new order in each epoch, or 'eval'.

        Raises:
            ConfigError: for one that is empty or has no length.
        """
        if not getattr(dataset, "__len__", int)():
            raise ConfigError(f"{name}_dataset: must have a length of at least 1")
        training = name == "train"
        return DataLoader(
            dataset,
            batch_size=self(f"per_device_{name}_batch_size", 8),
            shuffle=training,
            drop_last=training and self("dataloader_drop_last", False),
            num_workers=self("dataloader_num_workers", 0),
            collate_fn=collate_labels if collate is None else collate,
        )


def collate_labels(samples: list[Any]) -> Any:
    """torch's batch of samples, in which a `label` is called `labels`."""
    batch = default_collate(samples)
    if isinstance(batch, dict) and "label" in batch:
        batch["labels"] = batch.pop("label")
    return batch


def from_training_args(
    kind: type[QuantumTrainer],
    args: Any,
    model: nn.Module,
    loss_fn: Any,
    train_dataset: Any,
    eval_dataset: Any,
    optimizer: torch.optim.Optimizer | None,
    data_collator: Callable[[list[Any]], Any] | None,
    quantum_training_config: Mapping[str, Any] | QuantumConfig | None,
) -> tuple[QuantumTrainer, dict[str, Any]]:
    """See `QuantumTrainer.from_training_args`."""
    arguments = HfArguments(args)
    given = quantum_training_config
    own = given.model_dump(exclude_unset=True) if isinstance(given, QuantumConfig) else dict(given or {})
    config = QuantumConfig.from_dict({**arguments.config(), **own})
    loader = arguments.loader("train", train_dataset, data_collator)
    if optimizer is None:
        optimizer = arguments.optimizer(model)
    device = "cpu" if arguments("use_cpu", False) else None
    trainer = kind(model, optimizer, loss_fn, device=device, quantum_training_config=config, lr_scheduler_interval="step")
    steps = arguments.epochs * -(-len(loader) // (config.gradient_accumulation_steps * trainer.processes.size))
    trainer.lr_scheduler = trainer.learner.lr_scheduler = LambdaLR(optimizer, arguments.rate_factor(steps))
    return trainer, {
        "train_dataloader": loader,
        "val_dataloader": None if eval_dataset is None else arguments.loader("eval", eval_dataset, data_collator),
        "num_epochs": arguments.epochs,
        "save_best_model": arguments.saves_best,
        "model_save_path": Path(arguments("output_dir", ".")) / "best_model.pth",
    }


def as_hf_loss(loss_fn: Any) -> Callable[..., Tensor]:
    """A loss for `transformers.Trainer(compute_loss_func=...)`: f(outputs, labels, num_items_in_batch=None).

    That Trainer adds the losses of the batches of a step up, and says how many labels they have together: a mean over the
    labels of a batch counts by its share of them. Labels -100 count nowhere.

    Args:
        loss_fn: see `qsr.qembed.losses.call_loss`.
    """

    def loss(outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if labels is None:
            raise ConfigError("labels: the batch has none, which the loss needs")
        found = observed_loss(loss_fn, outputs, labels)
        return found if num_items_in_batch is None else found * (labels != IGNORED).sum() / num_items_in_batch

    return loss


# --- Lightning and Ray ------------------------------------------------------------------------------------------------


def make_lightning_module(trainer: QuantumTrainer) -> Any:
    """A `LightningModule` that trains the model of a trainer (in place) under Lightning's own Trainer.

    Collapse schedule, losses, replay, clipping by role, the optimizer and its scheduler are the trainer's; loops, devices,
    seeds, files and early stopping are Lightning's. Metrics have names like `training/loss` and `validation/accuracy`.

    Args:
        trainer: made with device='keep', so that Lightning alone moves the model.

    Raises:
        ConfigError: if Lightning is not installed, and for settings that its Trainer has itself.
    """
    config, optimizer, scheduler = trainer.config, trainer.optimizer, trainer.lr_scheduler
    for name, theirs in _OF_LIGHTNING.items():
        if config[name] != QuantumConfig.model_fields[name].default:
            raise ConfigError(f"{config.label(name)}={config[name]}: is for Lightning's Trainer to decide: {theirs}")

    class Module(adapter_class("make_lightning_module")):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            epochs = self.trainer.max_epochs or -1  # -1: until something else ends it
            trainer.set_epoch(self.current_epoch, epochs if epochs > 0 else None)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            clip_by_role(trainer.learner, config, config.max_grad_norm)
            if isinstance(optimizer, UncertaintyOptimizer):
                optimizer.set_uncertainty(self.all_gather(trainer.learner.logged["training/uncertainty"]).mean())

        def configure_optimizers(self) -> Any:
            if scheduler is None:
                return optimizer
            stepped = {"scheduler": scheduler, "interval": trainer.lr_scheduler_interval, "monitor": "validation/loss"}
            return {"optimizer": optimizer, "lr_scheduler": stepped}

    return Module(trainer.learner)


def ray_metrics(history: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The last entry of each list of a history, for `ray.tune.report`; NaN where an epoch had nothing to report."""
    return {name: float(values[-1]) for name, values in history.items() if values}
