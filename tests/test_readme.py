"""The README's commands and snippets work as they stand."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qsr.cli.main import qsr as qsr_group
from qsr.hparams import RunSettings, parse_scan, parse_sections
from qsr.jobs.exact import exact
from qsr.jobs.snapshots import Shots
from qsr.runs import read_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS for line in text.splitlines() if not kind and line.startswith("qsr ")]


def test_the_readme_shows_all_commands() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(qsr_group.commands)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_name_real_settings_and_runs(line: str) -> None:
    """Each line up to the start of its work (the work itself, shortened, is in tests/cli)."""
    _, command, *words = shlex.split(line)
    if words[0] == "--resume" or "RUN" in words:
        return
    if command == "graph":
        return  # in tests/cli/test_graph_runs.py
    if command in ("load", "observe", "plot", "info", "report", "finetune", "transfer"):
        stored = read_run(ROOT / words.pop(0))
        if command == "finetune":
            assert stored.settings.updated(parse_sections(words)).train.L == 256
        elif command == "transfer":
            tree = {**parse_sections(words), "hamiltonian": stored.settings.tree()["hamiltonian"]}
            assert RunSettings.from_tree(tree).train.L == stored.settings.train.L
    elif command == "snapshots":
        _, _, *words = words
        end = words.index("--labels")
        problems, drawing = parse_scan(words[:end]), {name[2:]: text for name, text in pairwise(words[end:]) if name[:2] == "--"}
        assert len(problems) == 8 and Shots.from_text(drawing).shots == 1000
    elif command == "exact":
        assert exact(parse_sections(words)["hamiltonian"]).energy < 0
    elif "--config-name" in words or words[0] in ("-m", "--print-config", "--print-blueprint"):
        return  # in tests/cli/test_config_files.py
    else:
        preset = words[1] if words[0] == "--preset" else None
        settings = RunSettings.from_tree(parse_sections(words[2:] if preset else words), preset)
        if settings.on_data:
            made = any(f"snapshots make {settings.data.file} " in other for other in COMMANDS)
            assert made or (ROOT / settings.data.file).is_file()  # run in tests/hsm/test_page.py
            return
        assert settings.train.L == (256 if "16x16" in line else 3 if "--pauli" in line else 64)


def test_the_python_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    own_model, snippet = (text for kind, text in BLOCKS if kind == "python")
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(own_model, "README.md", "exec"), names)
    line = names["line"]
    with torch.no_grad():
        assert abs(line(torch.tensor([[0.5]])).item() - 0.25) < 0.1  # type: ignore[operator]
    exec(compile(snippet, "README.md", "exec"), names)
    assert "exact: -0.4534132" in capsys.readouterr().out
    assert abs(names["found"].energy_per_site.mean + 0.4534132) < 0.02  # type: ignore[attr-defined]
    assert names["larger"].settings.train.L == 64  # type: ignore[attr-defined]


def test_the_output_shown_is_real() -> None:
    """No placeholder is left, and the energy shown agrees with the exact one beside it."""
    energy, error = re.search(r"energy per site +(-0\.\d+)\((\d+)\)", README).groups()  # type: ignore[union-attr]
    exact_shown = re.search(r"exact +(-0\.\d+)", README)[1]  # type: ignore[index]
    resolution = int(error) * 10.0 ** -len(energy.split(".")[1])
    assert abs(float(energy) - float(exact_shown)) < max(4 * resolution, 5e-4)
