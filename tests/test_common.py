import os

import pytest

from mura_hf.common import did_you_mean, replace_file, require_extra


def test_a_file_is_replaced_whole(tmp_path):
    for content in (b"one", b"two"):
        replace_file(tmp_path / "metrics.jsonl", content)
        assert (tmp_path / "metrics.jsonl").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    replace_file(tmp_path / "metrics.jsonl", b"one")

    def fail(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(tmp_path / "metrics.jsonl", b"two")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one"


def test_suggests_similar_names():
    assert did_you_mean("learning_rat", ["epochs", "learning_rate"]) == '; did you mean "learning_rate"?'
    assert did_you_mean("xyz", ["epochs", "learning_rate"]) == ""


def test_a_missing_extra_is_named():
    require_extra("train", "json", "csv")
    with pytest.raises(ImportError, match=r'no_such_package is not installed.*pip install "mura_hf\[train\]"'):
        require_extra("train", "json", "no_such_package")
