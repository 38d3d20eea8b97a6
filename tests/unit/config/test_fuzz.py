"""Whatever stands in a file of settings, it is read or refused: soon, in little memory, with a sentence.

The readers of a configuration, a session's frozen copy, a home's settings and a recipe are given bytes, soups
of YAML, documents with the right keys in the wrong places, damaged presets, and bombs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forge.config import PipelineConfig, load_config, read_frozen
from forge.config.document import MAX_BYTES
from forge.config.settings import HomeSettings, change_settings, load_settings
from forge.errors import ForgeError
from forge.merge.recipe import load_recipe

READERS: dict[str, Callable[[Path], object]] = {
    "configuration": lambda path: load_config(str(path)),
    "overridden": lambda path: load_config(str(path), ["seed=1", "model.memory.dim=1e3"]),
    "frozen": read_frozen,
    "settings": load_settings,
    "changed": lambda path: change_settings(path, ["retention.max_age_days=3"]),
    "recipe": load_recipe,
}
CPU_SECONDS = 20.0
"""Of a processor; the slowest file that is allowed takes two."""
LONGEST_MESSAGE = 70_000
"""A hundred problems, each with a sentence."""


class Hangs(BaseException):
    """A reader went on for too long; no `except Exception` may keep it from the test."""


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what takes too much of the processor, however long the machine lets it wait."""

    def strike(_number: int, _frame: object) -> None:
        raise Hangs(f"still reading after {CPU_SECONDS:g} s of the processor")

    before = signal.signal(signal.SIGPROF, strike)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def read(data: bytes, folder: Path, *readers: str) -> list[str]:
    """Give a file to every reader, or to some; the refusals."""
    refused = []
    for name in readers or READERS:
        reader, path = READERS[name], folder / f"{name}.yaml"
        path.write_bytes(data)
        try:
            with bounded():
                reader(path)
        except ForgeError as error:
            refused.append(str(error))
            assert path.read_bytes() == data, "a file that is refused is left as it was"
    assert all(0 < len(each) < LONGEST_MESSAGE for each in refused)
    return refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- anything -------------------------------------------------------------------------------------------


def names(model: Any) -> set[str]:
    """Every key of a model of settings and of those inside it."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}


RECIPE = {"merge_method", "base_model", "models", "model", "slices", "sources", "layer_range", "parameters",
          "weight", "density", "filter", "value", "dtype", "seed", "tokenizer_source"}  # fmt: skip
KEYS = sorted(names(PipelineConfig) | names(HomeSettings) | RECIPE)
TOKENS = [
    "&a ", "&b ", "*a", "*b", "- ", "? ", ": ", "{", "}", "[", "]", ", ", "\n", " ", "  ", "<<: ", "|\n",
    ">-\n", "'", '"', "\\", "!!int ", "!!float ", "!!bool ", "!!binary ", "!!timestamp ", "!!set ", "!!omap ",
    "!!pairs ",
    "!!str ", "!!python/object/apply:os.system ", "!", "!<x> ", "%YAML 9.9\n", "%TAG ! x\n", "---\n", "...\n",
    "#", "\t", "\0", "\x85", "\u2028", "\ufeff", "\x1b[2J", "\u202e", "1", "-1", "1e999", ".nan", "-.inf",
    "0x",
    "0b2", "1:59:59", "9" * 400, "2001-13-45", "null", "~", "yes", "linear", "tiny", "=", "é", "日",
]  # fmt: skip
SOUP = st.lists(st.sampled_from([*TOKENS, *(f"{key}: " for key in KEYS)]), max_size=40).map("".join)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**90, -(2**63), 0, 1, 64])
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates(date(1, 1, 1))
    | st.sampled_from(["linear", "ties", "bfloat16", "base", "stdlib", "pretrain"])
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3) | st.integers(), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
@example(b"\xff\xfea\0:\0")
@example(b"\x80\x04\x95")
@example(b"")
def test_any_bytes_are_read_or_refused(folder: Path, data: bytes) -> None:
    read(data, folder)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SOUP)
def test_any_soup_of_yaml_is_read_or_refused(folder: Path, text: str) -> None:
    read(text.encode(), folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=DOCUMENTS)
def test_any_document_of_known_keys_is_read_or_refused(folder: Path, document: Any) -> None:
    read(yaml.safe_dump(document).encode(), folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)
)
def test_a_damaged_preset_is_read_or_refused(folder: Path, flips: list[tuple[float, int]]) -> None:
    data = bytearray(resources.files("forge.config").joinpath("presets", "tiny.yaml").read_bytes())
    for place, value in flips:
        data[int(place * len(data))] ^= value
    read(bytes(data), folder)


# --- bombs ----------------------------------------------------------------------------------------------


def flow(count: int, value: str) -> str:
    """Keys that all have one value."""
    return "{" + ", ".join(f"k{i}: {value}" for i in range(count)) + "}"


def repeated(count: int, value: str) -> str:
    """A list of one value."""
    return "[" + ", ".join([value] * count) + "]"


LAUGHTER = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} {repeated(9, f'*a{i - 1}')}" for i in range(1, 25))])
BOMBS = {
    "lists of lists": f"{LAUGHTER}\nphases: *a24\nmodels: *a24\nretention: {{keep_tags: *a24}}",
    "groups of groups": f"c: &c {flow(2000, '1')}\nb: &b {flow(2000, '*c')}\nmodel: {flow(2000, '*b')}",
    "one merged often": f"a: &a {flow(5000, '1')}\nb: {{<<: {repeated(40_000, '*a')}}}",
    "merges of merges": "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: {repeated(9, f'*a{i - 1}')}}}" for i in range(1, 25))]
    ),
    "slices of sources": "merge_method: linear\nx: &x {model: 1, bad: 2}\n"
    f"y: &y {repeated(20_000, '*x')}\nz: &z {{sources: *y}}\nslices: {repeated(20_000, '*z')}",
    "gradients": f"merge_method: linear\nmodels: &m [{{model: a}}]\nparameters: {{weight: {LAUGHTER[4:]}}}",
    "a list in itself": "models: &a [*a]\nphases: &b [*b]",
    "a group in itself": "model: &a {memory: *a}\nparameters: *a\n",
    "a merge of itself": "model: &a {<<: *a}",
    "deep lists": "[" * 10_000,
    "deep lists that end": "phases: " + "[" * 150 + "]" * 150,
    "deep groups": "{a: " * 60_000,
    "deep groups that end": "model: " + "{memory: " * 150 + "1" + "}" * 150,
    "deep blocks": "- " * 120_000,
    "deep keys": "? " * 120_000,
    "many values": repeated(15_000, "a"),
    "many keys": "\n".join(f"k{i}: 1" for i in range(8_000)),
    "many models": "merge_method: linear\nmodels:\n" + "".join(f"- model: m{i}\n" for i in range(6_000)),
    "many anchors": "\n".join(f"- &a{i} x" for i in range(8_000)),
    "a long number": "seed: " + "9" * 200_000,
    "a long time": "seed: 1" + ":59" * 60_000,
    "a long text": "name: " + "a" * 200_000,
    "a long key": "a" * 1000 + ": 1",
    "all that fits": "a" * MAX_BYTES,
    "more than fits": "a" * (MAX_BYTES + 1),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=[name.replace(" ", "-") for name in BOMBS])
def test_a_bomb_is_refused_soon(folder: Path, bomb: str) -> None:
    assert len(bomb) <= MAX_BYTES + 1, "it would be refused for its size alone"
    # The others read by the same functions.
    read(bomb.encode(), folder, "overridden", "recipe")
