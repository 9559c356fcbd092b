"""The rasteriser against rays cast in double precision, against properties of coverage, and against nasty input."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from render.cameras import Cameras, ring
from render.meshes import Material, Mesh
from render.raster import RasterRenderer
from render.views import Light, Style, Views

FLAT_LIGHT = Style(ambient=1.0, lights=(), background=(0.0, 0.0, 0.0))
WHITE = np.ones(4, np.float32)
OFFSETS = np.array([(-1, -3), (3, -1), (-3, 1), (1, 3)]) / 8
render = RasterRenderer().render


def mesh_of(vertices: npt.ArrayLike, faces: npt.ArrayLike, **kwargs: object) -> Mesh:
    faces = np.asarray(faces, np.int32).reshape(-1, 3)
    kwargs.setdefault("materials", (Material(base_color=WHITE),))
    kwargs.setdefault("face_material", np.zeros(len(faces), np.int32))
    return Mesh(np.asarray(vertices, np.float64).reshape(-1, 3), faces, **kwargs)  # type: ignore[arg-type]


def camera(size: int = 64, focal: float | None = None, near: float = 0.01) -> Cameras:
    """At the origin, looking along +z; world and camera axes are the same."""
    focal = size if focal is None else focal
    K = np.array([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]]])
    return Cameras(K, np.eye(4)[None], size, size, near)


def on_screen(points: npt.ArrayLike, cameras: Cameras) -> npt.NDArray[np.float64]:
    """(column, row, z) to camera space."""
    p = np.asarray(points, np.float64)
    K = cameras.K[0]
    return np.stack([(p[..., 0] - K[0, 2]) / K[0, 0] * p[..., 2], (p[..., 1] - K[1, 2]) / K[1, 1] * p[..., 2], p[..., 2]], -1)


def counts(views: Views) -> npt.NDArray[np.int64]:
    """Covered samples of each pixel, from alpha."""
    return np.round(views.color[..., 3] / 255 * 4).astype(np.int64)


def cast(
    corners: npt.NDArray[np.float64], columns: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], cameras: Cameras
) -> tuple[npt.NDArray[np.float64], ...]:
    """Rays through screen positions against one triangle (Möller and Trumbore 1997): barycentric weights (…, 3) and z."""
    K = cameras.K[0]
    d = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(columns)], -1)
    a, b, c = corners
    p = np.cross(d, c - a)
    det = p @ (b - a)
    u = -(p @ a) / det
    q = np.cross(-a, b - a)
    v = (d @ q) / det
    z = ((c - a) @ q) / det
    return np.stack([1 - u - v, u, v], -1), z


def test_random_triangles_agree_with_rays() -> None:
    cameras = camera(48)
    rng = np.random.default_rng(1)
    # vertices on the 1/256 pixel grid, where rounding to fixed point does not move them
    screen = np.round(rng.uniform(-20, 68, (60, 3, 2)) * 256) / 256
    vertices = on_screen(np.concatenate([screen, rng.uniform(0.5, 3, (60, 3, 1))], -1), cameras)
    x, y = np.meshgrid(np.arange(48) + 0.5, np.arange(48) + 0.5)
    nearest = np.full((48, 48, 4), np.inf)
    face = np.full((48, 48, 4), -1)
    doubtful = np.zeros((48, 48), bool)
    for f, corners in enumerate(vertices):
        for s, (ox, oy) in enumerate(OFFSETS):
            weights, z = cast(corners, x + ox, y + oy, cameras)
            doubtful |= (np.abs(weights) < 1e-9).any(-1)
            inside = (weights >= 0).all(-1) & (z > cameras.near)
            doubtful |= inside & np.isfinite(nearest[..., s]) & (np.abs(z - nearest[..., s]) < 1e-5)
            closer = inside & (z < nearest[..., s])
            nearest[..., s] = np.where(closer, z, nearest[..., s])
            face[..., s] = np.where(closer, f, face[..., s])
    views = render(mesh_of(vertices, np.arange(180)), cameras, FLAT_LIGHT)
    sure = ~doubtful
    assert sure.mean() > 0.95
    assert (counts(views)[0] == (face >= 0).sum(-1))[sure].all()
    whole = sure & (face == face[..., :1]).all(-1) & (face[..., 0] >= 0)
    assert whole.sum() > 300
    assert (views.face_ids[0] == face[..., 0])[whole].all()
    for f, corners in enumerate(vertices):
        here = whole & (face[..., 0] == f)
        np.testing.assert_allclose(views.depth[0][here], cast(corners, x, y, cameras)[1][here], rtol=1e-5)


@pytest.mark.parametrize("size", [64, 1200])
def test_neighbours_share_no_sample_and_leave_none_out(size: int) -> None:
    """A square cut into triangles at random points: on its own each triangle takes its samples, together they are the whole."""
    rng = np.random.default_rng(2)
    cameras = camera(size)
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1)
    grid[1:-1, 1:-1] += rng.uniform(-0.45, 0.45, (4, 4, 2))
    # samples lie exactly on many of these edges: the coordinates are multiples of an eighth of a pixel
    grid = np.round((grid * 0.15 + 0.125) * size * 8) / 8
    vertices = on_screen(np.concatenate([grid, np.full((6, 6, 1), 2.0)], -1), cameras).reshape(-1, 3)
    faces = [t for i in range(5) for j in range(5) for k in [6 * i + j] for t in ((k, k + 1, k + 6), (k + 7, k + 1, k + 6))]
    total = sum(counts(render(mesh_of(vertices, [t]), cameras, FLAT_LIGHT)) for t in faces)
    assert total.max() == 4  # type: ignore[union-attr]
    together = counts(render(mesh_of(vertices, faces), cameras, FLAT_LIGHT))
    assert (together == total).all()
    low, high = round(0.125 * size), round(0.875 * size)
    assert (together[0, low:high, low:high] == 4).all()
    assert together.sum() == 4 * (high - low) ** 2


def test_samples_on_an_edge_go_to_one_side() -> None:
    """Edges exactly through the samples of a column and of a row, by the top-left rule: left and top edges keep theirs."""
    cameras = camera(8)
    square = on_screen([[2.375, 2.375, 1], [5.375, 2.375, 1], [5.375, 5.375, 1], [2.375, 5.375, 1]], cameras)
    n = counts(render(mesh_of(square, [[0, 1, 2], [0, 2, 3]]), cameras, FLAT_LIGHT))[0]
    # samples lie at 0.375, 0.875, 0.125, 0.625 in x and 0.125, 0.375, 0.625, 0.875 in y of their pixel
    assert n[3, 3] == 4
    assert n[3, 2] == 3  # 0.375 is kept on the left, 0.125 is outside
    assert n[3, 5] == 1  # 0.125 is inside, 0.375 on the right edge is lost
    assert n[2, 3] == 3
    assert n[5, 3] == 1
    assert n.sum() == 4 * 9


def test_clipped_by_the_near_plane() -> None:
    """A floor that runs from before the camera to behind it: what is seen is exactly the part beyond the near plane."""
    cameras = camera(64, near=0.5)
    floor = mesh_of([[-50, 1, -40], [50, 1, -40], [0, 1, 60]], [[0, 1, 2]])
    views = render(floor, cameras, FLAT_LIGHT)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    # y = 1 is seen in row r at z = 64 / (r − 32): from z = 60 in the middle to z = 64 / 31.5 at the bottom
    weights, z = cast(floor.vertices[floor.faces[0]], x, y, cameras)
    expected = (weights > 0).all(-1) & (z > 0.5)
    near_edge = np.zeros_like(expected)
    near_edge[1:-1, 1:-1] = (expected[1:-1, 1:-1] != expected[:-2, 1:-1]) | (expected[1:-1, 1:-1] != expected[2:, 1:-1])
    near_edge[:, 1:-1] |= (expected[:, 1:-1] != expected[:, :-2]) | (expected[:, 1:-1] != expected[:, 2:])
    assert (views.mask[0] == expected)[~near_edge].all()
    inside = expected & ~near_edge
    assert inside.sum() > 900
    np.testing.assert_allclose(views.depth[0][inside], z[inside], rtol=2e-3)
    wall = mesh_of([[-9, -9, 0.4], [9, -9, 0.4], [0, 9, 0.4]], [[0, 1, 2]])
    assert not render(wall, cameras, FLAT_LIGHT).mask.any()


def test_near_plane_cut_is_straight_and_watertight() -> None:
    """Triangles round the camera, all cut by near plane and guard band: every sample of the picture is covered exactly once."""
    cameras = camera(32)
    rng = np.random.default_rng(3)
    a = np.sort(rng.uniform(0, 2 * np.pi, 9))
    rim = np.stack([1e4 * np.cos(a), 1e4 * np.sin(a), rng.uniform(-3e3, 40, 9)], -1)
    rim[:, 2] = np.where(np.arange(9) % 2, -100.0, 40.0)
    apex = [3.0, -2.0, 5.0]
    faces = [(0, i + 1, (i + 1) % 9 + 1) for i in range(9)]
    mesh = mesh_of(np.concatenate([[apex], rim]), faces)
    each = sum(counts(render(mesh_of(mesh.vertices, [f]), cameras, FLAT_LIGHT)) for f in faces)
    together = counts(render(mesh, cameras, FLAT_LIGHT))
    assert (together == np.minimum(each, 4)).all()
    assert together.mean() > 3


def test_texture_coordinates_are_perspective_correct() -> None:
    """A ramp of 256 steps on a strongly tilted triangle: the colour tells u, which rays give too."""
    cameras = camera(64)
    corners = on_screen([[4, 8, 1.0], [60, 20, 6.0], [20, 60, 2.0]], cameras)
    ramp = np.zeros((1, 256, 4), np.uint8)
    ramp[0, :, 0] = np.arange(256)
    uv = np.array([[[0.1, 0.5], [0.9, 0.5], [0.3, 0.5]]], np.float32)
    mesh = mesh_of(corners, [[0, 1, 2]], materials=(Material(base_color=WHITE, texture=ramp, wrap=("clamp", "clamp")),), corner_uv=uv)
    views = render(mesh, cameras, FLAT_LIGHT)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    weights, z = cast(corners, x, y, cameras)
    whole = counts(views)[0] == 4
    assert whole.sum() > 500
    u = weights @ uv[0, :, 0]
    error = views.color[0, ..., 0][whole] - (u[whole] * 256 - 0.5)
    assert np.abs(error).max() < 2.5
    assert np.abs(error).mean() < 0.6
    np.testing.assert_allclose(views.depth[0][whole], z[whole], rtol=5e-3)


def test_vertex_colours_are_interpolated_in_linear_light() -> None:
    cameras = camera(64)
    corners = on_screen([[4, 8, 1.0], [60, 20, 6.0], [20, 60, 2.0]], cameras)
    rgb = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], np.uint8)
    views = render(mesh_of(corners, [[0, 1, 2]], vertex_colors=rgb), cameras, FLAT_LIGHT)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    weights = np.clip(cast(corners, x, y, cameras)[0], 0, 1)
    expected = np.where(weights <= 0.0031308, weights * 12.92, 1.055 * weights ** (1 / 2.4) - 0.055) * 255
    whole = counts(views)[0] == 4
    assert np.abs(views.color[0, ..., :3][whole] - expected[whole]).max() < 3


def square_with(
    texture: npt.NDArray[np.uint8], uv_scale: float, size: int, wrap: tuple[str, str] = ("repeat", "repeat")
) -> npt.NDArray[np.uint8]:
    """A picture filled by one triangle, uv running from 0 to uv_scale over it, v upwards."""
    cameras = camera(size)
    corners = on_screen([[0, size, 1], [2 * size, size, 1], [0, -size, 1]], cameras)
    uv = np.array([[[0, 0], [2, 0], [0, 2]]], np.float32) * uv_scale
    material = Material(base_color=WHITE, texture=texture, wrap=wrap)  # type: ignore[arg-type]
    return render(mesh_of(corners, [[0, 1, 2]], materials=(material,), corner_uv=uv), cameras, FLAT_LIGHT).color[0, ..., :3]


def test_texels_land_upright() -> None:
    """Row 0 of the picture is at v = 1, the upper side; at one texel a pixel the picture comes back byte for byte."""
    picture = np.random.default_rng(4).integers(0, 256, (16, 16, 4), np.uint8)
    assert (square_with(picture, 1.0, 16) == picture[..., :3]).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 7.3, 400.0])
def test_constant_texture_gives_its_colour(scale: float) -> None:
    picture = np.tile(np.array([10, 120, 250, 255], np.uint8), (37, 53, 1))
    assert (square_with(picture, scale, 32) == [10, 120, 250]).all()


@pytest.mark.parametrize("scale", [16.0, 33.7])
def test_minified_checkerboard_tends_to_its_mean(scale: float) -> None:
    board = np.zeros((64, 64, 4), np.uint8)
    board[(np.indices((64, 64)).sum(0) % 2).astype(bool)] = 255
    # half of the light is int(np.ceil(255 / 2)) in sRGB
    assert np.abs(square_with(board, scale, 32).astype(int) - int(np.ceil(255 / 2))).max() <= 2


@pytest.mark.parametrize(
    ("mode", "order"), [("repeat", "0123 0123 0123 0123"), ("mirror", "0123 3210 0123 3210"), ("clamp", "0123 3333 3333 3333")]
)
def test_wrap_modes(mode: str, order: str) -> None:
    picture = np.zeros((1, 4, 4), np.uint8)
    picture[0, :, 0] = [10, 90, 170, 250]
    row = square_with(picture, 4.0, 16, (mode, "repeat"))[3, :, 0]
    assert row.tolist() == [[10, 90, 170, 250][int(n)] for n in order.replace(" ", "")]


def test_both_sides_are_lit_alike_and_as_the_formula_says() -> None:
    cameras = camera(16)
    corners = on_screen([[-20, -20, 2.0], [40, -20, 3.0], [8, 50, 2.5]], cameras)
    base = np.array([0.8, 0.5, 0.2, 1], np.float32)
    lights = (Light(direction=(0, 0, 1), intensity=0.4, frame="camera"), Light(direction=(-1, -2, -0.5), intensity=0.3))
    style = Style(ambient=0.2, lights=lights)
    front, back = (
        render(mesh_of(corners, [f], materials=(Material(base_color=base),)), cameras, style).color for f in ([0, 1, 2], [0, 2, 1])
    )
    assert (front == back).all()
    n = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    n /= np.linalg.norm(n)
    d = np.array([-1, -2, -0.5]) / np.linalg.norm([-1, -2, -0.5])
    intensity = 0.2 + 0.4 * abs(n[2]) + 0.3 * abs(n @ d)
    linear = ((np.round(base[:3] * 255) / 255 + 0.055) / 1.055) ** 2.4 * intensity
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(front[0, 8, 8, :3] - 255 * srgb).max() <= 1


def test_camera_lights_turn_with_the_camera() -> None:
    """A sphere-like set of cameras about a square that always faces the camera: a light of the camera's frame gives one colour."""
    cameras = ring(6, 0.4, size=16)
    style = Style(ambient=0.1, lights=(Light(direction=(0.3, 0.2, 1), intensity=0.8, frame="camera"),))
    seen = set()
    for v in range(6):
        R, t = cameras.world_to_camera[v, :3, :3], cameras.world_to_camera[v, :3, 3]
        corners = (np.array([[-9, -9, 2.0], [9, -9, 2.0], [0, 18, 2.0]]) - t) @ R
        one = Cameras(cameras.K[v : v + 1], cameras.world_to_camera[v : v + 1], 16, 16)
        seen.add(tuple(render(mesh_of(corners, [[0, 1, 2]]), one, style).color[0, 8, 8]))
    assert len({s[0] for s in seen}) == 1


