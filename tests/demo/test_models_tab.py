import dataclasses
import re
import time

import pytest

from mura_hf.common import BUNDLED
from mura_hf.demo.examples import load_examples
from mura_hf.demo.models_tab import (
    MAX_CARD,
    Contender,
    ModelsController,
    comparison_html,
    facts_html,
    find_card,
    read_card,
)  # fmt: skip
from mura_hf.demo.result import operating_point_choices
from mura_hf.demo.state import DEFAULT
from mura_hf.demo.templates import probability_text
from mura_hf.demo.viewer import box_style


def _table(html):
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


@pytest.mark.parametrize("name", ["", *BUNDLED])
def test_bundled_cards_are_shown_with_their_pictures(name, monkeypatch):
    monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
    card = find_card(name, "")
    assert card.trusted
    assert card.text.startswith(f"# {name or 'mura-film'}")
    assert "license:" not in card.text.split("## ")[0]
    assert card.text.count("](data:image/png;base64,") == len(list(BUNDLED[name or "mura-film"].glob("*.png")))
    assert ".png)" not in card.text
    assert "Cut here" not in card.text


def test_cards_of_other_authors_are_text(checkpoint, tmp_path):
    card = "---\ntags: [x]\n---\n# Mine\n![x](http://tracker.example/a.png) ![y](roc.png)\n<img src=x>\n"
    (tmp_path / "README.md").write_text(card)
    found = find_card(str(tmp_path), "")
    assert not found.trusted
    assert found.text.startswith("# Mine\n![x](http://tracker.example/a.png) ![y](roc.png)")
    missing = find_card(str(checkpoint), "")
    assert "has no model card" in missing.text
    assert not missing.trusted
    assert "cannot be read" in find_card("nobody/nothing", "").text


def test_odd_cards(tmp_path):
    def card(content, trusted=False):
        (tmp_path / "README.md").write_bytes(content)
        return read_card(tmp_path / "README.md", trusted=trusted).text

    long = card(b"a" * (MAX_CARD + 1234))
    assert long.startswith("a" * MAX_CARD + "\n\n[Cut here")
    assert "1,234 more characters" in long
    assert card(b"---\nno end") == "---\nno end"
    assert "has no model card" in card(b"---\na: 1\n---\n")
    assert card(b"\xff\xfe card").endswith("card")
    assert "has no model card" in read_card(tmp_path / "nowhere.md", trusted=False).text
    start = time.perf_counter()  # an expression that backtracks would take hours
    for odd in (b"---" + b"\n" * 250_000, b"---\n" + b"---x\n" * 50_000, b"---\n" + b" " * 250_000 + b"x"):
        assert "has no model card" in (text := card(odd)) or text.startswith("---")
    assert time.perf_counter() - start < 5
    without_plot = card(b"# mine\n\n![The ROC curve](roc.png)\n", trusted=True)
    assert without_plot == "# mine\n\n*The ROC curve: not available here; see the card on the Hub.*"


def test_both_answers_are_compared_view_by_view(study, radiographs):
    views = [
        dataclasses.replace(view, single_view_probability=view.single_view_probability / 2) for view in study.views
    ]
    other = dataclasses.replace(study, views=views, probability=study.probability / 2, checkpoint="other")
    html = comparison_html(Contender("A", study), Contender("B", other), radiographs)
    table = _table(html)
    assert table[0] == ["Of", "A", "B", "B − A"]
    assert table[1][1:3] == [probability_text(study.probability), probability_text(other.probability)]
    for row, view in zip(table[2:], study.views, strict=True):
        value = view.single_view_probability
        assert row == [
            view.name, probability_text(value), probability_text(value / 2), f"{-value / 2:+.2f}".replace("-", "−"),
        ]  # fmt: skip
    assert html.count('class="heat"') == 2 * len(study.views)
    assert html.count('<section class="answer') == 2
    # Box and probability are those of the page for one study.
    own = dataclasses.replace(study.views[0], band="uncertain", single_view_probability=0.9)
    doubtful = dataclasses.replace(study, views=[own, *study.views[1:]], probability=0.3, band_limits=(0.2, 0.5))
    html = comparison_html(Contender("A", doubtful), Contender("B", study), radiographs, credit="Picture: <A>")
    figures = re.findall(r'<figure class="(\w*)">(.*?)</figure>', html, re.DOTALL)
    assert figures[0][0] == "uncertain"
    assert f'class="box" style="{box_style(own)}"' in figures[0][1]
    assert "probability 0.90 by itself" in figures[0][1]
    assert "Picture: &lt;A&gt;" in html
    same = _table(comparison_html(Contender("A", study), Contender("B", study), radiographs))
    assert {row[3] for row in same[1:]} == {"0.00"}


