"""HTML of a worklist: the progress and the table, which `static/worklist.js` sorts and filters.

Names and sentences come from strangers and are escaped.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..common import BODY_PARTS
from ..inference import OOD_WARNING, WorklistRow, sort_rows
from .result import probability_text

UNKNOWN_PART = "unknown"
BANDS = {
    "abnormal": ("▲", "Flagged"),
    "uncertain": ("◐", "Uncertain"),
    "normal": ("○", "Nothing flagged"),
    "unusual": ("⊘", "Unusual, not answered"),
    "failed": ("✕", "No answer"),
}
"""Sign and text of each band, in the order in which the column sorts."""

_COLUMNS = (
    ("study", "Study"),
    ("part", "Body part"),
    ("chance", "P(abnormal)"),
    ("band", "Answer"),
    ("views", "Views"),
    ("notes", "Notes"),
)
_UNUSUAL = (
    "Unusual studies do not look like the radiographs that the checkpoint was trained on, so its answer may be "
    "meaningless. The downloads contain the answer, and you can see it after you open the study."
)


def band_of(row: WorklistRow) -> str:
    """Key into `BANDS`."""
    if row.probability is None or row.band is None:
        return "failed"
    return "unusual" if row.in_distribution is False else row.band


def worklist_html(
    rows: Iterable[WorklistRow], numbers: Mapping[str, int], common: Sequence[str] = (), version: str = ""
) -> str:
    """The table, most likely abnormal first.

    Args:
        rows: Rows in any order.
        numbers: Number of each study by its name. The script of the page opens studies by number, because a name may
            contain anything.
        common: Warnings about all studies. They are shown once above the table.
        version: Differs whenever the rows differ, so that the script notices.
    """
    ordered = sort_rows(rows)
    if not ordered:
        return ""
    body = "".join(_row_html(row, rank, numbers[row.study], common) for rank, row in enumerate(ordered))
    headers = "".join(
        f'<th scope="col" role="columnheader" aria-sort="{"descending" if key == "chance" else "none"}">'
        f'<button type="button" data-sort="{key}">{label}<span class="arrow" aria-hidden="true"></span></button></th>'
        for key, label in _COLUMNS
    )
    bands = [(key, f"{sign} {text}") for key, (sign, text) in BANDS.items()]
    parts = [(part, part) for part in (*BODY_PARTS, UNKNOWN_PART)]
    sentences = [*common, *[_UNUSUAL] * any(band_of(row) == "unusual" for row in ordered)]
    notices = "".join(f'<div class="notice" role="note">{_clean(sentence)}</div>' for sentence in sentences)
    return (
        f'<mura-worklist data-version="{escape(version)}">{notices}<div class="filters">'
        f"{_select_html('part', 'Body part', 'all body parts', parts)}"
        f"{_select_html('band', 'Answer', 'all answers', bands)}"
        '<output class="shown" aria-live="polite"></output></div>'
        '<div class="scroll" role="region" aria-label="Worklist" tabindex="0"><table role="table">'
        '<caption class="unseen">Studies, most likely abnormal first. The buttons in the header sort the table. The '
        "up and down arrow keys move between the Open buttons.</caption>"
        f'<thead role="rowgroup"><tr role="row">{headers}<th scope="col" role="columnheader"><span class="unseen">'
        "Open</span></th></tr></thead>"
        f'<tbody role="rowgroup">{body}</tbody></table></div></mura-worklist>'
    )


def _row_html(row: WorklistRow, rank: int, number: int, common: Sequence[str]) -> str:
    band = band_of(row)
    sign, text = BANDS[band]
    if band == "uncertain":
        text += f" ({'flagged' if row.label == 'abnormal' else 'not flagged'})"
    name, part = _clean(row.study), _clean(row.body_part or UNKNOWN_PART)
    data, probability = "", "–"
    if band not in ("unusual", "failed") and row.probability is not None:
        data, probability = f' data-chance="{row.probability:.6f}"', probability_text(row.probability)
    notes = [] if row.error is None else [row.error]
    notes += [f"Left out: {sentence}" for sentence in row.left_out]
    notes += [warning for warning in row.warnings if warning not in (*common, OOD_WARNING)]
    listed = f"<ul>{''.join(f'<li>{_clean(note)}</li>' for note in notes)}</ul>" if notes else ""
    cells = (
        f' data-head="Body part">{part}',
        f' class="chance" data-head="P(abnormal)">{probability}',
        f' class="band {band}"><span aria-hidden="true">{sign}</span> {text}',
        f' class="views" data-head="Views">{row.n_views}',
        f' class="notes" data-count="{len(notes)}">{listed}',
        f' class="act"><button type="button" class="open" aria-label="Open {name}">Open</button>',
    )
    return (
        f'<tr role="row" data-study="{number}" data-rank="{rank}" data-part="{part}" data-band="{band}"{data}>'
        f'<th scope="row" role="rowheader"><bdi>{name.replace("/", "/<wbr>")}</bdi></th>'
        + "".join(f'<td role="cell"{cell}</td>' for cell in cells)
        + "</tr>"
    )


def _select_html(key: str, label: str, every: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices)
    return f'<label>{label} <select data-filter="{key}"><option value="">{every}</option>{options}</select></label>'


def _clean(text: str) -> str:
    """Escaped text that can be encoded: a file name may contain bytes that are not characters."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))


def summary_text(rows: Sequence[WorklistRow]) -> str:
    """The number of studies in each band."""
    counts = Counter(map(band_of, rows))
    return ", ".join(f"{counts[key]:,} {text[0].lower()}{text[1:]}" for key, (_, text) in BANDS.items() if counts[key])


def waiting_html(sentence: str) -> str:
    """The progress before the first study is read."""
    return f'<div class="worklist-progress"><p role="status">{escape(sentence)}</p><progress></progress></div>'


def progress_html(done: int, total: int, seconds: float) -> str:
    """The progress: number of studies, studies a second and the time left. Screen readers hear every tenth."""
    pace = ""
    if done and seconds:
        rate = done / seconds
        pace = f" · {rate:.1f} studies a second · about {_time_text((total - done) / rate)} left"
    tenth = 10 * done // total * 10
    return (
        f'<div class="worklist-progress"><p><span class="unseen" role="status">{tenth} percent read</span>'
        f"Read <b>{done:,}</b> of {total:,} studies{pace}</p>{_bar_html(done, total)}</div>"
    )


def end_html(done: int, total: int, seconds: float, summary: str = "") -> str:
    """The progress at the end, or after the visitor stopped it."""
    sentence = f"Read {done:,} of {total:,} studies in {_time_text(seconds)}. {summary}"
    stopped = "Stopped. " if done < total else ""
    return (
        f'<div class="worklist-progress"><p role="status">{escape(stopped + sentence)}</p>'
        f"{_bar_html(done, total)}</div>"
    )


def _bar_html(done: int, total: int) -> str:
    return f'<progress max="{total}" value="{done}" aria-label="Studies read"></progress>'


def _time_text(seconds: float) -> str:
    seconds = max(1, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
