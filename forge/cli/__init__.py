"""`forge`, the headless twin of forge-tui: the same engine, one command at a time.

Data goes to stdout, everything else to stderr. `forge --help` answers before anything slow is imported: a
command imports what it needs inside its function.
"""

from forge.cli.app import main

__all__ = ["main"]
