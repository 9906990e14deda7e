"""A static Space: one page that reads studies in the browser, with the ONNX graph of a checkpoint.

The page is in `demo/static_space`. Its packages come from npm when it is built, and are not part of this package.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from ..common import home_folder, replace_file
from ..errors import CheckpointError, HubError
from ..explain import colour_heat
from ..inference import StudyPredictor
from ..inference.loading import find_source, find_weights
from ..inference.prediction import OPERATING_POINTS, REGION_WORDS, finding_noun
from ..radiographs.radiograph import OTHER_PARTS, PART_OF_WORD
from .commit import CARD, list_files
from .export import ONNX_FOLDER, STUDY_FILE, onnx_files
from .onnx_export import export_onnx

_SOURCE = Path(__file__).parents[1] / "demo" / "static_space"
_EXAMPLES = Path(__file__).parents[1] / "resources" / "examples"
_MODEL_CARD = "model-card.md"
_BUILD_SECONDS = 600
_LATER = ("onnx/model", "runtime/ort-wasm-simd-threaded.wasm")  # large files: the page shows the progress of these
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; img-src 'self' blob:; "
    "style-src 'self'; worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}


def stage_static_space(folder: str | Path, *, title: str, checkpoint: str | None = None) -> Path:
    """Writes the page, the graph, the libraries and example studies into a new or empty folder.

    Any web server that serves the folder runs the page; a browser reads the studies. The graph is that of `onnx/`
    beside the checkpoint, or else it is exported.

    Args:
        folder: The new folder.
        title: Title of the page and of the Space.
        checkpoint: Folder, Hub name, or name of a bundled checkpoint; the package's default if None.

    Raises:
        CheckpointError: If the checkpoint cannot be exported, or has a graph for each body part.
        HubError: If the folder is not empty, or npm or Node.js is missing or fails.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise HubError(f"{folder} is not empty; choose a new folder, so that nothing is lost")
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu", runtime="torch")
    original = find_weights(find_source(checkpoint))
    assert original is not None  # the predictor was loaded from it
    missing = [name for name in ("npm", "node") if shutil.which(name) is None]
    if missing:
        raise HubError(f"{' and '.join(missing)} not found: a static Space is built with Node.js (https://nodejs.org)")
    folder.mkdir(parents=True, exist_ok=True)
    graphs = onnx_files(original)
    if graphs:
        (folder / ONNX_FOLDER).mkdir()
        for file in [file for file in graphs if file.name in ("model.onnx", STUDY_FILE)]:
            shutil.copyfile(file, folder / ONNX_FOLDER / file.name)
    else:
        export_onnx(original, folder)
    study = json.loads((folder / ONNX_FOLDER / STUDY_FILE).read_text(encoding="utf-8"))
    if "graphs" in study:
        raise CheckpointError(
            f"{study['checkpoint']} has a graph for each body part, which the static page cannot choose from; use a "
            "checkpoint with one model, or a Gradio Space"
        )
    _build(folder)
    examples = _copy_examples(folder, study["trained_on_phantoms"])
    card = original / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "This checkpoint has no model card.\n"
    (folder / _MODEL_CARD).write_text(text, encoding="utf-8")
    page = {
        "title": title,
        "study": study,
        "finding": finding_noun(study["positive_class_description"]),
        "points": OPERATING_POINTS,
        "performance": _describe_performance(predictor),
        "examples": examples,
        "sizes": {name: size for name, size in list_files(folder) if name.startswith(_LATER)},
        "inferno": np.ascontiguousarray(colour_heat(np.arange(256)[None] / 255)).view("<u4").ravel().tolist(),
        "parts": {"words": PART_OF_WORD, "others": OTHER_PARTS.split()},
    }
    (folder / "page.json").write_text(json.dumps(page), encoding="utf-8")
    (folder / CARD).write_text(_readme(title, study), encoding="utf-8")
    _fill_in_policy_and_files(folder)
    return folder


