"""Blocks of a few elements, so that the smallest tensor is cut like a large one."""

from __future__ import annotations

import pytest

from forge.merge import blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here works across the edges of blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
