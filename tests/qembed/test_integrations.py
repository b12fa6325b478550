"""The trainer beside the real transformers, Lightning and Ray."""

import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.qembed import (
    QuantumConfig,
    QuantumLoss,
    QuantumOptimizer,
    QuantumTrainer,
    UncertaintyOptimizer,
    as_hf_loss,
    make_lightning_module,
    ray_metrics,
)
from tests.qembed.trainer_cases import loader, network, tokens, trainer

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [{"input_ids": ids, "label": label} for ids, label in zip(*tokens(20), strict=True)]


# --- transformers -----------------------------------------------------------------------------------------------------


def arguments(**given: Any) -> Any:
    """transformers' own arguments; which devices there are is the business of its Trainer, and not asked for."""
    from transformers import TrainingArguments

    class Arguments(TrainingArguments):
        device = torch.device("cpu")  # type: ignore[assignment]

    return Arguments(**given)


def after(args: Any, **given: Any) -> tuple[QuantumTrainer, dict[str, Any]]:
    model = network()
    return QuantumTrainer.from_training_args(args, model, QuantumLoss(), SAMPLES, **given)


def test_arguments_of_transformers_make_a_trainer(tmp_path: Path) -> None:
    args = arguments(
        output_dir=str(tmp_path / "fine-tuned"),
        num_train_epochs=3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=4,
        learning_rate=1e-2,
        warmup_steps=2,
        weight_decay=0.01,
        max_grad_norm=0.5,
        seed=7,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    found, train_kwargs = after(args, eval_dataset=SAMPLES[:6], quantum_training_config={"superposition_schedule": "constant"})
    assert (found.config.max_grad_norm, found.config.seed, found.config.monitor) == (0.5, 7, "validation/accuracy")
    assert isinstance(found.optimizer, QuantumOptimizer)
    assert {group["name"]: group["weight_decay"] for group in found.optimizer.param_groups} == {"classical": 0.01, "quantum": 0.0}
    rates: list[float] = []
    found.optimizer.register_step_pre_hook(lambda optimizer, *rest: rates.append(optimizer.param_groups[0]["lr"]))
    history = found.train(**train_kwargs)
    assert rates == pytest.approx([1e-2 * part for part in (0, 1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7)])
    assert len(history["val_accuracy"]) == 3 and history["collapse_probability"] == [0.5] * 3
    assert found.best_metric == max(history["val_accuracy"])
    assert (tmp_path / "fine-tuned" / "best_model.pth").is_file()
    found.load_model(tmp_path / "fine-tuned" / "best_model.pth")
    assert found.validate(train_kwargs["val_dataloader"])["accuracy"] == found.best_metric


@pytest.mark.parametrize("kind", ["linear", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 4, 0.3])
def test_rates_are_those_of_transformers(kind: str, warmup: float) -> None:
    from transformers import get_scheduler

    args = arguments(lr_scheduler_type=kind, warmup_steps=warmup, gradient_accumulation_steps=2, num_train_epochs=4)
    found, _ = after(args)
    steps = 8  # 3 batches of 8 samples, two to a step, four times
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    schedule = get_scheduler(args.lr_scheduler_type, theirs, args.get_warmup_steps(steps), steps)
    for _ in range(steps):
        assert found.optimizer.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        found.optimizer.step()
        found.lr_scheduler.step()
        theirs.step()
        schedule.step()


def test_defaults_are_those_of_transformers() -> None:
    args = arguments()
    theirs, kwargs = after(args)
    ours, none = after(SimpleNamespace())
    assert ours.config == theirs.config
    assert [{**group, "params": 0} for group in ours.optimizer.param_groups] == [
        {**group, "params": 0} for group in theirs.optimizer.param_groups
    ]
    assert {**none, "train_dataloader": 0} == {**kwargs, "train_dataloader": 0, "model_save_path": none["model_save_path"]}
    assert none["num_epochs"] == 3 and none["train_dataloader"].batch_size == 8 and not none["save_best_model"]


def test_own_keys_go_first_and_other_arguments_are_passed_on() -> None:
    args = arguments(bf16=True, use_cpu=True, gradient_checkpointing=True, max_grad_norm=0.0, seed=3, dataloader_drop_last=True)
    found, kwargs = after(args, quantum_training_config=QuantumConfig(seed=11), optimizer=None)
    config = found.config
    assert (config.precision, config.gradient_checkpointing, config.max_grad_norm, config.seed) == ("bf16", True, None, 11)
    assert len(kwargs["train_dataloader"]) == 2  # of 20 samples
    history = found.train(**{**kwargs, "num_epochs": 1})
    assert math.isfinite(history["train_loss"][0])


def test_training_samples_come_in_another_order_in_each_epoch() -> None:
    found, kwargs = after(SimpleNamespace(seed=1, num_train_epochs=2))
    seen: list[Tensor] = []
    found.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    found.train(**kwargs)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(tokens(20)[0].tolist())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_train_epochs": 2.5}, "num_train_epochs=2.5: must be a whole number"),
        ({"num_train_epochs": 0}, "num_train_epochs=0: must be a whole number of at least 1"),
        ({"max_steps": 100}, "max_steps=100: training goes by epochs"),
        ({"fp16": True}, "fp16=True: gradients of float16 need scaling"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type=cosine: must be one of linear, constant, constant_with_warmup"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1: belongs into loss_fn"),
        ({"optim": "adafactor"}, "optim=adafactor: must be adamw_torch"),
        (
            {"save_strategy": "best", "metric_for_best_model": "accuracy", "greater_is_better": False},
            "greater_is_better=False: metric_for_best_model=accuracy goes the other way",
        ),
    ],
)
def test_arguments_that_mean_what_it_cannot_do_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        after(arguments(**given))


