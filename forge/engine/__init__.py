"""Runs a session: runner, control, telemetry, checkpoint, lease, host (thread or process).

Torch is imported only inside the training thread.
"""

from forge.engine.engine import Engine
from forge.engine.host import HostedRun
from forge.engine.process import ChildRun, attend

__all__ = ["ChildRun", "Engine", "HostedRun", "attend"]
