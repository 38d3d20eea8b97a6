"""Programs in pseudo-terminals over a home of their own, with nothing of who runs the tests in it."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.home import Home
from tests.conftest import ROOT
from tests.e2e.terminal import Desk
from tests.e2e.watch import Watch

BIN = Path(sys.executable).parent
FORGE, FORGE_TUI = str(BIN / "forge"), str(BIN / "forge-tui")

CORPUS = Path(sysconfig.get_path("stdlib")) / "asyncio" / "*.py"
"""Real text that is everywhere."""

STEPS = {"pretrain": 450, "forging": 80}
"""Steps of the session that reaches its report."""

# Real text, and a few seconds of one core: long enough to be steered, and to lose something where it can.
CONFIG = """\
name: small
model: {{vocab_size: 384, d_model: 64, n_layers: 2, n_heads: 2, d_ff: 128, max_seq_len: 64}}
data: {{corpus: "text:{corpus}", seq_len: 64, max_bytes: 200000, dev_fraction: 0.1, test_fraction: 0.1}}
runtime: {{device: cpu, threads: 1, checkpoint_every: 100}}
pretrain: {{steps: {pretrain}, batch_size: 8, micro_batch: 8, warmup_steps: 10,
  eval_every: 50, eval_tokens: 1024, report_tokens: 4096}}
forging: {{steps: {forging}, batch_size: 8, micro_batch: 8, warmup_steps: 5, learning_rate: 1.0e-3,
  eval_every: 50, eval_tokens: 1024, report_tokens: 4096, lambda_ramp_steps: 40}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that does not exist yet."""
    return Home(tmp_path / "home")


@pytest.fixture
def env(tmp_path: Path, home: Home) -> dict[str, str]:
    """The whole environment of a program: what a plain terminal has."""
    return {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "FORGE_HOME": str(home.root),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "TZ": "UTC",
        # The checkout under test, where it is not the one that is installed.
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def desk(env: dict[str, str]) -> Iterator[Desk]:
    """Terminals; whatever runs in them ends with the test."""
    desk = Desk(env)
    yield desk
    desk.close()


@pytest.fixture
def watch(home: Home) -> Watch:
    """What the registry says."""
    return Watch(home)


def write_config(folder: Path, *, pretrain: int, forging: int) -> Path:
    """A configuration of a small model on the standard library's asyncio, with so many steps."""
    path = folder / "small.yaml"
    path.write_text(CONFIG.format(corpus=CORPUS, pretrain=pretrain, forging=forging), "utf-8")
    return path


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A configuration that reaches its report while a test waits."""
    return write_config(tmp_path, **STEPS)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A configuration that goes on until somebody ends it."""
    return write_config(tmp_path, pretrain=1_000_000, forging=100)
