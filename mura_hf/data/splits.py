"""What all loaders share: columns, arguments, and how patients are assigned to splits. No patient is ever in two."""

import hashlib
import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..common import BODY_PARTS, read_csv, read_json_lines
from ..errors import DatasetError
from ..models.configuration_mura import LABELS, find_body_part

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(LABELS)),
        "body_part": ClassLabel(names=list(BODY_PARTS)),
        "patient_id": Value("string"),
        "study_id": Value("string"),
        "view": Value("int32"),
    }
)
"""Columns of every dataset. `body_part` is None if it is unknown or none of the seven."""

BOXES = List(List(Value("int32"), length=4))
"""Bounding boxes of findings: x0, y0, x1, y1 in pixels of the file, with x1 and y1 exclusive."""

SPLITS = ("train", "dev", "calib", "valid")
_VALID_SEED = 0  # valid is the same whatever the seed of a run, so that runs can be compared

Row = dict[str, Any]

MAX_LISTED = 20
"""Number of files that a message lists."""

_LABELS: dict[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, LABELS[0]: 0, LABELS[1]: 1}


@dataclass(frozen=True)
class SplitOptions:
    """Arguments of all loaders that say how patients are assigned to splits.

    Raises:
        ValueError: If a fraction is negative, fractions sum to 1 or more, or there is no such fold.
    """

    dev_fraction: float = 0.08  # fraction of the patients outside `valid` for `dev` (selection, early stopping)
    calib_fraction: float = 0.08  # fraction of the patients outside `valid` for `calib` (calibration, thresholds)
    # Fraction of all patients for `valid`, independent of the seed. Ignored if the dataset has an official
    # `valid`, as MURA does.
    valid_fraction: float = 0.2
    seed: int = 0  # seed of the other splits
    # Cross-validation: the patients outside `valid` and `calib` are divided into `n_folds`, and this one, from 0
    # on, becomes `dev`. `dev_fraction` is ignored then. `calib` and `valid` are the same for every fold.
    fold: int | None = None
    n_folds: int = 5  # number of folds
    # Whether every split gets the same shares of body parts and labels, as far as patients allow
    stratified: bool = True
    # Whether near-duplicates stay in one split (see `duplicates.py`); False gives the splits of old checkpoints again.
    # Ignored if the dataset has patient ids.
    group_duplicates: bool = True

    def __post_init__(self) -> None:
        _check_fractions({"dev": self.dev_fraction, "calib": self.calib_fraction})
        _check_fractions({"valid": self.valid_fraction})
        if self.n_folds < 2:
            raise ValueError(f"n_folds is {self.n_folds}, but must be at least 2")
        if self.fold is not None and not 0 <= self.fold < self.n_folds:
            raise ValueError(f"fold is {self.fold}, but with {self.n_folds} folds must be 0 to {self.n_folds - 1}")


def assign_patients(
    rows: Sequence[Row], options: SplitOptions, source: object, given: Container[str] = ()
) -> dict[str, str]:
    """Assigns patients to `valid`, independent of the seed, then the others to `dev`, `calib` and `train`.

    Args:
        rows: Rows with `patient_id`, `study_id`, `label` and `region` or `body_part`. Rows may have a `unit` too: a
            part of the patient. Patients whose units would all get the same split get this one; the others are
            assigned as a whole. So near-duplicates that join units change the split of these only.
        options: How to split.
        source: Name of the dataset in messages.
        given: Splits that the dataset has already. No patient of `rows` is assigned to them.

    Returns:
        Patient -> split.

    Raises:
        DatasetError: If there are too few patients.
    """
    fractions = {"dev": options.dev_fraction, "calib": options.calib_fraction}
    fractions = {name: share for name, share in fractions.items() if name not in given}
    try:
        splits: dict[str, str] = {}
        if "valid" not in given:
            splits = _assign(rows, {"valid": options.valid_fraction}, _VALID_SEED, options.stratified)
            rows = [row for row in rows if splits[row["patient_id"]] != "valid"]
        if options.fold is None:
            return splits | _assign(rows, fractions, options.seed, options.stratified)
        fractions.pop("dev", None)
        share = (1 - sum(fractions.values())) / options.n_folds
        fractions |= {f"fold {number}": share for number in range(1, options.n_folds)}
        chosen = f"fold {options.fold}" if options.fold else "train"  # the rest, "train", serves as fold 0
        for patient, split in _assign(rows, fractions, options.seed, options.stratified).items():
            splits[patient] = "calib" if split == "calib" else "dev" if split == chosen else "train"
        return splits
    except ValueError as error:
        raise DatasetError(f"{source} is too small: {error}") from error


