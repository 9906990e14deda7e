"""The shadow that one body casts on the detector: path integrals of attenuation along rays.

The integration is compiled by numba and takes most of the time of rendering.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from numba import njit

from .geometry import Body, Camera

NO_CHANGE = np.zeros(16, np.float32)
"""The `change` of a body without a finding. Lengths are in mm, in the frame of its first loft:

| place | fracture (kind 1) | hole (2), sclerosis (3) |
| --- | --- | --- |
| 0 | kind | kind |
| 1 to 3 | height of the plane on the axis; its two slopes | centre |
| 4 to 6 | shift of the far fragment | half axes |
| 7 | distance from the plane at which the shift ends | width of the edge, in half axes |
| 8 | width of the gap | roughness of the edge, in half axes |
| 9 | share of bone that is missing in the gap | share of bone that is missing; for 3, what is added |
| 10, 11 | height of the jags, and their number per mm | density that is added at the rim (2) |
| 12 to 14 | direction and distance from the axis at which an incomplete fracture ends | |
"""

# Plain numbers would turn whole expressions into double precision, at half the speed.
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _loft(u, v, along, n, lengths, per_mm, tables):
    """Approximate signed distance to a loft (negative inside), wall and filling at a point in the loft's frame."""
    length = lengths[n]
    if tables[n, 0, 6] < ZERO:  # a ball: (f - 1) / |grad f|, where f is the squared radius in units of its half axes
        a, b, c = tables[n, 0, 2], tables[n, 0, 3], np.float32(2.0) / length
        pu, pv, pw = u * a, v * b, (along - HALF * length) * c
        p2 = pu * pu + pv * pv + pw * pw
        q2 = pu * pu * a * a + pv * pv * b * b + pw * pw * c * c
        d = max(HALF * (p2 - ONE) / math.sqrt(max(q2, np.float32(1e-9))), -ONE / max(a, max(b, c)))
        return d, tables[n, 0, 4], tables[n, 0, 5]
    held = min(max(along, ZERO), length) * per_mm[n]
    k = min(int(held), tables.shape[1] - 2)
    part = held - np.float32(k)
    rest = ONE - part
    u -= tables[n, k, 0] * rest + tables[n, k + 1, 0] * part
    v -= tables[n, k, 1] * rest + tables[n, k + 1, 1] * part
    a = tables[n, k, 2] * rest + tables[n, k + 1, 2] * part
    b = tables[n, k, 3] * rest + tables[n, k + 1, 3] * part
    # The same for the ellipse; a and b are inverse half axes.
    pu, pv = u * a, v * b
    p2 = pu * pu + pv * pv
    q2 = pu * pu * a * a + pv * pv * b * b
    d = max(HALF * (p2 - ONE) / math.sqrt(max(q2, np.float32(1e-9))), np.float32(-1.0) / max(a, b))
    # Where the section shrinks fast, the distance along the axis matters too.
    d *= tables[n, k, 6]
    over = max(-along, along - length)
    if over > ZERO:
        d = max(d, ZERO)
        d = math.sqrt(over * over + d * d)
    else:
        d = max(d, over)  # the ends have a wall too
    return d, tables[n, k, 4] * rest + tables[n, k + 1, 4] * part, tables[n, k, 5] * rest + tables[n, k + 1, 5] * part


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _at(s, shift, n, starts, ways, frames):
    """Point of a ray in a loft's frame, moved by `shift` in the patient's frame."""
    x, y, z = shift
    return (
        starts[n, 0] + ways[n, 0] * s + x * frames[n, 0, 0] + y * frames[n, 0, 1] + z * frames[n, 0, 2],
        starts[n, 1] + ways[n, 1] * s + x * frames[n, 1, 0] + y * frames[n, 1, 1] + z * frames[n, 1, 2],
        starts[n, 2] + ways[n, 2] * s + x * frames[n, 2, 0] + y * frames[n, 2, 1] + z * frames[n, 2, 2],
    )


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _body(s, moved, shift, starts, ways, frames, lengths, per_mm, tables, near, count, melt):
    """Signed distance to the smooth union of the lofts near a ray, with wall and filling blended likewise."""
    d, wall, filling = ZERO, ZERO, ZERO
    for m in range(count):
        n = near[m]
        if moved:
            u, v, along = _at(s, shift, n, starts, ways, frames)
        else:
            u, v = starts[n, 0] + ways[n, 0] * s, starts[n, 1] + ways[n, 1] * s
            along = starts[n, 2] + ways[n, 2] * s
        e, other_wall, other_filling = _loft(u, v, along, n, lengths, per_mm, tables)
        if m == 0:
            d, wall, filling = e, other_wall, other_filling
            continue
        h = min(max(HALF + HALF * (d - e) / melt, ZERO), ONE)
        d += (e - d) * h - melt * h * (ONE - h)
        wall += (other_wall - wall) * h
        filling += (other_filling - filling) * h
    return d, wall, filling


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _grain(x, y, z, grain):
    """Value of a periodic noise volume at a point, in cells."""
    n = grain.shape[0] - 1  # the size is a power of two, so a mask wraps around
    return grain[math.floor(x) & n, math.floor(y) & n, math.floor(z) & n]


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _broken(lu, lv, lw, change, grain):
    """Shift of the far fragment of a fracture at a point (mm), and the share of bone that the gap removes there.

    The surface of the fracture is a tilted, jagged plane; the shift decreases with the distance from it.
    """
    g = _grain(lu * change[11] + np.float32(7.3), lv * change[11], np.float32(3.0), grain)
    line = lw - change[1] - change[2] * lu - change[3] * lv - change[10] * g
    fade = ZERO
    if line > ZERO and line < change[7]:
        fade = HALF + HALF * np.float32(math.cos(np.float32(3.14159265) * line / change[7]))
    there = lu * change[12] + lv * change[13] - change[14]  # end of an incomplete fracture
    inside = min(max(there / np.float32(1.5) + HALF, ZERO), ONE)
    gap = min(max((HALF * change[8] - abs(line)) / np.float32(0.3) + HALF, ZERO), ONE)
    return change[4] * fade, change[5] * fade, change[6] * fade, change[9] * inside * gap


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _altered(lu, lv, lw, kind, change, grain):
    """Share of bone removed by a hole (kind 2), and factor of density at its rim or in a sclerosis (kind 3)."""
    eu, ev, ew = (lu - change[1]) / change[4], (lv - change[2]) / change[5], (lw - change[3]) / change[6]
    e = math.sqrt(eu * eu + ev * ev + ew * ew)
    per = np.float32(0.45)
    g = _grain(lu * per, lv * per, lw * per, grain)
    depth = min(max((ONE + change[8] * g - e) / change[7] + HALF, ZERO), ONE)
    if kind == 2:
        rim = max(ZERO, ONE - abs(e - np.float32(1.12)) / np.float32(0.12))
        return change[9] * depth, ONE + change[10] * rim
    return ZERO, ONE + change[9] * depth


