"""The memory pane: what the device, this run and the host hold, in the units that people budget in.

Where there is no NVIDIA GPU it says so plainly and shows main memory instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from forge.registry.lifecycle import LIVE
from forge_tui import units
from forge_tui.charts.raster import Chart, Layer, Trace
from forge_tui.charts.series import EMPTY
from forge_tui.state import Snapshot
from forge_tui.text import compose, safe

WINDOW_SECONDS = 600
_STRIDE_MS = 10_000
_LOW = 12
_TORCH = (
    ("allocated", "torch_allocated_bytes"),
    ("reserved", "torch_reserved_bytes"),
    ("peak", "torch_peak_bytes"),
)


def memory(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """The figures, most important first; some share a line where the pane is low."""
    system = snapshot.system
    if not system:
        return [safe("no measurements yet", width, "label")]
    if "gpu_total_bytes" in system:
        lines = _gpu(system, width, low=height < _LOW)
    else:
        lines = [compose(("no NVIDIA GPU here", "label"), (_cpu(system), "label"), width=width)]
    ram = _of(system.get("ram_used_bytes"), system.get("ram_total_bytes"))
    lines.append(_line("RAM", width, ram, _cpu(system) if "gpu_total_bytes" in system else ""))
    lines.append(_line("process", width, _amount(system.get("rss_bytes"))))
    return lines


def _cpu(system: Mapping[str, float]) -> str:
    """The load of the whole machine."""
    return f" · CPU {system['cpu_percent']:.0f}%" if "cpu_percent" in system else ""


def _gpu(system: Mapping[str, float], width: int, *, low: bool) -> list[Text]:
    load, budget = system.get("gpu_percent"), system.get("budget_bytes")
    device = _of(system.get("gpu_used_bytes"), system.get("gpu_total_bytes"))
    lines = [
        _line("device", width, device, "" if load is None else f" · {load:.0f}%"),
        _line("this run", width, _of(device_bytes(system), budget), " budget" if budget else ""),
    ]
    torch = [(title, _amount(system[name])) for title, name in _TORCH if name in system]
    if torch and low:
        # Allocated and peak; what lies between them is what reserved would say.
        return [*lines, _line("allocated", width, torch[0][1], f" · peak {torch[-1][1]}")]
    return lines + [_line(title, width, amount) for title, amount in torch]


def device_bytes(system: Mapping[str, float]) -> float | None:
    """What this run holds of the device.

    In a container the driver knows no processes; what torch has reserved is then the nearest to it.
    """
    return system.get("gpu_process_bytes", system.get("torch_reserved_bytes"))


def _line(label: str, width: int, figure: str, extra: str = "") -> Text:
    line = compose((f"{label:<10}", "label"), (figure, "value"), width=width)
    return line.append_text(compose((extra, "label"))) if line.cell_len + len(extra) <= width else line


def _amount(value: float | None) -> str:
    return "unknown" if value is None else units.size(value)


def _of(used: float | None, total: float | None) -> str:
    if used is None or not total:
        return _amount(used)
    part, whole = units.size(used), units.size(total)
    number, _, unit = part.partition(" ")
    return f"{number if unit and whole.endswith(f' {unit}') else part} of {whole}"


def memory_chart(snapshot: Snapshot) -> Chart:
    """The last ten minutes of what the run holds: device memory, or main memory without a GPU."""
    on_gpu = "gpu_total_bytes" in snapshot.system and device_bytes(snapshot.system) is not None
    names = ("gpu_process_bytes", "torch_reserved_bytes") if on_gpu else ("rss_bytes",)
    found = (snapshot.system_series[name] for name in names if name in snapshot.system_series)
    view = next(found, EMPTY)
    # The window moves in strides, so that most refreshes find the picture where it was.
    end = float((max(view.last_step, 0) // _STRIDE_MS + 1) * _STRIDE_MS)
    start = end - WINDOW_SECONDS * 1000
    live = snapshot.session is not None and snapshot.session.state in LIVE
    newest_label = "now" if live else "end"
    ceiling = snapshot.system.get("budget_bytes") if on_gpu else None

    def minutes(at: float) -> str:
        behind = round((end - at) / 60_000)
        return newest_label if behind == 0 else f"-{behind} min"

    return Chart(
        (Trace(view, "area", Layer.LINE),),
        start=start,
        end=end,
        floor=0.0,
        ceiling=ceiling,
        x_label=minutes,
        y_label=_short,
        x_ticks=(start, (start + end) / 2, end),
    )


def _short(value: float) -> str:
    return units.size(value).replace(" ", "").replace(".00", "")