def _assign(rows: Iterable[Row], fractions: dict[str, float], seed: int, stratified: bool) -> dict[str, str]:
    studies: dict[str, list[Row]] = {}
    for row in rows:
        studies.setdefault(row["study_id"], []).append(row)
    first_views = [views[0] for views in studies.values()]
    patients = [row["patient_id"] for row in first_views]
    if not stratified:
        return split_patients(patients, fractions, seed=seed)
    strata = [f"{row.get('region', row['body_part'])} {row['label']}" for row in first_views]
    sizes = [len(views) for views in studies.values()]
    units = [row["unit"] if "unit" in row else row["patient_id"] for row in first_views]
    of_units = split_patients_evenly(units, strata, sizes, fractions, seed=seed)
    wanted: dict[str, set[str]] = {}
    for patient, unit in zip(patients, units, strict=True):
        wanted.setdefault(patient, set()).add(of_units[unit])
    given = {patient: next(iter(splits)) for patient, splits in wanted.items() if len(splits) == 1}
    return split_patients_evenly(patients, strata, sizes, fractions, seed=seed, given=given)


def make_splits(rows: Sequence[Row], splits: dict[str, str], features: Features) -> DatasetDict:
    """Builds a `DatasetDict` with all of `SPLITS`; splits without rows are empty.

    Args:
        rows: Rows with the columns of `features`. Rows that are `contradictory` are in no split but `train`. Other
            keys are ignored.
        splits: Patient -> split.
        features: Columns. If any file is neither PNG nor JPEG, `image` contains paths instead of images, since Pillow
            cannot open DICOM when a row is accessed.
    """
    if any(Path(row["image"]).suffix.lower() not in (".png", ".jpg", ".jpeg") for row in rows):
        features = Features({**features, "image": Image(decode=False)})
    by_split: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        split = splits[row["patient_id"]]
        if split == "train" or not row.get("contradictory"):
            by_split[split].append(row)
    return DatasetDict({name: make_dataset(chosen, features) for name, chosen in by_split.items()})


def make_dataset(rows: Sequence[Row], features: Features) -> Dataset:
    """Builds a `Dataset` with the columns of `features`; other keys of the rows are ignored."""
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def split_patients(
    patient_ids: Sequence[str], fractions: dict[str, float], rest: str = "train", seed: int = 0
) -> dict[str, str]:
    """Assigns patients to splits at random.

    Args:
        patient_ids: Patients in any order, with or without repetitions.
        fractions: Split -> fraction of the patients.
        rest: Split of the remaining patients.
        seed: Seed. The result depends on the set of patients and the seed only.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the fractions are invalid or leave no patient for `rest`.
    """
    _check_fractions(fractions)
    patients = sorted(set(patient_ids))
    shuffled = [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]
    splits = dict.fromkeys(patients, rest)
    start = 0
    for name, share in fractions.items():
        # A positive fraction gets at least one patient, so that a small dataset still has something to select on.
        count = max(round(share * len(patients)), int(share > 0 and len(patients) > len(fractions)))
        splits.update(dict.fromkeys(shuffled[start : start + count], name))
        start += count
    if patients and start >= len(patients):
        raise ValueError(_too_few(len(patients), fractions, rest))
    return splits


