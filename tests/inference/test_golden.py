import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from mura_hf import MuraImageProcessor, StudyPredictor
from mura_hf.inference import loading as files
from mura_hf.inference.loading import UNREADABLE, Source, golden_warning, load_golden
from mura_hf.models import BODY_PARTS, CLASSIFIERS, GOLDEN_FILE, write_golden
from tests.conftest import make_checkpoint, make_model

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 70), np.uint8)


@pytest.fixture
def folder(tmp_path):
    return _write(make_checkpoint(tmp_path / "checkpoint", make_model()))


def _write(folder, part="wrist", off=0.0):
    """Adds a golden check whose logits are wrong by so much."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, PICTURE, BODY_PARTS.index(part))
    tensors = load_file(folder / GOLDEN_FILE)
    save_file({**tensors, "logits": tensors["logits"] + torch.tensor([[0.0, off]])}, folder / GOLDEN_FILE)
    return folder


def _golden_warnings(predictor):
    return [warning for warning in predictor([PICTURE], heatmaps=False).warnings if "golden" in warning]


def test_a_checkpoint_that_answers_as_it_did_says_nothing(folder):
    assert _golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu")) == []


def test_one_that_does_not_says_by_how_much_in_every_answer(folder):
    _write(folder, off=0.25)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    for _ in range(2):
        (warning,) = _golden_warnings(predictor)
        assert "differs by 0.25" in warning
        assert "compare the versions" in warning


def test_half_precision_is_not_called_a_difference(folder):
    assert _golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)) == []
    _write(folder, off=0.25)
    assert len(_golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu", dtype=torch.bfloat16))) == 1


@pytest.mark.parametrize(("difference", "said"), [(0.0, False), (9e-4, False), (1.1e-3, True), (float("nan"), True)])
def test_the_limit(difference, said):
    assert (golden_warning(difference, torch.float32) is not None) is said


def test_it_costs_no_further_pass(folder, monkeypatch):
    kind = CLASSIFIERS["mura"]
    seen, classify = [], kind.classify_views

    def count(model, pixel_values, **given):
        seen.append(tuple(pixel_values.shape))
        return classify(model, pixel_values, **given)

    monkeypatch.setattr(kind, "classify_views", count)
    StudyPredictor.from_pretrained(folder, device="cpu")
    assert seen == [(1, 3, 64, 64)]


def test_the_part_that_the_picture_shows_is_the_one_that_is_compared(tmp_path):
    folder = make_checkpoint(tmp_path / "parts", make_model("mura_specialized"))
    _write(folder, part="wrist")
    assert _golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu")) == []
    _write(folder, part="elbow", off=0.5)
    assert len(_golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu"))) == 1


@pytest.mark.parametrize("damage", ["text", "truncated", "other", "part"])
def test_one_that_cannot_be_read_is_said_and_the_checkpoint_answers(folder, damage):
    file = folder / GOLDEN_FILE
    if damage == "text":
        file.write_text("not a tensor")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    if damage == "other":
        save_file({"picture": torch.zeros(3, 3), "body_part": torch.zeros(1), "logits": torch.zeros(1, 2)}, file)
    if damage == "part":
        save_file({**load_file(file), "body_part": torch.tensor([7])}, file)
    assert _golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu")) == [UNREADABLE]


class TestOnTheHub:
    SOURCE = Source("user/model", "later", "user/model@later")

    def test_it_is_taken_from_there(self, folder, monkeypatch):
        asked = []

        def download(*names, **options):
            asked.append((names, options["revision"]))
            return str(folder / GOLDEN_FILE)

        monkeypatch.setattr(files, "hf_hub_download", download)
        found = load_golden(self.SOURCE)
        np.testing.assert_array_equal(found.picture, PICTURE)
        assert asked == [(("user/model", GOLDEN_FILE), "later")]

    def test_where_there_is_none_nothing_fails(self, monkeypatch):
        def download(*names, **options):
            raise LocalEntryNotFoundError("not there, or no network")

        monkeypatch.setattr(files, "hf_hub_download", download)
        assert load_golden(self.SOURCE) is None
