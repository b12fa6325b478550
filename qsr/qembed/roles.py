"""What part a parameter plays (`_qrole`), which optimizers group by and clipping asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

ROLES = ("amplitude", "phase", "sense", "coupling", "measurement", "context")


def role(parameter: Tensor) -> str:
    """One of `ROLES`, or 'classical'."""
    found = getattr(parameter, "_qrole", "classical")
    assert isinstance(found, str)
    return found


class Tagged(nn.Module):
    """A module whose parameters carry `_qrole`, one of `ROLES`; parameters without it are classical.

    Tags are lost where torch makes new parameters: in `copy.deepcopy` and in `load_state_dict(assign=True)`. They are put
    back after both.
    """

    roles: ClassVar[Mapping[str, str]] = {}  # first part of a parameter's name -> role

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_tag_again)

    def tag(self) -> None:
        """Put the tags on; to be called at the end of a constructor."""
        for name, parameter in self.named_parameters():
            found = self.roles.get(name.partition(".")[0])
            if found is not None:
                parameter._qrole = found  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.tag()


def _tag_again(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, Tagged)
    module.tag()
