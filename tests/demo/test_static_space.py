"""The static page in Chromium: it is built once, and each test visits it."""

import functools
import http.server
import io
import re
import shutil
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image
from playwright.sync_api import expect

from mura_hf import HubError, StudyPredictor
from mura_hf.common import home_folder
from mura_hf.hub import export_onnx, stage_static_space
from mura_hf.hub.card import load_templates
from mura_hf.models.golden_mura import digest_weights
from mura_hf.retrieval import OODDetector, feature_means
from tests.checkpoints import make_checkpoint, make_model

from .running import WAIT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="the extra onnx is not installed"
    ),
]
SYNTAXES = (
    "implicit little endian",
    "explicit big endian",
    "JPEG baseline",
    "JPEG lossless",
    "JPEG-LS lossless",
    "JPEG 2000 lossless",
    "RLE",
)
HTML = "<img src=x onerror=document.title='injected'>"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def film(phantom_files):
    """A phantom of odd size with 12 bits."""
    levels = np.asarray(Image.open(phantom_files[0]).resize((171, 230), Image.Resampling.BICUBIC), np.float64)
    noise = np.random.default_rng(0).integers(0, 9, levels.shape)
    return (levels * 15 + noise + 100).astype(np.uint16)


@pytest.fixture(scope="module")
def site(tmp_path_factory, phantom_files):
    """The folder of the page, and the predictor of its checkpoint; noise is out of distribution."""
    place = tmp_path_factory.mktemp("static")
    fields = {"body_part_head": True, "regions": ["hand", "leg"], "finding_types": ["fracture", "hardware"]}
    points = {"paper": 0.5, "sensitivity_95": 0.4}
    model = make_model(**fields, study_slope=0.8, study_intercept=0.1, operating_points=points)
    folder = make_checkpoint(place / "checkpoint", model)
    predictor = StudyPredictor.from_pretrained(folder, runtime="torch")
    pictures = [np.asarray(Image.open(file).convert("L")) for file in phantom_files]
    with_noise = [*pictures, make_noise()]
    pixels = predictor.processor(images=with_noise, return_tensors="pt")["pixel_values"]
    codes = feature_means(predictor.model.classify_views(pixels)).numpy()
    one, eye = np.ones(codes.shape[1], np.float32), np.eye(codes.shape[1], dtype=np.float32)
    detector = OODDetector(one, eye, np.arcsinh(codes[:1]), np.ones(1, bool), np.zeros((1, 1)), digest_weights(folder))
    near, far = detector.score(codes[:-1]).max(), detector.score(codes[-1:]).min()
    assert near < far
    replace(detector, calib=np.full((100, 1), (near + far) / 2, np.float32)).save(folder)
    export_onnx(folder, pictures=pictures[:1])
    try:
        page = stage_static_space(place / "page", title="static", checkpoint=str(folder))
    except HubError as error:
        if re.match(r"npm (install failed|.*not found)|node not found", str(error)):
            pytest.skip(f"the page cannot be built: {error}")
        raise
    return page, StudyPredictor.from_pretrained(folder, runtime="torch")


def make_palette(entries=256):
    """Colours from 16 bits; blue is the inverse of the others."""
    levels = np.linspace(0, 65535, entries).round().astype("<u2")
    tables = {"Red": levels, "Green": levels, "Blue": levels[::-1]}
    descriptors = {f"{name}PaletteColorLookupTableDescriptor": [entries, 0, 16] for name in tables}
    return descriptors | {f"{name}PaletteColorLookupTableData": one.tobytes() for name, one in tables.items()}


def make_noise():
    return np.random.default_rng(1).integers(0, 256, (200, 200), dtype=np.uint8)


