"""Write constraints.txt, packages.lock, torch.lock and lowest.lock anew from setup.cfg: what `make lock` runs.

Versions that stand in constraints.txt stay where they fit; a line that was taken out, or that something missed, gets the
newest version. Hashes are those of every file that the package index has for a version.
"""

import configparser
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LOWEST_PYTHON = "3.11"  # the oldest that has a release of every requirement, zarr among them
SYSTEMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
# torch and what only its CUDA builds need: a CPU build takes their place.
OF_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
Locked = dict[str, list[str]]  # `name==version ; marker`, and its hashes

HEADS = {
    "packages.lock": "All of constraints.txt but torch, with the SHA-256 of every file",
    "torch.lock": "The torch of the package index, and on Linux the CUDA libraries that it needs, with the SHA-256 of every file",
    "lowest.lock": f"The lower bounds of setup.cfg and what they bring in, for `make test-lowest`: Linux, Python {LOWEST_PYTHON}",
}


def resolve(*options: str, keep: str) -> Locked:
    """What `.[dev]` needs, as uv resolves it; versions in the text `keep` are preferred.

    Raises:
        SystemExit: where nothing fits, with uv's own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "out.txt")
        file.write_text(keep, encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--extra", "dev", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "-o", str(file), *options, "setup.cfg"]
        if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(1)
        return parsed(file.read_text(encoding="utf-8"))


def parsed(text: str) -> Locked:
    """The requirements of a lock, with their hashes."""
    found: Locked = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            found[requirement.strip()] = [word.strip() for word in hashes]
    return found


def ever_installed(line: str) -> bool:
    """False for what only a browser or another system would install."""
    marker = Requirement(line).marker
    return marker is None or any(applies(marker, python, *system) for python in PYTHONS for system in SYSTEMS)


def applies(marker: Marker, python: str, system: str, machine: str) -> bool:
    """Whether a marker holds for the newest release of a Python on a system."""
    where = {"python_version": python, "python_full_version": f"{python}.99", "sys_platform": system, "platform_machine": machine}
    names = {"linux": ("Linux", "posix"), "darwin": ("Darwin", "posix")}[system]
    where |= {"platform_system": names[0], "os_name": names[1], "implementation_name": "cpython"}
    return marker.evaluate({**where, "platform_python_implementation": "CPython"})


def lowest_versions() -> str:
    """Each lower bound of setup.cfg as an exact version."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [*config["options"]["install_requires"].split("\n"), *config["options.extras_require"]["dev"].split("\n")]
    wanted = [Requirement(line) for line in lines if line.strip()]
    bounds = [(need, next(each.version for each in need.specifier if each.operator == ">=")) for need in wanted]
    return "".join(f"{need.name}=={version}{f' ; {need.marker}' if need.marker else ''}\n" for need, version in bounds)


def write(name: str, locked: Locked) -> None:
    lines = [f"# {HEADS[name]}. Written by `make lock`.\n"]
    lines += [" \\\n    ".join((line, *(f"--hash={each}" for each in hashes))) + "\n" for line, hashes in locked.items()]
    (ROOT / "locks" / name).write_text("".join(lines), encoding="utf-8")


def main() -> None:
    constraints = ROOT / "constraints.txt"
    pins = constraints.read_text(encoding="utf-8")
    torch_lock = ROOT / "locks" / "torch.lock"
    of_torch = torch_lock.read_text(encoding="utf-8") if torch_lock.exists() else ""
    every = resolve("--universal", "--python-version", PYTHONS[0], keep=pins + "\n".join(parsed(of_torch)))
    every = {line: hashes for line, hashes in every.items() if ever_installed(line)}
    torch = {line: hashes for line, hashes in every.items() if OF_TORCH.fullmatch(Requirement(line).name)}
    write("torch.lock", torch)
    write("packages.lock", {line: hashes for line, hashes in every.items() if line not in torch})
    head = "".join(line for line in pins.splitlines(keepends=True) if line.startswith("#"))
    kept = [line for line in every if line not in torch or Requirement(line).name == "torch"]
    constraints.write_text(head + "".join(f"{line}\n" for line in kept), encoding="utf-8")

    lowest_lock = ROOT / "locks" / "lowest.lock"
    before = "\n".join(parsed(lowest_lock.read_text(encoding="utf-8"))) if lowest_lock.exists() else ""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bounds:
        bounds.write(lowest_versions())
        bounds.flush()
        where = ("--python-version", LOWEST_PYTHON, "--python-platform", "linux")
        write("lowest.lock", resolve(*where, "--constraint", bounds.name, keep=before))


if __name__ == "__main__":
    main()
