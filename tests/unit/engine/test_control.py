"""Requests are claimed once, by whom they were meant for, and each is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from forge.engine.control import CommandDesk, Control
from forge.engine.outbox import Outbox
from forge.errors import RegistryError
from forge.registry import CommandRow, edits, queries
from tests.unit.engine.rig import LEASE, Rig


@pytest.fixture
def ready(rig: Rig) -> Rig:
    """A session that runs under `LEASE`."""
    rig.build()
    rig.begin("pretrain")
    return rig


def insert(rig: Rig, kind: str) -> CommandRow:
    return rig.registry.write(
        lambda c: edits.request_command(c, rig.session_id, kind, args={}, requested_by="anna", now=1.0)
    )


def drain(control: Control) -> list[str]:
    taken = []
    while (command := control.take()) is not None:
        taken.append(command.kind)
    return taken


def test_each_is_claimed_once_in_the_order_of_asking(ready: Rig) -> None:
    for kind in ("pause", "checkpoint", "resume", "stop"):
        insert(ready, kind)
    ready.desk.poll()
    ready.desk.poll()
    assert drain(ready.control) == ["pause", "checkpoint", "resume", "stop"]
    rows = ready.registry.fetch(queries.commands(ready.session_id, 10))
    assert {row.state for row in rows} == {"claimed"}


def test_two_desks_of_one_lease_share_and_never_double(ready: Rig) -> None:
    other = CommandDesk(ready.registry, Outbox(ready.registry), ready.session_id, LEASE, ready.control)
    for kind in ("pause", "resume"):
        insert(ready, kind)
        ready.desk.poll()
        other.poll()
    assert drain(ready.control) == ["pause", "resume"]


def test_what_was_meant_for_the_owner_before_is_void(ready: Rig) -> None:
    old = insert(ready, "stop")
    ready.registry.write(lambda c: edits.take_lease(c, ready.session_id, "NEW", "pid 2 on here", 2.0))
    ready.desk.poll()  # the old owner's desk gets nothing
    new = CommandDesk(ready.registry, Outbox(ready.registry), ready.session_id, "NEW", ready.control)
    new.poll()
    assert drain(ready.control) == []
    assert ready.answer(old) == ("void", "the process that it was meant for has ended")


def test_an_unknown_kind_is_refused_and_the_others_are_not_held_up(ready: Rig) -> None:
    strange, known = insert(ready, "fly"), insert(ready, "pause")
    ready.desk.poll()
    assert ready.answer(strange) == ("refused", "this version does not know the command fly")
    assert ready.answer(known)[0] == "claimed"
    assert drain(ready.control) == ["pause"]


def test_looking_again_without_a_change_costs_no_query(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.desk.poll()
    monkeypatch.setattr(ready.registry, "fetch", pytest.fail)
    ready.desk.poll()


def test_a_change_that_is_no_request_takes_no_lock(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.registry.write(lambda c: edits.set_note(c, ready.session_id, "hello"))
    monkeypatch.setattr(ready.registry, "write", pytest.fail)
    ready.desk.poll()


def test_a_claim_that_failed_is_made_at_the_next_look(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(ready, "stop")

    def locked(change: Callable[..., Any]) -> Any:
        raise RegistryError("another process has kept it locked")

    with monkeypatch.context() as patch:
        patch.setattr(ready.registry, "write", locked)
        with pytest.raises(RegistryError):
            ready.desk.poll()
    ready.desk.poll()
    assert drain(ready.control) == ["stop"]


def test_an_answer_stands_and_waits_for_the_registry(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ready.request("pause")

    def locked(change: Callable[..., Any]) -> Any:
        raise RegistryError("another process has kept it locked")

    with monkeypatch.context() as patch:
        patch.setattr(ready.registry, "write", locked)
        ready.desk.answer(command, done=True, text="paused before step 3")
    assert ready.answer(command)[0] == "claimed"
    assert ready.scope.outbox.flush()
    ready.desk.answer(command, done=False, text="too late")
    assert ready.answer(command) == ("done", "paused before step 3")


def test_whatever_waits_at_the_end_is_answered(ready: Rig) -> None:
    commands = [ready.request(kind) for kind in ("checkpoint", "pause")]
    ready.desk.refuse_rest("the run ended first")
    assert [ready.answer(command) for command in commands] == [("refused", "the run ended first")] * 2
    assert not ready.control.pending


def test_a_request_wakes_who_waits() -> None:
    control = Control()
    for _ in range(2):  # the second finds it waiting already
        thread = threading.Thread(target=control.wait, args=[600.0])
        thread.start()
        control.request_stop("SIGTERM")
        thread.join(30)
        assert not thread.is_alive()
    assert (control.pending, control.stop_reason) == (True, "SIGTERM")
