"""What the training loop costs beside a bare step of PyTorch, and what precision and memory layout save."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mura_hf.data import load_mura
from mura_hf.models import MuraForImageClassification
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import Recipe
from mura_hf.training.epochs import train_step
from mura_hf.training.loop import cpu_has_bf16, make_accelerator, prepare_run
from mura_hf.training.running import set_up_stage

_PLAIN = Recipe(
    pretrained=False,
    body_part_head=False,
    class_weighting=False,
    image_size=224,
    batch_size=8,
    epochs=1,
    dev_fraction=0.1,
    calib_fraction=0.1,
)


def measure_loop_cost(*, backbone: str = "densenet169", image_size: int = 224, rounds: int = 7) -> dict[str, Any]:
    """Steps of our loop beside bare ones with the same model, batches, precision and cached pictures, alternated.

    Args:
        backbone: Architecture.
        image_size: Pixels a side.
        rounds: Of four steps each.

    Returns:
        `rate`: steps of the loop over bare steps in the same time, the median of the rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(_PLAIN, backbone=backbone, image_size=image_size)
        ours, views = _our_step(recipe, Path(folder))
        bare = _bare_step(recipe, views)
        times = _alternate({"bare": bare, "loop": ours}, rounds, 4)
    return {"rate": round(statistics.median(b / o for b, o in zip(times["bare"], times["loop"], strict=True)), 3)}


def measure_precision(*, backbone: str = "densenet169", image_size: int = 224, rounds: int = 5) -> dict[str, Any]:
    """Steps in bf16, and in fp32, with channels last beside steps in fp32 with channels first, alternated.

    Returns:
        `bf16_channels_last` and `fp32_channels_last`: how many times as fast, the median of the rounds; and
        `bf16_in_hardware`: whether the processor has instructions for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = replace(_PLAIN, backbone=backbone, image_size=image_size)
        kinds = {
            "fp32": replace(plain, channels_last=False),
            "bf16_channels_last": replace(plain, precision="bf16"),
            "fp32_channels_last": plain,
        }
        steps = {name: _our_step(recipe, Path(folder))[0] for name, recipe in kinds.items()}
        times = _alternate(steps, rounds, 1)
    before = times.pop("fp32")
    speed = {
        name: round(statistics.median(b / a for b, a in zip(before, after, strict=True)), 2)
        for name, after in times.items()
    }
    return {**speed, "bf16_in_hardware": cpu_has_bf16()}


def _alternate(steps: dict[str, Callable[[], None]], rounds: int, steps_a_round: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(rounds + 1), desc="rounds"):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(steps_a_round):
                step()
            if number:  # the first warms up
                times[name].append(time.perf_counter() - began)
    return times


def _our_step(recipe: Recipe, folder: Path) -> tuple[Callable[[], None], Any]:
    """A step of the loop, and the views that it meets."""
    tree = folder / "tree"
    if not tree.exists():
        write_phantom_mura(tree, 30, seed=6, size=recipe.image_size, progress=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    run, (stage,) = prepare_run(
        load_mura(tree, **recipe.cut()),
        recipe,
        folder / "run",
        make_accelerator(recipe, cpu=True),
        data_description={},
        trained_on_phantoms=True,
        num_workers=0,
        cache_dir=folder / "cache",
    )
    going = set_up_stage(run, stage)
    going.model.train()
    state: dict[str, Any] = {"left": 0}

    def step() -> None:
        if not state["left"]:
            state.update(left=going.steps, batches=iter(going.loader))
            run.progress.step = 0
        train_step(run, going, state["batches"], run.progress.step)
        state["left"] -= 1

    return step, stage.views


def _bare_step(recipe: Recipe, views: Any) -> Callable[[], None]:
    """A step without our loop: the same model, pictures and optimiser."""
    from mura_hf.training import build_model

    model: MuraForImageClassification = build_model(recipe, trained_on_phantoms=True)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    loader = DataLoader(views, recipe.batch_size, shuffle=True, drop_last=True)
    batches: Iterator[dict[str, torch.Tensor]] = chain.from_iterable(repeat(loader))

    def step() -> None:
        batch = next(batches)
        pixels = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        loss = functional.cross_entropy(model(pixel_values=pixels).logits, batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step
