"""Small untrained checkpoints of every family."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification

from mura_hf import MuraConfig, MuraForImageClassification, MuraImageProcessor
from mura_hf.models import CLASSIFIERS, MuraClassifier

SIDE = 64
SMALL = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32]}, "image_size": SIDE}


def make_checkpoint(folder: Path, model: MuraClassifier | None = None, **fields: object) -> Path:
    """Saves an untrained checkpoint: of a model, or of one view with these fields."""
    if model is None:
        torch.manual_seed(0)
        config = MuraConfig(**{"backbone": "resnet10t", "image_size": SIDE, "body_part_head": True, **fields})
        model = MuraForImageClassification(config)
    model.save_pretrained(folder)
    MuraImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def make_model(family: str = "mura", seed: int = 0, **fields: Any) -> Any:
    """A small untrained model of a family, in evaluation mode, whose answers differ from view to view."""
    if family == "mura_ensemble":
        members = {"zeta": make_model(seed=1), "alpha": make_model("mura_metric_learning", seed=2)}
        return CLASSIFIERS[family].from_members(members, weights={"zeta": 0.8, "alpha": 0.2}, **fields)
    if family == "mura_specialized":
        members = {"wrist": make_model(seed=1), "elbow": make_model("mura_fusenet", seed=2)}
        router = make_model(seed=3, body_part_head=True)
        with torch.no_grad():  # it names one of the two parts, as the picture is
            others = [part for part in range(7) if part not in (0, 6)]
            router.body_part_classifier.bias[others] = -100.0
        return CLASSIFIERS[family].from_members(members, router=router, **fields)
    kind = CLASSIFIERS[family]
    torch.manual_seed(seed)
    return randomize_norms(kind(kind.config_class(**{**SMALL, "head_init": "xavier", **fields})).eval())


@torch.no_grad()
def randomize_norms(model: Any) -> Any:
    """Gives the batch norms of a new model statistics and weights as after a training."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
    return model


class LeavesFile:
    """Pickled, it leaves a file behind when it is read with its code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


def check_round_trip(model: MuraClassifier, folder: Path, **given: Any) -> None:
    """What is saved is loaded, by the class and by transformers' own: configuration, weights, and answers."""
    model.save_pretrained(folder)
    torch.manual_seed(9)
    views = torch.randn(3, 2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model.eval()(views, **given)
        first = model(views[:, 0], **given).logits
    assert first.std() > 1e-3
    for kind in (type(model), AutoModelForImageClassification):
        again = kind.from_pretrained(folder)
        assert type(again) is type(model)
        assert not again.training
        assert _fields(again) == _fields(model)
        weights, found = model.state_dict(), again.state_dict()
        assert set(found) == set(weights)
        for name, value in weights.items():
            assert torch.equal(found[name], value), name
        with torch.no_grad():
            # Where in memory weights lie may change the last digit.
            torch.testing.assert_close(again(views, **given).study_logits, expected.study_logits, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(again(views[:, 0], **given).logits, first, rtol=1e-5, atol=1e-6)


def _fields(model: MuraClassifier) -> dict[str, Any]:
    ignored = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {name: value for name, value in model.config.to_diff_dict().items() if name not in ignored}
