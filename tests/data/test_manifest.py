import json
import stat
from pathlib import Path

import pytest

from mura_hf import DatasetError
from mura_hf.data import home_folder, make_manifest, manifest_source, read_manifest, write_manifest

KEY = b"0123456789abcdef"
MEMBERS = [("train", "a"), ("train", "b"), ("dev", "c"), ("train", "a")]
SCRIPT = Path(__file__).parents[2] / "scripts" / "check_splits.py"


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


def test_a_planted_leak_is_caught():
    clean = make_manifest(MEMBERS, "MURA", KEY)
    assert clean.shared_with(clean) == {}
    leaky = make_manifest([*MEMBERS, ("dev", "b")], "MURA", KEY)
    assert leaky.shared_with(leaky) == {("dev", "train"): 1}
    assert clean.shared_with(leaky) == {("train", "train"): 2, ("train", "dev"): 1, ("dev", "dev"): 1}


def test_the_same_number_in_other_data_is_another_patient():
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


def test_home_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.delenv("MURA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home_folder() == tmp_path / "mura_hf"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"algorithm": "none", "key_id": "", "splits": {}}'])
def test_what_is_no_manifest_is_refused(text, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DatasetError, match="not a split manifest"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_manifest(tmp_path / "nowhere.json")


def test_the_command(forks, tmp_path):
    for name, members in (("clean", MEMBERS), ("leaky", [*MEMBERS, ("dev", "b")]), ("other", [("valid", "x")])):
        write_manifest(make_manifest(members, "MURA", KEY), tmp_path / f"{name}.json")

    def run(*arguments):
        return forks.run(SCRIPT, *arguments, cwd=tmp_path)

    assert run("clean.json").returncode == 0
    leak = run("leaky.json")
    assert leak.returncode == 1
    assert "dev and train share 1 patients" in leak.stdout
    assert run("clean.json", "other.json").returncode == 0
    assert run("clean.json", "leaky.json", "--pairs", "dev:dev").returncode == 1
    assert run("leaky.json", "--pairs", "train:dev").returncode == 1
    assert run("clean.json", "nowhere.json").returncode == 1
    assert run("clean.json", "--pairs", "dev:test").returncode == 2
