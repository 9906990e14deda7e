import re
from html import unescape

from mura_hf.demo.worklist_table import BANDS, band_of, end_html, progress_html, summary_text, worklist_html
from mura_hf.inference import OOD_WARNING, WorklistRow, sort_rows


def _row(study, probability=None, **fields):
    fields = {"error": None if probability is not None else "No view could be read.", **fields}
    if probability is not None:
        label = "abnormal" if probability > 0.5 else "normal"
        fields = {"band": label, "label": label, **fields}
    return WorklistRow(study, probability=probability, **fields)


ROWS = [
    _row("quiet", 0.2, body_part="wrist", n_views=2),
    _row("broken", left_out=("x.png is empty.",)),
    _row("loud", 0.9, body_part="hand", n_views=1, warnings=("Of all.", "Of this one.")),
    _row("odd", 0.8, in_distribution=False, warnings=(OOD_WARNING,)),
    _row("between", 0.45, band="uncertain", body_part="hand"),
]
NUMBERS = {row.study: number for number, row in enumerate(ROWS)}


def _rows(html):
    return re.findall(r"<tr role=\"row\" (data-[^>]*)>(.*?)</tr>", html)


def test_rows_are_sorted_and_contain_what_the_script_sorts_by():
    html = worklist_html(ROWS, NUMBERS)
    rows = _rows(html)
    numbers = [int(re.search(r'data-study="(\d+)"', head)[1]) for head, _ in rows]
    assert numbers == [NUMBERS[row.study] for row in sort_rows(ROWS)]
    assert [re.search(r'data-rank="(\d+)"', head)[1] for head, _ in rows] == list("01234")
    assert re.search(r'data-chance="([\d.]+)"', rows[0][0])[1] == "0.900000"
    assert 'data-part="unknown"' in rows[-1][0]
    assert re.findall(r'data-sort="(\w+)"', html) == ["study", "part", "chance", "band", "views", "notes"]
    assert html.count('aria-sort="none"') == 5
    assert html.count('aria-sort="descending"') == 1
    assert worklist_html([], {}) == ""


def test_signs_and_words_beside_colour():
    rows = dict(zip([row.study for row in sort_rows(ROWS)], _rows(worklist_html(ROWS, NUMBERS)), strict=True))
    for row in ROWS:
        sign, text = BANDS[band_of(row)]
        assert f"{sign}</span> {text}" in rows[row.study][1]
    assert "Uncertain (not flagged)" in rows["between"][1]
    assert summary_text(ROWS) == "1 flagged, 1 uncertain, 1 nothing flagged, 1 unusual, not answered, 1 no answer"


def test_the_answer_for_an_unusual_study_is_withheld():
    html = worklist_html(ROWS, NUMBERS)
    head, body = next(row for row in _rows(html) if 'data-band="unusual"' in row[0])
    assert "data-chance" not in head
    assert "0.8" not in body
    assert html.count("Unusual studies do not look like") == 1
    assert OOD_WARNING not in html
    assert "Unusual studies" not in worklist_html(ROWS[:3], NUMBERS)


def test_common_warnings_are_shown_once_and_others_in_their_row():
    html = worklist_html(ROWS, NUMBERS, ["Of all."])
    assert html.count("Of all.") == 1
    assert "<li>Of this one.</li>" in html
    assert "<li>No view could be read.</li><li>Left out: x.png is empty.</li>" in html


def test_names_and_sentences_are_escaped():
    name = '"><img src=x onerror=alert(1)>/${1+1}{{x}}\udcff'
    row = _row(name, 0.7, left_out=("<script>",), warnings=("</td>",), body_part="<b>")
    html = worklist_html([row], {name: 0}, ["<i>"], version='"')
    for mark in ("<img", "<script", "<b>", "<i>"):
        assert mark not in html
    assert html.count("</td>") == 6
    assert "${1+1}{{x}}?" in unescape(html.replace("<wbr>", ""))
    html.encode()  # a name that is not text must not break the page


def test_progress():
    html = progress_html(30, 1200, 10.0)
    assert "Read <b>30</b> of 1,200 studies · 3.0 studies a second · about 6 min left" in html
    assert '<progress max="1200" value="30"' in html
    assert "0 percent read" in html
    assert "second" not in progress_html(0, 3, 0.0)
    assert end_html(30, 30, 3.2, "<Done>").count("&lt;Done&gt;") == 1
    assert "Stopped. Read 3 of 30 studies" in end_html(3, 30, 3.2)
