"""Named sets of settings, applied below what the user writes."""

from __future__ import annotations

from typing import Any

from qsr.hparams.base import ConfigError, nearest

# The original NN-QSR: torch's post-norm encoder layer with its default feed-forward width, tanh(Linear) tokens, its
# sinusoids, and plain Adam.
_NNQSR_TRANSFORMER = {
    "Nh": 128,
    "num_layers": 2,
    "nhead": 8,
    "dim_feedforward": 2048,
    "norm_first": False,
    "token": "linear",
    "positions": "sinusoidal",
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "nnqsr": {
        "train": {"K": 256, "lr": 5e-4, "steps": 12000},
        "rnn": {"Nh": 256},
        "ptf": _NNQSR_TRANSFORMER,
        "lptf": _NNQSR_TRANSFORMER,
        "optimizer": {"name": "Adam"},
        "scheduler": {"name": "none"},
        "gradient_clipping": {"max_norm": None},
    },
}


def preset_values(name: str) -> dict[str, dict[str, Any]]:
    """Section -> settings of a preset.

    Raises:
        ConfigError: for an unknown preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: unknown preset{nearest(name, PRESETS)}")
    return PRESETS[name]
