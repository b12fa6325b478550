"""Look up the known vulnerabilities of all locked packages: what `make audit` runs.

The exit status is 1 if a package has one that a newer version mends, else 0, also where the database cannot be reached, which one
line then says.
"""

import json
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

LOCKS = Path(__file__).resolve().parent
# A version whose vulnerabilities have long been published: a database that knows none of them is not one.
KNOWN = "jinja2==2.4.1"
# What is accepted, by its name in the database, and why: for example {"PYSEC-2026-1": "in a server that qsr never starts"}.
ACCEPTED: dict[str, str] = {}


class Unreachable(Exception):
    """The database gave no answer."""


def pins(*names: str) -> list[list[str]]:
    """`name==version` of the locks, in lists that have each name once: Pythons may have different versions."""
    versions: dict[str, list[str]] = {}
    for name in names:
        for line in (LOCKS / name).read_text(encoding="utf-8").splitlines():
            if line.strip() and line[0] not in "# ":
                requirement = Requirement(line.rstrip("\\"))
                versions.setdefault(requirement.name, []).append(f"{requirement.name}{requirement.specifier}")
    return [[pin for pin in layer if pin] for layer in zip_longest(*versions.values())]


def looked_up(pinned: list[str], seconds: int) -> list[dict[str, Any]]:
    """What pip-audit says of each pin: its name, version and vulnerabilities.

    Raises:
        Unreachable: if it has no answer within so many seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pins.txt")
        file.write_text("\n".join(pinned), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "-f", "json", "--progress-spinner", "off", "--no-deps", "--disable-pip"]
        try:
            found = subprocess.run([*command, "-r", str(file)], capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"no answer within {seconds} s") from None
    try:
        packages: list[dict[str, Any]] = json.loads(found.stdout)["dependencies"]
    except ValueError:
        raise Unreachable((found.stderr.strip() or "no answer").splitlines()[-1]) from None
    return packages


def main() -> int:
    try:
        if not any(package.get("vulns") for package in looked_up([KNOWN], seconds=60)):
            raise Unreachable(f"it knows nothing of {KNOWN}")
        packages = [each for layer in pins("packages.lock", "torch.lock") for each in looked_up(layer, seconds=600)]
    except Unreachable as error:
        print(f"audit: nothing was audited, the database of vulnerabilities could not be reached ({error})")
        return 0
    mended = 0
    for package in packages:
        name = f"{package['name']}=={package.get('version', '')}"
        if "skip_reason" in package:
            print(f"audit: {package['name']} was left out: {package['skip_reason']}")
        for flaw in package.get("vulns", []):
            known_as = {flaw["id"], *flaw["aliases"]}
            if known_as & set(ACCEPTED):
                print(f"audit: {name} has {flaw['id']}, which is accepted: {ACCEPTED[(known_as & set(ACCEPTED)).pop()]}")
                continue
            mended += bool(flaw["fix_versions"])
            way_out = f"mended in {', '.join(flaw['fix_versions'])}" if flaw["fix_versions"] else "not mended yet"
            print(f"audit: {name} has {flaw['id']}, {way_out}")
    print(f"audit: {len(packages)} locked versions, {mended} vulnerabilities that a newer version mends")
    return int(mended > 0)


if __name__ == "__main__":
    sys.exit(main())
