"""A prover that measures nothing: it answers what a test gives it, at once or when the test lets it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from forge.validate import Figure, Result
from forge_tui.services.prover import Answer, Told
from forge_tui.trials import DOCTOR, Fact

FACTS = (
    Fact("python", "ok", "3.11.7 (/usr/bin/python3)"),
    Fact("sqlite", "ok", "3.53.2 (pysqlite3), WAL"),
    Fact("cuda", "note", "this torch is built for the CPU only"),
    Fact("terminal", "ok", "TERM is xterm-256color, 120x40"),
    Fact("logout", "wrong", "KillUserProcesses is on, linger is off for ada: systemd-logind ends a run when "
         "you log out, though it survives a closed terminal", "loginctl enable-linger, then start it outside "
         "your login: systemd-run --user --scope forge run tiny."),
)  # fmt: skip

STE = Result(
    "ste",
    (
        Figure("least gradient of a layer, STE", 0.5411, "", ">", 0.0),
        Figure("error of the STE gradient against that of the ternary weight", 0.0, "", "<=", 1e-5),
        Figure("largest gradient, no STE, scale frozen", 0.0, "", "==", 0.0, control=True),
        Figure("layers there that `grad is not None` passes", 28, "of 28", "==", 28, control=True),
        Figure("the loss falls by, STE", 2.314, "nat/token", ">", 0.0),
    ),
    14.2,
)
WAL = Result(
    "wal",
    (
        Figure("errors in the readers", 0, "in 96 looks", "==", 0),
        Figure("updates lost", 3, "of 602", "==", 0),
        Figure("a commit beside them, p99", 48.2, "ms", "<=", 1000),
        Figure('"database is locked" with a plain BEGIN', 356, "in 398 commits", ">=", 1, control=True),
        Figure("4 readers cost a step", 1.2, "%", "<=", 5.0, low=-0.8, high=3.1),
    ),
    61.7,
)
SCREEN = Result(
    "screen",
    (
        Figure("memory of an attached screen after 6 s", 71.4, "MB", "<=", 80),
        Figure("a hosting screen costs a step", 2.9, "%", "<=", 2, low=-1.0, high=6.0,
               doubt="a hosting screen costs a step cannot be told from its limit: the interval of the pairs "
               "reaches from -1.0 to 6.0 %; run it without --quick, or when the machine is at rest"),
    ),
    75.0,
)  # fmt: skip
MEMORY = Result(
    "memory",
    (),
    0.4,
    "there is no NVIDIA GPU here, and the budget is one of GPU memory; on a CPU nothing is capped.",
    "cannot-run",
)
DURABILITY = Result(
    "durability",
    (
        Figure("homes that a cut may leave", 37, "", ">=", 23),
        Figure("of these, homes with a loss", 0, "", "==", 0),
        Figure("fsyncs whose absence is seen", 8, "of 8", ">=", 8, control=True),
    ),
    4.1,
)
ANSWERS: dict[str, Answer] = {
    DOCTOR: FACTS, "ste": STE, "wal": WAL, "screen": SCREEN, "memory": MEMORY, "durability": DURABILITY,
}  # fmt: skip


@dataclass
class FakeProver:
    """Answers at once, but for those that are held."""

    answers: dict[str, Answer] = field(default_factory=lambda: dict(ANSWERS))
    held: tuple[str, ...] = ()
    """These tell how far they are, and then wait to be let go or stopped."""
    calls: list[tuple[str, bool]] = field(default_factory=list)
    stops: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, name: str, quick: bool, told: Told) -> Answer:
        """Pretend to run one."""
        self.calls.append((name, quick))
        if name in self.held:
            told(0.45, "steps of the run, pair 2 of 10")
            await self.released.wait()
        return self.answers.get(name, Result(name))

    async def stop(self, patience: float) -> None:
        """Let go of what is held."""
        self.stops += 1
        self.released.set()
