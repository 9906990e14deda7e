"""`render_phantom`: one synthetic radiograph with the truth about its finding."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from .body_parts import Anatomy, build_anatomy
from .camera import FOCUS_MM, Camera, rotation
from .developing import develop
from .exposure import EXPOSURES
from .extras import collimation, draw_marker, make_cast, make_jewel
from .findings import FINDINGS, UNUSUAL_FINDINGS, Finding, draw_finding
from .phantom import BODY_PARTS, Phantom
from .raymarch import NO_CHANGE
from .shadow import Window, cast_shadow

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
