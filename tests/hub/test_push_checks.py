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
from mura_hf.evaluation.evaluation import write_golden_check
from mura_hf.hub import push
from mura_hf.hub.push_checks import (
    NOT_PUSHED,
    PLOTS,
    RECORDS,
    check_checkpoint,
    check_golden,
    check_golden_picture,
    check_text,
)
from mura_hf.models import BODY_PARTS
from mura_hf.retrieval import OOD_FILE
from tests.checkpoints import make_checkpoint, make_model
from tests.hub.conftest import assert_refused, changed


def dry_run(folder, name="tester/x"):
    return dict(push(folder, name, dry_run=True).files)


def test_a_complete_checkpoint_passes_with_everything_that_it_may_hold(pushable):
    plots = {name: size for name, size in dry_run(pushable).items() if name in PLOTS}
    for name in NOT_PUSHED:
        (pushable / name).write_text("anything: patient00001")  # never read, never sent
    for name in ("modeling_mura.py", "modeling_mura_fusenet.py"):  # as in an export
        (pushable / name).write_text("# patient11185 XR_WRIST/")
    (pushable / ".cache").mkdir()
    (pushable / ".cache" / "x.lock").touch()
    check_checkpoint(pushable)
    files = dry_run(pushable)
    assert not set(files) & (set(NOT_PUSHED) - {"README.md", *PLOTS})
    assert {name: files[name] for name in PLOTS} == plots  # drawn again, whatever they showed
    assert files["modeling_mura.py"] > 1000  # the package's own
    assert "modeling_mura_fusenet.py" not in files  # of another family
    assert not [name for name in files if name.startswith(".cache")]


def test_a_file_that_does_not_belong_is_named(pushable):
    for name in (
        "film.png", "heatmap.npy", "split_manifest.json", "optimizer.pt", "pytorch_model.bin", "study.dcm",
        "model.safetensors.bak", "codes.safetensors", "my_code.py", "images/film.png", "state-12/rng.pt",
    ):  # fmt: skip
        first = pushable / name.split("/")[0]
        (pushable / name).parent.mkdir(exist_ok=True)
        (pushable / name).write_bytes(b"x")
        with pytest.raises(CheckpointError, match=re.escape(str(first)) + ".*move it elsewhere"):
            check_checkpoint(pushable)
        shutil.rmtree(first) if first.is_dir() else first.unlink()


def test_a_missing_file_is_named_with_what_makes_it(pushable, tmp_path):
    for name in ("model.safetensors", *RECORDS, "golden.safetensors"):
        maker = ": run scripts/evaluate.py" if name in ("golden.safetensors", "evaluation.json") else ""
        with changed(pushable / name):
            assert_refused(pushable, rf"Missing: {re.escape(name)}{maker}")
    assert_refused(tmp_path / "nowhere", "is not a folder")


@pytest.mark.parametrize("trace", ["XR_WRIST/patient00001/study1", "XR_ELBOW\\\\x", "patient11185", "study2_positive"])
def test_ids_of_mura_are_refused_with_file_and_line(pushable, trace):
    for name in RECORDS:
        record = {"aaa": f"seen in {trace}", **json.loads((pushable / name).read_text())}
        with changed(pushable / name, json.dumps(record, indent=1).encode()):
            assert_refused(pushable, rf"{re.escape(name)}, line 2, names a patient or a study")


def test_similar_words_pass_and_ids_on_the_card_do_not(pushable, tmp_path):
    lines = ["58 of 66 patients", "XR_WRIST has 97", "study level", "patient_id", "studies_positive", "MURA-v1.1"]
    (tmp_path / "a.json").write_text("\n".join(lines))
    check_text(tmp_path, ["a.json"])
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is not UTF-8 text"):
        check_text(tmp_path, ["a.json"])
    with pytest.raises(CheckpointError, match=r"README\.md, line \d+, names a patient or a study \(patient00001\)"):
        dry_run(pushable, "tester/patient00001")


