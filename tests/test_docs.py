"""The documents point at files that exist, name the two commands, and no tracked file leaks where it was written."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]

# [text](target), ![alt](target) and [text]: target; not addresses and not anchors of the same page.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
# Written so that no pattern matches its own source.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home|Users|opt|tmp|mnt)/[\w.]")
REGISTRY = re.compile(
    r"py[p]i\.(?:org|python)|python[h]osted\.|download\.py[t]orch\.|ana[c]onda\.(?:org|com)|(?:--|_)(?:extra-)?index[-_]url|--(?:find-links|trusted-host)",
    re.IGNORECASE,
)


def local_links(text: str) -> list[str]:
    """Targets inside the repository, without their anchors."""
    targets = (first or second for first, second in LINK.findall(text))
    return [target.partition("#")[0] for target in targets if not re.match(r"#|[a-z][a-z0-9+.-]*:", target)]


def leaks(text: str) -> list[str]:
    """What only somebody's own machine or network explains."""
    return [match.group() for pattern in (MACHINE_PATH, REGISTRY) for match in pattern.finditer(text)]


def tracked_texts() -> dict[str, str]:
    """Every file that git knows or would add, as text; binary files are left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    texts = {}
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            texts[name] = data.decode("utf-8", errors="replace")
    return texts


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [target for target in local_links(text) if not (ROOT / target).exists()] == []


def test_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_file_tells_where_it_was_written() -> None:
    texts = tracked_texts()
    assert "tests/test_docs.py" in texts
    assert {name: found for name, text in texts.items() if (found := leaks(text))} == {}


def test_the_checks_can_fail() -> None:
    text = "[a](docs/a.md#part) ![b](b.png) [c](https://example.org/x) [d](#d)\n[e]: e.txt\n[f](mailto:a@b.c)"
    assert local_links(text) == ["docs/a.md", "b.png", "e.txt"]
    slash = "/"
    for leak in (
        f"{slash}home/ada/qsr",
        f"cd {slash}tmp/x",
        f'"{slash}opt/wheels"',
        "https://py" + "pi.org/x",
        "pip install --index" + "-url y",
    ):
        assert leaks(leak), leak
    assert leaks("a ~/home/x, https://example.org/home/x, ./tmp/x, #!/usr/bin/env python3") == []