@njit(cache=True, fastmath=True, error_model="numpy")
def integrate_body(
    source, corner, right, down, window, wanted, origins, frames, lengths, per_mm, tables, spheres, melt, margin,
    low, high, dense, spongy, grain, grain_cell, grain_depth, change, step, soft,
):  # fmt: skip
    """Attenuation of one body on a window of the detector.

    Args:
        source: float32 `[3]`, the focus of the tube in mm.
        corner, right, down: float32 `[3]`, centre of pixel (0, 0), step to the next pixel and to the next row, in mm.
        window: Half-open (row0, row1, column0, column1).
        wanted: bool `[rows, columns]`, pixels of the window whose rays may meet the body.
        origins, frames, lengths, per_mm, tables, spheres: `Body.stacked`.
        melt: See `Body`.
        margin: Space in mm around the body for what `change` adds.
        low, high: float32 `[3]`, corners of a bounding box in the first loft's frame.
        dense, spongy: Attenuation per mm of the wall and of a filled inside.
        grain, grain_cell, grain_depth: float32 `[n, n, n]`, periodic texture of the inside, cell in mm and contrast.
        change: float32 `[16]`, a finding, see `NO_CHANGE`.
        step: Smallest step in mm.
        soft: Width of the transition at an edge in mm.

    Returns:
        float32 `[rows, columns]`.
    """
    rows, columns = window[1] - window[0], window[3] - window[2]
    out = np.zeros((rows, columns), np.float32)
    kind = int(change[0])
    half_soft, per_soft, per_cell, longest = HALF * soft, ONE / soft, ONE / grain_cell, np.float32(4.0) * step
    close = np.zeros(spheres.shape[0], np.int64)
    # Focus and direction of the ray in each loft's frame.
    starts, ways = np.zeros_like(spheres[:, :3]), np.zeros_like(spheres[:, :3])
    for n in range(spheres.shape[0]):
        for q in range(3):
            for k in range(3):
                starts[n, q] += (source[k] - origins[n, k]) * frames[n, q, k]
    # Focus in the first loft's frame, where the bounding box is tested.
    sx, sy, sz = source[0] - origins[0, 0], source[1] - origins[0, 1], source[2] - origins[0, 2]
    ou = sx * frames[0, 0, 0] + sy * frames[0, 0, 1] + sz * frames[0, 0, 2]
    ov = sx * frames[0, 1, 0] + sy * frames[0, 1, 1] + sz * frames[0, 1, 2]
    ow = sx * frames[0, 2, 0] + sy * frames[0, 2, 1] + sz * frames[0, 2, 2]
    for i in range(rows):
        for j in range(columns):
            if not wanted[i, j]:
                continue
            r, c = np.float32(i + window[0]), np.float32(j + window[2])
            px = corner[0] + right[0] * c + down[0] * r - source[0]
            py = corner[1] + right[1] * c + down[1] * r - source[1]
            pz = corner[2] + right[2] * c + down[2] * r - source[2]
            norm = math.sqrt(px * px + py * py + pz * pz)
            px, py, pz = px / norm, py / norm, pz / norm
            du = px * frames[0, 0, 0] + py * frames[0, 0, 1] + pz * frames[0, 0, 2]
            dv = px * frames[0, 1, 0] + py * frames[0, 1, 1] + pz * frames[0, 1, 2]
            dw = px * frames[0, 2, 0] + py * frames[0, 2, 1] + pz * frames[0, 2, 2]
            near, far = ZERO, np.float32(1e6)
            for q in range(3):
                oq = ou if q == 0 else (ov if q == 1 else ow)
                dq = du if q == 0 else (dv if q == 1 else dw)
                if abs(dq) < 1e-9:
                    if oq < low[q] or oq > high[q]:
                        far = np.float32(-1.0)
                else:
                    t0, t1 = (low[q] - oq) / dq, (high[q] - oq) / dq
                    near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
            # Only lofts whose bounding sphere is near the ray matter.
            count = 0
            first, last = np.float32(1e6), ZERO
            for n in range(spheres.shape[0]):
                gx, gy, gz = spheres[n, 0] - source[0], spheres[n, 1] - source[1], spheres[n, 2] - source[2]
                middle = gx * px + gy * py + gz * pz
                reach = spheres[n, 3] + melt + margin
                left = reach * reach - (gx * gx + gy * gy + gz * gz - middle * middle)
                if left > ZERO:
                    close[count] = n
                    count += 1
                    for q in range(3):
                        ways[n, q] = px * frames[n, q, 0] + py * frames[n, q, 1] + pz * frames[n, q, 2]
                    left = math.sqrt(left)
                    first, last = min(first, middle - left), max(last, middle + left)
            if count == 0:
                continue
            s, far = max(near, first), min(far, last)
            total = ZERO
            while s < far:
                x, y, z = ZERO, ZERO, ZERO
                lost, gain = ZERO, ONE
                lu, lv, lw = ou + du * s, ov + dv * s, ow + dw * s
                if kind == 1:
                    mu, mv, mw, lost = _broken(lu, lv, lw, change, grain)
                    x -= mu * frames[0, 0, 0] + mv * frames[0, 1, 0] + mw * frames[0, 2, 0]
                    y -= mu * frames[0, 0, 1] + mv * frames[0, 1, 1] + mw * frames[0, 2, 1]
                    z -= mu * frames[0, 0, 2] + mv * frames[0, 1, 2] + mw * frames[0, 2, 2]
                elif kind > 1:
                    lost, gain = _altered(lu, lv, lw, kind, change, grain)
                d, wall, filling = _body(
                    s, kind == 1, (x, y, z), starts, ways, frames, lengths, per_mm, tables, close, count, melt
                )
                if d > half_soft:
                    s += max(d * np.float32(0.85), step)
                    continue
                edge = min(HALF - d * per_soft, ONE)
                shell = min(max((wall + d) * per_soft + HALF, ZERO), ONE)
                density = shell * dense
                if shell < ONE:
                    inner = spongy * filling
                    if grain_depth > ZERO:
                        inner *= ONE + grain_depth * _grain(lu * per_cell, lv * per_cell, lw * per_cell * HALF, grain)
                    density += (ONE - shell) * inner
                here = min(max(min(abs(d), abs(wall + d)) * np.float32(0.7), step), longest)
                total += edge * density * gain * (ONE - lost) * here
                s += here
            out[i, j] = max(total, ZERO)
    return out


