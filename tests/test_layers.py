"""Imports run downwards only (the layers of CONTRIBUTING.md), in no circle, and no file is too long to read."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400

# From the bottom up; rooms on one line do not know each other.
LAYERS = [
    ["hparams"],
    ["lattice", "snapshots"],
    ["symmetries"],
    ["hamiltonians"],
    ["samplers"],
    ["estimators"],
    ["runs"],
    ["training"],
    ["hsm", "qembed", "graph"],
    ["jobs"],
    ["cli"],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    """One import of a module of the project by another."""

    source: str
    target: str
    line: int
    at_start: bool  # executed when the source is imported: not in a function, not for type checking


def room(module: str) -> str:
    """`qsr.samplers.rnn` -> `samplers`; the top-level package itself has no room: ``."""
    return module.partition(".")[2].partition(".")[0]


def modules(root: Path) -> dict[str, Path]:
    """Dotted names as installed (cli/ is qsr.cli) and files."""
    found = {}
    for folder, prefix in (("qsr", "qsr"), ("cli", "qsr.cli")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((prefix, *(part for part in parts if part != "__init__")))] = path
    return found


def _statements(node: ast.AST, at_start: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it is executed when the module is imported."""
    yield node, at_start
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_start = False
    only_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _statements(child, at_start and not (only_for_types and field == "body"))


