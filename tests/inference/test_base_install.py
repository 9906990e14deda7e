"""Predicting and explaining needs no extra of the package: they are hidden from a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image

from mura_hf import StudyPredictor

HIDDEN = (
    "accelerate", "datasets", "faiss", "gradio", "numba", "pandas", "playwright", "pyarrow", "reportlab", "scipy",
    "sklearn",
)  # fmt: skip
"""Packages of the extras. Others come with the base: Captum requires matplotlib, torch Jinja2, timm PyYAML."""

CODE = """
import json, sys
from importlib.machinery import PathFinder
hidden, files = json.loads(sys.argv[1]), sys.argv[2:]

class VisibleFinder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = VisibleFinder
import mura_hf.losses, mura_hf.metrics, mura_hf.retrieval
from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from transformers import pipeline
predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
study = predictor(files)
assert all(view.heatmap.shape == (view.height, view.width) for view in study.views)
assert predictor.measured_performance.get(study.operating_point, study.threshold, None) is not None
json.loads(study.to_json())
scores = pipeline("mura-study-classification", model=str(BUNDLED["mura-phantom"]), device="cpu")([files[:1]])
assert 0 < scores[0][0]["score"] < 1, scores
try:
    predictor.similar(study)
except ImportError as error:
    print(study.probability, error)
"""


def test_png_and_dicom_with_heatmaps(phantom_files, tmp_path):
    with Image.open(phantom_files[0]) as image:
        picture = np.asarray(image.convert("L"))
    (tmp_path / "view.dcm").write_bytes(encode_dicom(picture))
    run = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(HIDDEN), phantom_files[0], str(tmp_path / "view.dcm")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    probability = predictor([phantom_files[0], tmp_path / "view.dcm"], heatmaps=False).probability
    assert float(run.stdout.split()[0]) == pytest.approx(probability, abs=1e-6)
    assert 'pip install "mura_hf[train]"' in run.stdout
