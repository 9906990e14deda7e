"""Whether a system that a recipe describes works from end to end."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from mura_hf.inference import StudyPredictor
from mura_hf.losses import build_metric_loss
from mura_hf.models import BODY_PARTS, MuraEnsembleForImageClassification, MuraSpecializedForImageClassification
from mura_hf.phantoms import FINDINGS, render_phantom
from mura_hf.training import Recipe, build_model, build_processor, load_recipe
from mura_hf.training.objective import Truth, batch_loss
from mura_hf.training.running import start_training

N_FILMS = 32
_SETTLING = 30
_SLIM: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "densenet": {"growth_rate": 32, "block_config": [2, 2, 4, 8]},
    "convnext": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
}


def walk_system(
    name: str, films: "list[np.ndarray]", facts: torch.Tensor, *, side: int = 64, steps: int = 150, slim: bool = False
) -> dict[str, Any]:
    """Builds the system of a recipe, lets it learn one batch by heart, saves and loads it, and asks it about a study.

    Weights start at random. Dropout is off while it learns: asked is whether it can learn, not how noisily. Where only
    layers on top of frozen ones are trained, the rate is 1e-2, else 1e-3, of AdamW.

    Args:
        name: Of the recipe.
        films: Of `render_films`.
        facts: Of `render_films`.
        side: Of what the model sees, in pixels.
        steps: At most so many for each stage of its training.
        slim: Whether its timm backbones are built with few and narrow layers, to be done in seconds.

    Returns:
        `system`, its class; `stages`, by name `frozen`, `steps` and `left`, the share of the loss that was left when
        it had fallen by .8 (.3 where frozen) or the steps were used up; `equal`, whether what was loaded has the same
        weights and answers; `heatmaps`, whether the study has them, and `why_not`, what it says where it has none.
    """
    torch.manual_seed(0)
    recipe = _shrink(load_recipe(name), side, slim)
    processor, model = build_processor(recipe), _build(recipe, side, slim)
    pictures = processor(images=films, return_tensors="pt")["pixel_values"]
    learned = {
        trains: learn_by_heart(model, recipe, trains, _batch(recipe, pictures, facts), _findings(recipe, facts), steps)
        for trains in [stage.trains for stage in recipe.stages] or model.STAGES[:1]
    }
    model = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
        given = {"body_parts": facts[:8, 1]} if model.NEEDS_PART else {}
        with torch.inference_mode():
            first, second = (one(pictures[:8], **given).logits for one in (_last_stage(model), again))
        same = all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        files = [str(Path(folder, f"view{number}.png")) for number in range(2)]
        for file, film in zip(files, films, strict=False):
            Image.fromarray(film).save(file)
        study = StudyPredictor.from_pretrained(folder, device="cpu")(files, body_part=BODY_PARTS[int(facts[0, 1])])
    told = [warning for warning in study.warnings if warning.startswith("No heatmap")]
    return {
        "system": type(model).__name__,
        "stages": learned,
        # A picture alone may take a path through a matrix product whose last bit depends on where weights lie.
        "equal": same and torch.allclose(first, second, rtol=0, atol=1e-6),
        "heatmaps": all(view.heatmap is not None for view in study.views),
        "why_not": told[0] if told else None,
    }


def render_films() -> tuple[list[np.ndarray], torch.Tensor]:
    """32 phantoms, two views of 16 patients, every part with normal and abnormal ones.

    Returns:
        The films, uint8 `[H, W]` each, and int64 `[32, 3]`: label, body part, and finding as an index into
        `FINDINGS`; -1 for none.
    """
    films, facts = [], []
    for patient in range(N_FILMS // 2):
        part, abnormal = BODY_PARTS[patient % len(BODY_PARTS)], patient // len(BODY_PARTS) % 2
        finding = FINDINGS[patient % len(FINDINGS)] if abnormal else None
        for view in range(2):
            films.append(render_phantom(patient, body_part=part, view=view, finding=finding, size=128).pixels)
            facts.append((abnormal, BODY_PARTS.index(part), FINDINGS.index(finding) if finding else -1))
    return films, torch.tensor(facts)


def learn_by_heart(
    model: Any,
    recipe: Recipe,
    trains: str,
    batch: dict[str, torch.Tensor],
    findings: torch.Tensor | None,
    steps: int,
) -> dict[str, Any]:
    """Trains one stage of a model on one batch, by the recipe's own loss.

    Returns:
        What `walk_system` has in `stages`.
    """
    start_training(model, trains, recipe.train_last)
    model.train()
    for inner in model.modules():
        if isinstance(inner, nn.Dropout):
            inner.eval()
    metric = recipe.metric_loss and build_metric_loss({"name": recipe.metric_loss.name, **recipe.metric_loss.options})
    frozen = recipe.train_last == 0 or trains in ("fusion", "classifier")
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2 if frozen else 1e-3, weight_decay=0.0)
    given = {"body_parts": batch["body_parts"]} if model.NEEDS_PART else {}
    accelerator, losses = Accelerator(cpu=True), []
    for _ in range(steps + 1):
        output = model(pixel_values=batch["pixel_values"], **given)
        loss = batch_loss(
            output, batch, recipe, Truth(None, findings), trains=trains, metric=metric, accelerator=accelerator,
            model=model,
        )  # fmt: skip
        losses.append(float(loss.detach()))
        if losses[-1] <= (0.7 if frozen else 0.2) * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # after so few steps, norms do not know yet what the next stage meets when they are still
        for _ in range(_SETTLING if trains in ("embedding", "global", "local") else 0):
            model(pixel_values=batch["pixel_values"], **given)
    return {"frozen": frozen, "steps": len(losses) - 1, "left": losses[-1] / losses[0]}


def _shrink(recipe: Recipe, side: int, slim: bool) -> Recipe:
    """The recipe for small pictures and without downloads."""
    larger = None if recipe.resize_size is None else side * recipe.resize_size // recipe.image_size
    kinds = [options for family, options in _SLIM.items() if slim and recipe.backbone.startswith(family)]
    options = {**(recipe.backbone_kwargs or {}), **(kinds[0] if kinds else {})}
    return replace(
        recipe, pretrained=False, image_size=side, resize_size=larger, label_smoothing=0.0, precision="fp32",
        backbone_kwargs=options or None,
    )  # fmt: skip


def _build(recipe: Recipe, side: int, slim: bool) -> Any:
    """The untrained model of a recipe, members and all."""
    if recipe.family == "ensemble":
        members = {name: _build(_shrink(load_recipe(name), side, slim), side, slim) for name in recipe.members}
        return MuraEnsembleForImageClassification.from_members(members)
    if recipe.family == "specialized":
        one = replace(recipe, family="classifier", router=None)
        found = None if recipe.router is None else _build(_shrink(load_recipe(recipe.router), side, slim), side, slim)
        models = {part: _build(one, side, slim) for part in BODY_PARTS}
        return MuraSpecializedForImageClassification.from_members(models, router=found)
    return build_model(recipe, trained_on_phantoms=True)


def _batch(recipe: Recipe, pictures: torch.Tensor, facts: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a loader would give; whole studies at study level."""
    batch = {"labels": facts[:, 0], "body_parts": facts[:, 1], "index": torch.arange(len(facts))}
    if recipe.level == "study":
        batch = {key: values[::2] for key, values in batch.items()}
        return {**batch, "pixel_values": pictures.view(len(pictures) // 2, 2, *pictures.shape[1:])}
    return {**batch, "pixel_values": pictures.contiguous(memory_format=torch.channels_last)}


def _findings(recipe: Recipe, facts: torch.Tensor) -> torch.Tensor | None:
    """The types of findings as the recipe counts them."""
    types = recipe.model.get("finding_types")
    if not types:
        return None
    places = [types.index(kind) if kind in types else -1 for kind in FINDINGS]
    return torch.tensor([places[kind] if kind >= 0 else -1 for kind in facts[:, 2].tolist()])


def _last_stage(model: Any) -> Any:
    """The model as it answers when nothing is being trained."""
    if "fusion" in model.STAGES:
        model.start_stage("fusion")
    return model
