"""`forge generate`: a model continues a prompt, token by token, as it comes.

The same model, prompt, settings and seed give the same text on the same machine.
"""

from __future__ import annotations

import json as jsonlib
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forge import locks, units
from forge.cli.console import put_json, put_text, say
from forge.cli.home import engine_of
from forge.errors import CheckpointError, NotFoundError
from forge.pickles import pickle_at
from forge.reading import is_file, read_plain
from forge.registry import ModelRow, SessionRow, queries

if TYPE_CHECKING:
    from forge.data import Tokenizer
    from forge.engine import Engine
    from forge.models.decoder import Decoder

_MODELS = 1000


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    temperature: float
    top_k: int | None
    seed: int | None


def generate(model: str | None, prompt: str, home: Path | None, sampling: Sampling, *, json: bool) -> int:
    """Continue a prompt, with the newest model where none is named; returns the exit code."""
    folder, label = _find(model, prompt, home)
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    text = sys.stdin.read() if prompt == "-" else prompt
    with locks.reading(folder):
        decoder, tokenizer = _load(folder)
    pieces = _Pieces(decoder, tokenizer, text, sampling, seed)
    began = time.monotonic()
    if json:
        continuation = "".join(pieces)
        put_json({"model": str(folder), "prompt": text, "text": continuation, "tokens": pieces.tokens,
                  "ended": pieces.ended, "seed": seed, "seconds": time.monotonic() - began})  # fmt: skip
        return 0
    _write(text)
    for piece in pieces:
        _write(piece)
    print()
    speed = pieces.tokens / max(time.monotonic() - began, 1e-9)
    say(f"{label} · {units.count(pieces.tokens)} tokens · {units.count(speed)} tok/s · seed {seed}")
    return 0


class _Pieces:
    """The text of a continuation, piece by piece, and what is known once it ended."""

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, prompt: str, sampling: Sampling, seed: int
    ) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._prompt, self._sampling, self._seed = prompt, sampling, seed
        self.tokens = 0
        self.ended = False
        """Whether the model ended the document itself."""

    def __iter__(self) -> Iterator[str]:
        yield from self._tokenizer.stream(self._ids())

    def _ids(self) -> Iterator[int]:
        import torch

        from forge.models.generate import generate as continue_ids

        # An empty prompt is the beginning of a document, which is what follows the end of the one before.
        ids = self._tokenizer.encode(self._prompt) or [self._tokenizer.eos_id]
        generator = torch.Generator().manual_seed(self._seed)
        sampling, eos = self._sampling, self._tokenizer.eos_id
        for token in continue_ids(
            self._decoder, ids, sampling.max_tokens, generator, sampling.temperature, sampling.top_k, eos
        ):
            self.tokens += 1
            self.ended = token == eos
            yield token


def _find(model: str | None, prompt: str, home: Path | None) -> tuple[Path, str]:
    """The folder of the model that a person means, and what to call it."""
    if model is not None and is_file(Path(model) / "config.json"):
        return Path(model), model
    if model is not None and (reason := pickle_at(Path(model))) is not None:
        raise CheckpointError(reason)
    with engine_of(home) as engine:
        if model is None and any(row.name == prompt for row in _sessions(engine, prompt)):
            raise typer.BadParameter(f'{prompt} is a session: give a prompt after it, as in {prompt} "def "')
        row = _newest(engine, None) if model is None else _model(engine, model)
        session = engine.session(row.session_id)
        return engine.home.session(session.id).root / row.path, f"{session.name}/{row.phase} ({row.name})"


def _sessions(engine: Engine, text: str) -> list[SessionRow]:
    return engine.registry.fetch(queries.find_sessions(text))


def _model(engine: Engine, text: str) -> ModelRow:
    """By id or its beginning, or as SESSION or SESSION/PHASE."""
    rows = [row for row in engine.registry.fetch(queries.models(None, _MODELS)) if row.id.startswith(text)]
    if len(rows) == 1:
        return rows[0]
    name, _, phase = text.partition("/")
    return _newest(engine, engine.find(name), phase)


def _newest(engine: Engine, session: SessionRow | None, phase: str = "") -> ModelRow:
    rows = engine.registry.fetch(queries.models(session.id if session else None, _MODELS))
    for row in rows:
        if phase in ("", row.phase):
            return row
    whose = "there is" if session is None else f"{session.name} has"
    of_phase = f" of the phase {phase}" if phase else ""
    raise NotFoundError(
        f"{whose} no finished model{of_phase} yet; a model exists when its phase has completed. "
        'See "forge status".'
    )


def _load(folder: Path) -> tuple[Decoder, Tokenizer]:
    """The decoder as it is meant to run, ternary where its card says so, and its tokenizer."""
    import torch

    from forge.data import load_tokenizer
    from forge.models.io import load_decoder
    from forge.quant.linear import to_ternary

    tokenizer = load_tokenizer(folder / "tokenizer.json")
    decoder = load_decoder(folder, torch.device("cpu"))
    quantisation = _card(folder).get("quantisation")
    if isinstance(quantisation, dict):
        to_ternary(decoder, activation_bits=quantisation.get("activation_bits"))
    return decoder.eval(), tokenizer


def _card(folder: Path) -> dict[str, Any]:
    from forge.models.io import MAX_JSON

    path = folder / "card.json"
    try:
        card = jsonlib.loads(read_plain(path, MAX_JSON))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return card if isinstance(card, dict) else {}


def _write(text: str) -> None:
    # A terminal must not obey what a model makes up; code is to keep its shape there.
    put_text(text.replace("\t", "    ") if sys.stdout.isatty() else text)
