"""OpenGL as the second opinion on the rasteriser. It lives in a process of its own, so that no other test shares its context."""

import ctypes.util
import importlib.metadata
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.sources.shapes import make
from render.cameras import Cameras, ring
from render.checks import check, normalize
from render.meshes import Material, Mesh, MeshError, load
from render.opengl import OpenGLRenderer, RenderError
from render.raster import RasterRenderer
from render.views import Light, Style, Views

DATA = Path(__file__).parents[2] / ".data"
Ask = Callable[..., Any]

needs_opengl = pytest.mark.skipif(
    ctypes.util.find_library("EGL") is None and ctypes.util.find_library("OSMesa") is None, reason="needs EGL or OSMesa"
)


def own_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Calls a function in the process that has OpenGL."""
    with own_process() as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=300)


def drawn(mesh: Mesh, cameras: Cameras, style: Style | None = None) -> Views:
    return OpenGLRenderer().render(mesh, cameras, style or Style())


def sphere(rows: int = 24) -> Mesh:
    from pipeline.sources.solids import ellipsoid

    vertices, faces = ellipsoid(1, 1, 1, rows)
    material = Material(base_color=np.array([0.9, 0.4, 0.2, 1], np.float32))
    return Mesh(vertices, faces.astype(np.int32), (material,), np.zeros(len(faces), np.int32))


def compare(mesh: Mesh, cameras: Cameras) -> tuple[float, float, float]:
    """Overlap of the silhouettes, median error of depth, mean error of colour, against the rasteriser."""
    ours, theirs = RasterRenderer().render(mesh, cameras, Style()), drawn(mesh, cameras)
    both = ours.mask & theirs.mask
    overlap = both.sum() / (ours.mask | theirs.mask).sum()
    depth = np.median(np.abs(ours.depth[both] - theirs.depth[both]))
    color = np.abs(ours.color[both].astype(int) - theirs.color[both])[:, :3].mean()
    return float(overlap), float(depth), float(color)


def compare_files(paths: list[Path]) -> dict[str, tuple[float, float, float]]:
    found = {}
    for path in paths:
        try:
            mesh = normalize(check(load(path)))[0]
        except MeshError:
            continue
        found[path.name] = compare(mesh, ring(3, 0.5, azimuth_rad=0.3))
    return found


@needs_opengl
@pytest.mark.parametrize("cls", ["chair", "lamp", "airplane", "bookshelf"])
def test_the_renderers_agree_on_built_in_shapes(ask: Ask, cls: str) -> None:
    overlap, depth, color = ask(compare, normalize(check(make(cls, 1)))[0], ring(3, 0.5, azimuth_rad=0.3))
    assert overlap >= 0.99
    assert depth < 1e-3
    assert color < 12


@needs_opengl
@pytest.mark.parametrize(("name", "pattern"), [("psb", "t*/*/*.off"), ("sh3d", "*/*/*.obj")])
def test_the_renderers_agree_on_real_meshes(ask: Ask, name: str, pattern: str) -> None:
    files = sorted((DATA / name).glob(pattern))
    if not files:
        pytest.skip(f"needs the data set {name}")
    found = ask(compare_files, files[:: len(files) // 20][:20])
    assert len(found) >= 19
    assert {file: values for file, values in found.items() if values[0] < 0.99 or values[1] >= 1e-3} == {}


@needs_opengl
def test_mask_depth_and_faces_tell_of_the_same_pixels(ask: Ask) -> None:
    mesh, cameras = normalize(check(make("chair", 3)))[0], ring(2, 0.4, size=120)
    views = ask(drawn, mesh, cameras)
    assert (views.color.shape, views.color.dtype) == ((2, 120, 120, 4), np.uint8)
    assert (views.depth.dtype, views.face_ids.dtype, views.mask.dtype) == (np.float32, np.int32, np.bool_)
    assert np.array_equal(views.mask, views.depth > 0)
    assert np.array_equal(views.mask, views.face_ids >= 0)
    assert (views.color[~views.mask & (views.color[..., 3] == 0)][:, :3] == 255).all()
    # Where all about sees one face, the ray through a pixel's centre meets that face's plane at the depth given.
    inner = views.mask.copy()
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            inner &= np.roll(views.face_ids, (row, column), (1, 2)) == views.face_ids
    view, row, column = np.nonzero(inner)
    assert len(view) > 1000
    rays = np.stack(
        [
            (column + 0.5 - cameras.K[view, 0, 2]) / cameras.K[view, 0, 0],
            (row + 0.5 - cameras.K[view, 1, 2]) / cameras.K[view, 1, 1],
            np.ones(len(view)),
        ],
        axis=1,
    )
    rotation, translation = cameras.world_to_camera[view, :3, :3], cameras.world_to_camera[view, :3, 3]
    corners = np.einsum("nij,nkj->nki", rotation, mesh.vertices[mesh.faces[views.face_ids[view, row, column]]]) + translation[:, None]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    expected = (normals * corners[:, 0]).sum(axis=1) / (normals * rays).sum(axis=1)
    assert np.abs(expected - views.depth[view, row, column]).max() < 1e-4


@needs_opengl
def test_an_inverted_sphere_looks_like_the_sphere(ask: Ask) -> None:
    mesh, cameras = sphere(), ring(1, 0.3, size=96)
    plain, inverted = ask(drawn, mesh, cameras), ask(drawn, replace(mesh, faces=np.ascontiguousarray(mesh.faces[:, ::-1])), cameras)
    assert np.array_equal(plain.mask, inverted.mask)
    assert np.abs(plain.depth - inverted.depth).max() < 1e-3
    assert np.abs(plain.color.astype(int) - inverted.color).max() <= 2
    # the wall seen is the near one, in front of the middle
    assert plain.depth[0, 48, 48] < np.linalg.norm(cameras.world_to_camera[0, :3, 3]) - 0.9


@needs_opengl
def test_a_texture_is_the_right_way_up(ask: Ask) -> None:
    pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [255, 255, 0, 255]]], np.uint8).repeat(8, 0).repeat(8, 1)
    vertices = np.array([[-0.7, -0.7, 0], [0.7, -0.7, 0], [0.7, 0.7, 0], [-0.7, 0.7, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv = (vertices[faces][..., :2] / 1.4 + 0.5).astype(np.float32)
    mesh = Mesh(vertices, faces, (Material("", np.ones(4, np.float32), pixels),), np.zeros(2, np.int32), uv)
    style = Style(ambient=1.0, lights=())
    color = ask(drawn, mesh, ring(1, 0.0, size=64), style).color[0]
    seen = [color[row, column, :3].tolist() for row, column in ((24, 24), (24, 40), (40, 24), (40, 40))]
    assert np.abs(np.array(seen) - [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]).max() <= 2


@needs_opengl
def test_sizes_may_change_between_meshes(ask: Ask) -> None:
    first = ask(drawn, sphere(), ring(1, 0.3, size=64))
    ask(drawn, sphere(), ring(1, 0.3, size=200))
    again = ask(drawn, sphere(), ring(1, 0.3, size=64))
    assert np.array_equal(first.color, again.color)
    assert np.array_equal(first.depth, again.depth)


def describe() -> tuple[str, str]:
    from OpenGL import GL

    renderer = OpenGLRenderer()
    return renderer.description, GL.glGetString(GL.GL_RENDERER).decode()


def hardware() -> str:
    try:
        OpenGLRenderer(require_hardware=True)
    except RenderError as error:
        return str(error)
    return ""


@needs_opengl
def test_it_says_what_draws_and_never_takes_software_for_a_gpu(ask: Ask) -> None:
    description, gl_renderer = ask(describe)
    assert gl_renderer in description
    assert importlib.metadata.version("pyrender2") in description
    if "llvmpipe" in gl_renderer:
        refusal = ask(hardware)
        assert "A GPU was asked for" in refusal
        assert refusal.endswith("use the renderer raster.")


def errors_elsewhere() -> list[str]:
    renderer = OpenGLRenderer()
    mesh, cameras, found = sphere(), ring(1, 0.0, size=32), []

    def attempt() -> None:
        try:
            renderer.render(mesh, cameras, Style())
        except RenderError as error:
            found.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    reader, writer = os.pipe()
    if os.fork() == 0:
        attempt()
        os.write(writer, found[-1].encode() if len(found) == 2 else b"drawn")
        os._exit(0)
    os.wait()
    found.append(os.read(reader, 1000).decode())
    return found


@needs_opengl
def test_another_thread_or_a_forked_process_is_told_so(ask: Ask) -> None:
    in_thread, in_fork = ask(errors_elsewhere)
    assert "thread and process that started it" in in_thread
    assert in_fork == in_thread


@needs_opengl
def test_light_is_the_styles_and_two_sided(ask: Ask) -> None:
    # A square seen face on, with a light along the view and one at 60 degrees to it: a quarter + 0.4 + 0.3 / 2 = 0.8 of the light.
    lights = (Light(direction=(0, 0, 2), intensity=0.4, frame="camera"), Light(direction=(3**0.5, 0, 1), intensity=0.3))
    vertices = np.array([[-0.7, -0.7, 0], [0.7, -0.7, 0], [0.7, 0.7, 0], [-0.7, 0.7, 0]])
    mesh = Mesh(vertices, np.array([[0, 1, 2], [0, 3, 2]], np.int32), (Material("", np.ones(4, np.float32)),), np.zeros(2, np.int32))
    color = ask(drawn, mesh, ring(2, 0.0, size=64), Style(ambient=0.25, lights=lights)).color
    assert np.abs(color[:, 24:40, 24:40, :3] - 255 * 0.8 ** (1 / 2.2)).max() < 1


@needs_opengl
def test_a_failure_becomes_one_sentence(ask: Ask) -> None:
    broken = replace(sphere(), face_material=np.zeros(3, np.int32))
    with pytest.raises(RenderError, match="OpenGL failed to draw"):
        ask(drawn, replace(broken, vertices=np.zeros((0, 3))), ring(1, 0.0, size=32))


def refusal_beside(packages: list[str]) -> str:
    importlib.metadata.packages_distributions = lambda: {"pyrender": packages}
    try:
        OpenGLRenderer()
    except RenderError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("packages", "words"), [(["pyrender", "pyrender2"], "hides pyrender2"), ([], "is not installed")])
def test_the_wrong_pyrender_is_refused(packages: list[str], words: str) -> None:
    with own_process() as pool:
        assert words in pool.submit(refusal_beside, packages).result(timeout=120)


def test_errors_survive_the_way_between_processes() -> None:
    assert str(pickle.loads(pickle.dumps(RenderError("a sentence.")))) == "a sentence."
