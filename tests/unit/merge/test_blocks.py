"""Work in blocks gives what work at once would, whatever the number of threads; selection is exact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.merge import METHODS, blocks
from forge.merge.sparsify import Delta, drop, magprune
from tests.unit.merge.rig import drawn, group
from tests.unit.merge.test_methods import values_of


@given(size=st.integers(0, 1000), unit=st.integers(1, 200))
def test_blocks_cover_everything_once_in_whole_units(size: int, unit: int) -> None:
    found = blocks.spans(size, unit)
    assert [i for block in found for i in range(block.start, block.stop)] == list(range(size))
    assert all((block.stop - block.start) % unit == 0 for block in found[:-1])
    assert all(block.stop - block.start <= max(blocks.BLOCK, unit) for block in found)


def test_results_come_in_the_order_of_the_blocks() -> None:
    assert blocks.over_blocks(64 * 50, lambda block: block.start) == list(range(0, 64 * 50, 64))


@pytest.mark.parametrize("name", METHODS)
def test_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS[name]
    models = [drawn(i, (40, 70)) for i in range(1 if method.most_models == 1 else 3)]
    of = group(*models, base=None if method.base == "none" else drawn(9, (40, 70)))
    values = values_of(method, len(models), density=0.4)
    results = []
    for threads in (1, 5):
        with ThreadPoolExecutor(threads) as executor:
            monkeypatch.setattr(blocks, "pool", lambda executor=executor: executor)
            monkeypatch.setattr(blocks, "cores", lambda threads=threads: threads)
            results.append(method.merge(of, **values))
    np.testing.assert_array_equal(results[0], results[1])


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=400), st.data())
def test_selection_finds_the_value_among_equal_ones(values: list[float], data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    array = np.array(values, np.float32)
    found = blocks.nth_smallest(array.size, rank, array.__getitem__, array.__getitem__)
    assert found == np.sort(array)[rank]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "zeros", "sorted"])
def test_selection_in_large_tensors(share: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 14)
    values = np.abs(drawn(3, (5 * blocks._SAMPLE + 7,)))
    values[: values.size // 2] *= {"zeros": 0, "sorted": 1, "normal": 1}[kind]
    values = np.sort(values) if kind == "sorted" else values
    rank = int(share * (values.size - 1))
    found = blocks.nth_smallest(values.size, rank, values.__getitem__, values.__getitem__)
    assert found == np.sort(values)[rank]


@pytest.mark.parametrize("lie", [-100, 100])
def test_selection_survives_a_sample_that_misleads(lie: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 14)
    values = drawn(0, (5 * blocks._SAMPLE,))
    misleading = np.full(blocks._SAMPLE, lie, np.float32)
    rank = values.size // 2
    found = blocks.nth_smallest(values.size, rank, values.__getitem__, lambda positions: misleading)
    assert found == np.sort(values)[rank]


def test_selection_partitions_only_what_the_bracket_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    partition = np.partition

    def spy(values: blocks.Array, place: int) -> blocks.Array:
        sizes.append(values.size)
        return partition(values, place)

    monkeypatch.setattr(np, "partition", spy)
    values = drawn(0, (6 * blocks._SAMPLE,))
    blocks.nth_smallest(values.size, values.size // 2, values.__getitem__, values.__getitem__)
    assert sizes[0] < values.size / 20


def test_dare_keeps_its_share() -> None:
    delta = Delta(group(drawn(0, (200_000,)), base=np.zeros(200_000, np.float32)), 0)
    values = np.ones(200_000, np.float32)
    for block in blocks.spans(values.size):
        drop(delta, 0.3, rescale=True)(values[block], block)
    assert np.count_nonzero(values) / values.size == pytest.approx(0.3, abs=0.005)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.3)}


def test_della_keeps_the_larger_of_a_row_more_often() -> None:
    rows = np.tile(np.arange(1, 9, dtype=np.float32), (20_000, 1))
    # Another scale in every row must not matter, and neither must the order within it.
    rows = rows[:, ::-1] * np.linspace(1, 50, 20_000, dtype=np.float32)[:, None]
    delta = Delta(group(np.ascontiguousarray(rows), base=np.zeros_like(rows)), 0)
    keep, unit = magprune(delta, 0.5, 0.4, rescale=False), delta.unit
    assert unit == 8
    kept = np.ones(rows.size, np.float32)
    for block in blocks.spans(rows.size, unit):
        values = delta.block(block)
        keep(values, block)
        kept[block] = values != 0
    shares = kept.reshape(rows.shape).mean(axis=0)[::-1]
    np.testing.assert_allclose(shares, np.linspace(0.1, 0.9, 8), atol=0.015)
