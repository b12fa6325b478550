"""`--rydberg delta=0:3:0.25`: which problems a scan has in it."""

import pytest

from qsr.hparams import ConfigError, parse_scan


def test_ranges_include_the_last_value_and_are_exact_decimals() -> None:
    found = parse_scan(["--rydberg", "Lx=4", "Ly=4", "delta=0:0.4:0.1,2.5"])
    assert [problem["delta"] for problem in found] == [0.0, 0.1, 0.2, 0.3, 0.4, 2.5]
    assert all(problem["type"] == "rydberg" and problem["Lx"] == 4 for problem in found)
    assert [problem["h"] for problem in parse_scan(["--tfim", "Lx=3", "Ly=1", "h=1:-1:-0.5"])] == [1.0, 0.5, 0.0, -0.5, -1.0]
    assert [problem["h"] for problem in parse_scan(["--tfim", "h=0:1:0.4"])] == [0.0, 0.4, 0.8]


def test_several_scans_are_all_combinations() -> None:
    found = parse_scan(["--rydberg", "Lx=2", "V=1,7", "delta=0:1:1"])
    assert [(problem["V"], problem["delta"]) for problem in found] == [(1.0, 0.0), (1.0, 1.0), (7.0, 0.0), (7.0, 1.0)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--rydberg delta=0:3", r"rydberg\.delta=0:3: expected first:last:step"),
        ("--rydberg delta=0:3:0", r"rydberg\.delta=0:3:0: expected first:last:step"),
        ("--rydberg delta=0:x:1", r"rydberg\.delta=0:x:1: expected first:last:step"),
        ("--rydberg delta=0:3:-1", r"rydberg\.delta=0:3:-1: the steps lead away"),
        ("--rydberg delta=1,,2", r"rydberg\.delta=: must be a number"),
        ("--rydberg Lx=2,3", r"rydberg\.Lx=2,3: must be a whole number"),
        ("--rydberg detla=1", r"did you mean 'delta'"),
        ("--ptf patch=2", r"expected one problem section such as --rydberg Lx=4 Ly=4, found --ptf"),
        ("--rydberg Lx=2 --tfim Lx=2", r"found --rydberg --tfim"),
        ("", r"found none"),
    ],
)
def test_what_is_no_scan(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_scan(line.split())
