"""Checks before training: whether every image can be read, and whether a copy of MURA is the official release."""

import os
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict, Image
from tqdm.auto import tqdm

from ..errors import RadiographError
from ..radiographs import read_levels
from .mura import LISTS, read_copy
from .mura_release import compare_counts, count_rows, write_quarantine
from .splits import check_body_parts, list_files

_MISSING = "missing"
_MAX_SIDE = 512  # pixels, in MURA


@dataclass
class Verification:
    """Result of `verify_mura`. Paths begin with the split."""

    tree: Path  # folder with the lists of MURA
    n_files: int  # number of images that were decoded or could not be
    # Table of the counts beside the official ones if they differ, else None. None for synthetic data.
    counts: str | None
    differences: dict[str, list[str]] = field(default_factory=dict)  # kind of difference -> paths
    quarantine: dict[str, str] = field(default_factory=dict)  # path -> reason, as written to the manifest

    @property
    def whole(self) -> bool:
        """Whether the copy is complete and nothing differs."""
        return self.counts is None and not self.differences


def verify_mura(
    root: str | os.PathLike[str],
    body_parts: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Verification:
    """Decodes every image of a copy of MURA, compares its counts, and writes the quarantine manifest.

    The manifest lists files that are missing from the folder of their study or cannot be read. `load_mura` leaves them
    out with a message. An existing manifest is replaced, and removed if there is nothing to leave out.

    Args:
        root: The folder `MURA-v1.1`, or its parent.
        body_parts: Body parts to verify. Defaults to all. Entries of other parts stay in the manifest.
        workers: Number of threads. Defaults to the number of cores.
        progress: Whether to show a progress bar.

    Raises:
        DatasetError: As `load_mura`, or if the manifest cannot be written.
    """
    wanted = check_body_parts(body_parts)
    copy = read_copy(Path(root), wanted)
    rows = [row for split in copy.rows.values() for row in split if row["body_part"] in wanted]
    gone = {*copy.missing, *copy.absent}
    names = [row["name"] for row in rows if row["name"] not in gone and os.path.dirname(row["name"]) not in gone]
    quarantine = dict.fromkeys(copy.missing, _MISSING)
    unreadable: list[str] = []
    large: list[str] = []

    def decode(name: str) -> str | tuple[int, ...]:
        file = copy.images / name
        if not file.is_file():
            return _MISSING
        try:
            return read_levels(file).shape
        except RadiographError as error:
            return str(error)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:  # threads, since decoders release the GIL
        decoded = tqdm(pool.map(decode, names), total=len(names), desc="Decoding", unit="image", disable=not progress)
        for name, result in zip(names, decoded, strict=True):
            if isinstance(result, str):
                quarantine[name] = result
                (copy.missing if result == _MISSING else unreadable).append(name)
            elif max(result) > _MAX_SIDE and not copy.is_synthetic:
                large.append(f"{name} ({result[1]} x {result[0]} px)")
    readable = set(names) - set(quarantine)
    good = {split: [row for row in rows if row["name"] in readable] for split, rows in copy.rows.items()}
    found = {
        "lists do not exist": [name for name in LISTS if not (copy.tree / name).is_file()],
        "files are missing": copy.missing,
        "files cannot be read": [f"{name}: {quarantine[name]}" for name in unreadable],
        "listed studies do not exist": copy.absent,
        "images are in no list": copy.unlisted,
        "entries do not belong to MURA": copy.unexpected,
        f"images are larger than {_MAX_SIDE} px": large,
    }
    folders = {f"XR_{part.upper()}" for part in wanted}
    others = {name: reason for name, reason in copy.quarantined.items() if not folders.intersection(name.split("/"))}
    write_quarantine(copy.tree, others | quarantine)
    return Verification(
        copy.tree,
        len(names),
        None if copy.is_synthetic else compare_counts(count_rows(good), wanted),
        {what: entries for what, entries in found.items() if entries},
        quarantine,
    )


def check_images(
    datasets: DatasetDict, *, skip: Container[str] = (), workers: int | None = None, progress: bool = True
) -> None:
    """Decodes every image of a dataset, so that a damaged one is found before hours of training.

    Args:
        datasets: Result of a loader.
        skip: Absolute paths that are known to be readable, such as a `PixelCache`.
        workers: Number of threads. Defaults to the number of cores.
        progress: Whether to show a progress bar.

    Raises:
        RadiographError: If images cannot be read. The message lists them.
    """
    splits = {split: rows.cast_column("image", Image(decode=False)) for split, rows in datasets.items()}
    root = common_folder(
        [image["path"] for rows in splits.values() for image in rows["image"] if image["bytes"] is None]
    )

    def find_problem(place: tuple[str, int]) -> tuple[str, str] | None:
        split, row = place
        image = splits[split][row]["image"]
        if image["bytes"] is None and os.path.abspath(image["path"]) in skip:
            return None
        name = f"{split}, row {row}" if image["bytes"] else os.path.relpath(image["path"], root)
        try:
            read_levels(image["bytes"] or image["path"], name=name)
        except RadiographError as error:
            return name, str(error)
        return None

    places = [(split, row) for split, rows in splits.items() for row in range(len(rows))]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        checked = tqdm(
            pool.map(find_problem, places), total=len(places), desc="Checking images", unit="image",
            disable=not progress, leave=False,
        )  # fmt: skip
        problems = dict(filter(None, checked))
    if problems:
        raise unreadable_error(problems, len(places), root)


def common_folder(files: Sequence[str]) -> str:
    """Returns the absolute path of the folder that contains all files; empty without files."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]) if files else ""


def unreadable_error(problems: Mapping[str, str], n_images: int, root: str) -> RadiographError:
    """Returns the error that lists unreadable images.

    Args:
        problems: Path below `root`, or description of a row -> sentence that begins with it and says what is wrong.
        n_images: Number of all images.
        root: Folder that contains all files; empty if there are none.
    """
    where = f" in {root}" if root else ""
    sentences = [f"  {problem}" for _, problem in sorted(problems.items())]
    return RadiographError(
        f"{len(problems)} of {n_images} images{where} cannot be read. Repair these, or take them out of the dataset:\n"
        + list_files(sentences, "\n")
    )
