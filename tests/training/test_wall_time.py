"""Limits on time, as people write them."""

import math
import re
import time

import pytest
import yaml

import qsr
from qsr.training import TrainHparams
from qsr.training.wall_time import EXPECTED, deadline, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3600", 3600),
        ("0.5", 0.5),
        ("90s", 90),
        ("90m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("11:50:00", 42600),
        ("100:00:01", 360001),
        ("1-12:00:00", 129600),
        ("01:12:00:00", 129600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    before = time.monotonic()
    assert before + seconds <= deadline(text) <= time.monotonic() + seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "00:00:00", "12:30", "1:60:00", "-5", "1e3", "h", "5 m", "nan", "inf", "9" * 400]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(qsr.ConfigError, match=rf"^train\.max_time={re.escape(text)}: .*{re.escape(EXPECTED)}"):
        TrainHparams(max_time=text)


def test_no_limit() -> None:
    assert deadline(None) == math.inf
    assert TrainHparams(max_time="1.5h").max_time == "1.5h"


@pytest.mark.parametrize("text", ["max_time: 11:50:00", "max_time: 42600", "max_time: '42600'", "max_time: 42600.0"])
def test_numbers_are_seconds_and_so_are_what_yaml_makes_of_a_time(text: str) -> None:
    assert parse_duration(TrainHparams(**yaml.safe_load(text)).max_time or "") == 42600
