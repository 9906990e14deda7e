"""`render_phantom`: one synthetic radiograph with the truth about its finding, from the body to the film."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from ..common import BODY_PARTS
from .anatomy import Anatomy, build_anatomy
from .findings import FINDINGS, UNUSUAL_FINDINGS, Finding, draw_finding
from .geometry import FOCUS_MM, SAMPLES, Body, Camera, make_loft, rotation
from .raymarch import NO_CHANGE, Window, cast_shadow

Range = tuple[float, float]


@dataclass(frozen=True)
class Exposure:
    """Ranges (lowest, highest) from which each film draws its exposure."""

    scatter: Range = (0.06, 0.16)  # share of scattered radiation
    grain: Range = (0.006, 0.016)  # standard deviation of the quantum noise in the direct beam
    grain_size: Range = (0.45, 0.8)  # standard deviation in pixels of the Gaussian that blurs the noise
    blur: Range = (0.45, 0.8)  # standard deviation in pixels of the Gaussian that blurs the film
    floor: Range = (0.0, 0.12)  # share of the window that stays black at its lower end
    ceiling: Range = (0.98, 1.15)  # upper end of the window, in units of the densest bone
    gamma: Range = (0.8, 1.1)  # exponent of the display values; above 1, films are darker


EXPOSURES = {
    "standard": Exposure(),
    "underexposed": Exposure(
        scatter=(0.25, 0.45), grain=(0.035, 0.06), grain_size=(0.7, 1.1), blur=(1.0, 1.6), gamma=(1.5, 2.0)
    ),
}
"""Exposures by name. "underexposed" films are noisier, softer and darker than any "standard" one."""


def develop(
    total: np.ndarray,
    normal: np.ndarray,
    flesh: np.ndarray,
    exposure: Exposure,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """Converts attenuation to display values in [0, 1]: Beer-Lambert law, scatter, noise, blur, window.

    Scatter and window depend on the patient without the finding, so that a finding changes the film only locally.

    Args:
        total, normal, flesh: Attenuation of everything in the beam, of the patient without the finding, and of soft
            tissue, where the window is computed; float32 `[H, W]`.
        exposure: Ranges of the exposure.
        rng, noise: Generators of the exposure and of the quantum noise.
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
    # A smooth upper end of the curve keeps metal whiter than bone.
    return cv2.pow(1.1 * level / cv2.pow(cv2.pow(level, 2.6) + 1.0, 1 / 2.6), rng.uniform(*exposure.gamma))


def draw_marker(shape: tuple[int, int], letter: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a lead letter near a border, attenuation as float32 `[H, W]`."""
    height, width = shape
    canvas = np.zeros(shape, np.uint8)
    size = rng.uniform(0.7, 1.5) * max(height, width) / 512
    thickness = max(1, round(size * rng.uniform(2.0, 4.0)))
    x = int(width * (rng.uniform(0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.82, 0.9)))
    y = int(height * rng.uniform(0.1, 0.9))
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    cv2.putText(canvas, letter, (x, y), font, size, 255, thickness, cv2.LINE_AA)
    turned = cv2.getRotationMatrix2D((float(x), float(y)), float(rng.normal(0, 12)), 1.0)
    canvas = cv2.warpAffine(canvas, turned, (width, height))
    return canvas.astype(np.float32) * np.float32(rng.uniform(1.0, 2.2) / 255)


def collimation(shape: tuple[int, int], rng: np.random.Generator, collimated: bool | None = None) -> np.ndarray:
    """Transmission of the collimator, float32 `[H, W]` in [0, 1]: dark outside of its slightly rotated blades."""
    height, width = shape
    drawn = bool(rng.random() >= 0.45)  # always drawn, so that the blades keep their position
    if not (drawn if collimated is None else collimated):
        return np.ones(shape, np.float32)
    inset = rng.uniform(-0.03, 0.09, 4)
    corners = np.array([
        (inset[0] * width, inset[1] * height), ((1 - inset[2]) * width, inset[1] * height),
        ((1 - inset[2]) * width, (1 - inset[3]) * height), (inset[0] * width, (1 - inset[3]) * height)
    ])  # fmt: skip
    turn = rng.normal(0, 0.05)
    middle = np.array([width / 2, height / 2])
    c, s = np.cos(turn), np.sin(turn)
    corners = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    opened = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(opened, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(opened, (0, 0), 1.2).astype(np.float32) / 255 * 0.98 + 0.02


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        pixels: uint8 `[H, W]`, bone bright.
        mask: bool `[H, W]`, pixels that the finding changed; all False without a finding.
        box: Half-open (x0, y0, x1, y1) around the finding in pixels; None if it is not visible in this projection.
        body_part, finding, view, seed: See `render_phantom`; `finding` as drawn, or None.
    """

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int] | None
    body_part: str
    finding: str | None
    view: int
    seed: int