def test_colour_is_base_times_texture_times_face_colour() -> None:
    cameras = camera(8)
    corners = on_screen([[-20, -20, 1], [40, -20, 1], [8, 50, 1]], cameras)
    texture = np.full((2, 2, 4), 128, np.uint8)
    material = Material(base_color=np.array([0.5, 1, 1, 1], np.float32), texture=texture)
    mesh = mesh_of(
        corners,
        [[0, 1, 2]],
        materials=(material,),
        corner_uv=np.zeros((1, 3, 2), np.float32),
        face_colors=np.array([[255, 200, 0, 255]], np.uint8),
    )
    linear = lambda s: ((s / 255 + 0.055) / 1.055) ** 2.4  # noqa: E731
    expected = np.array([linear(128) * linear(128), linear(128) * linear(200), 0])
    srgb = np.where(expected <= 0.0031308, expected * 12.92, 1.055 * expected ** (1 / 2.4) - 0.055) * 255
    assert np.abs(render(mesh, cameras, FLAT_LIGHT).color[0, 4, 4, :3] - srgb).max() <= 1


def test_materials_of_one_mesh_keep_apart() -> None:
    cameras = camera(16)
    left = on_screen([[-50, -50, 1], [8, -50, 1], [8, 90, 1], [-50, 90, 1]], cameras)
    right = on_screen([[8, -50, 1], [90, -50, 1], [90, 90, 1], [8, 90, 1]], cameras)
    red, blue = np.zeros((1, 1, 4), np.uint8), np.array([0, 0, 1, 1], np.float32)
    red[..., 0] = 255
    mesh = mesh_of(
        np.concatenate([left, right]), [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]],
        materials=(Material(base_color=WHITE, texture=red), Material(base_color=blue)), face_material=np.array([0, 0, 1, 1], np.int32),
        corner_uv=np.zeros((4, 3, 2), np.float32),
    )  # fmt: skip
    color = render(mesh, cameras, FLAT_LIGHT).color[0]
    assert (color[:, :8] == [255, 0, 0, 255]).all()
    assert (color[:, 8:] == [0, 0, 255, 255]).all()


