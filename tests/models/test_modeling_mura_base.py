import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification, MuraForStudyClassification, MuraModel
from mura_hf.models import CLASSIFIERS, MuraMetricLearningConfig
from mura_hf.models.backbone_mura import SmallCnn
from tests.checkpoints import SIDE, SMALL, make_model

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

    @pytest.mark.parametrize(
        "head", ["finding_classifier.bias", "region_classifier.bias", "attention.value.weight", "embedding.weight"]
    )
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


STAGES = [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)]


def _like(kind):
    """A small model of a family with all heads, or the ResNet of transformers."""
    if kind == "ResNet":
        return ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic")
        )
    if kind == "studies":
        return MuraForStudyClassification(MuraConfig(**SMALL, study_pooling="gated_attention", body_part_head=True))
    heads = (
        {}
        if kind in FAMILIES[3:]
        else {"body_part_head": True, "finding_types": ["fracture", "other"], "regions": ["a", "b"]}
    )
    return make_model(kind, **heads)


class TestLikeTheResNetOfTransformers:
    """What the tutorials of transformers do works as with `ResNetForImageClassification`."""

    @pytest.mark.parametrize(
        ("kind", "return_dict"),
        [(kind, True) for kind in ("studies", *FAMILIES)] + [("studies", False), ("mura", False)],
    )
    def test_trainer_with_the_metrics_of_the_tutorial(self, kind, return_dict, tmp_path):
        def compute_metrics(evaluated):
            predictions, labels = evaluated
            return {"accuracy": float((np.argmax(predictions, axis=1) == labels).mean())}

        shape = (2, 3, SIDE, SIDE) if kind == "studies" else (3, SIDE, SIDE)
        rows = [{"pixel_values": torch.randn(shape), "labels": index % 2, "note": "unused"} for index in range(4)]
        args = TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=3, report_to=[],
            use_cpu=True, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        model = _like(kind)
        model.config.return_dict = return_dict
        given = {"train_dataset": rows, "eval_dataset": rows, "compute_metrics": compute_metrics}
        trainer = Trainer(model, args, data_collator=_collate, **given)
        assert np.isfinite(trainer.train().training_loss)
        assert {"eval_loss", "eval_accuracy"} <= set(trainer.evaluate())
        assert trainer.predict(rows).predictions.shape == (4, 2)

    @pytest.mark.parametrize("kind", ["ResNet", *FAMILIES])
    def test_tuples_and_hidden_states(self, kind):
        model, views, labels = _like(kind).eval(), torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 1])
        with torch.no_grad():
            output = model(views, labels=labels)
            loss, logits = model(views, labels=labels, return_dict=False)
            assert output.hidden_states is None
            torch.testing.assert_close((loss, logits), (output.loss, output.logits))
            assert len(model(views, return_dict=False)) == 1
            if kind == "mura_specialized":
                with pytest.raises(ValueError, match="ask one of the members"):
                    model(views, output_hidden_states=True)
                return
            *_, found, states = model(views, labels=labels, return_dict=False, output_hidden_states=True)
            torch.testing.assert_close(found, output.logits)
        backbones = {"mura_fusenet": 2, "mura_ensemble": 2}.get(kind, 1)
        assert [tuple(state.shape[1:]) for state in states][-4:] == STAGES
        assert len(states) == 5 * backbones
        if getattr(output, "feature_map", None) is not None:
            torch.testing.assert_close(states[4], output.feature_map)
        if kind != "ResNet":
            with torch.no_grad():
                study = model(torch.stack([views, views]), output_hidden_states=True)
            torch.testing.assert_close(study.hidden_states[-1][1], states[-1])

    @pytest.mark.parametrize("backbone", ["cnn4", "vit_tiny_patch16_224", "densenet121"])
    def test_hidden_states_of_other_backbones(self, backbone):
        model, views = MuraModel(MuraConfig(backbone=backbone, image_size=SIDE)).eval(), torch.randn(1, 3, SIDE, SIDE)
        with torch.no_grad():
            feature_map, code, states = model(views, output_hidden_states=True, return_dict=False)
            expected = model(views)
        assert len(states) >= 4
        torch.testing.assert_close((feature_map, code), (expected.last_hidden_state, expected.pooler_output))

    def test_a_backbone_without_hidden_states(self, monkeypatch):
        monkeypatch.delattr(SmallCnn, "forward_intermediates")  # as of an architecture that is registered with timm
        with pytest.raises(ValueError, match="cnn4 has no hidden states"):
            MuraModel(MuraConfig(backbone="cnn4", image_size=SIDE))(
                torch.ones(1, 3, SIDE, SIDE), output_hidden_states=True
            )

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_gradient_checkpointing_changes_no_gradient(self, kind):
        model, views, labels = _like(kind).train(), torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 1])
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()  # recomputing updates the statistics twice
        gradients = []
        for _ in range(2):
            model.zero_grad()
            model(views, labels=labels).loss.backward()
            gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
            model.gradient_checkpointing_enable()
        torch.testing.assert_close(*gradients)
        model.gradient_checkpointing_disable()
        with pytest.raises(ValueError, match="backbone SmallCnn does not support gradient checkpointing"):
            MuraForImageClassification(MuraConfig(backbone="cnn2", image_size=32)).gradient_checkpointing_enable()


def _collate(rows):
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in ("pixel_values", "labels")}
