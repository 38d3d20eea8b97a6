"""Checkpoints that somebody prepared, with hashes that fit: refused or read, soon, in little memory.

A hash finds an accident. What is put together on purpose has the right one, so everything behind it must hold
by itself: the manifest, the state, and the headers of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.engine import checkpoint as checkpoints
from forge.engine.checkpoint import FILES, DamagedError
from forge.errors import CheckpointError
from forge.models.decoder import Decoder
from forge.models.io import load_decoder, load_weights
from tests.unit.engine.test_checkpoint import META, state
from tests.unit.merge.rig import write_raw
from tests.unit.merge.test_tensorfile import HOSTILE
from tests.unit.models.test_io import CPU, PICO

KEYS = st.sampled_from(["$tensor", "$items", "$tuple", "$float", "a", "step", "bytes"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = ["step", "files", "last_steps", "runtime", "seconds", "scheduled", "format", *FILES]
LENGTHS = [2**25 + 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, which every test changes and puts right again."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.save(folder, 10, state(10), META)
    return folder / "step-00000010"


@contextmanager
def changed(path: Path, name: str, content: bytes, **manifest: Any) -> Iterator[None]:
    """Another content for one file, and a manifest whose hashes and checksum fit it."""
    before = {each: (path / each).read_bytes() for each in (name, "manifest.json")}
    body = json.loads(before["manifest.json"])
    del body["checksum"]
    if name != "manifest.json":
        (path / name).write_bytes(content)
        body["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    body.update(manifest)
    (path / "manifest.json").write_text(
        json.dumps({**body, "checksum": checkpoints._checksum(body)}), "utf-8"
    )
    try:
        yield
    finally:
        for each, data in before.items():
            (path / each).write_bytes(data)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["step", "files", "last_steps", "runtime", "seconds", "format", *FILES]), value=JSON
)
def test_a_manifest_of_any_values_is_refused_or_read(saved: Path, key: str, value: object) -> None:
    files = json.loads((saved / "manifest.json").read_bytes())["files"]
    given_ = {"files": {**files, key: value}} if key in FILES else {key: value}
    with changed(saved, "manifest.json", b"", **given_), suppress(CheckpointError):
        checkpoints.load(saved)
    with changed(saved, "manifest.json", b"", **given_), suppress(CheckpointError):
        checkpoints.newest_runtime(saved.parent)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=JSON, step=st.just(10) | JSON)
def test_a_state_of_any_shape_is_refused_or_read(saved: Path, tree: object, step: object) -> None:
    text = json.dumps({"format": 1, "step": step, "tree": tree})
    with changed(saved, "state.json", text.encode()), suppress(CheckpointError):
        assert checkpoints.load(saved).step == 10


@pytest.mark.parametrize("text", [b"", b"null", b"[" * 200_000, b"\xff", b'{"step": 1e999}', b"1" * 5000])
def test_a_state_that_is_none_is_damage(saved: Path, text: bytes) -> None:
    with changed(saved, "state.json", text), pytest.raises(DamagedError):
        checkpoints.load(saved)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail where more memory is taken than a header of a few bytes can need."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_damage(saved: Path, tmp_path: Path, name: str, case: str) -> None:
    document, data, _ = HOSTILE[case]
    content = write_raw(tmp_path / "x", document, data).read_bytes()
    with changed(saved, name, content), little_memory(), pytest.raises(DamagedError):
        checkpoints.load(saved)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_lies_takes_no_memory(saved: Path, tmp_path: Path, length: int) -> None:
    content = length.to_bytes(8, "little") + b"{}" + bytes(100)
    with (
        changed(saved, "model.safetensors", content),
        little_memory(),
        pytest.raises(DamagedError, match="a header of"),
    ):
        checkpoints.load(saved)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with little_memory(), pytest.raises(CheckpointError, match="a header of"):
        load_weights(Decoder(PICO), path)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_model_whose_header_lies_is_refused(tmp_path: Path, case: str) -> None:
    document, data, message = HOSTILE[case]
    write_raw(tmp_path / "model.safetensors", document, data)
    with pytest.raises(CheckpointError, match=message):
        load_weights(Decoder(PICO), tmp_path / "model.safetensors")


@pytest.mark.parametrize("claim", [{"n_layers": 4096}, {"d_model": 65_536, "n_heads": 2}])
def test_a_configuration_that_claims_a_giant_is_compared_with_the_weights_first(
    tmp_path: Path, claim: dict[str, int]
) -> None:
    from tests.unit.models.saving import save_decoder

    save_decoder(Decoder(PICO), tmp_path)
    (tmp_path / "config.json").write_text(PICO.model_copy(update=claim).model_dump_json(), "utf-8")
    with pytest.raises(CheckpointError, match="weights of another model"):
        load_decoder(tmp_path, CPU)


@pytest.mark.parametrize("claim", [10**9, 2**63, 10**30])
def test_a_size_beyond_all_models_is_refused_by_the_configuration(tmp_path: Path, claim: int) -> None:
    for field in ("n_layers", "d_model", "d_ff", "n_heads", "max_seq_len"):
        (tmp_path / "config.json").write_text(json.dumps({field: claim}), "utf-8")
        with pytest.raises(CheckpointError, match=f"not a model configuration: {field}"):
            load_decoder(tmp_path, CPU)