def test_alpha_of_materials_and_texels_is_ignored() -> None:
    cameras = camera(8)
    corners = on_screen([[-20, -20, 1], [40, -20, 1], [8, 50, 1]], cameras)
    texture = np.array([[[200, 200, 200, 0]]], np.uint8)
    clear = Material(base_color=np.array([1, 1, 1, 0.0], np.float32), texture=texture)
    views = render(mesh_of(corners, [[0, 1, 2]], materials=(clear,), corner_uv=np.zeros((1, 3, 2), np.float32)), cameras, FLAT_LIGHT)
    assert views.mask.all()
    assert (views.color == [200, 200, 200, 255]).all()


def test_background_and_the_edges_over_it() -> None:
    cameras = camera(16)
    style = Style(ambient=1.0, lights=(), background=(0.2, 0.4, 0.6))
    half = on_screen([[4.5, -50, 1], [90, -50, 1], [90, 90, 1], [4.5, 90, 1]], cameras)
    views = render(mesh_of(half, [[0, 1, 2], [0, 2, 3]]), cameras, style)
    assert (views.color[0, :, :4] == [51, 102, 153, 0]).all()
    assert (views.color[0, :, 5:] == 255).all()
    assert (views.color[0, :, 4, 3] == 128).all()
    assert (views.color[0, :, 4, :3] == [(51 + 255) / 2, (102 + 256) / 2, (153 + 255) / 2]).all()
    assert views.mask[0, :, 4:].all()
    assert not views.mask[0, :, :4].any()


