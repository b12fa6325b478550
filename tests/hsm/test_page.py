"""Every command and snippet of docs/hilbert_space_models.md runs as it stands, in its order."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hilbert_space_models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "demos").mkdir()
    shutil.copy(ROOT / "demos" / "observables.csv", folder / "demos")
    return folder


def test_commands(clone: Path) -> None:
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert len(lines) >= 8 and all(line.startswith("qsr ") for line in lines)
    said = []
    for line in lines:
        words = [sys.executable, "-m", "qsr", *shlex.split(line)[1:]]
        result = subprocess.run(words, cwd=clone, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        said.append(result.stdout)
    r2 = float(re.search(r"test/r2 +(\S+)", said[1])[1])  # type: ignore[index]
    assert r2 > 0.98  # the page says 0.99
    assert (clone / "runs/hsm/general/0/predictions.csv").read_text().startswith("delta,delta_std,energy\n")
    assert (clone / "runs/hsm/geometry/0/geometry.png").stat().st_size > 10_000


def test_snippets(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    names: dict[str, object] = {"__name__": "page"}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for kind, text in BLOCKS:
            if kind == "python":
                exec(compile(text, "hilbert_space_models.md", "exec"), names)
    error, experiment, accuracy = output.getvalue().splitlines()
    assert float(error) < 0.1 and float(experiment.split()[0]) > 0.9 and float(accuracy) > 0.9
    assert names["states"].shape == (400, 4) and names["alike"].shape == (3, 400)  # type: ignore[attr-defined]
