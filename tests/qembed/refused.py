"""Refusals."""

from collections.abc import Callable

import pytest

from qsr.hparams import ConfigError


def fails(make: Callable[[], object]) -> str:
    """The one line of the ConfigError that a call ends with."""
    with pytest.raises(ConfigError) as found:
        make()
    assert "\n" not in str(found.value)
    return str(found.value)
