"""What all rooms share: body parts, bundled checkpoints, durable writes, CSV files, suggestions, extras."""

import codecs
import csv
import difflib
import importlib.util
import io
import json
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
"""The seven body parts of MURA. `mura_hf.models` keeps a copy, because its files also work without this package."""

LOWER_LIMB = ("hip", "leg")
"""Regions of FracAtlas that no checkpoint for the upper limb is made for."""

_RESOURCES = Path(__file__).parent / "resources"

BUNDLED = {"mura-film": _RESOURCES / "film", "mura-phantom": _RESOURCES / "phantom"}
"""Folder of each checkpoint that comes with the package. These names work wherever a checkpoint is named; a local
folder with the same name can be given as "./name".
"""

DEFAULT = "mura-film"
"""The checkpoint that is loaded if none is named."""


def read_csv(content: bytes, limit: int | None = None) -> list[tuple[int, list[str]]]:
    """Reads a table as spreadsheets write it: UTF-8 or UTF-16, separated by commas, semicolons or tabs.

    Args:
        content: Content of the file.
        limit: Largest number of lines to return.

    Returns:
        Number and cells, without white space around them, of each line that is not empty.

    Raises:
        ValueError: If it is not such a table. The message continues a sentence that begins with the name of the file.
    """
    text = _read_text(content)
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
    filled = (row for row in rows if any(row[1]) and row[1][0] != "sep=")  # a line that Excel may write
    try:
        return list(islice(filled, limit))
    except csv.Error as error:
        raise ValueError(f"is not a CSV file ({error}); export it again") from error


def read_json_lines(content: bytes, limit: int | None = None) -> list[tuple[int, list[str]]]:
    """Reads a file with one JSON object per line as such a table, whose header are the keys; see `read_csv`."""
    records: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(islice(io.StringIO(_read_text(content)), limit), 1):
        try:
            record = json.loads(line) if line.strip() else {}
            records.append((number, dict(record.items())))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"has no JSON object in line {number} ({error}); correct the line") from error
    header = list(dict.fromkeys(key for _, record in records for key in record))
    values = [(number, [record.get(key) for key in header]) for number, record in records if record]
    rows = [(number, ["" if value is None else str(value).strip() for value in row]) for number, row in values]
    return [(0, header), *rows] if rows else []


def _read_text(content: bytes) -> str:
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"is neither UTF-8 nor UTF-16 text ({error}); save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("contains zero bytes, as UTF-16 text without its mark does; save it as UTF-8")
    return text


def read_training(folder: str | Path) -> dict[str, Any]:
    """Reads the `training.json` of a checkpoint; empty if it has none."""
    file = Path(folder, "training.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a file and syncs it to disk."""
    with (folder / name).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(file: Path, content: bytes) -> None:
    """Replaces a file atomically: the old content stays until the new one is synced to disk."""
    fresh = file.with_name(file.name + ".new")
    try:
        put_file(file.parent, fresh.name, content)
    except OSError:  # a full disk
        fresh.unlink(missing_ok=True)
        raise
    os.replace(fresh, file)
    sync_names(file.parent)


def sync_folder(folder: Path) -> None:
    """Syncs a folder and all files directly inside it to disk."""
    for file in folder.iterdir():
        sync_names(file)
    sync_names(folder)


def sync_names(folder: Path) -> None:
    """Syncs the entries of a folder, or the content of a file, to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What may precede the sign of a formula: white space, characters without width, and the separators of any locale.
_BEFORE_FORMULA = r"[\s\0-\x1f\x7f\u200b-\u200f\u2060\ufeff,;]"
_FORMULA = re.compile(rf"(?<!{_BEFORE_FORMULA})({_BEFORE_FORMULA}*+)([-=+@\uff0d\uff1d\uff0b\uff20])")
_SEPARATORS = frozenset(",;\t\n\v\f\r\x85\u2028\u2029")


def escape_formulas(text: str) -> str:
    """Puts an apostrophe before each sign that makes a spreadsheet calculate a text.

    The signs are = + - @ and their full-width forms, at the start of the text and behind a character that separates
    cells in some locale (comma, semicolon, tab, line break), also after white space.
    """

    def escape(found: re.Match[str]) -> str:
        begins_cell = not found.start() or not _SEPARATORS.isdisjoint(found[1])
        return f"{found[1]}'{found[2]}" if begins_cell else found[0]

    return _FORMULA.sub(escape, text)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Returns a CSV file with all cells quoted and formulas escaped (`escape_formulas`). None is an empty cell."""
    text = io.StringIO(newline="")
    cells = ([escape_formulas(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(cells)
    return text.getvalue()


HOME_VARIABLE = "MURA_HOME"


def home_folder() -> Path:
    """Returns the folder for caches and for the key of split manifests, and creates it if needed.

    It is `MURA_HOME` if that variable is set, else `mura_hf` in the cache folder of the user (`XDG_CACHE_HOME`
    or `~/.cache`).
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mura_hf"
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `'; did you mean "..."?'` with the most similar known name, or an empty string if none is similar."""
    similar = difflib.get_close_matches(str(name), list(known), n=1)
    return f'; did you mean "{similar[0]}"?' if similar else ""


def require_extra(extra: str, *modules: str) -> None:
    """Checks that the packages of an extra are installed. Optional rooms call this before they import them.

    Args:
        extra: Name of the extra in pyproject.toml, such as "train".
        modules: Top-level modules that must be importable.

    Raises:
        ImportError: If one is missing. The message names the extra and the command that installs it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f'{" and ".join(missing)} {verb} not installed; install the extra with: pip install "mura_hf[{extra}]"'
        )
