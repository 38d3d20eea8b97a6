"""Numbers as a person reads them: bytes, counts, durations, rates, figures.

Pure functions from a number to a short string of predictable width; NaN and infinities are spelled out.
"""

from __future__ import annotations

import math
import time

_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float, digits: int = 4) -> str:
    """A measured figure with `digits` significant digits: `1.873`, `0.8412`, `3.0e-3`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6 or size < 0.01:
        number, _, power = f"{value:.{max(1, digits - 3)}e}".partition("e")
        return f"{number}e{int(power)}"
    decimals = digits - len(str(int(size))) if size >= 1 else digits
    return f"{value:,.{max(0, decimals)}f}"


def count(value: float) -> str:
    """A count with a decimal prefix: `812`, `12.4 k`, `1.21 M`."""
    if not math.isfinite(value):
        return figure(value)
    for scale, prefix in _DECIMAL:
        if abs(value) >= scale * 0.9995:
            return f"{_three(value / scale)} {prefix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with a decimal prefix: `3.10 GB`."""
    text = count(value)
    if not math.isfinite(value):
        return text
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def duration(seconds: float) -> str:
    """A stretch of time in its two largest units: `41 s`, `4 m 10 s`, `2 h 05 m`, `3 d 04 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def brief(seconds: float) -> str:
    """A short stretch of time to two digits, a longer one as `duration`: `4 ms`, `0.2 s`, `2.5 s`, `41 s`."""
    if not math.isfinite(seconds) or seconds >= 9.95:
        return duration(seconds)
    return f"{seconds:.1f} s" if seconds >= 0.095 else f"{max(0.0, seconds) * 1000:.0f} ms"


def stopwatch(seconds: float) -> str:
    """A running time: `00:14:02`, `2 d 03:14:02`."""
    days, whole = divmod(max(0, int(seconds)), 86_400)
    clock = f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{days} d {clock}" if days else clock


def ago(seconds: float) -> str:
    """How long ago something was, in one unit: `now`, `41 s`, `4 m`, `2 h`, `3 d`."""
    whole = max(0, int(seconds))
    for scale, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if whole >= scale:
            return f"{whole // scale} {unit}"
    return "now" if whole < 2 else f"{whole} s"


def since(seconds: float) -> str:
    """`ago` as it is said: `now`, `41 s ago`."""
    text = ago(seconds)
    return text if text == "now" else f"{text} ago"


def time_of_day(at: float) -> str:
    """Local time: `14:02:10`."""
    return _clock(at, "%H:%M:%S")


def date_time(at: float) -> str:
    """Local date and time: `2026-11-24 14:02`."""
    return _clock(at, "%Y-%m-%d %H:%M")


def timestamp(at: float) -> str:
    """Local date and time to the second: `2026-11-24 14:02:10`."""
    return _clock(at, "%Y-%m-%d %H:%M:%S")


def steps(value: int) -> str:
    """A step number: `1,240`."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """A share as whole percent, never rounded up to 100 before it is complete."""
    if whole <= 0:
        return "0%"
    return f"{min(100, int(100 * part / whole))}%"


def _three(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _clock(at: float, form: str) -> str:
    try:
        return time.strftime(form, time.localtime(at))
    except (OverflowError, ValueError, OSError):
        # A damaged file may hold any number.
        return "no time"
