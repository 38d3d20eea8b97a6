"""Proof of the Cognate phase: each branch is best at its own speciality, and better there than its base.

Three seeds of the preset `cognate-tiny`, everything in it as it stands.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.config import BRANCHES, load_config
from forge.phases import Cognate
from tests.plain import PlainContext

pytestmark = pytest.mark.proofs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_branch_is_best_at_its_own_speciality(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache: Path = tmp_path_factory.getbasetemp() / "cognate-cache"
    cache.mkdir(exist_ok=True)
    config = load_config("cognate-tiny", [f"seed={seed}"])
    report = Cognate(config).run(PlainContext(config, 0, cache), ()).report
    print(f"\nseed {seed}")
    for row in report["rows"]:
        print(f"  {row['label']:<22} {row['value']!s:>6} {row['unit']:<9} {row['note']}", flush=True)
    found = report["figures"]["specialities"]
    for name in BRANCHES:
        bits = {model: one["bits_per_byte"] for model, one in found[name]["models"].items()}
        assert min(bits, key=bits.__getitem__) == name
