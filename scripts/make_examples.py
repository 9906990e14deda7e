"""Renders the example pictures of the demo: synthetic studies for the first tab and for the worklist.

Run it after a change of the renderer: `python scripts/make_examples.py`. The demo itself only reads the files.
"""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

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
SETS = {"study": ("example{}_{}_{}.png", 910_001, STUDIES), "worklist": ("phantom{}_{}_{}.png", 920_001, WORKLIST)}


def write_examples(folder: Path, studies_per_set: int | None = None) -> None:
    """Writes the PNG files and `examples.json`, which says what each study shows.

    Args:
        folder: Output folder; it is created if needed.
        studies_per_set: Number of studies to render of each set; all by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = []
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
                }
            )
    (folder / "examples.json").write_text(json.dumps(records, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("mura_hf/resources/examples"))
    parser.add_argument("--studies_per_set", type=int, help="render only the first studies of each set")
    arguments = parser.parse_args(argv)
    write_examples(arguments.output_dir, arguments.studies_per_set)
    print(f"Wrote {arguments.output_dir}/examples.json and its pictures.")


if __name__ == "__main__":
    main()
