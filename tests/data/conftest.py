import pytest
from datasets import Image, concatenate_datasets

from ..open_trees import write_fracatlas, write_grazpedwri


@pytest.fixture(scope="session")
def fracatlas(tmp_path_factory):
    """A small synthetic FracAtlas: its folder, the rows of its table, and its boxes."""
    root = tmp_path_factory.mktemp("fracatlas")
    return root, *write_fracatlas(root)


@pytest.fixture(scope="session")
def grazpedwri(tmp_path_factory):
    """A small synthetic GRAZPEDWRI-DX: its folder, the rows of its table, and its boxes."""
    root = tmp_path_factory.mktemp("grazpedwri")
    return root, *write_grazpedwri(root)


def all_rows(datasets):
    """Rows of all splits, with paths instead of images."""
    return list(concatenate_datasets([rows.cast_column("image", Image(decode=False)) for rows in datasets.values()]))


def check_patients(datasets):
    """Checks that every split has patients and none is in two; returns the number of patients."""
    patients = [set(rows["patient_id"]) for rows in datasets.values()]
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients))
    return sum(map(len, patients))
