"""Settings of a home: defaults without a file, every problem listed, and changes whole or not made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from forge.config import (
    HomeSettings,
    NotifySettings,
    RetentionSettings,
    SessionCleanupPolicy,
    change_settings,
    load_settings,
    save_policy,
)
from forge.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_without_a_file_the_defaults_hold(path: Path) -> None:
    settings = load_settings(path)
    assert settings == HomeSettings()
    assert settings.retention.auto
    assert settings.retention.policy == SessionCleanupPolicy()
    assert settings.notify.on_finish is None
    assert not path.exists()


def test_every_field_says_what_it_is_for() -> None:
    for model in (HomeSettings, RetentionSettings, NotifySettings):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_all_problems_at_once(path: Path) -> None:
    path.write_text("retention: {max_age_days: -1, days: 3}\nnope: 1\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path}: 3 problems"
    assert [line.split(":")[0].strip() for line in lines] == [
        "retention.max_age_days", "retention.days", "nope",
    ]  # fmt: skip


def test_a_policy_that_limits_nothing_is_refused(path: Path) -> None:
    nothing = [
        f"retention.max_{limit}=null" for limit in ("sessions_retained", "age_days", "failed_age_days")
    ]
    with pytest.raises(ConfigError, match="limits nothing"):
        change_settings(path, nothing)
    assert not path.exists()


def test_a_change_keeps_what_it_does_not_name_and_follows_the_defaults(path: Path) -> None:
    path.write_text("notify:\n  on_finish: 'echo \"$FORGE_STATE\"'\n", "utf-8")
    changed = change_settings(path, ["retention.max_age_days=90", "retention.keep_tags=[paper]"])
    assert changed == load_settings(path)
    assert changed.retention.policy == SessionCleanupPolicy(max_age_days=90, keep_tags=("paper",))
    assert changed.notify.on_finish == 'echo "$FORGE_STATE"'
    written = yaml.safe_load(path.read_text("utf-8"))
    assert written["retention"] == {"max_age_days": 90, "keep_tags": ["paper"]}


def test_a_change_that_is_not_valid_leaves_the_file_as_it_was(path: Path) -> None:
    path.write_text("retention: {auto: false}\n", "utf-8")
    for override in ("retention.max_age_days=soon", "notify.terminal=loud", "retention=1"):
        with pytest.raises(ConfigError):
            change_settings(path, [override])
    assert path.read_text("utf-8") == "retention: {auto: false}\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_takes_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory; nothing was"):
        change_settings(tmp_path / "gone" / "settings.yaml", ["retention.auto=false"])


def test_a_policy_becomes_that_of_the_home_and_auto_stays(path: Path) -> None:
    change_settings(path, ["retention.auto=false"])
    policy = SessionCleanupPolicy(max_sessions_retained=None, max_total_gb=1.5, keep_tags=("a: b", "x#y"))
    saved = save_policy(path, policy)
    assert saved.retention.policy == policy
    assert load_settings(path).retention == RetentionSettings(**policy.model_dump(), auto=False)
