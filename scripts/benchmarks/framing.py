"""Measures what happens to a checkpoint on close-ups, and on films that look different, and where its heatmap points.

Topics (20 ms a film, and 13 forward passes for each checkpoint: 7 minutes for 250 films and an EfficientNet-Lite0):
  framing   AUROC of held-out films as they are, cropped around the limb, and with another contrast, resolution,
            quality or border; the paired difference to the films as they are; the share that the checkpoint calls out
            of distribution
  pointing  on the abnormal ones of these films as they are (10 seconds): share of heatmaps whose hottest pixel lies in
            the finding's box, and overlap of the boxes; the paired differences to the first checkpoint

Crops are cut from the original file. Those of an abnormal film contain a box of a finding with its surroundings. Those
of a normal film contain a place on the limb that is as large, as far from the borders of the film and as bright as a
box of an abnormal one, so that only the finding differs. `placement` says how well the place itself tells the two
apart: .5 is not at all.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from harness import RESULTS, record
from tqdm.auto import tqdm

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.common import BUNDLED, replace_file
from mura_hf.errors import DatasetError, MuraError
from mura_hf.evaluation import load_split
from mura_hf.evaluation.ood_detection import list_images
from mura_hf.evaluation.pointing_game import play_pointing_game
from mura_hf.evaluation.splits import groups_of, image_source, rows_to_measure, spread_indices
from mura_hf.metrics import GroupReport, mean_with_interval, paired_comparison, sign_flip_test
from mura_hf.models.golden_mura import digest_weights
from mura_hf.retrieval import feature_means

ZOOMS = (1.5, 2.0, 3.0)
NATIVE = "native"
_GRID = 64  # side of the film on which the limb is found
_SURROUNDINGS = 0.1  # of a window's side, on each side of the box
_CANDIDATES = 200
_BRIGHTNESS_WEIGHT = 0.3  # of a difference in brightness beside one of the distance to a border
_QUICK = 12  # films
TOPICS = ("framing", "pointing")


def _scale(levels: np.ndarray, factor: float) -> np.ndarray:
    height, width = levels.shape
    return cv2.resize(levels, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)


def _jpeg(levels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def _change_gamma(levels: np.ndarray, power: float) -> np.ndarray:
    return np.rint(255 * (levels / 255) ** power).astype(np.uint8)


def _change_contrast(levels: np.ndarray, factor: float) -> np.ndarray:
    mean = levels.mean()
    return np.rint(np.clip(mean + factor * (levels - mean), 0, 255)).astype(np.uint8)


def _add_border(levels: np.ndarray) -> np.ndarray:
    side = round(0.06 * max(levels.shape))
    return np.pad(levels, side, constant_values=230)


APPEARANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gamma .6": lambda levels: _change_gamma(levels, 0.6),
    "gamma 1.6": lambda levels: _change_gamma(levels, 1.6),
    "contrast .6": lambda levels: _change_contrast(levels, 0.6),
    "contrast 1.4": lambda levels: _change_contrast(levels, 1.4),
    "half resolution": lambda levels: _scale(levels, 2),
    "third resolution": lambda levels: _scale(levels, 3),
    "JPEG quality 30": lambda levels: _jpeg(levels, 30),
    "inverted": lambda levels: 255 - levels,
    "light border": _add_border,
}
"""Name of a change -> what makes it of gray levels, uint8 `[H, W]`."""

VARIANTS = (NATIVE, *(f"zoom {zoom:g}" for zoom in ZOOMS), *APPEARANCES)


class Place(NamedTuple):
    """A place on a film: its size and its smallest distances to the borders, as shares of the film, and how bright the
    limb is there (share of the limb that is darker)."""

    width: float
    height: float
    from_side: float
    from_end: float
    brightness: float


def find_limb(levels: np.ndarray) -> np.ndarray:
    """Ranks the places of a film by brightness: float `[64, 64]`, the share of the limb that is darker; nan beside it.

    The limb is what is brighter than Otsu's threshold of the blurred film.
    """
    small = cv2.GaussianBlur(cv2.resize(levels, (_GRID, _GRID), interpolation=cv2.INTER_AREA), (5, 5), 0)
    _, mask = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    inside = np.sort(small[mask > 0])
    return np.where(mask > 0, np.searchsorted(inside, small) / max(1, len(inside)), np.nan)


def describe_place(limb: np.ndarray, shape: tuple[int, ...], box: Sequence[int]) -> Place:
    """Describes the place of a box (x0, y0, x1, y1 in pixels, half open) on a film with this limb and shape."""
    height, width = shape
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
    rank = limb[min(_GRID - 1, int(y * _GRID)), min(_GRID - 1, int(x * _GRID))]
    sizes = (x1 - x0) / width, (y1 - y0) / height
    return Place(*sizes, min(x, 1 - x), min(y, 1 - y), 0.0 if np.isnan(rank) else float(rank))


def find_similar_place(
    limb: np.ndarray, shape: tuple[int, ...], place: Place, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Returns a box on another film that is most like a place: one of 200 random places on the limb."""
    height, width = shape
    rows, columns = np.nonzero(np.isfinite(limb))
    chosen = rng.permutation(len(rows))[:_CANDIDATES]
    rows, columns = rows[chosen], columns[chosen]
    y, x = (rows + rng.random(len(rows))) / _GRID, (columns + rng.random(len(rows))) / _GRID
    differences = (
        np.abs(np.minimum(x, 1 - x) - place.from_side)
        + np.abs(np.minimum(y, 1 - y) - place.from_end)
        + _BRIGHTNESS_WEIGHT * np.abs(limb[rows, columns] - place.brightness)
    )
    best = int(differences.argmin())
    left, top = (x[best] - place.width / 2) * width, (y[best] - place.height / 2) * height
    x0, y0 = max(0, round(left)), max(0, round(top))
    x1, y1 = round(left + place.width * width), round(top + place.height * height)
    return x0, y0, min(width, max(x0 + 1, x1)), min(height, max(y0 + 1, y1))


