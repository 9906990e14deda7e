"""The card of a checkpoint, as the page may show it."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from ..bundled import BUNDLED
from ..errors import CheckpointError
from ..inference.files import find_file
from ..inference.sources import Source, find_source

MOST_LETTERS = 30_000
"""Of a card; the page shows no more."""

_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n.*?\n---\s*(?:\n|\Z)", re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\((\w[\w.-]*\.png)\)")
_NO_CARD = "This checkpoint came without a card, so what it was trained on, and how well it reads, is not known here."
_CUT = "\n\n[Cut here: the card goes on for {:,} letters.]"


@dataclass(frozen=True)
class Card:
    """A card without its front matter.

    Attributes:
        text: What it says.
        trusted: Whether it comes with the package, so that it may be shown as Markdown with its pictures. Anybody
            else's is text: a picture in it would tell its maker who looks.
    """

    text: str
    trusted: bool


def find_card(name: str, revision: str) -> Card:
    """The card of a checkpoint that is loaded; a sentence where it has none.

    Args:
        name: As `Checkpoints.get` takes it; the default one where empty.
        revision: Likewise.
    """
    try:
        source = find_source(name.strip() or None, revision.strip() or None)
    except CheckpointError as error:
        return Card(f"The card cannot be had. {error}", trusted=False)
    file = find_file(source, "README.md")
    if file is None:
        return Card(_NO_CARD, trusted=False)
    return read_card(file, trusted=_is_bundled(source))


def read_card(file: Path, *, trusted: bool) -> Card:
    """Reads a card; a long one is cut, and says so.

    Args:
        file: README.md, beside its pictures.
        trusted: As in `Card`.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(10 * MOST_LETTERS)
    except OSError:
        return Card(_NO_CARD, trusted=False)
    text = _FRONT_MATTER.sub("", text).strip()
    if len(text) > MOST_LETTERS:
        text = text[:MOST_LETTERS] + _CUT.format(len(text) - MOST_LETTERS)
    if trusted:
        text = _PICTURE.sub(lambda found: _picture(found[1], file.parent / found[2]), text)
    return Card(text or _NO_CARD, trusted)


def _is_bundled(source: Source) -> bool:
    return Path(source.location).resolve() in [folder.resolve() for folder in BUNDLED.values()]


def _picture(words: str, file: Path) -> str:
    """A picture as part of the text; its words alone where it is not there, as in a Space, which brings no plots."""
    if not file.is_file():
        return f"*{words}: not here; see the card on the Hub.*"
    return f"![{words}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"
