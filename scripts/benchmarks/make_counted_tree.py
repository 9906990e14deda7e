"""Writes images of noise in the layout of MURA, with all counts of MURA v1.1, to test and time what reads MURA."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from mura_hf.data.mura_release import (
    OFFICIAL_COUNTS,
    OFFICIAL_PATIENTS,
    WITHDRAWN_IMAGES,
    WITHDRAWN_VALID_STUDIES,
    Count,
)
from mura_hf.errors import DatasetError, MuraError
from mura_hf.models.configuration_mura import BODY_PARTS

_PAIRS_OF_TWO_PARTS, _PAIRS_OF_TWO_LABELS = 1467, 888  # of train patients, counted in MURA v1.1
_NOTE = "Noise in the layout of MURA v1.1, with its counts. No radiograph, and nothing to learn from.\n"


@dataclass(frozen=True)
class _Study:
    part: str
    label: int
    images: int


def write_counted_mura(root: str | Path, *, withdrawn: bool = False, seed: int = 0, progress: bool = True) -> Path:
    """Writes 40,005 images of 16 x 16 px of noise, with every known count of MURA v1.1.

    The numbers of images and studies by split, body part and label, of patients by split, and of train patients with
    two body parts or with both labels are correct. The number of images of each study is random.

    Args:
        root: Folder to write `MURA-v1.1` into.
        withdrawn: Whether to use the counts of MURA v1.0, which `load_mura` refuses.
        seed: Of the random choices.
        progress: Whether to show a progress bar.

    Returns:
        The folder `root/MURA-v1.1`.

    Raises:
        DatasetError: If it exists.
    """
    tree, rng = Path(root) / "MURA-v1.1", np.random.default_rng(seed)
    if tree.exists():
        raise DatasetError(f"{tree} exists already; use a new folder, or remove it")
    tree.mkdir(parents=True)
    (tree / "README.txt").write_text(_NOTE)
    picture = cv2.imencode(".png", rng.integers(0, 256, (16, 16), dtype=np.uint8))[1].tobytes()
    counts = _withdrawn_counts() if withdrawn else OFFICIAL_COUNTS
    total = sum(count.images for parts in counts.values() for count in parts.values())
    first = 1
    with tqdm(total=total, desc="Writing a counted tree", unit="image", disable=not progress) as bar:
        for split, parts in counts.items():
            patients = _share_out(_draw_studies(parts, rng), split, rng)
            images, labels = [], []
            for number, studies in enumerate(patients, first):
                for place, study in enumerate(studies, 1):
                    sign = ("negative", "positive")[study.label]
                    name = f"{split}/XR_{study.part.upper()}/patient{number:05d}/study{place}_{sign}"
                    (tree / name).mkdir(parents=True)
                    for view in range(1, study.images + 1):
                        (tree / name / f"image{view}.png").write_bytes(picture)
                        images.append(f"MURA-v1.1/{name}/image{view}.png\n")
                    labels.append(f"MURA-v1.1/{name}/,{study.label}\n")
                    bar.update(study.images)
            (tree / f"{split}_image_paths.csv").write_text("".join(sorted(images)))
            (tree / f"{split}_labeled_studies.csv").write_text("".join(sorted(labels)))
            first += len(patients)
    return tree


def _draw_studies(parts: dict[str, Count], rng: np.random.Generator) -> list[_Study]:
    """Studies of a split with at least one image each; the other images are distributed at random."""
    studies = []
    for part, count in parts.items():
        for label, n, images in (
            (0, count.normal_studies, count.normal_images),
            (1, count.abnormal_studies, count.abnormal_images),
        ):
            more = rng.multinomial(images - n, np.full(n, 1 / n))
            studies += [_Study(part, label, 1 + int(extra)) for extra in more]
    return [studies[place] for place in rng.permutation(len(studies))]


def _share_out(studies: list[_Study], split: str, rng: np.random.Generator) -> list[tuple[_Study, ...]]:
    """Studies of each patient: one, or two if there are more studies than patients."""
    pairs = len(studies) - OFFICIAL_PATIENTS[split]
    # Whether the studies of a pair differ in body part, and in label; in train as often as in MURA.
    two_parts = np.arange(pairs) < (_PAIRS_OF_TWO_PARTS if split == "train" else pairs // 2)
    two_labels = rng.permutation(np.arange(pairs) < (_PAIRS_OF_TWO_LABELS if split == "train" else pairs // 3))
    left = {(part, label): [] for part in BODY_PARTS for label in (0, 1)}  # type: dict[tuple[str, int], list[_Study]]
    for study in studies:
        left[study.part, study.label].append(study)
    patients: list[tuple[_Study, ...]] = []
    for parts_differ, labels_differ in zip(two_parts, two_labels, strict=True):
        # The largest pool first, so that no pool is empty before its partners are found.
        first = max(left, key=lambda pool: len(left[pool]))
        fitting = [
            pool for pool in left if (pool[0] != first[0]) == parts_differ and (pool[1] != first[1]) == labels_differ
        ]
        second = max(fitting, key=lambda pool: len(left[pool]))
        patients.append((left[first].pop(), left[second].pop()))
    patients += [(study,) for pool in left.values() for study in pool]
    return [patients[place] for place in rng.permutation(len(patients))]


def _withdrawn_counts() -> dict[str, dict[str, Count]]:
    """Counts of v1.0. How many studies and images are abnormal is not known; those numbers are invented."""
    valid = {
        part: count._replace(normal_studies=WITHDRAWN_VALID_STUDIES[part] - count.abnormal_studies)
        for part, count in OFFICIAL_COUNTS["valid"].items()
    }
    valid = {part: count._replace(normal_images=count.normal_images + 10) for part, count in valid.items()}
    train = dict(OFFICIAL_COUNTS["train"])
    lacking = WITHDRAWN_IMAGES - sum(count.images for count in _all(train, valid))
    train["wrist"] = train["wrist"]._replace(normal_images=train["wrist"].normal_images + lacking)
    return {"train": train, "valid": valid}


def _all(*splits: dict[str, Count]) -> Iterator[Count]:
    for parts in splits:
        yield from parts.values()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="folder to write MURA-v1.1 into")
    parser.add_argument(
        "--withdrawn", action="store_true", help="use the counts of MURA v1.0, which load_mura refuses"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        print(write_counted_mura(options.output_dir, withdrawn=options.withdrawn, seed=options.seed))
    except MuraError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
