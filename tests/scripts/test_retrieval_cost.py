import numpy as np
import torch
from retrieval_speed import (
    clustered_codes,
    measure_retrieval_cost,
    measure_retrieval_million,
    share_found,
)


def test_a_small_measurement_finds_all_that_float64_finds():
    found = measure_retrieval_cost(n=5000, width=512, queries=40, single=5, progress=False)
    for kind in ("easy", "decaying", "hard", "unclustered"):
        assert found[kind]["same"] == 1
        assert found[kind]["one"] > 0
        assert found[kind]["many"] > 0


def test_a_small_million_is_mostly_found():
    found = measure_retrieval_million(
        n=20_000, width=64, clusters=200, queries=20, factory="IVF64,SQ8", parameters="nprobe=8", progress=False
    )
    assert found["recall"] >= 0.95


def test_a_wrong_neighbour_is_noticed_and_a_tie_is_not():
    codes, queries = (clustered_codes(n, 64, 10, 0.5, True, seed=n) for n in (400, 70))
    assert (codes >= 0).all()
    rows = torch.cdist(queries.double(), codes.double()).topk(5, largest=False).indices.numpy()
    assert share_found(codes, queries, rows) == 1
    wrong = rows.copy()
    wrong[[3, 66], 4] = np.setdiff1d(np.arange(400), rows[[3, 66]])[:2]
    assert share_found(codes, queries, wrong) == 68 / 70
    twice = torch.cat([codes, codes])
    assert share_found(twice, queries, np.concatenate([rows[:, :2], rows[:, :2] + 400], axis=1)) == 1
