"""Measures exact search beside FAISS, whether it finds the true neighbours, and FAISS on a million codes.

Topics (together 10 minutes):
  retrieval          exact search of 36,808 codes of 2,048 over FAISS's IndexFlatL2, one query and 3,197 queries, and
                     the share of queries whose neighbours are those of float64, for four kinds of clusters
  retrieval_million  recall at 5, and time over exact search, of FAISS's IVF1024,SQ8 on 1,000,000 codes of 512 (8 GB of
                     memory)
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from harness import run_benchmark
from tqdm.auto import tqdm

from mura_hf.retrieval import ExactSearcher, FaissSearcher, rank_rows

_K = 5
_TIE = 1e-5
_BLOCK = 50_000  # codes that are drawn at once
_ROUNDS = 3
_KINDS = {
    "easy": (200, 0.5, False),
    "decaying": (1000, 0.5, True),
    "hard": (1000, 0.5, False),
    "unclustered": (1, 1.0, False),
}
"""Number of clusters, noise, and whether the variance of dimensions decays as in trained networks."""


def measure_exact_search(n: int = 36_808, width: int = 2048, queries: int = 3197, single: int = 60) -> dict[str, Any]:
    """Compares exact search with FAISS's `IndexFlatL2`, with the same number of threads, on codes like pooled ones:
    clustered, and never negative.

    Args:
        n: Number of codes; that of the views in MURA's train.
        width: Length of a code.
        queries: Queries that are asked at once; the number of views in MURA's valid.
        single: Queries that are asked one by one.

    Returns:
        By kind of codes: `one`, median time of a query over FAISS's; `many`, that of all queries at once; `same`, the
        share of queries whose neighbours are those of a search in float64, except for ties within 1e-5.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    report: dict[str, Any] = {"n": n, "width": width, "queries": queries, "threads": torch.get_num_threads()}
    for kind, (clusters, noise, decays) in _KINDS.items():
        codes = clustered_codes(n, width, clusters, noise, decays, seed=0)
        asked = clustered_codes(queries, width, clusters, noise, decays, seed=1)
        flat = faiss.IndexFlatL2(width)
        flat.add(codes.numpy())
        ours = ExactSearcher(codes)
        ones = [
            (_time(ours.search, one, _K)[0], _time(flat.search, one.numpy(), _K)[0])
            for one in tqdm(asked[:single].split(1), desc=kind)
        ]
        many = [(_time(ours.search, asked, _K)[0], _time(flat.search, asked.numpy(), _K)[0]) for _ in range(_ROUNDS)]
        report[kind] = {
            "one": _ratio(ones),
            "many": _ratio(many),
            "same": share_found(codes, asked, ours.search(asked, _K)[1]),
        }
    return report


