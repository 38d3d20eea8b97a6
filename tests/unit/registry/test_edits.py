"""What the engine writes comes back as it was meant, and a command reaches the owner it was meant for."""

from __future__ import annotations

import math

import pytest

from forge.errors import IllegalTransitionError, NotFoundError, RegistryError
from forge.registry import CommandRow, Connection, ModelRow, Registry, SessionRow, State, edits, queries


def run(registry: Registry, session: str, lease: str = "L1") -> None:
    """Give the session an owner and let it run."""

    def begin(c: Connection) -> None:
        edits.take_lease(c, session, lease, "pid 1 on box", 2.0)
        edits.set_session_state(c, session, State.RUNNING, now=2.0)

    registry.write(begin)


def ask(registry: Registry, session: str, kind: str = "pause") -> CommandRow:
    return registry.write(
        lambda c: edits.request_command(c, session, kind, args={"why": "\udcff"}, requested_by="me", now=3.0)
    )


def claim(registry: Registry, session: str, lease: str) -> list[CommandRow]:
    return registry.write(lambda c: edits.claim_commands(c, session, lease, 4.0))


def states(registry: Registry, session: str) -> list[str]:
    return [row.state for row in registry.fetch(queries.commands(session, 10))]


def get(registry: Registry, session: str) -> SessionRow:
    return registry.write(lambda c: edits.get_session(c, session))


# --- sessions -------------------------------------------------------------------------------------------


def test_names_are_unique_by_a_number(registry: Registry) -> None:
    def create(number: int, name: str) -> str:
        return registry.write(
            lambda c: edits.create_session(c, id=f"{number}", name=name, preset="tiny", phases=[], now=1.0)
        )

    assert [create(number, "otter") for number in range(3)] == ["otter", "otter-2", "otter-3"]
    assert create(7, "  otter-2 ") == "otter-2-2"
    assert registry.write(lambda c: edits.rename_session(c, "0", "otter-3")).name == "otter-3-2"
    assert registry.write(lambda c: edits.rename_session(c, "1", "otter-2")).name == "otter-2"  # its own