def random_mesh(seed: int, faces: int = 300) -> Mesh:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 0.4, (faces, 1, 3))
    vertices = (centres + rng.normal(0, 0.15, (faces, 3, 3))).reshape(-1, 3)
    picture = rng.integers(0, 256, (64, 64, 4), np.uint8)
    return mesh_of(
        vertices, np.arange(3 * faces),
        materials=(Material(), Material(texture=picture)), face_material=rng.integers(0, 2, faces).astype(np.int32),
        corner_uv=rng.uniform(-1, 2, (faces, 3, 2)).astype(np.float32), face_colors=rng.integers(0, 256, (faces, 4), np.uint8),
    )  # fmt: skip


def bytes_of(views: Views) -> bytes:
    return b"".join(a.tobytes() for a in (views.color, views.depth, views.mask, views.face_ids))


def test_mask_depth_and_faces_hold_for_the_same_pixels() -> None:
    views = render(random_mesh(5), ring(4, 0.5, size=96), Style())
    assert (views.mask == (views.depth > 0)).all()
    assert (views.mask == (views.face_ids >= 0)).all()
    assert (views.mask == (views.color[..., 3] >= 127)).all()
    assert 0.05 < views.mask.mean() < 0.95


def test_same_input_same_bytes() -> None:
    """Again, in between other meshes and sizes, view by view, and in four threads at once."""
    cameras = ring(5, 0.3, size=80)
    meshes = [random_mesh(n) for n in range(4)]
    first = [bytes_of(render(m, cameras, Style())) for m in meshes]
    render(meshes[0], ring(2, 1.0, size=33), Style())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda m: bytes_of(render(m, cameras, Style())), meshes * 3)) == first * 3
    whole = render(meshes[0], cameras, Style())
    for v in range(5):
        one = render(meshes[0], Cameras(cameras.K[v : v + 1], cameras.world_to_camera[v : v + 1], 80, 80), Style())
        assert (one.color[0] == whole.color[v]).all()
        assert (one.depth[0] == whole.depth[v]).all()


