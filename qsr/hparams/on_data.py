"""The sections of a run that trains a model on data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsr.hparams.base import ConfigError, Hparams
from qsr.hparams.building import as_mapping, build_section, class_of
from qsr.hparams.registry import hparams_class

# Sections that may also stand inside the model's. What that holds is moved out, and the model reads them from there.
LIFTED = ("optimizer", "scheduler", "checkpoint", "early_stopping")
_ABSENT: dict[str, dict[str, Any]] = {
    "scheduler": {"name": "none"},
    "checkpoint": {"save_top_k": 0, "save_last": False, "every_n_epochs": None},
}


def data_sections(written: dict[str, Any]) -> dict[str, Any]:
    """The resolved sections.

    Raises:
        ConfigError: for sections and settings that are for samplers, and for a section that the model's own contradicts.
    """
    if "hamiltonian" in written:
        raise ConfigError(f"hamiltonian: {written['model'].get('type', 'model')} is trained on data, not on a Hamiltonian")
    model = dict(written["model"])
    schema: Any = class_of(model, "model")  # a `qsr.training.ModelHparams`
    if "loss" in written:
        if "loss" not in schema.model_fields:
            raise ConfigError(f"loss: {written['model'].get('type', 'model')} has a loss of its own")
        model["loss"] = _same("loss", written["loss"], model.get("loss"))
    for name in LIFTED:
        if name in model and name in schema.model_fields:
            _lift(written, name, model.pop(name))
    optimizer, rate = split_rate(written.get("optimizer", {}), written.get("train", {}))
    if optimizer.natural_gradient() is not None:
        raise ConfigError(f"optimizer.name={optimizer.name}: a natural gradient of energies; a model on data has none")
    own_rate = schema.default_rates.get(optimizer.name, optimizer.own_default_rate)
    train: Any = hparams_class("train")(**{**written.get("train", {}), "lr": own_rate if rate is None else rate})
    if schema.default_epochs is not None and "max_epochs" not in train.model_fields_set:
        train = train.updated({"max_epochs": schema.default_epochs})
    refuse_other_settings(train, on_data=True)
    scheduler: Any = hparams_class("scheduler")(**written.get("scheduler", {}))
    stopping = written.get("early_stopping")
    sections: dict[str, Any] = {
        "optimizer": optimizer,
        "scheduler": scheduler.settled(samplers=False),
        "checkpoint": hparams_class("checkpoint")(**written.get("checkpoint", {})),
        "early_stopping": None if stopping is None else hparams_class("early_stopping")(**stopping),
    }
    own = {name: section for name, section in sections.items() if name in schema.model_fields}
    if "optimizer" in own:
        own["optimizer"] = optimizer.updated({"kwargs": {**optimizer.kwargs, "lr": train.lr}})
    built = build_section({**model, **own}, "model")
    data = _data(schema.data_section, written["data"], train.seed) if "data" in written else None
    return {
        **sections,
        "train": train,
        "model": built,
        "hamiltonian": None,
        "gradient_clipping": hparams_class("gradient_clipping")(**{"max_norm": None, **written.get("gradient_clipping", {})}),
        "objective": hparams_class("objective")(name="supervised"),
        "data": None if data is None else built.agreed(data),
        "logger": hparams_class("logger")(**written.get("logger", {})),
        "extra": written.get("extra", {}),
    }


def split_rate(optimizer: Mapping[str, Any], train: Mapping[str, Any]) -> tuple[Any, float | None]:
    """The optimizer's section without a learning rate among its arguments, and the rate: that, or `train.lr`, if there is one.

    Raises:
        ConfigError: if the two differ.
    """
    section: Any = hparams_class("optimizer")(**optimizer)
    kwargs = dict(section.kwargs)
    inside, outside = kwargs.pop("lr", None), train.get("lr")
    if inside is None:
        return section, outside
    if outside is not None and outside != inside:
        raise ConfigError(f"train.lr={outside}: optimizer.kwargs.lr={inside} says something else; give one of them")
    return section.updated({"kwargs": kwargs}), inside


def other_settings(cls: type[Hparams], on_data: bool) -> tuple[str, ...]:
    """Names of the settings of a section that mean nothing in this kind of run."""
    return tuple(getattr(cls, "of_samplers" if on_data else "of_data", ()))


def refuse_other_settings(section: Hparams, on_data: bool) -> None:
    """Whether someone has set one of them to another value than its default.

    Raises:
        ConfigError: naming it.
    """
    for name in other_settings(type(section), on_data):
        value, default = section[name], type(section).model_fields[name].default
        if name in section.model_fields_set and value != default:
            kind = "a model on data" if on_data else "a sampler"
            raise ConfigError(f"{section.label(name)}={value}: means nothing in a run of {kind}")


def _data(default: str, values: Mapping[str, Any], seed: int) -> Any:
    """The data section; what does not say what it is is of the kind that the model takes, and has the run's seed."""
    if values.get("module_name") is None and values.get("type", default) == default:
        values = {"type": default, **values, "seed": seed if values.get("seed") is None else values["seed"]}
    return build_section(values, "data")


def _same(name: str, outer: Any, inner: Any) -> dict[str, Any]:
    """A section that stands at the top, or inside the model, or at both places with the same values."""
    values = as_mapping(name, outer)
    cls = hparams_class(name)
    if inner is not None and cls(**as_mapping(name, inner)) != cls(**values):
        raise ConfigError(f"{name}: stands at the top and inside the model, and the two differ")
    return values


def _lift(written: dict[str, Any], name: str, inner: Any) -> None:
    if inner is None and name not in _ABSENT:
        return
    values = dict(_ABSENT[name]) if inner is None else as_mapping(name, inner)
    written[name] = _same(name, values, written.get(name))
