import numpy as np
from contact_sheet import make_contact_sheet


def test_every_part_has_a_row_of_twins_and_real_films_one_below():
    real = np.tile(np.arange(200, dtype=np.uint8), (300, 1))
    sheet = make_contact_sheet(2, side=96, beside=[real])
    assert sheet.shape == (8 * 96, 6 * 96)
    cells = sheet[: 7 * 96].reshape(7, 96, 6, 96).swapaxes(1, 2)
    assert (cells.reshape(7, 6, -1).std(-1) > 10).all()
    twins = (cells[:, 0::2] != cells[:, 1::2]).reshape(7, 3, -1).any(-1)
    assert twins.sum() >= 18  # nearly every projection shows the finding
    assert sheet[7 * 96 :, :96].std() > 10
    assert sheet[7 * 96 :, 96:].std() == 0
