"""The command line's grammar: `--section name=value ...`, where a model after `--lptf` or `--hsm` is the sampler inside it.

`--qembed` after a sampler makes its tokens; of several samplers, those of the last one before it.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from qsr.hparams.base import ConfigError, Hparams
from qsr.hparams.registry import class_for, find_section, hparams_class, sections

INSIDE = ("subsampler", "sampler")  # settings of a model that are another model
EMBEDDING = "embedding"  # the setting of a sampler that is what makes its tokens
TOKENS = {"qembed": "qembed_tokens"}  # models that have another meaning after a sampler
Words = list[tuple[str, dict[str, str]]]  # canonical section names with their name=value words, in the order written


def split_sections(arguments: Sequence[str]) -> Words:
    """Group command-line words by section.

    Raises:
        ConfigError: for a word outside a section, a word without '=', a name given twice or an unknown section.
    """
    groups: Words = []
    for word in arguments:
        if word.startswith("--"):
            groups.append((find_section(word[2:]).name, {}))
            continue
        if not groups:
            known = ", ".join(f"--{section.name}" for section in sections() if not section.internal)
            raise ConfigError(f"'{word}': expected a section first ({known})")
        section, values = groups[-1]
        if section == "data" and "=" not in word and not values:
            word = f"file={word}"  # `--data table.csv`
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--{section} {word}: expected name=value")
        if name in values:
            raise ConfigError(f"{section}.{name}: given twice ({values[name]} and {value})")
        values[name] = value
    return groups


def parse_sections(arguments: Sequence[str]) -> dict[str, Any]:
    """Typed settings of command-line words: `{"train": {...}, "model": {"type": "ptf", ...}, ...}`.

    Only what was written is in the result; defaults are filled in by `RunSettings`.

    Raises:
        ConfigError: see `split_sections`; also for a section that is given twice and a value of the wrong type.
    """
    tree: dict[str, Any] = {}
    innermost: dict[str, Any] | None = None  # the last model written, which may take a subsampler
    written = split_sections(arguments)
    model = next((name for name, _ in written if find_section(name).role == "model"), None)
    for name, words in written:
        if name == "data" and "file" in words and model is None:
            raise ConfigError(
                "--data: for which model? add one of --hsm (tables), --qembed, --graph and samplers such as --ptf (snapshots)"
            )
        if name == "data" and "module_name" not in words and model is not None:
            name = getattr(hparams_class(model), "data_section", "data")  # the kind that the model takes
        if innermost is not None and innermost["type"] != name:
            name = TOKENS.get(name, name)
        role = find_section(name).role
        values: dict[str, Any] = class_for(name, words).parse_text(words)
        if find_section(name).internal:
            raise ConfigError(f"--{name}: set by the command itself")
        if role == "part":
            _place(tree, name, values, f"--{name}")
        elif role in ("hamiltonian", "data"):
            _place(tree, role, {"type": name, **values}, f"--{name}")
        elif role == "tokens":
            _place_tokens(innermost, name, values)
        elif innermost is None:
            innermost = tree["model"] = {"type": name, **values}
        else:
            taken = hparams_class(innermost["type"]).model_fields
            inside = next((place for place in INSIDE if place in taken), None)
            if inside is None and innermost["type"] in TOKENS:
                raise ConfigError(f"--{name}: a model is already given; --{innermost['type']} after --{name} makes its tokens")
            if inside is None:
                raise ConfigError(
                    f"--{name}: a model is already given (--{innermost['type']}), and only --lptf and --hsm take another inside"
                )
            innermost[inside] = {"type": name, **values}
            innermost = innermost[inside]
    return tree


def _place_tokens(model: dict[str, Any] | None, name: str, values: dict[str, Any]) -> None:
    flag = f"--{name.removesuffix('_tokens')}"
    if model is None or EMBEDDING not in hparams_class(model["type"]).model_fields:
        raise ConfigError(f"{flag}: makes the tokens of a sampler; write it after --rnn, --ptf or --lptf")
    if EMBEDDING in model:
        raise ConfigError(f"{flag}: --{model['type']} has its tokens already")
    model[EMBEDDING] = {"type": name, **values}


def parse_scan(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The problems of `--rydberg Lx=4 Ly=4 delta=0:3:0.25`, as mappings with their `type`.

    A number may have several values, `0.5,1,2.25:3:0.25` with ranges first:last:step that include the last; all combinations
    are taken, the last setting that has several changes fastest.

    Raises:
        ConfigError: see `split_sections`; also for other sections than one problem, and ranges that are none.
    """
    name, words = _one_problem(arguments, "--rydberg Lx=4 Ly=4")
    schema = hparams_class(name)
    choices = [_values(schema, word, text) for word, text in words.items()]
    return [{"type": name, **dict(zip(words, chosen, strict=True))} for chosen in itertools.product(*choices)]


