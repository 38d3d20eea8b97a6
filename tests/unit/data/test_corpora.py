"""Corpora: what is read, what is left out and counted, and what each refusal says."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from forge.data import CORPORA, corpora, files, read_corpus
from forge.data.documents import Document, UnusableError
from forge.errors import CorpusError


def names(spec: str) -> set[str]:
    """Names of the documents of a corpus."""
    return {document.name for document in read_corpus(spec).documents}


def refusal(spec: str) -> str:
    """What reading a bad corpus says; the corpus is always named."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(spec)
    assert spec in str(caught.value)
    return str(caught.value)


def test_text_reads_documents_with_relative_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "deep" / "er" / "b.txt").write_text("zwei ü", encoding="utf-8")
    (tmp_path / "c.md").write_text("not asked for", encoding="utf-8")
    corpus = read_corpus(f"text:{tmp_path}/**/*.txt")
    assert {d.name: d.data for d in corpus.documents} == {"a.txt": b"one", "deep/er/b.txt": "zwei ü".encode()}
    assert corpus.licence == "unknown (your own files)"
    assert corpus.python_version is None
    assert corpus.n_bytes == len("one") + len("zwei ü".encode())


def test_a_single_file_and_a_trailing_double_star(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a [1].txt").write_text("brackets in the name", encoding="utf-8")
    assert names(f"text:{tmp_path}/sub/a [1].txt") == {"a [1].txt"}
    assert names(f"text:{tmp_path}/**") == {"sub/a [1].txt"}


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    assert names("text:~/*.txt") == {"a.txt"}
    assert "cannot be used" in refusal("text:~no-such-user-here/*.txt")


def test_hidden_files_only_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret", encoding="utf-8")
    (tmp_path / ".env").write_text("SECRET=1", encoding="utf-8")
    (tmp_path / "seen").write_text("text", encoding="utf-8")
    assert names(f"text:{tmp_path}/**/*") == {"seen"}
    assert names(f"text:{tmp_path}/.e*") == {".env"}
    assert names(f"text:{tmp_path}/.git/*") == {"config"}


def test_order_and_hash_depend_on_content_alone(tmp_path: Path) -> None:
    for folder, order in (("x", "abc"), ("y", "cab")):
        (tmp_path / folder).mkdir()
        for letter in order:
            (tmp_path / folder / f"{letter}.txt").write_text(letter * 9, encoding="utf-8")
    x, y = (read_corpus(f"text:{tmp_path}/{folder}/*") for folder in "xy")
    assert x.documents == y.documents
    assert x.hash == y.hash
    assert [d.digest for d in x.documents] == sorted(d.digest for d in x.documents)
    (tmp_path / "y" / "a.txt").write_text("other", encoding="utf-8")
    assert read_corpus(f"text:{tmp_path}/y/*").hash != x.hash


def test_unusable_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2 * 2**20)
    (tmp_path / "good").write_text("text", encoding="utf-8")
    (tmp_path / "nul").write_bytes(b"text\0text")
    (tmp_path / "utf16").write_bytes("text".encode("utf-16-le"))
    (tmp_path / "latin").write_bytes("für".encode("latin-1"))
    (tmp_path / "space").write_text(" \n\t\n", encoding="utf-8")
    (tmp_path / "big").write_bytes(b"x" * (2 * 2**20 + 1))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")  # Reading it would wait for a writer for ever.
    (tmp_path / "device").symlink_to("/dev/zero")
    corpus = read_corpus(f"text:{tmp_path}/*")
    assert [d.name for d in corpus.documents] == ["good"]
    assert corpus.skipped == {
        "binary": 2,
        "empty": 1,
        "larger than 2 MiB": 1,
        "not UTF-8": 1,
        "not a regular file": 2,
        "unreadable": 1,
    }


def test_what_is_no_regular_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opening a device can already do something"))
    with pytest.raises(UnusableError, match="not a regular file"):
        files.read_text_file(tmp_path / "fifo")


