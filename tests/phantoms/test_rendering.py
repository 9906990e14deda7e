import hashlib

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from mura_hf.phantoms import BODY_PARTS, EXPOSURES, FINDINGS, UNUSUAL_FINDINGS, locate_finding, render_phantom


@pytest.mark.parametrize("finding", [*FINDINGS, *UNUSUAL_FINDINGS])
@pytest.mark.parametrize("body_part", ["elbow", "hand", "shoulder"])
def test_counterfactuals_differ_in_the_finding_alone(finding, body_part):
    for view in (0, 1):
        seed = 21 + len(finding)  # with different accessories
        normal = render_phantom(seed, body_part=body_part, view=view, size=192)
        abnormal = render_phantom(seed, body_part=body_part, view=view, finding=finding, size=192)
        differ = normal.pixels != abnormal.pixels
        blurred = binary_dilation(abnormal.mask, np.ones((9, 9)))  # the blur reaches 4 pixels
        assert not (differ & ~blurred).any()
        if abnormal.box is None:
            continue
        x0, y0, x1, y1 = abnormal.box
        assert abnormal.mask[y0:y1, x0:x1].any()
        if finding in ("subtle_fracture", "lytic_lesion", "hardware", "degeneration"):
            strong = np.abs(normal.pixels.astype(int) - abnormal.pixels) > 40
            assert strong[y0:y1, x0:x1].sum() >= 0.8 * strong.sum()


@pytest.mark.parametrize("finding", [*FINDINGS, *UNUSUAL_FINDINGS])
@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_every_finding_shows_in_every_part(finding, body_part):
    """In some of two views; each kind of each part, since one that is never in sight would hide among the others."""
    seen = {"body_part": body_part, "size": 320}
    boxes = [locate_finding(seed, finding, view=view, **seen) for seed in range(2) for view in (0, 1)]
    assert sum(box is not None for box in boxes) >= 2


def test_a_part_without_a_joint_in_sight_breaks_instead():
    assert render_phantom(3, body_part="forearm", finding="dislocation", size=128).finding == "displaced_fracture"
    assert render_phantom(3, body_part="hand", finding="dislocation", size=128).finding == "dislocation"


@pytest.mark.parametrize(
    ("option", "body_part", "share"), [("marker", "wrist", 0.04), ("jewel", "hand", 0.02), ("metal", "humerus", 0.25)]
)
def test_what_is_switched_on_stays_in_its_place(option, body_part, share):
    shown = {"body_part": body_part, "size": 256}
    without, with_it = (render_phantom(8, **shown, **{option: on}).pixels for on in (False, True))
    assert 0 < (without != with_it).sum() < share * without.size


def test_collimation_is_drawn_or_set():
    cut = 0
    for seed in range(6):
        films = (render_phantom(seed, body_part="hand", size=128, collimated=one) for one in (None, True, False))
        drawn, narrow, wide = (film.pixels for film in films)
        assert (drawn == narrow).all() or (drawn == wide).all()
        assert (narrow <= wide).all()
        cut += (narrow < wide).any()
    assert cut >= 3  # blades may be outside of the film


def test_an_exposure_changes_the_film_and_nothing_in_the_patient():
    films = {name: render_phantom(4, finding="sclerotic_lesion", size=256, exposure=name) for name in EXPOSURES}
    usual, dark = films["standard"], films["underexposed"]
    assert usual.box == dark.box
    assert (usual.mask == dark.mask).all()
    assert dark.pixels.mean() < 0.8 * usual.pixels.mean()
    same = render_phantom(4, finding="sclerotic_lesion", size=256)
    assert (same.pixels == usual.pixels).all()


def test_a_sclerotic_lesion_is_dense():
    for seed in range(3):
        ill, well = (render_phantom(seed, finding=one, size=256) for one in ("sclerotic_lesion", None))
        change = ill.pixels.astype(int) - well.pixels
        below_white = ill.mask & (well.pixels < 220)  # what is white already can get no whiter
        assert change[ill.mask].min() > -10
        assert below_white.sum() < 20 or change[below_white].mean() > 3


def test_a_cast_covers_the_limb():
    without, with_it = (render_phantom(8, body_part="wrist", cast=shown, size=256).pixels for shown in (False, True))
    assert with_it.mean() > without.mean() + 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body_part": "knee"}, "'knee'"), ({"finding": "cyst"}, "'cyst'"), ({"exposure": "night"}, "'night'"),
        ({"seed": -1}, "0 or more"), ({"view": -1}, "0 or more"),
    ],
)  # fmt: skip
def test_refuses_the_unknown(options, message):
    with pytest.raises(ValueError, match=message):
        render_phantom(**{"seed": 0, **options})


def test_the_same_seed_gives_the_same_pixels_as_ever():
    """On another processor, rounding may differ by a gray level."""
    digests = {"wrist": "45235dc99843", "shoulder": "487087f09072", "hand": "b282aed25fdc"}
    for part, digest in digests.items():
        phantom = render_phantom(11, body_part=part, finding="displaced_fracture", size=128)
        coarse = (phantom.pixels[::8, ::8] // 32).astype(np.uint8)
        assert hashlib.sha256(coarse.tobytes()).hexdigest()[:12] == digest
