"""Every durable effect goes through `forge.durable`: a walk over the syntax of the program finds any other.

What is allowed elsewhere is no durable effect, and the list says of each why.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("forge/durable.py", "forge/validate/")
"""The seam itself; and proofs, which write in scratch folders that they delete at their end."""
OF_OS = frozenset(
    {
        "chmod", "chown", "copy_file_range", "fchmod", "fchown", "fdatasync", "fsync", "ftruncate", "lchown",
        "link", "makedirs", "mkdir", "mkfifo", "mknod", "posix_fallocate", "pwrite", "pwritev", "remove",
        "removedirs", "removexattr", "rename", "renames", "replace", "rmdir", "sendfile", "setxattr",
        "splice", "symlink", "sync", "truncate", "unlink", "utime", "write", "writev",
    }
)  # fmt: skip
WRITING_FLAGS = frozenset({"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"})
ONLY_LOOKS = frozenset({"disk_usage", "get_terminal_size", "which"})
"""Of shutil; everything else there copies, moves or deletes."""
OF_ANY = frozenset(
    {
        "chmod", "hardlink_to", "lchmod", "mkdir", "open_memmap", "rename", "rmdir", "save_file",
        "save_model", "save_pretrained", "savetxt", "savez", "savez_compressed", "serialize_file",
        "symlink_to", "tofile", "touch", "unlink", "write_bytes", "write_text",
    }
)  # fmt: skip
"""Methods of paths, and what libraries write tensors with, whatever it is called on."""
OF_MODULES: Mapping[str, frozenset[str] | None] = {
    "tempfile": None,
    "torch": frozenset({"save"}),
    "numpy": frozenset({"save"}),
    "pickle": frozenset({"dump"}),
    "json": frozenset({"dump"}),
    "mmap": frozenset({"mmap"}),
    "logging": frozenset({"FileHandler"}),
    "logging.handlers": None,
}
"""None means all of it."""
OPENERS = frozenset({"FileIO", "TarFile", "ZipFile", "fdopen", "memmap", "open"})
"""Take a mode, after what they open."""
CUSTOMARY = {"np": "numpy"}
"""What a module is called, where a line stands without its import."""

_LOCK = "makes an empty file to lock; nothing is ever read from it or written to it"
_DISPLAY = "who holds the lease, for display; the lock is what counts"
_WRITER = "of TensorWriter, which writes through the seam"
_LOG = "lines for people; what must last is in the registry, and a cut may cost the last of them"
_NOTE = "that a screen is on a terminal, for as long as its process lives"
_NO_FILE = "a terminal, a pipe or /dev/null, and no file"
ALLOWED = {
    ("forge/cli/exits.py", "os.open"): _NO_FILE,
    ("forge/data/corpora.py", "open"): "of a kind of corpus, all of which only read",
    ("forge/data/shards.py", "os.open"): _LOCK,
    ("forge/engine/child.py", "os.write"): _NO_FILE,
    ("forge/engine/journal.py", "os.open"): _LOG,
    ("forge/engine/journal.py", "os.write"): _LOG,
    ("forge/engine/lease.py", "os.ftruncate"): _DISPLAY,
    ("forge/engine/lease.py", "os.open"): _LOCK,
    ("forge/engine/lease.py", "os.pwrite"): _DISPLAY,
    ("forge/engine/logfile.py", "os.open"): _LOG,
    ("forge/engine/process.py", "os.open"): _LOG,
    ("forge/home.py", "chmod"): "looked at again whenever a home is opened; until then it is as it was",
    ("forge/locks.py", "os.open"): _LOCK,
    ("forge/merge/merging.py", "write_bytes"): _WRITER,
    ("forge/merge/writer.py", "write_bytes"): _WRITER,
    ("forge/reading.py", "os.open"): "only reads; its flags have a name",
    ("forge/registry/migrate.py", "VACUUM"): "into a scratch file, which the seam syncs and renames",
    ("forge/registry/sqlite.py", "chmod"): "looked at again whenever a database is opened, as home.py does",
    ("forge/registry/sqlite.py", "executescript"): "gives free pages back, outside of any transaction",
    ("forge/registry/sqlite.py", "COMMIT"): "one is handed to the seam, and one ends what only reads",
    ("forge/terminal.py", "os.open"): _LOG,
    ("forge/terminal.py", "os.write"): _NO_FILE,
    ("forge_tui/app.py", "touch"): "of what reads for the screen, which reads again",
    ("forge_tui/life.py", "os.write"): _NO_FILE,
    ("forge_tui/notes.py", "mkdir"): _NOTE,
    ("forge_tui/notes.py", "write_text"): _NOTE,
    ("forge_tui/terminal.py", "os.open"): _NO_FILE,
    ("forge_tui/terminal.py", "os.write"): _NO_FILE,
}
"""By file and call."""


def effects(source: str) -> Iterator[str]:
    """What in a module changes a disk: calls, and functions that are handed on to be called."""
    tree = ast.parse(source)
    names = _imported(tree)
    called, inner = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called.add(node.func)
            if (effect := _effect(node, names)) is not None:
                yield effect
        elif isinstance(node, ast.Attribute):
            inner.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and node not in called | inner:
            *of, name = _dotted(node, names)
            if (effect := _of_module(".".join(of), name)) is not None:
                yield effect


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names of a module stand for, where they are a module or come from one."""
    names = dict(CUSTOMARY)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            # `o = os`, by whatever name it goes there.
            stands_for = names.get(node.value.id, node.value.id)
            if stands_for in ("os", "shutil", *OF_MODULES):
                names |= {target.id: stands_for for target in node.targets if isinstance(target, ast.Name)}
    return names


