import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

import mura_hf


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


def test_import_is_light():
    code = (
        "import sys, time, torch\n"
        "from transformers import PreTrainedModel\n"
        "start = time.perf_counter()\n"
        "import mura_hf\n"
        "print(time.perf_counter() - start)\n"
        "print([name for name in ('gradio', 'captum', 'datasets', 'timm') if name in sys.modules])\n"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, loaded = done.stdout.splitlines()
        assert loaded == "[]"
        times.append(float(seconds))
    assert min(times) <= 1.0