@pytest.mark.parametrize("dataset", [[], iter(SAMPLES)])
def test_data_without_a_length_are_refused(dataset: Any) -> None:
    with pytest.raises(ConfigError, match=r"^train_dataset: must have a length of at least 1"):
        QuantumTrainer.from_training_args(SimpleNamespace(), network(), QuantumLoss(), dataset)


def test_losses_of_the_batches_of_a_step_add_up_to_that_of_all() -> None:
    """As `transformers.Trainer` accumulates: it says how many labels there are, and does not divide."""
    ids = torch.randint(8, (12, 4))
    labels = torch.randint(2, (12,))
    labels[[1, 2, 7]] = -100
    model, loss = network().eval(), as_hf_loss(QuantumLoss(uncertainty_weight=0.0))
    whole = loss(model(ids), labels)
    parts = [loss(model(ids[rows]), labels[rows], num_items_in_batch=torch.tensor(9)) for rows in ([0, 1, 2], slice(3, 12))]
    assert len({part.item() for part in (*parts, whole)}) == 3
    torch.testing.assert_close(sum(parts), whole)
    with pytest.raises(ConfigError, match=r"^labels: the batch has none"):
        loss(model(ids), None)


def test_outputs_are_read_as_transformers_reads_them() -> None:
    """`outputs[0]` is the loss, and `outputs[1:]` the predictions, of what is no dict."""
    ids, labels = tokens(5)
    outputs = network()(ids, labels=labels)
    assert outputs[0] is outputs.loss and len(outputs[1:]) == 1 and outputs[1:][0] is outputs.logits
    assert as_hf_loss(QuantumLoss(uncertainty_weight=3.0))(outputs, labels) > outputs.loss  # it finds the uncertainty


