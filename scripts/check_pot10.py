#!/usr/bin/env python3
"""Check that every function is at most 60 lines, from its first decorator or `def` to its last line.

Every violation of every file is reported in one pass; a file that cannot be read or parsed is one more
violation, never the end of the check.
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

LIMIT = 60
ROOT = Path(__file__).resolve().parent.parent
SKIPPED_FOLDERS = frozenset({".git", ".venv", "venv", "__pycache__", "build", "dist"})


def main(arguments: Sequence[str]) -> int:
    """Check the given files and folders, else the whole repository; the exit status."""
    _print_any_name()
    files = list(_expand(arguments)) if arguments else repository_files(ROOT)
    violations = [violation for file in files for violation in check_file(file)]
    for violation in violations:
        print(violation)
    print(f"{len(files)} files checked, {len(violations)} violations", file=sys.stderr)
    return 1 if violations else 0


def repository_files(root: Path) -> list[Path]:
    """Python files of the checkout at `root`, ignored ones left out; without git, all below it."""
    # An unpacked source archive may lie inside somebody else's repository, where git lists none of it.
    return _git_files(root) or sorted(_walk(root))


def check_file(path: Path) -> list[str]:
    """The violations of one file, in the order of their lines."""
    shown = _shown(path)
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return [f"{shown}:1 cannot be read: {error.strerror or error}"]
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return [f"{shown}:{line} is not UTF-8: {error.reason}"]
    try:
        tree = _parse(source)
    except SyntaxError as error:
        return [f"{shown}:{error.lineno or 1} cannot be parsed: {error.msg}"]
    except (ValueError, RecursionError, MemoryError) as error:
        return [f"{shown}:1 cannot be parsed: {str(error) or type(error).__name__}"]
    return [
        f"{shown}:{line} {name} {length} lines (limit {LIMIT})"
        for line, name, length in sorted(functions(tree))
        if length > LIMIT
    ]


def functions(tree: ast.Module) -> Iterator[tuple[int, str, int]]:
    """Line of the `def`, dotted name and length of every function, those inside others included."""
    # A stack instead of recursion: a long expression nests deeper than Python's own stack.
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            prefix = f"{prefix}{node.name}."
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.lineno, prefix.removesuffix("."), (node.end_lineno or node.lineno) - first + 1
        pending.extend((child, prefix) for child in ast.iter_child_nodes(node))


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # An invalid escape is the linter's business; with -W error it would look like a syntax error.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _expand(arguments: Iterable[str]) -> Iterator[Path]:
    for argument in arguments:
        path = Path(argument)
        yield from sorted(_walk(path)) if path.is_dir() else [path]


def _git_files(root: Path) -> list[Path]:
    # Installed packages are not this project's functions, whatever the index says about them.
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", "*.py", ":(exclude).venv"]
    try:
        listing = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = {root / os.fsdecode(name) for name in listing.split(b"\0") if name}
    # A file deleted but not yet committed is still listed.
    return sorted(path for path in paths if path.is_file())


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)


def _print_any_name() -> None:
    # A file name or identifier that the terminal cannot show must not end the check.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
