"""The shortcut audit's positive control: who took a planted shortcut must be caught, the package's model cleared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from ..bundled import BUNDLED
from ..data import load_data
from ..inference import StudyPredictor
from ..phantoms import write_phantom_mura
from ..training import change_recipe, load_recipe, train
from .shifts import CAUGHT, CLEARED
from .shortcuts import audit_shortcuts
from .splits import describe_source

RECIPE = "p_base"
SETTINGS = ("image_size=128", "batch_size=16", "learning_rate=1e-3", "epochs=4", "body_part_head=false")


def measure_planted(
    folder: str | Path,
    *,
    n_studies: int = 500,
    seed: int = 61,
    size: int = 256,
    settings: Sequence[str] = SETTINGS,
    twins: int = 210,
    honest_size: int = 512,
    workers: int = 1,
) -> dict[str, Any]:
    """Trains a small model on phantoms whose side marker gives the label away, and audits it and the bundled one.

    The recipe is `p_base`, for smaller pictures: it starts from the bundled checkpoint's backbone, so that what
    differs between the two models is the shortcut, not how well they see.

    Args:
        folder: New or empty; gets `data`, and `run` with the checkpoint.
        n_studies: Of the planted tree, held-out ones included.
        seed: Of the phantoms; another one than that of the bundled checkpoint's.
        size: Pixels on the long side of these phantoms, and of those that the model is audited with.
        settings: Changes of the recipe, as `change_recipe` takes them.
        twins: Patients of the audits with twins.
        honest_size: Pixels on the long side of the phantoms that the bundled checkpoint is audited with.
        workers: Processes that render.

    Returns:
        `planted` and `mura-phantom`: the record of `audit_shortcuts`. That of `planted` has `masking` too, on its
        held-out films. `passed`: whether the planted marker is caught both ways, and that of mura-phantom cleared.
    """
    folder = Path(folder)
    tree = write_phantom_mura(folder / "data", n_studies, seed, size=size, planted_marker=True, workers=workers)
    recipe, _ = change_recipe(load_recipe(RECIPE), settings)
    datasets, source = load_data(tree, **recipe.cut())
    description = describe_source(source, tree)
    AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = train(
        datasets, recipe, folder / "run", data_description={**description, "body_parts": "all"},
        trained_on_phantoms=True, cpu=True, cache_dir=folder / "pixels",
    )  # fmt: skip
    planted = audit_shortcuts(
        StudyPredictor.from_pretrained(checkpoint, device="cpu"), datasets["valid"], twins=twins, size=size
    ).record
    bundled = StudyPredictor.from_pretrained(BUNDLED["mura-phantom"], device="cpu")
    honest = audit_shortcuts(bundled, twins=twins, size=honest_size).record
    verdicts = [planted["twins"]["marker"]["verdict"], planted["masking"]["markers"]["verdict"]]
    passed = verdicts == [CAUGHT, CAUGHT] and honest["twins"]["marker"]["verdict"] == CLEARED
    return {"planted": planted, "mura-phantom": honest, "passed": passed}
