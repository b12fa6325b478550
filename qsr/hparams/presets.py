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

# The recipes `fast-LxL`, for V=7 and delta=Omega=1 and its neighbourhood; benchmarks/accuracy.py measures them.
# One layer 16 wide with two heads, 3300 weights on 8x8: widths 24 and 32, four and six heads, or two layers reach no lower
# energy on 8x8 and take 1.3 to 2.5 times as long; and only a single layer has the cheap windows of `flips=auto`.
_FAST_MODEL = {"type": "ptf"}
_FAST_PTF = {"patch": "2x2", "Nh": 16, "num_layers": 1, "nhead": 2, "dim_feedforward": 32}
# A peak rate of 0.05: at 0.1 runs settle 4e-3 too high. Momentum 0.8 has two thirds of the error of 0.9 at equal steps. The
# shift falls with the noise of the kernel; the cap keeps the first steps of a stage, on a new lattice, from blowing up.
_FAST_SPRING: dict[str, Any] = {"name": "spring", "kwargs": {"momentum": 0.8, "shift": 3e-3, "final_shift": 3e-5, "cap": 0.3}}
# Warm-up over the first twentieth of the last stage, then a cosine to zero.
_FAST_SCHEDULER = {"name": "OneCycleLR", "kwargs": {"pct_start": 0.05}}


def _fast(train: dict[str, Any], ptf: dict[str, Any] | None = None, **optimizer: float) -> dict[str, dict[str, Any]]:
    """A recipe with its stages and batch, and with what differs in the network and in the arguments of spring."""
    return {
        "model": _FAST_MODEL,
        "train": {"lr": 0.05, **train},
        "ptf": {**_FAST_PTF, **(ptf or {})},
        "optimizer": {**_FAST_SPRING, "kwargs": {**_FAST_SPRING["kwargs"], **optimizer}},
        "scheduler": _FAST_SCHEDULER,
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
    # Equal samples are joined, so thousands cost little here, and the floor of the energy goes down with them. At 16 wide and
    # a rate of 0.05 the error after 500 steps is 1.3e-4, with these 0.9e-4 after 400.
    "fast-4x4": _fast(
        {"lr": 0.07, "K": 1024, "K_final": 4096, "curriculum": "4x4:400"}, {"Nh": 24, "nhead": 4, "dim_feedforward": 48}
    ),
    # 180 steps on small lattices take 3 s and end below the shelf at 3e-2 that a start on 8x8 sits on.
    "fast-8x8": _fast({"K": 256, "K_final": 1024, "curriculum": "4x4:100,6x6:80,8x8:900"}),
    # Long enough stages that the next one starts within 10 %. With 256 samples, growing to 512, runs end 2e-3 to 3e-3 too high,
    # with exact flips too. The final shift of 1e-4 was not compared with 3e-5 here.
    "fast-16x16": _fast({"K": 512, "K_final": 2048, "curriculum": "4x4:100,6x6:60,8x8:150,16x16:500"}, final_shift=1e-4),
    # From 16x16 straight to 32x32 the energy starts a tenth too high.
    "fast-32x32": _fast(
        {"K": 256, "K_final": 512, "curriculum": "4x4:100,6x6:60,8x8:150,16x16:200,24x24:100,32x32:400"}, final_shift=1e-4
    ),
}


def preset_values(name: str) -> dict[str, dict[str, Any]]:
    """Section -> settings of a preset; `model`, if there, is the model that is taken when none is given.

    Raises:
        ConfigError: for an unknown preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: unknown preset{nearest(name, PRESETS)}")
    return PRESETS[name]
