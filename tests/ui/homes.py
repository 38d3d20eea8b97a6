"""The seeded homes by name: each is one situation that a screen must be able to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from forge.home import Home, prepare_home
from forge.registry import ModelRow, Registry, State, cleanup, edits
from forge.registry.sqlite import Connection
from forge.retention import SessionCleanupPolicy, execute, plan
from tests.ui.seed import EVENTS, FIRST, NOW, PHASES, Plan, request, seed

ESC, BEL, RTL = "\x1b", "\x07", "\u202e"

HOSTILE: tuple[str, ...] = (
    f"{ESC}[31mred{ESC}[0m{ESC}[2J",
    f"{ESC}]52;c;cm0gLXJmIH4={BEL}clipboard",
    f"{RTL}gnp.exe",
    "[/b][link=file:///etc/passwd]markup[/]",
    "nul\0byte",
    "half \ud83d surrogate",
    "\u200bzero\u2060width\ufeff",
    "\U0001f469\u200d\U0001f52c\U0001f469\u200d\U0001f52c family",
    "東京の長い名前" * 4,
    "tab\tand\nnewline\rreturn",
    "\x9b31mC1 control",
    "combining z" + "\u0301" * 12 + "algo",
    "y" * 500,
)
"""Names that would harm a terminal, a table or a parser of markup."""


OWNER_DIED = "its owner (pid 4121 on gpu-box) ended without saying so"


def ulid(number: int) -> str:
    """An id of a session, in the order of their numbers."""
    return f"01J{number:023d}"


def _failed() -> tuple[Plan, ...]:
    reason = (
        "step 312: loss or gradient was NaN or infinite 10 times in a row (last: loss nan, gradient norm "
        "nan); resume from a checkpoint before it, with a lower learning rate"
    )
    events = (*EVENTS, (9.0, "error", "error", reason, 312))
    return (Plan(state=State.FAILED, step=312, error=reason, events=events, broken_at=range(303, 313)),)


def _nan() -> tuple[Plan, ...]:
    skipped = "step 241: loss nan, gradient norm nan; update skipped"
    events = (*EVENTS, (3.0, "warning", "skipped", skipped, 241))
    return (Plan(events=events, broken_at=range(238, 246), step=245),)


EVOLVING = (("pretrain", 500), ("evomerge", 35))


def _evolving_events() -> tuple[tuple[float, str, str, str, int | None], ...]:
    return (
        (60.0, "info", "phase", "evomerge begins", 0),
        (31.0, "info", "checkpoint", "checkpoint step 20 (0.1 MB, 12 ms stall)", 20),
    )


def _several() -> tuple[Plan, ...]:
    day = 86_400.0
    return (
        Plan(id=ulid(1), name="calm-heron-40", state=State.COMPLETED, phase="forging", step=200, age=9 * day,
             ended=9 * day - 300, note="first one that beat rounding"),
        Plan(id=ulid(2), name="rapid-lynx-71", state=State.FAILED, step=88, age=3 * day, ended=3 * day - 60,
             error="the corpus text:/data/*.txt has no files", preset="25m"),
        Plan(id=ulid(3), name="dapper-wren-19", state=State.INTERRUPTED, step=140, age=day, ended=day - 200),
        Plan(id=ulid(4), name="golden-ibis-55", state=State.STOPPED, phase="forging", step=40, age=7_000,
             ended=6_500, note="λ ramp twice as long"),
        Plan(id=ulid(5), name="vivid-tern-33", state=State.CREATED, age=300),
        Plan(id=ulid(6), events=EVENTS),
    )  # fmt: skip


PLANS: dict[str, Callable[[], tuple[Plan, ...]]] = {
    "empty": tuple,
    "running": lambda: (Plan(events=EVENTS),),
    "gpu": lambda: (Plan(events=EVENTS, gpu=True),),
    "forging": lambda: (Plan(phase="forging", step=120, events=_forging_events(), age=1_010),),
    "evolving": lambda: (
        Plan(phase="evomerge", step=26, events=_evolving_events(), phases=EVOLVING, age=64),
    ),
    "evolved": lambda: (
        Plan(state=State.COMPLETED, phase="evomerge", step=29, events=_evolving_events(), phases=EVOLVING,
             age=96),
    ),
    "measuring": lambda: (
        Plan(phase="forging", step=200, status="measuring on held-out files", events=EVENTS[:1]),
    ),
    "paused": lambda: (Plan(state=State.PAUSED, events=EVENTS),),
    "stopped": lambda: (Plan(state=State.STOPPED, events=EVENTS),),
    "finished": lambda: (
        Plan(state=State.COMPLETED, phase="forging", step=200, events=_finished_events(), age=210),
    ),
    "failed": _failed,
    "interrupted": lambda: (
        Plan(
            state=State.INTERRUPTED,
            events=(
                *EVENTS,
                (9.0, "warning", "interrupted", OWNER_DIED, 310),
            ),
        ),
    ),
    "hanging": lambda: (Plan(events=EVENTS, beat_age=95),),
    "nan": _nan,
    "starting": lambda: (Plan(state=State.CREATED, leased=True, age=2),),
    "created": lambda: (Plan(state=State.CREATED, age=40),),
    "million": lambda: (Plan(points=1_000_000, step=1_000_000, events=EVENTS[:1], age=900_000),),
    "several": _several,
    "hostile": lambda: tuple(
        Plan(id=ulid(i), name=name, note=name, state=State.STOPPED, step=20, age=1000 - i,
             error=name, status=name, preset=name, events=_hostile_events())
        for i, name in enumerate(HOSTILE)
    ),
}  # fmt: skip


def _hostile_events() -> tuple[tuple[float, str, str, str, int | None], ...]:
    return tuple(
        (100.0 - i, ("error", "info")[i % 2], "error", name, 3 + i) for i, name in enumerate(HOSTILE)
    )


def _forging_events() -> tuple[tuple[float, str, str, str, int | None], ...]:
    return (
        (1010.0, "info", "phase", "pretrain begins", None),
        (60.0, "info", "report", "pretrain completed: full precision 1.842 bits/byte", None),
        (59.0, "info", "phase", "forging begins", None),
        (20.0, "info", "checkpoint", "checkpoint step 100 (19.1 MB, 41 ms stall)", 100),
    )


def _finished_events() -> tuple[tuple[float, str, str, str, int | None], ...]:
    report = (
        "forging completed: full precision 1.842 bits/byte, + the same steps 1.807 bits/byte, post-training "
        "ternary 3.262 bits/byte, forged ternary 1.934 bits/byte"
    )
    return (
        (210.0, "info", "phase", "pretrain begins", None),
        (88.0, "info", "report", "pretrain completed: full precision 1.842 bits/byte", None),
        (87.0, "info", "phase", "forging begins", None),
        (50.0, "info", "checkpoint", "checkpoint step 100 (19.1 MB, 41 ms stall)", 100),
        (14.0, "info", "checkpoint", "checkpoint step 200 (19.1 MB, 40 ms stall)", 200),
        (10.0, "info", "report", report, None),
        (9.0, "info", "completed", "all phases completed", None),
    )


def make(name: str, folder: Path) -> Home:
    """A home in a folder, seeded."""
    home = Home(folder)
    prepare_home(home)
    if name == "requested":
        request(seed(home, Plan(events=EVENTS)), FIRST, "stop")
    elif name == "crowd":
        _crowd(home, 10_000)
    elif name == "old":
        _old_home(home)
    elif plans := PLANS[name]():
        seed(home, *plans)
        for one in plans if name in ("hostile", "running") else ():
            _fill(home, one.id, 412)
    return home


def _old() -> tuple[Plan, ...]:
    """A home to clean up: something for every verdict and most reasons."""
    day = 86_400.0
    states = {1: State.FAILED, 2: State.COMPLETED, 3: State.STOPPED, 4: State.FAILED, 5: State.INTERRUPTED,
              6: State.STOPPED, 8: State.FAILED}  # fmt: skip
    names = (
        "bold-crane-81", "calm-heron-40", "rapid-lynx-71", "dapper-wren-19", "golden-ibis-55",
        "vivid-tern-33", "keen-marten-24", "quiet-moth-62", "amber-finch-77", "brisk-newt-05",
    )  # fmt: skip
    ended = (63, 48, 41, 33, 16, 12, 9, 8.5, 8, 2)
    old = [
        Plan(id=ulid(i), name=name, state=states.get(i, State.COMPLETED), step=40, age=(days + 0.1) * day,
             ended=days * day, note="first one that beat rounding" if i == 0 else "")
        for i, (name, days) in enumerate(zip(names, ended, strict=True))
    ]  # fmt: skip
    return (*old, Plan(id=ulid(10), events=EVENTS))


_SIZES_MB = (412, 385, 1_212, 655, 972, 1_482, 204, 871, 1_042, 120, 323)


def _old_home(home: Home) -> Home:
    """`_old` with sizes, a pin, a tag, a checkpoint, a family, and two sessions in the trash."""
    seed(home, *_old())
    for i, megabytes in enumerate(_SIZES_MB):
        _fill(home, ulid(i), megabytes)
    checkpoint = home.session(ulid(6)).checkpoints("pretrain") / "step-00000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    with Registry.open(home) as registry:
        registry.write(_ties)
        for i, days in ((1, 2.0), (4, 6.5)):
            at = NOW - days * 86_400
            found = plan(home, registry, SessionCleanupPolicy(max_sessions_retained=None), at)
            only = replace(found, decisions=tuple(d for d in found.decisions if d.session.id == ulid(i)))
            assert execute(home, registry, only, actor="a test", now=at).trashed
    return home


def _fill(home: Home, session_id: str, megabytes: int) -> None:
    """A size beside which it is no matter how long a configuration is."""
    # A hole in a file counts as its size, and takes no room.
    with (home.session(session_id).root / "weights").open("wb") as file:
        file.truncate(megabytes * 1_000_000)


def _ties(c: Connection) -> None:
    edits.set_pinned(c, ulid(2), True)
    cleanup.set_tags(c, ulid(3), ["paper"])
    edits.add_checkpoint(c, ulid(6), phase="pretrain", step=40, path="checkpoints/pretrain/step-00000040",
                         bytes=1, seconds=0.1, now=NOW - 9 * 86_400)  # fmt: skip
    for i, days, parents in ((0, 63, {}), (9, 2, {f"model {ulid(0)}": 1.0})):
        row = ModelRow(
            id=f"model {ulid(i)}", session_id=ulid(i), phase="pretrain", name="m", parameters=1, bytes=1,
            created_at=NOW - days * 86_400, path="weights", metrics={},
        )  # fmt: skip
        edits.add_model(c, row, parents)


def _crowd(home: Home, number: int) -> None:
    """Thousands of sessions; only their rows, because the list reads nothing else."""
    states = (State.COMPLETED, State.STOPPED, State.FAILED, State.INTERRUPTED, State.COMPLETED)

    def one(c: Connection, i: int) -> None:
        began = NOW - 60.0 * (number - i)
        name, preset = f"run-{i:05d}", ("tiny", "25m")[i % 2]
        edits.create_session(c, id=ulid(i), name=name, preset=preset, phases=PHASES, now=began)
        edits.set_session_state(c, ulid(i), State.RUNNING, now=began, phase="pretrain")
        edits.set_session_state(c, ulid(i), states[i % 5], now=began + 30)

    def all_of_them(c: Connection) -> None:
        for i in range(number):
            one(c, i)

    with Registry.open(home) as registry:
        registry.write(partial(all_of_them))
