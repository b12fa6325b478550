"""Writing so that a reader, or a crash, finds the old file or the new one, never half."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import reason as reason


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Replace the file `path` by `content` (text as UTF-8), on disk when this returns."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, with the same suffix, for a writer that wants a file name.

    It takes the place of `path` if the block succeeds and is removed if it fails.
    """
    target = Path(path)
    temporary = _beside(target)
    try:
        with _named(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a directory that is filled in the block.

    A directory cannot be renamed onto another, so one that is replaced is first moved to `previous_of(path)`. A crash
    just then leaves it there, whole; whoever reads such directories looks in both places.
    """
    target = Path(path)
    temporary, previous = _beside(target), previous_of(target)
    temporary.mkdir()
    try:
        with _named(target):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            sync_directory(temporary)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(target, previous)
        os.replace(temporary, target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
        elif previous.exists():
            os.replace(previous, target)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """What a failed write does not know: an error of `write` has no file name, and users are told which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


def previous_of(path: Path) -> Path:
    """Where `replacing_directory` keeps the old directory while the new one takes its name."""
    return path.with_name(f".{path.name}.previous")


def check_own(path: Path, folder: bool = False) -> None:
    """Whether a file (or folder) that is written where it stands is one, or is not there yet.

    Raises:
        ConfigError: for a link, which would lead the writing elsewhere, and for anything else.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        kinds = {"a link": stat.S_ISLNK, "a folder": stat.S_ISDIR, "a file": stat.S_ISREG, "a pipe or a device": bool}
        found = next(name for name, is_this in kinds.items() if is_this(mode))
        raise ConfigError(f"{path}: is {found}, expected a {'folder' if folder else 'file'} of the run itself")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers of `path` that were killed. Only for who alone may write `path`."""
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(f".{path.stem}.") and leftover.name.endswith(f".tmp{path.suffix}"):
            remove(leftover)


def remove(entry: Path) -> None:
    """Remove a file, a link or a folder with all that is in it."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def sync_directory(path: Path) -> None:
    """Make renames in `path` last through a power failure; Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