def _dotted(node: ast.expr, names: Mapping[str, str]) -> list[str]:
    """`os`, `replace` for `o.replace` after `import os as o`; an expression in between is an empty name."""
    match node:
        case ast.Name():
            return names.get(node.id, node.id).split(".")
        case ast.Attribute():
            return [*_dotted(node.value, names), node.attr]
    return [""]


def _of_module(of: str, name: str) -> str | None:
    """The name of an effect that is a function of a module."""
    if of in ("os", "posix"):
        return f"os.{name}" if name in OF_OS else None
    if of == "shutil":
        return None if name in ONLY_LOOKS else f"shutil.{name}"
    if of in OF_MODULES:
        some = OF_MODULES[of]
        return f"{of}.{name}" if some is None or name in some else None
    return None


def _effect(call: ast.Call, names: Mapping[str, str]) -> str | None:
    *path, name = _dotted(call.func, names)
    of = ".".join(path)
    if "durable" in path[-1:]:
        return None
    if (effect := _of_module(of, name)) is not None:
        return effect
    match of, name:
        case "os", "open":
            flags = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
            # Flags that are not written out may be any.
            return "os.open" if flags & WRITING_FLAGS or "O_RDONLY" not in flags else None
        case "os" | "shutil", _ if name not in OPENERS:
            return None
        case _, "getattr":
            asked = [node.value for node in call.args[1:2] if isinstance(node, ast.Constant)]
            return _of_module(".".join(_dotted(call.args[0], names)), str(*asked)) if call.args else None
        case _, _ if name in OPENERS:
            return name if _may_write(call, of) else None
        case _, "replace":
            # Of a string it takes two, and of a data class its fields by name.
            one = [*call.args, *(each for each in call.keywords if each.arg == "target")]
            return "replace" if len(one) == 1 and len(call.keywords) <= (not call.args) else None
        case _, "execute" | "executemany":
            return _ending(call)
        case _, "executescript":
            # It commits before it does anything.
            return "executescript"
        case _, "commit":
            return "COMMIT"
    return name if name in OF_ANY else None


