"""What is taken out of a mesh, what makes it unusable, and the frame that it is brought into."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from render.checks import FLAGS, REASONS, check, check_views, normalize
from render.meshes import Material, Mesh, MeshError
from render.views import Views


def mesh_of(vertices: Any, faces: Any, **more: Any) -> Mesh:
    faces = np.array(faces, np.int32).reshape(-1, 3)
    return Mesh(np.array(vertices, np.float64), faces, (Material(),), np.zeros(len(faces), np.int32), **more)


CORNERS = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def reason(mesh: Mesh) -> str:
    with pytest.raises(MeshError) as caught:
        check(mesh)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_a_sound_mesh_passes_untouched() -> None:
    mesh = mesh_of(CORNERS, [[0, 1, 2], [0, 1, 3]])
    assert check(mesh).flags == ()
    assert np.array_equal(check(mesh).faces, mesh.faces)


def test_bad_faces_go_with_all_that_is_said_of_them() -> None:
    faces = [[0, 0, 1], [0, 1, 2], [0, 1, 9], [3, 1, 0], [-1, 1, 2]]
    mesh = mesh_of(
        CORNERS,
        faces,
        corner_uv=np.arange(30, dtype=np.float32).reshape(5, 3, 2),
        face_colors=np.arange(20, dtype=np.uint8).reshape(5, 4),
        parts=np.arange(5, dtype=np.int16),
    )
    mesh = replace(mesh, materials=(Material(),) * 5, face_material=np.arange(5, dtype=np.int32), flags=("texture_missing",))
    checked = check(mesh)
    assert checked.faces.tolist() == [[0, 1, 2], [3, 1, 0]]
    assert checked.flags == ("texture_missing", "invalid_faces_dropped", "zero_area_faces_dropped")
    assert set(checked.flags) <= set(FLAGS)
    assert checked.face_material.tolist() == checked.parts.tolist() == [1, 3]  # type: ignore[union-attr]
    assert checked.corner_uv is not None
    assert checked.corner_uv[:, 0, 0].tolist() == [6, 18]
    assert checked.face_colors is not None
    assert checked.face_colors[:, 0].tolist() == [4, 12]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vertex_that_is_not_finite_counts_where_a_face_uses_it(bad: float) -> None:
    mesh = mesh_of([*CORNERS, [bad, 0, 0]], [[0, 1, 2], [0, 1, 3]])
    assert check(mesh).flags == ()
    assert reason(replace(mesh, faces=np.array([[0, 1, 2], [0, 1, 4]], np.int32))) == "not_finite"
    normalised, _, _ = normalize(check(mesh))
    assert np.isfinite(normalised.vertices).all()


@pytest.mark.parametrize(
    ("vertices", "faces", "why"),
    [
        (CORNERS, [], "empty"),
        (CORNERS, [[4, 5, 6]], "empty"),
        (CORNERS, [[0, 1, 1], [2, 2, 2]], "zero_area"),
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]], "zero_area"),
        ([[0.1, 0.2, 0.3], [0.2, 0.4, 0.6], [0.3, 0.6, 0.9]], [[0, 1, 2]], "zero_area"),
        ([[7, 7, 7]] * 3, [[0, 1, 2]], "zero_area"),
        (np.zeros((0, 3)), [[0, 1, 2]], "empty"),
    ],
)
def test_a_mesh_without_surface_is_refused(vertices: Any, faces: Any, why: str) -> None:
    assert reason(mesh_of(vertices, faces)) == why


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e8, 1e150])
def test_size_alone_makes_no_face_bad(scale: float) -> None:
    mesh = check(mesh_of(np.array(CORNERS) * scale, [[0, 1, 2], [0, 1, 3], [1, 2, 3]]))
    assert len(mesh.faces) == 3
    normalised, centre, radius = normalize(mesh)
    assert np.linalg.norm(normalised.vertices, axis=1).max() == pytest.approx(1)
    assert np.allclose(normalised.vertices * radius + centre, mesh.vertices, rtol=1e-12, atol=1e-12 * scale)


def test_a_sliver_is_kept() -> None:
    assert check(mesh_of([[0, 0, 0], [1, 0, 0], [0.5, 1e-9, 0]], [[0, 1, 2]])).flags == ("flat",)


def test_texture_coordinates_that_are_not_finite_become_zero() -> None:
    uv = np.array([[[np.nan, 0.5], [0.25, np.inf], [1, 1]]], np.float32)
    checked = check(mesh_of([*CORNERS[:3], [9, 9, 9]], [[0, 1, 2]], corner_uv=uv))
    assert "uv_not_finite" in checked.flags
    assert checked.corner_uv is not None
    assert checked.corner_uv.tolist() == [[[0, 0.5], [0.25, 0], [1, 1]]]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float64, (12, 3), elements=st.floats(-1e6, 1e6, width=32)), st.integers(4, 12))
def test_normalised_meshes_touch_the_unit_sphere_about_the_middle_of_their_box(points: Any, used: int) -> None:
    faces = [[i % used, (i + 1) % used, (i + 2) % used] for i in range(used)]
    try:
        mesh = check(mesh_of(points, faces))
    except MeshError:
        return
    normalised, centre, scale = normalize(mesh)
    mine = np.unique(mesh.faces)
    radii = np.linalg.norm(normalised.vertices[mine], axis=1)
    assert radii.max() == pytest.approx(1, abs=1e-12)
    assert np.allclose(normalised.vertices[mine].min(axis=0), -normalised.vertices[mine].max(axis=0), atol=1e-9)
    assert np.allclose(normalised.vertices[mine] * scale + centre, mesh.vertices[mine], atol=1e-9 * scale)


def views(alpha: np.ndarray, color: int | None = 100) -> Views:
    shown = np.zeros((*alpha.shape, 4), np.uint8)
    shown[..., 3] = alpha
    shown[..., 0] = np.arange(alpha.shape[-1]) if color is None else color
    mask = alpha >= 128
    return Views(shown, mask.astype(np.float32), mask, np.where(mask, 0, -1).astype(np.int32))


def disc(x: float, y: float, radius: float, size: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    return np.where((columns - x) ** 2 + (rows - y) ** 2 < radius**2, 255, 0).astype(np.uint8)


def test_views_of_an_object_in_the_middle_pass() -> None:
    found = check_views(views(np.stack([disc(32, 32, 20), disc(30, 34, 25)]), None))
    assert found.reason is None
    assert found.flags == ()
    assert found.coverage == pytest.approx(np.pi * np.array([20, 25]) ** 2 / 64**2, rel=0.02)


def test_one_view_with_nothing_in_it_is_a_reason() -> None:
    found = check_views(views(np.stack([disc(32, 32, 20), disc(32, 32, 0)])))
    assert found.reason == "blank_view"


@pytest.mark.parametrize("middle", [(10, 32), (54, 32), (32, 10), (32, 54)])
def test_an_object_at_any_border_is_flagged(middle: tuple[int, int]) -> None:
    assert check_views(views(disc(*middle, 12)[None], None)).flags == ("view_clipped",)


def test_nearly_nothing_and_a_single_color_are_flagged() -> None:
    assert check_views(views(disc(32, 32, 1)[None], None)).flags == ("view_sparse",)
    assert check_views(views(disc(32, 32, 9)[None], 0)).flags == ("view_uniform",)
