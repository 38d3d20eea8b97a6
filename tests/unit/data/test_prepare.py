"""The entry point: what it says, what it refuses, and that held-out text stays unseen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forge import durable
from forge.config import DataConfig
from forge.data import load_tokenizer, prepare
from forge.errors import CorpusError

FILES = {f"{i}.txt": f"document {i}\n" + f"number {i * 7919}\n" * (i + 3) for i in range(12)}
WriteCorpus = Callable[..., DataConfig]


def test_it_says_what_it_does_and_then_only_what_it_found(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    data = write_corpus({**FILES, "empty.txt": "", "a.bin": b"\0", "b.bin": b"\0"})
    said: list[str] = []
    made = prepare(data, 300, tmp_path / "cache", said.append)
    tokens = f"the corpus is ready: {len(made.train):,} tokens to train on"
    assert said == [
        f"reading the corpus {data.corpus}",
        "skipped 2 files: binary",
        "looking for duplicates in 12 documents",
        "training the tokenizer on 0.0 MB",
        "turning 0.0 MB into tokens",
        tokens,
    ]
    again: list[str] = []
    prepare(data, 300, tmp_path / "cache", again.append)
    assert again == [*said[:2], tokens]
    assert made.info.skipped == {"binary": 2, "empty": 1}


def test_the_tokenizer_never_sees_held_out_text(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    words = {f"{letter}.txt": letter * 3 + "secretword" for letter in "abcdefghijklmnopqrst"}
    files = {name: " ".join([word] * 50) for name, word in words.items()}
    data = write_corpus(files, dev_fraction=0.2, test_fraction=0.2)
    made = prepare(data, 600, tmp_path / "cache")
    held_out = {document.name for part in made.info.held_out.values() for document in part}
    vocabulary = b"\n".join(load_tokenizer(made.tokenizer).token_bytes)
    assert held_out
    for name, word in words.items():
        assert (word.encode() in vocabulary) == (name not in held_out)


def test_no_near_duplicate_of_held_out_text_is_trained_on(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    originals = {f"{i}.txt": "".join(f"line {i} {j}\n" for j in range(20)) for i in range(15)}
    copies = {f"copy-{name}": text.replace(" 7\n", " seven\n") for name, text in originals.items()}
    exact = {f"same-{name}": text for name, text in originals.items()}
    data = write_corpus({**originals, **copies, **exact}, dev_fraction=0.3, test_fraction=0.15)
    made = prepare(data, 300, tmp_path / "cache")
    assert (made.info.exact_duplicates, made.info.near_duplicates) == (15, 15)
    assert sum(split.documents for split in made.info.splits.values()) == 15


def test_names_and_order_of_files_change_nothing(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    one = prepare(write_corpus(FILES, "x"), 300, tmp_path / "cache")
    renamed = {f"sub/{99 - i}.md": text for i, text in enumerate(FILES.values())}
    other = prepare(write_corpus(renamed, "y"), 300, tmp_path / "cache")
    assert one.info.corpus_hash == other.info.corpus_hash
    for split in ("train.bin", "dev.bin", "test.bin", "tokenizer.json"):
        assert (one.folder / split).read_bytes() == (other.folder / split).read_bytes()


@pytest.mark.parametrize(("seq_len", "min_tokens"), [(5000, 0), (8, 5000)])
def test_a_corpus_smaller_than_one_batch_is_refused(
    write_corpus: WriteCorpus, tmp_path: Path, seq_len: int, min_tokens: int
) -> None:
    data = write_corpus(FILES, seq_len=seq_len)
    for _ in range(2):  # Also when its tokens are in the cache already.
        with pytest.raises(
            CorpusError, match=r"train split has \d+ tokens and a batch needs 5,00[01]\. Add text"
        ) as e:
            prepare(data, 300, tmp_path / "cache", min_tokens=min_tokens)
        assert data.corpus in str(e.value)


def test_just_enough_tokens_are_enough(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    data = write_corpus(FILES)
    size = len(prepare(data, 300, tmp_path / "cache").train)
    prepare(data, 300, tmp_path / "cache", min_tokens=size)
    with pytest.raises(CorpusError):
        prepare(data, 300, tmp_path / "cache", min_tokens=size + 1)


def test_too_few_documents_leave_no_cache_behind(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    data = write_corpus({"one.txt": "a long story\n" * 500})
    with pytest.raises(CorpusError, match="1 document left"):
        prepare(data, 300, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_full_disk_is_a_sentence(
    write_corpus: WriteCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_corpus(FILES)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", fail)
        with pytest.raises(CorpusError, match=r"No space left on device.*FORGE_HOME"):
            prepare(data, 300, tmp_path / "cache")
    prepare(data, 300, tmp_path / "cache")


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, forge.data; print([m for m in ('torch', 'tokenizers', 'textual') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_standard_library_end_to_end(tmp_path: Path) -> None:
    data = DataConfig(max_bytes=1_500_000)
    made = prepare(data, 1024, tmp_path / "cache", min_tokens=16 * 129)
    info = made.info
    assert info.licence == "PSF-2.0"
    assert info.python_version is not None
    assert info.near_duplicates > 5  # encodings/ holds many tables that differ in a few lines.
    assert 1_400_000 < sum(split.bytes for split in info.splits.values()) <= 1_500_000
    assert info.vocab_size == 1024
    assert 2.2 < info.splits["train"].bytes / info.splits["train"].tokens < 4
    assert not [d.name for part in info.held_out.values() for d in part if "test/" in d.name]
