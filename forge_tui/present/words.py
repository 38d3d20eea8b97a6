"""The words and signs for states and phases; every sign has a word beside it."""

from __future__ import annotations

from forge.registry.lifecycle import State

PHASE_TITLES = {
    "pretrain": "Pre-training",
    "cognate": "Cognate",
    "evomerge": "EvoMerge",
    "forging": "Forging",
}

SIGNS = {
    State.CREATED: "○",
    State.RUNNING: "▶",
    State.PAUSED: "‖",
    State.COMPLETED: "✓",
    State.FAILED: "✗",
    State.STOPPED: "■",
    State.INTERRUPTED: "!",
    State.TRASHED: "×",
}

INKS = {
    State.CREATED: "label",
    State.RUNNING: "good",
    State.PAUSED: "warn",
    State.COMPLETED: "good",
    State.FAILED: "bad",
    State.STOPPED: "label",
    State.INTERRUPTED: "warn",
    State.TRASHED: "faint",
}


def phase_title(phase: str) -> str:
    """A phase's name as it is shown."""
    return PHASE_TITLES.get(phase, phase)