# Attenuation per mm, ordered like tissues at 60 keV and chosen so that films look right; not physical coefficients.
_FAT, _MUSCLE, _CANCELLOUS, _CORTEX, _METAL, _PLASTER = 0.0075, 0.0105, 0.021, 0.08, 0.34, 0.022
_TURNS = (0.0, np.pi / 2, np.pi / 4, -np.pi / 4)  # frontal, lateral, two obliques
# Pixels per ray in each direction: for hairline fractures, bones, and for what has no fine detail.
_SHARP, _FINE, _FAR, _COARSE = 1.0, 1.6, 4.0, 6.0
_BONE: dict[str, Any] = {"dense": _CORTEX, "spongy": _CANCELLOUS, "grain": 0.5}
_FAINT = 0.004  # smaller changes of attenuation are ignored
_BOX_SHARE = 0.12  # changes below this share of the strongest one are outside of the box
# Streams of random numbers, so that switching one thing on does not change another.
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

    The same seed gives the same patient, pose, exposure and noise. Options change the image only where the object is,
    and within the detector's blur: counterfactual pairs are bit-equal elsewhere.

    Args:
        seed: Seed of the patient, 0 or more.
        body_part: One of `BODY_PARTS`; drawn from the seed if None.
        view: Number of the projection, from 0: frontal, lateral, obliques. All show the same anatomy, rotated.
        finding: None (normal), or one of `FINDINGS` or `UNUSUAL_FINDINGS`.
        marker: Whether there is a side marker; drawn from the seed if None.
        metal: Whether to add a plate, wires or a rod, independent of the finding.
        cast: Whether the limb is in plaster; drawn from the seed if None.
        jewel: Whether the patient wears a ring or bracelet; drawn from the seed if None.
        collimated: Whether the beam is collimated; blades may be outside of the film. Drawn from the seed if None.
        size: Pixels on the long side.
        exposure: One of `EXPOSURES`.

    Raises:
        ValueError: If a name is unknown, or the seed or view is negative.
    """
    if exposure not in EXPOSURES:
        raise ValueError(f"unknown exposure {exposure!r}; known are {', '.join(EXPOSURES)}")
    body_part = _choose_body_part(body_part, seed, view, finding)
    anatomy, straight, camera = _set_up(body_part, seed, view, size)
    flesh, bones = _normal_shadows(body_part, seed, view, size)
    drawn = _random_stream(seed, _EXPOSURE, view)
    normal = flesh + bones

    change, box = np.zeros(camera.shape, np.float32), None
    if finding is not None:
        change, box, finding = _effect_of(body_part, seed, view, size, finding)
    total = normal + change
    if metal:
        hardware = draw_finding("hardware", anatomy, straight, _random_stream(seed, _METALWORK))
        total = total + _attenuation_change(hardware, anatomy, camera)
    total = total + _accessories(anatomy, camera, seed, view, marker=marker, cast=cast, jewel=jewel)

    picture = develop(total, normal, flesh, EXPOSURES[exposure], drawn, _random_stream(seed, _NOISE, view))
    picture = picture * collimation(camera.shape, _random_stream(seed, _EXTRAS, 1000 + view), collimated)
    pixels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    return Phantom(pixels, change != 0, box, body_part, finding, view, seed)


def locate_finding(
    seed: int, finding: str, *, body_part: str | None = None, view: int = 0, size: int = 512
) -> tuple[int, int, int, int] | None:
    """Returns where a patient's finding is, or would be, visible: the `box` of `render_phantom` without the image.

    Arguments and errors are those of `render_phantom`.
    """
    body_part = _choose_body_part(body_part, seed, view, finding)
    return _effect_of(body_part, seed, view, size, finding)[1]


@lru_cache(maxsize=1)
def _effect_of(
    body_part: str, seed: int, view: int, size: int, finding: str
) -> tuple[np.ndarray, tuple[int, int, int, int] | None, str]:
    """Change of attenuation by a finding, float32 `[H, W]`, its box, and its kind as drawn."""
    anatomy, straight, camera = _set_up(body_part, seed, view, size)
    drawn = draw_finding(finding, anatomy, straight, _random_stream(seed, _FINDING))
    change = _attenuation_change(drawn, anatomy, camera)
    return change, _box(np.abs(change), drawn, camera), drawn.kind


def _set_up(body_part: str, seed: int, view: int, size: int) -> tuple[Anatomy, Anatomy, Camera]:
    """The patient in this projection, the same patient with straight joints, and the camera."""
    anatomy = _anatomy(body_part, seed, _flexion(body_part, seed, view))
    return anatomy, _anatomy(body_part, seed, 0.0), _camera(anatomy, seed, view, size)


def _flexion(body_part: str, seed: int, view: int) -> float:
    """Flexion of the elbow in radians: almost straight in frontal views, near a right angle in lateral ones."""
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
    """Sum of shadows on `camera.coarser(factor)`, resized to the camera's own resolution, float32 `[H, W]`."""
    total = np.zeros(camera.coarser(factor).shape, np.float32)
    for shadow in shadows:
        if shadow:
            total[shadow[0]] += shadow[1]
    return cv2.resize(total, camera.shape[::-1], interpolation=cv2.INTER_CUBIC)


