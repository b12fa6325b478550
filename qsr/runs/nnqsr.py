"""Runs of the original NN-QSR (arXiv 2306.03921): its settings and the names of its weights in our terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qsr.hparams import ConfigError, RunSettings

_MODELS = {"RNN": "rnn", "PRNN": "rnn", "PTF": "ptf", "LPTF": "lptf"}
# What the original always writes. None of it is guessed where it is missing: another value is another model.
_TRANSFORMER = ("patch", "Nh", "num_layers", "nhead")
_MODEL_KEYS = {"rnn": ("patch", "Nh", "rnntype"), "ptf": _TRANSFORMER, "lptf": _TRANSFORMER}
_HAMILTONIAN_KEYS = {"RYDBERG": ("Lx", "Ly", "V", "Omega", "delta"), "TFIM": ("L", "h_x", "J")}

_LAYER = r"transformer\.transformer\.layers\.(\d+)\."
_RENAMED = [
    (r"(rnn\.(?:weight|bias)_(?:ih|hh)_l0)", r"\1"),
    (r"lin\.([02]\.(?:weight|bias))", r"head.\1"),
    (r"tokenize\.0\.(weight|bias)", r"trunk.tokens.linear.\1"),
    (_LAYER + r"self_attn\.in_proj_(weight|bias)", r"trunk.layers.\1.qkv.\2"),
    (_LAYER + r"self_attn\.out_proj\.(weight|bias)", r"trunk.layers.\1.out.\2"),
    (_LAYER + r"((?:linear1|linear2|norm1|norm2)\.(?:weight|bias))", r"trunk.layers.\1.\2"),
]
# The head once more, split in two; and constants: positions, index tables of the patches, the causal mask.
_DROPPED = re.compile(r"lin[01]\.\d+\.(weight|bias)|pe(\.\w+)?|patch\.\w+|options|transformer\.mask")
_ORIGINAL = re.compile(r"(subsampler\.)*(lin|tokenize|transformer)\.")
_SUBSAMPLER = "subsampler."


def is_nnqsr(tree: Mapping[str, Any]) -> bool:
    """Whether a settings tree was written by NN-QSR: its sections carry `model_name` and `name`, and no schema version."""
    if "schema_version" in tree:
        return False
    names = (("model", "model_name"), ("hamiltonian", "name"))
    return any(isinstance(tree.get(section), Mapping) and key in tree[section] for section, key in names)


def convert_settings(tree: Mapping[str, Any]) -> RunSettings:
    """Our settings for an NN-QSR run; what its settings leave unsaid (network details, optimizer) is in the preset `nnqsr`.

    Raises:
        ConfigError: for missing keys, unknown names, and settings that we have no counterpart of.
    """
    _require(tree, "", ("train", "model", "hamiltonian"))
    sections = {name: _section(tree, name) for name in ("train", "model", "hamiltonian")}
    model = _convert_model(sections["model"], "model")
    if tree.get("submodel") is not None:
        if model["type"] != "lptf":
            raise ConfigError(f"submodel: only LPTF takes one, but model.model_name={sections['model']['model_name']}")
        model["subsampler"] = _convert_model(_section(tree, "submodel"), "submodel")
    _require(sections["train"], "train.", ("L", "K"))
    converted = {
        "train": {name: value for name, value in sections["train"].items() if value is not None},
        "model": model,
        "hamiltonian": _convert_hamiltonian(sections["hamiltonian"]),
    }
    return RunSettings.from_tree(converted, preset="nnqsr")


def has_original_names(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights carry the parameter names of NN-QSR."""
    return any(_ORIGINAL.match(name) for name in weights)


def convert_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's parameters under our names (those of `qsr.samplers`); aliases and constants are left out.

    Raises:
        ConfigError: for names that no NN-QSR sampler has.
    """
    converted, unknown = {}, []
    for name, tensor in weights.items():
        local = name
        while local.startswith(_SUBSAMPLER):
            local = local.removeprefix(_SUBSAMPLER)
        if _DROPPED.fullmatch(local):
            continue
        for pattern, ours in _RENAMED:
            if match := re.fullmatch(pattern, local):
                converted[name.removesuffix(local) + match.expand(ours)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise ConfigError(
            f"unknown weights {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''} (expected those of NN-QSR)"
        )
    return converted


def _convert_model(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    _require(section, f"{where}.", ("model_name",))
    values = dict(section)
    name = values.pop("model_name")
    if not isinstance(name, str) or name not in _MODELS:
        raise ConfigError(f"{where}.model_name={name}: unknown; one of {', '.join(_MODELS)}")
    # It would hand the subsampler all earlier outputs of the transformer; no documentation says how.
    full_seq = values.pop("full_seq", False)
    if full_seq is not False:
        raise ConfigError(f"{where}.full_seq={full_seq}: only False is supported")
    kind = _MODELS[name]
    _require(values, f"{where}.", _MODEL_KEYS[kind])
    return {"type": kind, **values}


def _convert_hamiltonian(section: Mapping[str, Any]) -> dict[str, Any]:
    _require(section, "hamiltonian.", ("name",))
    values = dict(section)
    name = values.pop("name")
    if not isinstance(name, str) or name not in _HAMILTONIAN_KEYS:
        raise ConfigError(f"hamiltonian.name={name}: unknown; one of {', '.join(_HAMILTONIAN_KEYS)}")
    _require(values, "hamiltonian.", _HAMILTONIAN_KEYS[name])
    sites = values.pop("L", None)  # Lx*Ly for RYDBERG
    if name == "RYDBERG":
        return {"type": "rydberg", **values}
    # The original's TFIM is a periodic chain with H = -J sum Z Z + h_x sum X.
    field = values.pop("h_x")
    return {"type": "tfim", "Lx": sites, "Ly": 1, "boundary": "periodic", "h": -field, **values}


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree[name]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name}: expected a section, found {section!r}")
    return section


def _require(section: Mapping[str, Any], prefix: str, keys: tuple[str, ...]) -> None:
    missing = [prefix + key for key in keys if key not in section]
    if missing:
        raise ConfigError(f"missing {', '.join(missing)}")
