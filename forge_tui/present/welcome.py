"""What an empty home shows: what Forge does, and the key to begin with."""

from __future__ import annotations

from rich.text import Text

from forge_tui.state import Snapshot
from forge_tui.text import Part, compose, safe_lines


def lines(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """A short invitation in the middle of the screen, or why nothing can be shown."""
    if snapshot.problem is not None:
        return [compose(), *safe_lines(snapshot.problem, width)]
    if snapshot.making:
        text = [compose(("making a session from ", "label"), (snapshot.making, "strong"), ("…", "label"))]
    else:
        text = [compose(*parts) for parts in _INVITATION]
    indent = " " * max(1, (width - max(line.cell_len for line in text)) // 2)
    above = max(0, (height - len(text)) // 3)
    return [compose()] * above + [compose(indent, line, width=width) for line in text]


_INVITATION: tuple[tuple[Part, ...], ...] = (
    (("Forge", "key"), (" makes small language models on this machine, phase by phase,", "value")),
    (("and never loses a run: what stops can always be resumed.", "value"),),
    (),
    (("There is no session here yet.", "strong"),),
    (),
    (("n", "key"), ("       make one: choose a preset, see what it costs, start it", "label")),
    (("L", "key"), ("       the list of all sessions", "label")),
    (("?", "key"), ("       what every key does", "label")),
    (("ctrl+p", "key"), ("  find an action by its name", "label")),
    (),
    (('The preset "tiny" takes a few minutes on two CPU cores.', "faint"),),
)
