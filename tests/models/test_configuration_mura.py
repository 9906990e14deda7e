import json
import re

import pytest
from PIL import Image
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

from mura_hf import MuraConfig, StudyPredictor
from mura_hf.common import BODY_PARTS as COMMON_BODY_PARTS
from mura_hf.models import BODY_PARTS, MuraEnsembleConfig, MuraFuseNetConfig, MuraSpecializedConfig, find_body_part
from mura_hf.models.modeling_mura_metric_learning import MuraMetricLearningConfig
from mura_hf.phantoms import BODY_PARTS as PHANTOM_BODY_PARTS
from tests.checkpoints import make_checkpoint, make_model


def test_defaults():
    config = MuraConfig()
    assert config.id2label == {0: "normal", 1: "abnormal"}
    assert config.label2id == {"normal": 0, "abnormal": 1}
    assert config.num_labels == 2
    assert config.operating_points == {"paper": 0.5}
    assert config.find_threshold() == ("paper", 0.5)
    points = {"screening": 0.2, "other": 0.6}
    assert MuraConfig(operating_points=points).find_threshold() == ("screening", 0.2)
    assert MuraConfig(operating_points=points, default_operating_point="other").find_threshold() == ("other", 0.6)
    with pytest.raises(ValueError, match="unknown operating point 'paper'; this checkpoint has screening, other"):
        MuraConfig(operating_points=points).find_threshold("paper")


@pytest.mark.parametrize(
    ("fields", "threshold", "expected"),
    [  # bands of the probabilities .1, .3, .31, .5, .8 and .9
        ({"operating_points": {"paper": 0.5, "sensitivity_95": 0.3, "specificity_95": 0.8}}, 0.5, "lluuus"),
        ({"operating_points": {"paper": 0.5}}, 0.5, "llllss"),
        ({"operating_points": {"paper": 0.5, "specificity_95": 0.8}}, 0.5, "llllss"),
        ({"operating_points": {"paper": 0.5, "sensitivity_95": 0.9, "specificity_95": 0.8}}, 0.5, "llllss"),
        ({"operating_points": {"paper": 0.5, "sensitivity_95": 0.1, "specificity_95": 0.3}}, 0.5, "luuuss"),
        ({"bands": {"low": 0.3, "suspected": 0.8}}, 0.5, "lluuus"),
        ({"bands": {"low": 0.3, "suspected": 0.8}}, 0.1, "luuuus"),  # extended to the threshold
        ({"bands": {"low": 0.3, "suspected": 0.8}}, 0.9, "lluuuu"),
        ({"bands": {"low": 0.5, "suspected": 0.5}}, 0.5, "llllss"),
        ({"bands": {"low": 0, "suspected": 1}}, 0.5, "uuuuuu"),
    ],
)
def test_bands(fields, threshold, expected):
    config = MuraConfig(**fields)
    probabilities = (0.1, 0.3, 0.31, 0.5, 0.8, 0.9)
    assert "".join(config.find_band(p, threshold)[0] for p in probabilities) == expected


def test_all_rooms_list_the_same_body_parts():
    assert BODY_PARTS == PHANTOM_BODY_PARTS == COMMON_BODY_PARTS == tuple(sorted(BODY_PARTS))
    assert [find_body_part(name) for name in ("hand", "WRIST", "XR_ELBOW", " xr_Finger")] == [
        "hand", "wrist", "elbow", "finger"
    ]  # fmt: skip


def test_round_trip_under_the_new_and_the_former_name(tmp_path):
    config = MuraConfig(
        backbone="resnet18",
        temperature=1.7,
        operating_points={"paper": 0.5, "sensitivity_85": 0.2},
        default_operating_point="sensitivity_85",
        bands={"low": 0.1, "suspected": 0.4},
        positive_class_description="a fracture",
    )
    config.save_pretrained(tmp_path)
    again = MuraConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    assert (again.temperature, again.positive_class_description) == (1.7, "a fracture")
    assert (again.find_threshold()[1], again.bands) == (0.2, {"low": 0.1, "suspected": 0.4})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.pop("positive_class_description") == written["abnormal_means"] == "a fracture"
    (tmp_path / "config.json").write_text(json.dumps(written))  # as the first edition writes it
    assert MuraConfig.from_pretrained(tmp_path).positive_class_description == "a fracture"


@pytest.mark.parametrize(
    "labels", [("no fracture", "fracture"), ("negative", "positive"), ("healthy", "lesion"), ("0", "1"), ("A", "B")]
)
def test_own_labels(labels, tmp_path):
    id2label, label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    make_checkpoint(tmp_path / "start", make_model())
    for given in ({"id2label": id2label}, {"label2id": label2id}, {"id2label": id2label, "label2id": label2id}):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / "start", **given)
        model.save_pretrained(tmp_path / "start")
        for config in (MuraConfig(**given), model.config, AutoConfig.from_pretrained(tmp_path / "start")):
            assert (config.id2label, config.label2id, config.num_labels) == (id2label, label2id, 2)
    view, study = Image.effect_noise((64, 64), 50), StudyPredictor.from_pretrained(tmp_path / "start", device="cpu")
    scores = pipeline("image-classification", model=str(tmp_path / "start"))(view)
    for found in (scores, pipeline("mura-study-classification", model=str(tmp_path / "start"))(view)):
        abnormal = next(row["score"] for row in found if row["label"] == labels[1])
        assert abnormal == pytest.approx(study([view], heatmaps=False).probability, abs=1e-5)


