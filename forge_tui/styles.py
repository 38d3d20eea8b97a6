"""Where the style sheets are: in the wheel beside this file, in a checkout at the top level.

An editable install has no packaged copy, so both places are looked at.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).with_name("styles")
_CHECKOUT = Path(__file__).parent.parent / "styles"

FOLDER = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
"""The folder of all style sheets."""


def sheet(name: str) -> Path:
    """The style sheet of one screen."""
    return FOLDER / f"{name}.tcss"
