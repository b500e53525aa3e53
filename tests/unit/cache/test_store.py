"""The cache: nothing computed twice, nothing damaged read, nothing lost to a kill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stlm_core.cache.store import (
    INDEX,
    FeatureCache,
    belongs_to_shard,
    chunks_are_sound,
    feature_key,
    fill,
    write_index,
)
from stlm_core.errors import StlmError, UserError
from stlm_core.seeding import derive_rng

SHAPE = (2, 3, 4, 4)


def row_of(key: str) -> np.ndarray:
    return derive_rng(key).normal(size=SHAPE).astype(np.float16)


class Computer:
    """Rows that follow from the key, and a record of what was asked for."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.asked = keys, []

    def __call__(self, positions: list[int]) -> np.ndarray:
        self.asked += [self.keys[position] for position in positions]
        return np.stack([row_of(self.keys[position]) for position in positions])


def keys_of(*numbers: int) -> list[str]:
    return [feature_key(f"view{number}", "teacher", 4) for number in numbers]


def make(folder, keys, **options):
    computer = Computer(keys)
    report = fill(folder, keys, computer, rows_per_chunk=4, **options)
    return report, computer.asked


def test_rows_come_back_as_computed_in_any_order(tmp_path):
    keys = keys_of(*range(10))
    make(tmp_path, keys)
    write_index(tmp_path, keys)
    cache = FeatureCache.open(tmp_path, verify=True)
    picked = [7, 0, 7, 3]
    assert len(cache) == 10
    assert np.array_equal(cache.read(picked), np.stack([row_of(keys[view]) for view in picked]))


def test_equal_views_are_computed_once(tmp_path):
    keys = keys_of(0, 1, 0, 1, 2)
    _, asked = make(tmp_path, keys)
    write_index(tmp_path, keys)
    assert sorted(asked) == sorted(set(keys))
    assert np.array_equal(FeatureCache.open(tmp_path).read([0])[0], FeatureCache.open(tmp_path).read([2])[0])


def test_a_changed_image_recomputes_only_itself(tmp_path):
    make(tmp_path / "old", keys_of(*range(10)))
    changed = keys_of(0, 1, 2, 99, *range(4, 10))
    report, asked = make(tmp_path / "new", changed, sources=[tmp_path / "old"])
    assert asked == keys_of(99)
    assert (report.reused, report.computed, report.damaged) == (9, 1, 0)
    write_index(tmp_path / "new", changed)
    assert np.array_equal(FeatureCache.open(tmp_path / "new").read([3])[0], row_of(changed[3]))


@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_flipped_bit_is_found_and_only_its_row_recomputed(tmp_path, where):
    keys = keys_of(*range(8))
    make(tmp_path, keys)
    write_index(tmp_path, keys)
    victim = sorted(tmp_path.glob("*.bin"))[0]
    content = bytearray(victim.read_bytes())
    content[where] ^= 0x10
    victim.write_bytes(bytes(content))
    assert not chunks_are_sound(tmp_path)
    with pytest.raises(UserError, match=rf"{victim.name}: damaged; run `stlm cache-teacher` again"):
        FeatureCache.open(tmp_path, verify=True)
    report, asked = make(tmp_path, keys)
    assert (len(asked), report.damaged) == (1, 1)
    assert np.array_equal(FeatureCache.open(tmp_path, verify=True).read([keys.index(asked[0])])[0], row_of(asked[0]))


@pytest.mark.parametrize("keep", [0, 1, 97, 300])
def test_a_truncated_chunk_is_found_and_repaired(tmp_path, keep):
    keys = keys_of(*range(8))
    make(tmp_path, keys)
    write_index(tmp_path, keys)
    victim = sorted(tmp_path.glob("*.bin"))[0]
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.raises(UserError, match="truncated"):
        FeatureCache.open(tmp_path)
    make(tmp_path, keys)
    read = FeatureCache.open(tmp_path, verify=True).read(range(8))
    assert np.array_equal(read, np.stack([row_of(key) for key in keys]))


def test_a_missing_or_garbled_index_counts_as_absent(tmp_path):
    keys = keys_of(*range(8))
    make(tmp_path, keys)
    indices = sorted(tmp_path.glob("features-*.json"))
    indices[0].write_text("{")
    indices[1].unlink()
    report, _ = make(tmp_path, keys)
    assert report.computed == 8


def test_a_killed_fill_loses_at_most_one_chunk(tmp_path):
    keys = keys_of(*range(12))

    class Killed(Exception):
        pass

    computer = Computer(keys)

    def dies_in_the_third_chunk(positions: list[int]) -> np.ndarray:
        if len(computer.asked) >= 8:
            raise Killed
        return computer(positions)

    with pytest.raises(Killed):
        fill(tmp_path, keys, dies_in_the_third_chunk, rows_per_chunk=4)
    report, asked = make(tmp_path, keys)
    assert (report.reused, asked) == (8, keys[8:])


def test_an_unfinished_cache_is_refused(tmp_path):
    keys = keys_of(*range(4))
    make(tmp_path, keys)
    with pytest.raises(UserError, match=f"{INDEX}: missing or damaged"):
        FeatureCache.open(tmp_path)
    with pytest.raises(StlmError, match="features of 1 of 5 views are missing"):
        write_index(tmp_path, [*keys, *keys_of(77)])


def test_key_depends_on_view_teacher_and_grid():
    base = feature_key("view", "teacher", 16)
    assert (
        len(
            {
                base,
                feature_key("other", "teacher", 16),
                feature_key("view", "t2", 16),
                feature_key("view", "teacher", 32),
            }
        )
        == 4
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 40), shards=st.integers(1, 6))
def test_shards_partition_the_views_and_merge_to_the_whole(tmp_path_factory, count, shards):
    tmp_path = tmp_path_factory.mktemp("shards")
    keys = keys_of(*range(count))
    for shard in range(shards):
        make(tmp_path / str(shard), [key for key in keys if belongs_to_shard(key, shard, shards)])
    report, asked = make(tmp_path / "all", keys, sources=[tmp_path / str(shard) for shard in range(shards)])
    assert (asked, report.reused) == ([], count)
    write_index(tmp_path / "all", keys)
    read = FeatureCache.open(tmp_path / "all", verify=True).read(range(count))
    assert np.array_equal(read, np.stack([row_of(key) for key in keys]))