@pytest.mark.parametrize(
    "labels", [("abnormal", "normal"), ("fracture", "no_fracture"), ("positive", "0"), ("a", "healthy")]
)
def test_labels_in_the_wrong_order_are_rejected_when_they_are_set(labels, tmp_path):
    id2label, label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    make_checkpoint(tmp_path, make_model())
    config = MuraConfig()
    fix = re.escape(f"Set id2label to {{0: {labels[1]!r}, 1: {labels[0]!r}}}") + ".* exchange 0 and 1 in your data"
    for call in (
        lambda: MuraConfig(id2label=id2label, label2id=label2id),
        lambda: MuraConfig(label2id=label2id),
        lambda: AutoConfig.from_pretrained(tmp_path, id2label=id2label),
        lambda: AutoModelForImageClassification.from_pretrained(tmp_path, id2label=id2label, label2id=label2id),
        lambda: setattr(config, "id2label", id2label),
    ):
        with pytest.raises(ValueError, match=fix):
            call()


MEMBER = {"model_type": "mura", "backbone": "resnet10t"}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (MuraConfig, {"temperature": 0}, "above 0"),
        (MuraConfig, {"study_intercept": float("inf")}, "finite"),
        (MuraConfig, {"study_slope": -1.0}, "above 0"),
        (MuraConfig, {"study_pooling": "sum"}, "must be one of mean"),
        (MuraConfig, {"operating_points": {"odd": 1.5}}, r"in \[0, 1\]"),
        (MuraConfig, {"operating_points": {}}, "at least one"),
        (MuraConfig, {"default_operating_point": "youden"}, "default_operating_point is 'youden'.* has paper"),
        (MuraConfig, {"bands": {"low": 0.1}}, 'needs "low" and "suspected"'),
        (MuraConfig, {"bands": {"low": 0.1, "suspected": 0.4}}, "around the default threshold 0.5"),
        (MuraConfig, {"backbone": "hf-hub:someone/something"}, "without a source"),
        (MuraConfig, {"backbone_kwargs": {"checkpoint_path": "/tmp/upload"}}, "may not hold checkpoint_path"),
        (MuraConfig, {"backbone_kwargs": {"pretrained_cfg_overlay": {}}}, "may not hold pretrained_cfg_overlay"),
        (MuraConfig, {"backbone_kwargs": {"features_only": True}}, "may not hold features_only"),
        (MuraConfig, {"num_labels": 1}, "two labels"),
        (MuraConfig, {"id2label": {0: "same", 1: "same"}}, "two different labels, 0 and 1"),
        (MuraConfig, {"id2label": {0: "A", 1: "B"}, "label2id": {"A": 1, "B": 0}}, "contradict each other"),
        (MuraConfig, {"image_size": "large"}, "image_size"),
        (MuraConfig, {"head_layers": [8, 0]}, "widths"),
        (MuraConfig, {"attention_size": 0}, "widths"),
        (MuraConfig, {"head_dropout": 1.0}, r"\[0, 1\)"),
        (MuraConfig, {"head_dropout": [0.5], "head_layers": [8]}, r"layer of the head \(2\)"),
        (MuraConfig, {"head_activation": "gelu"}, "relu, none"),
        (MuraConfig, {"head_init": "ones"}, "small, he, xavier, random"),
        (MuraConfig, {"finding_types": ["fracture"]}, "at least two different types"),
        (MuraConfig, {"regions": ["hand"]}, "at least two different regions"),
        (
            MuraConfig,
            {"test_time_flip": True, "study_pooling": "gated_attention", "head_layers": [8]},
            "leave out head_layers",
        ),
        (MuraMetricLearningConfig, {"embedding_size": 0}, "embedding_size is 0"),
        (MuraFuseNetConfig, {"test_time_flip": True}, "not for FuseNet"),
        (MuraFuseNetConfig, {"crop_map": "edges"}, "gradcam, channel_max"),
        (MuraFuseNetConfig, {"crop_threshold": 1.0}, "crop_threshold"),
        (MuraFuseNetConfig, {"crop_min_share": 0.0}, "crop_min_share"),
        (MuraFuseNetConfig, {"local_size": 0}, "local_size is 0"),
        (MuraEnsembleConfig, {"members": {"a": MEMBER}}, "at least two members"),
        (MuraEnsembleConfig, {"members": {"a": MEMBER, "b.c": MEMBER}}, "'b.c': use names without a dot"),
        (MuraEnsembleConfig, {"members": {"a": MEMBER, "values": MEMBER}}, "'values'"),
        (MuraEnsembleConfig, {"members": {"a": {"model_type": "vit"}, "b": MEMBER}}, "of type 'vit'; .*one of mura"),
        (MuraEnsembleConfig, {"member_weights": {"a": 0.5, "c": 0.5}}, "each of a, b a weight"),
        (MuraEnsembleConfig, {"member_weights": {"a": 0.5, "b": 0.6}}, "must sum to 1"),
        (MuraEnsembleConfig, {"member_weights": {"a": -0.5, "b": 1.5}}, "not negative"),
        (MuraEnsembleConfig, {"test_time_flip": True}, "in the configurations of the members"),
        (MuraSpecializedConfig, {}, "has no entries"),
        (MuraSpecializedConfig, {"members": {"knee": MEMBER}}, "has knee: its keys must be body parts"),
        (MuraSpecializedConfig, {"members": {"wrist": MEMBER}, "router": MEMBER}, "with body_part_head=True"),
    ],
)
def test_invalid_values_are_rejected(kind, fields, message):
    if kind is MuraEnsembleConfig and ({"member_weights", "test_time_flip"} & set(fields)):
        fields = {"members": {"a": MEMBER, "b": MEMBER}, **fields}
    with pytest.raises(Exception, match=message) as caught:
        kind(**fields)
    assert "image_size" in fields or isinstance(caught.value, ValueError) or "Strict" in type(caught.value).__name__
