"""Search, order and pages, with names that a person chose badly or with intent."""

from __future__ import annotations

import pytest

from forge.registry import Registry, State, edits, queries

NAMES = [
    "100%",
    "100 per cent",
    "under_score",
    "underXscore",
    "back\\slash",
    "Zebra",
    "apple",
    "'; --",
    "日本",
]


@pytest.fixture
def filled(registry: Registry) -> Registry:
    def fill(number: int, name: str) -> None:
        registry.write(
            lambda c: edits.create_session(
                c,
                id=f"01HX{number:02}",
                name=name,
                preset="tiny" if number % 2 else "25m",
                phases=[],
                now=number,
            )
        )

    for number, name in enumerate(NAMES):
        fill(number, name)
    return registry


def found(registry: Registry, search: str) -> list[str]:
    names = [
        row.name
        for row in registry.fetch(queries.sessions(limit=50, search=search, order="name", descending=False))
    ]
    counted = registry.one(queries.count_sessions(search))
    assert counted == len(names)
    return names


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("%", ["100%"]),
        ("_", ["under_score"]),
        ("\\", ["back\\slash"]),
        ("0%", ["100%"]),
        ("r_s", ["under_score"]),
        ("zEBra", ["Zebra"]),
        ("'; --", ["'; --"]),
        ("本", ["日本"]),
        ("\udcff", []),
        ("\0", []),
        ("01hx03", ["underXscore"]),
    ],
)
def test_search_takes_wildcards_as_themselves(filled: Registry, search: str, names: list[str]) -> None:
    assert found(filled, search) == names


def test_search_looks_into_preset_and_note(filled: Registry) -> None:
    filled.write(lambda c: edits.set_note(c, "01HX05", "for the 50% report"))
    assert found(filled, "50%") == ["Zebra"]
    assert len(found(filled, "25m")) == 5


def test_orders(filled: Registry) -> None:
    def names(order: queries.Order, descending: bool) -> list[str]:
        query = queries.sessions(limit=50, order=order, descending=descending)
        return [row.name for row in filled.fetch(query)]

    assert names("created", False) == NAMES
    assert names("created", True) == NAMES[::-1]
    assert names("name", False)[-3:] == [
        "underXscore",
        "Zebra",
        "日本",
    ]  # Zebra after apple, whatever the case
    filled.write(lambda c: edits.set_session_state(c, "01HX04", State.RUNNING, now=99.0))
    assert names("updated", True)[0] == "back\\slash"
    assert names("state", True)[0] == "back\\slash"


def test_pages_neither_repeat_nor_skip(filled: Registry) -> None:
    for order in ("created", "updated", "name", "state"):
        pages = [
            row.id
            for offset in range(0, 10, 2)
            for row in filled.fetch(queries.sessions(limit=2, offset=offset, order=order))
        ]
        assert sorted(pages) == [f"01HX{number:02}" for number in range(9)], order
        # Where all are equal, as their states are, the id decides.
        assert order != "state" or pages == sorted(pages, reverse=True)
    assert filled.fetch(queries.sessions(limit=-1)) == []
    assert len(filled.fetch(queries.sessions(limit=3, offset=-5))) == 3


def test_trashed_sessions_are_shown_only_when_asked_for(filled: Registry) -> None:
    filled.write(lambda c: edits.set_session_state(c, "01HX02", State.TRASHED, now=9.0))
    assert filled.one(queries.count_sessions()) == 8
    assert [row.id for row in filled.fetch(queries.sessions(limit=9, states=[State.TRASHED]))] == ["01HX02"]
    both = queries.sessions(limit=9, states={State.TRASHED, State.CREATED})
    assert len(filled.fetch(both)) == 9


def test_a_person_means_an_id_or_a_name_or_the_start_of_an_id(filled: Registry) -> None:
    def ids(text: str) -> list[str]:
        return sorted(row.id for row in filled.fetch(queries.find_sessions(text)))

    assert ids("01HX03") == ["01HX03"]
    assert ids("Zebra") == ["01HX05"]
    assert ids("01hx0") == [f"01HX{number:02}" for number in range(9)]
    assert ids("") == ids("Zeb") == ids("%") == ids("01HX0_") == ids("01HX0%") == []
    filled.write(lambda c: edits.rename_session(c, "01HX01", "01HX0"))
    assert ids("01HX0") == ["01HX01"]  # a name that is also the start of ids
    filled.write(lambda c: edits.rename_session(c, "01HX01", "01HX07"))
    assert ids("01HX07") == ["01HX07"]  # an id before a name
    assert ids("01HX01") == ["01HX01"]


def test_at_most_ten_are_meant(filled: Registry) -> None:
    for number in range(20, 30):
        filled.write(
            lambda c, n=number: edits.create_session(
                c, id=f"01HX{n}", name=f"{n}", preset="t", phases=[], now=1.0
            )  # type: ignore[misc]
        )
    assert len(filled.fetch(queries.find_sessions("01"))) == 10