def parse_grid(arguments: Sequence[str]) -> dict[str, Any]:
    """The problem and grid of `--rydberg delta=0:3:31 V=6`: `{"type": "rydberg", "delta": [0.0, 0.1, ...], "V": [6.0]}`.

    A number, or first:last:count with equal steps and both ends.

    Raises:
        ConfigError: see `split_sections`; also for other sections than one problem, and for what is no number and no grid.
    """
    name, words = _one_problem(arguments, "--rydberg delta=0:3:31")
    return {"type": name, **{word: _grid(hparams_class(name), word, text) for word, text in words.items()}}


def _one_problem(arguments: Sequence[str], example: str) -> tuple[str, dict[str, str]]:
    """The name and the words of the only section, which must be a problem."""
    written = split_sections(arguments)
    if len(written) != 1 or find_section(written[0][0]).role != "hamiltonian":
        found = " ".join(f"--{name}" for name, _ in written)
        raise ConfigError(f"expected one problem section such as {example}, found {found or 'none'}")
    return written[0]


def _grid(schema: type[Hparams], name: str, text: str) -> list[float]:
    if name not in schema.known_names():
        raise ConfigError(schema.unknown_name(name))
    try:
        numbers = [Decimal(part) for part in text.split(":")]  # 0:3:31 has 0.3 in it, not 0.30000000000000004
        if len(numbers) == 1 and numbers[0].is_finite():
            return [float(numbers[0])]
        first, last, wanted = numbers
        count = int(wanted)
        if count != wanted or count < 2 or not first < last:
            raise ValueError(text)
        return [float(first + (last - first) * index / (count - 1)) for index in range(count)]
    except (ValueError, ArithmeticError):
        expected = "a number, or first:last:count such as 0:3:31, with a whole number of at least 2 points"
        raise ConfigError(f"{schema.label(name)}={text}: expected {expected}") from None


def _values(schema: type[Hparams], name: str, text: str) -> list[Any]:
    """What a setting of a scan may be."""
    field = schema.model_fields.get(name)
    if field is None or float not in (field.annotation, *typing.get_args(field.annotation)):
        return [schema.parse_value(name, text)]
    found: list[Any] = []
    for part in text.split(","):
        if ":" not in part:
            found.append(schema.parse_value(name, part))
            continue
        try:
            first, last, step = (Decimal(number) for number in part.split(":"))  # 0:1:0.1 has 0.3 in it, not 0.30000000000000004
            count = int((last - first) / step)
        except (ValueError, ArithmeticError):
            raise ConfigError(f"{schema.label(name)}={part}: expected first:last:step, such as 0:3:0.25") from None
        if count < 0:
            raise ConfigError(f"{schema.label(name)}={part}: the steps lead away from the last value")
        if count == 0 and first != last:
            raise ConfigError(f"{schema.label(name)}={part}: first:last:step, and one step of {step} is beyond the last value")
        found += [float(first + index * step) for index in range(count + 1)]
    return found


def _place(tree: dict[str, Any], key: str, values: dict[str, Any], flag: str) -> None:
    if key in tree:
        raise ConfigError(f"{flag}: there is already a {key} section")
    tree[key] = values
