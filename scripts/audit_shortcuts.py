"""Audits a checkpoint for shortcuts: phantoms with and without a marker, collimator, cast, ring or metal, and
radiographs whose corners and markers are painted over. Writes shortcuts.json, and worst.png to look at. It shows
patients, so do not share it.

With --add_to_evaluation, the figures of the phantoms are added to the checkpoint's evaluation.json for its card, along
with how far heatmaps follow an added finding. Evaluating again removes them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.common import BUNDLED, replace_file
from mura_hf.errors import DatasetError, MuraError
from mura_hf.evaluation import describe_shortcuts, load_split, measure_masking
from mura_hf.evaluation.masking import fill_boxes
from mura_hf.evaluation.pointing_game import compare_with_box
from mura_hf.evaluation.shortcuts import DETECTORS, HIDING_FACTORS, LIMIT, N_STUDIES, Shift, ShiftCollection
from mura_hf.evaluation.splits import image_source
from mura_hf.evaluation.summary import with_old_names
from mura_hf.metrics import mean_with_interval
from mura_hf.models import BODY_PARTS, LABELS
from mura_hf.models.golden_mura import digest_weights
from mura_hf.phantoms import MIX, render_phantom

FACTORS: dict[str, dict[str, bool]] = {
    "marker": {"marker": True},
    "collimation": {"collimated": True},
    "cast": {"cast": True},
    "ring": {"jewel": True},
    "metal": {"metal": True},
}
"""Factor that is added besides findings -> the option of `render_phantom`."""

EXPECTED_FACTORS = ("finding", *MIX, "metal")
"""Factors that should change predictions; plates and wires are abnormal in MURA's sense."""

_PLAIN: dict[str, Any] = {"marker": False, "collimated": False, "cast": False, "jewel": False}
_VIEWS = 3
_STRIP, _GAP = 20, 6  # pixels: height of a line of text, and distance between a pair

Pair = tuple[Shift, np.ndarray, np.ndarray]
"""A shift with its images before and after, uint8 `[H, W]`."""


def draw_findings(n: int, seed: int) -> list[str]:
    """Draws the kinds of finding of `n` phantom patients with the shares of `MIX`."""
    shares = np.array(list(MIX.values()))
    return np.random.default_rng([seed, 0]).choice(list(MIX), size=n, p=shares / shares.sum()).tolist()


