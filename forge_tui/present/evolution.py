"""The pane of a phase that evolves: its report once there is one, the fittest one's family, all candidates.

What is shown of a candidate is a line; its genome and recipe are in the registry and on the model's card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from forge.registry.rows import PhaseRunRow, StandingRow
from forge_tui import units
from forge_tui.present import figures
from forge_tui.state import Snapshot
from forge_tui.text import Part, cells, compose, pad, safe

_FITNESS, _GENERATION = 8, 4
_WIDEST_NAME = 34
_NAMED = 3
"""Ancestors of a generation that are named; of the others only how many there are."""
_MODEL, _RANDOM = "parent", "random"
"""Kinds of the individuals that are models as they were handed on, and of those of the control."""


def lines(snapshot: Snapshot, runs: list[PhaseRunRow], width: int) -> list[Text]:
    """Everything, from what matters most to the last candidate."""
    report = [*figures.report_lines(runs, width), safe("")] if runs else []
    return report + _Standings(snapshot.population, width).lines()


class _Standings:
    """A population as lines of one width."""

    def __init__(self, members: Sequence[StandingRow], width: int) -> None:
        self._members = members
        self._width = width
        self._by_key = {member.key: member for member in members}
        self._models = {
            key: member.name.removeprefix(f"{_MODEL} ")
            for member in members
            if member.kind == _MODEL
            for key in member.parents
        }
        widest = max((cells(member.name) for member in members), default=0) + 2
        self._name_width = max(8, min(widest, _WIDEST_NAME, width // 2 - _FITNESS - _GENERATION))

    def lines(self) -> list[Text]:
        """How many there are, the family of the fittest, and a table of all."""
        rows = [self._row(member) for member in self._members]
        return [self._head(), *self._family(), safe(""), self._columns(), *rows]

    def _head(self) -> Text:
        measured = sum(member.fitness is not None for member in self._members)
        parts: list[Part] = [(f"{measured} ", "strong"), ("measured", "label")]
        if waiting := len(self._members) - measured:
            parts += [("   ", "label"), (f"{waiting} ", "value"), ("wait", "label")]
        return compose(*parts, width=self._width)

    def _family(self) -> list[Text]:
        """The fittest merge, and from whom it descends, generation by generation back to the models."""
        merges = (m for m in self._members if m.kind not in (_MODEL, _RANDOM) and m.fitness is not None)
        fittest = next(merges, None)
        if fittest is None:
            return []
        head = (("fittest ", "label"), (fittest.name, "strong"), f" {_fitness(fittest)}")
        shown = [compose(*head, width=self._width)]
        front = [fittest]
        while front:
            keys = dict.fromkeys(key for member in front for key in member.parents)
            known = [self._by_key[key] for key in keys if key in self._by_key]
            if text := self._named(known, [key for key in keys if key not in self._by_key]):
                indent = "  " * (len(shown) - 1)
                shown.append(compose((f"{indent}└ ", "track"), (text, "value"), width=self._width))
            # Ancestors are of an earlier generation, so this comes to an end whatever the registry holds.
            front = [one for one in known if one.generation < min(m.generation for m in front)]
        return shown

    def _named(self, known: Iterable[StandingRow], models: Iterable[str]) -> str:
        ranked = sorted(known, key=lambda member: -(member.fitness or 0.0))
        names = [f"{member.name} {_fitness(member)}" for member in ranked[:_NAMED]]
        if len(ranked) > _NAMED:
            names.append(f"{len(ranked) - _NAMED} more")
        return ", ".join([*names, *(self._models.get(key, key) for key in models)])

    def _columns(self) -> Text:
        return self._line(
            ("fitness", "label"), ("gen", "label"), ("candidate", "label"), ("recipe, parents", "label")
        )

    def _row(self, member: StandingRow) -> Text:
        ink = "faint" if member.fitness is None else "value"
        return self._line(
            (_fitness(member), ink),
            (f"{member.generation:>2}", "label"),
            (member.name, ink),
            (f"{member.method}  ", "label"),
            (self._parents(member), "faint"),
        )

    def _line(self, fitness: Part, generation: Part, name: Part, *rest: Part) -> Text:
        line = compose()
        for part, size in ((fitness, _FITNESS), (generation, _GENERATION), (name, self._name_width)):
            line.append_text(pad(compose(part, width=size - 1), size))
        return pad(line.append_text(compose(*rest)), self._width)

    def _parents(self, member: StandingRow) -> str:
        known = [self._by_key[key] for key in member.parents if key in self._by_key]
        if known:
            return f"{len(known)} of generation {max(one.generation for one in known)}"
        return ", ".join(self._models.get(key, key) for key in member.parents)


def _fitness(member: StandingRow) -> str:
    return "waits" if member.fitness is None else units.figure(member.fitness)
