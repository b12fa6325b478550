"""`--rydberg name=value ...` of commands that look at a run: which Hamiltonian of a run over ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from qsr.hparams import parse_sections

FLAG = "--rydberg"


class PointCommand(click.Command):
    """A command whose `--rydberg` takes all name=value words that follow it, as sections do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        inside = False
        for index, word in enumerate(args):
            following = args[index + 1] if index + 1 < len(args) else ""
            if word == FLAG and _is_setting(following):
                inside = True
                continue
            inside = inside and _is_setting(word)
            spread += [FLAG, word] if inside else [word]
        return super().parse_args(ctx, spread)


def _is_setting(word: str) -> bool:
    """Whether it is name=value; directories of runs have '=' in their names, too."""
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def point_option(help: str, metavar: str = "name=value ...", **options: Any) -> Any:
    """The option, whose words come as `point`."""
    return click.option(FLAG, "point", multiple=True, metavar=metavar, help=help, **options)


def parsed_point(words: Sequence[str]) -> dict[str, Any] | None:
    """The settings that the words mean; None without any.

    Raises:
        ConfigError: for unknown settings and values of the wrong type.
    """
    found: dict[str, Any] | None = parse_sections([FLAG, *words])["hamiltonian"] if words else None
    return found
