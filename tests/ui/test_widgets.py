"""Widgets repaint only the cells that changed, and hold a long list by one page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.message import Message

from forge.home import Home
from forge.registry import Registry, edits
from forge_tui.charts.raster import Chart, Layer, Trace
from forge_tui.charts.widget import ChartView
from forge_tui.text import compose
from forge_tui.widgets.choice import Choice
from forge_tui.widgets.ink import INKS, strip
from forge_tui.widgets.listing import Listing
from forge_tui.widgets.textpane import TextPane, changed
from tests.ui.homes import ulid
from tests.ui.seed import NOW, Plan, seed
from tests.ui.stage import LARGE, SMALL, playing, press, settle, shown, stage
from tests.ui.test_charts import view

Seeded = Callable[[str], Home]


class Recording(TextPane):
    """A pane that remembers which regions it marked."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[Region] = []

    def refresh(self, *regions: Region, **options: bool) -> Recording:
        """Note the regions."""
        self.marked += regions
        super().refresh(*regions, **options)
        return self


class Holder(App[None]):
    """One widget that fills the screen."""

    def __init__(self, widget: TextPane | ChartView) -> None:
        super().__init__()
        self.widget = widget
        self.heard: list[Message] = []

    def compose(self) -> ComposeResult:
        """The widget."""
        yield self.widget


def text(*lines: str) -> list[Text]:
    """Plain lines."""
    return [Text(line) for line in lines]


async def test_only_the_cells_that_changed_are_marked() -> None:
    pane = Recording()
    async with Holder(pane).run_test(size=(30, 5)) as pilot:
        pane.show(text("step 310 of 500", "lr 3.0e-3"))
        await pilot.pause()
        pane.marked.clear()
        pane.show(text("step 311 of 500", "lr 3.0e-3"))
        assert pane.marked == [Region(7, 0, 1, 1)]
        pane.marked.clear()
        pane.show(text("step 311 of 500", "lr 3.0e-3"))
        assert pane.marked == []
        pane.show(text("step 311 of 500"))
        assert pane.marked == [Region(0, 1, 9, 1)]


async def test_lines_are_built_for_the_size_they_are_drawn_at() -> None:
    asked: list[tuple[int, int]] = []

    def build(width: int, height: int) -> list[Text]:
        asked.append((width, height))
        return text("x" * width)

    pane = TextPane()
    pane.show_by(build)
    async with Holder(pane).run_test(size=(30, 5)) as pilot:
        await pilot.pause()
        assert pane.lines[0].plain == "x" * 30
        await pilot.resize_terminal(50, 8)
        await pilot.pause()
        assert pane.lines[0].plain == "x" * 50
        assert set(asked) == {(30, 5), (50, 8)}
        assert len(asked) == 2


async def test_a_hidden_pane_builds_nothing() -> None:
    asked: list[int] = []

    def build(number: int, _width: int, _height: int) -> list[Text]:
        asked.append(number)
        return text("x")

    pane = TextPane()
    async with Holder(pane).run_test(size=(30, 5)) as pilot:
        pane.display = False
        await pilot.pause()
        for number in range(3):
            pane.show_by(partial(build, number))
        await pilot.pause()
        assert asked == []
        pane.display = True
        await pilot.pause()
        assert asked == [2]


async def test_the_end_is_followed_until_somebody_scrolls() -> None:
    pane = TextPane(follow=True)
    async with Holder(pane).run_test(size=(10, 3)) as pilot:
        pane.show(text(*"abcde"))
        await pilot.pause()
        assert [line.plain for line in pane._visible()] == ["c", "d", "e"]
        pane.scroll_text(-1)
        assert pane.below == 1
        pane.show(text(*"abcdefg"))
        assert [line.plain for line in pane._visible()] == ["b", "c", "d"]
        assert pane.below == 3
        pane.scroll_text(99)
        assert [line.plain for line in pane._visible()] == ["e", "f", "g"]
        pane.scroll_text(-99)
        assert [line.plain for line in pane._visible()] == ["a", "b", "c"]
        pane.show(text("z"))
        assert [line.plain for line in pane._visible()] == ["z"]


plain = st.text(st.sampled_from("ab1 ·東█"), max_size=12)


@given(plain, plain)
def test_what_differs_lies_in_the_marked_cells(old: str, new: str) -> None:
    def cells(line: str) -> list[str]:
        return [char for each in line for char in (each, "")[: Text(each).cell_len]]

    before, after = cells(old), cells(new)
    length = max(len(before), len(after))
    before += [" "] * (length - len(before))
    after += [" "] * (length - len(after))
    marked = {at for first, last in changed(Text(old), Text(new)) for at in range(first, last)}
    assert {at for at in range(length) if before[at] != after[at]} <= marked
    assert (old == new) is (not marked) or before == after


def test_only_what_differs_is_marked() -> None:
    old = compose("step ", ("310", "value"), (" of 500 · 8.41 k tok/s · ", "label"), ("46 s", "value"))
    new = compose("step ", ("311", "value"), (" of 500 · 8.41 k tok/s · ", "label"), ("45 s", "value"))
    assert changed(old, new) == [(7, 8), (34, 35)]
    assert changed(old, old.copy()) == []


