import numpy as np
import pytest

from mura_hf.data.mura_release import OFFICIAL_COUNTS
from mura_hf.evaluation.published import load_published, published_beside
from mura_hf.metrics import EvaluationReport

MURA = {"key": "mura"}


def _level(kind, parts=tuple(OFFICIAL_COUNTS["valid"])):
    """Answers for as many images, or studies, as the official valid set has."""
    counts = [OFFICIAL_COUNTS["valid"][part] for part in parts]
    shapes = [(getattr(one, f"normal_{kind}"), getattr(one, f"abnormal_{kind}")) for one in counts]
    labels = np.concatenate([np.repeat([0, 1], shape) for shape in shapes])
    places = np.repeat(np.arange(len(parts)), [sum(shape) for shape in shapes])
    values = np.clip(0.2 * labels + 0.8 * np.random.default_rng(0).random(len(labels)), 0, 1)
    groups = {part: places == number for number, part in enumerate(parts)}
    return EvaluationReport.measure(labels, values, np.arange(len(labels)), groups=groups, n_resamples=20)


@pytest.fixture(scope="module")
def levels():
    return {"image": _level("images"), "study": _level("studies")}


def test_only_the_same_level_and_split_stand_beside(levels):
    found = published_beside(MURA, "valid", levels)
    assert found
    published = load_published()
    for row in found:
        figures = [
            figure
            for system in published[row["study"]].systems
            if system.name == row["system"]
            for figure in system.figures
            if (figure.metric, figure.part, figure.level, figure.printed)
            == (row["metric"], row["part"], row["level"], row["printed"])
        ]
        assert {figure.split for figure in figures} & {"valid"}
        ours = levels[row["level"]].groups["overall" if row["part"] == "all" else row["part"]]
        assert row["ours"] == ours.figures[row["metric"]]
        assert published[row["study"]].taken_for is None
    hidden = {(row["study"], row["system"]) for row in found} & {("mura_paper", "DenseNet-169, mean of five")}
    assert not hidden


def test_other_data_have_none(levels):
    assert published_beside({"key": "phantoms"}, "valid", levels) == []
    assert published_beside(MURA, "dev", levels) == []
    assert published_beside(None, "valid", levels) == []


def test_a_part_of_the_official_set_has_none(levels):
    whole = _level("studies")
    few = EvaluationReport.measure([0, 1], [0.1, 0.9], [1, 2], groups={"wrist": np.ones(2, bool)}, n_resamples=20)
    assert published_beside(MURA, "valid", {"image": few, "study": few}) == []
    assert len(published_beside(MURA, "valid", {"image": few, "study": whole})) < len(
        published_beside(MURA, "valid", levels)
    )
