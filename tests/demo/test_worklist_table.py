import re
from html import unescape

from mura_hf.demo.worklist_controller import BANDS, band_of, summary_text, worklist_html
from mura_hf.inference import OOD_WARNING, WorklistRow, sort_rows


def _row(study, probability=None, **fields):
    fields = {"error": None if probability is not None else "No view could be read.", **fields}
    if probability is not None:
        flagged = probability > 0.5
        fields = {"band": "abnormal" if flagged else "normal", "label": "abnormal" if flagged else "normal", **fields}
    return WorklistRow(study, probability=probability, **fields)


ROWS = [
    _row("quiet", 0.2, body_part="wrist", n_views=2),
    _row("broken", left_out=("x.png is empty.",)),
    _row("loud", 0.9, body_part="hand", n_views=1, warnings=("Of all.", "Of this one.")),
    _row("odd", 0.8, in_distribution=False, warnings=(OOD_WARNING,)),
    _row("between", 0.45, band="uncertain", body_part="hand"),
]
PLACES = {row.study: place for place, row in enumerate(ROWS)}


def _rows(html):
    return re.findall(r"<tr role=\"row\" (data-[^>]*)>(.*?)</tr>", html)


def test_the_rows_come_most_likely_abnormal_first_and_tell_the_script_what_it_sorts_by():
    rows = _rows(worklist_html(ROWS, PLACES))
    assert [int(re.search(r'data-study="(\d+)"', head)[1]) for head, _ in rows] == [
        PLACES[row.study] for row in sort_rows(ROWS)
    ]
    assert [re.search(r'data-rank="(\d+)"', head)[1] for head, _ in rows] == list("01234")
    assert re.search(r'data-chance="([\d.]+)"', rows[0][0])[1] == "0.900000"
    assert 'data-part="not told"' in rows[-1][0]


def test_signs_and_words_stand_beside_colour():
    rows = dict(zip([row.study for row in sort_rows(ROWS)], _rows(worklist_html(ROWS, PLACES)), strict=True))
    for row in ROWS:
        sign, words = BANDS[band_of(row)]
        assert f"{sign}</span> {words}" in rows[row.study][1]
    assert "Uncertain (not flagged)" in rows["between"][1]
    assert "2 " not in summary_text(ROWS)
    assert summary_text(ROWS) == "1 flagged, 1 uncertain, 1 nothing flagged, 1 strange, not answered, 1 no answer"


def test_the_answer_about_a_strange_study_is_held_back():
    html = worklist_html(ROWS, PLACES)
    head, body = next(row for row in _rows(html) if 'data-band="strange"' in row[0])
    assert "data-chance" not in head
    assert "0.8" not in body
    assert html.count("Strange studies do not look like") == 1
    assert OOD_WARNING not in html
    assert "Strange studies" not in worklist_html(ROWS[:3], PLACES)


def test_what_holds_for_every_study_is_said_once_and_what_went_wrong_by_row():
    html = worklist_html(ROWS, PLACES, ["Of all."])
    assert html.count("Of all.") == 1
    assert "<li>Of this one.</li>" in html
    assert "<li>No view could be read.</li><li>Left out: x.png is empty.</li>" in html


def test_names_and_sentences_of_strangers_are_escaped():
    name = '"><img src=x onerror=alert(1)>/${1+1}{{x}}\udcff'
    row = _row(name, 0.7, left_out=("<script>",), warnings=("</td>",), body_part="<b>")
    html = worklist_html([row], {name: 0}, ["<i>"], version='"')
    for mark in ("<img", "<script", "<b>", "<i>"):
        assert mark not in html
    assert html.count("</td>") == 6
    assert "${1+1}{{x}}?" in unescape(html.replace("<wbr>", ""))
    html.encode()  # a name that is no text must not keep the page from being sent


def test_every_column_is_sorted_by_a_button_whose_order_is_told():
    html = worklist_html(ROWS, PLACES)
    assert re.findall(r'data-sort="(\w+)"', html) == ["study", "part", "chance", "band", "views", "notes"]
    assert html.count('aria-sort="none"') == 5
    assert html.count('aria-sort="descending"') == 1
    assert worklist_html([], {}) == ""
