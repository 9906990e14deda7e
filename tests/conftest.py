"""Phantoms and checkpoints that all tests share. They are made once a run, by whichever worker needs them first.

The process that gives tests to workers reads this file too, and waits for no heavy library.
"""

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
from filelock import FileLock

from .forks import ForkServer


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
    from mura_hf.evaluation import evaluation, ood_detection, saliency
    from mura_hf.metrics import PLOTS
    from mura_hf.training import trainer

    sizes = {
        "randomization": {"n_views": 3, "n_seeds": 1, "steps": 2},
        "insertion_deletion": {"n_views": 3, "steps": 2},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saliency, "SIZES", sizes)
        patch.setattr(ood_detection, "N_IMAGES", 2)
        patch.setattr(evaluation, "N_STUDIES", 5)
        patch.setattr(evaluation, "plot_evaluation", lambda _, folder: [(folder / name).touch() for name in PLOTS])
        patch.setattr(trainer, "plot_curves", lambda history, file, **options: file.touch())
        yield


@pytest.fixture(scope="session")
def phantom_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 small synthetic studies in MURA's layout."""
    from mura_hf.phantoms import write_phantom_mura

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint with a slim convolutional backbone and a body-part head."""
    from .checkpoints import make_checkpoint

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
