"""The loss of models on data: any loss of torch.nn that compares a prediction with a target."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import nn

from qsr.hparams.base import ConfigError, Hparam
from qsr.hparams.imports import find_class
from qsr.training.optimizers import NamedHparams

OF_CLASSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")  # their target may be the number of a class
_NOT_A_PAIR = "is not a (prediction, target) loss"


class LossHparams(NamedHparams):
    """Any loss of torch.nn, with its arguments: `name=CrossEntropyLoss label_smoothing=0.1`.

    A loss of one's own is named in full, package.module.Class, and imported only if it is allowed
    (see `qsr.hparams.imports`).
    """

    section: ClassVar[str] = "loss"
    module: ClassVar[str] = "torch.nn"
    shorthands: ClassVar[dict[str, str]] = {"module_name": "the name in full: torch.nn.MSELoss"}
    refused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            (
                *("CosineEmbeddingLoss", "MarginRankingLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss", "CTCLoss"),
                *("AdaptiveLogSoftmaxWithLoss", "MultiLabelMarginLoss"),
            ),
            _NOT_A_PAIR,
        ),
        "NLLLoss2d": "is an old name of NLLLoss",
        "KLDivLoss": "compares log-probabilities; use CrossEntropyLoss with a column of probabilities for each class",
    }
    reserved: ClassVar[dict[str, str]] = dict.fromkeys(("reduce", "size_average"), "is torch's old word for reduction")

    name: str = Hparam(
        "auto", help="class in torch.nn; arguments follow as name=value; auto: CrossEntropyLoss for labels, else MSELoss"
    )

    @classmethod
    def choices(cls) -> list[str]:
        found = [name for name in dir(nn) if name.endswith("Loss") and inspect.isclass(getattr(nn, name))]
        return ["auto", *(name for name in found if name not in cls.refused)]

    @classmethod
    def canonical(cls, name: str) -> str:
        own = "." in name and not name.startswith(f"{cls.module}.")
        return name if own else super().canonical(name)

    @classmethod
    def target(cls, name: str) -> Any:
        if name == "auto":
            return None
        return getattr(nn, name) if "." not in name else find_class(name, nn.Module, "loss.name")

    @classmethod
    def keyword_defaults(cls, name: str) -> dict[str, Any]:
        target = cls.target(name)
        if target is None:
            return {}
        parameters = list(inspect.signature(target.__init__).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    @property
    def module_name(self) -> str | None:
        return self.name if "." in self.name else super().module_name

    @property
    def of_classes(self) -> bool:
        """Whether the predictions are one number for each class."""
        return self.name in OF_CLASSES

    @model_validator(mode="after")
    def _one_number(self) -> Any:
        if self.kwargs.get("reduction", "mean") not in ("mean", "sum"):
            raise ConfigError(f"loss.reduction={self.kwargs['reduction']}: must be mean or sum; training needs one number")
        return self

    def build(self) -> nn.Module:
        """The loss; lists of numbers among its arguments (weights of classes) become tensors.

        Raises:
            ConfigError: for arguments that torch refuses.
        """
        lists = {key: value for key, value in self.kwargs.items() if isinstance(value, (list, tuple))}
        scalars = {key: [self.kwargs[key]] for key in ("weight", "pos_weight") if isinstance(self.kwargs.get(key), (int, float))}
        try:
            tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in {**lists, **scalars}.items()}
            found: nn.Module = self.target(self.name)(**{**self.kwargs, **tensors})
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"loss.name={self.name}: {error}") from None
        return found
