import os

import pytest

from mura_hf.common import replace_file


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
