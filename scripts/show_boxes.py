"""Draws images of a data set with their boxes on one sheet: FracAtlas, GRAZPEDWRI-DX or phantoms.

With a checkpoint, draws some of its mistakes at its default operating point instead, for its card: misses in the first
row, false alarms in the second one. Boxes of the data are orange, those of the checkpoint blue. `evaluation.json` then
lists the images; evaluating again removes the list, so a card never shows mistakes of other weights.
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

from mura_hf import StudyPredictor
from mura_hf.common import replace_file
from mura_hf.data import load_data
from mura_hf.errors import DatasetError, MuraError
from mura_hf.evaluation import load_split
from mura_hf.evaluation.splits import image_source, rows_to_measure
from mura_hf.models import LABELS
from mura_hf.models.golden_mura import digest_weights
from mura_hf.radiographs import read_radiograph
from mura_hf.retrieval.storage import SHARED_DATA

_LINE, _PREDICTED = (255, 176, 0), (80, 170, 255)  # orange and blue, which no radiograph contains
_STRIP = 18  # pixels for the text below an image


def draw_boxes(
    rows: Dataset, path: str | Path, *, columns: int = 6, lines: int = 5, side: int = 260, seed: int = 0
) -> None:
    """Draws random images that have boxes, each with its study and label. Boxes are drawn one pixel larger.

    Args:
        rows: A split with the column `boxes`.
        path: PNG file to write.
        columns: Images in a row.
        lines: Rows of images.
        side: Side of a cell in pixels.
        seed: Of the choice of images.

    Raises:
        DatasetError: If no row has a box, or the file cannot be written.
    """
    marked = [n for n, boxes in enumerate(rows["boxes"]) if boxes] if "boxes" in rows.column_names else []
    if not marked:
        raise DatasetError("no image has a box, so there is nothing to draw; use data with boxes")
    drawn = np.random.default_rng(seed).permutation(marked)[: columns * lines]
    chosen = rows.cast_column("image", Image(decode=False)).select(sorted(drawn.tolist()))
    _write_sheet(
        [_draw(row, side, f"{row['study_id'][-24:]} {LABELS[row['label']]}") for row in chosen], columns, path
    )


def draw_mistakes(
    checkpoint: str | Path,
    rows: Dataset,
    path: str | Path,
    *,
    columns: int = 3,
    side: int = 260,
    seed: int = 0,
    cpu: bool = False,
) -> list[str]:
    """Draws a row of abnormal images that a checkpoint misses, and a row of normal images that it flags, at random.

    Args:
        checkpoint: Folder of the checkpoint. Its default operating point decides.
        rows: A split of images of single views; only those in the scope of checkpoints are looked at.
        path: PNG file to write.
        columns: Images in a row, if the checkpoint makes as many mistakes.
        side: Side of a cell in pixels.
        seed: Of the order in which the images are looked at.
        cpu: Whether to stay on the CPU.

    Returns:
        Ids of the drawn studies.

    Raises:
        DatasetError: If the checkpoint makes no mistake, or the file cannot be written.
    """
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu" if cpu else None)
    rows = rows_to_measure(rows).cast_column("image", Image(decode=False))
    mistakes: dict[int, list[np.ndarray]] = {1: [], 0: []}
    drawn = []
    for number in tqdm(np.random.default_rng(seed).permutation(len(rows)), desc="Looking for mistakes"):
        row = rows[int(number)]
        found = mistakes[row["label"]]
        if len(found) == columns:
            continue
        study = predictor([image_source(row["image"])])
        if study.label != LABELS[row["label"]]:
            box = study.views[0].box
            text = f"{row['study_id'][-24:]} {LABELS[row['label']]}, P {study.probability:.2f}"
            found.append(_draw(row, side, text, [box] if box else []))
            drawn.append(row["study_id"])
        if all(len(found) == columns for found in mistakes.values()):
            break
    if not (cells := [*mistakes[1], *mistakes[0]]):
        raise DatasetError(f"{checkpoint} makes no mistake on these images, so there is nothing to draw")
    blank = np.zeros_like(cells[0])
    lines = [found + [blank] * (columns - len(found)) for found in mistakes.values()]
    _write_sheet([cell for line in lines for cell in line], columns, path)
    return drawn


def _write_sheet(cells: list[np.ndarray], columns: int, path: str | Path) -> None:
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    sheet = np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise DatasetError(f"{path} cannot be written; check that its folder exists and is writable")


def _draw(row: dict, side: int, text: str, predicted: Sequence[Sequence[int]] = ()) -> np.ndarray:
    plane = read_radiograph(image_source(row["image"])).to_uint8()
    scale = side / max(plane.shape)
    small = cv2.resize(plane, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.zeros((side + _STRIP, side, 3), np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small[..., None]
    for boxes, color in ((row["boxes"] or [], _LINE), (predicted, _PREDICTED)):
        for x0, y0, x1, y1 in boxes:
            corners = (round(x0 * scale) - 2, round(y0 * scale) - 2), (round(x1 * scale) + 1, round(y1 * scale) + 1)
            cv2.rectangle(cell, *corners, color, 1)
    cv2.putText(cell, text, (2, side + _STRIP - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)
    return cell


def _draw_for_card(checkpoint: str, data_dir: str, output: str, **options: Any) -> None:
    """Draws the mistakes of an evaluated checkpoint on data that may be shared, and lists them in its evaluation."""
    rows, data = load_split(checkpoint, data_dir, "valid")
    if data["key"] not in SHARED_DATA:
        raise DatasetError(f"{data_dir} holds images that may not be shared, so a card cannot show them")
    file = Path(checkpoint) / "evaluation.json"
    report = json.loads(file.read_text()) if file.is_file() else {}
    if report.get("weights_sha256") != digest_weights(checkpoint):
        raise DatasetError(f"{file} is missing or about other weights; run scripts/evaluate.py first")
    report["mistakes"] = draw_mistakes(checkpoint, rows, output, **options)
    replace_file(file, (json.dumps(report, indent=2) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="folder of the data; the kind of data is detected")
    parser.add_argument(
        "--checkpoint", help="draw mistakes of this checkpoint on valid into its folder, where its card shows them"
    )
    parser.add_argument("--output", help="PNG file to write; default: boxes.png, or mistakes.png of the checkpoint")
    parser.add_argument("--split", default="train", choices=["train", "dev", "calib", "valid"])
    parser.add_argument("--columns", type=int, help="images in a row; default: 6, or 3 mistakes")
    parser.add_argument("--lines", type=int, default=5)
    parser.add_argument("--side", type=int, default=260, help="side of a cell in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    drawn = {"side": options.side, "seed": options.seed}
    output = options.output or "boxes.png"
    try:
        if options.checkpoint:
            output = options.output or str(Path(options.checkpoint) / "mistakes.png")
            _draw_for_card(
                options.checkpoint, options.data_dir, output, columns=options.columns or 3, cpu=options.cpu, **drawn
            )
        else:
            datasets, _ = load_data(options.data_dir)
            shape = {"columns": options.columns or 6, "lines": options.lines}
            draw_boxes(datasets[options.split], output, **shape, **drawn)
    except MuraError as error:
        raise SystemExit(str(error)) from None
    print(f"Boxes: {output}")


if __name__ == "__main__":
    main()
