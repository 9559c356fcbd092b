"""Samples of a surface: on it, even over it, the same again, with the colours of the place."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from render.meshes import Material, Mesh, MeshError
from render.surface import colors_at, sample


def mesh_of(vertices: object, faces: object, **looks: object) -> Mesh:
    faces = np.array(faces, np.int32)
    white = Material(base_color=np.ones(4, np.float32))
    looks.setdefault("materials", (white,))
    looks.setdefault("face_material", np.zeros(len(faces), np.int32))
    return Mesh(np.array(vertices, np.float64), faces, **looks)  # type: ignore[arg-type]


@pytest.fixture
def soup() -> Mesh:
    random = np.random.default_rng(3)
    return mesh_of(random.normal(size=(90, 3)) * random.uniform(0.05, 2, (90, 1)), np.arange(90).reshape(30, 3))


def test_samples_lie_on_their_face_with_its_normal(soup: Mesh) -> None:
    found = sample(soup, 5000, 1)
    assert found.points.dtype == found.normals.dtype == np.float32
    corners = soup.vertices[soup.faces[found.faces]]
    edges = corners[:, 1:] - corners[:, :1]
    normal = np.cross(edges[:, 0], edges[:, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert np.abs(found.normals - normal).max() < 1e-6
    off = found.points - corners[:, 0]
    assert np.abs((off * normal).sum(axis=1)).max() < 1e-6
    # inside: on the inner side of each edge
    for k in range(3):
        along = corners[:, (k + 1) % 3] - corners[:, k]
        inner = (np.cross(along, found.points - corners[:, k]) * normal).sum(axis=1) / np.linalg.norm(along, axis=1)
        assert inner.min() > -1e-6


def test_samples_are_uniform_by_area(soup: Mesh) -> None:
    found = sample(soup, 40_000, 7)
    a, b, c = (soup.vertices[soup.faces[:, k]] for k in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    counts = np.bincount(found.faces, minlength=30)
    assert stats.chisquare(counts, areas / areas.sum() * 40_000).pvalue > 0.01


def test_samples_are_uniform_within_a_face() -> None:
    found = sample(mesh_of([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), 40_000, 9)
    # Sixteen congruent triangles of a triangle cut four times along each side.
    u, v = 4 * found.points[:, 0], 4 * found.points[:, 1]
    upper = (u % 1 + v % 1) > 1
    cells = np.unique(np.column_stack((np.floor(u), np.floor(v), upper)), axis=0, return_counts=True)[1]
    assert len(cells) == 16
    assert stats.chisquare(cells).pvalue > 0.01


def test_the_seed_decides_and_the_first_points_are_samples_too(soup: Mesh) -> None:
    first, again, other = sample(soup, 3000, 2**63 + 5), sample(soup, 3000, 2**63 + 5), sample(soup, 3000, 6)
    for name in ("points", "normals", "colors", "parts", "faces"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.points, other.points)
    early, late = np.bincount(first.faces[:1500], minlength=30), np.bincount(first.faces[1500:], minlength=30)
    assert stats.chi2_contingency(np.stack((early, late))[:, early + late > 0]).pvalue > 0.01


def test_faces_without_area_are_never_hit(soup: Mesh) -> None:
    faces = np.concatenate(([[5, 5, 5]], soup.faces, [[7, 7, 8]])).astype(np.int32)
    found = sample(replace(soup, faces=faces, face_material=np.zeros(32, np.int32)), 5000, 0)
    assert set(found.faces) <= set(range(1, 31))
    assert np.isfinite(found.normals).all()


def test_a_mesh_without_area_is_refused() -> None:
    with pytest.raises(MeshError) as error:
        sample(mesh_of([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]]), 10, 0)
    assert error.value.reason == "zero_area"


def test_parts_are_those_of_the_face_hit(soup: Mesh) -> None:
    parts = np.arange(30, dtype=np.int16) % 4 - 1
    found = sample(replace(soup, parts=parts, part_names=("a", "b", "c")), 500, 0)
    assert np.array_equal(found.parts, parts[found.faces])
    assert (sample(soup, 5, 0).parts == -1).all()


TRIANGLE = ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])


def color(mesh: Mesh, *weights: float) -> list[int]:
    return colors_at(mesh, np.zeros(1, np.int32), np.array([weights]))[0].tolist()  # type: ignore[no-any-return]


def test_vertex_colors_are_interpolated_not_averaged() -> None:
    mesh = mesh_of(*TRIANGLE, vertex_colors=np.array([[4, 0, 0, 255], [123, 255, 0, 255], [185, 0, 100, 255]], np.uint8))
    assert color(mesh, 1, 0, 0) == [4, 0, 0]
    assert color(mesh, 0, 1, 0) == [123, 255, 0]
    assert color(mesh, 0, 0, 1) == [185, 0, 100]
    assert color(mesh, 0.5, 0.25, 0.25) == [79, 64, 25]


def test_vertex_colors_come_before_face_colors_and_the_base_color_dims_both() -> None:
    base = (Material(base_color=np.array([1, 0.5, 0, 1], np.float32)),)
    face = mesh_of(*TRIANGLE, materials=base, face_colors=np.array([[200, 200, 200, 255]], np.uint8))
    assert color(face, 0.2, 0.3, 0.5) == [200, 100, 0]
    both = replace(face, vertex_colors=np.full((3, 4), 100, np.uint8))
    assert color(both, 0.2, 0.3, 0.5) == [100, 50, 0]


PIXELS = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4) * 8


def textured(uv: tuple[float, float], wrap: tuple[str, str] = ("repeat", "repeat")) -> Mesh:
    material = Material(base_color=np.ones(4, np.float32), texture=PIXELS, wrap=wrap)  # type: ignore[arg-type]
    return mesh_of(*TRIANGLE, materials=(material,), corner_uv=np.full((1, 3, 2), uv, np.float32))


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("row", range(2))
def test_a_texels_centre_has_its_color_and_v_counts_upwards(row: int, column: int) -> None:
    assert color(textured(((column + 0.5) / 4, 1 - (row + 0.5) / 2)), 0.2, 0.3, 0.5) == PIXELS[row, column, :3].tolist()


def test_between_texels_the_color_is_their_mean() -> None:
    assert color(textured((0.5, 0.5)), 0.2, 0.3, 0.5) == PIXELS[:, 1:3, :3].reshape(4, 3).mean(axis=0).tolist()


@pytest.mark.parametrize(
    ("wrap", "u", "same_as"),
    [
        ("repeat", 3.125, 0.125), ("repeat", -0.125, 0.875), ("mirror", 1.125, 0.875), ("mirror", -0.375, 0.375), ("mirror", 2.375, 0.375),
        ("clamp", 1.7, 0.875), ("clamp", -9.0, 0.125), ("repeat", 1e9 + 0.0, 0.0),
    ],
)  # fmt: skip
def test_textures_wrap_as_their_material_says(wrap: str, u: float, same_as: float) -> None:
    assert color(textured((u, 0.25), (wrap, "repeat")), 0, 0, 1) == color(textured((same_as, 0.25)), 0, 0, 1)
    turned = np.ascontiguousarray(PIXELS.transpose(1, 0, 2))
    along_v = replace(textured((0.25, u), ("repeat", wrap)), materials=(Material("", np.ones(4, np.float32), turned, ("repeat", wrap)),))  # type: ignore[arg-type]
    plain = replace(textured((0.25, same_as)), materials=(Material("", np.ones(4, np.float32), turned),))
    assert color(along_v, 0, 0, 1) == color(plain, 0, 0, 1)


def test_repeating_blends_over_the_seam_and_clamping_does_not() -> None:
    assert color(textured((0.0, 0.75)), 0, 0, 1) == ((PIXELS[0, 0, :3].astype(int) + PIXELS[0, 3, :3]) / 2).tolist()
    assert color(textured((0.0, 0.75), ("clamp", "clamp")), 0, 0, 1) == PIXELS[0, 0, :3].tolist()


def test_each_material_paints_its_own_faces() -> None:
    red, blue = (Material(base_color=np.array([*rgb, 1], np.float32)) for rgb in ((1, 0, 0), (0, 0, 1)))
    mesh = mesh_of(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 2], [0, 1, 3]],
        materials=(red, blue),
        face_material=np.array([1, 0], np.int32),
    )
    found = sample(mesh, 200, 0)
    assert np.array_equal(found.colors, np.array([[0, 0, 255], [255, 0, 0]])[found.faces])