def test_the_trainer_of_transformers_trains_with_our_loss(tmp_path: Path) -> None:
    """Its steps of two batches each are those of our trainer: same order, rate, clipping and loss; then it evaluates."""
    import transformers

    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=5,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        use_cpu=True,
        save_strategy="no",
        eval_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
    )
    ours, theirs = (network(collapse_strategy="none") for _ in range(2))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-2)
    found = transformers.Trainer(
        theirs,
        args,
        train_dataset=SAMPLES,
        eval_dataset=SAMPLES[:10],
        compute_loss_func=as_hf_loss(QuantumLoss()),
        optimizers=(optimizer, None),
    )
    found.train()
    config = {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2, "uncertainty_regularization": 0.0}
    same = QuantumTrainer(
        ours, torch.optim.SGD(ours.parameters(), lr=1e-2), QuantumLoss(), device="keep", quantum_training_config=config
    )
    ids, labels = tokens(20)
    batches = [(ids[rows : rows + 5], labels[rows : rows + 5]) for rows in range(0, 20, 5)]
    same.train(batches, num_epochs=2)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
    logits = found.predict(SAMPLES[:10]).predictions
    torch.testing.assert_close(torch.as_tensor(logits), theirs.eval()(ids[:10]).logits.detach())
    assert found.evaluate()["eval_loss"] == pytest.approx(same.validate([(ids[:10], labels[:10])])["loss"], abs=1e-5)


# --- Lightning --------------------------------------------------------------------------------------------------------


def lightning_trainer(folder: Path, epochs: int = 2, **settings: Any) -> Any:
    import lightning

    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        **settings,
    )


