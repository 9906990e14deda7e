import csv
import io
import os
import time

import pytest

from mura_hf.common import csv_text, did_you_mean, escape_formulas, read_csv, replace_file, require_extra


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


@pytest.mark.parametrize("first", ["", "sep=;\n", "\n", ";;\n"])
def test_the_limit_of_a_table_counts_lines_with_content(first):
    (number, row), *others = read_csv(f"{first}file;label\na.png;1\n".encode(), limit=1)
    assert (row, others) == (["file", "label"], [])
    assert number == 1 + first.count("\n")


def test_suggests_similar_names():
    assert did_you_mean("learning_rat", ["epochs", "learning_rate"]) == '; did you mean "learning_rate"?'
    assert did_you_mean("xyz", ["epochs", "learning_rate"]) == ""


def test_a_missing_extra_is_named():
    require_extra("train", "json", "csv")
    with pytest.raises(ImportError, match=r'no_such_package is not installed.*pip install "mura_hf\[train\]"'):
        require_extra("train", "json", "no_such_package")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("  +1", "  '+1"), ("\r\n=1", "\r\n'=1"), ("\t-1", "\t'-1"),
        ("\uff1d1", "'\uff1d1"), ("\u3000\uff0b1", "\u3000'\uff0b1"), ("\ufeff\0=1", "\ufeff\0'=1"),
        ("a;=1", "a;'=1"), ("a, \t@x", "a, \t'@x"), ("a\n\n -1;\uff201", "a\n\n '-1;'\uff201"), ('";=1', "\";'=1"),
        ("ward 2 - left", "ward 2 - left"), ("a=b, c-d", "a=b, c-d"), ("XR_HAND/study1", "XR_HAND/study1"), ("", ""),
    ],
)  # fmt: skip
def test_formulas_are_escaped_and_survive_the_separators_of_other_locales(text, escaped):
    assert escape_formulas(text) == escaped
    file = csv_text([["a", text, None, 1], [text, "b", -0.5, True]])
    assert list(csv.reader(io.StringIO(file, newline=""))) == [["a", escaped, "", "1"], [escaped, "b", "-0.5", "True"]]
    texts = escaped.replace('"', '""')
    assert file == f'"a","{texts}","","1"\n"{texts}","b","-0.5","True"\n'
    # Read as in a country where a semicolon separates cells, no cell of a text is a formula either.
    for row in csv.reader(io.StringIO(csv_text([["a", text]]), newline=""), delimiter=";"):
        for cell in row:
            assert cell.strip().strip("\0\ufeff\u3000")[:1] not in tuple("=+-@\uff1d\uff0b\uff0d\uff20"), cell


def test_long_names_are_escaped_in_linear_time():
    start = time.perf_counter()
    assert escape_formulas("\n" * 500_000 + "a") == "\n" * 500_000 + "a"
    assert time.perf_counter() - start < 2