def test_results_stay_as_they_are_while_someone_holds_them() -> None:
    cameras = ring(2, 0.3, size=40)
    kept = [render(random_mesh(n), cameras, Style()) for n in range(4)]
    copies = [bytes_of(v) for v in kept]
    only_a_part = render(random_mesh(9), cameras, Style()).depth[1, 3:5]
    part = only_a_part.copy()
    for n in range(20, 26):
        render(random_mesh(n), cameras, Style())
    assert [bytes_of(v) for v in kept] == copies
    assert (only_a_part == part).all()


def test_order_of_faces_matters_only_among_equals() -> None:
    mesh = random_mesh(6)
    order = np.random.default_rng(0).permutation(len(mesh.faces))
    assert mesh.corner_uv is not None
    assert mesh.face_colors is not None
    shuffled = Mesh(
        mesh.vertices, mesh.faces[order], mesh.materials, mesh.face_material[order], mesh.corner_uv[order], None, mesh.face_colors[order]
    )
    a, b = render(mesh, ring(3, 0.5, size=64), Style()), render(shuffled, ring(3, 0.5, size=64), Style())
    assert (a.color == b.color).all()
    assert (np.where(b.face_ids >= 0, order[b.face_ids], -1) == a.face_ids).all()


def test_nasty_vertices_are_harmless() -> None:
    """What is not finite, huge or without area draws nothing or what it should, and leaves a good triangle alone."""
    cameras = camera(32)
    good = on_screen([[4, 4, 2.0], [28, 4, 2.0], [16, 28, 2.0]], cameras)
    alone = render(mesh_of(good, [[0, 1, 2]]), cameras, FLAT_LIGHT)
    nan, inf = np.nan, np.inf
    bad = [
        [[nan, 0, 3], [1, 0, 3], [0, 1, 3]],
        [[inf, 0, 3], [1, -inf, 3], [0, 1, inf]],
        [[0, 0, 3], [0, 0, 3], [0, 1, 3]],
        [[0, 0, 3], [1, 1, 3], [2, 2, 3]],
        [[1e300, 0, 3], [1e300, 1, 3], [1e300, 0, 4]],
        [[0, 0, -1], [1, 0, -1], [0, 1, -1]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[1e-310, 0, 1e-310], [0, 1e-310, 1e-310], [0, 0, 1e-320]],
    ]
    for corners in bad:
        mesh = mesh_of(np.concatenate([good, np.array(corners, np.float64)]), [[0, 1, 2], [3, 4, 5]])
        views = render(mesh, cameras, FLAT_LIGHT)
        assert (views.color == alone.color).all(), corners
        assert np.isfinite(views.depth).all()
    behind_all = [[-1e12, -1e12, 1e6], [1e12, -1e12, 1e6], [0, 1e12, 1e6]]
    views = render(mesh_of(np.concatenate([good, behind_all]), [[0, 1, 2], [3, 4, 5]]), cameras, FLAT_LIGHT)
    assert views.mask.all()
    assert (views.face_ids[0, 16, 16], views.face_ids[0, 0, 0]) == (0, 1)
    np.testing.assert_allclose(views.depth[0, 0, 0], 1e6, rtol=1e-3)


