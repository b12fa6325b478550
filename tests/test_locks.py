"""What `make` installs is what constraints.txt names, with hashes that pip compares, and it is looked up for vulnerabilities."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.test_packaging import pinned_version, requirements, setup_cfg

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, LOCKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


update, audit = script("update"), script("audit")


def lock(name: str) -> dict[str, list[str]]:
    return update.parsed((LOCKS / name).read_text(encoding="utf-8"))


def lines_of_constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def declared_pythons() -> list[str]:
    lines = setup_cfg()["metadata"]["classifiers"].splitlines()
    return [found[1] for line in lines if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line.strip()))]


def apply_to(lines: list[str], python: str, system: str, machine: str) -> list[Requirement]:
    parsed = [Requirement(line) for line in lines]
    return [each for each in parsed if each.marker is None or update.applies(each.marker, python, system, machine)]


def test_constraints_and_locks_hold_the_same_versions() -> None:
    of_torch = [line for line in lock("torch.lock") if Requirement(line).name == "torch"]
    assert len(of_torch) == 1 and of_torch[0].startswith("torch==")
    assert sorted(lines_of_constraints()) == sorted([*lock("packages.lock"), *of_torch]), "run `make lock`"
    (cpu_build,) = lock("torch-cpu.lock")
    assert cpu_build == f"{of_torch[0]}+cpu", "the hashes of torch's CPU build are those of another version"
    assert all(update.OF_TORCH.fullmatch(Requirement(line).name) for line in lock("torch.lock"))


@pytest.mark.parametrize("name", ["packages.lock", "torch.lock", "torch-cpu.lock", "lowest.lock"])
def test_every_line_is_an_exact_version_with_hashes_and_nothing_else(name: str) -> None:
    locked = lock(name)
    assert locked
    for line, hashes in locked.items():
        assert pinned_version(Requirement(line))
        assert hashes and len(set(hashes)) == len(hashes), line
        assert [each for each in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", each)] == [], line
    text = (LOCKS / name).read_text(encoding="utf-8")
    assert "://" not in text and not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE), f"{name}: options or addresses"


def test_the_lowest_versions_are_those_of_setup_cfg() -> None:
    locked = {canonicalize_name(Requirement(line).name): pinned_version(Requirement(line)) for line in lock("lowest.lock")}
    for name, requirement in requirements().items():
        (bound,) = [each.version for each in requirement.specifier if each.operator == ">="]
        assert Version(locked[name]) == Version(bound), f"{requirement}: lowest.lock has {locked[name]}; run `make lock`"


def test_each_declared_python_has_one_version_of_everything() -> None:
    """On every system: what setup.cfg asks for is there, and no name has two lines that apply."""
    assert declared_pythons() == list(update.PYTHONS)
    assert setup_cfg()["options"]["python_requires"] == f">={update.PYTHONS[0]}"
    for python in update.PYTHONS:
        for system, machine in update.SYSTEMS:
            names = [canonicalize_name(each.name) for each in apply_to(lines_of_constraints(), python, system, machine)]
            assert len(names) == len(set(names)), (python, system)
            wanted = apply_to([str(each) for each in requirements().values()], python, system, machine)
            assert {canonicalize_name(each.name) for each in wanted} <= set(names), (python, system)
    assert [line for line in lines_of_constraints() if not update.ever_installed(line)] == []


def tiny_wheel(folder: Path) -> Path:
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "VALUE = 1\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.mark.parametrize("said", ["right", "wrong", "none"])
def test_pip_refuses_a_file_whose_hash_is_not_locked(said: str, tmp_path: Path) -> None:
    """With the options that the Makefile gives to pip."""
    wheel = tiny_wheel(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    digest = digest if said == "right" else digest[::-1]
    hashes = "" if said == "none" else f" --hash=sha256:{digest}"
    (tmp_path / "one.lock").write_text(f"tiny @ {wheel.as_uri()}{hashes}\n", encoding="utf-8")
    (options,) = re.findall(r"^locked := (.*)$", MAKEFILE, re.MULTILINE)
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *options.split(), "--no-index"]
    found = subprocess.run(
        [*command, "--target", str(target), "-r", str(tmp_path / "one.lock")], capture_output=True, text=True, cwd=tmp_path
    )
    assert (found.returncode == 0) == (target / "tiny.py").exists() == (said == "right"), found.stderr
    if said != "right":
        assert ("DO NOT MATCH THE HASHES" if said == "wrong" else "Hashes are required") in found.stderr


@pytest.mark.parametrize("torch", ["", "torch==2.13.0+cu126"])
def test_make_installs_only_what_is_locked(torch: str, tmp_path: Path) -> None:
    """Every call of pip that `make` would make: from a lock, or qsr itself, or the torch that was asked for."""
    words = ["make", "-n", "venv", "test-lowest", f"VENV={tmp_path / 'venv'}", f"TORCH={torch}", f"PYTHON={sys.executable}"]
    shown = subprocess.run([*words, f"LOWEST_PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True, check=True)
    calls = re.findall(r"-m pip [^;&|\n]*\binstall\b[^;&|\n]*", shown.stdout)
    own = [call for call in calls if call.rstrip().endswith("install -qq --no-deps --no-build-isolation -e .")]
    asked = [call for call in calls if "constraints.txt" in call and f'"{torch}"' in call]
    locked = [
        call for call in calls if "--require-hashes --no-deps --no-build-isolation" in call and re.search(r"-r \S+\.lock", call)
    ]
    assert len(own) == 2 and len(asked) == 1 and len(locked) == 6
    assert len(own) + len(asked) + len(locked) == len(calls), calls


class Database(ThreadingHTTPServer):
    """A database of vulnerabilities in the form of osv.dev, with what a test says of packages."""

    def __init__(self, flaws: dict[str, list[dict[str, object]]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.flaws, self.asked = flaws, set[str]()


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        assert isinstance(self.server, Database)
        self.server.asked.add(f"{name}=={asked['version']}")
        found = self.server.flaws.get(name) or self.server.flaws.get(f"{name}=={asked['version']}")
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def flaw(name: str, number: str, fixed: str | None) -> dict[str, object]:
    events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
    affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
    return {"id": number, "aliases": [f"CVE-{number}"], "summary": "a flaw", "affected": affected}


JINJA = {"jinja2==2.4.1": [flaw("jinja2", "OLD-1", "2.7.2")]}


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    server = Database(dict(JINJA))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_locked_version_is_looked_up(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main() == 0
    assert re.search(r"(\d+) locked versions, 0 vulnerabilities", capsys.readouterr().out)
    locked = [Requirement(line) for name in ("packages.lock", "torch.lock") for line in lock(name)]
    assert database.asked == {f"{canonicalize_name(each.name)}{each.specifier}" for each in locked} | {"jinja2==2.4.1"}


def test_a_flaw_that_a_newer_version_mends_fails_unless_it_is_accepted(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database.flaws |= {"werkzeug": [flaw("werkzeug", "NEW-1", "99.0")], "nvidia-cublas": [flaw("nvidia-cublas", "NEW-2", None)]}
    assert audit.main() == 1
    shown = capsys.readouterr().out
    assert re.search(r"werkzeug==\S+ has CVE-NEW-1, mended in 99\.0\n", shown) and "1 vulnerabilities that" in shown
    assert re.search(r"nvidia-cublas==\S+ has CVE-NEW-2, not mended yet\n", shown)
    monkeypatch.setitem(audit.ACCEPTED, "NEW-1", "no server is started")
    assert audit.main() == 0
    assert "has CVE-NEW-1, which is accepted: no server is started\n" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["closed", "ignorant"])
def test_a_database_that_is_not_there_is_told_and_fails_nothing(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Also one that answers to everything that it knows nothing, as a mirror without that service does."""
    if state == "closed":
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", "http://127.0.0.1:9/")
    database.flaws.clear()
    assert audit.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("audit: nothing was audited, the database of vulnerabilities could not be reached (")
    assert len(database.asked) == (state == "ignorant")
