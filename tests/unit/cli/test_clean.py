"""`forge clean` and `forge trash`: the plan is shown, only a yes carries it out, and there is a way back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from forge.cli import clean as command
from forge.config import change_settings
from forge.home import Home
from forge.registry import Registry, State, cleanup
from tests.unit.cli.conftest import Forge, add, held

DAY = 86_400


def aged(home: Home, name: str, days: float, state: State = State.COMPLETED) -> str:
    """A session that ended so many days ago, with a kilobyte of files."""
    session_id = add(home, name, state)
    paths = home.session(session_id)
    paths.config.write_text("name: tiny\n")
    paths.log.write_bytes(b"x" * 1000)
    with Registry.open(home) as registry:
        registry.write(
            lambda c: (
                c.execute(
                    "UPDATE session SET ended_at = ended_at - ?1, updated_at = updated_at - ?1 WHERE id = ?2",
                    [days * DAY, session_id],
                ).rowcount
            )
        )
    return session_id


def trashed(home: Home) -> list[str]:
    with Registry.open(home) as registry:
        return [row.name for row in registry.fetch(cleanup.trash())]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a person at a terminal."""
    monkeypatch.setattr(command, "_interactive", lambda: True)


def test_no_home_is_nothing_to_clean(forge: Forge, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert forge("clean", "--home", nowhere).err == "there is no session, so there is nothing to clean.\n"
    assert forge("clean", "--json", "--home", nowhere).json["sessions"] == []
    assert forge("trash", "--home", nowhere).err == "the trash is empty.\n"
    assert forge("trash", "undo", "x", "--home", nowhere).code == 4
    assert not (tmp_path / "nowhere").exists()


def test_without_a_terminal_the_plan_is_only_shown(forge: Forge, home: Home) -> None:
    aged(home, "old\x1b[2J", 40)
    aged(home, "young", 1)
    shown = forge("clean")
    heads, *rows, total = shown.out.splitlines()
    assert heads.split() == ["VERDICT", "NAME", "STATE", "SIZE", "REASON"]
    assert rows[0].split()[:5] == ["trash", "old\\x1b[2J", "completed", "1.01", "kB"]
    assert rows[0].endswith("ended 40 d ago, the limit is 30 days")
    assert rows[1].startswith("keep")
    assert rows[1].endswith("within the limits; ended 1 d ago")
    assert total == "1 session to the trash (1.01 kB), 1 kept (1.01 kB)"
    assert shown.err == "nothing was moved; --yes does it\n"
    assert (shown.code, trashed(home)) == (0, [])


def test_limits_that_are_not_given_are_those_of_the_home(forge: Forge, home: Home) -> None:
    aged(home, "old", 40)
    change_settings(home.settings, ["retention.max_age_days=90"])
    assert forge("clean").out.splitlines()[1].startswith("keep")
    assert forge("clean", "--max-age-days", "20").out.splitlines()[1].startswith("trash")
    home.settings.write_text("retention: {max_age_days: soon}\n", "utf-8")
    broken = forge("clean")
    assert (broken.code, broken.out) == (3, "")
    assert "retention.max_age_days" in broken.err


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(("answer", "done"), [("\n", False), ("n\n", False), ("y\n", True)])
def test_at_a_terminal_it_asks_and_no_is_the_default(
    forge: Forge, home: Home, answer: str, done: bool
) -> None:
    aged(home, "old", 40)
    result = forge("clean", stdin=answer)
    assert result.code == 0
    assert "Move 1 session to the trash? [y/N]" in result.err
    assert ("1 session moved to the trash (1.01 kB)" in result.out) is done
    assert ("nothing was moved." in result.err) is not done
    assert trashed(home) == (["old"] if done else [])


def test_yes_carries_it_out(forge: Forge, home: Home) -> None:
    ids = [aged(home, f"s{n}", n) for n in range(1, 5)]
    answer = forge("clean", "--keep", "2", "--json", "--yes").json
    assert answer["policy"]["max_sessions_retained"] == 2
    assert [(s["name"], s["verdict"]) for s in answer["sessions"]] == [
        ("s4", "trash"), ("s3", "trash"), ("s1", "keep"), ("s2", "keep")
    ]  # fmt: skip
    assert answer["executed"] == {"trashed": [ids[3], ids[2]], "skipped": [], "bytes": 2022}
    assert (answer["bytes_to_trash"], answer["bytes_to_keep"]) == (2022, 2022)
    assert trashed(home) == ["s4", "s3"] or trashed(home) == ["s3", "s4"]


def test_json_alone_only_looks(forge: Forge, home: Home) -> None:
    aged(home, "old", 40)
    assert forge("clean", "--json").json["executed"] is None
    assert trashed(home) == []


def test_a_live_session_stays_and_a_dead_one_is_noticed(forge: Forge, home: Home) -> None:
    live, dead = add(home, "live", State.RUNNING), add(home, "dead", State.RUNNING)
    for session_id in (live, dead):
        home.session(session_id).config.write_text("x")
    with held(home, live):
        answer = forge("clean", "--keep", "0", "--yes", "--json").json
    assert {s["name"]: (s["state"], s["verdict"]) for s in answer["sessions"]} == {
        "dead": ("interrupted", "trash"), "live": ("running", "keep")
    }  # fmt: skip


def test_limits_and_tags(forge: Forge, home: Home) -> None:
    session_id = aged(home, "old", 40)
    aged(home, "failed", 8, State.FAILED)

    def verdicts(*options: str) -> dict[str, str]:
        return {s["name"]: s["verdict"] for s in forge("clean", "--json", *options).json["sessions"]}

    assert verdicts() == {"old": "trash", "failed": "trash"}
    assert verdicts("--max-age-days", "50", "--max-failed-age-days", "9") == {"old": "keep", "failed": "keep"}
    assert verdicts("--max-age-days", "none", "--max-failed-age-days", "none") == {
        "old": "keep", "failed": "keep"
    }  # fmt: skip
    small = ("--max-age-days", "none", "--max-failed-age-days", "none", "--max-total-gb", "1.5e-6")
    assert verdicts(*small) == {"old": "trash", "failed": "keep"}
    with Registry.open(home) as registry:
        registry.write(lambda c: cleanup.set_tags(c, session_id, ["paper"], 1.0))
    assert verdicts("--keep-tag", "paper")["old"] == "keep"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--keep", "none", "--max-age-days", "none", "--max-failed-age-days", "none"], "limits nothing"),
        (["--keep", "many"], "max_sessions_retained"),
        (["--max-age-days", "0"], "max_age_days"),
        (["--max-total-gb", "nan"], "max_total_gb"),
    ],
)
def test_a_policy_that_makes_no_sense(forge: Forge, home: Home, options: list[str], why: str) -> None:
    aged(home, "old", 40)
    result = forge("clean", "--yes", *options)
    assert result.code == 2
    assert why in " ".join(result.err.split())
    assert trashed(home) == []


