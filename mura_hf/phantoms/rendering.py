"""`Phantom`: a synthetic radiograph with the truth about it.

How a phantom's film was exposed and developed: the ranges that each film draws its own values from.
From attenuation to a film.
The shadow that one body throws on the detector.
`render_phantom`: one synthetic radiograph with the truth about its finding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from .body_parts import Anatomy, build_anatomy, collimation, draw_marker, make_cast, make_jewel
from .findings import FINDINGS, UNUSUAL_FINDINGS, Finding, draw_finding
from .patient import Body
from .raymarch import FOCUS_MM, NO_CHANGE, Camera, integrate_body, rotation

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        pixels: uint8 `[H, W]`, bone bright.
        mask: bool `[H, W]`, pixels that the finding changed; all False where there is none.
        box: (x0, y0, x1, y1) around the finding in pixels, half open; None where none shows in this projection.
        body_part: One of the seven.
        finding: What is abnormal, or None.
        view: Number of the projection.
        seed: The patient's seed.
    """

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int] | None
    body_part: str
    finding: str | None
    view: int
    seed: int


Range = tuple[float, float]


@dataclass(frozen=True)
class Exposure:
    """A way to expose films; each value is a lowest and a highest one.

    Attributes:
        scatter: Share of scattered light.
        grain: Deviation of the quantum noise where nothing stands in the beam.
        grain_size: Deviation of the Gauss that blurs the noise, in pixels.
        blur: Deviation of the Gauss that blurs the film, in pixels.
        floor: Share of the window that stays black at its lower end.
        ceiling: Where the window ends, in units of the densest bone.
        gamma: Exponent of the display values; above 1 the film is darker.
    """

    scatter: Range = (0.06, 0.16)
    grain: Range = (0.006, 0.016)
    grain_size: Range = (0.45, 0.8)
    blur: Range = (0.45, 0.8)
    floor: Range = (0.0, 0.12)
    ceiling: Range = (0.98, 1.15)
    gamma: Range = (0.8, 1.1)


EXPOSURES = {
    "standard": Exposure(),
    "underexposed": Exposure(
        scatter=(0.25, 0.45), grain=(0.035, 0.06), grain_size=(0.7, 1.1), blur=(1.0, 1.6), gamma=(1.5, 2.0)
    ),
}
"""Ways to expose by name. Default trees are all "standard"; "underexposed" has few quanta, much scatter, and is
grainier, softer and darker than any of them.
"""


