"""Forge: make small language models on one machine, phase by phase, and never lose a run.

Importing this package costs nothing: it pulls in neither torch nor any of its own modules.
"""

import os

# OpenMP reads these when torch is loaded. By default its threads spin while they wait for each other, and as
# soon as anything else wants a core, such as the screen of this process, a step takes several times as long.
# A short spin (GNU's count) costs a small model less than sleeping at once.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"
