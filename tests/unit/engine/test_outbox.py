"""Registry changes in order, whatever the registry does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from forge.engine.outbox import Outbox
from forge.errors import IllegalTransitionError, RegistryError
from forge.registry import Registry, State, edits, queries


@contextmanager
def silent(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A registry that refuses every write; gives the number of tries."""
    tries: list[int] = []

    def refuse(change: Callable[..., Any]) -> Any:
        tries.append(1)
        raise RegistryError("the disk that holds the registry is full")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "write", refuse)
        yield tries


def notes(registry: Registry, session: str) -> list[str]:
    return [row.message for row in registry.fetch(queries.latest_events(session, 100))]


def note(session: str, text: str) -> Callable[[Any], int]:
    return lambda c: edits.add_event(c, session, kind="note", message=text, now=1.0)


def test_while_the_registry_answers_a_post_is_a_write(registry: Registry, session: str) -> None:
    outbox = Outbox(registry)
    outbox.post(note(session, "one"))
    assert notes(registry, session) == ["one"]
    assert (outbox.waiting, outbox.trouble) == (0, None)


def test_what_it_refuses_now_is_written_later_and_in_order(
    registry: Registry, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(registry)
    with silent(registry, monkeypatch) as tries:
        for text in ("one", "two", "three"):
            outbox.post(note(session, text))
        # One try finds it out; a training step must not wait for a lock again and again.
        assert len(tries) == 1
        assert outbox.waiting == 3
        assert outbox.trouble == "the disk that holds the registry is full"
        assert not outbox.flush()
    outbox.post(note(session, "four"))  # still behind the others
    assert notes(registry, session) == []
    assert outbox.flush()
    assert notes(registry, session) == ["one", "two", "three", "four"]
    outbox.post(note(session, "five"))
    assert notes(registry, session)[-1] == "five"


def test_a_write_that_must_happen_goes_behind_what_waits_or_raises(
    registry: Registry, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(registry)
    with silent(registry, monkeypatch):
        outbox.post(note(session, "one"))
        with pytest.raises(RegistryError, match="full"):
            outbox.write(note(session, "lost"))
    assert outbox.write(lambda c: edits.get_session(c, session).name) == "otter"
    assert notes(registry, session) == ["one"]


def test_a_change_that_is_wrong_is_told_and_holds_up_nothing(registry: Registry, session: str) -> None:
    outbox = Outbox(registry)
    with pytest.raises(IllegalTransitionError):
        outbox.post(lambda c: edits.set_session_state(c, session, State.PAUSED, now=1.0))
    assert outbox.waiting == 0
    outbox.post(note(session, "after"))
    assert notes(registry, session) == ["after"]


def test_posts_of_several_threads_are_all_written_once(registry: Registry, session: str) -> None:
    outbox = Outbox(registry)

    def post(name: str) -> None:
        for number in range(10):
            outbox.post(note(session, f"{name}{number}"))

    threads = [threading.Thread(target=post, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush()
    written = notes(registry, session)
    assert sorted(written) == sorted(f"{name}{number}" for name in "abc" for number in range(10))
    for name in "abc":
        assert [w for w in written if w[0] == name] == [f"{name}{number}" for number in range(10)]