def test_a_withheld_answer_shows_neither_numbers_nor_heatmaps(study, radiographs):
    unusual = dataclasses.replace(study, in_distribution=False, unusual_percentile=99.0)
    html = comparison_html(Contender("A", unusual), Contender("B", study), radiographs)
    assert all(row[1] == "not answered" and row[3] == "–" for row in _table(html)[1:])
    assert html.count('class="heat"') == len(study.views)
    assert "Not answered" in html
    both = comparison_html(Contender("A", unusual), Contender("B", unusual), radiographs)
    assert "Probability of" not in both
    assert 'class="heat"' not in both


def test_an_error_of_one_leaves_the_other_and_names_are_escaped(study, radiographs):
    views = [dataclasses.replace(view, name="<b>.png", heatmap=None) for view in study.views]
    named = dataclasses.replace(study, views=views, checkpoint="<i>")
    html = comparison_html(Contender("A", None, "No <u>."), Contender("B", named), radiographs, ["<s>.png is empty."])
    for mark in ("<u>", "<s>", "<b>.png", "<i>"):
        assert mark not in html
    assert "no heatmap" in html
    assert all(row[1] == "no answer" for row in _table(html)[1:])
    neither = comparison_html(Contender("A", None, "No."), Contender("B", None, "No."), radiographs)
    assert "<table" not in neither
    assert "<img" not in neither


def test_the_controller_takes_a_body_part_and_names_unreadable_files(context, checkpoint, phantom_files, tmp_path):
    controller, folder = ModelsController(context), (str(checkpoint), "", "")
    assert "elbow</b> (given by you)" in controller.compare(phantom_files[:1], "elbow", folder, folder)
    (tmp_path / "bad.png").write_text("no")
    assert "bad.png" in controller.compare([str(tmp_path / "bad.png")], None, folder, folder)
    film = load_examples("film")[0]
    assert film.credit.split(",")[0] in controller.compare(film.files, None, folder, folder)


def test_facts_contain_the_measured_performance(context, checkpoint, monkeypatch):
    monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
    predictor = context.checkpoints.get(*DEFAULT)
    html = facts_html(predictor)
    found = predictor.measured_performance.get("paper", 0.5, None)
    assert f"{found.n_flagged_abnormal} of {found.n_abnormal}" in html
    assert f"{found.n_normal - found.n_flagged_normal} of {found.n_normal}" in html
    for label, _ in operating_point_choices(predictor):  # the same labels as in the other tabs
        assert '<th scope="row">{}</th><td>{}</td>'.format(*label.split(": above ")) in html.replace("\n", "")
    assert predictor.weights_sha256[:12] in html
    auroc, (low, high) = predictor.measured_performance.auroc
    assert f"{auroc:.3f} (95 % interval {low:.3f} to {high:.3f})" in html
    assert "FracAtlas, cc-by-4.0" in html
    untrained = facts_html(context.checkpoints.get(str(checkpoint)))
    assert "Not measured for these weights." in untrained
    assert "64 × 64 px" in untrained
