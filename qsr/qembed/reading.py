"""What losses and the trainer read from what a model returned, in whichever form it returned it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qsr.qembed.entanglement import Bonds
from qsr.qembed.functional import shannon_uncertainty, uncertainty


def logits_of(outputs: Any) -> Tensor:
    """The logits: the outputs themselves, their `logits` (attribute or key), or the first item of a tuple.

    Raises:
        TypeError: if there are none.
    """
    found = outputs if isinstance(outputs, Tensor) else _get(outputs, "logits")
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"outputs: must be a tensor, a tuple of one, or have `logits`; found {type(outputs).__name__}")
    return found


class Reading:
    """Quantum quantities of B sequences of L tokens; None for each that the outputs do not give.

    Outputs are read by attribute or key: `uncertainty` (or `quantum_uncertainty`) and `coherence` (or
    `superposition_coherence`) (B, L); `probs` (or `collapse_probs`) (B, L, K) and `senses` (B, L, K, C) complex; `bonds`, a
    `Bonds`, or `entanglement`, a `Bonds` or numbers in [0, 1] (B, P); `mask` (B, L), the tokens that count. A tensor or a plain
    tuple has none of them.

    Args:
        sources: outputs, mappings or None; the first that has a quantity gives it.
    """

    def __init__(self, *sources: Any) -> None:
        self.sources = tuple(source for source in sources if source is not None)

    def find(self, *names: str) -> Any | None:
        """The first quantity with one of the names."""
        return next((found for source in self.sources if (found := _first(source, names)) is not None), None)

    @property
    def uncertainty(self) -> Tensor | None:
        return self.find("uncertainty", "quantum_uncertainty")

    @property
    def coherence(self) -> Tensor | None:
        return self.find("coherence", "superposition_coherence")

    @property
    def senses(self) -> Tensor | None:
        return self.find("senses")

    @property
    def entanglement(self) -> Bonds | Tensor | None:
        """Bonds rather than numbers: any measure can be computed of them."""
        return self.find("bonds", "entanglement")

    def uncertainty_of(self, kind: str) -> Tensor | None:
        """(B, L) uncertainty of one of `functional.UNCERTAINTIES`, from the probabilities (and senses) of the first source that
        has them; where only an uncertainty is given, it is taken to be of that kind.
        """
        for source in self.sources:
            probs = _first(source, ("collapse_probs", "probs"))
            if probs is not None and kind == "entropy":
                return shannon_uncertainty(probs)
            senses = None if probs is None else _first(source, ("senses",))
            if probs is not None and senses is not None:
                return uncertainty(kind, probs, senses)
            given: Tensor | None = _first(source, ("uncertainty", "quantum_uncertainty"))
            if given is not None:
                return given
        return None

    def mask_of(self, values: Tensor) -> Tensor | None:
        """The mask (B, L) as bool if it belongs to values of that shape."""
        mask = self.find("mask")
        return mask.bool() if isinstance(mask, Tensor) and mask.shape == values.shape else None


def _first(source: Any, names: tuple[str, ...]) -> Any | None:
    return next((found for name in names if (found := _get(source, name)) is not None), None)


def _get(source: Any, name: str) -> Any | None:
    if isinstance(source, Tensor):
        return None
    if isinstance(source, Mapping):
        return source.get(name)
    return getattr(source, name, None)
