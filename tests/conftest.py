"""Phantoms and checkpoints that all tests share. They are made once a run, by whichever worker needs them first."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["MURA_RUNTIME"] = "torch"  # compiling every small network would take longer than the tests
os.environ["MURA_HOME"] = tempfile.mkdtemp(prefix="mura_hf_tests_")  # tests leave nothing in the user's cache folder

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForImageClassification

from mura_hf import MuraConfig, MuraForImageClassification, MuraImageProcessor
from mura_hf.evaluation import evaluation, ood_detection, saliency, shortcuts
from mura_hf.metrics import PLOTS
from mura_hf.models import CLASSIFIERS, MuraClassifier
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import trainer

from .forks import ForkServer

SIDE = 64
SMALL = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32]}, "image_size": SIDE}


def make_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Folder `name` that `make` fills, shared by all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / f"shared-{name}"
    with FileLock(base / f"shared-{name}.lock"):
        if not folder.exists():
            draft = base / f"draft-{name}"
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _fast_work() -> Iterator[None]:
    """Fewer views, seeds and steps in every evaluation; no plots, which take long and have tests of their own."""
    sizes = {
        "randomization": {"n_views": 3, "n_seeds": 1, "steps": 2},
        "insertion_deletion": {"n_views": 3, "steps": 2},
        "sensitivity": {"n": 7},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saliency, "SIZES", sizes)
        patch.setattr(ood_detection, "N_IMAGES", 2)
        patch.setattr(shortcuts, "N_STUDIES", 5)
        patch.setattr(evaluation, "plot_evaluation", lambda _, folder: [(folder / name).touch() for name in PLOTS])
        patch.setattr(trainer, "plot_curves", lambda history, file, **options: file.touch())
        yield


@pytest.fixture(scope="session")
def phantom_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 small synthetic studies in MURA's layout."""
    folder = make_once(
        tmp_path_factory, "phantoms", lambda draft: write_phantom_mura(draft, 56, seed=3, size=128, progress=False)
    )
    return folder / "MURA-v1.1"


@pytest.fixture(scope="session")
def phantom_files(phantom_tree: Path) -> list[str]:
    """The views of one study of at least two."""
    for study in sorted(phantom_tree.glob("train/*/*/*_positive")):
        files = sorted(map(str, study.glob("*.png")))
        if len(files) >= 2:
            return files
    raise AssertionError("the tree has no abnormal study of two views")


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Runs commands in processes of their own."""
    server = ForkServer()
    yield server
    server.close()


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint with a slim convolutional backbone and a body-part head."""
    slim = {"channels": [16, 32, 64, 128]}
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "untrained", backbone_kwargs=slim)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says at the end which tests were skipped, and how to run them."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] = reasons.get(reason.removeprefix("Skipped: "), 0) + 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"skipped {count} test{'s' * (count > 1)}: {reason}")
