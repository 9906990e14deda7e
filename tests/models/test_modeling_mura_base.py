import pytest
import torch
from safetensors.torch import load_file, save_file

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification, MuraForStudyClassification, MuraModel
from mura_hf.models import CLASSIFIERS, MuraMetricLearningConfig
from tests.conftest import SMALL, make_model

FAMILIES = ["mura", "mura_metric_learning", "mura_fusenet", "mura_ensemble", "mura_specialized"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        # The embedding is as wide as the code, so that shapes alone would not tell these families apart.
        fields = {"embedding_size": 32} if family == "mura_metric_learning" else {}
        make_model(family, **fields).save_pretrained(root / family)
    return root


def test_there_are_no_more_families():
    assert list(CLASSIFIERS) == FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_never_loaded_as_another_family(family, folders):
    others = [kind for name, kind in CLASSIFIERS.items() if name != family]
    for kind in [*others, *([MuraForStudyClassification] if family != "mura" else [])]:
        for options in ({}, {"ignore_mismatched_sizes": True}):
            with pytest.raises((CheckpointError, ValueError), match=r"cannot be loaded as|does not fit"):
                kind.from_pretrained(folders / family, **options)


def test_nor_with_the_config_of_another_family():
    with pytest.raises(CheckpointError, match="'mura_metric_learning' cannot be loaded as MuraForImageClassification"):
        MuraForImageClassification(MuraMetricLearningConfig(**SMALL))


@pytest.mark.parametrize(
    "head", ["body_part_classifier.weight", "finding_classifier.bias", "attention.value.weight", "embedding.weight"]
)
def test_a_head_that_the_config_does_not_have_is_left_over(head, folders, tmp_path):
    weights = load_file(folders / "mura" / "model.safetensors")
    save_file({**weights, head: torch.zeros(7, 32)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folders / "mura" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"unexpected: {head}"):
        MuraForImageClassification.from_pretrained(tmp_path)
    assert MuraForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True).attention is None


def test_a_backbone_is_taken_from_a_siamese_network_too(folders):
    views = torch.randn(2, 3, 64, 64)
    whole = CLASSIFIERS["mura_metric_learning"].from_pretrained(folders / "mura_metric_learning")
    with torch.no_grad():
        found = MuraModel.from_pretrained(folders / "mura_metric_learning")(views).pooler_output
        assert torch.equal(found, whole(views).pooler_output)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_can_be_built_without_memory(family, folders):
    kind = CLASSIFIERS[family]
    config = kind.config_class.from_pretrained(folders / family)
    with torch.device("meta"):
        hollow = kind(config)
    assert all(parameter.is_meta for parameter in hollow.parameters())
    loaded = kind.from_pretrained(folders / family, low_cpu_mem_usage=True, device_map={"": "cpu"})
    assert not any(value.is_meta for value in loaded.state_dict().values())
    saved = load_file(folders / family / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_stage_is_named(family):
    with pytest.raises(ValueError, match="no stage 'third'; choose one of"):
        make_model(family).start_stage("third")


@pytest.mark.parametrize("part", ["classifier", "attention", "body_part_classifier"])
def test_heads_that_are_missing_start_as_the_config_says(part, folders, tmp_path):
    weights = load_file(folders / "mura" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(part)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = MuraConfig(**SMALL, head_init="random", body_part_head=True, study_pooling="gated_attention")
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="missing: "):
        MuraForImageClassification.from_pretrained(tmp_path)
    model = MuraForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    for name, parameter in model.named_parameters():
        if name in kept:
            assert torch.equal(parameter, kept[name]), name
        elif name.endswith("weight"):
            assert 0.01 < float(parameter.detach().std()) < 1, name
        else:
            assert not parameter.any(), name