def test_a_module_of_lightning_may_use_the_step(tmp_path: Path) -> None:
    import lightning

    class QuantumLightningModule(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()
            self.optimizer = QuantumOptimizer(self.model.parameters(), lr=1e-2)
            self.quantum_trainer = QuantumTrainer(self.model, self.optimizer, QuantumLoss(), device="keep")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.quantum_trainer.training_step(batch, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    module = QuantumLightningModule()
    before = module.quantum_trainer.validate(loader(), collapse_probability=0.0)["loss"]
    lightning_trainer(tmp_path, epochs=4).fit(module, loader())
    assert module.quantum_trainer.validate(loader(), collapse_probability=0.0)["loss"] < before - 0.05


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_module_made_of_a_trainer_trains_as_the_trainer_does(tmp_path: Path, scheduled: bool) -> None:
    """Where nothing is drawn the weights are the same: collapse schedule, clipping by role, scheduler and loss agree."""

    def one() -> QuantumTrainer:
        model = network(collapse_strategy="soft", entanglement="bell_state")
        optimizer = UncertaintyOptimizer(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if scheduled else None
        schedule = {"superposition_schedule": lambda progress: float(progress > 0.6), "schedule_unit": "step"}
        clipping = {"quantum_gradient_clipping": True, "max_quantum_grad_norm": 0.01, "separate_clipping": True}
        config = {**schedule, **clipping}
        loss = QuantumLoss()
        return QuantumTrainer(model, optimizer, loss, device="keep", quantum_training_config=config, lr_scheduler=scheduler)

    ours, theirs = one(), one()
    history = ours.train(loader(), loader(20, seed=1), num_epochs=3)
    fit = lightning_trainer(tmp_path, epochs=3)
    fit.fit(make_lightning_module(theirs), loader(), loader(20, seed=1))
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(theirs.model.state_dict()[name], value, rtol=0, atol=1e-6)
    for name in ("loss", "accuracy", "ece", "uncertainty"):
        assert float(fit.callback_metrics[f"validation/{name}"]) == pytest.approx(history[f"val_{name}"][-1], abs=1e-5), name
    assert not [name for name in fit.callback_metrics if "/_" in name]


@pytest.mark.parametrize(
    ("config", "theirs"),
    [({"mixed_precision": True}, "bf16-mixed"), ({"gradient_accumulation_steps": 2}, "accumulate_grad_batches")],
)
def test_what_lightning_decides_is_refused(config: dict[str, Any], theirs: str) -> None:
    with pytest.raises(ConfigError, match=f"is for Lightning's Trainer to decide: .*{theirs}"):
        make_lightning_module(trainer(config))


# --- Ray --------------------------------------------------------------------------------------------------------------


def train_with_ray(report: Callable[[dict[str, float]], None]) -> Callable[[dict[str, Any]], None]:
    def one(config: dict[str, Any]) -> None:
        results = trainer(config).train(train_dataloader=loader(16), val_dataloader=loader(16, seed=1), num_epochs=2)
        report({"loss": results["val_loss"][-1], **ray_metrics(results)})

    return one


def test_a_search_of_ray_tune_reports_numbers() -> None:
    """Its signature takes a mapping, and no keywords; its domains give plain values."""
    from ray import tune

    space = {
        "uncertainty_regularization": tune.loguniform(0.01, 0.5),
        "entanglement_training": tune.choice([True, False]),
        "superposition_schedule": tune.choice(["linear", "cyclic", "constant"]),
    }
    reported: list[dict[str, float]] = []
    for _ in range(3):
        train_with_ray(reported.append)({name: domain.sample() for name, domain in space.items()})
    assert all(type(value) is float for found in reported for value in found.values())
    assert len({found["loss"] for found in reported}) == 3
    with pytest.raises(TypeError, match="missing a required argument: 'metrics'"):
        inspect.signature(tune.report).bind(loss=1.0)


def test_the_last_epoch_is_what_is_reported() -> None:
    assert ray_metrics({"train_loss": [3.0, 2.0], "val_loss": []}) == {"train_loss": 2.0}


@pytest.mark.slow
def test_ray_tune_runs_it(tmp_path: Path) -> None:
    """Two trials on one processor, in a process of its own, which ends."""
    code = f"""
        import ray
        from ray import tune
        from tests.qembed.test_integrations import train_with_ray
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
        space = {{"superposition_schedule": tune.grid_search(["linear", "constant"])}}
        run = tune.RunConfig(storage_path={str(tmp_path)!r}, verbose=0)
        found = tune.Tuner(train_with_ray(tune.report), param_space=space, run_config=run).fit()
        ray.shutdown()
        print(found.num_errors, *sorted(result.metrics["loss"] for result in found))
    """
    script = tmp_path / "search.py"
    script.write_text("\n".join(line[8:] for line in code.splitlines()))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    result = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    here: list[dict[str, float]] = []
    for kind in ("linear", "constant"):
        train_with_ray(here.append)({"superposition_schedule": kind})
    errors, *losses = map(float, result.stdout.splitlines()[-1].split())
    assert errors == 0 and losses == pytest.approx(sorted(found["loss"] for found in here), rel=1e-5)


# --- without them -----------------------------------------------------------------------------------------------------


def test_none_of_them_is_needed() -> None:
    absent = ("transformers", "ray", "lightning", "sklearn", "matplotlib", "pandas", "accelerate")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import types, qsr.qembed as q\n"
        "from tests.qembed.trainer_cases import loader, network, tokens, trainer\n"
        "args = types.SimpleNamespace(num_train_epochs=1)\n"
        "found, kwargs = q.QuantumTrainer.from_training_args(args, network(), q.QuantumLoss(), loader().dataset)\n"
        "print(sorted(q.ray_metrics(found.train(**kwargs)))[0])\n"
        "try: q.make_lightning_module(found)\n"
        "except ValueError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == "collapse_probability"
    assert second.startswith("make_lightning_module: the package lightning is not installed; pip install")


def test_nothing_optional_is_imported_before_it_is_used() -> None:
    heavy = ("transformers", "ray", "lightning", "sklearn", "pandas", "matplotlib.pyplot")
    code = (
        "import sys, qsr\nfrom qsr.training import OptimizerHparams\nOptimizerHparams.choices()\n"
        "print([name for name in sys.modules if name.startswith('qsr.qembed')])\n"
        f"import qsr.qembed\nprint([name for name in {heavy} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n[]\n"
