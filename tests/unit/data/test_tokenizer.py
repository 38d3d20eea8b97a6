"""Tokenizer: any text there and back, training that repeats itself, decoding that never fails."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.data import Tokenizer, load_tokenizer, tokenizer, train_tokenizer
from forge.data.tokenizer import EOS, byte_alphabet, parse_tokenizer
from forge.errors import CorpusError, NotFoundError

HERE = Path("tokenizer.json")
WORDS = [
    "gradient",
    "forge",
    "é",
    "größe",
    "日本語",
    "🔨",
    "def",
    "return x_1",
    "  ",
    "\n",
    "\n\n",
    "\n    ",
    "a\nb",
]


def prose(seed: int) -> str:
    """Words, numbers and white space of all kinds."""
    rng = random.Random(seed)
    return " ".join(rng.choice([*WORDS, str(rng.randrange(10_000))]) for _ in range(400))


TEXTS = [prose(seed) for seed in range(6)]
TRAINED = train_tokenizer(TEXTS, 400)
TOKENIZER = parse_tokenizer(TRAINED, HERE)

_text = st.text(st.characters(exclude_categories=["Cs"]))
_awkward = st.sampled_from(
    [EOS, f"a{EOS}b", "\r\n", "\n\n  x", "\ufeff", "e\u0301", "\0", "👩‍👩‍👧", "日本語", "  def"]
)
_ids = st.lists(st.integers(-2, 600))


@settings(deadline=None)
@given(st.lists(_text | _awkward).map("".join))
def test_round_trip_is_exact(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert "".join(TOKENIZER.stream(ids)) == text
    assert TOKENIZER.eos_id not in ids
    assert sum(len(TOKENIZER.token_bytes[i]) for i in ids) == len(text.encode("utf-8"))


@settings(deadline=None)
@given(_ids)
def test_any_ids_decode(ids: list[int]) -> None:
    assert "".join(TOKENIZER.stream(ids)) == TOKENIZER.decode(ids)


def test_ids_that_the_vocabulary_lacks_show_as_such() -> None:
    assert TOKENIZER.decode([-1, TOKENIZER.vocab_size, 10**6]) == "\ufffd" * 3


def test_a_character_is_held_back_until_it_is_whole() -> None:
    hammer = [TOKENIZER.token_bytes.index(bytes([byte])) for byte in "🔨".encode()]
    assert TOKENIZER.decode(hammer[:3]) == "\ufffd"
    assert list(TOKENIZER.stream([*hammer, *hammer])) == ["🔨", "🔨"]


def test_the_end_of_a_document_is_no_text() -> None:
    assert TOKENIZER.eos_id == 0
    assert TOKENIZER.decode([0, *TOKENIZER.encode("a"), 0]) == "a"


def test_half_a_surrogate_pair_is_encoded_as_a_question_mark() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\udc80b")) == "a?b"
    assert train_tokenizer(["a\udc80b"], 300)


@settings(deadline=None)
@given(
    st.lists(_text | st.sampled_from(TEXTS) | _awkward, max_size=6), st.integers(1, 40), st.integers(1, 90)
)
def test_pieces_and_groups_change_no_token(texts: list[str], piece: int, group: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_PIECE_CHARACTERS", piece)
        patch.setattr(tokenizer, "_GROUP_CHARACTERS", group)
        encoded = [ids.tolist() for ids in TOKENIZER.encode_all(texts)]
    assert encoded == [TOKENIZER.encode(text) for text in texts]


def test_long_texts_really_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_PIECE_CHARACTERS", 200)
    pieces = tokenizer._pieces(TEXTS[0])
    assert len(pieces) > 5
    assert "".join(pieces) == TEXTS[0]


def test_training_does_not_depend_on_cores_or_hash_seed() -> None:
    code = (
        "import sys; from forge.data import train_tokenizer;"
        "sys.stdout.buffer.write(train_tokenizer(sys.stdin.read().split('\\x1e'), 400))"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONUTF8": "1"}
    again = subprocess.run(
        [sys.executable, "-c", code],
        input="\x1e".join(TEXTS).encode("utf-8"),
        env=environment,
        capture_output=True,
        check=True,
    ).stdout
    assert again == TRAINED
    assert train_tokenizer(TEXTS[:-1], 400) != TRAINED


def test_vocabulary_has_all_bytes_and_at_most_what_was_asked_for() -> None:
    assert TOKENIZER.vocab_size == 400
    poor: Tokenizer = parse_tokenizer(train_tokenizer(["aaaa"], 400), HERE)
    assert 257 <= poor.vocab_size < 262
    for one in (TOKENIZER, poor):
        assert {bytes([byte]) for byte in range(256)} <= set(one.token_bytes)


def test_the_alphabet_is_that_of_the_library() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    # GPT-2's best-known character: the space in front of a word.
    assert byte_alphabet()["Ġ"] == ord(" ")


def test_load_reads_what_training_wrote(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(TRAINED)
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(NotFoundError, match=str(path)):
        load_tokenizer(path)
    moved = json.loads(TRAINED)
    moved["model"]["vocab"] = {token: i + 1 for token, i in moved["model"]["vocab"].items()}
    broken = json.loads(TRAINED)
    broken["pre_tokenizer"] = {"type": "No such thing"}
    strange: list[object] = [[], {"model": {"vocab": {}}}, moved, broken]
    for content in (b"", b"\xff", TRAINED[:-9], *(json.dumps(one).encode("utf-8") for one in strange)):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=str(path)):
            load_tokenizer(path)
