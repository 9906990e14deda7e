"""A worklist as an HTML table, to which `static/worklist.js` adds sorting, filtering and opening.

Names and sentences come from strangers and are escaped.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..inference import STRANGE_WARNING, WorklistRow, sort_rows
from ..models import BODY_PARTS
from .answer import chance_text

NO_PART = "not told"
BANDS = {
    "abnormal": ("▲", "Flagged"),
    "uncertain": ("◐", "Uncertain"),
    "normal": ("○", "Nothing flagged"),
    "strange": ("⊘", "Strange, not answered"),
    "failed": ("✕", "No answer"),
}
"""Sign and words of each, in the order of the column."""

_COLUMNS = (
    ("study", "Study"),
    ("part", "Body part"),
    ("chance", "P(abnormal)"),
    ("band", "Answer"),
    ("views", "Views"),
    ("notes", "Notes"),
)
_STRANGE = (
    "Strange studies do not look like the radiographs that the checkpoint was trained on, so its answer about them "
    "may mean nothing. It stands in the files, and opening such a study shows it on request."
)


def band_of(row: WorklistRow) -> str:
    """Key into `BANDS`."""
    if row.probability is None or row.band is None:
        return "failed"
    return "strange" if row.in_distribution is False else row.band


def worklist_html(
    rows: Iterable[WorklistRow], places: Mapping[str, int], common: Sequence[str] = (), version: str = ""
) -> str:
    """The table, most likely abnormal first.

    A row tells the page's script which study to open by a number, since a name may hold anything.

    Args:
        rows: In any order.
        places: Name of a study -> its number.
        common: Sentences that belong beside every answer; they are left out of the rows and stand above the table.
        version: Differs wherever the rows do, so that the script notices.
    """
    ordered = sort_rows(rows)
    if not ordered:
        return ""
    body = "".join(_row_html(row, rank, places[row.study], common) for rank, row in enumerate(ordered))
    heads = "".join(
        f'<th scope="col" role="columnheader" aria-sort="{"descending" if key == "chance" else "none"}">'
        f'<button type="button" data-sort="{key}">{words}<span class="arrow" aria-hidden="true"></span></button></th>'
        for key, words in _COLUMNS
    )
    bands = [(key, f"{sign} {words}") for key, (sign, words) in BANDS.items()]
    parts = [(part, part) for part in BODY_PARTS] + [(NO_PART, NO_PART)]
    told = [*common, *[_STRANGE] * any(band_of(row) == "strange" for row in ordered)]
    notices = "".join(f'<div class="notice" role="note">{escape(_clean(sentence))}</div>' for sentence in told)
    return (
        f'<mura-worklist data-version="{escape(version)}">{notices}<div class="filters">'
        f"{_select_html('part', 'Body part', 'all parts', parts)}"
        f"{_select_html('band', 'Answer', 'all answers', bands)}"
        '<output class="shown" aria-live="polite"></output></div>'
        '<div class="scroll" role="region" aria-label="Worklist" tabindex="0"><table role="table">'
        '<caption class="unseen">Studies, most likely abnormal first. The buttons of the header sort; arrows up and '
        "down go from one Open button to the next.</caption>"
        f'<thead role="rowgroup"><tr role="row">{heads}<th scope="col" role="columnheader"><span class="unseen">'
        "Open</span></th></tr></thead>"
        f'<tbody role="rowgroup">{body}</tbody></table></div></mura-worklist>'
    )


def summary_text(rows: Sequence[WorklistRow]) -> str:
    """How many studies got which answer, in words."""
    counts = Counter(map(band_of, rows))
    return ", ".join(
        f"{counts[key]:,} {words[0].lower()}{words[1:]}" for key, (_, words) in BANDS.items() if counts[key]
    )


def _row_html(row: WorklistRow, rank: int, place: int, common: Sequence[str]) -> str:
    band = band_of(row)
    sign, words = BANDS[band]
    if band == "uncertain":
        words += f" ({'flagged' if row.label == 'abnormal' else 'not flagged'})"
    name, part = escape(_clean(row.study)), row.body_part or NO_PART
    broken = name.replace("/", "/<wbr>")  # a long path may go on in the next line there
    answered = band not in ("strange", "failed") and row.probability is not None
    chance = f' data-chance="{row.probability:.6f}"' if answered else ""
    told = chance_text(row.probability) if answered and row.probability is not None else "–"
    notes = [_clean(note) for note in _notes(row, common)]
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
    cells = (
        f' data-head="Body part">{escape(part)}',
        f' class="chance" data-head="P(abnormal)">{told}',
        f' class="band {band}"><span aria-hidden="true">{sign}</span> {words}',
        f' class="views" data-head="Views">{row.n_views}',
        f' class="notes" data-count="{len(notes)}">{listed}',
        f' class="act"><button type="button" class="open" aria-label="Open {name}">Open</button>',
    )
    cells_html = "".join(f'<td role="cell"{cell}</td>' for cell in cells)
    return (
        f'<tr role="row" data-study="{place}" data-rank="{rank}" data-part="{escape(part)}" data-band="{band}"'
        f'{chance}><th scope="row" role="rowheader"><bdi>{broken}</bdi></th>{cells_html}</tr>'
    )


def _notes(row: WorklistRow, common: Sequence[str]) -> list[str]:
    error = [] if row.error is None else [row.error]
    warnings = [warning for warning in row.warnings if warning not in (*common, STRANGE_WARNING)]
    return [*error, *(f"Left out: {sentence}" for sentence in row.left_out), *warnings]


def _select_html(key: str, label: str, every: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in choices)
    return f'<label>{label} <select data-filter="{key}"><option value="">{every}</option>{options}</select></label>'


def _clean(text: str) -> str:
    """Text that can be sent: the name of a file may hold bytes that are no letters."""
    return text.encode("utf-8", "replace").decode("utf-8")
