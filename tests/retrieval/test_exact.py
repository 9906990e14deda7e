import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mura_hf.retrieval import ExactSearcher, make_sketch
from mura_hf.retrieval.search import Sketch
from tests.retrieval.clusters import clustered_codes


def _by_hand(codes, queries, k, allowed=None):
    apart = np.sqrt(((codes.double().numpy()[None] - queries.double().numpy()[:, None]) ** 2).sum(2))
    if allowed is not None:
        apart[~np.broadcast_to(allowed.numpy(), apart.shape)] = np.inf
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(apart, order, 1), order


def _check(searcher, queries, k, allowed=None):
    expected, rows = _by_hand(searcher.codes, queries, k, allowed)
    distances, found = searcher.search(queries, k, allowed)
    rows[~np.isfinite(expected)] = -1
    there = rows.shape[1]
    np.testing.assert_allclose(distances[:, :there], expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(found[:, :there], rows)
    assert distances.shape == found.shape == (len(queries), k)
    assert np.isinf(distances[:, there:]).all()
    assert (found[:, there:] == -1).all()


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 0.3, 3.0])
@pytest.mark.parametrize("size", [None, 1, 8])
def test_finds_what_float64_finds(noise, size):
    """Down to codes that differ in the last digits, and to copies; the sketch may rule out much, or nothing."""
    codes = clustered_codes(600, 48, noise=noise)
    searcher = ExactSearcher(codes, None if size is None else Sketch.fit(codes, size))
    queries = torch.cat([clustered_codes(150, 48, noise=noise, seed=1), codes[:20]])
    _check(searcher, queries, 5)
    _check(searcher, queries[:1], 5)


def test_far_from_the_origin_digits_are_lost_but_no_neighbours():
    codes = clustered_codes(500, 64, noise=1e-3) + 1000
    for sketch in (None, Sketch.fit(codes, 8)):
        _check(ExactSearcher(codes, sketch), codes[:40] + 1e-3 * torch.randn(40, 64), 5)


def test_a_large_set_is_sketched_and_a_small_one_is_not():
    codes = clustered_codes(5000, 256, clusters=100)
    sketch = make_sketch(codes)
    assert sketch is not None
    assert sketch.vectors.shape == (5000, 43)
    _check(ExactSearcher(codes, sketch), clustered_codes(30, 256, clusters=100, seed=3), 5)
    assert make_sketch(codes[:4000]) is None
    assert make_sketch(codes[:, :64]) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_short_vectors_are_never_farther_apart_than_their_codes(seed, size, scale):
    codes = scale * clustered_codes(60, 40, clusters=3, seed=seed)
    sketch = Sketch.fit(codes, size, seed=seed)
    short = torch.cdist(sketch.vectors.double(), sketch.vectors.double())
    apart = torch.cdist(codes.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert (short <= apart + 1e-6 * codes.double().norm(dim=1).max()).all()
    torch.testing.assert_close(sketch.turn(codes), sketch.vectors)


@pytest.mark.parametrize("size", [None, 4])
def test_only_allowed_rows_are_found(size):
    codes = clustered_codes(300, 48)
    searcher = ExactSearcher(codes, None if size is None else Sketch.fit(codes, size))
    queries = clustered_codes(7, 48, seed=2)
    generator = torch.Generator().manual_seed(0)
    _check(searcher, queries, 5, torch.rand(300, generator=generator) < 0.3)
    _check(searcher, queries, 5, torch.rand(7, 300, generator=generator) < 0.3)
    few = torch.zeros(300, dtype=torch.bool)
    few[[4, 90]] = True
    _check(searcher, queries, 5, few)
    _check(searcher, queries, 2, ~torch.ones(300, dtype=torch.bool))
    _check(searcher, queries, 400)
