"""The function-length check: what counts as a line, and that nothing keeps it from the next file.

Every test works on files of its own, so the repository's code cannot change a verdict here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_pot10


def function_of(lines: int, name: str = "long", indent: str = "", keyword: str = "def") -> str:
    """Source of a function that is `lines` long from `def` to its last line."""
    body = "".join(f"{indent}    pass\n" for _ in range(lines - 1))
    return f"{indent}{keyword} {name}():\n{body}"


def write(folder: Path, name: str, source: str | bytes) -> Path:
    """Write a source file and return its path."""
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode("utf-8"))
    return path


def test_exactly_sixty_lines_pass(tmp_path: Path) -> None:
    assert check_pot10.check_file(write(tmp_path, "a.py", function_of(60))) == []


def test_sixty_one_lines_fail(tmp_path: Path) -> None:
    path = write(tmp_path, "a.py", "x = 1\n\n" + function_of(61))
    assert check_pot10.check_file(path) == [f"{path}:3 long 61 lines (limit 60)"]


def test_decorators_count(tmp_path: Path) -> None:
    decorators = "@first\n@second(\n    1,\n)\n"
    path = write(tmp_path, "a.py", decorators + function_of(57))
    assert check_pot10.check_file(path) == [f"{path}:5 long 61 lines (limit 60)"]
    assert check_pot10.check_file(write(tmp_path, "b.py", decorators + function_of(56))) == []


def test_async_functions_and_methods_count(tmp_path: Path) -> None:
    source = (
        function_of(61, "wait", keyword="async def")
        + "class Outer:\n    class Inner:\n"
        + function_of(62, "method", indent=" " * 8)
    )
    path = write(tmp_path, "a.py", source)
    assert check_pot10.check_file(path) == [
        f"{path}:1 wait 61 lines (limit 60)",
        f"{path}:64 Outer.Inner.method 62 lines (limit 60)",
    ]


def test_a_nested_function_counts_by_itself_and_in_its_parent(tmp_path: Path) -> None:
    path = write(tmp_path, "a.py", "def parent():\n" + function_of(61, "child", indent="    "))
    assert check_pot10.check_file(path) == [
        f"{path}:1 parent 62 lines (limit 60)",
        f"{path}:2 parent.child 61 lines (limit 60)",
    ]


def test_a_function_inside_a_branch_is_found(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.py", "try:\n    if True:\n" + function_of(61, indent=" " * 8) + "finally: pass\n"
    )
    assert check_pot10.check_file(path) == [f"{path}:3 long 61 lines (limit 60)"]


def test_every_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path, "a.py", function_of(61, "one") + function_of(70, "two"))
    broken = write(tmp_path, "b.py", "def (:\n")
    undecodable = write(tmp_path, "c.py", b"# fine\nname = '\xff'\n")
    missing = tmp_path / "d.py"
    last = write(tmp_path, "e.py", function_of(99))
    status = check_pot10.main([str(path) for path in (first, broken, undecodable, missing, last)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[0] == f"{first}:1 one 61 lines (limit 60)"
    assert lines[1] == f"{first}:62 two 70 lines (limit 60)"
    assert lines[2].startswith(f"{broken}:1 cannot be parsed: ")
    assert lines[3].startswith(f"{undecodable}:2 is not UTF-8: ")
    assert lines[4] == f"{missing}:1 cannot be read: No such file or directory"
    assert lines[5:] == [f"{last}:1 long 99 lines (limit 60)"]


@pytest.mark.parametrize(
    "source",
    [b"x = 1\x00\n", b"(" * 300, b"def f(:\n", "def f():\n\treturn 1\n        return 2\n".encode("utf-16")],
    ids=["null byte", "too deep", "syntax error", "utf-16"],
)
def test_a_file_that_cannot_be_parsed_is_one_violation(tmp_path: Path, source: bytes) -> None:
    path = write(tmp_path, "a.py", source)
    (violation,) = check_pot10.check_file(path)
    assert violation.startswith(f"{path}:1 ")


def test_a_long_expression_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    path = write(tmp_path, "a.py", "x = " + "+".join(["1"] * 3000) + "\n" + function_of(61))
    (violation,) = check_pot10.check_file(path)
    assert violation.startswith(f"{path}:")


def test_utf8_identifiers_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "größe.py", "\ufeff" + function_of(61, "verlängern_λ"))
    assert check_pot10.check_file(path) == [f"{path}:1 verlängern_λ 61 lines (limit 60)"]


def test_a_terminal_without_utf8_still_gets_every_line(tmp_path: Path) -> None:
    write(tmp_path, "größe.py", function_of(61, "verlängern"))
    write(tmp_path, "z.py", function_of(61, "plain"))
    result = subprocess.run(
        [sys.executable, check_pot10.__file__, str(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert result.returncode == 1
    assert b"verl\\xe4ngern 61 lines" in result.stdout
    assert b"plain 61 lines" in result.stdout
    assert b"Traceback" not in result.stderr


def test_a_clean_folder_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a.py", function_of(60))
    (tmp_path / ".venv").mkdir()
    write(tmp_path / ".venv", "vendored.py", function_of(99))
    assert check_pot10.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def git(folder: Path, *arguments: str) -> None:
    """Run git in `folder`, untouched by a hook's environment."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *arguments], cwd=folder, env=clean, check=True, capture_output=True)


def test_git_decides_which_files_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".venv").mkdir()
    vendored = write(tmp_path / ".venv", "vendored.py", "")
    tracked = write(tmp_path, "tracked.py", "")
    deleted = write(tmp_path, "deleted.py", "")
    git(tmp_path, "add", "--force", *(str(path) for path in (vendored, tracked, deleted)))
    deleted.unlink()
    untracked = write(tmp_path, "naïve name.py", "")
    write(tmp_path, "ignored.py", "")
    write(tmp_path, ".gitignore", "ignored.py\n")
    assert check_pot10.repository_files(tmp_path) == sorted([untracked, tracked])


def test_without_git_the_folder_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, "a.py", "")
    (tmp_path / ".venv").mkdir()
    write(tmp_path / ".venv", "vendored.py", "")
    monkeypatch.setenv("PATH", "")
    assert check_pot10.repository_files(tmp_path) == [source]
