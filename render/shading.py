"""From the faces that a pixel's samples see to its colour, depth and face: kernels that shade what is seen, once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from render.mipmaps import sample
from render.simd import all_lanes, equal, float16lanes, int16lanes, kernel, load16, not_negative, store16

UNSEEN, FLAT, VARYING = np.uint8(0), np.uint8(1), np.uint8(2)
_ZERO, _HALF, _ONE, _FOUR = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(4.0)
_BYTES_0_2, _TWO_0_2, _2, _8, _16, _BYTE = (np.uint32(n) for n in (0x00FF00FF, 0x00020002, 2, 8, 16, 255))
_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)


class Seen(NamedTuple):
    """What is known in the view at hand. state and packed, four bytes of sRGB and alpha, are indexed by face + 1, 0 being the background;
    lit (F, 3), linear, and attributes (F, 18) by face, and without rows where no colour varies."""

    state: npt.NDArray[np.uint8]
    packed: npt.NDArray[np.uint32]
    lit: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.float64]


def room_for_faces(faces: int, varying: bool) -> Seen:
    """Arrays for so many faces, not filled."""
    many = faces if varying else 0
    return Seen(np.empty(faces + 1, np.uint8), np.empty(faces + 1, np.uint32), np.empty((many, 3), np.float32), np.empty((many, 18)))


@kernel
def face_normals(vertices, faces, out):  # type: ignore[no-untyped-def]
    """Unit normals (F, 3) float32; 0 for a face without one."""
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        bx, by, bz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if length > 0.0 and length < np.inf:
            out[f, 0], out[f, 1], out[f, 2] = nx / length, ny / length, nz / length
        else:
            out[f, 0], out[f, 1], out[f, 2] = 0.0, 0.0, 0.0


@kernel
def _unit(x):  # type: ignore[no-untyped-def]
    """x brought into 0 … 1; NaN becomes 0, since the result is going to be an index."""
    if not x > _ZERO:
        return _ZERO
    return x if x < _ONE else _ONE


@kernel
def _light_face(f, light, faces, H, p, seen):  # type: ignore[no-untyped-def]
    """First sight of face f in a view: FLAT with its colours, or VARYING with its attributes as functions of the pixel.

    An attribute a over a face is (A·x)/(S·x) with x = (column, row, 1), S = Σ pj×pk, A = Σ ai pj×pk, the p being the corners in homogeneous
    screen coordinates: perspective-correct, without the clipped corners, right for corners behind the camera too.
    """
    s = light[0, 0]
    for n in range(1, light.shape[0]):
        s += abs(p.face_normal[f, 0] * light[n, 0] + p.face_normal[f, 1] * light[n, 1] + p.face_normal[f, 2] * light[n, 2])
    intensity = np.float32(s)
    lit = seen.lit
    colored = p.vertex_color.shape[0] > 0
    if not (colored or p.face_texture[f] >= 0):
        r, g, b = _unit(p.face_color[f, 0] * intensity), _unit(p.face_color[f, 1] * intensity), _unit(p.face_color[f, 2] * intensity)
        seen.packed[f + 1] = _pack(r, g, b, 255, p.to_srgb)
        seen.state[f + 1] = FLAT
        return
    for c in range(3):
        lit[f, c] = p.face_color[f, c] * intensity
    seen.state[f + 1] = VARYING
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    out = seen.attributes
    for c in range(3):
        d, e = (c + 1) % 3, (c + 2) % 3
        w0 = H[j, d] * H[k, e] - H[j, e] * H[k, d]
        w1 = H[k, d] * H[i, e] - H[k, e] * H[i, d]
        w2 = H[i, d] * H[j, e] - H[i, e] * H[j, d]
        out[f, c] = w0 + w1 + w2
        if p.face_texture[f] >= 0:
            uv = p.corner_uv
            out[f, 3 + c] = w0 * uv[f, 0, 0] + w1 * uv[f, 1, 0] + w2 * uv[f, 2, 0]
            out[f, 6 + c] = w0 * uv[f, 0, 1] + w1 * uv[f, 1, 1] + w2 * uv[f, 2, 1]
        if colored:
            for n in range(3):
                q = p.vertex_color
                out[f, 9 + 3 * n + c] = w0 * q[i, n] + w1 * q[j, n] + w2 * q[k, n]


@kernel
def _shade(f, x, y, p, seen):  # type: ignore[no-untyped-def]
    """Linear colour of a VARYING face at the pixel position (x, y)."""
    r, g, b = seen.lit[f, 0], seen.lit[f, 1], seen.lit[f, 2]
    a = seen.attributes
    total = a[f, 0] * x + a[f, 1] * y + a[f, 2]
    inverse = 1.0 / total if total != 0.0 else 0.0
    if p.vertex_color.shape[0] > 0:
        r *= np.float32((a[f, 9] * x + a[f, 10] * y + a[f, 11]) * inverse)
        g *= np.float32((a[f, 12] * x + a[f, 13] * y + a[f, 14]) * inverse)
        b *= np.float32((a[f, 15] * x + a[f, 16] * y + a[f, 17]) * inverse)
    t = p.face_texture[f]
    if t >= 0:
        u = (a[f, 3] * x + a[f, 4] * y + a[f, 5]) * inverse
        v = (a[f, 6] * x + a[f, 7] * y + a[f, 8]) * inverse
        ux, uy = (a[f, 3] - u * a[f, 0]) * inverse, (a[f, 4] - u * a[f, 1]) * inverse
        vx, vy = (a[f, 6] - v * a[f, 0]) * inverse, (a[f, 7] - v * a[f, 1]) * inverse
        texel = sample(p.textures, t, u, v, ux, uy, vx, vy)
        r *= p.to_linear[texel & _BYTE]
        g *= p.to_linear[texel >> _8 & _BYTE]
        b *= p.to_linear[texel >> _16 & _BYTE]
    return _unit(r), _unit(g), _unit(b)


@kernel
def _pack(r, g, b, alpha, to_srgb):  # type: ignore[no-untyped-def]
    steps = np.float32(to_srgb.shape[0] - 1)
    red = np.uint32(to_srgb[np.uint32(r * steps + _HALF)])
    green = np.uint32(to_srgb[np.uint32(g * steps + _HALF)])
    blue = np.uint32(to_srgb[np.uint32(b * steps + _HALF)])
    return red | green << np.uint32(8) | blue << np.uint32(16) | np.uint32(alpha) << np.uint32(24)


@kernel
def resolve(faces, H, p, light, background, near, width, stride, samples, seen, color, depth, mask, face_ids):  # type: ignore[no-untyped-def]
    """Samples to pixels, and the samples cleared. color, depth, mask, face_ids (H·W,), the colour as uint32 of four bytes, red first.

    ids hold face + 1, 0 where nothing was drawn. The face of a pixel is the one that most of its samples see, the nearest among equals;
    its depth is the harmonic mean over those samples, which for a whole pixel is the depth of the face at the centre. A colour that varies
    is looked up once for each face of a pixel, amid the samples that see it. The four colours are averaged as sRGB bytes, as pictures are
    when they are resized: even steps on dark edges too.
    """
    state, packed = seen.state, seen.packed
    zbuf, ids, box = samples.inverse_z, samples.ids, samples.box
    for f in range(state.shape[0]):
        state[f] = UNSEEN
    packed[0] = _pack(background[0], background[1], background[2], 0, p.to_srgb)
    state[0] = FLAT
    nothing = packed[0]
    for i in range(color.shape[0]):
        color[i] = nothing
    for i in range(depth.shape[0]):
        depth[i] = 0.0
    for i in range(mask.shape[0]):
        mask[i] = False
    for i in range(face_ids.shape[0]):
        face_ids[i] = -1
    zero, zeros, every = int16lanes(0), float16lanes(0.0), not_negative(int16lanes(0))
    x0, x1, y0, y1 = box[0], box[1] + 1, box[2], box[3] + 1
    for y in range(y0, y1):
        k = y * stride + 4 * x0
        # the four pixels looked at may reach beyond x1, into columns where nothing counts
        for x4 in range(x0, x1, 4):
            f = ids[np.uint64(k)]
            if all_lanes(equal(load16(ids, k), int16lanes(f))):
                if f == 0:
                    k += 16
                    continue
                if state[f] == FLAT and x4 + 4 <= x1:
                    for n in range(4):
                        at = np.uint64(y * width + x4 + n)
                        q = np.uint64(k + 4 * n)
                        color[at] = packed[f]
                        depth[at] = _FOUR / ((zbuf[q] + zbuf[q + _U1]) + (zbuf[q + _U2] + zbuf[q + _U3]))
                        mask[at] = True
                        face_ids[at] = f - 1
                    store16(ids, k, every, zero)
                    store16(zbuf, k, every, zeros)
                    k += 16
                    continue
            for n in range(min(4, x1 - x4)):
                x = x4 + n
                at = np.uint64(y * width + x)
                q = np.uint64(k + 4 * n)
                f0, f1, f2, f3 = ids[q], ids[q + _U1], ids[q + _U2], ids[q + _U3]
                z0, z1, z2, z3 = zbuf[q], zbuf[q + _U1], zbuf[q + _U2], zbuf[q + _U3]
                if f0 == f1 and f0 == f2 and f0 == f3:
                    if f0 == 0:
                        continue
                    if state[f0] == UNSEEN:
                        _light_face(f0 - 1, light, faces, H, p, seen)
                    if state[f0] == FLAT:
                        color[at] = packed[f0]
                    else:
                        r, g, b = _shade(f0 - 1, x + 0.5, y + 0.5, p, seen)
                        color[at] = _pack(r, g, b, 255, p.to_srgb)
                    depth[at] = _FOUR / ((z0 + z1) + (z2 + z3))
                    mask[at] = True
                    face_ids[at] = f0 - 1
                    continue
                even = odd = np.uint32(0)
                for s in range(4):
                    f = f0 if s == 0 else f1 if s == 1 else f2 if s == 2 else f3
                    if state[f] == UNSEEN:
                        _light_face(f - 1, light, faces, H, p, seen)
                    if state[f] == FLAT:
                        even += packed[f] & _BYTES_0_2
                        odd += packed[f] >> _8 & _BYTES_0_2
                    elif s == 0 or (f != f0 and (s == 1 or (f != f1 and (s == 2 or f != f2)))):
                        count, cx, cy = _amid(f, f0, f1, f2, f3)
                        r, g, b = _shade(f - 1, x + 0.5 + cx, y + 0.5 + cy, p, seen)
                        c = _pack(r, g, b, 255, p.to_srgb)
                        even += (c & _BYTES_0_2) * count
                        odd += (c >> _8 & _BYTES_0_2) * count
                # the four bytes averaged, alpha among them, with rounding
                color[at] = even + _TWO_0_2 >> _2 & _BYTES_0_2 | (odd + _TWO_0_2 >> _2 & _BYTES_0_2) << _8
                covered = (f0 > 0) + (f1 > 0) + (f2 > 0) + (f3 > 0)
                if covered >= 2:
                    f, z = _majority(f0, f1, f2, f3, z0, z1, z2, z3, 2.0 / near)
                    depth[at] = z
                    mask[at] = True
                    face_ids[at] = f - 1
            store16(ids, k, every, zero)
            store16(zbuf, k, every, zeros)
            k += 16


@kernel
def _amid(f, f0, f1, f2, f3):  # type: ignore[no-untyped-def]
    """How many samples of a pixel see f, and their mean position from the centre, in pixels."""
    m0, m1, m2, m3 = np.int32(f0 == f), np.int32(f1 == f), np.int32(f2 == f), np.int32(f3 == f)
    n = m0 + m1 + m2 + m3
    return np.uint32(n), (3 * m1 - m0 - 3 * m2 + m3) / (8.0 * n), (m2 - 3 * m0 - m1 + 3 * m3) / (8.0 * n)


@kernel
def _majority(f0, f1, f2, f3, z0, z1, z2, z3, above):  # type: ignore[no-untyped-def]
    """The face (+ 1) of most samples, the nearest among equals, and its depth. `above` exceeds every 1/z."""
    e01, e02, e03, e12, e13, e23 = (f0 == f1), (f0 == f2), (f0 == f3), (f1 == f2), (f1 == f3), (f2 == f3)
    k0 = (1 + e01 + e02 + e03) * above + z0 if f0 > 0 else 0.0
    k1 = (1 + e01 + e12 + e13) * above + z1 if f1 > 0 else 0.0
    k2 = (1 + e02 + e12 + e23) * above + z2 if f2 > 0 else 0.0
    k3 = (1 + e03 + e13 + e23) * above + z3 if f3 > 0 else 0.0
    f, best = f0, k0
    if k1 > best:
        f, best = f1, k1
    if k2 > best:
        f, best = f2, k2
    if k3 > best:
        f, best = f3, k3
    m0, m1, m2, m3 = np.float32(f0 == f), np.float32(f1 == f), np.float32(f2 == f), np.float32(f3 == f)
    return f, (m0 + m1 + m2 + m3) / ((m0 * z0 + m1 * z1) + (m2 * z2 + m3 * z3))
