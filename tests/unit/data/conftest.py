"""Small corpora on the fly; what is prepared once is never changed by a test."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.config import DataConfig
from forge.data import TokenData, prepare

WriteCorpus = Callable[..., DataConfig]


def sentences(seed: int, count: int) -> str:
    """`count` lines of invented prose, with characters of one to four bytes."""
    rng = random.Random(seed)
    words = [
        "gradient",
        "forge",
        "tern",
        "é",
        "größe",
        "日本",
        "語",
        "🔨",
        "def",
        "return",
        "x_1",
        "  ",
        "0.25",
    ]
    return "".join(f"{seed}.{i} {' '.join(rng.choices(words, k=9))}\n" for i in range(count))


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    """Write files and name them: `write_corpus({"a.txt": "text"}, max_bytes=…)` gives a DataConfig."""

    def write(files: dict[str, str | bytes], folder: str = "corpus", **other: float) -> DataConfig:
        root = tmp_path / folder
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return DataConfig.model_validate({"corpus": f"text:{root}/**/*", "seq_len": 16, **other})

    return write


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Forty documents, prepared with V = 400; read it, never write to it."""
    root = tmp_path_factory.mktemp("small")
    (root / "text").mkdir()
    for i in range(40):
        (root / "text" / f"{i}.txt").write_text(sentences(i, 5 + i), encoding="utf-8")
    data = DataConfig(corpus=f"text:{root}/text/*.txt", seq_len=16, dev_fraction=0.2, test_fraction=0.2)
    return prepare(data, 400, root / "cache")
