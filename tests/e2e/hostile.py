"""A home in which every text that a person or a library can write is hostile, and what must not come of it.

Each dangerous character or sequence is followed by a word of its own, so that it is seen that the text has
arrived, and arrived as what it shows: nothing here is proved by silence.
"""

from __future__ import annotations

import json
import os
import re
from functools import partial

from forge.config import dump_yaml
from forge.home import Home, prepare_home
from forge.registry import Heartbeat, MetricsWriter, ModelRow, Registry, State, cleanup, edits
from forge.registry.sqlite import Connection
from forge.text import clean
from tests.ui.seed import NOW, PHASES, TINY

ESC, BEL = "\x1b", "\x07"

SEQUENCES = {
    "clear": f"{ESC}[2J", "colour": f"{ESC}[38;5;213m", "home": f"{ESC}[7;77H", "title": f"{ESC}]0;",
    "clipboard": f"{ESC}]52;c;", "link": f"{ESC}]8;;http://x", "device": f"{ESC}P1$", "program": f"{ESC}_G",
    "reset": f"{ESC}c", "report": f"{ESC}[6n", "mode": f"{ESC}[?1337h",
}  # fmt: skip
POINTS = [
    *(code for code in range(0x20) if chr(code) not in "\t\n"), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x34F,
    0x115F, 0x1160,
    0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070),
    0x3164, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xFE0F, 0xFEFF, 0xFFF9, 0xFFFB, 0xE0001, 0xE0041, 0xE0100,
]  # fmt: skip
"""Controls of both sets, DEL, direction marks and isolates, invisible and unpaired characters."""
MARKUP = ("[red]", "[/b]", "[@click=app.quit]", "[link=file:///etc/passwd]", "\\[b]", ":skull:", "[bold")


def word(number: int) -> str:
    """A word that nothing else prints."""
    return f"q{number:03d}q"


def pieces() -> list[str]:
    """Every dangerous text, each with its word behind it."""
    dangerous = [*map(chr, POINTS), *SEQUENCES.values(), *MARKUP]
    return [f"{text}{word(number)}" for number, text in enumerate(dangerous)]


def poison() -> list[str]:
    """The pieces in texts short enough to be seen whole, and floods that would grow over other lines."""
    found = pieces()
    texts = ["".join(found[start : start + 4]) for start in range(0, len(found), 4)]
    return [
        *texts,
        "z" + "\u0301" * 400 + word(998),
        "\U0001f469\u200d\U0001f52c" * 30 + word(999),
        "a\nb\tc",
    ]


def raw_in(data: bytes) -> list[str]:
    """What a program printed to a terminal without moving its cursor, and should not have."""
    text = data.decode("utf-8")
    return sorted({f"U+{ord(char):04X}" for char in text if not char.isprintable() and char not in "\r\n"})


# What Textual and Rich send themselves: modes, colours by their 24 bits, places, erasing, cursor shapes, the
# keyboard's protocol, the mouse pointer's shape.
_SGR = rb"(?:0|[1-9]|2[1-9]|[34][0-79]|9[0-7]|10[0-7]|[34]8;2;\d+;\d+;\d+)"
_OWN = re.compile(
    rb"\x1b\[\?(?:1|7|12|25|1000|1002|1003|1004|1006|1015|1016|1049|2004|2026|2027|2031|2048)[hl]"
    rb"|\x1b\[\?(?:2026|2048)\$p|\x1b\[(?:" + _SGR + rb"(?:;" + _SGR + rb")*)?m"
    rb"|\x1b\[\d*(?:;\d+)?[HABCDGKJLMPX]|\x1b\[[<>=]\d*(?:;\d+)?u|\x1b\[\d* q|\x1b\]22;[a-z]*\x07"
)
_NEVER = (b"\x1b[2Jq", b"\x1b[7;77Hq")


def foreign_in(data: bytes) -> list[str]:
    """What a screen sent beside its own sequences, and should not have."""
    found = raw_in(_OWN.sub(b"", data))
    return found + [repr(sequence) for sequence in _NEVER if sequence in data]


def ulid(number: int) -> str:
    """An id, in the order of their numbers."""
    return f"01K{number:023d}"


def make_home(home: Home) -> Home:
    """Fill a home: one session for each poisonous text, which is everything about it that can be text."""
    prepare_home(home)
    with Registry.open(home) as registry:
        for number, text in enumerate(poison()):
            registry.write(partial(_rows, number, text))
            paths = home.session(ulid(number))
            paths.root.mkdir(parents=True)
            paths.config.write_text(dump_yaml(TINY.model_copy(update={"name": clean(text)})), "utf-8")
            _log(paths.log, text)
            _metrics(paths.metrics, text)
        registry.write(partial(_trash, home))
    return home


def _rows(number: int, text: str, c: Connection) -> None:
    session, began = ulid(number), NOW - 1000 + number
    edits.create_session(c, id=session, name=text, preset=text, phases=PHASES, now=began)
    edits.set_note(c, session, text, began)
    cleanup.set_tags(c, session, [text], began)
    edits.take_lease(c, session, f"lease {number}", text, began)
    edits.set_session_state(c, session, State.RUNNING, now=began, phase="pretrain")
    row = {"label": text, "value": text, "unit": text, "note": text}
    report = {"title": text, "rows": [row], "seconds": 1.0, "peak_memory_bytes": 1}
    edits.set_phase_state(c, session, "pretrain", State.RUNNING, now=began, step=10)
    edits.set_phase_state(c, session, "pretrain", State.COMPLETED, now=began, step=500, report=report)
    for level in ("info", "warning", "error"):
        edits.add_event(c, session, kind="note", message=text, now=began, phase="pretrain", level=level)
    model = ModelRow(
        id=f"{ulid(number)}M", session_id=session, phase=text, name=text, created_at=began, parameters=1,
        bytes=1, path=f"models/{text}", metrics={"loss": 1.0},
    )  # fmt: skip
    edits.add_model(c, model, {})
    edits.set_session_state(c, session, State.FAILED, now=began, error=text)
    edits.drop_lease(c, session, f"lease {number}", began)


def _trash(home: Home, c: Connection) -> None:
    """A session in the trash, whose reason is hostile too."""
    text = poison()[0]
    edits.create_session(c, id=ulid(900), name=f"gone {text}", preset=text, phases=PHASES, now=NOW)
    home.trashed(ulid(900)).root.mkdir(parents=True)
    cleanup.trash_session(c, ulid(900), actor=text, reason=text, bytes=1, path="trash", now=NOW)


def _log(path: os.PathLike[str], text: str) -> None:
    entry = {
        "at": NOW,
        "level": text,
        "kind": text,
        "phase": text,
        "step": text,
        "message": f"{text}\n{text}",
    }
    with open(path, "wb") as log:
        log.write(json.dumps(entry).encode() + b"\n")
        log.write(text.encode("utf-8", "surrogatepass").replace(b"\n", b"") + b"\n")


def _metrics(path: os.PathLike[str], text: str) -> None:
    from pathlib import Path

    writer = MetricsWriter(Path(path))
    writer.append([("pretrain", step, {"loss": 3.0, text: 1.0}) for step in range(1, 20)])
    writer.heartbeat(
        Heartbeat(
            at=NOW,
            phase=text,
            step=19,
            total_steps=500,
            steps_per_second=1.0,
            tokens_per_second=1.0,
            eta_seconds=1.0,
            status=text,
            coalesced=0,
        )
    )
    writer.close()
