import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pypdf import PdfReader

from mura_hf import Radiograph, read_radiograph
from mura_hf.explain import draw_overlay
from mura_hf.inference.measured_performance import OperatingPointPerformance
from mura_hf.inference.report import DISCLAIMER, ReportContext, report_pdf

MADE = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
FOUND = OperatingPointPerformance("paper", 0.5, "wrist", "held-out films", 20, 15, 100, 10)


@pytest.fixture(scope="module")
def radiographs(phantom_files):
    return [read_radiograph(file) for file in phantom_files]


@pytest.fixture(scope="module")
def study(flagging, radiographs):
    return flagging(radiographs, names=["one.png", "two <b>&.png", *"cdefgh"][: len(radiographs)])


def _read(content):
    pages = PdfReader(io.BytesIO(content)).pages
    assert len(pages) == 1
    return pages[0], " ".join(pages[0].extract_text().split())


def test_the_page_has_the_numbers(study, radiographs):
    context = ReportContext(MADE, "ab" * 32, FOUND, 0.1, ["bad.png is damaged; copy it again."])
    page, text = _read(report_pdf(study, radiographs, context))
    for words in (
        f"P(abnormal) {study.probability:.3f}",
        "Abnormality suspected",
        "Operating point Rule of the MURA paper: flagged strictly above 0.5; this study is flagged.",
        "15 of 20 abnormal studies flagged (sensitivity 0.750)",
        "10 of 100 normal ones flagged (specificity 0.900)",
        "Where 10% of the studies are abnormal: positive predictive value 0.455, negative 0.970.",
        study.checkpoint,
        "ab" * 32,
        "2026-11-22 09:30 UTC",
        "Left out: bad.png is damaged",
        "two <b>&.png",
        DISCLAIMER,
        *study.warnings,
    ):
        assert " ".join(words.split()) in text
    for view in study.views:
        assert f"{view.name}: P(abnormal) {view.single_view_probability:.3f} by itself, flagged" in text
    assert len(page.images) == 2 * len(radiographs)


def test_the_pictures_are_the_views_and_their_overlays(study, radiographs):
    content = report_pdf(study, radiographs, ReportContext(MADE))
    page, text = _read(content)
    assert "The performance at this operating point was not measured." in text
    metadata = PdfReader(io.BytesIO(content)).metadata
    assert metadata["/Title"] == "mura_hf: radiographic study"
    assert metadata.get("/Author", "") in ("", "anonymous")
    shown = [np.asarray(image.image.convert("RGB")) for image in page.images]
    for view, radiograph in zip(study.views, radiographs, strict=True):
        film = np.repeat(radiograph.to_uint8()[..., None], 3, axis=2)
        overlay = draw_overlay(radiograph.pixels, view.heatmap, view.regions[:1])
        for picture in (film, overlay):
            assert sum(np.array_equal(picture, one) for one in shown) == 1


def test_a_withheld_prediction_has_neither_numbers_nor_overlays(study, radiographs):
    context = ReportContext(MADE, performance=FOUND, withheld=True)
    leg = {"region": "leg", "region_probabilities": {"hand": 0.1, "leg": 0.9}, "body_part": None}
    unusual = replace(study, in_distribution=False, band="out_of_distribution", **leg)
    _, shown = _read(report_pdf(unusual, radiographs, ReportContext(MADE)))
    assert f"Out of distribution, P(abnormal) {study.probability:.3f}" in shown
    assert "Body part: probably leg or foot (probability 0.900)." in shown
    page, text = _read(report_pdf(unusual, radiographs, context))
    assert "Not answered" in text
    assert unusual.scope_note in text
    assert "P(abnormal)" not in text
    assert "sensitivity" not in text
    assert len(page.images) == len(radiographs)


def test_many_views_large_films_and_long_words_stay_on_one_page(flagging):
    rng = np.random.default_rng(0)
    shapes = [(950, 200), (200, 950), (90, 90), (90, 90), (90, 90)]
    films = [Radiograph(rng.random(shape, dtype=np.float32), 8, "PNG") for shape in shapes]
    names = [f"{'long' * 40}{number}.png" for number in range(len(films))]
    context = ReportContext(MADE, left_out=[f"{'x' * 90} is damaged." for _ in range(12)], performance=FOUND)
    page, text = _read(report_pdf(flagging(films, names=names), films, context))
    assert text.count("is damaged.") == 12
    assert max(max(image.image.size) for image in page.images) <= 900
    assert DISCLAIMER in text


def test_probabilities_are_never_shown_as_certain(study, radiographs):
    for probability, words in ((0.99999, "above 0.999"), (0.00001, "below 0.001")):
        _, text = _read(report_pdf(replace(study, probability=probability), radiographs, ReportContext(MADE)))
        assert f"P(abnormal) {words}" in text


def test_other_views_are_refused(study, radiographs):
    with pytest.raises(ValueError, match="views, but 1 were given"):
        report_pdf(study, radiographs[:1], ReportContext(MADE))