def _may_write(call: ast.Call, of: str) -> bool:
    """Whether something is opened with a mode that writes, or with one that is not written out."""
    kind = of.rpartition(".")[2]
    if kind[:1].isupper() and kind != "Path":
        # A class of Forge's own, such as `Registry.open`.
        return False
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    # The method of a path takes the mode first; all else takes first what it opens.
    placed = call.args[:2] if isinstance(call.func, ast.Attribute) and call.func.attr == "open" else []
    if not placed or of in ("io", "os", "gzip", "bz2", "lzma", "codecs", "tarfile"):
        placed = call.args[1:2]
    if isinstance(call.func, ast.Attribute) and call.func.attr == "memmap":
        placed = call.args[2:3]
        if not placed and not named:
            # Its mode is `r+` where none is given.
            return True
    for mode in [*named, *placed]:
        if not isinstance(mode, ast.Constant):
            return True
        text = str(mode.value)
        if len(text) <= 3 and set(text) & set("wax+"):
            return True
    return any(keyword.arg is None for keyword in call.keywords)


def _ending(call: ast.Call) -> str | None:
    """The statement with which SQL writes to a disk by itself."""
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
    first = [text.upper().split()[0] for text in texts if isinstance(text, str) and text.split()]
    ends = {"COMMIT": "COMMIT", "END": "COMMIT", "RELEASE": "COMMIT", "VACUUM": "VACUUM"}
    return next((ends[word] for word in first if word in ends), None)


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
        "path.touch()", "os.fdopen(d, 'wb')", "os.fdopen(d, mode)", "io.FileIO(path, 'w')", "FileIO(p, mode)",
        "io.open(path, 'a')", "open(path, mode)", "open(path, 'r+b')", "path.open(mode)", "path.open('x')",
        "open(path, **how)", "gzip.open(path, 'wb')", "zipfile.ZipFile(path, 'w')", "np.memmap(p, int, 'w+')",
        "np.memmap(p, int)",
        "path.chmod(0o600)", "os.utime(p)", "os.chmod(p, 0o600)", "path.replace(target=b)",
        "c.executescript(text)", "c.execute(f'COMMIT {x}')", "c.execute('VACUUM INTO ?', (p,))",
        "import os as o; o.replace(a, b)", "import os.path as op, os as o; o.unlink(a)",
        "from os import replace; replace(a, b)", "from os import open as o; o(p, flags)",
        "from shutil import rmtree; rmtree(p)", "from shutil import move as m; m(a, b)",
        "import shutil as s; s.copyfile(a, b)", "from tempfile import mkstemp; mkstemp()",
        "from io import FileIO as F; F(p, 'wb')", "import torch as t; t.save(x, p)", "o = os; o.remove(p)",
        "from pathlib import Path as P; P(a).touch()", "partial(os.write, d)", "list(map(os.unlink, paths))",
        "f = shutil.rmtree", "getattr(os, 'replace')(a, b)", "logging.FileHandler(p)", "mmap.mmap(d, 0)",
        "logging.handlers.RotatingFileHandler(p)",
    ],
)  # fmt: skip
def test_an_effect_is_recognised(line: str) -> None:
    assert len(list(effects(f"def f():\n    {line}"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')", "os.open(p, os.O_RDONLY)", "open(path)", "path.open('rb')", "json.dumps(x)",
        "shutil.disk_usage(p)", "safetensors.torch.save(tensors)", "durable.write_file(p, d)",
        "c.execute('SELECT 1')", "os.fdopen(d)", "os.fdopen(d, 'rb')", "io.FileIO(path)",
        "gzip.open(path, 'rt')",
        "from os import path; path.join(a, b)", "from shutil import which; which('git')", "os.path.exists(p)",
        "dataclasses.replace(row, name=x)", "from dataclasses import replace; replace(row, name=x)",
        "from forge.durable import write_file; write_file(p, d)", "getattr(os, 'sysconf')",
        "Registry.open(home)", "np.memmap(p, int, 'r')",
    ],
)  # fmt: skip
def test_what_only_looks_is_none(line: str) -> None:
    assert list(effects(f"def f():\n    {line}")) == []
