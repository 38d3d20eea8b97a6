"""Beside the form: what the session would be and cost, or what is still wrong."""

from __future__ import annotations

from rich.text import Text

from forge.config import PipelineConfig
from forge_tui import units
from forge_tui.draft import estimate
from forge_tui.text import compose, safe

_LABEL = 12


def costs(
    config: PipelineConfig | None, seconds: float | None, measured_in: str | None, width: int
) -> list[Text]:
    """Parameters, steps, tokens, memory, disk and time."""
    if config is None:
        return [safe("fix what is marked, then its cost stands here", width, "label")]
    e = estimate(config)
    per_phase = " + ".join(units.steps(getattr(config, phase).total_steps) for phase in config.phases)
    shape = f"d {config.model.d_model} · {config.model.n_layers} layers"
    rows = [
        ("parameters", units.count(e.parameters), shape),
        ("steps", units.steps(e.steps), per_phase if len(config.phases) > 1 else ""),
        ("tokens", units.count(e.tokens), "seen in training"),
        ("memory", f"about {units.size(e.memory_bytes)}", _memory_note(config.runtime.vram_budget_gb)),
        ("disk", f"about {units.size(e.disk_bytes)}", "checkpoints and models"),
    ]
    if seconds is None or measured_in is None:
        rows.append(("time", "unknown", "until it has run here"))
    else:
        rows.append(("time", f"about {units.duration(seconds)}", f"as in {measured_in}"))
    return [
        compose((f"{label:<{_LABEL}}", "label"), (f"{value:<16}", "strong"), (note, "faint"), width=width)
        for label, value, note in rows
    ]


def _memory_note(budget_gb: float | None) -> str:
    return "with the tensor library" if budget_gb is None else f"on a GPU at most {budget_gb:g} GB"


def reason(text: str | None, width: int) -> list[Text]:
    """The line under a field: why it cannot stay so, or nothing."""
    return [compose(("! ", "bad"), (text, "bad"), width=width)] if text else []
