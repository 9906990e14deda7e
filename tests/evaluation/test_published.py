import pytest

from mura_hf.evaluation import load_published
from mura_hf.evaluation.published import LEVELS, METRICS, _check_keys, _number, print_share, split_names
from mura_hf.models import BODY_PARTS
from mura_hf.training import recipe_names

NO_STUDYS_OWN = {"b_finding_type", "c_router_densenet121", "c_specialized_routed"}  # beside the studies, as they say


def _figures(key, recipe):
    systems = [system for system in load_published()[key].systems if system.recipe == recipe]
    return {(one.metric, one.part, one.split): one for system in systems for one in system.figures}


def test_every_recipe_of_a_study_has_its_system():
    listed = {key: {one.recipe for one in study.systems if one.recipe} for key, study in load_published().items()}
    for key, recipes in listed.items():
        own = {name for name in recipe_names() if name.startswith(f"{key.lower()}_")} or {"mura_paper"}
        assert recipes == own - NO_STUDYS_OWN


def test_figures_are_what_the_studies_printed():
    assert _figures("A", "a_siamese_densenet169_clahe_256")["accuracy", "finger", "valid"].printed == ".780"
    assert _figures("A", "a_siamese_resnet50_256")["kappa", "finger", "train"].printed == ".053"
    assert _figures("B", "b_deep_head")["accuracy", "all", "valid"].printed == ".7857"  # the second of the two
    assert _figures("C", "c_specialized_resnet18")["accuracy", "wrist", "valid"].printed == ".8300"
    assert _figures("D", "d_fusenet")["auroc", "all", "valid_v1_0"].printed == ".9076"
    assert _figures("E", "e_wrist_cnn")["sensitivity", "wrist", "shuffled_fifth"].printed == ".6013"
    assert _figures("mura_paper", "mura_paper")["kappa", "finger", "hidden_test"].printed == ".389"


def test_parts_of_study_d_add_up_to_its_whole():
    studies = {"elbow": 160, "finger": 175, "forearm": 137, "hand": 167, "humerus": 136, "shoulder": 195, "wrist": 238}
    for system in load_published()["D"].systems:
        accuracies = {one.part: one.value for one in system.figures if one.metric == "accuracy"}
        if accuracies:
            right = sum(round(accuracies[part] * n) for part, n in studies.items())
            assert right == round(accuracies["all"] * 1208)


def test_each_figure_is_whole():
    for study in load_published().values():
        assert study.notes
        for system in study.systems:
            assert set(system.body_parts) <= set(BODY_PARTS)
            for one in system.figures:
                assert one.metric in METRICS
                assert one.level in LEVELS
                assert one.split in split_names()
                assert -1 <= one.value <= 1
                assert one.part in (*system.body_parts, "all")
        for claim in study.claims:
            assert any(claim.is_about(system, one) for system in study.systems for one in system.figures)


def test_digits_are_kept():
    assert _number(".500", {}) == (0.5, 3)
    assert _number("78.5", {"percent": "true"}) == (0.785, 3)
    assert _number("51", {"percent": "true"}) == (0.51, 2)
    assert [print_share(one) for one in (0.5, -0.0776, 1, 0)] == [".500", "-.078", "1.000", ".000"]


def test_a_key_that_is_none_is_refused():
    with pytest.raises(ValueError, match="unknown keys levle"):
        _check_keys({"levle": "image"}, {"level"}, "A")
