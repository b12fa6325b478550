"""What a user installs: the wheel beside the packages that it names, without extras, in a folder away from the clone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TRAIN = "qsr train --train steps=3 K=32 dir=runs --ptf patch=1 Nh=8 nhead=2 --rydberg Lx=2 Ly=2"
RUN = "runs/rydberg/4-B=32-K=32/0"
# Imports every module without the packages of the extras.
WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
EXTRAS = {'torch_geometric', 'zarr', 'pandas', 'pyarrow', 'sklearn', 'lightning', 'optuna', 'tensorboard', 'wandb',
          'transformers', 'accelerate', 'ray', 'xarray'}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in EXTRAS:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import qsr
for module in pkgutil.walk_packages(qsr.__path__, 'qsr.'):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error)
"""


def test_nothing_but_the_estimators_needs_an_extra_to_be_imported() -> None:
    """`qsr.hsm.estimators` are classes derived from scikit-learn's; `qsr.hsm` imports it when one is asked for."""
    found = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["qsr.hsm.estimators sklearn"]


def core() -> set[str]:
    """The distributions that `pip install qsr` brings here, by name."""
    waiting, found = ["qsr"], set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(text) for text in distribution(name).requires or []]
            waiting += [
                canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return found - {"qsr"}


def place(name: str, folder: Path) -> None:
    """A distribution that is installed here, linked into another folder of packages: the same files, and nothing beside them."""
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
        target = folder / top
        if not target.exists():
            target.symlink_to(Path(str(distribution(name).locate_file(top))).resolve())


def python_with(wheel: Path, folder: Path) -> Path:
    """An environment of its own with a wheel, what qsr needs, and nothing else; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for name in core():
        place(name, packages)
    command = [sys.executable, "-m", "pip", "--python", str(folder), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "bin"


def build(source: Path, target: Path, kind: str) -> Path:
    """The file that the build backend makes of a folder; `kind` is sdist or wheel."""
    code = f"from setuptools import build_meta; print('made', build_meta.build_{kind}({str(target)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    return target / made.stdout.splitlines()[-1].removeprefix("made ")


def built(folder: Path) -> tuple[Path, Path]:
    """sdist and, from what is in it, the wheel; made from what git knows, not from what lies in the clone."""
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.startswith(("qsr/", "cli/", "tests/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    sdist = build(source, folder, "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build(unpacked, folder, "wheel")


def test_the_wheel_of_the_sdist_holds_every_module(tmp_path: Path) -> None:
    _, wheel = built(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT) for folder in ("qsr", "cli") for path in (ROOT / folder).rglob("*.py")}
    assert packed == {f"qsr/{name}" if name.parts[0] == "cli" else str(name) for name in modules} | {"qsr/py.typed"}


REFUSED = {
    "qsr train --graph --data phases.h5": "graph",
    f"{TRAIN} --logger kind=tensorboard": "tensorboard",
    f"{TRAIN} --logger kind=wandb": "wandb",
    "qsr train --train epochs=1 --hsm --data file=table.parquet targets=y": "hsm",
}


@pytest.mark.slow
def test_the_wheel_works_with_the_core_alone(tmp_path: Path) -> None:
    programs = python_with(built(tmp_path)[1], tmp_path / "venv")
    away = tmp_path / "away"
    away.mkdir()
    (away / "table.parquet").write_bytes(b"PAR1PAR1")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def said(line: str) -> subprocess.CompletedProcess[str]:
        program, *words = shlex.split(line)
        command = [str(programs / program), *words]
        return subprocess.run(command, cwd=away, capture_output=True, text=True, env={**alone, "OMP_NUM_THREADS": "1"})

    where = said("python -c 'import qsr; print(qsr.__file__)'")
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "venv"), where.stderr
    shown = said("qsr --help")
    assert shown.returncode == 0 and "train" in shown.stdout and not shown.stderr
    trained = said(TRAIN)
    assert trained.returncode == 0, trained.stderr
    loaded = said(f"qsr load {RUN} 64 32")
    assert loaded.returncode == 0 and (away / RUN / "samples.h5").is_file(), loaded.stderr
    exact = said("qsr exact --rydberg Lx=2 Ly=2")
    energy = re.search(r"energy per site +(-\d\.\d+)", exact.stdout)
    assert energy is not None, exact.stdout + exact.stderr
    assert abs(float(energy[1]) - two_by_two()) < 1e-6
    made = said("qsr snapshots make phases.h5 --rydberg Lx=2 Ly=2 delta=0.5:3:0.5 --labels 'delta>1.5' --shots 20")
    assert made.returncode == 0, made.stderr
    for line, extra in REFUSED.items():
        refused = said(line)
        assert refused.returncode == 2 and f"pip install 'qsr[{extra}]'" in refused.stderr, f"{line}: {refused.stderr}"
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert [path.name for path in (away / RUN).parent.iterdir()] == ["0"], "what is refused leaves no directory"


def two_by_two() -> float:
    """The energy per site of 2x2 atoms, V = 7, delta = Omega = 1, from the Hamiltonian written out."""
    x, n = np.array([[0, 1], [1, 0]]), np.diag([0, 1])

    def on(operators: dict[int, np.ndarray]) -> np.ndarray:
        matrix = np.eye(1)
        for site in range(4):
            matrix = np.kron(matrix, operators.get(site, np.eye(2)))
        return matrix

    energy = sum(-0.5 * on({site: x}) - on({site: n}) for site in range(4))
    pairs = [(i, j) for i in range(4) for j in range(i)]
    squared = {(i, j): (i // 2 - j // 2) ** 2 + (i % 2 - j % 2) ** 2 for i, j in pairs}
    energy = energy + sum(7 / squared[i, j] ** 3 * on({i: n, j: n}) for i, j in pairs)
    return float(np.linalg.eigvalsh(energy)[0]) / 4
