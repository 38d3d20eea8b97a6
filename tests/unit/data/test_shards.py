"""The cache: what is under its final name is whole, whoever writes, dies or meddles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forge import durable
from forge.config import DataConfig
from forge.data import SPLITS, TokenData, load_tokenizer, open_shards, prepare, read_corpus, shards
from forge.data.shards import cache_key

FILES = {
    f"{i}.txt": f"document {i}\n" + f"some text of number {i * 7919}, ünïcode\n" * (i + 3) for i in range(12)
}


@pytest.fixture
def data(write_corpus: Callable[..., DataConfig]) -> DataConfig:
    """Twelve small documents."""
    return write_corpus(FILES)


def test_layout_on_disk(data: DataConfig, tmp_path: Path) -> None:
    made = prepare(data, 300, tmp_path / "cache")
    assert sorted(p.name for p in made.folder.iterdir()) == [
        "corpus.json", "dev.bin", "test.bin", "tokenizer.json", "train.bin",
    ]  # fmt: skip
    assert (made.folder.stat().st_mode & 0o777, (made.folder / "train.bin").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    tokenizer = load_tokenizer(made.tokenizer)
    contents = set()
    for split in SPLITS:
        tokens = np.fromfile(made.folder / f"{split}.bin", dtype="<u2")
        np.testing.assert_array_equal(tokens, made.tokens(split))
        assert tokens[0] == tokens[-1] == tokenizer.eos_id
        ends = np.flatnonzero(tokens == tokenizer.eos_id)
        documents = [tokenizer.decode(part[1:].tolist()) for part in np.split(tokens, ends[1:])[:-1]]
        info = made.info.splits[split]
        assert (info.documents, info.tokens) == (len(documents), len(tokens))
        assert info.bytes == sum(len(d.encode("utf-8")) for d in documents)
        assert made.token_lengths[tokens].sum() == info.bytes
        if split != "train":
            assert [d.bytes for d in made.info.held_out[split]] == [len(d.encode("utf-8")) for d in documents]
            assert [FILES[d.name] for d in made.info.held_out[split]] == documents
        contents |= set(documents)
    assert contents == set(FILES.values())
    assert made.info.corpus_hash == read_corpus(data.corpus).hash
    with pytest.raises(ValueError, match="read-only"):
        made.train[0] = 1


def test_the_key_follows_what_the_shards_depend_on(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, write_corpus: Callable[..., DataConfig]
) -> None:
    corpus = read_corpus(data.corpus)
    key = cache_key([corpus], data, 300)
    assert cache_key([corpus], data.model_copy(update={"seq_len": 99}), 300) == key
    for change in ({"dev_fraction": 0.3}, {"test_fraction": 0.3}, {"max_bytes": 500}):
        assert cache_key([corpus], data.model_copy(update=change), 300) != key
    assert cache_key([corpus], data, 301) != key
    other = write_corpus({**FILES, "new.txt": "new"})
    assert cache_key([read_corpus(other.corpus)], other, 300) != key
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    assert cache_key([corpus], data, 300) != key


def cut_short(folder: Path) -> None:
    """The disk lost the end of a shard."""
    path = folder / "dev.bin"
    path.write_bytes(path.read_bytes()[:-2])


def odd_length(folder: Path) -> None:
    """Half a token too many."""
    with (folder / "train.bin").open("ab") as file:
        file.write(b"\0")


def change_tokenizer(folder: Path) -> None:
    """Another tokenizer of the same size."""
    path = folder / "tokenizer.json"
    content = path.read_bytes()
    other = content.replace(b'"add_prefix_space":false', b'"add_prefix_space":true ')
    assert other != content
    path.write_bytes(other)


def claim_other_sizes(folder: Path) -> None:
    """A `corpus.json` that does not fit its shards."""
    path = folder / "corpus.json"
    info = json.loads(path.read_bytes())
    info["splits"]["test"]["tokens"] += 1
    path.write_text(json.dumps(info), encoding="utf-8")


def break_json(folder: Path) -> None:
    """Half a `corpus.json`."""
    path = folder / "corpus.json"
    path.write_bytes(path.read_bytes()[:50])


def older_format(folder: Path) -> None:
    """Written by another version under the same name."""
    path = folder / "corpus.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": 0}), encoding="utf-8")


def lose_a_split(folder: Path) -> None:
    """`corpus.json` without one of its splits."""
    path = folder / "corpus.json"
    info = json.loads(path.read_bytes())
    del info["splits"]["dev"]
    path.write_text(json.dumps(info), encoding="utf-8")


def remove_shard(folder: Path) -> None:
    """A file is gone."""
    (folder / "test.bin").unlink()


def empty_folder(folder: Path) -> None:
    """All files are gone."""
    shutil.rmtree(folder)
    folder.mkdir()


def file_in_its_place(folder: Path) -> None:
    """Not even a folder."""
    shutil.rmtree(folder)
    folder.write_text("?", encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [cut_short, odd_length, change_tokenizer, claim_other_sizes, break_json, older_format, lose_a_split,
     remove_shard, empty_folder, file_in_its_place],
)  # fmt: skip
def test_a_damaged_cache_is_made_again(
    data: DataConfig, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    first = prepare(data, 300, tmp_path / "cache")
    good = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    damage(first.folder)
    assert open_shards(first.folder) is None
    said: list[str] = []
    again = prepare(data, 300, tmp_path / "cache", said.append)
    assert any("damaged" in message for message in said)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == good


@pytest.mark.parametrize(
    ("effect", "at"),
    [
        ("write_file", 1),
        ("write_file", 4),
        ("write_file", 5),
        ("sync_folder", -2),
        ("move", 1),
        ("sync_folder", -1),
    ],
)
def test_a_writer_may_die_anywhere(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str, at: int
) -> None:
    class Killed(BaseException):
        """The process ended here."""

    really, calls, fatal = getattr(durable, effect), 0, 0

    def die(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise Killed
        really(*arguments)

    monkeypatch.setattr(durable, effect, die)
    prepare(data, 300, tmp_path / "elsewhere")
    calls, fatal = 0, calls + 1 + at if at < 0 else at

    cache = tmp_path / "cache"
    folder = cache / cache_key([read_corpus(data.corpus)], data, 300)
    with pytest.raises(Killed):
        prepare(data, 300, cache)
    # The last sync comes after the rename: then, and only then, is there a folder, and it is whole.
    assert folder.exists() == (at == -1)
    assert (open_shards(folder) is not None) == folder.exists()
    prepare(data, 300, cache)
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_everything_is_on_disk_before_it_has_its_name(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects: list[tuple[str, Path]] = []

    def watch(name: str) -> None:
        really = getattr(durable, name)

        def effect(path: Path, *rest: object) -> None:
            effects.append((name, path))
            really(path, *rest)

        monkeypatch.setattr(durable, name, effect)

    for name in ("write_file", "sync_folder", "move"):
        watch(name)
    folder = prepare(data, 300, tmp_path / "cache").folder
    named = next(i for i, (name, _) in enumerate(effects) if name == "move")
    temporary = effects[named][1]
    assert effects[named - 1] == ("sync_folder", temporary)
    written = {path.name for name, path in effects[: named - 1] if name == "write_file"}
    assert written == {path.name for path in folder.iterdir()}
    # Sizes and hashes come last, as a manifest does.
    assert effects[named - 2] == ("write_file", temporary / "corpus.json")


def test_two_processes_at_once_both_get_it(data: DataConfig, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from forge.config import DataConfig; from forge.data import prepare\n"
        "sys.stdin.readline()\n"
        "made = prepare(DataConfig.model_validate_json(sys.argv[1]), 2000, Path(sys.argv[2]), print)\n"
        "print('sum', made.folder.name, int(made.train.sum()), int(made.test.sum()))\n"
    )
    arguments = [sys.executable, "-c", code, data.model_dump_json(), str(tmp_path / "cache")]
    running = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    sums = {line for output in outputs for line in output.splitlines() if line.startswith("sum")}
    assert len(sums) == 1
    # One did the work, the others waited for it or found it done.
    assert sum("training the tokenizer" in output for output in outputs) == 1


def test_a_run_that_waited_takes_what_the_other_made(data: DataConfig, tmp_path: Path) -> None:
    made = prepare(data, 300, tmp_path / "elsewhere")
    cache, key = tmp_path / "cache", made.info.key
    other = shards.sole_writer(cache, key, pytest.fail)
    other.__enter__()
    said: list[str] = []

    def finish_the_other(message: str) -> None:
        said.append(message)
        if message.startswith("waiting"):
            shutil.copytree(made.folder, cache / key)
            other.__exit__(None, None, None)

    assert prepare(data, 300, cache, finish_the_other).info == made.info
    assert [message.split()[0] for message in said] == ["reading", "waiting", "the"]


def test_a_run_that_waits_says_so_and_then_holds_the_lock(tmp_path: Path) -> None:
    class WouldWait(Exception):
        """Said instead of waiting for ever."""

    def refuse(message: str) -> None:
        raise WouldWait(message)

    first = shards.sole_writer(tmp_path, "key", refuse)
    first.__enter__()
    with pytest.raises(WouldWait), shards.sole_writer(tmp_path, "key", refuse):
        pytest.fail("two writers")
    with shards.sole_writer(tmp_path, "other", refuse):
        pass
    said: list[str] = []

    def let_go(message: str) -> None:
        said.append(message)
        first.__exit__(None, None, None)

    with shards.sole_writer(tmp_path, "key", let_go):
        assert said == ["waiting for another run that prepares the same corpus"]
        with pytest.raises(WouldWait), shards.sole_writer(tmp_path, "key", refuse):
            pytest.fail("it did not wait")


def test_an_open_corpus_survives_its_removal(data: DataConfig, tmp_path: Path) -> None:
    made: TokenData = prepare(data, 300, tmp_path / "cache")
    before = int(made.train.sum())
    durable.remove_tree(made.folder)
    assert int(made.train.sum()) == before
