"""Small trees of noise in the published layouts of open datasets."""

import csv
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

GRAZ_COLUMNS = [
    "filestem", "patient_id", "study_number", "timehash", "gender", "age", "laterality", "projection",
    "initial_exam", "ao_classification", "cast", "diagnosis_uncertain", "osteopenia", "fracture_visible", "metal",
    "pixel_spacing", "device_manufacturer"
]  # fmt: skip
ATLAS_COLUMNS = [
    "image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count",
    "frontal", "lateral", "oblique"
]  # fmt: skip


def _write(file, columns, rows, encoding="utf-8"):
    with file.open("w", newline="", encoding=encoding) as lines:
        writer = csv.DictWriter(lines, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _draw(seed, size, finding, view=0):
    """A view of noise. Some views do not show the finding of their study."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    return SimpleNamespace(pixels=pixels, box=(9, 12, 21, 30) if finding and (seed + view) % 3 else None)


def _yolo(drawn, number):
    height, width = drawn.pixels.shape
    x0, y0, x1, y1 = drawn.box
    return f"{number} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}\n"


def write_grazpedwri(root, n_patients=40, size=48):
    """Wrists with 16 bits in two folders, boxes as YOLO files, a table with a byte-order mark; boxes by stem."""
    (root / "labels").mkdir(parents=True)
    rng, rows, truth = np.random.default_rng(3), [], {}
    for patient in range(1, n_patients + 1):
        for study in range(1, 2 + (patient % 5 == 0)):
            broken, metal = rng.random() < 0.5, rng.random() < 0.15
            for view in range(2):
                stem = f"{patient:04d}_{1_000_000 + 17 * patient:010d}_{study:02d}_WRI-L{view + 1}_M009"
                kind = "displaced_fracture" if broken else "hardware" if metal else None
                drawn = _draw(1000 * patient + study, size, kind, view)
                folder = root / f"images_part{1 + patient % 2}"
                folder.mkdir(exist_ok=True)
                Image.fromarray(drawn.pixels.astype(np.uint16) * 200).save(folder / f"{stem}.png")
                text = "8 0.1 0.1 0.05 0.05\n"
                if drawn.box:
                    text += _yolo(drawn, 3 if broken else 4)
                    truth[stem] = drawn.box
                (root / "labels" / f"{stem}.txt").write_text(text)
                flags = {
                    "fracture_visible": broken and drawn.box is not None, "metal": kind == "hardware",
                    "cast": patient % 7 == 0,
                }  # fmt: skip
                row = {"filestem": stem, "patient_id": patient, "study_number": study, "laterality": "L"}
                rows.append(row | {"projection": view + 1} | {name: "1" * flag for name, flag in flags.items()})
    _write(root / "dataset.csv", GRAZ_COLUMNS, rows, "utf-8-sig")
    return rows, truth


def write_fracatlas(root, n=200, size=48):
    """Arms and shoulders as JPEG in two folders, boxes as YOLO files where fractured."""
    for folder in ("images/Fractured", "images/Non_fractured", "Annotations/YOLO"):
        (root / folder).mkdir(parents=True)
    rows, truth = [], {}
    for number in range(n):
        part = ("hand", "wrist", "shoulder")[number % 3]
        kind = "displaced_fracture" if number % 4 == 1 else "hardware" if number % 23 == 2 else None
        drawn = _draw(5000 + number, size, kind)
        broken = kind == "displaced_fracture" and drawn.box is not None
        name = f"IMG{number:07d}"
        file = root / "images" / ("Fractured" if broken else "Non_fractured") / f"{name}.jpg"
        cv2.imwrite(str(file), drawn.pixels)
        if broken:
            (root / "Annotations" / "YOLO" / f"{name}.txt").write_text(_yolo(drawn, 0))
            truth[name] = drawn.box
        row = dict.fromkeys(ATLAS_COLUMNS, 0) | {"image_id": f"{name}.jpg", "frontal": 1}
        row |= {"shoulder" if part == "shoulder" else "hand": 1, "hardware": int(kind == "hardware")}
        row |= {"fractured": int(broken), "fracture_count": int(broken), "multiscan": int(number % 50 == 7)}
        rows.append(row)
    _write(root / "dataset.csv", ATLAS_COLUMNS, rows)
    return rows, truth