def _named(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """The dotted names that a statement asks for; `from a import b` asks for a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def imports(root: Path) -> list[Import]:
    """Every import between modules of the project, wherever in a file it stands."""
    known = modules(root)
    found = []
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for node, at_start in _statements(tree):
            for name in _named(node, module, path.name == "__init__.py"):
                name = f"qsr.{name}" if name.split(".")[0] == "cli" else name
                if name.split(".")[0] != "qsr":
                    continue
                while name not in known and name.count(".") > (room(name) in LEVEL):
                    name = name.rpartition(".")[0]  # a class or function: the module that has it
                found.append(Import(module, name, getattr(node, "lineno", 0), at_start))
    return found


def _forbidden(source: str, target: str) -> str | None:
    """Why `source` may not import `target`, or None."""
    above, below = room(source), room(target)
    if above == below or (source == "qsr" and below != "cli"):
        return None
    if above == "__main__":
        return None if below == "cli" else "qsr/__main__.py only starts qsr.cli"
    if below == "cli":
        return "nothing but qsr/__main__.py imports cli"
    if below == "" and above != "cli":  # cli alone stands above the public face
        return "import from the module that defines it, not from the top-level package, which stands on everything"
    unknown = next((name for name in (above, below) if name and name not in LEVEL), None)
    if unknown:
        return f"{unknown} has no place in LAYERS of tests/test_layers.py"
    if above == "runs" and below != "hparams":
        return "runs knows only hparams"
    return None if below == "" or LEVEL[below] < LEVEL[above] else f"{above} does not stand above {below}"


def upward_imports(root: Path) -> list[str]:
    """One line for each import that breaks the order."""
    reasons = ((found, _forbidden(found.source, found.target)) for found in imports(root))
    return [f"{found.source}:{found.line} imports {found.target}: {reason}" for found, reason in reasons if reason]


def circles(root: Path) -> list[str]:
    """Circles among the imports that run when a module is imported. Within one room a function may import late, as a
    settings class does whose build() needs the module that reads the settings; between rooms the order forbids it."""
    graph: dict[str, set[str]] = {module: set() for module in modules(root)}
    for found in imports(root):
        if found.at_start and found.source != "qsr" and found.target in graph:
            graph[found.source].add(found.target)
    done: set[str] = set()
    result = []

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            result.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return result


def long_files(root: Path) -> list[str]:
    """Sources over MAX_LINES."""
    found = []
    for folder in ("qsr", "cli", "tests", "demos", "benchmarks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".pyi", ".md", ".sh", ".yaml", ".yml") and path.is_file():
                lines = len(path.read_text(encoding="utf-8").splitlines())
                if lines > MAX_LINES:
                    found.append(f"{path.relative_to(root)}: {lines} lines")
    return found


def test_imports_run_downwards() -> None:
    assert len(modules(ROOT)) > 5 and imports(ROOT), "nothing was read: is the layout still qsr/ and cli/?"
    assert upward_imports(ROOT) == []


def test_no_circles() -> None:
    assert circles(ROOT) == []


def test_files_are_short() -> None:
    assert long_files(ROOT) == []


def _plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("file", "text", "blamed"),
    [
        ("qsr/lattice.py", "from qsr.samplers import rnn", "qsr.samplers.rnn: lattice does not stand above samplers"),
        ("qsr/samplers/rnn.py", "def f():\n    import qsr.training.trainer", "samplers does not stand above training"),
        ("qsr/samplers/rnn.py", "from ..jobs import train", "samplers does not stand above jobs"),
        (
            "qsr/samplers/rnn.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qsr.estimators import energy",
            "rnn:3 imports qsr.estimators",
        ),
        ("qsr/lattice.py", "import importlib\nimportlib.import_module('qsr.runs')", "lattice does not stand above runs"),
        ("qsr/lattice.py", "import qsr.snapshots", "lattice does not stand above snapshots"),
        ("qsr/hsm/model.py", "import qsr.graph", "hsm does not stand above graph"),
        ("qsr/runs/run.py", "from qsr.lattice import Lattice", "runs knows only hparams"),
        ("qsr/estimators/energy.py", "from qsr.runs import Run", "estimators does not stand above runs"),
        ("qsr/jobs/train.py", "from qsr.cli.main import main", "nothing but qsr/__main__.py imports cli"),
        ("qsr/jobs/train.py", "from cli.main import main", "nothing but qsr/__main__.py imports cli"),
        ("qsr/__init__.py", "from qsr.cli.main import main", "nothing but qsr/__main__.py imports cli"),
        ("qsr/jobs/train.py", "from qsr import LPTF", "top-level package"),
        ("qsr/jobs/train.py", "import qsr", "top-level package"),
        ("qsr/manager/__init__.py", "from qsr.hparams import base", "manager has no place in LAYERS"),
        ("qsr/__main__.py", "import qsr.jobs", "only starts qsr.cli"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, text: str, blamed: str) -> None:
    rooms = {f"qsr/{name}/__init__.py": "" for name in LEVEL if name not in ("cli", "lattice")}
    root = _plant(tmp_path, {**rooms, "cli/main.py": "", "qsr/lattice.py": "", "qsr/samplers/rnn.py": "", file: text})
    (message,) = upward_imports(root)
    assert blamed in message


def test_downward_imports_are_allowed(tmp_path: Path) -> None:
    files = {
        "qsr/__init__.py": "from qsr.jobs import train",
        "qsr/__main__.py": "from qsr.cli.main import main",
        "qsr/jobs/__init__.py": "from .train import train",
        "qsr/jobs/train.py": "from qsr.runs import Run\nfrom qsr.training import Trainer\nimport numpy",
        "qsr/training/__init__.py": "from qsr.runs import Run",
        "qsr/runs/__init__.py": "from qsr.hparams import Hparams",
        "qsr/hparams/__init__.py": "def build():\n    import importlib\n    return importlib.import_module(name)",
        "cli/main.py": "from qsr import __version__\nfrom qsr.jobs import train\nfrom . import show",
        "cli/show.py": "",
    }
    root = _plant(tmp_path, files)
    assert upward_imports(root) == [] and circles(root) == []
    assert any(found.source == "qsr.cli.main" and found.target == "qsr.cli.show" for found in imports(root))


def test_a_circle_and_a_long_file_are_found(tmp_path: Path) -> None:
    files = {
        "qsr/samplers/__init__.py": "from .rnn import RNN",
        "qsr/samplers/rnn.py": "from qsr.samplers import Sampler",
        "qsr/samplers/late.py": "from . import settings",
        "qsr/samplers/settings.py": "def build():\n    from .late import Late",
        "demos/long.py": "pass\n" * (MAX_LINES + 1),
        "demos/full.py": "pass\n" * MAX_LINES,
    }
    root = _plant(tmp_path, files)
    assert circles(root) == ["qsr.samplers -> qsr.samplers.rnn -> qsr.samplers"]
    assert long_files(root) == [f"demos/long.py: {MAX_LINES + 1} lines"]
