"""Meshes whose vertices move: one frame of reference, what is dropped and refused, and their pictures."""

from dataclasses import replace

import numpy as np
import pytest

from render import surface
from render.cameras import Cameras, ring
from render.checks import REASONS, check, normalize
from render.meshes import Material, Mesh, MeshError
from render.moving import check_clip
from render.raster import RasterRenderer
from render.views import Style


def mesh(seed: int = 0, faces: int = 12) -> Mesh:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 20, (faces, 3)).astype(np.int32)
    corners[corners[:, 0] == corners[:, 1], 1] += 20
    vertices = random.normal(size=(42, 3))
    return Mesh(vertices, corners, (Material(),), np.zeros(faces, np.int32), parts=np.arange(faces, dtype=np.int16))


def moved(base: Mesh, frames: int = 5, seed: int = 1) -> np.ndarray:
    return base.vertices + np.random.default_rng(seed).normal(size=(frames, *base.vertices.shape))


def test_one_centre_and_scale_are_those_of_all_frames_as_one_mesh() -> None:
    base = mesh()
    frames = moved(base)
    together = replace(
        base,
        vertices=frames.reshape(-1, 3),
        faces=np.concatenate([base.faces + 42 * number for number in range(5)]).astype(np.int32),
        face_material=np.zeros(60, np.int32),
        parts=None,
    )
    one, centre, scale = normalize(check(together))
    found = check_clip(base, frames)
    assert np.allclose(found.centre, centre, rtol=0, atol=1e-12)
    assert found.scale == pytest.approx(scale, rel=1e-12)
    assert np.allclose(found.vertices.reshape(-1, 3), one.vertices, atol=1e-12)


def test_motion_is_the_largest_displacement_in_diagonals_of_the_first_box() -> None:
    base = mesh()
    frames = np.repeat(base.vertices[None], 3, axis=0)
    assert check_clip(base, frames).motion == 0
    used = np.unique(base.faces)
    frames[2, used[3]] += (0, 3, 4)
    box = np.ptp(base.vertices[used], axis=0)
    assert check_clip(base, frames).motion == pytest.approx(5 / np.linalg.norm(box))
    frames[1, np.setdiff1d(np.arange(42), used)] += 100.0
    assert check_clip(base, frames).motion == pytest.approx(5 / np.linalg.norm(box))
    huge, tiny = check_clip(base, frames * 1e200), check_clip(base, frames * 1e-200)
    assert huge.motion == pytest.approx(5 / np.linalg.norm(box))
    assert np.allclose(huge.vertices, tiny.vertices)


def test_a_face_is_dropped_where_it_has_no_area_in_any_frame() -> None:
    base = mesh()
    frames = moved(base)
    b = base.faces[4, 1]
    base = replace(base, faces=base.faces.copy())
    base.faces[4, 2] = b
    frames[0, base.faces[7, 1]] = frames[0, base.faces[7, 0]]
    found = check_clip(base, frames)
    # face 7 has none in the first frame only; face 4 never
    assert found.mesh.parts is not None
    assert found.mesh.parts.tolist() == [n for n in range(12) if n != 4]
    assert "zero_area_faces_dropped" in found.mesh.flags


def test_what_cannot_be_filmed_has_a_reason() -> None:
    base = mesh()
    frames = moved(base)
    broken = frames.copy()
    broken[3, base.faces[2, 1], 2] = np.nan
    unused = frames.copy()
    unused[3, np.setdiff1d(np.arange(42), np.unique(base.faces))] = np.nan
    assert np.isfinite(check_clip(base, unused).vertices).all()
    cases = [
        ("not_finite", base, broken),
        ("zero_area", base, np.zeros_like(frames)),
        ("zero_area", base, np.repeat(np.linspace(0, 1, 42)[None, :, None], 5, axis=0) * [1.0, 2, 3]),
        ("empty", replace(base, faces=base.faces[:0], face_material=base.face_material[:0], parts=None), frames),
        ("empty", replace(base, faces=base.faces + 99), frames),
    ]
    for reason, wrong, vertices in cases:
        with pytest.raises(MeshError) as caught:
            check_clip(wrong, vertices)
        assert caught.value.reason == reason
    assert "no_motion" in REASONS


def test_frames_drawn_at_once_are_the_pictures_of_each_mesh() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    base = replace(
        mesh(faces=40), materials=(Material(texture=texture),), corner_uv=np.random.default_rng(1).random((40, 3, 2), np.float32)
    )
    found = check_clip(base, moved(base, 4))
    cameras = ring(4, 0.3, size=40)
    drawn = RasterRenderer().render_frames(found.mesh, found.vertices, cameras, Style())
    for number in range(4):
        one = Cameras(cameras.K[number, None], cameras.world_to_camera[number, None], 40, 40)
        alone = RasterRenderer().render(replace(found.mesh, vertices=found.vertices[number]), one, Style())
        for name in ("color", "depth", "mask", "face_ids"):
            assert np.array_equal(getattr(drawn, name)[number], getattr(alone, name)[0])
    with pytest.raises(ValueError, match="not those of 4 frames"):
        RasterRenderer().render_frames(found.mesh, found.vertices[:3], cameras, Style())


def test_places_are_those_of_a_sample() -> None:
    base = mesh(faces=30)
    faces, weights = surface.places(base.vertices, base.faces, 500, 9)
    sample = surface.sample(base, 500, 9)
    assert np.array_equal(faces, sample.faces)
    corners = base.vertices[base.faces[faces]]
    assert np.allclose((corners * weights[:, :, None]).sum(axis=1), sample.points, atol=1e-6)
    assert np.allclose(weights.sum(axis=1), 1)
    assert weights.min() >= 0
