"""Sums of Pauli strings as text: `0.5 X0 Z3 + 1.2 Y1 Y2`, `XIZI 0.5` in a line each, OpenFermion's `0.5 [X0 Z3] +`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qsr.hparams import ConfigError
from qsr.hparams.positions import MOST_SITES

MOST_LETTERS = 2**28  # of all terms, those on no site included
# Digits belong together: where nothing fits behind a million of them, no shorter number is tried (that takes the square of it).
_DIGITS = r"\d+(?!\d)"
_NUMBER = rf"(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?"
_BLANK = r"(?:[^\S\n]|\*)*"  # within a line; a product sign says nothing more
_SIGNS = re.compile(r"\s*((?:[+-]\s*)*)")
# A number that ends the line and has its sign at once belongs to what stands before it, where that has no number yet.
_TERM = re.compile(
    rf"(?P<number>{_NUMBER}|\([^()\n]*\))?{_BLANK}"
    rf"(?:\[(?P<bracket>[^][\n]*)\]|(?P<sites>[IXYZ]{_DIGITS}(?:{_BLANK}[IXYZ]{_DIGITS})*)|(?P<string>[IXYZ]+))?"
    rf"(?:(?(number)(?!)|){_BLANK}(?P<after>[+-]?{_NUMBER})(?=[^\S\n]*(?:\n|$)))?{_BLANK}"
)
_EXAMPLE = "write for example 0.5 X0 Z3 + 1.2 Y1 Y2, or XIZI 0.5 in a line each"


@dataclass(frozen=True)
class _Term:
    coefficient: float
    string: str | None  # all letters, or
    letters: dict[int, str]  # site -> letter


def read_terms(text: str, num_sites: int | None, where: str) -> tuple[list[str], list[float]]:
    """Strings and coefficients, as they stand there.

    Terms are separated by signs, line ends and semicolons; `#` begins a comment, a term without a number has the coefficient 1,
    and a number without letters (or with a lone I) goes with the identity. A lone number at the end of a line, `XIZI -0.5`, is
    the coefficient of what stands before it.

    Args:
        num_sites: N; None: the length of the strings, or one more than the largest site that is named.
        where: name of the setting, for errors.

    Raises:
        ConfigError: for text that is no sum of Pauli strings with real coefficients, or does not fit `num_sites`.
    """
    terms = _read("\n".join(line.partition("#")[0].replace(";", "\n") for line in text.splitlines()), where)
    lengths = {len(term.string) for term in terms if term.string not in (None, "I")}
    if len(lengths) > 1:
        raise ConfigError(f"{where}: strings must have one letter for each site; found lengths {sorted(lengths)}")
    largest = max((site for term in terms for site in term.letters), default=-1)
    if num_sites is None and not lengths and largest < 0:
        raise ConfigError(f"{where}: names no site, and so does not say how many there are; {_EXAMPLE}")
    sites = lengths.pop() if lengths else largest + 1 if num_sites is None else num_sites
    if sites > MOST_SITES or sites * len(terms) > MOST_LETTERS:
        raise ConfigError(f"{where}: {len(terms)} terms on {sites} sites; at most {MOST_SITES} sites, and {MOST_LETTERS} letters")
    if num_sites is not None and sites != num_sites:
        raise ConfigError(f"{where}: strings of {sites} letters, and the lattice has {num_sites} sites")
    if largest >= sites:
        raise ConfigError(f"{where}: site {largest} is named, and there are {sites} sites (the first is 0)")
    strings = [
        "".join(term.letters.get(site, "I") for site in range(sites)) if term.string in (None, "I") else str(term.string)
        for term in terms
    ]
    return strings, [term.coefficient for term in terms]


def _read(text: str, where: str) -> list[_Term]:
    terms: list[_Term] = []
    position, line, counted = 0, 1, 0
    while True:
        signs = _SIGNS.match(text, position)
        assert signs is not None  # it may be empty
        begin = signs.end()
        line, counted = line + text.count("\n", counted, begin), begin
        if begin == len(text):
            if signs[1]:
                raise ConfigError(f"{where}: line {line}: a sign with no term after it")
            break
        term = _TERM.match(text, begin)
        found = text[begin : begin + 200].partition("\n")[0].strip()
        if term is None or not term[0] or (terms and not signs[1] and "\n" not in signs[0]):
            raise ConfigError(f"{where}: line {line}: {found!r} is not understood; {_EXAMPLE}")
        try:
            terms.append(_term(term, (-1.0) ** signs[1].count("-")))
        except ValueError as error:
            raise ConfigError(f"{where}: line {line}: {found!r}: {error}") from None
        position = term.end()
    if not terms:
        raise ConfigError(f"{where}: no terms; {_EXAMPLE}")
    return terms


def _term(match: re.Match[str], sign: float) -> _Term:
    """Raises ValueError: for a coefficient that is no finite real number, a site that stands twice, or a bad bracket."""
    try:
        number = complex((match["number"] or match["after"] or "1").strip("()").replace(" ", ""))
    except ValueError:
        number = complex(math.nan)
    if number.imag or not math.isfinite(number.real):
        raise ValueError("a coefficient must be a finite real number")
    letters: dict[int, str] = {}
    inside = match["bracket"] if match["bracket"] is not None else match["sites"] or ""
    for found in inside.replace("*", " ").split() if match["bracket"] is not None else re.findall(r"[IXYZ]\d+", inside):
        if not re.fullmatch(r"[IXYZ]\d+", found):
            raise ValueError(f"{found!r} in the bracket is no letter with a site, such as X0")
        site = int(found[1:])
        if site in letters:
            raise ValueError(f"site {site} stands twice in one term")
        letters[site] = found[0]
    return _Term(sign * number.real, match["string"], letters)