def find_window(
    shape: tuple[int, ...], box: Sequence[int], zoom: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Draws a window with the film's proportions, 1 / zoom as large, that contains a box with its surroundings.

    A box that is too large for that is in the middle, as far as the film allows.
    """
    found = []
    for side, start, end in ((shape[0], box[1], box[3]), (shape[1], box[0], box[2])):
        size = round(side / zoom)
        margin = round(_SURROUNDINGS * size)
        lowest, highest = max(0, end + margin - size), min(side - size, start - margin)
        middle = min(max(0, (start + end - size) // 2), side - size)
        first = int(rng.integers(lowest, highest + 1)) if lowest <= highest else middle
        found.append(slice(first, first + size))
    return found[0], found[1]


def make_variants(
    levels: np.ndarray, box: Sequence[int], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[Any]]:
    """Returns the variants of a film in the order of `VARIANTS`, uint8 `[h, w]`, and the windows of its crops."""
    windows = [find_window(levels.shape, box, zoom, rng) for zoom in ZOOMS]
    crops = [levels[window] for window in windows]
    return [levels, *crops, *(change(levels) for change in APPEARANCES.values())], windows


@torch.no_grad()
def predict_films(predictor: StudyPredictor, films: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Predicts films, uint8 `[H, W]`, each as a study of its own, in one batch.

    Returns:
        P(abnormal), float64 `[n]`, and whether each is out of distribution, bool `[n]`; False without a detector.
    """
    pixel_values = predictor.processor(images=list(films), return_tensors="pt")["pixel_values"]
    pixel_values = pixel_values.to(predictor.model.device, memory_format=torch.channels_last)
    output = predictor.model(pixel_values[:, None])
    refused = np.zeros(len(films), bool)
    if (detector := predictor.ood_detector) is not None:
        codes = feature_means(output.views).cpu().numpy()
        refused = (detector.score(codes) > detector.thresholds(1)).any(1)
    return output.study_logits.double().softmax(-1)[:, 1].cpu().numpy(), refused


def hold_out(checkpoints: Sequence[str], data_dir: str | Path, split: str) -> Dataset:
    """Returns the rows of a split in the cut of the first checkpoint that no checkpoint has seen (see `load_splits`).

    They are those that the checkpoints are for, with undecoded images. Abnormal ones without boxes are left out.

    Raises:
        DatasetError: If there are no boxes, or no normal and abnormal rows.
    """
    rows, *others = [load_split(BUNDLED.get(name, name), data_dir, split)[0] for name in checkpoints]
    if "boxes" not in rows.column_names:
        raise DatasetError(f"{data_dir} has no boxes, so close-ups cannot be cut around findings; use data with boxes")
    unseen = set(rows["study_id"]).intersection(*(other["study_id"] for other in others))
    rows = rows_to_measure(rows.cast_column("image", Image(decode=False)))
    columns = zip(rows["study_id"], rows["label"], rows["boxes"], strict=True)
    rows = rows.select(
        [n for n, (study, label, boxes) in enumerate(columns) if study in unseen and (label == 0 or boxes)]
    )
    if len(set(rows["label"])) < 2:
        raise DatasetError(
            f"{split} of {data_dir} has no normal and abnormal films that none of {', '.join(checkpoints)} has seen"
        )
    return rows


def measure_framing(predictors: dict[str, StudyPredictor], rows: Dataset, seed: int = 0) -> dict[str, Any]:
    """Predicts every variant of every film with every checkpoint; each film is read once.

    Args:
        predictors: Name -> checkpoint.
        rows: Rows of `hold_out`.
        seed: Of the windows.

    Returns:
        `films`, `abnormal`, `patients`; `checkpoints`: name -> variant -> `auroc` with `low` and `high`, `sensitivity`
        and `specificity` at the default operating point, `change`, the difference in AUROC to the films as they are
        with its interval, `refused`, the share out of distribution, and, for checkpoints after the first one,
        `against_first`, the difference in AUROC to the first one; `placement`: variant -> property of the window ->
        AUROC for the label; `seconds`.
    """
    started = time.monotonic()
    labels, patients = np.asarray(rows["label"]), list(rows["patient_id"])
    groups = groups_of(rows)
    shape = (len(rows), len(VARIANTS))
    probabilities = {name: np.zeros(shape) for name in predictors}
    refused = {name: np.zeros(shape, bool) for name in predictors}
    properties = np.zeros((len(rows), 1 + len(ZOOMS), 3))
    places: dict[str, list[Place]] = {}
    for n in tqdm(np.argsort(-labels, kind="stable"), desc="Films"):  # abnormal ones first: the others take after them
        row, rng = rows[int(n)], np.random.default_rng([seed, int(n)])
        levels = read_radiograph(image_source(row["image"])).to_uint8()
        limb = find_limb(levels)
        if labels[n]:
            box = row["boxes"][rng.integers(len(row["boxes"]))]
            places.setdefault(groups[n], []).append(describe_place(limb, levels.shape, box))
        else:
            known = places.get(groups[n]) or [place for some in places.values() for place in some]
            box = find_similar_place(limb, levels.shape, known[rng.integers(len(known))], rng)
        films, windows = make_variants(levels, box, rng)
        for name, predictor in predictors.items():
            probabilities[name][n], refused[name][n] = predict_films(predictor, films)
        for at, window in enumerate(((slice(0, len(levels)), slice(0, levels.shape[1])), *windows)):
            properties[n, at] = _describe_window(levels, limb, window)
    report: dict[str, Any] = {"films": len(rows), "abnormal": int(labels.sum()), "patients": len(set(patients))}
    report["checkpoints"] = {}
    first = next(iter(predictors))
    for name, predictor in predictors.items():
        threshold = predictor.find_threshold()[1]
        measured = report["checkpoints"][name] = {}
        for at, variant in enumerate(VARIANTS):
            values = probabilities[name][:, at]
            group = GroupReport.measure(labels, values, patients, threshold=threshold)
            low, high = group.intervals.get("auroc", (None, None))
            row = measured[variant] = {"auroc": group.figures["auroc"], "low": low, "high": high}
            row |= {figure: group.figures[figure] for figure in ("sensitivity", "specificity")}
            if variant != NATIVE:
                row["change"] = paired_comparison(labels, values, probabilities[name][:, 0], patients)["auroc"]
            if name != first:
                row["against_first"] = paired_comparison(labels, values, probabilities[first][:, at], patients)[
                    "auroc"
                ]
            row["refused"] = float(refused[name][:, at].mean()) if predictor.ood_detector is not None else None
    report["placement"] = {
        variant: {
            what: round(_auroc(labels, properties[:, at, column]), 3)
            for column, what in enumerate(("distance to the border", "mean gray level", "share of limb"))
        }
        for at, variant in enumerate(VARIANTS[: 1 + len(ZOOMS)])
    }
    return {**report, "seconds": round(time.monotonic() - started, 1)}


def _describe_window(levels: np.ndarray, limb: np.ndarray, window: tuple[slice, slice]) -> tuple[float, float, float]:
    middles = [(part.start + part.stop) / 2 / side for part, side in zip(window, levels.shape, strict=True)]
    mask = cv2.resize(np.isfinite(limb).astype(np.float32), levels.shape[::-1])
    return sum(min(one, 1 - one) for one in middles), float(levels[window].mean()), float(mask[window].mean())


def _auroc(labels: np.ndarray, values: np.ndarray) -> float:
    span = max(float(np.ptp(values)), 1e-12)
    return GroupReport.measure(labels, (values - values.min()) / span, range(len(labels))).figures["auroc"]


def measure_pointing(predictors: dict[str, StudyPredictor], rows: Dataset) -> dict[str, Any]:
    """Compares where the heatmaps of checkpoints point on the same abnormal films.

    Returns:
        `films`, `single` (those with exactly one box) and `patients`. `checkpoints`: name -> `hits`, `overlap` and
        `iou`, see `PointingGame.report`: of the films with one box, and `iou` of all. For checkpoints after the first
        one, `against_first` has their differences to it, each with the interval `low` and `high` over films, since
        the abnormal films of FracAtlas lie in too few blocks, and the `p_value` of exchanging whole blocks.
    """
    games = {name: play_pointing_game(predictor, rows) for name, predictor in predictors.items()}
    first = next(iter(games.values()))
    patients, every = np.asarray(first.rows["patient_id"]), np.ones(len(first.single), bool)
    report: dict[str, Any] = {"films": len(every), "single": int(first.single.sum()), "patients": len(set(patients))}
    report["checkpoints"] = {}
    for name, game in games.items():
        measured = report["checkpoints"][name] = {}
        for figure, array, members in (
            ("hits", "hits", first.single), ("overlap", "overlaps", first.single), ("iou", "overlaps", every),
        ):  # fmt: skip
            ours, theirs = (getattr(one, array)[members].astype(float) for one in (game, first))
            measured[figure] = float(ours.mean())
            if game is not first:
                sums = [(ours - theirs)[patients[members] == block].sum() for block in np.unique(patients[members])]
                measured.setdefault("against_first", {})[figure] = {
                    **mean_with_interval(ours - theirs, range(len(ours))),
                    "p_value": float(sign_flip_test(np.asarray(sums)[:, None])[0]),
                }
    return report


def answer_radiographs(predictors: dict[str, StudyPredictor], folder: Path) -> dict[str, dict[str, Any]]:
    """Returns file -> checkpoint -> its answer, for every radiograph of a folder."""
    answers: dict[str, dict[str, Any]] = {}
    for file, *_ in list_images(folder):
        for name, predictor in predictors.items():
            study = predictor([file], heatmaps=False)
            answers.setdefault(Path(file).name, {})[name] = {
                field: getattr(study, field) for field in ("probability", "threshold", "label", "band")
            }
    return answers


def add_to_evaluation(name: str, report: dict[str, Any]) -> None:
    """Adds the figures of a checkpoint to its `evaluation.json`; evaluating it again removes them.

    Raises:
        DatasetError: If the checkpoint has no evaluation, or one of other weights.
    """
    folder = BUNDLED.get(name, Path(name))
    file = folder / "evaluation.json"
    evaluation = json.loads(file.read_text()) if file.is_file() else {}
    if evaluation.get("weights_sha256") != digest_weights(folder):
        raise DatasetError(f"{file} is missing or about other weights; run scripts/evaluate.py first")
    sizes = {size: report[size] for size in ("films", "abnormal", "patients")}
    evaluation["framing"] = {**sizes, "variants": report["checkpoints"][name]}
    replace_file(file, (json.dumps(evaluation, indent=2) + "\n").encode())


def framing_table(report: dict[str, Any]) -> str:
    """Returns the figures as one Markdown table: for each checkpoint AUROC, difference to native, share refused."""
    names = list(report["checkpoints"])
    header = ["film", *(f"{name}: {what}" for name in names for what in ("AUROC", "minus native", "refused"))]
    lines = [header, ["---"] * len(header)]
    for variant in VARIANTS:
        cells = [variant]
        for name in names:
            row = report["checkpoints"][name][variant]
            change = row.get("change")
            refused = "no detector" if row["refused"] is None else f"{100 * row['refused']:.0f} %"
            cells += [
                _with_interval(row["auroc"], row["low"], row["high"]),
                "" if change is None else _with_interval(change["difference"], change["low"], change["high"], "+"),
                refused,
            ]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_interval(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    text, *bounds = (f"{one:{sign}.3f}".replace("0.", ".", 1) for one in (value, low, high) if one is not None)
    return f"{text} ({' to '.join(bounds)})" if bounds else text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", action="append", required=True, metavar="NAME",
                        help="bundled name or folder; repeat it to compare several on films that none has seen. The "
                        "first one decides what a patient is")  # fmt: skip
    parser.add_argument("--data_dir", required=True, help="data with boxes that the checkpoints were trained on")
    parser.add_argument("--topics", nargs="+", choices=TOPICS, default=list(TOPICS), help="measure only these")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--radiographs", type=Path, help="folder of further radiographs, whose answers are listed")
    parser.add_argument(
        "--for_card", action="store_true", help="add the figures of the first checkpoint to its evaluation.json"
    )
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} films, nothing is recorded")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file that the figures are appended to")
    options = parser.parse_args(argv)
    names = list(dict.fromkeys(options.checkpoint))
    try:
        rows = hold_out(names, options.data_dir, options.split)
        if options.quick:
            sides = [np.flatnonzero(np.asarray(rows["label"]) == label) for label in (0, 1)]
            rows = rows.select(np.concatenate([side[spread_indices(len(side), _QUICK // 2)] for side in sides]))
        predictors = {name: StudyPredictor.from_pretrained(name) for name in names}
        measured: dict[str, dict[str, Any]] = {}
        if "framing" in options.topics:
            report = measured["framing"] = {"split": options.split, **measure_framing(predictors, rows)}
            if options.for_card:
                add_to_evaluation(names[0], report)
            if options.radiographs is not None:
                report["radiographs"] = answer_radiographs(predictors, options.radiographs)
        if "pointing" in options.topics:
            measured["pointing"] = {"split": options.split, **measure_pointing(predictors, rows)}
    except MuraError as error:
        raise SystemExit(str(error)) from None
    for topic, report in measured.items():
        if not options.quick:
            record(topic, report, options.results)
    if report := measured.get("framing"):
        print(framing_table(report))
        print(f"\n{report['films']} films, {report['abnormal']} abnormal. Labels by the place of a crop (AUROC):")
        print(json.dumps(report["placement"]))
        for file, answers in report.get("radiographs", {}).items():
            print(file, json.dumps(answers))
    if report := measured.get("pointing"):
        print(json.dumps(report))
    return measured


if __name__ == "__main__":
    main()
