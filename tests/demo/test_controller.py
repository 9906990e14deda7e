import base64
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from mura_hf.demo.controller import StudyController, StudyRequest, study_progress_html
from mura_hf.demo.examples import load_examples
from mura_hf.demo.state import DEFAULT
from mura_hf.demo.state import FOR_EXAMPLES as PHANTOM
from mura_hf.demo.templates import SHOW_ANYWAY, SHOW_UNUSUAL
from mura_hf.retrieval import OODResult
from tests.checkpoints import make_checkpoint

FILM = ("mura-film", "", "")


@pytest.fixture(scope="module")
def controller(context):
    return StudyController(context)


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def opened(controller, context, steps):
    """An abnormal wrist of three views, read by the checkpoint of the examples."""
    request = StudyRequest(context.examples[0].files, PHANTOM)
    return controller.open(request, lambda *step: steps.append(step[:2]))


def _json(html):
    return json.loads(base64.b64decode(re.search(r'data-base64="([^"]+)"', html)[1]))


def test_examples_are_read_by_their_own_checkpoint_unless_another_was_chosen(controller, context, phantom_files):
    example = context.examples[0].files
    assert controller.choose_checkpoint(example, DEFAULT) == PHANTOM
    assert controller.choose_checkpoint(example, FILM) == FILM
    assert controller.choose_checkpoint(tuple(phantom_files), DEFAULT) == DEFAULT
    film = load_examples("film")[0]
    assert controller.choose_checkpoint(film.files, DEFAULT) == DEFAULT
    page = controller.open(StudyRequest(film.files, FILM))
    assert film.credit.startswith("Abedeen")
    assert film.credit.split(",")[0] in page.viewer


def test_views_unlike_those_of_training_are_left_out_until_the_visitor_includes_them(
    controller, checkpoint, phantom_files, monkeypatch
):
    folder = (str(checkpoint), "", "")
    predictor = controller.context.checkpoints.get(*folder)
    request = StudyRequest(tuple(phantom_files[:2]), folder)
    names = [Path(file).name for file in request.files]
    for odd, left in ((names[:1], names[1:]), (names, names)):  # if all are, none is left out
        monkeypatch.setattr(predictor, "ood_detector", _Detector([name not in odd for name in names]))
        page = controller.open(request)
        assert [view.name for view in page.result.study.views] == left
        assert page.result.withheld == (odd == names)
        assert page.anyway_text == (SHOW_ANYWAY if odd == names else SHOW_UNUSUAL)
        assert [problem.startswith(names[0]) for problem in page.result.problems] == [True] * (odd != names)
        page = controller.open(dataclasses.replace(request, show_anyway=True))
        assert [view.name for view in page.result.study.views] == names
        assert (page.anyway_text, page.result.problems) == (None, ())


class _Detector:
    """Calls given views of a study of two out of distribution, and no view of other studies."""

    def __init__(self, known):
        self.known = known

    def detect(self, codes):
        views = self.known if len(codes) == len(self.known) else [True] * len(codes)
        return OODResult(all(views), 50.0, views)


def test_errors_are_shown_in_words(controller, phantom_files):
    page = controller.open(StudyRequest(()))
    assert 'class="empty"' in page.answer
    assert (page.viewer, page.result) == ("", None)
    page = controller.open(StudyRequest(tuple(phantom_files), ("nobody/nothing", "", "")))
    assert "nobody/nothing" in page.answer
    assert page.result is None


def test_the_kept_result_has_no_pictures(opened):
    study = opened.result.study
    assert len(study.views) == 3
    assert all(view.heatmap is None for view in study.views)
    assert study.codes is not None
    assert 'class="heat"' in opened.viewer
    assert "This synthetic picture was drawn with the finding “displaced fracture”." in opened.answer
    assert "phantom" in opened.details
    assert all(view.pixels is None for view in study.views)
    assert opened.takes_body_part
    assert opened.anyway_text is None


def test_progress(opened, steps):
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    html = study_progress_html(("a/<b>.png", "c.png", "d.zip"), ["<b>.png"], 3)
    assert "Read 1 of 3 files" in html
    assert "✓ &lt;b&gt;.png" in html
    assert "… c.png" in html
    assert "d.zip" not in html
    assert 'value="1"' in html


def test_the_operating_point_changes_the_answer(controller, context, opened, tmp_path, phantom_files):
    names = {name: label for label, name in opened.points}
    assert set(names) == {"paper", "youden", "sensitivity_95", "specificity_95"}
    for name in names:
        request = StudyRequest(context.examples[0].files[:1], PHANTOM, operating_point=name)
        study = controller.open(request).result.study
        assert study.operating_point == name
        assert f"above {study.threshold:.3g}" in names[name]
        assert study.label == ("abnormal" if study.probability > study.threshold else "normal")
    # An operating point that another checkpoint had is replaced by the default.
    folder = make_checkpoint(tmp_path / "checkpoint", operating_points={"mine": 0.3})
    request = StudyRequest(tuple(phantom_files), (str(folder), "", ""), operating_point="youden")
    page = controller.open(request)
    assert page.result.study.operating_point == "mine"
    assert [name for _, name in page.points] == ["mine"]


def test_similar_phantoms_are_shown_everywhere_or_in_the_same_part(controller, opened):
    for same in (False, True):
        html = controller.similar(opened.result, same_part=same)
        assert html.count("<li>") == html.count("data:image/webp") == 6
        assert len(re.findall(r"distance \d+\.\d\d", html)) == 6
        if same:
            assert len(re.findall(r">wrist, distance", html)) == 6
    assert "after a study was read" in controller.similar(None, same_part=False)
    assert controller.performance(None, 0.1) == ""


def test_a_report_contains_the_answer_of_the_page(controller, opened):
    report = _json(controller.report("json", opened.result, 0.25))
    study = opened.result.study
    assert report["study"] == json.loads(study.to_json())
    assert report["measured"]["group"] == "wrist"
    assert report["measured"]["prevalence"] == 0.25
    assert report["checkpoint"] == "bundled: mura-phantom"
    assert re.fullmatch("[0-9a-f]{64}", report["weights_sha256"])
    assert "Not a medical device" in report["disclaimer"]
    assert 'data-name="study-report.pdf"' in controller.report("pdf", opened.result, 0.25)


def test_a_withheld_answer_is_in_no_report(controller, context):
    request = StudyRequest(context.examples[1].files[:1], FILM)
    page = controller.open(request)
    assert page.result.withheld
    assert (page.anyway_text, page.details, page.takes_body_part) == (SHOW_ANYWAY, "", False)
    report = _json(controller.report("json", page.result, 0.1))
    assert (report["withheld"], report["study"]) == (True, None)
    assert "Not searched" in controller.similar(page.result, same_part=False)
    assert controller.performance(page.result, 0.1) == ""
    result = controller.open(dataclasses.replace(request, show_anyway=True)).result
    html = controller.similar(result, same_part=False)
    assert len(re.findall(r">IMG\d{7}<", html)) == 6
    assert "views of FracAtlas" in html
    assert "does not predict the body part" in controller.similar(result, same_part=True)


def test_a_report_of_removed_files_asks_for_them(controller, tmp_path, phantom_files, checkpoint):
    file = shutil.copy(phantom_files[0], tmp_path / "wrist.png")
    result = controller.open(StudyRequest((str(file),), (str(checkpoint), "", ""))).result
    assert "has no database of studies" in controller.similar(result, same_part=False)
    file.unlink()
    assert "upload it again" in controller.report("pdf", result, 0.1)
    assert "Read a study first" in controller.report("pdf", None, 0.1)