def test_escaped_ids_and_codes_in_a_record_are_refused(pushable):
    training = json.loads((pushable / "training.json").read_text())
    for more in ({"ID": 1}, {"x": ["ID"]}):
        text = json.dumps({**training, **more}).replace('"ID"', '"patient\\u00311185"')
        (pushable / "training.json").write_text(text)
        assert_refused(pushable, r"training\.json names a patient or a study \(patient11185\)")
    for codes in ([[0.0] * 16] * 200, [0.0] * 129):
        (pushable / "training.json").write_text(json.dumps({**training, "codes": codes}))
        assert_refused(pushable, r"training\.json holds a list of \d+ numbers")


def test_weights_are_in_single_precision_and_their_header_names_nobody(pushable):
    file = pushable / "model.safetensors"
    weights = load_file(file)
    name = sorted(name for name, value in weights.items() if value.is_floating_point())[3]
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        save_file({**weights, name: weights[name].to(kind)}, file, metadata={"format": "pt"})
        assert_refused(pushable, rf"{re.escape(name)} as (F16|BF16|F64).*single precision.*float32")
    for metadata in ({"made_from": "patient00042"}, {"patient00042": "x"}):
        save_file(weights, file, metadata={"format": "pt", **metadata})
        with pytest.raises(CheckpointError, match=r"patient00042\) in its header"):
            check_checkpoint(pushable)
    file.write_bytes(b"no tensors")
    assert_refused(pushable, "not a complete safetensors file")


def change_golden(folder, **changes):
    save_file({**load_file(folder / "golden.safetensors"), **changes}, folder / "golden.safetensors")


def test_the_golden_picture_is_the_phantom(pushable):
    picture = load_file(pushable / "golden.safetensors")["picture"]
    # Another machine may round otherwise.
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 2, picture.shape, dtype=np.uint8))
    change_golden(pushable, picture=torch.where(picture < 255, picture + noise, picture))
    check_golden_picture(pushable)
    mirrored, smaller = picture.flip(-1).contiguous(), picture[::2, ::2].contiguous()
    for changes, message in (
        *(({"picture": other}, "not the expected phantom; it may be a patient's")
          for other in (mirrored, picture // 2, smaller, picture / 255)),
        ({"picture": picture, "body_part": torch.tensor([BODY_PARTS.index("hand")])}, "not the expected phantom"),
        ({"body_part": torch.tensor([99])}, "names no body part"),
        ({"codes": torch.zeros(10, 4)}, "holds body_part, codes, logits, picture, not"),
    ):  # fmt: skip
        change_golden(pushable, **changes)
        assert_refused(pushable, message)
    (pushable / "golden.safetensors").write_bytes(b"")
    assert_refused(pushable, r"not a complete safetensors file|cannot be read")


def test_golden_logits_of_other_weights_stop_the_push(pushable):
    logits = load_file(pushable / "golden.safetensors")["logits"]
    change_golden(pushable, logits=logits + 0.01)
    with pytest.raises(CheckpointError, match=r"differ by 0\.01 .*scripts/evaluate.py again"):
        dry_run(pushable)
    write_golden_check(pushable)
    assert check_golden(pushable) < 1e-4
    torch.testing.assert_close(load_file(pushable / "golden.safetensors")["logits"], logits)


def test_a_model_by_body_part_has_a_golden_picture_of_a_part_that_it_knows(tmp_path):
    folder = make_checkpoint(tmp_path, make_model("mura_specialized"))  # of elbow and wrist
    write_golden_check(folder)
    assert BODY_PARTS[int(load_file(folder / "golden.safetensors")["body_part"])] == "elbow"
    assert check_golden(folder) < 1e-4
    check_golden_picture(folder)


def test_optional_files_belong_to_the_weights(pushable):
    detector = pushable / OOD_FILE
    shutil.copy(BUNDLED["mura-phantom"] / OOD_FILE, detector)
    check_checkpoint(pushable)
    shutil.copy(BUNDLED["mura-film"] / OOD_FILE, detector)
    assert_refused(pushable, "other weights")
    detector.unlink()
    (pushable / "retrieval").mkdir()
    save_file({"codes": torch.zeros(2, 3)}, pushable / "retrieval" / "codes.safetensors")
    assert_refused(pushable, r"index\.json")
