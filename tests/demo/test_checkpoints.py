import threading
from types import SimpleNamespace

import pytest

from mura_hf import CheckpointError
from mura_hf.demo.checkpoints import Checkpoints
from tests.inference.strangers import save_stranger


def test_folders_are_read_on_loopback_only(checkpoint, monkeypatch):
    assert Checkpoints(allow_folders=True).get(str(checkpoint)).checkpoint == f"folder: {checkpoint.name}"
    with pytest.raises(CheckpointError, match="is not a Hub name"):
        Checkpoints(allow_folders=False).get(str(checkpoint))
    monkeypatch.chdir(checkpoint.parents[1])
    relative = f"{checkpoint.parent.name}/{checkpoint.name}"  # looks like a Hub name
    with pytest.raises(CheckpointError, match="is not a Hub name"):
        Checkpoints(allow_folders=False).get(relative)


@pytest.mark.parametrize("name", ["../secrets", "https://example.org/model", "a/b/c", "~", "nothing"])
def test_odd_names_are_refused(name):
    with pytest.raises(CheckpointError, match="is not a Hub name"):
        Checkpoints(allow_folders=False).get(name)


def test_the_packages_own_are_had_everywhere_and_have_no_revisions():
    held = Checkpoints(allow_folders=False)
    assert held.get("mura-phantom").checkpoint == "bundled: mura-phantom"
    with pytest.raises(CheckpointError, match="has no revisions"):
        held.get("mura-phantom", "main")


def test_a_revision_alone_is_refused():
    with pytest.raises(CheckpointError, match="belongs to a Hub name"):
        Checkpoints(allow_folders=True).get("", "main")


def test_an_abnormal_label_answers_the_question_of_someone_elses_checkpoint(tmp_path):
    folder = str(save_stranger(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1")))
    held = Checkpoints(allow_folders=True)
    with pytest.raises(CheckpointError, match=r"which of them means abnormal\?.*the app's box “Abnormal label”"):
        held.get(folder)
    first, second = (held.get(folder, "", f"{label} ") for label in ("LABEL_0", "LABEL_1"))
    assert first.model.order == second.model.order[::-1]
    assert held.get(folder, "", "LABEL_1") is second
    with pytest.raises(CheckpointError, match="belongs to a model's name"):
        held.get("", "", "LABEL_1")


def test_a_hub_name_that_cannot_be_reached_is_said_in_words():
    with pytest.raises(CheckpointError, match="nobody/nothing is no folder"):
        Checkpoints(allow_folders=False).get("nobody/nothing")


def test_predictors_are_kept_but_not_without_end(checkpoint):
    held = Checkpoints(allow_folders=True, capacity=1)
    default, first = held.get(), held.get(str(checkpoint))
    assert held.get(str(checkpoint)) is first
    held.get(str(checkpoint.parent / "." / checkpoint.name) + "/")
    assert held.get(str(checkpoint)) is not first
    assert held.get() is default


def test_a_slow_download_keeps_nobody_else_waiting(checkpoint, monkeypatch):
    held = Checkpoints(allow_folders=True)
    held.get()
    started, finish = threading.Event(), threading.Event()

    def slow(name, revision=None, abnormal_label=None):
        started.set()
        assert finish.wait(30)
        raise CheckpointError(f"{name} cannot be loaded")

    monkeypatch.setattr("mura_hf.demo.checkpoints.StudyPredictor.from_pretrained", slow)
    refused = []

    def ask():
        try:
            held.get("slow/model")
        except CheckpointError as error:
            refused.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert started.wait(30)
    assert held.get().checkpoint.startswith("bundled")
    finish.set()
    waiting.join(30)
    assert len(refused) == 1


def test_weights_that_are_too_large_for_a_shared_server_are_not_fetched(monkeypatch):
    asked = []

    class Hub:
        def model_info(self, name, **options):
            asked.append((name, options["revision"]))
            sizes = {"model.safetensors": 3 << 30, "model-2.safetensors": 1 << 30, "notes.bin": 9 << 30}
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=sizes[file]) for file in sizes])

    monkeypatch.setattr("mura_hf.demo.checkpoints.HfApi", Hub)
    with pytest.raises(CheckpointError, match=r"weights of me/large have 4\.3 GB, and here at most 1\.1 GB"):
        Checkpoints(allow_folders=False, most_bytes=1 << 30).get("me/large", "v1")
    assert asked == [("me/large", "v1")]
    held = Checkpoints(allow_folders=False, most_bytes=1)
    assert held.get("mura-phantom").checkpoint == "bundled: mura-phantom"
    with pytest.raises(CheckpointError, match="me/large"):  # any size, but there is no network
        Checkpoints(allow_folders=True).get("me/large")
    assert len(asked) == 1
