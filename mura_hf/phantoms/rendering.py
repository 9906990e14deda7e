"""`render_phantom`: one synthetic radiograph with the truth about its finding."""

from dataclasses import replace

import cv2
import numpy as np

from .anatomy import build_anatomy
from .findings import FINDINGS, FindingSite, break_bone, draw_site, metal_thickness
from .phantom import Phantom, bounding_box, choose_body_part, random_stream
from .projection import Pose, path_length, tube_coordinates
from .skeleton import Anatomy, Tube

# Attenuation per mm, chosen so that films look right at the display range below; not physical coefficients.
_SOFT, _MARROW, _CORTEX, _METAL = 0.0095, 0.016, 0.085, 0.55
_TURNS = (0.0, np.pi / 2, np.pi / 4, -np.pi / 4, 0.2)  # frontal, lateral, two obliques, near-frontal
# Streams of random numbers: one for each thing that must not move when another is switched on.
_PATIENT, _VIEW, _FINDING, _NOISE = range(4)


def _pose(anatomy: Anatomy, seed: int, view: int, size: int) -> Pose:
    rng = random_stream(seed, _VIEW, view)
    patient = random_stream(seed, _VIEW, 1_000_000)
    mirrored = bool(patient.random() < 0.5)
    x0, y0, x1, y1 = anatomy.field
    zoom = rng.uniform(0.92, 1.15)
    width, height = (x1 - x0) / zoom, (y1 - y0) / zoom
    scale = size / max(width, height)
    shape = (round(height * scale), round(width * scale))
    shift = rng.normal(0, 0.02, 2)
    turn = _TURNS[view % len(_TURNS)] + rng.normal(0, 0.1)
    # Turned, the field's middle comes to lie beside the axis unless it is turned with it.
    centre = ((x0 + x1) / 2 + shift[0] * width, (y0 + y1) / 2 + shift[1] * height)
    depth = float(np.mean([bone.axis[:, 2].mean() for bone in anatomy.bones]))
    middle = float(np.mean([bone.axis[:, 0].mean() for bone in anatomy.bones]))
    lateral = abs(np.sin(turn))
    centre = (centre[0] * (1 - lateral) + lateral * (middle + depth * np.sign(np.sin(turn))), centre[1])
    return Pose(turn, rng.normal(0, 0.12), mirrored, scale, centre, shape)


def _noise_field(rng: np.random.Generator, shape: tuple[int, int], fine: float, coarse: float) -> np.ndarray:
    """Band-passed noise of unit deviation: blobs between `fine` and `coarse` pixels wide."""
    white = rng.standard_normal(shape, dtype=np.float32)
    field = cv2.GaussianBlur(white, (0, 0), max(fine, 0.3)) - cv2.GaussianBlur(white, (0, 0), max(coarse, 0.6))
    return field / max(float(field.std()), 1e-6)


def _bone_attenuation(across: np.ndarray, radius: np.ndarray, cortex: np.ndarray, texture: np.ndarray) -> np.ndarray:
    whole = path_length(across, radius)
    marrow = path_length(across, np.maximum(radius - cortex, 0.0))
    # Trabeculae fill the wide ends; the shaft's canal is nearly empty.
    spongy = np.clip(1.25 - cortex / (0.22 * radius), 0.15, 1.0)
    return _CORTEX * (whole - marrow) + _MARROW * marrow * (0.55 + 0.6 * spongy) * (1 + 0.2 * spongy * texture)


