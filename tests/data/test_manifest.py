import json
import stat

import check_splits as script
import pytest

from mura_hf import DatasetError
from mura_hf.common import home_folder
from mura_hf.data import make_manifest, manifest_source, read_manifest, write_manifest

KEY = b"0123456789abcdef"
MEMBERS = [("train", "a"), ("train", "b"), ("dev", "c"), ("train", "a")]


def test_no_patient_can_be_read_from_it(tmp_path):
    write_manifest(make_manifest([("train", "patient00042")], "MURA", KEY), tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    assert "patient00042" not in text
    assert KEY.decode() not in text
    assert text != json.dumps(make_manifest([("train", "patient00042")], "MURA", KEY[::-1]).splits, default=list)


def test_round_trip(tmp_path):
    manifest = make_manifest(MEMBERS, "MURA", KEY)
    write_manifest(manifest, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == manifest
    assert {split: len(patients) for split, patients in manifest.splits.items()} == {"train": 2, "dev": 1}


def test_a_shared_patient_is_found():
    clean = make_manifest(MEMBERS, "MURA", KEY)
    assert clean.shared_with(clean) == {}
    leaky = make_manifest([*MEMBERS, ("dev", "b")], "MURA", KEY)
    assert leaky.shared_with(leaky) == {("dev", "train"): 1}
    assert clean.shared_with(leaky) == {("train", "train"): 2, ("train", "dev"): 1, ("dev", "dev"): 1}


def test_the_same_id_in_another_dataset_is_another_patient():
    mine, theirs = (make_manifest(MEMBERS, source, KEY) for source in ("MURA", "FracAtlas"))
    assert mine.shared_with(theirs) == {}
    sources = [manifest_source({"name": "phantoms", "made_with": {"seed": seed}}) for seed in (1, 2)]
    assert make_manifest(MEMBERS, sources[0], KEY).shared_with(make_manifest(MEMBERS, sources[1], KEY)) == {}


def test_other_keys_cannot_be_compared():
    with pytest.raises(DatasetError, match="different keys"):
        make_manifest(MEMBERS, "MURA", KEY).shared_with(make_manifest(MEMBERS, "MURA", KEY[::-1]))


def test_the_machines_key_is_made_once_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path / "home"))
    first = make_manifest(MEMBERS, "MURA")
    assert first == make_manifest(MEMBERS, "MURA")
    file = home_folder() / "split.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in home_folder().iterdir()] == ["split.key"]
    file.write_bytes(b"short")
    with pytest.raises(DatasetError, match="damaged"):
        make_manifest(MEMBERS, "MURA")


def test_home_folder_without_its_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("MURA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home_folder() == tmp_path / "mura_hf"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"algorithm": "none", "key_id": "", "splits": {}}'])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DatasetError, match="not a split manifest"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_manifest(tmp_path / "nowhere.json")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, members in (("clean", MEMBERS), ("leaky", [*MEMBERS, ("dev", "b")]), ("other", [("valid", "x")])):
        write_manifest(make_manifest(members, "MURA", KEY), tmp_path / f"{name}.json")
    script.main(["clean.json"])
    script.main(["clean.json", "other.json"])
    for arguments, code in (
        (["leaky.json"], 1),
        (["clean.json", "leaky.json", "--pairs", "dev:dev"], 1),
        (["leaky.json", "--pairs", "train:dev"], 1),
        (["clean.json", "--pairs", "dev:test"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            script.main(arguments)
        assert ended.value.code == code
    assert "dev and train share 1 patients" in capsys.readouterr().out
