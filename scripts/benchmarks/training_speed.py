"""Measures what our training step, precision and memory layout cost, beside bare PyTorch. Ratios are medians of steps
in turn in one process.

Topics (together less than 10 minutes):
  loop       steps of our training loop over bare steps of PyTorch in the same time, with the same model (DenseNet-169,
             224 px, batch of 8), precision and cached images
  precision  how many times as fast a training step of DenseNet-169 at 224 px is in bf16, and in fp32, with channels
             last, as in fp32 with channels first
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from harness import alternate, median_ratio, run_benchmark
from torch.nn import functional
from torch.utils.data import DataLoader

from mura_hf.data import load_mura
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import Trainer, TrainingConfig, build_model
from mura_hf.training.processes import cpu_has_bf16, make_accelerator

_PLAIN = TrainingConfig().replace(
    pretrained=False,
    body_part_head=False,
    class_weighting=False,
    image_size=224,
    batch_size=8,
    epochs=1,
    dev_fraction=0.1,
    calib_fraction=0.1,
)


def measure_loop(
    backbone: str = "densenet169", image_size: int = 224, rounds: int = 7, steps: int = 4
) -> dict[str, Any]:
    """Compares steps of our loop with bare ones.

    Args:
        backbone: Architecture.
        image_size: Side in pixels.
        rounds: Of which the median is taken.
        steps: Steps in each round.

    Returns:
        `rate`: steps of our loop over bare steps in the same time.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = _PLAIN.replace(backbone=backbone, image_size=image_size)
        ours, views = _our_step(config, Path(folder))
        bare = _bare_step(config, views)
        functions = {"bare": lambda: _repeat(bare, steps), "loop": lambda: _repeat(ours, steps)}
        seconds = alternate(functions, rounds, title="loop", warm_up=1)
    return {"rate": median_ratio(seconds["bare"], seconds["loop"], 3)}


def measure_precision(backbone: str = "densenet169", image_size: int = 224, rounds: int = 5) -> dict[str, Any]:
    """Compares precisions and memory layouts in bare steps of PyTorch.

    Returns:
        `bf16_channels_last` and `fp32_channels_last`: how many times as fast as fp32 with channels first;
        `bf16_in_hardware`: whether the processor has instructions for bf16.
    """
    config = _PLAIN.replace(backbone=backbone, image_size=image_size)
    kinds = {
        "fp32": (torch.contiguous_format, torch.float32),
        "bf16_channels_last": (torch.channels_last, torch.bfloat16),
        "fp32_channels_last": (torch.channels_last, torch.float32),
    }
    with tempfile.TemporaryDirectory() as folder:
        _, views = _our_step(config, Path(folder))
        steps = {name: _bare_step(config, views, *kind) for name, kind in kinds.items()}
        seconds = alternate(steps, rounds, title="precision", warm_up=1)
    first = seconds.pop("fp32")
    return {**{name: median_ratio(first, some) for name, some in seconds.items()}, "bf16_in_hardware": cpu_has_bf16()}


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _our_step(config: TrainingConfig, folder: Path) -> tuple[Callable[[], None], Any]:
    """A step of our loop, and the views that it is trained on."""
    tree = folder / "tree"
    if not tree.exists():
        write_phantom_mura(tree, 30, seed=6, size=config.model.image_size, progress=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(
        load_mura(tree, **config.split_options()),
        config,
        folder / "run",
        make_accelerator(config, cpu=True),
        data_description={},
        trained_on_phantoms=True,
        cache_dir=folder / "cache",
    )
    (stage,) = trainer.stages
    trainer.start_stage(stage)
    trainer.prepared.train()
    state: dict[str, Any] = {"left": 0}

    def step() -> None:
        if not state["left"]:
            state.update(left=trainer.steps, batches=iter(trainer.loader))
            trainer.progress.step = 0
        trainer.train_step(state["batches"], trainer.progress.step)
        state["left"] -= 1

    return step, stage.views


def _bare_step(
    config: TrainingConfig,
    views: Any,
    layout: torch.memory_format = torch.channels_last,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], None]:
    """A step without our loop: the same model, images and optimizer."""
    model = build_model(config, trained_on_phantoms=True).to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate)
    loader = DataLoader(views, config.training.batch_size, shuffle=True, drop_last=True)
    batches: Iterator[dict[str, torch.Tensor]] = chain.from_iterable(repeat(loader))

    def step() -> None:
        batch = next(batches)
        pixels = batch["pixel_values"].contiguous(memory_format=layout)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(pixel_values=pixels).logits
        loss = functional.cross_entropy(logits.float(), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


TOPICS = {
    "loop": (measure_loop, {"backbone": "resnet10t", "image_size": 64, "rounds": 1, "steps": 1}),
    "precision": (measure_precision, {"backbone": "resnet10t", "image_size": 64, "rounds": 1}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
