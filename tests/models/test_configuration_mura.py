import pytest

from mura_hf import MuraConfig
from mura_hf.common import BODY_PARTS as DATA_BODY_PARTS
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import BODY_PARTS as PHANTOM_BODY_PARTS


def test_defaults_are_those_of_the_field():
    config = MuraConfig()
    assert config.id2label == {0: "normal", 1: "abnormal"}
    assert config.label2id == {"normal": 0, "abnormal": 1}
    assert config.num_labels == 2
    assert config.operating_points == {"paper": 0.5}


def test_all_rooms_name_the_same_parts_in_the_same_order():
    assert BODY_PARTS == PHANTOM_BODY_PARTS == DATA_BODY_PARTS == tuple(sorted(BODY_PARTS))


def test_survives_a_round_trip(tmp_path):
    config = MuraConfig(backbone="resnet18", temperature=1.7, operating_points={"paper": 0.5, "sensitivity_95": 0.2})
    config.save_pretrained(tmp_path)
    again = MuraConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    assert again.temperature == 1.7


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 0, "above 0"),
        ("temperature", float("nan"), "finite"),
        ("study_intercept", float("inf"), "finite"),
        ("backbone_kwargs", {"checkpoint_path": "/tmp/upload"}, "may not hold checkpoint_path"),
        ("backbone_kwargs", {"pretrained_cfg_overlay": {"file": "x"}}, "may not hold pretrained_cfg_overlay"),
        ("backbone_kwargs", {"features_only": True}, "may not hold features_only"),
        ("study_slope", -1.0, "above 0"),
        ("study_pooling", "sum", "must be one of mean"),
        ("operating_points", {"odd": 1.5}, r"in \[0, 1\]"),
        ("operating_points", {}, "at least one"),
        ("backbone", "hf-hub:someone/something", "without a source"),
        ("num_labels", 1, "two labels"),
        ("id2label", {0: "abnormal", 1: "normal"}, "label 0 must be 'normal'"),
    ],
)
def test_refuses_what_cannot_be(field, value, message):
    with pytest.raises(ValueError, match=message):
        MuraConfig(**{field: value})


def test_refuses_a_wrong_type():
    with pytest.raises(Exception, match="image_size"):
        MuraConfig(image_size="large")
