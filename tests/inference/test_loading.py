"""Finding and loading checkpoints, their golden check and the measured performance of their operating points."""

import http.server
import json
import resource
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from mura_hf import CheckpointError, MuraImageProcessor, StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.inference import loading
from mura_hf.inference.loading import (
    LOCAL_CHECKPOINTS,
    PUBLIC_CHECKPOINTS,
    UNREADABLE,
    Source,
    check_sizes,
    find_file,
    find_source,
    golden_warning,
)
from mura_hf.models import BODY_PARTS, CLASSIFIERS, GOLDEN_FILE, read_golden, write_golden
from tests.checkpoints import make_checkpoint, make_model
from tests.inference.external import save_external, save_timm


@pytest.fixture
def hub(monkeypatch):
    """A server with the part of the Hub's protocol that a request for one file needs."""
    answers = {
        "/nobody/nothing/": (404, "RepoNotFound"),
        "/user/model/resolve/later": (404, "RevisionNotFound"),
        "/user/empty/": (404, "EntryNotFound"),
        "/user/gated/": (403, "GatedRepo"),
        "/user/broken/": (500, None),
        "/user/model/": (200, None),
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            status, code = next(answer for start, answer in answers.items() if self.path.startswith(start))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", "abc")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield server
    server.shutdown()
    server.server_close()


def test_hub_models_are_named_with_their_revision(hub):
    assert find_source("user/model").name == "user/model"
    found = find_source("user/model", "v2")
    assert (found.location, found.revision, found.name) == ("user/model", "v2", "user/model@v2")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("nobody/nothing", None, "no such model that you may read"),
        ("user/model", "later", "no revision 'later'"),
        ("user/empty", None, "has no config.json"),
        ("user/gated", None, "is gated: accept its terms"),
        ("user/broken", None, "the Hub answers"),
    ],
)
def test_errors_of_the_hub_become_sentences(name, revision, message, hub):
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=message):
        find_source(name, revision)
    assert time.perf_counter() - start < 5  # a retry would take longer


