"""Runs a session: runner, control, telemetry, checkpoint, lease, host.

Torch is imported only inside the training thread.
"""

from forge.engine.engine import Engine
from forge.engine.host import HostedRun

__all__ = ["Engine", "HostedRun"]
