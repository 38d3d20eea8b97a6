"""Why an owner ended that did not say so: a sentence for the event that calls its session interrupted.

It says what is known and no more. Known is what its starter saw of its end, what the kernel's log names, and
by how much the kernel's counters rose since the owner last looked at them.
"""

from __future__ import annotations

import signal
import socket

from forge.engine.kernel import Kernel
from forge.engine.lease import LeaseInfo

_MAKE_ROOM = (
    "Main memory was full: close other programs or add swap, then resume; should it come again, make a "
    "session with a smaller micro_batch, seq_len or model"
)


def cause(owner: str, info: LeaseInfo | None, code: int | None, kernel: Kernel) -> str:
    """How an owner ended.

    Args:
        owner: whoever it was, for display.
        info: what it wrote down when it took the lease; none where that is lost.
        code: what its starter saw of its end, negative for a signal; none where nobody saw it.
        kernel: where to look.
    """
    silent = f"its owner ({owner}) ended without saying so"
    if code is not None and code not in (0, -signal.SIGKILL):
        how = f"was ended by {_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"its owner ({owner}) {how} and could not say so"
    if info is None:
        return silent
    boot = kernel.boot_id()
    if boot != info.boot_id:
        # Another machine has another boot too, and knows nothing of the one the owner ran on.
        here = "unknown" not in (boot, info.boot_id) and info.host == socket.gethostname()
        return f"{silent}: the machine was started anew since" if here else silent
    killed = _out_of_memory(owner, info, code, kernel)
    if killed is not None:
        return f"{killed}. {_MAKE_ROOM}"
    return f"its owner ({owner}) was ended by SIGKILL" if code is not None and code < 0 else silent


def _out_of_memory(owner: str, info: LeaseInfo, code: int | None, kernel: Kernel) -> str | None:
    """What speaks for the out-of-memory killer, as strongly as it does; none when nothing does."""
    if code == 0:
        return None
    inside, machine = kernel.oom_kills_since(info.oom_kills)
    # In another container the number means another process.
    named = info.host == socket.gethostname() and kernel.killed(info.pid, info.uptime)
    if named or (code is not None and inside):
        return f"its owner ({owner}) was ended by the kernel's out-of-memory killer"
    silent = f"its owner ({owner}) ended without saying so"
    if inside or (code is not None and inside is None and machine):
        return f"{silent}, most likely by the kernel's out-of-memory killer, which struck about then"
    if inside is None and machine:
        return f"{silent}; the kernel's out-of-memory killer has ended a process here about then"
    return None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