def test_the_way_back(forge: Forge, home: Home) -> None:
    session_id = aged(home, "old", 40)
    forge("clean", "--yes")
    assert not home.session(session_id).root.exists()
    heads, row, total = forge("trash").out.splitlines()
    assert heads.split() == ["NAME", "WAS", "SIZE", "TRASHED", "REASON"]
    assert row.split()[:5] == ["old", "completed", "1.01", "kB", "now"]
    assert total == "1 session in the trash (1.01 kB)"
    (facts,) = forge("trash", "list", "--json").json["sessions"]
    assert (facts["session_id"], facts["state_before"]) == (session_id, "completed")
    wrong = forge("trash", "undo", "young")
    assert (wrong.code, wrong.err) == (
        4, 'forge: no session "young" is in the trash; "forge trash" lists what is.\n'
    )  # fmt: skip
    back = forge("trash", "undo", session_id[:20])
    assert back.out == "old is back, completed\n"
    assert "leaves it alone for 7 days" in back.err
    assert home.session(session_id).log.read_bytes() == b"x" * 1000
    assert forge("trash").err == "the trash is empty.\n"
    assert forge("trash", "undo", "old").code == 4


def test_emptying(forge: Forge, home: Home) -> None:
    session_id = aged(home, "old", 40)
    forge("clean", "--yes")
    assert "nothing of that kind" in forge("trash", "empty", "--older-than", "1", "--yes").err
    shown = forge("trash", "empty")
    assert "1 session in the trash" in shown.out
    assert shown.err == "nothing was deleted; --yes does it\n"
    assert home.trashed(session_id).root.exists()
    answer = forge("trash", "empty", "--yes", "--json").json
    assert answer["executed"]["deleted"] == [session_id]
    assert answer["executed"]["file_bytes"] == 1011
    assert not home.trashed(session_id).root.exists()
    assert trashed(home) == []
    assert forge("sessions", "--json").json["total"] == 0


