"""setup.cfg, constraints.txt and environment.yaml agree, every package is shipped, and `qsr` starts from anywhere."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch", "torch-geometric": "pytorch_geometric", "ray": "ray-tune"}


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def requirements() -> dict[str, Requirement]:
    """All that setup.cfg asks for, extras included, by canonical name."""
    config = setup_cfg()
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    parsed = [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins() -> dict[str, list[Requirement]]:
    """The lines of constraints.txt; a name may have one line per range of Python versions."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pinned_version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, f"constraints.txt: {pin} is not an exact version"
    return specifier.version


def unpinned(wanted: dict[str, Requirement], pinned: dict[str, list[Requirement]]) -> list[str]:
    """Requirements without a pin, or with one that they exclude."""
    problems = []
    for name, requirement in wanted.items():
        if name not in pinned:
            problems.append(f"{name} has no line in constraints.txt")
        lines = pinned.get(name, [])
        problems += [f"{pin} is not {requirement}" for pin in lines if pinned_version(pin) not in requirement.specifier]
    return problems


def conda_drift(wanted: dict[str, Requirement], lines: list[str]) -> set[str]:
    """Lines that setup.cfg and environment.yaml do not share."""
    theirs = {re.sub(r"\s", "", line) for line in lines if not re.match(r"(python|pip)\b(?!-)", line)}
    ours = {f"{CONDA_NAMES.get(name, name)}{requirement.specifier}" for name, requirement in wanted.items()}
    return theirs ^ ours


def test_every_requirement_has_a_bound_and_a_pin() -> None:
    wanted = requirements()
    assert [name for name, requirement in wanted.items() if not requirement.specifier] == []
    assert unpinned(wanted, pins()) == []


def test_the_pins_cover_what_the_requirements_bring_in() -> None:
    """Follows the installed distributions from `.[dev]` down, for the Python and the system that run this test."""
    pinned = pins()
    waiting = [(name, extra) for name, wanted in requirements().items() for extra in ("", *wanted.extras)]
    seen: set[str] = set()
    followed: set[tuple[str, str]] = set()
    missing = set()
    while waiting:
        name, extra = waiting.pop()
        # torch pins the libraries of its own CUDA builds
        if (name, extra) in followed or re.match(r"nvidia-|cuda-|triton", name):
            continue
        followed.add((name, extra))
        seen.add(name)
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            missing.add(name)
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(need.name), wanted) for wanted in ("", *need.extras)]
    assert missing == set(), "not installed here: run the tests through `make test`"
    assert sorted(seen - set(pinned)) == []
    stale = sorted(name for name, lines in pinned.items() if name not in seen and all(applies(line) for line in lines))
    assert stale == [], "constraints.txt pins what nothing needs"


def applies(pin: Requirement) -> bool:
    """False if any line of this name is for another Python version only."""
    return pin.marker is None or pin.marker.evaluate()


def test_conda_environment_agrees_with_setup_cfg() -> None:
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text(encoding="utf-8"))
    assert environment["name"] == "qsr" and environment["channels"] == ["conda-forge"]
    *lines, pip = environment["dependencies"]
    assert pip == {"pip": ["-e ."]} and {"pip", "python=3.11"} <= set(lines)
    assert conda_drift(requirements(), lines) == set()


def test_drift_is_found() -> None:
    wanted = {"torch": Requirement("torch>=2.4"), "numpy": Requirement("numpy>=1.26")}
    assert unpinned(wanted, {"torch": [Requirement("torch==2.3.1")]}) == [
        "torch==2.3.1 is not torch>=2.4",
        "numpy has no line in constraints.txt",
    ]
    assert conda_drift(wanted, ["python=3.11", "pip", "pytorch>=2.4", "numpy>=1.25"]) == {"numpy>=1.25", "numpy>=1.26"}
    assert conda_drift(wanted, ["pytorch>=2.4", "numpy>=1.26", "python-dateutil>=2"]) == {"python-dateutil>=2"}


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for folder in ("qsr", "cli") for path in (ROOT / folder).rglob("*.py")}
    names = {".".join(("qsr", *folder.parts) if folder.parts[0] == "cli" else folder.parts) for folder in folders}
    assert set(setup_cfg()["options"]["packages"].split()) == names
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()] == []


def test_the_command_starts_from_the_clone_and_from_elsewhere(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "qsr"
    for command in ([sys.executable, "-m", "qsr"], [str(script)]):
        shown = [subprocess.run([*command, "--help"], cwd=place, capture_output=True, text=True) for place in (ROOT, tmp_path)]
        for result in shown:
            assert result.returncode == 0, result.stderr
            assert result.stdout.startswith("Usage: ") and "train" in result.stdout and not result.stderr
        assert shown[0].stdout == shown[1].stdout


def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    """Built from a copy, because a build/ folder that lies in the clone would be packed as well."""
    source = tmp_path / "source"
    for name in ("qsr", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run([*command, "--disable-pip-version-check"], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("qsr-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/entry_points.txt"))
    wanted = {f"qsr/{path.relative_to(source)}" for path in (source / "cli").rglob("*.py")}
    wanted |= {str(path.relative_to(source)) for path in (source / "qsr").rglob("*.py")} | {"qsr/py.typed"}
    assert packed == wanted
    assert "qsr = qsr.cli.main:main" in entry_points


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("conda") is None, reason="no conda here")
def test_conda_makes_and_activates_the_environment(tmp_path: Path) -> None:
    prefix = tmp_path / "env"  # not by its name: a user's own `qsr` environment stays as it is
    subprocess.run(["conda", "env", "create", "-q", "-f", ROOT / "environment.yaml", "-p", prefix], check=True, cwd=ROOT)
    activate = f'eval "$(conda shell.bash hook)" && conda activate "{prefix}"'
    activated = f'{activate} && cd "{tmp_path}" && qsr --help && python -m qsr --help'
    result = subprocess.run(["bash", "-c", activated], check=True, capture_output=True, text=True)
    assert result.stdout.count("Usage: ") == 2