class Visit:
    """A visitor of the page; it must not break the policy, fail, or contact another server."""

    def __init__(self, browser, folder):
        handler = functools.partial(_Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page, self.urls, self.errors = self.context.new_page(), [], []
        self.context.on("request", lambda request: self.urls.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda one: self.errors.append(one.text) if one.type in ("error", "warning") else None)

    def open(self):
        self.page.goto(self.url)
        expect(self.page.locator("body[data-ready]")).to_be_attached(timeout=WAIT)
        expect(self.page.locator("#answer .card")).to_be_visible(timeout=WAIT)

    def read(self, **files):
        """Gives files, and returns the probability of the answer."""
        given = [{"name": name, "mimeType": "", "buffer": content} for name, content in files.items()]
        self.page.evaluate("document.querySelector('#answer').dataset.probability = ''")
        self.page.locator("#files").set_input_files(given)
        expect(self.page.locator("#answer")).to_have_attribute("data-probability", re.compile("."), timeout=WAIT)
        return float(self.page.locator("#answer").get_attribute("data-probability"))

    def boxes(self):
        """First box of each view, as shares of its width and height."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('.stack')].map((stack) => {
                const { left, top, width, height } = stack.querySelector('.box').style;
                const [x, y, w, h] = [left, top, width, height].map((length) => parseFloat(length) / 100);
                return [x, y, x + w, y + h];
            })"""
        )

    def close(self):
        self.context.close()
        self.stop()
        assert [url for url in self.urls if not url.startswith((self.url, f"blob:{self.url}"))] == []
        assert self.errors == []

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def visit(browser, site):
    visit = Visit(browser, site[0])
    visit.open()
    yield visit
    visit.close()


def encode_png(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def overlap(first, second):
    inner = [max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])]
    area = [(one[2] - one[0]) * (one[3] - one[1]) for one in (inner, first, second)]
    return area[0] / (area[1] + area[2] - area[0])