def test_what_was_deleted_is_written_down(forge: Forge, home: Home) -> None:
    first, second = aged(home, "old\x1b[2J", 40), aged(home, "older", 41)
    assert forge("trash", "log").err == "nothing was moved or deleted yet.\n"
    forge("clean", "--yes")
    forge("trash", "undo", "older")
    forge("trash", "empty", "--yes")
    heads, *lines = forge("trash", "log").out.splitlines()
    assert heads.split() == ["WHEN", "WHAT", "SIZE", "BY", "SESSION"]
    assert [line.split()[2] for line in lines] == ["trash", "trash", "undo", "purge", "purged"]
    assert "old\\x1b[2J: ended 40 d ago, the limit is 30 days" in lines[1]
    newest, *_ = rows = forge("trash", "log", "--json").json["audit"]
    assert (newest["action"], newest["session_id"]) == ("purged", first)
    assert newest["bytes"] >= 1000
    assert {row["session_id"] for row in rows} == {first, second}
    assert len(forge("trash", "log", "-n", "2", "--json").json["audit"]) == 2


@pytest.mark.usefixtures("asked")
def test_emptying_asks_and_no_is_the_default(forge: Forge, home: Home) -> None:
    aged(home, "old", 40)
    forge("clean", "--yes")
    result = forge("trash", "empty", stdin="\n")
    assert "Delete 1 session for good? There is no way back. [y/N]" in result.err
    assert trashed(home) == ["old"]
    done = forge("trash", "empty", stdin="y\n")
    assert "1 session deleted; " in done.out
    assert trashed(home) == []


def test_what_a_crash_left_is_finished_by_looking(forge: Forge, home: Home) -> None:
    session_id = aged(home, "old", 40)
    with Registry.open(home) as registry:
        registry.write(
            lambda c: cleanup.trash_session(
                c, session_id, actor="me", reason="old", bytes=1, path="", now=1.0
            )
        )
    assert "old is in the trash, as was begun" in forge("trash").err
    assert home.trashed(session_id).root.exists()


def test_what_stays_is_told(forge: Forge, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = aged(home, "old", 40)
    real = command._execute

    def late(*args: object) -> object:
        with held(home, session_id):
            return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_execute", late)
    result = forge("clean", "--yes")
    assert "old stays: somebody holds its lease" in result.err
    assert "0 sessions moved to the trash" in result.out


def test_neither_needs_torch(home: Home) -> None:
    aged(home, "old", 40)
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom forge.cli.app import app\n"
        f"for words in (['clean', '--yes'], ['trash'], ['trash', 'undo', 'old']):\n"
        f"    r = CliRunner().invoke(app, words, env={{'FORGE_HOME': {str(home.root)!r}}})\n"
        "    assert r.exit_code == 0, r.output\n"
        "import json; print(json.dumps(sorted({'torch', 'textual'} & sys.modules.keys())))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