def test_a_fifo_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular, fifo = tmp_path / "regular", tmp_path / "fifo"
    regular.write_text("text", encoding="utf-8")
    os.mkfifo(fifo)
    seen = regular.stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: seen)
    with pytest.raises(UnusableError, match="not a regular file"):
        files.read_text_file(fifo)


def test_a_file_without_permission_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("text", encoding="utf-8")
    (tmp_path / "theirs.txt").write_text("text", encoding="utf-8")
    really_open = os.open

    def refuse(path: Path, flags: int) -> int:
        if path.name == "theirs.txt":  # Root, whom a container's tests run as, may read everything.
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    assert read_corpus(f"text:{tmp_path}/*").skipped == {"unreadable": 1}
    assert "(1 unreadable)" in refusal(f"text:{tmp_path}/theirs.txt")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_files_without_an_end_are_not_read() -> None:
    with pytest.raises(UnusableError, match="growing"):
        files.read_text_file(Path("/proc/self/status"))


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    assert "the only file found is not usable text (1 binary)" in refusal(f"text:{tmp_path}/*")
    (tmp_path / "b.txt").write_bytes(b"")
    message = refusal(f"text:{tmp_path}/*")
    assert "none of the 2 files found is usable text (1 binary, 1 empty)" in message
    assert "UTF-8" in message


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "stdlib, text:GLOB"),
        ("wikipedia", "stdlib, text:GLOB"),
        ("web:tinystories", "no such kind"),
        ("stdlib:3.12", "takes no argument"),
        ("text", "no files are named"),
        ("text: ", "no files are named"),
        ("text:/no/such/folder/*.txt", "no file was found"),
        ("text:/no/such/file.txt", "no file was found"),
        # Which of two sentences these get depends on Python's version.
        ("text:/tmp/a\0b*", "corpus"),
        ("text:/" + "x" * 300, "corpus"),
        ("text:/no/such/a**b", "corpus"),
    ],
)
def test_a_corpus_that_cannot_be_names_itself_and_the_way_out(spec: str, says: str) -> None:
    assert says in refusal(spec)


def test_a_folder_is_not_a_pattern(tmp_path: Path) -> None:
    assert f"text:{tmp_path}/**/*.txt" in refusal(f"text:{tmp_path}")


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "permissions" in refusal(f"text:{tmp_path}/*")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    for name in ("up", "and", "round"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    assert names(f"text:{tmp_path}/**/*.txt") == {"a.txt"}


def test_too_large_a_corpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "MAX_CORPUS_BYTES", 5)
    for name in ("a", "b"):
        (tmp_path / name).write_text("four", encoding="utf-8")
    assert "larger than" in refusal(f"text:{tmp_path}/*")


def test_a_name_that_is_not_unicode_can_be_shown() -> None:
    assert Document.of(os.fsdecode(b"caf\xe9.txt"), b"x").name == "caf\N{REPLACEMENT CHARACTER}.txt"


def test_stdlib_leaves_out_tests_builds_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "etc.py"
    outside.write_text("outside = 1\n", encoding="utf-8")
    root = tmp_path / "lib"
    files = ("os.py", "json/decoder.py", "unittest/case.py", "test/test_os.py", "lib2to3/tests/test_all.py",
             "idlelib/idle_test/x.py", "site-packages/numpy/x.py", "dist-packages/x.py", "ctypes/test/x.py",
             "_sysconfigdata__linux_.py", "config-3.11-x/python-config.py", "README.txt")  # fmt: skip
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n", encoding="utf-8")
    (root / "sitecustomize.py").symlink_to(outside)
    (root / "linked.py").symlink_to(root / "os.py")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(root)})
    corpus = read_corpus("stdlib")
    assert {d.name for d in corpus.documents} == {"os.py", "json/decoder.py", "unittest/case.py", "linked.py"}
    assert (corpus.licence, corpus.python_version) == ("PSF-2.0", platform.python_version())
    (root / "os.py").unlink()
    assert "without the source" in refusal("stdlib")


def test_every_kind_says_how_it_is_written() -> None:
    assert {name: kind.usage.partition(":")[0] for name, kind in CORPORA.items()} == {n: n for n in CORPORA}
