"""Forge: make small language models on one machine, phase by phase, and never lose a run.

Importing this package costs nothing: it pulls in neither torch nor any of its own modules.
"""

__version__ = "0.1.0"
