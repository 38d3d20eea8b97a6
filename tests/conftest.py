"""What all tests share: where the snapshots of the screens are kept, and that no test watches the clock.

Snapshots lie in `snapshots/` at the top level, because they are reviewed like code. Nothing here deletes
one: with a folder outside the tests, syrupy takes the siblings of a single test that is updated for
left-overs. `test_no_snapshot_is_left_over` finds the real ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest_textual_snapshot  # type: ignore[import-untyped]
from hypothesis import settings
from syrupy.location import PyTestLocation

# Before any test imports torch: OpenMP is told how to wait when torch is loaded.
import forge  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


class TopLevelSvg(pytest_textual_snapshot.SVGImageExtension):  # type: ignore[misc]
    """SVG files in `snapshots/<folder of the test>/<file of the test>/`."""

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        """The folder of one test file."""
        folder = Path(test_location.filepath).resolve().parent.relative_to(ROOT / "tests")
        return str(ROOT / "snapshots" / folder / test_location.basename)

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        """Leave every file where it is."""


# No test asserts a time: a busy machine would fail it.
settings.register_profile("forge", deadline=None)
settings.load_profile("forge")

# The plugin's fixture looks the name up when it is called.
pytest_textual_snapshot.SVGImageExtension = TopLevelSvg
