import subprocess
import sys

import pytest
import transformers.utils.hub
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

import mura_hf
from mura_hf import MuraImageProcessor, StudyPredictor
from mura_hf.common import BUNDLED


def test_every_public_name_exists():
    for name in mura_hf.__all__:
        assert getattr(mura_hf, name) is not None, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mura_hf.nothing


def test_auto_classes_know_the_family(checkpoint):
    assert isinstance(AutoConfig.from_pretrained(checkpoint), mura_hf.MuraConfig)
    assert isinstance(AutoModel.from_pretrained(checkpoint), mura_hf.MuraModel)
    assert isinstance(AutoModelForImageClassification.from_pretrained(checkpoint), mura_hf.MuraForImageClassification)
    assert isinstance(AutoImageProcessor.from_pretrained(checkpoint), mura_hf.MuraImageProcessor)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_names_work_like_hub_names_in_any_folder(name, phantom_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find, asked = transformers.utils.hub.cached_files, set()

    def find_and_note(path_or_repo_id, *args, **options):
        asked.add(str(path_or_repo_id))
        return find(path_or_repo_id, *args, **options)

    monkeypatch.setattr(transformers.utils.hub, "cached_files", find_and_note)
    expected = StudyPredictor.from_pretrained(BUNDLED[name], device="cpu")
    kind, config = type(expected.model), expected.model.config
    assert AutoConfig.from_pretrained(name).to_diff_dict() == config.to_diff_dict()
    assert type(config).from_pretrained(pretrained_model_name_or_path=name).backbone == config.backbone
    for processors in (AutoImageProcessor, MuraImageProcessor):
        assert processors.from_pretrained(name).to_dict() == expected.processor.to_dict()
    for models in (AutoModelForImageClassification, kind):
        assert models.from_pretrained(name).num_parameters() == expected.model.num_parameters()
    for task in ("image-classification", "mura-study-classification"):
        by_name, by_folder = (pipeline(task, model=model, device="cpu") for model in (name, str(BUNDLED[name])))
        assert by_name(phantom_files) == by_folder(phantom_files)
    assert asked == {str(BUNDLED[name])}  # and not the Hub
    (tmp_path / name).mkdir()
    assert type(AutoConfig.from_pretrained(name)) is type(config)
    with pytest.raises(ValueError, match=rf"Unrecognized model in \./{name}"):
        AutoConfig.from_pretrained(f"./{name}")


def test_import_is_light():
    code = """
import sys, time, torch
from transformers import PreTrainedModel
start = time.perf_counter()
import mura_hf
print(time.perf_counter() - start)
print([name for name in ("gradio", "captum", "datasets", "timm") if name in sys.modules])
"""
    for _ in range(3):  # a busy machine may need several tries
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, loaded = done.stdout.splitlines()
        assert loaded == "[]"
        if float(seconds) <= 1.0:
            return
    pytest.fail(f"the import takes {seconds} s")