def test_an_empty_name_and_a_taken_id_are_refused(registry: Registry, session: str) -> None:
    with pytest.raises(RegistryError, match="name"):
        registry.write(lambda c: edits.rename_session(c, session, " \n"))
    with pytest.raises(RegistryError, match="already"):
        registry.write(
            lambda c: edits.create_session(c, id=session, name="x", preset="tiny", phases=[], now=1.0)
        )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("größe 🔨 日本", "größe 🔨 日本"),
        ("'; DROP TABLE session; --", "'; DROP TABLE session; --"),
        ("lone \udcff surrogate", "lone \\udcff surrogate"),
        ("a\0b", "a\\x00b"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_hostile_text_comes_back_or_is_written_out(
    registry: Registry, session: str, given: str, kept: str
) -> None:
    assert registry.write(lambda c: edits.rename_session(c, session, given)).name == kept
    assert registry.write(lambda c: edits.set_note(c, session, given)).note == kept
    registry.write(lambda c: edits.add_event(c, session, kind="k", message=given, now=1.0, phase=given))
    event = registry.fetch(queries.latest_events(session, 1))[0]
    assert (event.message, event.phase) == (kept, kept)
    assert [row.id for row in registry.fetch(queries.find_sessions(given))] == [session]
    assert registry.one(queries.session(given)) is None


def test_long_integers_are_kept_at_the_edge(registry: Registry, session: str) -> None:
    registry.write(lambda c: edits.add_event(c, session, kind="k", message="m", now=1.0, step=1 << 80))
    assert registry.fetch(queries.events_after(session, -(1 << 80), 10))[0].step == (1 << 63) - 1
    assert registry.fetch(queries.events_after(session, 1 << 80, 10)) == []
    assert registry.fetch(queries.sessions(limit=1 << 80, offset=1 << 80)) == []
    with pytest.raises(RegistryError, match="too large"):
        registry.write(lambda c: c.execute("UPDATE session SET pinned = ?", [1 << 80]).rowcount)


def test_an_unknown_session_is_named(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        registry.write(lambda c: edits.set_pinned(c, "nobody", True))


def test_notes_and_pins(registry: Registry, session: str) -> None:
    assert registry.write(lambda c: edits.set_pinned(c, session, True, 8.0)).pinned
    row = registry.write(lambda c: edits.set_note(c, session, "keep"))
    assert (row.pinned, row.note, row.updated_at) == (True, "keep", 8.0)


# --- events, checkpoints, models ------------------------------------------------------------------------


def test_events_are_read_from_where_one_stopped(registry: Registry, session: str) -> None:
    ids = [
        registry.write(lambda c, n=n: edits.add_event(c, session, kind="k", message=f"{n}", now=1.0))  # type: ignore[misc]
        for n in range(5)
    ]
    assert ids == sorted(ids)
    assert [row.message for row in registry.fetch(queries.events_after(session, ids[1], 2))] == ["2", "3"]
    assert [row.message for row in registry.fetch(queries.latest_events(session, 2))] == ["3", "4"]


def test_an_event_with_an_unknown_level_is_not_lost(registry: Registry, session: str) -> None:
    registry.write(lambda c: edits.add_event(c, session, kind="k", message="m", now=1.0, level="fatal"))
    assert registry.fetch(queries.latest_events(session, 1))[0].level == "info"


def test_a_checkpoint_says_how_far_its_phase_got(registry: Registry, session: str) -> None:
    def add(step: int, path: str) -> None:
        registry.write(
            lambda c: edits.add_checkpoint(
                c, session, phase="pretrain", step=step, path=path, bytes=5, seconds=0.1, now=step
            )
        )

    add(10, "a")
    add(20, "b")
    add(20, "c")  # saved again after a resume
    found = registry.fetch(queries.checkpoints(session, "pretrain"))
    assert [(row.step, row.path) for row in found] == [(10, "a"), (20, "c")]
    assert [row.step for row in registry.fetch(queries.phase_runs(session))] == [20, 0]
    registry.write(lambda c: edits.forget_checkpoint(c, session, "pretrain", 10))
    assert [row.step for row in registry.fetch(queries.checkpoints(session, None))] == [20]
    assert registry.fetch(queries.checkpoints(session, "forging")) == []


def test_a_model_comes_back_with_its_lineage(registry: Registry, session: str) -> None:
    def model(id: str) -> ModelRow:
        return ModelRow(
            id=id, session_id=session, phase="forging", name=f"{id}-b1.58", created_at=5.0, parameters=10,
            bytes=20, path=f"models/{id}", metrics={"bpb": 1.5, "worst": math.inf},
        )  # fmt: skip

    registry.write(lambda c: edits.add_model(c, model("m1"), {}))
    registry.write(lambda c: edits.add_model(c, model("m2"), {"m1": 0.25, "purged": 0.75}))
    assert registry.one(queries.model("m2")) == model("m2")
    assert registry.fetch(queries.model_parents("m2")) == [("purged", 0.75), ("m1", 0.25)]
    assert [row.id for row in registry.fetch(queries.models(session, 10))] == ["m2", "m1"]
    assert [row.id for row in registry.fetch(queries.models(None, 1))] == ["m2"]
    assert registry.fetch(queries.models("other", 10)) == []


def test_reports_survive_and_a_later_change_leaves_them(registry: Registry, session: str) -> None:
    report = {"bpb": {"forged": 1.0, "ptt": math.inf}, "note": "\udcff"}

    def change(c: Connection) -> None:
        edits.set_phase_state(c, session, "pretrain", State.RUNNING, now=2.0, total_steps=9, report=report)
        edits.set_phase_state(c, session, "pretrain", State.RUNNING, now=3.0, step=4)
        edits.enter_phase(c, session, "pretrain", 3.0)

    registry.write(change)
    first = registry.fetch(queries.phase_runs(session))[0]
    assert (first.report, first.step, first.total_steps) == (report, 4, 9)
    assert get(registry, session).phase == "pretrain"


# --- leases and commands --------------------------------------------------------------------------------


def test_a_command_without_an_owner_is_refused_in_words(registry: Registry, session: str) -> None:
    said = r"otter is created and nobody runs it.*forge resume otter"
    with pytest.raises(IllegalTransitionError, match=said):
        ask(registry, session)
    assert states(registry, session) == []


def test_an_owner_that_is_only_starting_can_be_asked(registry: Registry, session: str) -> None:
    registry.write(lambda c: edits.take_lease(c, session, "L1", "pid 1 on box", 2.0))
    ask(registry, session, "stop")
    assert [command.kind for command in claim(registry, session, "L1")] == ["stop"]


def test_what_is_asked_of_a_run_that_has_just_ended_becomes_void(registry: Registry, session: str) -> None:
    run(registry, session)
    registry.write(lambda c: edits.set_session_state(c, session, State.STOPPED, now=3.0))
    ask(registry, session)  # the lease lingers, the state does not
    registry.write(lambda c: edits.drop_lease(c, session, "L1"))
    assert states(registry, session) == ["void"]
    with pytest.raises(IllegalTransitionError, match="otter is stopped and nobody runs it"):
        ask(registry, session)


def test_a_command_goes_from_requested_to_done(registry: Registry, session: str) -> None:
    run(registry, session)
    asked = ask(registry, session)
    assert (asked.state, asked.lease, asked.args) == ("requested", "L1", {"why": "\udcff"})
    assert [row.state for row in claim(registry, session, "L1")] == ["claimed"]
    assert claim(registry, session, "L1") == []  # once only
    assert [row.state for row in registry.fetch(queries.open_commands(session))] == ["claimed"]
    done = registry.write(lambda c: edits.answer_command(c, asked.id, "done", "paused", 5.0))
    assert (done.state, done.answer, done.answered_at) == ("done", "paused", 5.0)
    assert registry.fetch(queries.open_commands(session)) == []
    late = registry.write(lambda c: edits.answer_command(c, asked.id, "refused", "no", 6.0))
    assert late == done


def test_a_new_owner_does_not_inherit_commands(registry: Registry, session: str) -> None:
    run(registry, session)
    ask(registry, session, "stop")
    claim(registry, session, "L1")
    ask(registry, session, "pause")
    registry.write(lambda c: edits.take_lease(c, session, "L2", "pid 2 on box", 5.0))
    assert states(registry, session) == ["void", "void"]
    assert claim(registry, session, "L2") == []
    assert all(row.answer for row in registry.fetch(queries.commands(session, 10)))


def test_a_command_for_another_lease_becomes_void_when_claimed(registry: Registry, session: str) -> None:
    run(registry, session)
    ask(registry, session)
    # As after a crash between the two halves of a takeover: the lease moved, the commands did not.
    registry.write(lambda c: c.execute("UPDATE session SET lease = 'L2'").rowcount)
    fresh = ask(registry, session, "stop")
    assert [(row.id, row.state, row.answer) for row in claim(registry, session, "L2")] == [
        (fresh.id, "claimed", None)
    ]
    assert states(registry, session) == ["claimed", "void"]


def test_an_owner_that_lost_its_lease_claims_nothing(registry: Registry, session: str) -> None:
    run(registry, session)
    registry.write(lambda c: edits.take_lease(c, session, "L2", "pid 2 on box", 5.0))
    mine = ask(registry, session)
    assert claim(registry, session, "L1") == []
    assert [row.id for row in claim(registry, session, "L2")] == [mine.id]


def test_dropping_a_lease_voids_what_waits_and_spares_the_next_owner(
    registry: Registry, session: str
) -> None:
    run(registry, session)
    ask(registry, session)
    registry.write(lambda c: edits.drop_lease(c, session, "another"))
    assert get(registry, session).lease == "L1"
    registry.write(lambda c: edits.drop_lease(c, session, "L1", 6.0))
    row = get(registry, session)
    assert (row.lease, row.owner, states(registry, session)) == (None, None, ["void"])


def test_looking_for_commands_wakes_nobody(registry: Registry, session: str) -> None:
    run(registry, session)
    before = registry.data_version()
    claim(registry, session, "L1")
    assert registry.data_version() == before
    ask(registry, session)
    assert registry.data_version() != before


def test_commands_are_listed_newest_first_and_bounded(registry: Registry, session: str) -> None:
    run(registry, session)
    for kind in ("pause", "resume", "stop"):
        ask(registry, session, kind)
    assert [row.kind for row in registry.fetch(queries.commands(session, 2))] == ["stop", "resume"]
