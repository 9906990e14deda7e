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
        # The embedding is as wide as the code, so that shapes alone do not distinguish these families.
        fields = {"embedding_size": 32} if family == "mura_metric_learning" else {}
        make_model(family, **fields).save_pretrained(root / family)
    return root


def _write(folder, weights, source):
    """A checkpoint with other weights."""
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_not_loaded_as_another_family(family, folders):
    assert list(CLASSIFIERS) == FAMILIES
    others = [kind for name, kind in CLASSIFIERS.items() if name != family]
    for kind in [*others, *([MuraForStudyClassification] if family != "mura" else [])]:
        for options in ({}, {"ignore_mismatched_sizes": True}):
            with pytest.raises((CheckpointError, ValueError), match=r"cannot be loaded as|does not fit"):
                kind.from_pretrained(folders / family, **options)
    with pytest.raises(CheckpointError, match="'mura_metric_learning' cannot be loaded as MuraForImageClassification"):
        MuraForImageClassification(MuraMetricLearningConfig(**SMALL))
    with pytest.raises(ValueError, match="no stage 'third'; choose one of"):
        make_model(family).start_stage("third")


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_built_on_the_meta_device(family, folders):
    kind = CLASSIFIERS[family]
    config = kind.config_class.from_pretrained(folders / family)
    with torch.device("meta"):
        hollow = kind(config)
    assert all(parameter.is_meta for parameter in hollow.parameters())
    loaded = kind.from_pretrained(folders / family, low_cpu_mem_usage=True, device_map={"": "cpu"})
    assert not any(value.is_meta for value in loaded.state_dict().values())
    saved = load_file(folders / family / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("family", ["mura", "mura_metric_learning"])
def test_the_base_model_loads_from_a_classifier(family, folders):
    views = torch.randn(2, 3, 64, 64)
    whole = CLASSIFIERS[family].from_pretrained(folders / family)
    with torch.no_grad():
        found = MuraModel.from_pretrained(folders / family)(views).pooler_output
        torch.testing.assert_close(found, whole(views).pooler_output)


class TestStrictLoading:
    @pytest.mark.parametrize("change", ["missing", "left over", "reshaped"])
    def test_weights_must_match(self, change, folders, tmp_path):
        weights = load_file(folders / "mura" / "model.safetensors")
        if change == "missing":
            del weights["mura.backbone.layer1.0.conv1.weight"]
        elif change == "left over":
            weights["mura.backbone.layer9.weight"] = torch.zeros(3)
        else:
            weights["classifier.weight"] = torch.zeros(2, 7)
        with pytest.raises(CheckpointError, match="does not fit MuraForImageClassification"):
            MuraForImageClassification.from_pretrained(_write(tmp_path, weights, folders / "mura"))

    @pytest.mark.parametrize("head", ["finding_classifier.bias", "attention.value.weight", "embedding.weight"])
    def test_a_head_that_the_config_lacks_is_left_over(self, head, folders, tmp_path):
        weights = load_file(folders / "mura" / "model.safetensors")
        _write(tmp_path, {**weights, head: torch.zeros(7, 32)}, folders / "mura")
        with pytest.raises(CheckpointError, match=f"unexpected: {head}"):
            MuraForImageClassification.from_pretrained(tmp_path)
        assert MuraForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True).attention is None

    def test_missing_heads_are_initialized(self, folders, tmp_path):  # of two, the checkpoint has no weights either
        weights = load_file(folders / "mura" / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
        _write(tmp_path, kept, folders / "mura")
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

    def test_only_heads_may_be_initialized(self, checkpoint):
        options = {"ignore_mismatched_sizes": True}
        headless = MuraConfig.from_pretrained(checkpoint, body_part_head=False)
        model = MuraForImageClassification.from_pretrained(checkpoint, config=headless, **options)
        assert model.body_part_classifier is None
        other = MuraConfig.from_pretrained(checkpoint, backbone="resnet18")
        with pytest.raises(CheckpointError, match="heads alone may be initialized again"):
            MuraForImageClassification.from_pretrained(checkpoint, config=other, **options)

    def test_no_pickles(self, checkpoint, tmp_path):
        torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
        with pytest.raises(OSError, match="safetensors"):
            MuraForImageClassification.from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="safetensors files only"):
            MuraForImageClassification.from_pretrained(checkpoint, use_safetensors=False)
        _, info = MuraForImageClassification.from_pretrained(checkpoint, output_loading_info=True)
        assert not info["missing_keys"]