def test_random_extremes_do_not_crash() -> None:
    """Exponents over the whole range of doubles, in a process of its own so that a crash is a failure and not the end of the tests."""
    code = """
import numpy as np
from render.cameras import ring
from render.meshes import Material, Mesh
from render.raster import RasterRenderer
from render.views import Style
rng = np.random.default_rng(0)
for scale in (1, 10, 100, 300):
    v = rng.choice([-1, 1], (600, 3)) * 10.0 ** rng.uniform(-scale, scale, (600, 3))
    v[::17] = np.nan
    uv = (10.0 ** rng.uniform(-30, 30, (200, 3, 2))).astype(np.float32)
    uv[::9] = np.inf
    look = (Material(texture=np.full((5, 3, 4), 9, np.uint8)),)
    m = Mesh(v, np.arange(600, dtype=np.int32).reshape(-1, 3), look, np.zeros(200, np.int32), uv)
    with np.errstate(all="ignore"):
        views = RasterRenderer().render(m, ring(3, 0.3, size=50), Style())
    assert not np.isnan(views.depth).any()
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr


def test_meshes_without_anything_to_see() -> None:
    empty = mesh_of(np.zeros((0, 3)), np.zeros((0, 3)))
    views = render(empty, ring(2, 0.3, size=20), Style(background=(1, 0, 0)))
    assert (views.color == [255, 0, 0, 0]).all()
    assert not views.mask.any()
    assert (views.face_ids == -1).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 70), (70, 3), (223, 225), (951, 951)])
def test_any_size(width: int, height: int) -> None:
    """A wall over the whole picture covers all of it, in whatever size and in pictures that are not square."""
    K = np.array([[[50.0, 0, width / 2], [0, 50.0, height / 2], [0, 0, 1]]])
    cameras = Cameras(K, np.eye(4)[None], width, height)
    views = render(mesh_of([[-99, -99, 2], [99, -99, 2], [0, 199, 2.0]], [[0, 1, 2]]), cameras, FLAT_LIGHT)
    assert views.color.shape == (1, height, width, 4)
    assert views.mask.all()
    np.testing.assert_allclose(views.depth, 2, rtol=1e-6)


def test_arrays_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="names another"):
        render(mesh_of(np.zeros((3, 3)), [[0, 1, 3]]), camera(8), FLAT_LIGHT)
    with pytest.raises(ValueError, match="disagree"):
        render(mesh_of(np.zeros((3, 3)), [[0, 1, 2]], vertex_colors=np.zeros((2, 4), np.uint8)), camera(8), FLAT_LIGHT)


def test_too_large_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        render(random_mesh(0), camera(5000), Style())