def split_patients_evenly(
    patient_ids: Sequence[str],
    strata: Sequence[str],
    sizes: Sequence[int],
    fractions: dict[str, float],
    rest: str = "train",
    seed: int = 0,
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Assigns patients to splits so that every stratum is spread over the splits by their fractions.

    This is greedy stratification of groups, like scikit-learn's `StratifiedGroupKFold`, but for arbitrary fractions.
    Patients are taken one by one, those with many views first, otherwise in random order. Each goes to the split where
    the sum of squared deviations from the fractions, over all strata, grows least.

    Args:
        patient_ids: Patient of each study.
        strata: Stratum of each study, such as "wrist 1".
        sizes: Number of views of each study.
        fractions: Split -> fraction of the patients.
        rest: Split of the remaining patients.
        seed: Seed. The result depends on the studies of the patients and the seed, not on their order.
        given: Patient -> split of patients that are assigned already.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the fractions are invalid or there are fewer patients than splits.
    """
    _check_fractions(fractions)
    shares = {**fractions, rest: 1 - sum(fractions.values())}
    shares = {name: share for name, share in shares.items() if share > 0}
    columns = {stratum: number for number, stratum in enumerate(sorted(set(strata)))}
    counts_of: dict[str, np.ndarray] = {}  # studies and views of each stratum, and 1 for the patient
    for patient, stratum, size in zip(patient_ids, strata, sizes, strict=True):
        counts = counts_of.setdefault(patient, np.r_[np.zeros(2 * len(columns)), 1.0])
        counts[[columns[stratum], len(columns) + columns[stratum]]] += 1, size
    if not counts_of:
        return {}
    if len(counts_of) < len(shares):
        raise ValueError(_too_few(len(counts_of), fractions, rest))
    rng = np.random.default_rng([seed, 30])
    drawn = dict(zip(sorted(counts_of), rng.random(len(counts_of)).tolist(), strict=True))
    views = {patient: float(counts[len(columns) : -1].sum()) for patient, counts in counts_of.items()}
    order = sorted(counts_of, key=lambda patient: (-int(np.log2(views[patient])), drawn[patient]))
    names, parts = list(shares), np.array(list(shares.values()))[:, None]
    weights = 1 / (parts * sum(counts_of.values()))
    excess = np.zeros(weights.shape)  # of each split in each stratum, compared to its fraction
    splits = dict(given or {})
    for patient in sorted(order, key=lambda patient: patient not in splits):  # those that are assigned come first
        counts = counts_of[patient]
        excess -= parts * counts
        if patient not in splits:
            splits[patient] = names[int(np.argmin(((2 * excess + counts) * counts * weights).sum(1)))]
        excess[names.index(splits[patient])] += counts
    # A positive fraction gets at least one patient, so that a small dataset still has something to select on.
    for name in names:
        if name not in splits.values():
            largest = Counter(splits.values()).most_common(1)[0][0]
            splits[next(patient for patient in order if splits[patient] == largest)] = name
    return splits


def split_digest(members: Iterable[tuple[str, str]]) -> str:
    """Returns the SHA-256 of (split, study id) pairs in any order. Equal digests mean equal splits."""
    lines = sorted({f"{split}\t{study}\n" for split, study in members})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_fractions(fractions: dict[str, float]) -> None:
    if any(share < 0 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(f"the fractions {fractions} must not be negative and must sum to less than 1")


def _too_few(n_patients: int, fractions: dict[str, float], rest: str) -> str:
    return (
        f"{n_patients} patients cannot be split into {', '.join(fractions)} and {rest} with the fractions "
        f"{fractions}; give more patients or smaller fractions"
    )


def check_body_parts(body_parts: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the requested body parts, all seven if None.

    Raises:
        ValueError: If one is unknown, or a string is given instead of a list.
    """
    if isinstance(body_parts, str):
        raise ValueError(f"body_parts must be a list such as [{body_parts!r}], not the string {body_parts!r}")
    wanted = tuple(map(find_body_part, BODY_PARTS if body_parts is None else body_parts))
    if not wanted:
        raise ValueError(f"no body parts are given; choose among {', '.join(BODY_PARTS)}")
    return wanted


def make_row(record: Mapping[str, Any], where: str) -> Row:
    """Checks `label`, `study_id`, `patient_id` and `body_part` of a record; ids that are no keys of it become None.

    Raises:
        DatasetError: If a value is invalid. The message begins with `where`.
    """
    label = record["label"]
    label = label.strip().lower() if isinstance(label, str) else label
    if isinstance(label, float) or label not in _LABELS:
        raise DatasetError(f"{where}: label is {record['label']!r}, but must be normal, abnormal, 0 or 1")
    row: Row = {"label": _LABELS[label]}
    for column in ("study_id", "patient_id"):
        value = record.get(column)
        value = "" if value is None or value != value else str(value).strip()  # NaN: missing in a column of numbers
        if column in record and not value:
            raise DatasetError(f"{where}: {column} is empty; fill it in, or remove the whole column")
        row[column] = value or None
    part = record.get("body_part")
    part = part.strip().lower().removeprefix("xr_") or None if isinstance(part, str) else part
    if part is not None and part not in BODY_PARTS:
        raise DatasetError(f"{where}: body_part is {part!r}, but must be one of {', '.join(BODY_PARTS)}, or empty")
    return {**row, "body_part": part}


def check_studies(rows: Sequence[Row], source: object) -> None:
    """Raises `DatasetError` if views of a study differ in patient, label or body part."""
    studies: dict[str, Row] = {}
    for row in rows:
        first = studies.setdefault(row["study_id"], row)
        for column in ("patient_id", "label", "body_part"):
            if row[column] != first[column]:
                raise DatasetError(
                    f"{source}: study {row['study_id']} has {column} {first[column]} and {row[column]}, but a study "
                    "has one"
                )


def number_views(rows: Iterable[Row]) -> None:
    """Gives rows without `view` their number in the study, from 1 on."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["study_id"]] += 1
        if row.get("view") is None:
            row["view"] = counts[row["study_id"]]


def read_table(file: Path, columns: Sequence[str], what: str) -> dict[int, dict[str, str]]:
    """Reads a table with a header, as CSV or JSON Lines; see `read_csv` and `read_json_lines`.

    Args:
        file: Path.
        columns: Required columns.
        what: Description of the dataset for messages.

    Returns:
        Number of the line -> its values by column; the names of columns are in lower case.

    Raises:
        DatasetError: If the file is missing, empty or no such table, or lacks columns or values.
    """
    try:
        lines = (read_json_lines if file.suffix == ".jsonl" else read_csv)(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}); give the folder of {what}") from error
    except ValueError as error:
        raise DatasetError(f"{file} {error}") from error
    header = [name.lower() for name in lines[0][1]] if lines else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise DatasetError(
            f"{file} lacks the columns {', '.join(absent)}; its first line has {', '.join(header) or 'none'}. Add "
            f"them, or give the folder of {what}"
        )
    if not lines[1:]:
        raise DatasetError(f"{file} has no rows; give the folder of {what}")
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DatasetError(f"{file}, line {number}: the number of values differs from that of the header")
    return {number: dict(zip(header, row, strict=True)) for number, row in lines[1:]}


def list_files(names: Sequence[str], separator: str = ", ") -> str:
    """Returns the first `MAX_LISTED` names and the number of the others."""
    more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return separator.join([*names[:MAX_LISTED], *more])


def report(messages: Sequence[str]) -> None:
    """Prints messages on stderr."""
    if messages:
        print("\n".join(messages), file=sys.stderr)
