"""What does not leave this machine."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mura_hf import CheckpointError
from mura_hf.common import BUNDLED
from mura_hf.evaluation.prediction_cache import make_golden
from mura_hf.hub import push
from mura_hf.hub import push_checks as golden
from mura_hf.hub.push_checks import LEFT_BEHIND, PLOTS, RECORDS, check_checkpoint, check_text
from mura_hf.models import BODY_PARTS
from mura_hf.retrieval import OOD_FILE
from tests.conftest import make_checkpoint, make_model


def test_a_whole_checkpoint_passes_with_all_that_it_may_hold(pushable):
    check_checkpoint(pushable)
    for name in LEFT_BEHIND:
        (pushable / name).write_text("anything: patient00001")  # never read, never sent
    (pushable / "modeling_mura.py").write_text("# of an export")
    (pushable / ".cache").mkdir()
    (pushable / ".cache" / "x.lock").touch()
    check_checkpoint(pushable)
    files = dict(push(pushable, "tester/x", dry_run=True, progress=False).files)
    assert not set(files) & (set(LEFT_BEHIND) - {"README.md", *PLOTS})
    assert files["modeling_mura.py"] > 1000  # the package's own
    assert not [name for name in files if name.startswith(".cache")]


@pytest.mark.parametrize(
    "name",
    [
        "film.png", "view.jpg", "heatmap.npy", "codes.npz", "split_manifest.json", "optimizer.pt", "pytorch_model.bin",
        "study.dcm", "predictions.csv", "model.safetensors.bak", "codes.safetensors", "notes.txt", "my_code.py",
        "images/film.png", "state-12/rng.pt",
    ],
)  # fmt: skip
def test_what_is_no_file_of_a_checkpoint_is_refused_by_name(pushable, name):
    (pushable / name).parent.mkdir(exist_ok=True)
    (pushable / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=re.escape(str(pushable / name.split("/")[0])) + ".*move it elsewhere"):
        check_checkpoint(pushable)


@pytest.mark.parametrize("plot", PLOTS)
def test_plots_are_drawn_anew_whatever_they_show(pushable, plot):
    before = dict(push(pushable, "tester/x", dry_run=True, progress=False).files)[plot]
    (pushable / plot).write_bytes(b"\x89PNG a patient")
    assert dict(push(pushable, "tester/x", dry_run=True, progress=False).files)[plot] == before > 1000


@pytest.mark.parametrize("name", ["model.safetensors", *RECORDS, "golden.safetensors"])
def test_what_is_missing_is_named_with_who_makes_it(pushable, name):
    (pushable / name).unlink()
    with pytest.raises(CheckpointError, match=rf"Missing: {re.escape(name)}") as raised:
        check_checkpoint(pushable)
    if name in ("golden.safetensors", "evaluation.json"):
        assert "scripts/evaluate.py" in str(raised.value)


@pytest.mark.parametrize("trace", ["XR_WRIST/patient00001/study1", "XR_ELBOW\\\\x", "patient11185", "study2_positive"])
@pytest.mark.parametrize("name", RECORDS)
def test_ids_of_mura_are_refused_with_file_and_line(pushable, name, trace):
    values = json.loads((pushable / name).read_text())
    text = json.dumps({"aaa": f"seen in {trace}", **values}, indent=1)
    (pushable / name).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}, line 2, names a patient or a study"):
        check_checkpoint(pushable)


def test_words_that_only_look_alike_pass(tmp_path):
    lines = ["58 of 66 patients", "XR_WRIST has 97", "study level", "patient_id", "studies_positive", "MURA-v1.1"]
    (tmp_path / "a.json").write_text("\n".join(lines))
    check_text(tmp_path, ["a.json"])
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="no text in UTF-8"):
        check_text(tmp_path, ["a.json"])


def test_ids_on_the_card_are_refused_too(pushable):
    with pytest.raises(CheckpointError, match=r"README\.md, line \d+, names a patient or a study \(patient00001\)"):
        push(pushable, "tester/patient00001", dry_run=True, progress=False)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_refused_with_the_tensor(pushable, kind):
    weights = load_file(pushable / "model.safetensors")
    name = sorted(name for name, value in weights.items() if value.is_floating_point())[3]
    weights[name] = weights[name].to(kind)
    save_file(weights, pushable / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} as (F16|BF16|F64).*single precision.*float32"):
        check_checkpoint(pushable)


def test_headers_of_tensors_are_looked_at(pushable):
    weights = load_file(pushable / "model.safetensors")
    for told in ({"made_from": "patient00042"}, {"patient00042": "x"}):
        save_file(weights, pushable / "model.safetensors", metadata={"format": "pt", **told})
        with pytest.raises(CheckpointError, match=r"patient00042\) in its header"):
            check_checkpoint(pushable)
    (pushable / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        check_checkpoint(pushable)


def _regolden(folder, **changes):
    save_file({**load_file(folder / "golden.safetensors"), **changes}, folder / "golden.safetensors")


def test_the_golden_picture_is_the_phantom_or_it_stays(pushable):
    picture = load_file(pushable / "golden.safetensors")["picture"]
    # Another machine may round otherwise.
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 2, picture.shape, dtype=np.uint8))
    _regolden(pushable, picture=torch.where(picture < 255, picture + noise, picture))
    check_checkpoint(pushable)
    others = {
        "mirrored": picture.flip(-1).contiguous(),
        "darker": picture // 2,
        "smaller": picture[::2, ::2].contiguous(),
        "float": picture / 255,
    }
    for other in others.values():
        _regolden(pushable, picture=other)
        with pytest.raises(CheckpointError, match="not the phantom that it should be; it may be a patient's"):
            check_checkpoint(pushable)
    _regolden(pushable, picture=picture, body_part=torch.tensor([BODY_PARTS.index("hand")]))
    with pytest.raises(CheckpointError, match="not the phantom"):
        check_checkpoint(pushable)
    _regolden(pushable, picture=picture, body_part=torch.tensor([99]))
    with pytest.raises(CheckpointError, match="names no body part"):
        check_checkpoint(pushable)


def test_the_golden_file_holds_nothing_else(pushable):
    _regolden(pushable, codes=torch.zeros(10, 4))
    with pytest.raises(CheckpointError, match="holds body_part, codes, logits, picture, not"):
        check_checkpoint(pushable)
    (pushable / "golden.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no whole safetensors file|cannot be read"):
        check_checkpoint(pushable)


def test_golden_logits_of_other_weights_stop_the_push(pushable):
    logits = load_file(pushable / "golden.safetensors")["logits"]
    _regolden(pushable, logits=logits + 0.01)
    with pytest.raises(CheckpointError, match=r"differ by 0\.01 .*scripts/evaluate.py again"):
        push(pushable, "tester/x", dry_run=True, progress=False)
    make_golden(pushable)
    push(pushable, "tester/x", dry_run=True, progress=False)
    torch.testing.assert_close(load_file(pushable / "golden.safetensors")["logits"], logits)


def test_a_model_by_body_part_has_a_golden_picture_of_a_part_that_it_knows(tmp_path):
    folder = make_checkpoint(tmp_path, make_model("mura_specialized"))
    make_golden(folder)
    tensors = load_file(folder / "golden.safetensors")
    assert BODY_PARTS[int(tensors["body_part"])] == "elbow"  # its first; it has no model for most others
    assert golden.check_golden(folder) < 1e-4
    golden.check_golden_picture(folder)


def test_codes_without_a_record_of_whose_they_are_stay(pushable):
    (pushable / "retrieval").mkdir()
    save_file({"codes": torch.zeros(2, 3)}, pushable / "retrieval" / "codes.safetensors")
    with pytest.raises(CheckpointError, match=r"retrieval holds no index \(index\.json\)"):
        check_checkpoint(pushable)


def test_what_was_learned_of_training_travels_with_its_own_weights_only(pushable):
    file = pushable / OOD_FILE
    shutil.copy(BUNDLED["mura-phantom"] / OOD_FILE, file)
    check_checkpoint(pushable)
    shutil.copy(BUNDLED["mura-film"] / OOD_FILE, file)
    with pytest.raises(CheckpointError, match="made for other weights"):
        check_checkpoint(pushable)


@pytest.mark.parametrize("shape", [(200, 16), (129,)])
def test_codes_in_a_record_are_refused(pushable, shape):
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "codes": np.zeros(shape).tolist()}))
    with pytest.raises(CheckpointError, match=r"training\.json holds a list of \d+ numbers"):
        check_checkpoint(pushable)


@pytest.mark.parametrize("as_key", [False, True])
def test_ids_that_are_written_in_other_letters_are_read(pushable, as_key):
    training = json.loads((pushable / "training.json").read_text())
    text = json.dumps({**training, **({"ID": 1} if as_key else {"x": ["ID"]})}).replace('"ID"', '"patient\\u00311185"')
    (pushable / "training.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"training\.json names a patient or a study \(patient11185\)"):
        check_checkpoint(pushable)


def test_code_is_the_packages_own(pushable):
    for name in ("modeling_mura.py", "modeling_mura_fusenet.py"):
        (pushable / name).write_text("# patient11185 XR_WRIST/")
    result = push(pushable, "tester/x", dry_run=True, progress=False)
    assert "modeling_mura_fusenet.py" not in dict(result.files)  # of another family
    assert dict(result.files)["modeling_mura.py"] > 1000


def test_no_folder_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        check_checkpoint(tmp_path / "nowhere")
