"""What a signal that ends a run leaves in the terminal."""

from pathlib import Path

import pytest

import qsr
from qsr.cli.commands import interruptible
from qsr.training import Interrupted
from tests.training.lines import StopAt


@pytest.mark.parametrize("saved", [True, False])
def test_one_line_says_once_what_happened_and_how_to_go_on(
    saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"L": 4, "K": 16, "steps": 5, "dir": str(tmp_path) if saved else "<NONE>"}
    with pytest.raises(Interrupted), interruptible():
        qsr.train(model=qsr.RNN(patch=1, Nh=4), train=train, callbacks=[StopAt(1)])
    run = tmp_path / "rydberg" / "4-B=16-K=16" / "0"
    rest = f"everything is saved; resume with: qsr train --resume {run}" if saved else "nothing was saved (dir=<NONE>)"
    assert capsys.readouterr().err == f"SIGTERM: {rest}\n"