def test_answers_are_those_of_the_predictor(visit, site, film, phantom_files):
    _, predictor = site
    eight = (film >> 4).astype(np.uint8)
    rgb = np.stack([eight, eight // 2, 255 - eight], axis=-1)
    jpeg = io.BytesIO()
    Image.fromarray(eight).save(jpeg, "JPEG", quality=95)
    studies = {
        "PNG": ([Path(file).read_bytes() for file in phantom_files], 0.001),
        "colours": ([encode_png(rgb)], 0.001),
        "JPEG": ([jpeg.getvalue()], 0.001),
        "16 bits": ([encode_png(film)], 0.01),
        "MONOCHROME1": ([encode_dicom(film.max() - film, photometric="MONOCHROME1", bits_stored=12)], 0.01),
        "window": ([encode_dicom(film, bits_stored=12, WindowCenter=2000, WindowWidth="1500")], 0.01),
        "signed": (
            [encode_dicom((film.astype(np.int16) - 2048), bits_stored=12, RescaleSlope=2, RescaleIntercept=5)],
            0.01,
        ),
        "8 bits": ([encode_dicom(eight)], 0.01),
        "RGB": ([encode_dicom(rgb, photometric="RGB")], 0.01),
        "RLE, 8 bits": ([encode_dicom(eight, syntax="RLE")], 0.01),
        "RLE, RGB": ([encode_dicom(rgb, syntax="RLE", photometric="RGB")], 0.01),
        "RLE, YBR": ([encode_dicom(rgb, syntax="RLE", photometric="YBR_FULL")], 0.01),
        "palette": ([encode_dicom(eight, photometric="PALETTE COLOR", **make_palette())], 0.01),
        "palette, 12 bits": (
            [encode_dicom(film, syntax="RLE", bits_stored=12, photometric="PALETTE COLOR", **make_palette(4096))],
            0.01,
        ),
    }
    for syntax in SYNTAXES:
        frames = eight if syntax == "JPEG baseline" else film
        studies[syntax] = ([encode_dicom(frames, syntax=syntax, bits_stored=12 if frames is film else 8)], 0.01)
    for name, (contents, tolerance) in studies.items():
        expected = predictor(contents)
        found = visit.read(**{f"{name} {number}": content for number, content in enumerate(contents)})
        assert found == pytest.approx(expected.probability, abs=tolerance), name
        if expected.in_distribution is not False:  # the bar is a scale from 0 to 1
            low, high = expected.band_limits
            zones = visit.page.locator(".zones span").evaluate_all(
                "all => all.map((one) => parseFloat(one.style.width))"
            )
            assert zones == pytest.approx([100 * share for share in (low, high - low, 1 - high) if share], abs=0.1)
            mark = float(visit.page.locator(".mark").evaluate("one => parseFloat(one.style.left)"))
            assert mark == pytest.approx(100 * found, abs=0.5)
        if expected.probability_band == "low" or expected.in_distribution is False:
            continue
        for box, view in zip(visit.boxes(), expected.views, strict=True):
            scale = [view.width, view.height] * 2
            assert overlap([one * side for one, side in zip(box, scale, strict=True)], view.box) >= 0.9, name


def test_it_works_without_a_network(visit, phantom_files):
    visit.stop()
    visit.page.close()
    visit.page = visit.context.new_page()
    visit.open()
    assert visit.page.evaluate("crossOriginIsolated")
    visit.read(film=Path(phantom_files[0]).read_bytes())


def test_texts_of_files_are_never_html_and_strange_pictures_are_refused(visit, film, phantom_files):
    page, name = visit.page, f"{HTML}.png"
    good, noise = Path(phantom_files[0]).read_bytes(), encode_png(make_noise())
    dicom = encode_dicom(film, bits_stored=12, PatientID=HTML, BodyPartExamined=HTML[:16], ImageLaterality="L")
    palette = encode_dicom(film >> 4, photometric="PALETTE COLOR")
    cut = encode_dicom(film, syntax="RLE", bits_stored=12)
    bad = {f"3 {name}": b"no picture", f"5 {name}": palette, f"6 {name}": cut[:-3000] + b"\0" * 3000}
    visit.read(**{name: good, f"2 {name}": noise, f"4 {name}": dicom, **bad})
    expect(page.locator("figcaption").first).to_contain_text(name)
    expect(page.locator("#answer .bad")).to_contain_text(f"2 {name} is unlike what the model was trained on")
    expect(page.locator("#answer .bad")).to_contain_text(f"3 {name} is not a PNG")
    expect(page.locator("#answer .bad")).to_contain_text(f"5 {name} has no usable colour palette; export it as")
    expect(page.locator("#answer .bad")).to_contain_text(f"6 {name} is damaged")
    visit.read(noise=noise)
    expect(page.locator("h3")).to_contain_text("Not answered")
    assert page.locator(".heatmap").count() == 0
    page.get_by_role("button", name="Show the answer anyway").click()
    expect(page.locator("h3")).not_to_contain_text("Not answered")
    page.locator("#files").set_input_files(
        [{"name": f"{number} {name}", "mimeType": "", "buffer": good} for number in range(17)]
    )
    expect(page.locator("#worklist-state")).to_contain_text("17 of 17", timeout=WAIT)
    expect(page.locator("#rows th").first).to_contain_text(HTML)
    assert page.title() == "static"
    assert page.locator("img[src=x]").count() == 0


def test_the_example_of_a_card_runs(browser, site, film, tmp_path):
    """The example in JavaScript; the browser finds the package where the build of the page has installed it."""
    folder, predictor = site
    (package,) = (home_folder() / "static_space").glob("*/node_modules/onnxruntime-web/dist")
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    for file in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(package / file, tmp_path)
    picture = (film >> 4).astype(np.uint8)
    (tmp_path / "film.png").write_bytes(encode_png(picture))
    exports = {"rows": [], "timm": False, "graph": True, "pooled": None, "detector": True}
    text = load_templates().get_template("files.md").render(exports=exports, name="me/x", files='"film.png"')
    (code,) = re.findall("```js\n(.*?)```", text, re.DOTALL)
    packages = '{"imports": {"onnxruntime-web/wasm": "./ort.wasm.min.mjs"}}'
    scripts = f'<script type="importmap">{packages}</script><script type="module">{code}</script>'
    (tmp_path / "index.html").write_text(f"<!doctype html><link rel=icon href=data:,>{scripts}")
    visit = Visit(browser, tmp_path)
    with visit.page.expect_console_message(lambda message: message.type == "log", timeout=WAIT) as found:
        visit.page.goto(visit.url)
    visit.close()
    answer, _, probability = found.value.text.rpartition(" ")
    expected = predictor(picture, heatmaps=False)
    assert float(probability) == pytest.approx(expected.probability, abs=1e-4)
    assert answer == (expected.label if expected.in_distribution else "out of distribution")
