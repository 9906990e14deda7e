import pytest
from reproduction import Budget, cut_short, plan_runs, starts_pretrained, take_patients

from mura_hf import load_mura
from mura_hf.errors import ConfigError
from mura_hf.evaluation import load_published
from mura_hf.training import load_recipe


def test_each_run_is_planned_once_and_members_first():
    published = load_published()
    names = [run.name for run in plan_runs([published["D"]])]
    assert len(names) == len(set(names)) == 8
    assert names[-1] == "d_ensemble"
    assert "d_fusenet_full_resolution" in names
    some = [run.name for run in plan_runs([published["C"], published["E"]], ["c_cnn2", "random"])]
    assert some == ["c_cnn2", "c_cnn2-wrist", "c_cnn2-elbow", "c_cnn2-finger-wrist", "random-wrist"]
    assert {run.body_parts for run in plan_runs([published["A"]])} == {("finger",)}
    with pytest.raises(ConfigError, match="c_cnn3: no such recipe"):
        plan_runs([published["C"]], ["c_cnn3"])


def test_a_budget_holds_in_every_stage_and_member(tmp_path):
    budget = Budget(epochs=1, image_size=64, from_scratch=True)
    fusenet = cut_short("d_fusenet", budget, tmp_path)
    assert [stage.epochs for stage in fusenet.stages] == [1, 1, 1]
    assert (fusenet.image_size, fusenet.resize_size, fusenet.pretrained) == (64, 74, False)
    assert fusenet.name == "d_fusenet"
    patches = cut_short("phantom", Budget(epochs=2, image_size=192), tmp_path).patches
    assert (patches.epochs, patches.size) == (2, 56)
    ensemble = cut_short("d_ensemble", budget, tmp_path)
    assert [load_recipe(member) for member in ensemble.members] == [
        cut_short(name, budget, tmp_path) for name in load_recipe("d_ensemble").members
    ]
    routed = cut_short("c_specialized_routed", budget, tmp_path)
    assert load_recipe(routed.router) == cut_short("c_router_densenet121", budget, tmp_path)
    assert cut_short("d_resnet50", Budget(), tmp_path) == load_recipe("d_resnet50")


def test_what_starts_from_weights_that_must_be_had():
    assert starts_pretrained("d_ensemble")
    assert not starts_pretrained("e_wrist_cnn")


def test_a_share_of_patients_whole_and_evenly(phantom_tree):
    rows = load_mura(phantom_tree)["train"]
    some = take_patients(rows, 0.5, seed=0)
    kept, all_patients = set(some["patient_id"]), set(rows["patient_id"])
    assert 0.35 * len(all_patients) < len(kept) < 0.65 * len(all_patients)
    assert len(some) == sum(patient in kept for patient in rows["patient_id"])
    assert set(some["label"]) == {0, 1}
    assert some["study_id"] == take_patients(rows, 0.5, seed=0)["study_id"]
    assert take_patients(rows, 1.0, seed=0) is rows


def test_budgets_in_words():
    assert Budget().told() == ""
    told = Budget(epochs=1, fraction=0.1, image_size=64).told()
    assert told == "1 epoch in each stage, a share of 0.1 of train's patients, pictures of 64 px"
    for wrong in ({"epochs": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"image_size": 0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)
