"""What FuseNet costs over its global branch alone."""

import statistics
import time

import torch
from tqdm.auto import tqdm

from mura_hf.models import MuraFuseNetConfig, MuraFuseNetForImageClassification


def measure_fusenet_cost(
    backbone: str = "resnet50",
    *,
    image_size: int = 224,
    full_size: int = 512,
    views: int = 3,
    rounds: int = 15,
    progress: bool = True,
) -> dict[str, float]:
    """Times predictions of a study, alternated in one process.

    Args:
        backbone: Of both branches; its weights are random.
        image_size: Side that each branch sees, in pixels.
        full_size: Side of the pictures that the full-resolution variant is given.
        views: Of the study.
        rounds: Of which the median is taken, after two to warm up.
        progress: Whether to show a progress bar.

    Returns:
        `ratio`, FuseNet over its global branch on the same pictures; `full_resolution_ratio`, the variant that crops
        from pictures of `full_size` over the global branch on pictures of `image_size`; `milliseconds` of the global
        branch.
    """
    torch.manual_seed(0)
    config = MuraFuseNetConfig(backbone=backbone, image_size=image_size)
    model = MuraFuseNetForImageClassification(config).eval().to(memory_format=torch.channels_last)
    small, large = (
        torch.randn(views, 3, side, side).contiguous(memory_format=torch.channels_last)
        for side in (image_size, full_size)
    )
    times: list[list[float]] = []
    with torch.no_grad():
        for _ in tqdm(range(rounds + 2), desc="fusenet", disable=not progress):
            row = []
            for kind in ("global", "fused", "full"):
                config.full_resolution = kind == "full"
                start = time.perf_counter()
                if kind == "global":
                    model.global_branch(small)
                else:
                    model(large if kind == "full" else small)
                row.append(time.perf_counter() - start)
            times.append(row)
    kept = times[2:]
    return {
        "ratio": round(statistics.median(row[1] / row[0] for row in kept), 2),
        "full_resolution_ratio": round(statistics.median(row[2] / row[0] for row in kept), 2),
        "milliseconds": round(1000 * statistics.median(row[0] for row in kept), 1),
    }
