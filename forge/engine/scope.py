"""What all phases of one hosted run share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from forge.config import PipelineConfig
from forge.engine.aftercare import Aftercare
from forge.engine.control import CommandDesk, Control
from forge.engine.device import Place
from forge.engine.journal import Flood, Journal
from forge.engine.outbox import Outbox
from forge.engine.sampler import Sampler
from forge.engine.telemetry import Recorder, Telemetry
from forge.home import SessionPaths
from forge.registry import Registry


@dataclass(frozen=True)
class RunScope:
    """Built by the host, handed down unchanged."""

    session_id: str
    config: PipelineConfig
    paths: SessionPaths
    cache: Path
    registry: Registry
    outbox: Outbox
    place: Place
    telemetry: Telemetry
    recorder: Recorder
    sampler: Sampler
    control: Control
    desk: CommandDesk
    journal: Journal
    care: Aftercare
    flood: Flood = field(default_factory=Flood)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be exact: device, threads, versions, configuration."""
        frozen = hashlib.sha256(self.paths.config.read_bytes()).hexdigest()
        return {**self.place.fingerprint(), "configuration": frozen[:12]}