def _soft_attenuation(anatomy: Anatomy, pose: Pose) -> np.ndarray:
    """Soft tissue as a smooth union of its tubes, so that overlaps leave no seam; drawn small, since it has no fine
    detail.
    """
    small = replace(pose, scale=pose.scale / 3, shape=(-(-pose.shape[0] // 3), -(-pose.shape[1] // 3)))
    total = np.zeros(small.shape, np.float32)
    for tube in anatomy.soft:
        place = tube_coordinates(tube, small)
        if place is not None:
            total[place.window] += (path_length(place.across, place.radius) / 10) ** 4
    return cv2.resize(_SOFT * 10 * total**0.25, pose.shape[::-1], interpolation=cv2.INTER_CUBIC)


def _site_effect(
    tube: Tube, site: FindingSite, pose: Pose, texture: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Change of attenuation that a finding makes: its window of the picture and the change there."""
    place = tube_coordinates(tube, pose)
    if place is None:
        return None
    patch = texture[place.window]
    before = _bone_attenuation(place.across, place.radius, place.cortex, patch)
    if site.kind == "fracture":
        moved, kept = break_bone(place.across, place, site, pose.turn)
        change = _bone_attenuation(moved, place.radius, place.cortex, patch) * kept - before
    else:
        change = _METAL * metal_thickness(tube, place, site, pose)
    return place.window, np.where(np.abs(change) > 0.01, change, 0.0).astype(np.float32)


def _display(attenuation: np.ndarray, bone_free: float, bright: float) -> np.ndarray:
    """Attenuation to display values in [0, 1], with a soft shoulder for metal."""
    value = np.maximum(attenuation - bone_free, 0.0) / max(bright - bone_free, 1e-6)
    return 1.12 * value / (value**2.6 + 1.0) ** (1 / 2.6)


def _add_marker(picture: np.ndarray, rng: np.random.Generator, mirrored: bool) -> np.ndarray:
    height, width = picture.shape
    size = rng.uniform(0.6, 1.0) * max(height, width) / 512
    x = int(rng.uniform(0.04, 0.12) * width) if rng.random() < 0.5 else int(rng.uniform(0.84, 0.9) * width)
    y = int(rng.uniform(0.06, 0.14) * height) if rng.random() < 0.6 else int(rng.uniform(0.88, 0.96) * height)
    layer = np.zeros(picture.shape, np.uint8)
    letter = "L" if mirrored else "R"
    cv2.putText(layer, letter, (x, y), cv2.FONT_HERSHEY_DUPLEX, size, 255, max(1, round(2 * size)), cv2.LINE_AA)
    return np.maximum(picture, layer * np.float32(0.93 / 255))


def _collimate(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darkens what lies outside the beam on up to four sides."""
    height, width = picture.shape
    edges = np.where(rng.random(4) < 0.35, rng.uniform(0.01, 0.05, 4), -1.0) * [width, height, width, height]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    open_x = np.clip((x - edges[0]) / 1.5, 0, 1) * np.clip((width - edges[2] - x) / 1.5, 0, 1)
    open_y = np.clip((y - edges[1]) / 1.5, 0, 1) * np.clip((height - edges[3] - y) / 1.5, 0, 1)
    return picture * (0.04 + 0.96 * open_y[:, None] * open_x[None, :])


def render_phantom(
    seed: int,
    *,
    body_part: str | None = None,
    view: int = 0,
    finding: str | None = None,
    marker: bool | None = None,
    size: int = 512,
) -> Phantom:
    """Renders one projection of a synthetic patient.

    The same seed is the same patient, pose, exposure and noise: with and without a finding the pictures differ only
    in the finding's mask and the detector's blur around it.

    Args:
        seed: The patient, 0 or above.
        body_part: One of the seven; drawn from the seed where None.
        view: Number of the projection, from 0: frontal, lateral, obliques. All show the same anatomy, turned.
        finding: None (normal), "fracture" or "metal" (plate and screws).
        marker: Whether a side marker is in the picture; drawn from the seed where None.
        size: Pixels on the long side.

    Raises:
        ValueError: If the body part or the finding is unknown, or the seed or view negative.
    """
    body_part = choose_body_part(body_part, finding, FINDINGS, random_stream(seed, _PATIENT, 1))
    anatomy = build_anatomy(body_part, random_stream(seed, _PATIENT))
    pose = _pose(anatomy, seed, view, size)
    rng = random_stream(seed, _NOISE, view)
    texture = _noise_field(rng, pose.shape, 0.22 * pose.scale, 0.8 * pose.scale)

    soft = _soft_attenuation(anatomy, pose) * (
        1 + 0.02 * _noise_field(rng, pose.shape, 3 * pose.scale, 9 * pose.scale)
    )
    bones = np.zeros(pose.shape, np.float32)
    for tube in anatomy.bones:
        place = tube_coordinates(tube, pose)
        if place is not None:
            bones[place.window] += _bone_attenuation(place.across, place.radius, place.cortex, texture[place.window])
    density = random_stream(seed, _PATIENT, 2).uniform(0.8, 1.15)
    normal = soft + density * bones
    scatter = 0.12 * cv2.GaussianBlur(normal, (0, 0), 0.03 * size)
    bright = float(np.percentile(normal, 99.7)) * rng.uniform(1.0, 1.15)

    total, changed = normal, np.zeros(pose.shape, np.float32)
    if finding is not None:
        site = draw_site(finding, anatomy, random_stream(seed, _FINDING))
        effect = _site_effect(anatomy.bones[site.bone], site, pose, texture)
        if effect is not None:
            window, change = effect
            changed[window] = density * change
            total = normal + changed

    picture = _display(np.maximum(total, 0) + scatter, rng.uniform(0.0, 0.05) * bright, bright) ** rng.uniform(
        0.7, 0.95
    )
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 0.9))
    grain = rng.uniform(0.008, 0.018)
    picture = picture + grain * _noise_field(rng, pose.shape, 0.4, 40.0)
    with_marker = bool(rng.random() < 0.6) if marker is None else marker
    picture = _collimate(picture, rng)
    marked = _add_marker(picture, rng, pose.mirrored)
    picture = marked if with_marker else picture
    pixels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    return Phantom(pixels, changed != 0, bounding_box(np.abs(changed), 0.1), body_part, finding, view, seed)
