import dataclasses
import re

from mura_hf.demo.checkpoints import DEFAULT
from mura_hf.demo.models_tab import Contender, ModelDesk, comparison_html, facts_html
from mura_hf.demo.result import chance_text


def _table(html):
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_both_answers_stand_side_by_side_with_the_difference_of_each_view(study, radiographs):
    views = [
        dataclasses.replace(view, single_view_probability=view.single_view_probability / 2) for view in study.views
    ]
    other = dataclasses.replace(study, views=views, probability=study.probability / 2, checkpoint="other")
    html = comparison_html(Contender("A", study), Contender("B", other), radiographs)
    table = _table(html)
    assert table[0] == ["Of", "A", "B", "B − A"]
    assert table[1][1:3] == [chance_text(study.probability), chance_text(other.probability)]
    for row, view in zip(table[2:], study.views, strict=True):
        assert row[:3] == [
            view.name,
            chance_text(view.single_view_probability),
            chance_text(view.single_view_probability / 2),
        ]
        assert row[3] == f"{-view.single_view_probability / 2:+.2f}".replace("-", "−")
    assert html.count('class="heat"') == 2 * len(study.views)
    assert html.count('<section class="answer') == 2


def test_an_answer_that_is_held_back_shows_neither_figures_nor_heatmaps(study, radiographs):
    strange = dataclasses.replace(study, in_distribution=False, unusual_percentile=99.0)
    html = comparison_html(Contender("A", strange), Contender("B", study), radiographs)
    assert all(row[1] == "not shown" and row[3] == "–" for row in _table(html)[1:])
    assert html.count('class="heat"') == len(study.views)
    assert "Not answered" in html
    both = comparison_html(Contender("A", strange), Contender("B", strange), radiographs)
    assert "P(abnormal)" not in both
    assert 'class="heat"' not in both


def test_trouble_of_one_leaves_the_other_and_names_are_escaped(study, radiographs):
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


def test_the_desk_compares_and_says_what_goes_wrong(room, checkpoint, phantom_files, tmp_path):
    desk = ModelDesk(room)
    folder = (str(checkpoint), "", "")
    html = desk.compare(phantom_files, None, folder, ("nobody/nothing", "", ""))
    assert f"folder: {checkpoint.name}" in html
    assert "nobody/nothing" in html
    assert "elbow</b> (given by you)" in desk.compare(phantom_files, "elbow", folder, folder)
    assert "Open a study first" in desk.compare([], None, folder, folder)
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    assert "bad.png" in desk.compare([str(bad)], None, folder, folder)


def test_facts_tell_what_was_measured_as_counts(room, checkpoint, monkeypatch):
    monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
    html = facts_html(room.checkpoints.get(*DEFAULT))
    found = room.checkpoints.get(*DEFAULT).measured_performance.get("paper", 0.5, None)
    assert f"{found.n_flagged_abnormal} of {found.n_abnormal}" in html
    assert f"{found.n_normal - found.n_flagged_normal} of {found.n_normal}" in html
    assert room.checkpoints.get().weights_sha256[:12] in html
    untrained = facts_html(room.checkpoints.get(str(checkpoint)))
    assert "Not measured for these weights." in untrained
    assert "64 × 64 px" in untrained
