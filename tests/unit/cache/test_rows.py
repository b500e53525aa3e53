"""How rows are kept: float16 exactly, int8 within half a vector's scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stlm_core.cache.rows import RowForm
from stlm_core.cache.store import FeatureCache, feature_key, fill, write_index
from stlm_core.errors import UserError

SHAPE = (2, 8, 3, 2)
FEATURES = arrays(np.float32, (3, *SHAPE), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False))


@given(FEATURES)
def test_int8_is_off_by_half_a_vectors_scale_at_most(features):
    form = RowForm("int8", SHAPE)
    rows = form.encode(features)
    assert rows.shape == (3, form.bytes)
    kept = form.decode(rows)
    assert kept.dtype == np.float32
    scale = np.abs(features).max(axis=2, keepdims=True) / 127
    flushed = 127 * np.finfo(np.float32).tiny  # a scale below the smallest normal number may count as 0
    assert (np.abs(kept - features) <= scale * 0.5001 + flushed).all()


@given(FEATURES)
def test_float16_keeps_what_the_teacher_said(features):
    form = RowForm("float16", SHAPE)
    halves = features.astype(np.float16)
    assert np.array_equal(form.decode(form.encode(halves)), halves)


def test_int8_takes_little_more_than_half_the_space():
    shape = (2, 256, 16, 16)
    assert RowForm("int8", shape).bytes < 0.51 * RowForm("float16", shape).bytes


def test_unit_vectors_keep_their_direction():
    features = np.random.default_rng(0).normal(size=(4, 2, 256, 16, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    form = RowForm("int8", features.shape[1:])
    kept = form.decode(form.encode(features))
    cosine = (kept * features).sum(2) / np.linalg.norm(kept, axis=2)
    assert cosine.min() > 0.9998


def test_a_zero_vector_stays_zero():
    form = RowForm("int8", SHAPE)
    assert not form.decode(form.encode(np.zeros((1, *SHAPE), np.float32))).any()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(dtype, bad):
    features = np.zeros((1, *SHAPE), np.float32)
    features[0, 1, 2, 0, 1] = bad
    with pytest.raises(UserError, match=r"teacher\.autocast"):
        RowForm(dtype, SHAPE).encode(features)


def test_the_storage_is_part_of_the_key():
    assert feature_key("view", "teacher", 16) == feature_key("view", "teacher", 16, "float16")
    assert feature_key("view", "teacher", 16) != feature_key("view", "teacher", 16, "int8")


def test_an_int8_cache_is_read_back_and_a_cut_off_file_is_named(tmp_path):
    features = np.random.default_rng(1).normal(size=(5, *SHAPE)).astype(np.float32)
    keys = [f"{number:064x}" for number in range(5)]
    fill(tmp_path, keys, lambda positions: features[positions], dtype="int8", rows_per_chunk=2)
    write_index(tmp_path, keys)
    cache = FeatureCache.open(tmp_path, verify=True)
    read = cache.read([4, 0, 3])
    assert read.dtype == np.float32
    assert np.allclose(read, features[[4, 0, 3]], atol=np.abs(features).max() / 250)
    file = sorted(tmp_path.glob("features-*.bin"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{file.name}.*truncated.*cache-teacher"):
        FeatureCache.open(tmp_path)