def develop(
    total: np.ndarray,
    normal: np.ndarray,
    flesh: np.ndarray,
    exposure: Exposure,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """From attenuation to display values in [0, 1]: Beer and Lambert, scatter, noise, blur, window.

    Scatter and window come from the patient without finding, so that a finding changes nothing afar.

    Args:
        total: Attenuation of all that stands in the beam, float32 `[H, W]`.
        normal: Of it, what the patient is without finding.
        flesh: Of it, what is no bone; the window is set where there is some.
        exposure: The ranges that the film draws its values from.
        rng: What they are drawn from.
        noise: What the quanta are drawn from.
    """
    shape = total.shape
    tenth = cv2.resize(np.exp(-normal), (max(shape[1] // 8, 8), max(shape[0] // 8, 8)), interpolation=cv2.INTER_AREA)
    scatter = cv2.resize(cv2.GaussianBlur(tenth, (0, 0), 0.06 * max(tenth.shape)), shape[::-1])
    share = rng.uniform(*exposure.scatter)
    dose = (cv2.exp(-total) + share * scatter) / (1 + share)
    grain = noise.standard_normal(shape, dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(*exposure.grain_size))
    dose = np.maximum(dose + rng.uniform(*exposure.grain) * grain * np.sqrt(dose), 0.003)
    value = -cv2.log(cv2.GaussianBlur(dose, (0, 0), rng.uniform(*exposure.blur)))
    plain = -np.log((np.exp(-normal[::4, ::4]) + share * scatter[::4, ::4]) / (1 + share))
    body = plain[flesh[::4, ::4] > 0.03]
    high = float(np.percentile(body, 99.6)) if body.size else 1.0
    low = float(np.percentile(plain, 1.0)) + rng.uniform(*exposure.floor) * high
    level = np.maximum(value - low, 0) / max(high * rng.uniform(*exposure.ceiling) - low, 1e-3)
    # A soft shoulder leaves metal whiter than bone.
    return cv2.pow(1.1 * level / cv2.pow(cv2.pow(level, 2.6) + 1.0, 1 / 2.6), rng.uniform(*exposure.gamma))


_GRAIN_CELLS = 64  # a power of two: the texture repeats
_GRAIN_MM = 0.42


@lru_cache(maxsize=1)
def grain_volume() -> np.ndarray:
    """Band-passed noise of unit deviation, float32 `[64, 64, 64]`, periodic: the texture of cancellous bone."""
    n = _GRAIN_CELLS
    spectrum = np.fft.fftn(np.random.default_rng(64).standard_normal((n, n, n)))
    wave = np.fft.fftfreq(n) * n
    radius = np.sqrt(wave[:, None, None] ** 2 + wave[None, :, None] ** 2 + wave[None, None, :] ** 2)
    noise = np.real(np.fft.ifftn(spectrum * np.exp(-(((radius - 14) / 6) ** 2))))
    return (noise / noise.std()).astype(np.float32)


Window = tuple[slice, slice]


def cast_shadow(
    body: Body,
    camera: Camera,
    *,
    dense: float,
    spongy: float,
    grain: float = 0.0,
    margin: float = 1.0,
    change: np.ndarray = NO_CHANGE,
    within: tuple[np.ndarray, float] | None = None,
) -> tuple[Window, np.ndarray] | None:
    """Attenuation of one body along every ray that meets it.

    Args:
        body: What stands in the beam.
        camera: The exposure.
        dense: Attenuation of the body's wall per mm.
        spongy: Attenuation of its filled inside per mm.
        grain: Contrast of the inside's texture.
        margin: Room in mm around the body for what `change` adds.
        change: A finding; see `integrate_body`.
        within: A point and a distance in mm: rays that pass it farther off are left out.

    Returns:
        The rows and columns of the picture, and float32 attenuation there; None outside the picture.
    """
    corners = np.concatenate([loft.corners(margin) for loft in body.lofts])
    everything = camera.project(corners)
    height, width = camera.shape
    least, most = everything.min(0), everything.max(0)
    if within:
        middle, radius = camera.project(within[0][None])[0], within[1] * camera.scale
        least, most = np.maximum(least, middle - radius), np.minimum(most, middle + radius)
    c0, r0 = np.maximum(np.floor(least), 0).astype(int)
    c1, r1 = np.minimum(np.ceil(most) + 1, (width, height)).astype(int)
    if r1 <= r0 or c1 <= c0:
        return None
    wanted = np.zeros((r1 - r0, c1 - c0), np.uint8)
    for outline in np.split(everything, len(body.lofts)):
        cv2.fillConvexPoly(wanted, cv2.convexHull(np.round(outline - (c0, r0)).astype(np.int32)), 1)
    if within:
        circle = np.zeros_like(wanted)
        cv2.circle(circle, tuple(np.round(middle - (c0, r0)).astype(int).tolist()), max(1, round(radius)), 1, -1)
        wanted &= circle
    first = body.lofts[0]
    boxes = (corners - first.origin) @ first.frame.T
    pixel = 1 / camera.scale
    attenuation = integrate_body(
        *camera.rays(),
        np.array([r0, r1, c0, c1]),
        wanted.astype(bool),
        *body.stacked,
        np.float32(max(body.melt, 0.05)),
        np.float32(margin),
        boxes.min(0).astype(np.float32),
        boxes.max(0).astype(np.float32),
        np.float32(dense),
        np.float32(spongy),
        grain_volume(),
        np.float32(_GRAIN_MM),
        np.float32(grain),
        change.astype(np.float32),
        np.float32(np.clip(1.4 * pixel, 0.5, 2.5)),
        np.float32(max(0.5, 1.1 * pixel)),
    )
    return (slice(int(r0), int(r1)), slice(int(c0), int(c1))), attenuation


# Attenuation per mm, in the order of tissues at 60 keV, chosen so that films look right; not physical coefficients.
_FAT, _MUSCLE, _CANCELLOUS, _CORTEX, _METAL, _PLASTER = 0.0075, 0.0105, 0.021, 0.08, 0.34, 0.022
_TURNS = (0.0, np.pi / 2, np.pi / 4, -np.pi / 4)  # frontal, lateral, two obliques
# Pixels of the picture a ray, each way: hairlines, bones, then what has no fine detail.
_SHARP, _FINE, _FAR, _COARSE = 1.0, 1.6, 4.0, 6.0
_BONE: dict[str, Any] = {"dense": _CORTEX, "spongy": _CANCELLOUS, "grain": 0.5}
_FAINT = 0.004  # changes of attenuation below are none
_BOX_SHARE = 0.12  # of the strongest change, that a box holds
# Streams of random numbers: one for each thing that must not move when another is switched on.
_PATIENT, _EXPOSURE, _FINDING, _NOISE, _EXTRAS, _METALWORK = range(6)


def render_phantom(
    seed: int,
    *,
    body_part: str | None = None,
    view: int = 0,
    finding: str | None = None,
    marker: bool | None = None,
    metal: bool = False,
    cast: bool | None = None,
    jewel: bool | None = None,
    collimated: bool | None = None,
    size: int = 512,
    exposure: str = "standard",
) -> Phantom:
    """Renders one projection of one patient.

    The same seed is the same patient, pose, exposure and noise. What is switched on or off changes the picture only
    where it is, and within the reach of the detector's blur: twins are equal bit for bit elsewhere.

    Args:
        seed: The patient, 0 or above.
        body_part: One of the seven; drawn from the seed where None.
        view: Number of the projection, from 0: frontal, lateral, obliques. All show the same anatomy, turned.
        finding: None (normal), one of `FINDINGS` or of `UNUSUAL_FINDINGS`.
        marker: Whether a side marker is in the picture; drawn from the seed where None.
        metal: Whether a plate, wires or a rod are there besides, at a place of their own.
        cast: Whether the limb is in plaster; drawn from the seed where None.
        jewel: Whether a ring or bracelet is worn; drawn from the seed where None.
        collimated: Whether blades narrow the beam, at times all beyond the film; drawn from the seed where None.
        size: Pixels on the long side.
        exposure: One of `EXPOSURES`.

    Raises:
        ValueError: If the body part, the finding or the exposure is unknown, or the seed or view negative.
    """
    if seed < 0 or view < 0:
        raise ValueError(f"seed and view must be 0 or above, not {seed} and {view}")
    if exposure not in EXPOSURES:
        raise ValueError(f"unknown exposure {exposure!r}; there are {', '.join(EXPOSURES)}")
    body_part = _choose_body_part(body_part, finding, _random_stream(seed, _PATIENT, 1))
    anatomy, straight, camera = _set_up(body_part, seed, view, size)
    flesh, bones = _normal_shadows(body_part, seed, view, size)
    drawn = _random_stream(seed, _EXPOSURE, view)
    normal = flesh + bones

    change, box = np.zeros(camera.shape, np.float32), None
    if finding is not None:
        change, box, finding = _found(body_part, seed, view, size, finding)
    total = normal + change
    if metal:
        total = total + _effect(
            draw_finding("hardware", anatomy, straight, _random_stream(seed, _METALWORK)), anatomy, camera
        )
    total = total + _worn(anatomy, camera, seed, view, marker=marker, cast=cast, jewel=jewel)

    picture = develop(total, normal, flesh, EXPOSURES[exposure], drawn, _random_stream(seed, _NOISE, view))
    picture = picture * collimation(camera.shape, _random_stream(seed, _EXTRAS, 1000 + view), collimated)
    pixels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    return Phantom(pixels, change != 0, box, body_part, finding, view, seed)


def locate_finding(
    seed: int, finding: str, *, body_part: str | None = None, view: int = 0, size: int = 512
) -> tuple[int, int, int, int] | None:
    """Where a patient's finding shows, or would show: the `box` of `render_phantom` without the picture.

    Args:
        seed: The patient.
        finding: One of `FINDINGS`, or of `UNUSUAL_FINDINGS`.
        body_part: As for `render_phantom`.
        view: Number of the projection.
        size: Pixels on the long side.

    Raises:
        ValueError: As `render_phantom`.
    """
    if seed < 0 or view < 0:
        raise ValueError(f"seed and view must be 0 or above, not {seed} and {view}")
    body_part = _choose_body_part(body_part, finding, _random_stream(seed, _PATIENT, 1))
    return _found(body_part, seed, view, size, finding)[1]


@lru_cache(maxsize=1)
def _found(
    body_part: str, seed: int, view: int, size: int, finding: str
) -> tuple[np.ndarray, tuple[int, int, int, int] | None, str]:
    """What a finding changes in the attenuation, float32 `[H, W]`, its box, and its kind as drawn."""
    anatomy, straight, camera = _set_up(body_part, seed, view, size)
    drawn = draw_finding(finding, anatomy, straight, _random_stream(seed, _FINDING))
    change = _effect(drawn, anatomy, camera)
    return change, _box(np.abs(change), drawn, camera), drawn.kind


def _set_up(body_part: str, seed: int, view: int, size: int) -> tuple[Anatomy, Anatomy, Camera]:
    """The patient as this projection has them, the same with no joint bent, and the exposure."""
    anatomy = _anatomy(body_part, seed, _flexion(body_part, seed, view))
    return anatomy, _anatomy(body_part, seed, 0.0), _camera(anatomy, seed, view, size)


def _flexion(body_part: str, seed: int, view: int) -> float:
    """How far the elbow is bent in radians: straight from the front, at about a right angle from the side."""
    if body_part != "elbow":
        return 0.0
    rng = _random_stream(seed, _EXPOSURE, 500 + view)
    return float(rng.uniform(1.1, 1.75)) if view % len(_TURNS) == 1 else float(rng.uniform(0.0, 0.25))


@lru_cache(maxsize=8)
def _anatomy(body_part: str, seed: int, flexion: float) -> Anatomy:
    return build_anatomy(body_part, _random_stream(seed, _PATIENT), flexion)


def _camera(anatomy: Anatomy, seed: int, view: int, size: int) -> Camera:
    patient, rng = _random_stream(seed, _EXPOSURE, 1_000_000), _random_stream(seed, _EXPOSURE, 2_000_000 + view)
    mirrored, upright = bool(patient.random() < 0.5), bool(patient.random() < 0.85)
    x0, y0, x1, y1 = anatomy.field
    zoom = rng.uniform(0.92, 1.15)
    width, height = (x1 - x0) / zoom, (y1 - y0) / zoom
    gap = float(rng.uniform(35, 70))
    scale = size / max(width, height)
    shape = (round(height * scale), round(width * scale))
    turn = _TURNS[view % len(_TURNS)] + rng.normal(0, 0.1)
    shift = rng.normal(0, 0.025, 2)
    facing = abs(np.cos(turn))
    centre = np.array([(x0 + x1) / 2 * facing + shift[0] * width, (y0 + y1) / 2 + shift[1] * height, 0.0])
    pose = rotation(2, rng.normal(0, 0.12) + (0.0 if upright else np.pi)) @ rotation(1, turn)
    return Camera(pose, centre, gap, scale * (FOCUS_MM - gap) / FOCUS_MM, mirrored, shape)


def _layer(camera: Camera, factor: float, shadows: Iterable[tuple[Window, np.ndarray] | None]) -> np.ndarray:
    """The sum of shadows cast on `camera.coarser(factor)`, at the camera's own resolution, float32 `[H, W]`."""
    total = np.zeros(camera.coarser(factor).shape, np.float32)
    for shadow in shadows:
        if shadow:
            total[shadow[0]] += shadow[1]
    return cv2.resize(total, camera.shape[::-1], interpolation=cv2.INTER_CUBIC)


@lru_cache(maxsize=1)
def _normal_shadows(body_part: str, seed: int, view: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each. The last ones are kept: a twin has the same."""
    anatomy, _, camera = _set_up(body_part, seed, view, size)
    coarse, fine, far = camera.coarser(_COARSE), camera.coarser(_FINE), camera.coarser(_FAR)
    bodies = [(anatomy.flesh, 1.0)] + ([(anatomy.lung, -0.9)] if anatomy.lung else [])
    flesh = _layer(
        camera,
        _COARSE,
        (cast_shadow(body, coarse, dense=k * _FAT, spongy=k * _MUSCLE, margin=5.0) for body, k in bodies),
    )
    ribs = [bone for bone in anatomy.bones if bone.name.startswith("rib")]
    rest = (bone for bone in anatomy.bones if not bone.name.startswith("rib"))
    bones = _layer(camera, _FINE, (cast_shadow(bone, fine, **_BONE) for bone in rest))
    if ribs:  # off the film's focus, so that half the resolution does
        bones += _layer(camera, _FAR, (cast_shadow(bone, far, dense=_CORTEX, spongy=_CANCELLOUS) for bone in ribs))
    return np.maximum(flesh, 0), np.maximum(bones, 0)


def _effect(finding: Finding, anatomy: Anatomy, camera: Camera) -> np.ndarray:
    """What a finding adds to the attenuation (or takes from it), float32 `[H, W]`; 0 where it does nothing."""
    factor = _SHARP if finding.kind == "subtle_fracture" else _FINE
    fine = camera.coarser(factor)
    near: dict[str, Any] = {**_BONE, "margin": 8.0, "within": (finding.centre, finding.reach)}

    def shadows() -> Iterator[tuple[Window, np.ndarray] | None]:
        for index, body in finding.bodies.items():
            yield cast_shadow(body, fine, **near, change=finding.changes.get(index, NO_CHANGE))
            before = cast_shadow(anatomy.bones[index], fine, **near)  # sampled as the other, ray by ray
            yield before and (before[0], -before[1])
        for body in finding.metal:
            shadow = cast_shadow(body, fine, dense=_METAL, spongy=_METAL)
            # Beams harden: metal saturates sooner than its thickness says.
            yield shadow and (shadow[0], 1.6 * np.tanh(shadow[1] / 1.6))

    change = _layer(camera, factor, shadows())
    change[np.abs(change) < _FAINT] = 0
    return change


def _worn(
    anatomy: Anatomy,
    camera: Camera,
    seed: int,
    view: int,
    *,
    marker: bool | None,
    cast: bool | None,
    jewel: bool | None,
) -> np.ndarray:
    """Attenuation of what is no finding: marker, plaster, jewellery. Drawn from streams that know no label."""
    patient, total = _random_stream(seed, _EXTRAS), np.zeros(camera.shape, np.float32)
    chances = patient.random(3)
    if chances[0] < 0.05 if cast is None else cast:
        plaster = make_cast(anatomy, patient)
        total += _layer(
            camera, _FAR, [cast_shadow(plaster, camera.coarser(_FAR), dense=_PLASTER, spongy=0.0, margin=2.0)]
        )
    piece = (
        make_jewel(anatomy, _random_stream(seed, _EXTRAS, 1))
        if (chances[1] < 0.05 if jewel is None else jewel)
        else None
    )
    shadow = piece and cast_shadow(piece, camera, dense=_METAL, spongy=0.0)
    if shadow:
        total[shadow[0]] += shadow[1]
    if chances[2] < 0.6 if marker is None else marker:
        total += draw_marker(camera.shape, "L" if camera.mirrored else "R", _random_stream(seed, _EXTRAS, 10 + view))
    return total


def _box(change: np.ndarray, finding: Finding, camera: Camera) -> tuple[int, int, int, int] | None:
    """Rectangle (x0, y0, x1, y1) around what changed, within the finding's reach, by at least a share of the strongest
    change; None where hardly anything did.
    """
    column, row = camera.project(finding.centre[None])[0]
    near = np.zeros(change.shape, np.uint8)
    cv2.circle(near, (round(float(column)), round(float(row))), max(1, round(finding.reach * camera.scale)), 1, -1)
    change = change * near
    seen = change > max(0.03, _BOX_SHARE * float(change.max()))
    if seen.sum() < 12:
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _random_stream(seed: int, stream: int, view: int = 0) -> np.random.Generator:
    """One of a patient's independent sources of randomness, so that switching one thing moves no other."""
    return np.random.default_rng([seed, stream, view])


def _choose_body_part(body_part: str | None, finding: str | None, rng: np.random.Generator) -> str:
    """The body part asked for, or one drawn from `rng` where None."""
    if body_part is None:
        body_part = BODY_PARTS[int(rng.integers(len(BODY_PARTS)))]
    if body_part not in BODY_PARTS:
        raise ValueError(f"unknown body part {body_part!r}; there are {', '.join(BODY_PARTS)}")
    known = (*FINDINGS, *UNUSUAL_FINDINGS)
    if finding is not None and finding not in known:
        raise ValueError(f"unknown finding {finding!r}; there are {', '.join(known)}, or None for a normal phantom")
    return body_part
