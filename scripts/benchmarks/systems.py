"""Checks that every system of the studies works from end to end: it learns, is saved and loaded, predicts and
explains.

Topics (40 minutes):
  systems  every system of scripts/reproduction/systems.json at 64 px with its real backbone
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from harness import CONFIGS, ROOT, run_benchmark
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from mura_hf import MuraEnsembleForImageClassification, MuraSpecializedForImageClassification, StudyPredictor
from mura_hf.losses import build_metric_loss
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS, render_phantom
from mura_hf.training import TrainingConfig, build_model, build_processor, load_config
from mura_hf.training.objective import Targets, batch_loss
from mura_hf.training.stage import start_training

SYSTEMS: dict[str, str] = {
    name: row["class"]
    for study in json.loads((ROOT / "scripts" / "reproduction" / "systems.json").read_text()).values()
    for name, row in study.items()
}
"""Config -> class of its model."""

_N_IMAGES = 32
_SETTLING_STEPS = 30
_SLIM: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "densenet": {"growth_rate": 32, "block_config": [2, 2, 4, 8]},
    "convnext": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
}


def check_system(
    name: str, images: list[np.ndarray], targets: torch.Tensor, *, side: int = 64, steps: int = 150, slim: bool = False
) -> dict[str, Any]:
    """Builds the system of a config, overfits one batch, saves and loads it, and predicts a study.

    Weights start at random. Dropout is off while it learns, since the question is whether it can learn at all. AdamW
    has a learning rate of 1e-2 if only layers on top of frozen ones are trained, else 1e-3.

    Args:
        name: Of the config.
        images: From `render_batch`.
        targets: From `render_batch`.
        side: Side in pixels of what the model sees.
        steps: Maximum number of steps in each stage of the training.
        slim: Whether timm backbones are built with few and narrow layers, which takes seconds.

    Returns:
        `system`, its class; `stages`, by name `frozen`, `steps` and `left`, the share of the loss that was left when
        it had fallen by .8 (.3 if frozen) or the steps were used up; `equal`, whether the loaded model has the same
        weights and predictions; `heatmaps`, whether the study has them, and `why_not`, the warning if it has none.
    """
    torch.manual_seed(0)
    config = shrink_config(name, side, slim)
    processor, model = build_processor(config), build_system(config, side, slim)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    stages = {
        trains: overfit(
            model, config, trains, _batch(config, pixels, targets), _finding_targets(config, targets), steps
        )
        for trains in [stage.trains for stage in config.training.stages if stage.trains] or model.STAGES[:1]
    }
    model = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
        given = {"body_parts": targets[:8, 1]} if model.NEEDS_PART else {}
        with torch.inference_mode():
            first, second = (one(pixels[:8], **given).logits for one in (_last_stage(model), again))
        same = all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        files = [str(Path(folder, f"view{number}.png")) for number in range(2)]
        for file, image in zip(files, images, strict=False):
            Image.fromarray(image).save(file)
        study = StudyPredictor.from_pretrained(folder, device="cpu")(files, body_part=BODY_PARTS[int(targets[0, 1])])
    missing = [warning for warning in study.warnings if warning.startswith("No heatmap")]
    return {
        "system": type(model).__name__,
        "stages": stages,
        # The last bit of a matrix product may depend on where weights lie in memory.
        "equal": same and torch.allclose(first, second, rtol=0, atol=1e-6),
        "heatmaps": all(view.heatmap is not None for view in study.views),
        "why_not": missing[0] if missing else None,
    }


def render_batch() -> tuple[list[np.ndarray], torch.Tensor]:
    """Renders 32 phantoms: two views of 16 patients, normal and abnormal ones of all body parts.

    Returns:
        Images, uint8 `[H, W]` each, and targets, int64 `[32, 3]`: label, body part, and finding as an index into
        `FINDINGS` (-1 for none).
    """
    images, targets = [], []
    for patient in range(_N_IMAGES // 2):
        part, abnormal = BODY_PARTS[patient % len(BODY_PARTS)], patient // len(BODY_PARTS) % 2
        finding = FINDINGS[patient % len(FINDINGS)] if abnormal else None
        for view in range(2):
            images.append(render_phantom(patient, body_part=part, view=view, finding=finding, size=128).pixels)
            targets.append((abnormal, BODY_PARTS.index(part), FINDINGS.index(finding) if finding else -1))
    return images, torch.tensor(targets)


def has_learned(stage: dict[str, Any]) -> bool:
    """Whether the loss of a stage, as `check_system` reports it, fell far enough."""
    return stage["left"] <= (0.7 if stage["frozen"] else 0.2)


def overfit(
    model: Any,
    config: TrainingConfig,
    trains: str,
    batch: dict[str, torch.Tensor],
    findings: torch.Tensor | None,
    steps: int,
) -> dict[str, Any]:
    """Trains one stage of a model on one batch with the config's own loss; returns the stage's entry in `stages`."""
    start_training(model, trains, config.training.train_last)
    model.train()
    for inner in model.modules():
        if isinstance(inner, nn.Dropout):
            inner.eval()
    name, options = config.training.metric_loss, config.training.metric_loss_options
    metric_loss = None if name is None else build_metric_loss(name, options)
    frozen = config.training.train_last == 0 or trains in ("fusion", "classifier")
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2 if frozen else 1e-3, weight_decay=0.0)
    given = {"body_parts": batch["body_parts"]} if model.NEEDS_PART else {}
    accelerator, losses = Accelerator(cpu=True), []
    for _ in range(steps + 1):
        output = model(pixel_values=batch["pixel_values"], **given)
        loss = batch_loss(
            output, batch, config, Targets(None, findings), trains=trains, metric_loss=metric_loss,
            accelerator=accelerator, model=model,
        )  # fmt: skip
        losses.append(float(loss.detach()))
        if losses[-1] <= (0.7 if frozen else 0.2) * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # after so few steps, the running statistics of batch norm lag behind
        for _ in range(_SETTLING_STEPS if trains in ("embedding", "global", "local") else 0):
            model(pixel_values=batch["pixel_values"], **given)
    return {"frozen": frozen, "steps": len(losses) - 1, "left": losses[-1] / losses[0]}


def shrink_config(name: str, side: int, slim: bool) -> TrainingConfig:
    """A config for small images and without downloads."""
    config = load_config(name, [CONFIGS])
    given = config.model
    larger = None if given.resize_size is None else side * given.resize_size // given.image_size
    kinds = [options for family, options in _SLIM.items() if slim and given.backbone.startswith(family)]
    options = {**(given.backbone_kwargs or {}), **(kinds[0] if kinds else {})}
    return config.replace(
        pretrained=False, image_size=side, resize_size=larger, label_smoothing=0.0, precision="fp32",
        backbone_kwargs=options or None,
    )  # fmt: skip


def build_system(config: TrainingConfig, side: int, slim: bool) -> Any:
    """The untrained model of a config, with its members."""

    def load(name: str) -> Any:
        return build_system(shrink_config(name, side, slim), side, slim)

    if config.model.family == "ensemble":
        members = {name: load(name) for name in config.model.members}
        return MuraEnsembleForImageClassification.from_members(members)
    if config.model.family == "specialized":
        one = config.replace(family="classifier", router=None)
        found = None if config.model.router is None else load(config.model.router)
        models = {part: build_system(one, side, slim) for part in BODY_PARTS}
        return MuraSpecializedForImageClassification.from_members(models, router=found)
    return build_model(config, trained_on_phantoms=True)


def _batch(config: TrainingConfig, pixels: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch as from the data loader; of whole studies if the config trains on studies."""
    batch = {"labels": targets[:, 0], "body_parts": targets[:, 1], "index": torch.arange(len(targets))}
    if config.data.level == "study":
        batch = {key: values[::2] for key, values in batch.items()}
        return {**batch, "pixel_values": pixels.view(len(pixels) // 2, 2, *pixels.shape[1:])}
    return {**batch, "pixel_values": pixels.contiguous(memory_format=torch.channels_last)}


def _finding_targets(config: TrainingConfig, targets: torch.Tensor) -> torch.Tensor | None:
    """Finding types as indices into the config's own list."""
    types = config.model.model_kwargs.get("finding_types")
    if not types:
        return None
    places = [types.index(kind) if kind in types else -1 for kind in FINDINGS]
    return torch.tensor([places[kind] if kind >= 0 else -1 for kind in targets[:, 2].tolist()])


def _last_stage(model: Any) -> Any:
    """The model in the stage that predictions use."""
    if "fusion" in model.STAGES:
        model.start_stage("fusion")
    return model


def measure_systems(names: Sequence[str] = tuple(SYSTEMS), side: int = 64, slim: bool = False) -> dict[str, Any]:
    """Returns how many `systems` there are, how many `learned`, are `equal_after_loading`, have `with_heatmaps`; the
    `most_steps` of a stage, and the names of those that have `not_learned`.
    """
    batch = render_batch()
    checked = {name: check_system(name, *batch, side=side, slim=slim) for name in tqdm(names, desc="systems")}
    for name, found in checked.items():
        tqdm.write(f"{name}: {json.dumps(found)}")
    failed = [name for name, found in checked.items() if not all(map(has_learned, found["stages"].values()))]
    return {
        "systems": len(names),
        "learned": len(names) - len(failed),
        "equal_after_loading": sum(found["equal"] for found in checked.values()),
        "with_heatmaps": sum(found["heatmaps"] for found in checked.values()),
        "most_steps": max(stage["steps"] for found in checked.values() for stage in found["stages"].values()),
        "not_learned": failed,
    }


TOPICS = {"systems": (measure_systems, {"names": ("c_cnn2",), "side": 48, "slim": True})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
