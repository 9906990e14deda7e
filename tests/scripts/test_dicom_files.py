import io

import numpy as np
import pydicom
import pytest
from dicom_files import TRANSFER_SYNTAXES, encode_dicom

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 64), dtype=np.uint8)


@pytest.mark.parametrize("name", TRANSFER_SYNTAXES)
def test_a_file_says_what_it_holds(name):
    data = encode_dicom(PIXELS, syntax=name, BodyPartExamined="HAND", Modality="CR")
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert dataset.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[name]
    assert (dataset.Rows, dataset.Columns) == PIXELS.shape
    assert (dataset.Modality, dataset.BodyPartExamined, dataset.BitsStored) == ("CR", "HAND", 8)
    assert data == encode_dicom(PIXELS, syntax=name, BodyPartExamined="HAND", Modality="CR")
    if name.endswith(("endian", "RLE")):  # what pydicom decodes by itself
        np.testing.assert_array_equal(dataset.pixel_array, PIXELS)


def test_an_unknown_syntax_is_refused():
    with pytest.raises(ValueError, match="unknown syntax 'JPEG XL'"):
        encode_dicom(PIXELS, syntax="JPEG XL")
