from pathlib import Path

import pytest
from plausibility import Claim
from published import _number, load_published, print_share, split_names

from mura_hf.models import BODY_PARTS
from mura_hf.training import config_names

NOT_IN_THE_STUDIES = {"b_finding_type", "c_router_densenet121", "c_specialized_routed"}
METRICS = ("accuracy", "kappa", "f1", "sensitivity", "specificity", "auroc")

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
