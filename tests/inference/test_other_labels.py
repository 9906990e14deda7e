import pytest

from mura_hf import CheckpointError
from mura_hf.inference.external_model import find_abnormal, sounds_abnormal

ABNORMAL = (
    "abnormal", "ABNORMAL", "Positive", "XR_positive", "fractured", "Fracture", "bone fracture", "hasFracture",
    "broken", "Pathologic", "pathological", "diseased", "lesion", "finding", "injured", "yes", "fracture: yes",
    "unhealthy", "not normal", "non-normal", "1_abnormal", "non-displaced fracture",
)  # fmt: skip
NORMAL = (
    "normal", "Negative", "healthy", "intact", "no", "not fractured", "Not Fractured", "NotFractured", "non_fractured",
    "Non-Fractured", "nonfractured", "no_fracture", "No fracture", "nofracture", "unfractured", "unbroken",
    "no finding", "No acute finding", "without lesion", "fracture negative", "negative for fracture", "fracture free",
    "fracture absent", "fracture: no", "not abnormal", "non_diseased", "0_normal",
)  # fmt: skip
NEITHER = ("LABEL_0", "LABEL_1", "0", "wrist", "position", "note", "nodule", "", "normal or fractured", "grade 2")


@pytest.mark.parametrize(
    ("label", "sense"),
    [*((label, True) for label in ABNORMAL), *((label, False) for label in NORMAL), *((lb, None) for lb in NEITHER)],
)
def test_words(label, sense):
    assert sounds_abnormal(label) is sense


@pytest.mark.parametrize("abnormal", ABNORMAL)
def test_every_pair_is_told_apart_in_either_order(abnormal):
    for normal in NORMAL:
        assert find_abnormal([normal, abnormal], "user/model") == 1
        assert find_abnormal([abnormal, normal], "user/model") == 0


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1"),
        ("lesion", "fracture"),
        ("normal", "healthy"),
        ("benign", "malignant"),
        ("fractured", "wrist"),
        ("fracture", "hardware"),
        ("displaced fracture", "non-displaced fracture"),
        ("normal", "other"),
    ],
)
def test_what_is_not_clear_is_asked(labels):
    with pytest.raises(CheckpointError) as refused:
        find_abnormal(labels, "user/model")
    sentence = str(refused.value)
    assert all(f"“{label}”" in sentence for label in labels)
    assert "which of them means abnormal?" in sentence
    assert f"StudyPredictor.from_pretrained(..., abnormal_label={labels[1]!r})" in sentence
    for place, label in enumerate(labels):
        assert find_abnormal(labels, "user/model", label) == place
        assert find_abnormal(labels, "user/model", f" {label.upper()}") == place


def test_what_the_caller_says_goes_before_the_words():
    assert find_abnormal(["normal", "abnormal"], "user/model", "normal") == 0


def test_a_label_that_is_none():
    with pytest.raises(CheckpointError, match=r"no label “sick”.*“well” and “ill”"):
        find_abnormal(["well", "ill"], "user/model", "sick")


def test_labels_that_differ_in_case_only():
    assert find_abnormal(["a", "A"], "user/model", "A") == 1
    with pytest.raises(CheckpointError, match="cannot be told apart"):
        find_abnormal(["a", "a"], "user/model", "a")
