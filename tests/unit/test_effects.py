"""Every durable effect goes through `forge.durable`: a walk over the syntax of the program finds any other.

What is allowed elsewhere is no durable effect, and the list says of each why.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("forge/durable.py", "forge/validate/")
"""The seam itself; and proofs, which write in scratch folders that they delete at their end."""
OF_OS = frozenset(
    {
        "copy_file_range", "fdatasync", "fsync", "ftruncate", "link", "makedirs", "mkdir", "mkfifo", "mknod",
        "posix_fallocate", "pwrite", "pwritev", "remove", "removedirs", "rename", "renames", "replace",
        "rmdir", "sendfile", "symlink", "sync", "truncate", "unlink", "write", "writev",
    }
)  # fmt: skip
WRITING_FLAGS = frozenset({"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"})
ONLY_LOOKS = frozenset({"disk_usage", "get_terminal_size", "which"})
"""Of shutil; everything else there copies, moves or deletes."""
OF_ANY = frozenset(
    {
        "hardlink_to", "mkdir", "rename", "rmdir", "save_file", "save_model", "save_pretrained", "savez",
        "symlink_to", "tofile", "unlink", "write_bytes", "write_text",
    }
)  # fmt: skip
"""Methods of paths, and what libraries write tensors with, whatever it is called on."""
MODULES = {"tempfile": None, "torch": "save", "np": "save", "numpy": "save", "pickle": "dump", "json": "dump"}

_LOCK = "makes an empty file to lock; nothing is ever read from it or written to it"
_DISPLAY = "who holds the lease, for display; the lock is what counts"
_WRITER = "of TensorWriter, which writes through the seam"
_LOG = "lines for people; what must last is in the registry, and a cut may cost the last of them"
_NOTE = "that a screen is on a terminal, for as long as its process lives"
_NO_FILE = "a terminal, a pipe or /dev/null, and no file"
ALLOWED = {
    ("forge/cli/exits.py", "os.open"): _NO_FILE,
    ("forge/data/shards.py", "os.open"): _LOCK,
    ("forge/engine/child.py", "os.write"): _NO_FILE,
    ("forge/engine/journal.py", "os.open"): _LOG,
    ("forge/engine/journal.py", "os.write"): _LOG,
    ("forge/engine/lease.py", "os.ftruncate"): _DISPLAY,
    ("forge/engine/lease.py", "os.open"): _LOCK,
    ("forge/engine/lease.py", "os.pwrite"): _DISPLAY,
    ("forge/engine/logfile.py", "os.open"): _LOG,
    ("forge/engine/process.py", "os.open"): _LOG,
    ("forge/locks.py", "os.open"): _LOCK,
    ("forge/merge/merging.py", "write_bytes"): _WRITER,
    ("forge/merge/writer.py", "write_bytes"): _WRITER,
    ("forge/reading.py", "os.open"): "only reads; its flags have a name",
    ("forge/registry/sqlite.py", "COMMIT"): "one is handed to the seam, and one ends what only reads",
    ("forge/terminal.py", "os.open"): _LOG,
    ("forge/terminal.py", "os.write"): _NO_FILE,
    ("forge_tui/life.py", "os.write"): _NO_FILE,
    ("forge_tui/notes.py", "mkdir"): _NOTE,
    ("forge_tui/notes.py", "write_text"): _NOTE,
    ("forge_tui/terminal.py", "os.open"): _NO_FILE,
    ("forge_tui/terminal.py", "os.write"): _NO_FILE,
}
"""By file and call."""


def effects(source: str) -> Iterator[str]:
    """The calls in a module that change a disk."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return (name for call in calls if (name := _effect(call)) is not None)


def _effect(call: ast.Call) -> str | None:
    name, of = _name(call.func)
    said = [node.value for node in _arguments(call) if isinstance(node, ast.Constant)]
    texts = [value for value in said if isinstance(value, str)]
    match of, name:
        case "durable", _:
            return None
        case "os", "open":
            flags = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
            # Flags that are not written out may be any.
            return "os.open" if flags & WRITING_FLAGS or "O_RDONLY" not in flags else None
        case "os", _:
            return f"os.{name}" if name in OF_OS else None
        case "shutil", _:
            return None if name in ONLY_LOOKS else f"shutil.{name}"
        case _, "open" | "memmap":
            modes = [text for text in texts if len(text) <= 3]
            return "open" if any(set(mode) & set("wax+") for mode in modes) else None
        case _, "replace":
            # Of a string it takes two.
            return "replace" if len(call.args) == 1 and not call.keywords else None
        case _, "execute" | "executescript":
            ends = any(text.upper().lstrip().startswith(("COMMIT", "END")) for text in texts)
            return "COMMIT" if ends else None
        case _, "commit":
            return "COMMIT"
    if of in MODULES:
        return f"{of}.{name}" if MODULES[of] in (name, None) else None
    return name if name in OF_ANY else None


def _name(function: ast.expr) -> tuple[str, str]:
    """What is called, and the name that it is called on; empty where there is none."""
    if isinstance(function, ast.Attribute):
        return function.attr, function.value.id if isinstance(function.value, ast.Name) else ""
    return function.id if isinstance(function, ast.Name) else "", ""


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


@cache
def found() -> frozenset[tuple[str, str]]:
    """File and call of every effect in the program."""
    files = [path for top in ("forge", "forge_tui") for path in sorted((ROOT / top).rglob("*.py"))]
    assert len(files) > 100
    return frozenset(
        (str(path.relative_to(ROOT)), call) for path in files for call in effects(path.read_text("utf-8"))
    )


def test_no_effect_goes_past_the_seam() -> None:
    strangers = sorted(key for key in found() if not key[0].startswith(ELSEWHERE) and key not in ALLOWED)
    assert strangers == [], "use forge.durable, so that the tests of crashes see it"


def test_what_is_allowed_is_there() -> None:
    assert ALLOWED.keys() - found() == set()


@pytest.mark.parametrize(
    "line",
    [
        "os.rename(a, b)", "os.fsync(d)", "os.open(p, os.O_WRONLY | os.O_CREAT)", "os.open(p, flags)",
        "path.write_text('x')",
        "Path(a).unlink()", "path.rename(b)", "temporary.replace(path)", "open(path, 'w')", "path.open('ab')",
        "open(path, mode='x')", "shutil.rmtree(path)", "safetensors.torch.save_file(tensors, path)",
        "save_file(tensors, path)", "torch.save(x, p)", "np.save(p, x)", "array.tofile(p)", "json.dump(x, f)",
        "tempfile.NamedTemporaryFile()", "c.execute('COMMIT')", "c.commit()", "path.mkdir()",
    ],
)  # fmt: skip
def test_an_effect_is_recognised(line: str) -> None:
    assert len(list(effects(f"def f():\n    {line}"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')", "os.open(p, os.O_RDONLY)", "open(path)", "path.open('rb')", "json.dumps(x)",
        "shutil.disk_usage(p)", "safetensors.torch.save(tensors)", "durable.write_file(p, d)",
        "c.execute('SELECT 1')",
    ],
)  # fmt: skip
def test_what_only_looks_is_none(line: str) -> None:
    assert list(effects(f"def f():\n    {line}")) == []
