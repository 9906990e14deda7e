"""`verify_mura`: every picture of a copy decoded, every difference named."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import RadiographError
from ..radiographs import read_levels
from .mura import check_body_parts, has_truth
from .mura_files import LISTS, find_tree, list_files, write_quarantine
from .mura_release import compare_counts, count_rows

_MISSING = "missing"
_LONGEST = 512  # px, of MURA's pictures


@dataclass
class Verification:
    """What was found.

    Attributes:
        tree: The folder with MURA's lists.
        n_files: Pictures that were decoded, or could not be.
        counts: A table against MURA's official counts where they differ, else None; None for phantoms too.
        differences: What -> paths, only where there are some.
        quarantine: Path from the split on -> reason, as written to the manifest.
    """

    tree: Path
    n_files: int
    counts: str | None
    differences: dict[str, list[str]] = field(default_factory=dict)
    quarantine: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether nothing differs from what MURA v1.1 should be."""
        return self.counts is None and not self.differences


def verify_mura(
    root: str | os.PathLike[str],
    body_parts: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Verification:
    """Decodes every picture of a copy of MURA, compares its counts, and writes the quarantine manifest.

    Into the manifest go files that are missing from their study's folder or cannot be read; `load_mura` leaves them
    out from then on, and says so. An older manifest is not believed but made anew; where there is nothing to leave
    out, none stays.

    Args:
        root: The folder `MURA-v1.1`, or the one that holds it.
        body_parts: Some of the seven; all where None. Entries of other parts stay in the manifest.
        workers: Threads that decode; one a core where None.
        progress: Whether to show a progress bar.

    Raises:
        DatasetError: If it is no copy of MURA v1.1, its lists contradict each other, or the manifest cannot be
            written.
        ValueError: If a body part is unknown.
    """
    wanted = check_body_parts(body_parts)
    tree = find_tree(Path(root))
    phantoms = has_truth(tree)
    listing = list_files(tree, wanted, phantoms=phantoms)
    rows = [row for split in listing.rows.values() for row in split if row["body_part"] in wanted]
    gone = {*listing.missing, *listing.absent}
    quarantine = dict.fromkeys(listing.missing, _MISSING)
    unreadable: list[str] = []
    odd: list[str] = []
    names = [row["name"] for row in rows if row["name"] not in gone and os.path.dirname(row["name"]) not in gone]
    for name, problem, size in _decode(listing.pictures, names, workers, progress):
        if problem:
            quarantine[name] = problem
            (listing.missing if problem == _MISSING else unreadable).append(name)
        elif max(size) > _LONGEST and not phantoms:
            odd.append(f"{name} ({size[1]} x {size[0]} px)")
    kept = set(names) - set(quarantine)
    good = {split: [row for row in rows if row["name"] in kept] for split, rows in listing.rows.items()}
    verification = Verification(
        tree, len(names), None if phantoms else compare_counts(count_rows(good), wanted), quarantine=quarantine
    )
    found = {
        "lists are not there": [name for name in LISTS if not (tree / name).is_file()],
        "files are missing": listing.missing,
        "files cannot be read": [f"{name}: {quarantine[name]}" for name in unreadable],
        "listed studies are not there": listing.absent,
        "pictures are in no list": listing.unlisted,
        "entries have no place in MURA": listing.strange,
        f"pictures are larger than {_LONGEST} px": odd,
    }
    verification.differences = {what: entries for what, entries in found.items() if entries}
    looked_at = {f"XR_{part.upper()}" for part in wanted}
    others = {
        name: reason for name, reason in listing.quarantined.items() if not looked_at.intersection(name.split("/"))
    }
    write_quarantine(tree, others | quarantine)
    return verification


def _decode(
    tree: Path, names: Sequence[str], workers: int | None, progress: bool
) -> Iterator[tuple[str, str | None, tuple[int, ...]]]:
    """Name, problem or None, and height and width of each file, in their order."""
    # Threads: decoders let go of the interpreter.
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = pool.map(partial(_decode_one, tree), names)
        yield from tqdm(found, total=len(names), desc="Decoding", unit="image", disable=not progress)


def _decode_one(tree: Path, name: str) -> tuple[str, str | None, tuple[int, ...]]:
    file = tree / name
    if not file.is_file():
        return name, _MISSING, (0, 0)
    try:
        return name, None, read_levels(file).shape
    except RadiographError as error:
        return name, str(error), (0, 0)