def test_another_ink_is_a_change() -> None:
    assert changed(compose(("ab", "label")), compose(("ab", "bad"))) == [(0, 2)]
    assert changed(Text("ab"), Text("ab", style="cursor")) == [(0, 2)]
    longer = compose(("██", "bar"), ("░░", "track"))
    assert changed(compose(("█", "bar"), ("░░░", "track")), longer) == [(1, 2)]


def test_a_strip_has_its_width_and_its_inks() -> None:
    made = strip(compose("a", ("b", "bad"), ("c", "nonsense")), 6, Style(bgcolor="#000000"))
    assert made.cell_length == 6
    assert [(s.text, s.style and s.style.color) for s in made][1] == ("b", INKS["bad"].color)


# --- charts on the screen -----------------------------------------------------------------------------


async def test_a_chart_repaints_only_what_moved() -> None:
    def chart(*values: float) -> Chart:
        return Chart(
            (Trace(view(list(values)), "line", Layer.LINE),), start=0.0, end=20.0, floor=0.0, ceiling=5.0
        )

    class Marking(ChartView):
        marked: list[Region] = []  # noqa: RUF012 - one widget, one test

        def refresh(self, *regions: Region, **options: bool) -> Marking:
            self.marked += regions
            super().refresh(*regions, **options)
            return self

    widget = Marking()
    async with Holder(widget).run_test(size=(60, 20)) as pilot:
        widget.show(chart(1, 2, 3))
        widget.refresh()
        await pilot.pause()
        widget.marked.clear()
        widget.show(chart(1, 2, 3))
        assert widget.marked == []
        widget.show(chart(1, 2, 3, 4))
        assert widget.marked
        assert sum(region.area for region in widget.marked) < 60


async def test_a_chart_is_drawn_for_its_size() -> None:
    widget = ChartView()
    widget.show(Chart((Trace(view([1.0, 2.0]), "line", Layer.LINE),), end=2.0))
    async with Holder(widget).run_test(size=(40, 10)) as pilot:
        await pilot.pause()
        assert widget._raster is not None
        assert widget._raster.glyphs.shape == (10, 40)
        await pilot.resize_terminal(50, 12)
        await pilot.pause()
        assert widget._raster.glyphs.shape == (12, 50)


# --- the choice ---------------------------------------------------------------------------------------


async def test_a_choice_goes_round() -> None:
    choice = Choice(["a", "b", "c"], "a")
    async with Holder(choice).run_test() as pilot:
        seen = []
        for _ in range(4):
            choice.step(1)
            seen.append(choice.value)
        choice.step(-1)
        await pilot.pause()
    assert [*seen, choice.value] == ["b", "c", "a", "b", "a"]


# --- the list -----------------------------------------------------------------------------------------


async def test_ten_thousand_rows_are_held_by_a_page(seeded: Seeded) -> None:
    app = stage(seeded("crowd"))
    async with playing(app, SMALL) as pilot:
        await press(pilot, "L")
        rows = app.screen.query_one("#rows", Listing)
        for keys, first in (
            (("G",), "run-00000"),
            (("g",), "run-09999"),
            (("ctrl+d", "ctrl+d"), "run-09979"),
        ):
            await press(pilot, *keys)
            assert rows.selected is not None
            assert rows.selected.name == first
            assert "…" not in shown(app)
            assert len(rows._page.rows) <= 200


@pytest.mark.parametrize("step", [1, 40, -40])
async def test_a_page_boundary_is_crossed_without_a_gap(seeded: Seeded, step: int) -> None:
    app = stage(seeded("crowd"))
    async with playing(app, LARGE) as pilot:
        await press(pilot, "L")
        rows = app.screen.query_one("#rows", Listing)
        rows.move_to(185)
        await settle(pilot)
        for _ in range(3):
            rows.move(step)
            await settle(pilot)
        assert rows.cursor == 185 + 3 * step
        names = [line.plain.split()[2] for line in rows.lines]
        assert names == [f"run-{9999 - rows.first - i:05d}" for i in range(len(names))]


async def test_the_cursor_stays_on_its_session_when_rows_come_before_it(fresh_home: Home) -> None:
    seed(fresh_home, *(Plan(id=ulid(i), name=f"s{i}", age=1000 - i) for i in range(3)))
    app = stage(fresh_home)
    async with playing(app) as pilot:
        await press(pilot, "L", "j")
        rows = app.screen.query_one("#rows", Listing)
        assert rows.selected is not None
        assert rows.selected.name == "s1"
        with Registry.open(fresh_home) as registry:
            registry.write(
                lambda c: edits.create_session(c, id=ulid(9), name="new", preset="tiny", phases=[], now=NOW)
            )
        await settle(pilot)
        assert rows.selected.name == "s1"
        assert rows.cursor == 2


async def test_an_empty_list_has_no_cursor(seeded: Seeded) -> None:
    app = stage(seeded("empty"))
    async with playing(app) as pilot:
        await press(pilot, "L", "j", "G", "k")
        rows = app.screen.query_one("#rows", Listing)
        assert rows.selected is None
        assert rows.cursor == 0