def test_a_hub_that_cannot_be_reached_or_must_not_be_asked(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
        find_source("user/model")
    assert time.perf_counter() - start < 5
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        find_source("user/model")


@pytest.mark.parametrize("name", ["mura-nothing", "a/b/c", "./nowhere", "/nowhere", "user/..", "https://example.org"])
def test_impossible_names_are_refused_at_once(name):
    with pytest.raises(CheckpointError, match="neither a folder on this machine nor a Hub name"):
        find_source(name)


def test_bundled_checkpoints_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mura-phantom").mkdir()
    for name, folder in BUNDLED.items():
        assert find_source(name) == find_source(folder)
        assert find_source(name).name == f"bundled: {name}"
    for folder in ("./mura-phantom", Path("mura-phantom")):
        assert find_source(folder).name == "folder: mura-phantom"
    assert find_source(tmp_path).name == f"folder: {tmp_path.name}"  # no path
    for folder in ("mura-phantom", tmp_path):
        with pytest.raises(CheckpointError, match="has no revision 'main'"):
            find_source(folder, "main")


class TestLimits:
    """Files of strangers, which ask for too much."""

    @pytest.mark.parametrize(
        ("kind", "file", "fields"),
        [
            ("vit", "config.json", {"num_hidden_layers": 2_000_000}),
            ("vit", "config.json", {"num_hidden_layers": 90_000}),  # within the numbers, but not to be built
            ("vit", "config.json", {"num_hidden_layers": 10**400}),
            ("vit", "config.json", {"hidden_size": 65536, "intermediate_size": 90_000}),
            ("vit", "config.json", {"num_labels": 10**9, "id2label": None}),
            ("swin", "config.json", {"window_size": 4000, "image_size": 1000}),
            ("vit", "preprocessor_config.json", {"size": {"height": 8000, "width": 8000}}),
            ("resnet", "preprocessor_config.json", {"size": {"shortest_edge": 5000}}),
            ("resnet", "preprocessor_config.json", {"crop_pct": 1e-3}),
            ("timm", "config.json", {"model_args": {"layers": [9000, 9000, 1, 1]}}),
            ("timm", "config.json", {"pretrained_cfg": {"input_size": [3, 5000, 5000]}}),
            ("mura", "preprocessor_config.json", {"size": {"height": 5000, "width": 64}}),
            ("mura", "config.json", {"image_size": 5000}),
            ("mura", "config.json", {"backbone_kwargs": {"channels": [90_000, 90_000, 8, 8]}}),
            ("mura", "config.json", {"temperature": float("nan")}),
        ],
    )
    def test_nothing_large_is_built(self, kind, file, fields, tmp_path):
        if kind == "mura":
            make_checkpoint(tmp_path)
        elif kind == "timm":
            save_timm(tmp_path, "resnet10t", channels=[8, 16, 24, 32])
        else:
            save_external(tmp_path, kind)
        values = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps({**values, **fields}))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(CheckpointError, match=r"is allowed here|is the limit here"):
            StudyPredictor.from_pretrained(tmp_path, device="cpu", limits=PUBLIC_CHECKPOINTS)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
        assert time.process_time() - start < 30

    def test_large_files_are_not_read(self, tmp_path):
        make_checkpoint(tmp_path)
        (tmp_path / "training.json").write_text(" " * (33 << 20))
        with pytest.raises(CheckpointError, match="has 35 MB, and at most 34 MB are allowed"):
            StudyPredictor.from_pretrained(tmp_path)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize(("side", "allowed"), [(256, True), (1024, False)])
    def test_many_tokens_are_refused_before_they_meet(self, attention, side, allowed, tmp_path):
        """A file of 2 MB took more than 9 GB: 16,384 tokens in four heads."""
        save_external(tmp_path, "vit", image_size=side, patch_size=8)
        for file, fields in (
            ("config.json", {"attn_implementation": attention}),
            ("preprocessor_config.json", {"size": {"height": side, "width": side}}),
        ):
            values = json.loads((tmp_path / file).read_text())
            (tmp_path / file).write_text(json.dumps({**values, **fields}))
        with nullcontext() if allowed else pytest.raises(CheckpointError, match="compares 16,385 parts of an image"):
            StudyPredictor.from_pretrained(tmp_path, device="cpu", limits=PUBLIC_CHECKPOINTS)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"model.safetensors": 3 << 30, "model-2.safetensors": 1 << 30}, r"weights .* 4\.3 GB, .* most 1\.1 GB"),
            ({"model.safetensors": 9, "retrieval/rows.parquet": 2 << 30}, r"weights .* 2\.1 GB, .* most 1\.1 GB"),
            ({"model.safetensors": 9, "preprocessor_config.json": 5 << 20}, "preprocessor_config.json .* has 5 MB"),
            ({"model.safetensors": 9, "README.md": 5 << 20}, "README.md .* has 5 MB"),
            ({"model.safetensors": None}, "does not say how large model.safetensors of user/model@v1 is"),
            ({"model.safetensors": 9, "config.json": None}, "does not say how large config.json"),
        ],
    )
    def test_sizes_on_the_hub_are_checked_before_files_are_fetched(self, files, message, hub, monkeypatch):
        class Api:
            def model_info(self, name, **options):
                assert (name, options["revision"]) == ("user/model", "v1")
                return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=files[file]) for file in files])

        monkeypatch.setattr(loading, "HfApi", Api)
        with pytest.raises(CheckpointError, match=message):
            StudyPredictor.from_pretrained("user/model", "v1", limits=PUBLIC_CHECKPOINTS)

    def test_a_hub_that_fails_is_no_way_around_the_limits(self, hub, monkeypatch):
        """The server knows no request for sizes, and answers with an error."""
        source = Source("user/model", None, "user/model")
        check_sizes(source, LOCAL_CHECKPOINTS)
        with pytest.raises(CheckpointError, match="user/model cannot be downloaded: the Hub answers"):
            StudyPredictor.from_pretrained("user/model", limits=PUBLIC_CHECKPOINTS)
        hub.shutdown()
        hub.server_close()
        check_sizes(source, PUBLIC_CHECKPOINTS)  # the cache is left
        with monkeypatch.context() as patch:
            patch.setattr(HfApi, "model_info", Mock(side_effect=httpx.ReadTimeout("too many files")))
            with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
                check_sizes(source, PUBLIC_CHECKPOINTS)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        check_sizes(source, PUBLIC_CHECKPOINTS)