@lru_cache(maxsize=1)
def _normal_shadows(body_part: str, seed: int, view: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each; cached, because a counterfactual has the same."""
    anatomy, _, camera = _set_up(body_part, seed, view, size)
    coarse, fine, far = camera.coarser(_COARSE), camera.coarser(_FINE), camera.coarser(_FAR)
    bodies = [(anatomy.flesh, 1.0)] + ([(anatomy.lung, -0.9)] if anatomy.lung else [])
    soft = (cast_shadow(body, coarse, dense=k * _FAT, spongy=k * _MUSCLE, margin=5.0) for body, k in bodies)
    flesh = _layer(camera, _COARSE, soft)
    ribs = [bone for bone in anatomy.bones if bone.name.startswith("rib")]
    rest = (bone for bone in anatomy.bones if not bone.name.startswith("rib"))
    bones = _layer(camera, _FINE, (cast_shadow(bone, fine, **_BONE) for bone in rest))
    if ribs:  # they are blurred, so a low resolution is enough
        bones += _layer(camera, _FAR, (cast_shadow(bone, far, dense=_CORTEX, spongy=_CANCELLOUS) for bone in ribs))
    return np.maximum(flesh, 0), np.maximum(bones, 0)


def _attenuation_change(finding: Finding, anatomy: Anatomy, camera: Camera) -> np.ndarray:
    """Change of attenuation by a finding, float32 `[H, W]`; 0 outside of it."""
    factor = _SHARP if finding.kind == "subtle_fracture" else _FINE
    fine = camera.coarser(factor)
    near: dict[str, Any] = {**_BONE, "margin": 8.0, "within": (finding.centre, finding.reach)}

    def shadows() -> Iterator[tuple[Window, np.ndarray] | None]:
        for index, body in finding.bodies.items():
            yield cast_shadow(body, fine, **near, change=finding.changes.get(index, NO_CHANGE))
            before = cast_shadow(anatomy.bones[index], fine, **near)  # same rays as above
            yield before and (before[0], -before[1])
        for body in finding.metal:
            shadow = cast_shadow(body, fine, dense=_METAL, spongy=_METAL)
            # Beam hardening: metal saturates.
            yield shadow and (shadow[0], 1.6 * np.tanh(shadow[1] / 1.6))

    change = _layer(camera, factor, shadows())
    change[np.abs(change) < _FAINT] = 0
    return change


def _accessories(
    anatomy: Anatomy,
    camera: Camera,
    seed: int,
    view: int,
    *,
    marker: bool | None,
    cast: bool | None,
    jewel: bool | None,
) -> np.ndarray:
    """Attenuation of marker, plaster and jewellery, drawn independently of the label."""
    patient, total = _random_stream(seed, _EXTRAS), np.zeros(camera.shape, np.float32)
    chances = patient.random(3)
    if chances[0] < 0.05 if cast is None else cast:
        far = camera.coarser(_FAR)
        plaster = cast_shadow(_make_cast(anatomy, patient), far, dense=_PLASTER, spongy=0.0, margin=2.0)
        total += _layer(camera, _FAR, [plaster])
    worn = chances[1] < 0.05 if jewel is None else jewel
    piece = _make_jewel(anatomy, _random_stream(seed, _EXTRAS, 1)) if worn else None
    shadow = piece and cast_shadow(piece, camera, dense=_METAL, spongy=0.0)
    if shadow:
        total[shadow[0]] += shadow[1]
    if chances[2] < 0.6 if marker is None else marker:
        total += draw_marker(camera.shape, "L" if camera.mirrored else "R", _random_stream(seed, _EXTRAS, 10 + view))
    return total


def _make_cast(anatomy: Anatomy, rng: np.random.Generator) -> Body:
    """Makes a plaster shell around the flesh."""
    away, thick = rng.uniform(1.5, 3.5), rng.uniform(3.0, 6.0)
    lofts = []
    for loft in anatomy.flesh.lofts:
        table = loft.table.copy()
        table[:, 2:4] += away + thick
        table[:, 4] = thick * (1 + 0.15 * np.sin(np.linspace(0, rng.uniform(9, 20), SAMPLES)))
        table[:, 5] = 0.0
        lofts.append(replace(loft, table=table))
    return Body("cast", tuple(lofts), anatomy.flesh.melt)


def _make_jewel(anatomy: Anatomy, rng: np.random.Generator) -> Body | None:
    """Makes a ring on a finger or a bracelet at the wrist; None for other body parts."""
    fingers = [bone for bone in anatomy.bones if bone.name.startswith("proximal phalanx")]
    if anatomy.body_part in ("hand", "finger") and fingers:
        shaft = fingers[int(rng.integers(len(fingers)))].lofts[0]
        inner, long, wall, share = 1.9 * shaft.radius(0.5), rng.uniform(1.5, 3.0), 1.1, 0.35
    elif anatomy.body_part in ("wrist", "forearm"):
        shaft = next(bone for bone in anatomy.bones if bone.name == "radius").lofts[0]
        inner, long, wall, share = 29.0 * anatomy.patient.size, rng.uniform(3.0, 7.0), 1.0, rng.uniform(0.1, 0.2)
    else:
        return None
    middle = shaft.point(share) + (shaft.frame[0] * 9 * anatomy.patient.size if inner > 15 else 0)
    lean = shaft.frame[2] + rng.normal(0, 0.08, 3)
    lean /= np.linalg.norm(lean)
    outer = inner + wall
    start, end, rows = middle - lean * long / 2, middle + lean * long / 2, [(t, outer, outer * 0.85) for t in (0, 1)]
    ring = make_loft(start, end, rows, wall=wall, filling=0.0, caps=(0.0, 0.0))
    return Body("ring", (ring,), 0.1)


def _box(change: np.ndarray, finding: Finding, camera: Camera) -> tuple[int, int, int, int] | None:
    """Box (x0, y0, x1, y1) around the changes within the finding's reach; None if there are hardly any."""
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
    """One of a patient's independent generators."""
    return np.random.default_rng([seed, stream, view])


def _choose_body_part(body_part: str | None, seed: int, view: int, finding: str | None) -> str:
    """Checks the arguments; draws a body part from the seed if None."""
    if seed < 0 or view < 0:
        raise ValueError(f"seed and view must be 0 or more, not {seed} and {view}")
    if body_part is None:
        body_part = BODY_PARTS[int(_random_stream(seed, _PATIENT, 1).integers(len(BODY_PARTS)))]
    if body_part not in BODY_PARTS:
        raise ValueError(f"unknown body part {body_part!r}; known are {', '.join(BODY_PARTS)}")
    known = (*FINDINGS, *UNUSUAL_FINDINGS)
    if finding is not None and finding not in known:
        raise ValueError(f"unknown finding {finding!r}; known are {', '.join(known)}, or None for a normal phantom")
    return body_part
