"""Makes the example pictures of the demo: real films of FracAtlas, and synthetic studies.

Run it after a change of the renderer: `python scripts/make_examples.py`. The demo itself only reads the files. With
`--fracatlas FOLDER`, the films are drawn again; without, those in the folder stay. They are drawn at random from
`valid` of the cut `FILM_SPLITS`, a fixed number of each region and label, and no answer of a model is looked at.
"""

import argparse
import base64
import csv
import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mura_hf.phantoms import render_phantom

# Body part, finding, number of views. The seeds belong to no training set of a bundled checkpoint.
STUDIES = (
    ("wrist", "displaced_fracture", 3),
    ("hand", None, 2),
    ("forearm", "hardware", 2),
    ("elbow", None, 2),
    ("finger", "displaced_fracture", 2),
    ("shoulder", None, 2),
    ("humerus", "lytic_lesion", 2),
    ("wrist", None, 3),
    ("hand", "subtle_fracture", 3),
)
WORKLIST = (
    ("elbow", "displaced_fracture", 2),
    ("elbow", None, 2),
    ("finger", "subtle_fracture", 3),
    ("finger", None, 2),
    ("forearm", "hardware", 2),
    ("forearm", None, 2),
    ("hand", "degeneration", 3),
    ("hand", None, 3),
    ("humerus", "lytic_lesion", 2),
    ("shoulder", None, 3),
    ("wrist", "displaced_fracture", 3),
    ("wrist", None, 3),
)
FILMS = (("hand", 1, 2), ("hand", 0, 2), ("shoulder", 1, 1), ("shoulder", 0, 1))
"""Region, label and number of the films. FracAtlas calls anything from a finger to the arm "hand"."""
FILM_SEED = 26
FILM_SPLITS = {"dev_fraction": 0.08, "calib_fraction": 0.15}  # the present cut
THUMB_SIDE = 200
SETS = {"study": ("example{}_{}_{}.png", 910_001, STUDIES), "worklist": ("phantom{}_{}_{}.png", 920_001, WORKLIST)}


def write_examples(folder: Path, studies_per_set: int | None = None, fracatlas: Path | None = None) -> None:
    """Writes the pictures and `examples.json`, which says what each study shows.

    Args:
        folder: Output folder; it is created if needed.
        studies_per_set: Number of phantom studies to render of each set; all by default.
        fracatlas: Folder of FracAtlas to draw films from. By default, the films in the output folder stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fracatlas is not None:
        records = draw_films(fracatlas, folder)
    else:
        file = folder / "examples.json"
        known = json.loads(file.read_text()) if file.is_file() else []
        records = [record for record in known if record["set"] == "film"]
    for name, (pattern, first_seed, studies) in SETS.items():
        for number, (body_part, finding, n_views) in enumerate(studies[:studies_per_set], 1):
            seed = first_seed + number - 1
            files = [pattern.format(number, body_part, view + 1) for view in range(n_views)]
            for view, file in enumerate(files):
                pixels = render_phantom(seed, body_part=body_part, view=view, finding=finding).pixels
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
                (folder / file).write_bytes(buffer.getvalue())
            label = "abnormal" if finding else "normal"
            records.append(
                {
                    "set": name,
                    "body_part": body_part,
                    "label": label,
                    "finding": finding,
                    "seed": seed,
                    "files": files,
                    **({"thumbnail": thumbnail(folder / files[0])} if name == "study" else {}),
                }
            )
    (folder / "examples.json").write_text(json.dumps(records, indent=1) + "\n")


def draw_films(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Copies randomly drawn films of `valid` of FracAtlas, one projection each, and returns their records."""
    from mura_hf.data import load_data  # needs the extra `train`

    splits, source = load_data(root, regions=["hand", "shoulder"], **FILM_SPLITS)
    valid = splits["valid"]
    columns = [valid[name] for name in ("study_id", "region", "label")]
    with (root / "dataset.csv").open(newline="") as table:
        several = {Path(row["image_id"]).stem for row in csv.DictReader(table) if row["multiscan"] == "1"}
    draw, records = random.Random(FILM_SEED), []
    for region, label, number in FILMS:
        rows = zip(*columns, strict=True)
        films = sorted(film for film, *of in rows if of == [region, label] and film not in several)
        for film in draw.sample(films, number):
            (file,) = root.glob(f"images/*/{film}.jpg")
            shutil.copyfile(file, folder / file.name)
            records.append(
                {
                    "set": "film",
                    "body_part": region,
                    "label": ("normal", "abnormal")[label],
                    "finding": "fracture" if label else None,
                    "source": source.name,
                    "credit": f"{source.citation} CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
                    "files": [file.name],
                    "thumbnail": thumbnail(folder / file.name),
                }
            )
    return records


def thumbnail(file: Path) -> str:
    """A small picture as a data URL."""
    buffer = io.BytesIO()
    with Image.open(file) as image:
        image = image.convert("L")
        image.thumbnail((THUMB_SIDE, THUMB_SIDE))
        image.save(buffer, "WEBP", quality=70, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("mura_hf/resources/examples"))
    parser.add_argument("--studies_per_set", type=int, help="render only the first studies of each set")
    parser.add_argument("--fracatlas", type=Path, help="folder of FracAtlas to draw the real films from")
    arguments = parser.parse_args(argv)
    write_examples(arguments.output_dir, arguments.studies_per_set, arguments.fracatlas)
    print(f"Wrote {arguments.output_dir}/examples.json and its pictures.")


if __name__ == "__main__":
    main()
