"""Every command and snippet of docs/quantum_embeddings.md runs as it stands, in its order."""

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
PAGE = (ROOT / "docs" / "quantum_embeddings.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "demos").mkdir()
    shutil.copy(ROOT / "demos" / "snapshots_qembed.py", folder / "demos")
    return folder


def test_commands(clone: Path) -> None:
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert len(lines) >= 10
    said = {}
    for line in lines:
        program, *words = shlex.split(line)
        start = [sys.executable, "-m", "qsr"] if program == "qsr" else [sys.executable]
        result = subprocess.run([*start, *words], cwd=clone, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        said[line] = result.stdout
    scores = {
        name: [float(number) for number in re.findall(r"\d\.\d+", line)]
        for line in said["python demos/snapshots_qembed.py"].splitlines()
        for name in ("quantum", "ordinary", "best")
        if name in line
    }
    accuracy, _, calibration = scores["quantum"]
    assert (accuracy, calibration) == (pytest.approx(0.754, abs=0.01), pytest.approx(0.03, abs=0.01))  # the page says so
    assert scores["ordinary"] == [pytest.approx(0.745, abs=0.01), pytest.approx(0.68, abs=0.03), pytest.approx(0.14, abs=0.02)]
    assert scores["best"] == [pytest.approx(0.795, abs=0.001)]
    predictions = (clone / "runs/qembed/classify/0/predictions.csv").read_text()
    assert predictions.startswith("label,p_0,p_1,total_entropy,aleatoric,mutual_information,uncertainty\n")
    cleaned = said["qsr load runs/qembed/denoise/0"]
    accuracy, as_read = (float(re.search(rf"test/{name} +(\S+)", cleaned)[1]) for name in ("accuracy", "accuracy_as_read"))  # type: ignore[index]
    assert abs(accuracy - as_read) < 0.005  # little can be won here, says the page


def test_snippets(monkeypatch: pytest.MonkeyPatch, clone: Path) -> None:
    monkeypatch.chdir(clone)
    names: dict[str, object] = {"__name__": "page"}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for kind, text in BLOCKS:
            if kind == "python":
                exec(compile(text, "quantum_embeddings.md", "exec"), names)
    first, entangled, *_ = output.getvalue().splitlines()
    accuracy, disagreement = first.split()
    assert float(accuracy) > 0.95 and 0 < float(entangled) <= 1
    assert 0 < float(disagreement) < 0.7