_GRAIN_CELLS = 64  # a power of two: the texture repeats
_GRAIN_MM = 0.42


@lru_cache(maxsize=1)
def grain_volume() -> np.ndarray:
    """Periodic band-pass noise of unit variance, float32 `[64, 64, 64]`: the texture of cancellous bone."""
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
    """Computes the attenuation of one body along every ray that meets it.

    Args:
        dense, spongy, grain, margin, change: See `integrate_body`; `grain` is the contrast of the texture.
        within: A point and a distance in mm; rays that pass farther away are skipped.

    Returns:
        Rows and columns of the image, and the float32 attenuation there; None if the body is outside of the image.
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
    low, high = boxes.min(0).astype(np.float32), boxes.max(0).astype(np.float32)
    pixel, single = 1 / camera.scale, np.float32  # doubles would compile another, slower version
    attenuation = integrate_body(
        *camera.rays(), np.array([r0, r1, c0, c1]), wanted.astype(bool), *body.stacked,
        single(max(body.melt, 0.05)), single(margin), low, high, single(dense), single(spongy),
        grain_volume(), single(_GRAIN_MM), single(grain), change.astype(single),
        single(np.clip(1.4 * pixel, 0.5, 2.5)), single(max(0.5, 1.1 * pixel)),
    )  # fmt: skip
    return (slice(int(r0), int(r1)), slice(int(c0), int(c1))), attenuation
