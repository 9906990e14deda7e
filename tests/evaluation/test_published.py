from pathlib import Path

import numpy as np
import pytest
from plausibility import Claim

from mura_hf.data.mura_release import OFFICIAL_COUNTS
from mura_hf.evaluation import load_published
from mura_hf.evaluation.published import _number, comparable_figures, print_share, split_names
from mura_hf.metrics import EvaluationReport
from mura_hf.models import BODY_PARTS
from mura_hf.training import config_names

NOT_IN_THE_STUDIES = {"b_finding_type", "c_router_densenet121", "c_specialized_routed"}
METRICS = ("accuracy", "kappa", "f1", "sensitivity", "specificity", "auroc")
MURA = {"key": "mura"}

STUDIES = Path(__file__).parents[2] / "scripts" / "reproduction"


def test_every_config_of_a_study_has_its_system():
    for key, study in load_published().items():
        own = {name for name in config_names([STUDIES]) if name.startswith(f"{key.lower()}_")} or {"mura_paper"}
        assert {system.config for system in study.systems if system.config} == own - NOT_IN_THE_STUDIES


@pytest.mark.parametrize(
    ("key", "config", "figure", "printed"),
    [
        ("A", "a_siamese_densenet169_clahe_256", ("accuracy", "finger", "valid"), ".780"),
        ("A", "a_siamese_resnet50_256", ("kappa", "finger", "train"), ".053"),
        ("B", "b_deep_head", ("accuracy", "all", "valid"), ".7857"),  # the second of the two
        ("C", "c_specialized_resnet18", ("accuracy", "wrist", "valid"), ".8300"),
        ("D", "d_fusenet", ("auroc", "all", "valid_v1_0"), ".9076"),
        ("E", "e_wrist_cnn", ("sensitivity", "wrist", "shuffled_fifth"), ".6013"),
        ("mura_paper", "mura_paper", ("kappa", "finger", "hidden_test"), ".389"),
    ],
)
def test_figures_are_those_that_the_studies_printed(key, config, figure, printed):
    systems = [system for system in load_published()[key].systems if system.config == config]
    figures = {(one.metric, one.part, one.split): one for system in systems for one in system.figures}
    assert figures[figure].printed == printed


def test_body_parts_of_study_d_add_up_to_its_total():
    studies = {"elbow": 160, "finger": 175, "forearm": 137, "hand": 167, "humerus": 136, "shoulder": 195, "wrist": 238}
    for system in load_published()["D"].systems:
        accuracies = {one.part: one.value for one in system.figures if one.metric == "accuracy"}
        if accuracies:
            right = sum(round(accuracies[part] * n) for part, n in studies.items())
            assert right == round(accuracies["all"] * 1208)


def test_every_figure_and_claim_is_complete():
    for study in load_published().values():
        assert study.notes
        for system in study.systems:
            assert set(system.body_parts) <= set(BODY_PARTS)
            for one in system.figures:
                assert one.metric in METRICS
                assert one.level in ("image", "study")
                assert one.split in split_names()
                assert -1 <= one.value <= 1
                assert one.part in (*system.body_parts, "all")
        for claim in study.claims:
            assert any(Claim(**claim).is_about(system, one) for system in study.systems for one in system.figures)


def test_digits_are_kept():
    assert _number(".500") == (0.5, 3)
    assert _number("78.5", percent=True) == (0.785, 3)
    assert _number("51", percent=True) == (0.51, 2)
    assert [print_share(one) for one in (0.5, -0.0776, 1, 0)] == [".500", "-.078", "1.000", ".000"]


def _level(kind):
    """Predictions for as many images, or studies, as the official valid set has."""
    counts = OFFICIAL_COUNTS["valid"]
    shapes = [[getattr(one, f"{label}_{kind}") for label in ("normal", "abnormal")] for one in counts.values()]
    labels = np.concatenate([np.repeat([0, 1], shape) for shape in shapes])
    places = np.repeat(np.arange(len(counts)), [sum(shape) for shape in shapes])
    values = np.clip(0.2 * labels + 0.8 * np.random.default_rng(0).random(len(labels)), 0, 1)
    groups = {part: places == number for number, part in enumerate(counts)}
    return EvaluationReport.measure(labels, values, np.arange(len(labels)), groups=groups)


def test_only_figures_of_the_same_level_split_and_studies_are_compared():
    levels = {"image": _level("images"), "study": _level("studies")}
    rows = comparable_figures(MURA, "valid", lambda: levels)
    assert rows
    for row in rows:
        study = load_published()[row["study"]]
        assert study.taken_for is None
        assert any(
            (system.name, one.metric, one.part, one.level, one.printed, one.split)
            == (row["system"], row["metric"], row["part"], row["level"], row["printed"], "valid")
            for system in study.systems
            for one in system.figures
        )
        ours = levels[row["level"]].groups["overall" if row["part"] == "all" else row["part"]]
        assert row["ours"] == ours.figures[row["metric"]]
    assert "mura_paper" not in {row["study"] for row in rows if row["system"] == "DenseNet-169, mean of five"}
    for data, split in (({"key": "phantoms"}, "valid"), (MURA, "dev"), (None, "valid")):
        assert comparable_figures(data, split, lambda: levels) == []
    few = EvaluationReport.measure([0, 1], [0.1, 0.9], [1, 2], groups={"wrist": np.ones(2, bool)})
    assert comparable_figures(MURA, "valid", lambda: {"image": few, "study": few}) == []  # a part of the official set
    assert len(comparable_figures(MURA, "valid", lambda: {**levels, "image": few})) < len(rows)
