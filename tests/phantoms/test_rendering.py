import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from mura_hf.phantoms import BODY_PARTS, FINDINGS, RENDERERS, render_phantom


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_every_part_renders(body_part, renderer):
    for view in range(3):
        phantom = RENDERERS[renderer][0](5, body_part=body_part, view=view, size=192)
        assert phantom.pixels.dtype == np.uint8
        assert max(phantom.pixels.shape) == 192
        assert phantom.pixels.std() > 15
        assert phantom.body_part == body_part
        assert phantom.box is None
        assert not phantom.mask.any()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_same_seed_same_picture_and_another_seed_another(renderer):
    render, mix = RENDERERS[renderer]
    finding = list(mix)[1]
    first, again = (render(11, finding=finding, size=160) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.box == again.box
    other = render(12, body_part=first.body_part, finding=finding, size=160)
    assert other.pixels.shape != first.pixels.shape or (other.pixels != first.pixels).any()


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("body_part", ["hand", "humerus", "shoulder"])
def test_twins_differ_in_the_finding_alone(finding, body_part):
    for view in (0, 1):
        normal = render_phantom(21, body_part=body_part, view=view, size=256)
        abnormal = render_phantom(21, body_part=body_part, view=view, finding=finding, size=256)
        differ = normal.pixels != abnormal.pixels
        blurred = binary_dilation(abnormal.mask, np.ones((9, 9)))  # the blur reaches 4 pixels
        assert not (differ & ~blurred).any()
        if abnormal.box is not None:
            x0, y0, x1, y1 = abnormal.box
            strong = np.abs(normal.pixels.astype(int) - abnormal.pixels) > 40
            assert strong[y0:y1, x0:x1].sum() >= 0.8 * strong.sum()


@pytest.mark.parametrize("finding", FINDINGS)
def test_findings_mostly_show(finding):
    shown = [render_phantom(seed, view=0, finding=finding, size=160).box is not None for seed in range(20)]
    assert sum(shown) >= 17


def test_a_marker_changes_its_corner_only():
    without, with_marker = (
        render_phantom(8, body_part="wrist", marker=shown, size=256).pixels for shown in (False, True)
    )
    rows, columns = np.nonzero(without != with_marker)
    assert 0 < len(rows) < 0.03 * without.size
    assert np.ptp(rows) < 64
    assert np.ptp(columns) < 64


@pytest.mark.parametrize(("options", "message"), [({"body_part": "knee"}, "'knee'"), ({"finding": "cyst"}, "'cyst'")])
def test_refuses_the_unknown(options, message):
    with pytest.raises(ValueError, match=message):
        render_phantom(0, **options)
