"""What a search costs, and whether it finds what it should: exact search beside FAISS's, and FAISS for millions."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mura_hf.retrieval import ExactSearcher, FaissSearcher, exact_distances, make_sketch

_K = 5
_TIE = 1e-5
_BLOCK = 50_000  # codes that are made at once


def measure_retrieval_cost(
    n: int = 36_808, width: int = 2048, queries: int = 3197, single: int = 60, *, progress: bool = True
) -> dict[str, Any]:
    """Exact search against FAISS's `IndexFlatL2`, alternated in one process with the same number of threads, on codes
    like pooled ones: clustered, and never negative.

    Args:
        n: Codes; as many as MURA's train has views.
        width: Of each.
        queries: That are asked at once; as many as MURA's valid has views.
        single: Queries that are asked one by one.
        progress: Whether to show a progress bar.

    Returns:
        By kind of codes (`easy`: 200 clusters; `decaying`: 1,000, whose dimensions differ in strength, as those of
        trained networks do; `hard`: 1,000 that fill all dimensions alike; `unclustered`, where no sketch can help):
        `one`, median time of one query over FAISS's; `many`, that of all queries at once over FAISS's; `same`, the
        share of all queries whose neighbours are those of a search in float64, ties within 1e-5 aside.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    report: dict[str, Any] = {"n": n, "width": width, "queries": queries, "threads": torch.get_num_threads()}
    for kind, (clusters, noise, decays) in _KINDS.items():
        codes = clustered_codes(n, width, clusters, noise, decays, seed=0)
        asked = clustered_codes(queries, width, clusters, noise, decays, seed=1)
        flat = faiss.IndexFlatL2(width)
        flat.add(codes.numpy())
        ours = ExactSearcher(codes, make_sketch(codes))
        ones = [
            (_time(ours.search, one, _K)[0], _time(flat.search, one.numpy(), _K)[0])
            for one in tqdm(asked[:single].split(1), desc=kind, disable=not progress)
        ]
        many = [(_time(ours.search, asked, _K)[0], _time(flat.search, asked.numpy(), _K)[0]) for _ in range(_ROUNDS)]
        report[kind] = {
            "one": _ratio(ones),
            "many": _ratio(many),
            "same": share_found(codes, asked, ours.search(asked, _K)[1]),
        }
    return report


_ROUNDS = 3
_KINDS = {
    "easy": (200, 0.5, False),
    "decaying": (1000, 0.5, True),
    "hard": (1000, 0.5, False),
    "unclustered": (1, 1.0, False),
}
"""Clusters, noise, and whether dimensions decay."""


def measure_retrieval_million(
    n: int = 1_000_000,
    width: int = 512,
    clusters: int = 10_000,
    inner: int = 32,
    queries: int = 200,
    factory: str = "IVF1024,SQ8",
    parameters: str = "nprobe=4",
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """FAISS by factory string against exact search, where there are millions; training and filling excluded.

    Args:
        n: Codes.
        width: Of each.
        clusters: In which they lie.
        inner: Dimensions in which they differ.
        queries: From the same clusters, asked one by one by both in turn.
        factory: As `RetrievalIndex.build` takes it.
        parameters: Likewise.
        progress: Whether to show a progress bar.

    Returns:
        `recall`: share of the 5 nearest that are found. `times_exact` and `times_flat`: the median time of a query
        over that of `ExactSearcher`, and over that of FAISS's `IndexFlatL2`, which needs no more than the codes.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    codes = inner_codes(n, width, clusters, inner, seed=0)
    asked = inner_codes(queries, width, clusters, inner, seed=1)
    if progress:
        tqdm.write(f"Building {factory} of {n} codes")
    searcher = FaissSearcher.build(codes, factory, parameters)
    exact, flat = ExactSearcher(codes, make_sketch(codes)), faiss.IndexFlatL2(width)
    flat.add(codes.numpy())
    quick, sure, plain, hits = [], [], [], []
    for one in tqdm(asked.split(1), desc="million", disable=not progress):
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
    """Share of the queries whose neighbours are those of a search in float64.

    Args:
        codes: float32 `[N, D]`.
        queries: float32 `[Q, D]`.
        rows: `[Q, k]`, what was found.

    Returns:
        In [0, 1]. Another row than float64 finds counts as right where it is as near, within 1e-5 of the distance.
    """
    k, right = rows.shape[1], []
    wide = [block.double() for block in codes.split(_BLOCK)]
    squares = torch.cat([block.square().sum(1) for block in wide])
    for batch, found in zip(queries.split(64), np.split(rows, range(64, len(rows), 64)), strict=True):
        products = torch.cat([batch.double() @ block.T for block in wide], dim=1)
        nearest = (squares - 2 * products).topk(k, largest=False).indices.numpy()
        for query, line, expected in zip(batch.numpy(), found, nearest, strict=True):
            ours, true = (np.sort(exact_distances(codes.numpy(), query, which)) for which in (line, expected))
            right.append(bool(np.all(ours <= true * (1 + _TIE))))
    return float(np.mean(right))


def clustered_codes(n: int, width: int, clusters: int, noise: float, decays: bool, *, seed: int) -> torch.Tensor:
    """Codes that a ReLU might leave: max(0, centre + noise), float32 `[n, width]`; for any seed of the same clusters.

    Args:
        n: How many.
        width: Of each.
        clusters: How many.
        noise: Its standard deviation, where that of the centres is 1.
        decays: Whether the dimensions' strength falls as their number's inverse root.
        seed: Of the codes.
    """
    strength = torch.arange(1, width + 1).float().rsqrt() * 8 if decays else torch.ones(width)
    centres = torch.randn(clusters, width, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(clusters, (n,), generator=generator)
    codes = torch.randn(n, width, generator=generator)
    return codes.mul_(noise).add_(centres[chosen]).mul_(strength).relu_()


def inner_codes(n: int, width: int, clusters: int, inner: int, *, seed: int) -> torch.Tensor:
    """Codes that differ in few dimensions: clusters in `inner` dimensions, laid into `width`, float32 `[n, width]`."""
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
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    found = function(*given)
    return time.perf_counter() - start, found


def _ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of the first over median of the second."""
    ours, theirs = np.median(list(pairs), axis=0)
    return round(float(ours / theirs), 4)
