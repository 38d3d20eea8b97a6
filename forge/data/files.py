"""Corpora whose documents are files: the standard library's source, and text files by pattern.

What is no usable text is skipped and counted; devices, FIFOs and files without an end never hold a run up.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from forge.config.corpus import FILE_KINDS
from forge.data.documents import Document, Skipped, Source, UnusableError, require_text
from forge.errors import CorpusError

MAX_FILE_BYTES = 64 * 2**20
"""A larger file is skipped and counted: it is a dump or a log, not a document."""

_GLOB_MAGIC = frozenset("*?[")
# `_sysconfigdata*` and `config-*` hold this machine's build paths: with them no two machines share a hash.
_STDLIB_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
)


def open_stdlib(spec: str, skipped: Skipped) -> Source:
    """`stdlib`: every module of the standard library that runs this program."""
    return Source("PSF-2.0", _documents(_find_stdlib(spec), skipped), platform.python_version())


def open_text(spec: str, skipped: Skipped) -> Source:
    """`text:GLOB`: each file is a document."""
    found = find_files(spec, spec.partition(":")[2])
    return Source("unknown (your own files)", _documents(found, skipped))


def _documents(found: Iterable[tuple[str, Path]], skipped: Skipped) -> Iterator[Document]:
    for name, path in found:
        try:
            yield Document.of(name, read_text_file(path))
        except UnusableError as error:
            skipped.add(error.reason, name)


def _find_stdlib(spec: str) -> Iterator[tuple[str, Path]]:
    if spec != "stdlib":
        raise CorpusError(f"corpus {spec}: stdlib takes no argument. Set data.corpus to stdlib.")
    root = Path(sysconfig.get_paths()["stdlib"]).resolve()
    if not (root / "os.py").is_file():
        # Zipped and stripped distributions hold compiled modules only.
        raise CorpusError(
            f"corpus {spec}: this Python came without the source of its standard library (looked in {root}). "
            "Use another Python, or text:GLOB."
        )
    for parent, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if name not in _STDLIB_LEFT_OUT and not name.startswith("config-")
        ]
        for name in files:
            path = Path(parent, name)
            if not name.endswith(".py") or name.startswith("_sysconfigdata"):
                continue
            # Distributions link sitecustomize.py to /etc: that is this machine's, not the library's.
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                continue
            yield str(path.relative_to(root)), path


def find_files(spec: str, pattern: str) -> Iterator[tuple[str, Path]]:
    kind = spec.partition(":")[0]
    ending = FILE_KINDS[kind]
    if not pattern.strip():
        raise CorpusError(
            f"corpus {spec}: no files are named. Write {kind}:GLOB, for example {kind}:~/notes/**/*{ending}."
        )
    try:
        whole = Path(pattern).expanduser()
        if whole.is_dir():
            raise CorpusError(
                f"corpus {spec}: this is a folder. Name files in it: "
                f"{kind}:{pattern.rstrip('/')}/**/*{ending}."
            )
        if whole.exists():
            yield whole.name, whole
            return
        yield from _matches(spec, whole)
    except (ValueError, RuntimeError, OSError) as error:
        # A NUL byte, `**` glued to other characters, `~nobody`, or a name that the system refuses.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CorpusError(
            f"corpus {spec}: the pattern cannot be used: {reason}. Correct data.corpus."
        ) from error


def _matches(spec: str, whole: Path) -> Iterator[tuple[str, Path]]:
    """Files that match the pattern; hidden ones only where the pattern itself names them, as in a shell."""
    parts = whole.parts
    first = next((i for i, part in enumerate(parts) if _GLOB_MAGIC & set(part)), len(parts))
    base, rest = Path(*parts[:first]), list(parts[first:])
    if not rest:
        return
    if base.is_dir() and not os.access(base, os.R_OK | os.X_OK):
        raise CorpusError(f"corpus {spec}: the folder {base} cannot be read by you. Fix its permissions.")
    if rest[-1] == "**":
        rest.append("*")
    wants_hidden = any(part.startswith(".") for part in rest)
    # pathlib's `**` does not follow links to folders, so a cycle of links cannot trap it.
    for path in base.glob("/".join(rest)):
        inside = path.relative_to(base)
        hidden = any(part.startswith(".") for part in inside.parts)
        if (wants_hidden or not hidden) and not path.is_dir():
            yield str(inside), path


def read_text_file(path: Path) -> bytes:
    """The bytes of a regular file that holds UTF-8 text; anything else raises `UnusableError`."""
    try:
        require_regular(path)
        data = _read_regular(path)
    except OSError as error:
        raise UnusableError("unreadable") from error
    return require_text(data)


def require_regular(path: Path) -> None:
    """Refuse what is no regular file before it is opened: opening a device can already do something."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnusableError("not a regular file")


def _read_regular(path: Path) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise UnusableError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        # One byte more than it should have: shows a growing log, and the endless files of /proc.
        data = file.read(size + 1)
    if len(data) > size:
        raise UnusableError("growing while it was read")
    return data


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read; anything else raises `UnusableError`."""
    # O_NONBLOCK: should a FIFO have taken the file's place since, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableError("not a regular file")
        yield file