PICTURE = np.random.default_rng(0).integers(0, 255, (90, 70), np.uint8)


@pytest.fixture
def golden_folder(tmp_path):
    return _write(make_checkpoint(tmp_path / "checkpoint", make_model()))


def _write(folder, part="wrist", off=0.0):
    """Adds a golden check whose logits are off by some amount."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, PICTURE, BODY_PARTS.index(part))
    tensors = load_file(folder / GOLDEN_FILE)
    save_file({**tensors, "logits": tensors["logits"] + torch.tensor([[0.0, off]])}, folder / GOLDEN_FILE)
    return folder


def _golden_warnings(predictor):
    return [warning for warning in predictor([PICTURE], heatmaps=False).warnings if "golden" in warning]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_different_logits_are_warned_about_in_every_prediction(golden_folder, dtype):
    assert _golden_warnings(StudyPredictor.from_pretrained(golden_folder, device="cpu", dtype=dtype)) == []
    _write(golden_folder, off=0.25)
    predictor = StudyPredictor.from_pretrained(golden_folder, device="cpu", dtype=dtype)
    for _ in range(2):
        (warning,) = _golden_warnings(predictor)
        assert "Compare the versions" in warning
        assert dtype == torch.bfloat16 or "differs by 0.25" in warning


def test_the_tolerance():
    for difference, warns in ((0.0, False), (9e-4, False), (1.1e-3, True), (float("nan"), True)):
        assert (golden_warning(difference, torch.float32) is not None) is warns


def test_the_golden_check_costs_no_further_forward_pass(golden_folder, monkeypatch):
    kind = CLASSIFIERS["mura"]
    seen, classify = [], kind.classify_views

    def count(model, pixel_values, **given):
        seen.append(tuple(pixel_values.shape))
        return classify(model, pixel_values, **given)

    monkeypatch.setattr(kind, "classify_views", count)
    StudyPredictor.from_pretrained(golden_folder, device="cpu")
    assert seen == [(1, 3, 64, 64)]


def test_the_golden_check_compares_the_body_part_of_its_picture(tmp_path):
    folder = make_checkpoint(tmp_path / "parts", make_model("mura_specialized"))
    _write(folder, part="wrist")
    assert _golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu")) == []
    _write(folder, part="elbow", off=0.5)
    assert len(_golden_warnings(StudyPredictor.from_pretrained(folder, device="cpu"))) == 1


def test_an_unreadable_golden_check_is_a_warning(golden_folder):
    file = golden_folder / GOLDEN_FILE
    tensors = load_file(file)
    other = {"picture": torch.zeros(3, 3), "body_part": torch.zeros(1), "logits": torch.zeros(1, 2)}
    for damaged in (other, {**tensors, "body_part": torch.tensor([7])}, None):
        if damaged is None:
            file.write_bytes(file.read_bytes()[:-100])
        else:
            save_file(damaged, file)
        assert _golden_warnings(StudyPredictor.from_pretrained(golden_folder, device="cpu")) == [UNREADABLE]


def test_a_golden_check_on_the_hub_is_downloaded_if_there_is_one(golden_folder, monkeypatch):
    source, asked = Source("user/model", "later", "user/model@later"), []

    def download(*names, revision, **options):
        asked.append((names, revision))
        if len(asked) > 1:
            raise LocalEntryNotFoundError("not there, or no network")
        return str(golden_folder / GOLDEN_FILE)

    monkeypatch.setattr(loading, "hf_hub_download", download)
    np.testing.assert_array_equal(read_golden(find_file(source, GOLDEN_FILE)).picture, PICTURE)
    assert asked == [(("user/model", GOLDEN_FILE), "later")]
    assert find_file(source, GOLDEN_FILE) is None