def measure_counterfactuals(
    predictor: StudyPredictor, n: int = 210, seed: int = 1_000_000, *, size: int = 512
) -> tuple[ShiftCollection, dict[str, list[Pair]]]:
    """Renders pairs of studies that differ in one factor only, and compares the predictions.

    Outside the factor the images of a pair are equal bit for bit. Findings, and casts and rings, which hide findings,
    are added to normal patients. Other factors are added to normal and to abnormal patients in turn, because something
    that indicates "normal" changes no prediction that is normal already.

    Args:
        predictor: The checkpoint.
        n: Number of patients with three views each. Body parts take turns; findings have the shares of `MIX`.
        seed: Seed of the first patient. Seeds of a training tree below 2^32 are unlikely to occur again.
        size: Long side in pixels.

    Returns:
        Shifts of `finding` (all kinds), each kind of `MIX`, and each of `FACTORS`, and the `largest_pairs` of
        `FACTORS`. Patients whose images a factor does not change (a shoulder wears no ring; a collimator may lie
        outside the image) do not count for it.
    """
    shifts, pairs = ShiftCollection(["finding", *MIX, *FACTORS]), {factor: [] for factor in FACTORS}
    for number, kind in enumerate(tqdm(draw_findings(n, seed), desc="Counterfactuals", leave=False)):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        bases = {factor: number // len(BODY_PARTS) % 2 if factor not in HIDING_FACTORS else 0 for factor in FACTORS}
        variants = [_PLAIN, {**_PLAIN, "finding": kind}]
        variants += [{**variants[bases[factor]], **option} for factor, option in FACTORS.items()]
        studies: list[list[np.ndarray]] = [[] for _ in variants]
        rendered = kind  # may be another kind that suits the body part
        for view in range(_VIEWS):  # view by view, because the variants share cached shadows
            for study, options in zip(studies, variants, strict=True):
                phantom = render_phantom(patient, body_part=part, view=view, size=size, **options)
                study.append(phantom.pixels)
                rendered = phantom.finding or rendered
        predictions = [predictor(study, body_part=part, heatmaps=False) for study in studies]
        changes = [("finding", 0, 1), (rendered, 0, 1)]
        changes += [(factor, base, index) for index, (factor, base) in enumerate(bases.items(), 2)]
        for factor, before, after in changes:
            changed = [int((one != other).sum()) for one, other in zip(studies[before], studies[after], strict=True)]
            if factor in FACTORS and not any(changed):
                continue
            shift = Shift(
                factor=factor,
                study=f"{part} {patient}",
                patient=str(patient),
                label=before,
                before=predictions[before].probability,
                after=predictions[after].probability,
                threshold=predictions[before].threshold,
            )
            shifts.add(shift)
            if factor in FACTORS:
                view = int(np.argmax(changed))
                pairs[factor] = largest_pairs([*pairs[factor], (shift, studies[before][view], studies[after][view])])
    return shifts, pairs


def measure_sensitivity(
    predictor: StudyPredictor, n: int = 210, seed: int = 2_000_000, *, size: int = 512
) -> dict[str, Any]:
    """Renders views with and without a finding, equal bit for bit elsewhere, and compares their heatmaps.

    A difference is caused by the finding, since nothing else was changed; heat that lies there without it is habit.

    Args:
        predictor: A checkpoint with heatmaps.
        n: Number of patients with one view each; those whose finding is not visible in the view do not count.
        seed: Seed of the first patient. Seeds of a training tree below 2^32 are unlikely to occur again.
        size: Long side in pixels.

    Returns:
        `overall` and each kind of finding: `n`; `inside` and `inside_without`, the mean share of the heat inside the
        finding's box with and without the finding; their `difference` with `low` and `high` (95 % interval over
        patients); `hits` and `hits_without`, the shares whose hottest pixel lies in the box; and
        `area`, the mean share of the image that the box covers.
    """
    rows: dict[str, list[dict[str, float]]] = {"overall": [], **{kind: [] for kind in MIX}}
    for number, drawn in enumerate(tqdm(draw_findings(n, seed), desc="Added findings", leave=False)):
        part, view = BODY_PARTS[number % len(BODY_PARTS)], (number // len(BODY_PARTS)) % 3
        abnormal, normal = (
            render_phantom(seed + number, body_part=part, view=view, finding=finding, size=size)
            for finding in (drawn, None)
        )
        if abnormal.box is None or abnormal.finding is None:
            continue
        x0, y0, x1, y1 = abnormal.box
        row = {"area": (x1 - x0) * (y1 - y0) / abnormal.pixels.size}
        for suffix, phantom in (("", abnormal), ("_without", normal)):
            heatmap = predictor([phantom.pixels], body_part=part).views[0].heatmap
            assert heatmap is not None
            row[f"hits{suffix}"], _, row[f"inside{suffix}"] = compare_with_box(heatmap, abnormal.box)
        for name in ("overall", abnormal.finding):
            rows[name].append(row)
    report = {}
    for name, members in rows.items():
        if members:
            columns = {key: np.asarray([row[key] for row in members], np.float64) for key in members[0]}
            difference = mean_with_interval(columns["inside"] - columns["inside_without"], range(len(members)))
            means = {key: float(values.mean()) for key, values in columns.items()}
            report[name] = {"n": len(members), **means, "difference": difference.pop("mean"), **difference}
    return report


def largest_pairs(pairs: list[Pair], n: int = 4) -> list[Pair]:
    """Returns the pairs with the largest shifts in descending order."""
    return sorted(pairs, key=lambda pair: pair[0].size, reverse=True)[:n]


def painted_pairs(shifts: ShiftCollection, rows: Dataset, n: int = 4) -> dict[str, list[Pair]]:
    """Returns the largest shifts of `measure_masking` by factor, with the view in which most is painted over."""
    rows, ids = rows.cast_column("image", Image(decode=False)), np.asarray(rows["study_id"])
    pairs: dict[str, list[Pair]] = {}
    for factor, measured in shifts.by_factor.items():
        pairs[factor] = []
        for shift in sorted(measured, key=lambda one: one.size, reverse=True)[:n]:
            files = rows.select(np.flatnonzero(ids == shift.study))["image"]
            views = [read_radiograph(image_source(file)).pixels for file in files]
            painted = [fill_boxes(pixels, DETECTORS[factor](pixels)) for pixels in views]
            view = int(np.argmax([np.mean(one != other) for one, other in zip(views, painted, strict=True)]))
            before, after = (np.rint(255 * one[view]).astype(np.uint8) for one in (views, painted))
            pairs[factor].append((shift, before, after))
    return pairs


def audit_shortcuts(
    predictor: StudyPredictor,
    rows: Dataset | None = None,
    *,
    counterfactuals: int = 0,
    n_studies: int = N_STUDIES,
    size: int = 512,
) -> tuple[dict[str, Any], dict[str, list[Pair]]]:
    """Measures how far predictions shift with things that are no findings.

    Args:
        predictor: The checkpoint.
        rows: Radiographs whose corners and markers are painted over (`measure_masking`); None skips this.
        counterfactuals: Number of phantom patients to render with and without a marker, a collimator, a cast, a ring,
            metal and a finding (`measure_counterfactuals`); 0 skips this.
        n_studies: Largest number of studies of `rows`.
        size: Long side of the phantoms in pixels.

    Returns:
        The record: `limit`, and if measured `counterfactuals` (formerly `twins`) and `masking`. And the pairs with the
        largest shifts by factor, which show patients: do not share them.
    """
    record: dict[str, Any] = {"limit": LIMIT}
    largest: dict[str, list[Pair]] = {}
    if counterfactuals:
        added, largest = measure_counterfactuals(predictor, counterfactuals, size=size)
        record["counterfactuals"] = record["twins"] = added.report(EXPECTED_FACTORS)
    if rows is not None:
        painted = measure_masking(predictor, rows, n_studies)
        record["masking"] = painted.report()
        largest |= {f"{factor} painted over": pairs for factor, pairs in painted_pairs(painted, rows).items()}
    return record, largest


def draw_largest_shifts(largest: dict[str, list[Pair]], path: str | Path, *, side: int = 220) -> None:
    """Draws pairs, each with its probabilities, on one sheet; a factor is a row.

    Raises:
        DatasetError: If there is nothing to draw, or the file cannot be written.
    """
    if not any(largest.values()):
        raise DatasetError("no shift was measured, so there is nothing to draw; give more studies")
    columns, lines = max(map(len, largest.values())), []
    for factor, pairs in largest.items():
        cells = [_draw_pair(*pair, side) for pair in pairs]
        cells += [np.zeros((side + 2 * _STRIP, 2 * side + _GAP), np.uint8)] * (columns - len(cells))
        title = np.zeros((_STRIP, columns * cells[0].shape[1]), np.uint8)
        _write(title, f"{factor}: without it (left) and with it (right)")
        lines += [title, np.hstack(cells)]
    if not cv2.imwrite(str(path), np.vstack(lines)):
        raise DatasetError(f"{path} cannot be written; check that its folder exists and is writable")


def _draw_pair(shift: Shift, before: np.ndarray, after: np.ndarray, side: int) -> np.ndarray:
    cell = np.zeros((side + 2 * _STRIP, 2 * side + _GAP), np.uint8)
    for left, image, probability in ((0, before, shift.before), (side, after, shift.after)):
        scale = side / max(image.shape)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
        cell[: small.shape[0], left : left + small.shape[1]] = small
        _write(cell[side : side + _STRIP, left : left + side], f"{probability:.3f}")
    _write(cell[side + _STRIP :], f"{shift.study[-36:]} {LABELS[shift.label]}")
    return cell


def _write(strip: np.ndarray, text: str) -> None:
    """Writes text into a strip of an image, in place."""
    origin = (3, strip.shape[0] - 6)
    strip[:] = cv2.putText(strip.copy(), text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 235, 1, cv2.LINE_AA)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Reads the evaluation of a checkpoint.

    Raises:
        DatasetError: If there is none of its present weights.
    """
    file = folder / "evaluation.json"
    report = json.loads(file.read_text()) if file.is_file() else {}
    if report.get("weights_sha256") != digest_weights(folder):
        raise DatasetError(f"{file} is missing or about other weights; run scripts/evaluate.py first")
    return with_old_names(report)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint, or the name of a bundled one")
    parser.add_argument("--output_dir", required=True, help="folder for shortcuts.json and worst.png")
    parser.add_argument(
        "--counterfactuals", "--twins", type=int, default=0, metavar="N",
        help="phantom patients to render with and without each factor",
    )  # fmt: skip
    parser.add_argument(
        "--add_to_evaluation", action="store_true",
        help="add the figures of the phantoms, also for heatmaps, to the checkpoint's evaluation.json",
    )  # fmt: skip
    parser.add_argument("--data_dir", help="radiographs whose corners and markers are painted over")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"], help="split of the radiographs")
    parser.add_argument("--n_studies", type=int, default=200, help="largest number of studies for each factor")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    if not options.counterfactuals and (options.add_to_evaluation or not options.data_dir):
        parser.error("nothing to audit with; give --counterfactuals, or --data_dir, or both")
    folder = BUNDLED.get(options.checkpoint, Path(options.checkpoint))
    output = Path(options.output_dir)
    try:
        evaluation = read_evaluation(folder) if options.add_to_evaluation else {}
        rows = load_split(folder, options.data_dir, options.split)[0] if options.data_dir else None
        predictor = StudyPredictor.from_pretrained(folder, device="cpu" if options.cpu else None)
        record, largest = audit_shortcuts(
            predictor, rows, counterfactuals=options.counterfactuals, n_studies=options.n_studies
        )
        output.mkdir(parents=True, exist_ok=True)
        (output / "shortcuts.json").write_text(json.dumps(record, indent=2) + "\n")
        draw_largest_shifts(largest, output / "worst.png")
        if evaluation:
            evaluation["shortcuts"] |= {name: record[name] for name in ("counterfactuals", "twins")}
            if "none" not in evaluation["randomization"]:  # else there are no heatmaps
                evaluation["sensitivity"] = measure_sensitivity(predictor, options.counterfactuals)
            replace_file(
                folder / "evaluation.json", (json.dumps(with_old_names(evaluation), indent=2) + "\n").encode()
            )
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(*describe_shortcuts(record), sep="\n")
    print(f"Written to {output}. worst.png shows patients, so do not share it.")


if __name__ == "__main__":
    main()