def _build(folder: Path) -> None:
    """Bundles the page with the packages of `package.json`, which are kept in the cache folder."""
    packages = (_SOURCE / "package.json").read_bytes()
    place = home_folder() / "static_space" / hashlib.sha256(packages).hexdigest()[:16]
    done = place / ".installed"
    if not done.is_file():
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_bytes(packages)
        _run(place, "npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev")
        replace_file(done, b"")
    with TemporaryDirectory(prefix=".build-", dir=place) as build:  # finds node_modules above it
        shutil.copytree(_SOURCE, build, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        (Path(build) / "node_modules").symlink_to(place / "node_modules")
        _run(Path(build), "node", "build.js", str(folder.resolve()))


def _run(place: Path, *command: str) -> None:
    try:
        found = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise HubError(f"{command[0]} took more than {_BUILD_SECONDS} seconds; check the network") from None
    if found.returncode != 0:
        lines = [line for line in found.stderr.splitlines() if line.strip()][:3]
        raise HubError(
            f"{' '.join(command[:2])} failed: {' '.join(lines)}. Check the network and the version of Node.js"
        )


def _copy_examples(folder: Path, phantoms: bool) -> list[dict[str, Any]]:
    """Copies films, or phantoms for a checkpoint that knows only these, and returns what the page says about them."""
    entries = json.loads((_EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    films, drawn = ([one for one in entries if one["set"] == name] for name in ("film", "study"))
    found = []
    for one in (drawn if phantoms or not films else films)[:6]:
        (folder / "examples").mkdir(exist_ok=True)
        for name in one["files"]:
            shutil.copyfile(_EXAMPLES / name, folder / "examples" / name)
        part, is_film = one["body_part"], bool(one.get("source"))
        finding = (one["finding"] or ("no fracture" if is_film else "no finding")).replace("_", " ")
        seen = "a fracture" if one["label"] == "abnormal" else "no fracture"
        known = f"two radiologists saw {seen} in this X-ray." if is_film else f"a synthetic picture with {finding}."
        found.append(
            {
                "caption": f"{(REGION_WORDS.get(part, part) if is_film else part).capitalize()}: {finding}",
                "note": known,
                "credit": one.get("credit"),
                "files": [f"examples/{name}" for name in one["files"]],
            }
        )
    return found


def _describe_performance(predictor: StudyPredictor) -> dict[str, dict[str, str]]:
    """What each band achieved on held-out studies, by operating point, as sentences."""
    config, measured = predictor.model.config, predictor.measured_performance
    found: dict[str, dict[str, str]] = {}
    for point, threshold in config.operating_points.items():
        limits = config.find_band_limits(threshold)
        bands = {band: measured.get_band(band, limits, None) for band in ("low", "uncertain", "suspected")}
        found[point] = {band: str(one) for band, one in bands.items() if one is not None}
    return found


def _fill_in_policy_and_files(folder: Path) -> None:
    """Writes policy, version and files into page and service worker."""
    page = folder / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace("__POLICY__", _POLICY), encoding="utf-8")
    names = [name for name, _ in list_files(folder) if name not in ("sw.js", CARD)]
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    later = [name for name in names if name.startswith(_LATER)]
    values = {
        "__VERSION__": digest.hexdigest()[:16],
        "__FIRST__": json.dumps([name for name in names if name not in later]),
        "__LATER__": json.dumps(later),
        "__POLICY__": _POLICY,
    }
    worker = folder / "sw.js"
    text = worker.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    worker.write_text(text, encoding="utf-8")


def _readme(title: str, study: dict[str, Any]) -> str:
    front = {
        "title": title,
        "sdk": "static",
        "app_file": "index.html",
        "license": study["license"] or "other",
        "short_description": "Reads X-rays in the browser. Not a medical device.",
        "custom_headers": _HEADERS,
    }
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        "A page that looks for findings in X-rays. The model runs in the visitor's browser: no X-ray is sent "
        "anywhere, and the page may not connect to another server.\n\n"
        "**For research and teaching only. Not a medical device. Do not use it for patient care.**\n\n"
        f"Checkpoint: {study['checkpoint']}; its card and licence are in [{_MODEL_CARD}]({_MODEL_CARD}). Licences of "
        "the libraries are in [licenses.txt](licenses.txt). To run it on your own machine, serve the folder, for "
        "example with `python -m http.server --bind 127.0.0.1`, and open http://127.0.0.1:8000.\n"
    )