def measure_million(
    n: int = 1_000_000,
    width: int = 512,
    clusters: int = 10_000,
    inner: int = 32,
    queries: int = 200,
    factory: str = "IVF1024,SQ8",
    parameters: str = "nprobe=4",
) -> dict[str, Any]:
    """Compares an approximate index of FAISS with exact search; training and filling of the index are not timed.

    Args:
        n: Number of codes.
        width: Length of a code.
        clusters: Number of clusters.
        inner: Intrinsic dimension of the codes.
        queries: From the same clusters, asked one by one.
        factory: FAISS's factory string, as `RetrievalIndex.build` takes it.
        parameters: FAISS's search parameters, likewise.

    Returns:
        `recall`: share of the 5 nearest that are found. `times_exact` and `times_flat`: median time of a query over
        that of our exact search, and over that of `IndexFlatL2`.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    codes = inner_codes(n, width, clusters, inner, seed=0)
    asked = inner_codes(queries, width, clusters, inner, seed=1)
    tqdm.write(f"Building {factory} of {n} codes")
    searcher = FaissSearcher.build(codes, factory, parameters)
    exact, flat = ExactSearcher(codes), faiss.IndexFlatL2(width)
    flat.add(codes.numpy())
    quick, sure, plain, hits = [], [], [], []
    for one in tqdm(asked.split(1), desc="million"):
        seconds, found = _time(searcher.search, one, _K)
        quick.append(seconds)
        seconds, true = _time(exact.search, one, _K)
        sure.append(seconds)
        plain.append(_time(flat.search, one.numpy(), _K)[0])
        hits.append(np.isin(true[1], found[1]).mean())
    return {
        "n": n,
        "width": width,
        "factory": factory,
        "parameters": parameters,
        "threads": torch.get_num_threads(),
        "recall": round(float(np.mean(hits)), 4),
        "times_exact": _ratio(zip(quick, sure, strict=True)),
        "times_flat": _ratio(zip(quick, plain, strict=True)),
    }


def share_found(codes: torch.Tensor, queries: torch.Tensor, rows: np.ndarray) -> float:
    """Share of the queries, in [0, 1], whose neighbours are those of a search in float64.

    Args:
        codes: float32 `[N, D]`.
        queries: float32 `[Q, D]`.
        rows: int64 `[Q, k]`, the neighbours found. Another row than the true one counts as correct if it is as near,
            within 1e-5 of the distance.
    """
    k, right = rows.shape[1], []
    wide = [block.double() for block in codes.split(_BLOCK)]
    squares = torch.cat([block.square().sum(1) for block in wide])
    for batch, found in zip(queries.split(64), np.split(rows, range(64, len(rows), 64)), strict=True):
        products = torch.cat([batch.double() @ block.T for block in wide], dim=1)
        nearest = (squares - 2 * products).topk(k, largest=False).indices.numpy()
        for query, line, expected in zip(batch, found, nearest, strict=True):
            ours, true = (rank_rows(codes, query, which, k)[0] for which in (line, expected))
            right.append(bool(np.all(ours <= true * (1 + _TIE))))
    return float(np.mean(right))


def clustered_codes(n: int, width: int, clusters: int, noise: float, decays: bool, *, seed: int) -> torch.Tensor:
    """Codes as a ReLU leaves them: max(0, centre + noise), float32 `[n, width]`. The clusters do not depend on the
    seed.

    Args:
        n: Number of codes.
        width: Length of a code.
        clusters: Number of clusters.
        noise: Standard deviation within a cluster, where that of the centres is 1.
        decays: Whether dimension d is scaled by 1 / sqrt(d).
        seed: Of the codes.
    """
    strength = torch.arange(1, width + 1).float().rsqrt() * 8 if decays else torch.ones(width)
    centres = torch.randn(clusters, width, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(clusters, (n,), generator=generator)
    codes = torch.randn(n, width, generator=generator)
    return codes.mul_(noise).add_(centres[chosen]).mul_(strength).relu_()


def inner_codes(n: int, width: int, clusters: int, inner: int, *, seed: int) -> torch.Tensor:
    """Codes of intrinsic dimension `inner`: clusters in few dimensions, embedded in `width`, float32 `[n, width]`."""
    fixed = torch.Generator().manual_seed(7)
    centres = torch.randn(clusters, inner, generator=fixed)
    into = torch.randn(inner, width, generator=fixed) / inner**0.5
    generator = torch.Generator().manual_seed(seed)
    codes = torch.empty(n, width)
    for block in codes.split(_BLOCK):
        chosen = torch.randint(clusters, (len(block),), generator=generator)
        point = centres[chosen] + 0.3 * torch.randn(len(block), inner, generator=generator)
        torch.mm(point, into, out=block)
    return codes


def _time(function: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    found = function(*given)
    return time.perf_counter() - start, found


def _ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of the first over that of the second."""
    ours, theirs = np.median(list(pairs), axis=0)
    return round(float(ours / theirs), 4)


TOPICS = {
    "retrieval": (measure_exact_search, {"n": 5000, "width": 512, "queries": 40, "single": 5}),
    "retrieval_million": (
        measure_million,
        {"n": 20_000, "width": 64, "clusters": 200, "queries": 20, "factory": "IVF64,SQ8", "parameters": "nprobe=8"},
    ),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
