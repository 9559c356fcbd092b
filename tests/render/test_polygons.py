"""Polygons of any form become triangles that cover them once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render.polygons import triangulate


def cut(points: np.ndarray) -> np.ndarray:
    """Corners (n − 2, 3, 3) of the triangles of one polygon (n, 3)."""
    n = len(points)
    triangles, polygons = triangulate(points, np.arange(n, dtype=np.int32), np.array([0, n]))
    assert len(triangles) == len(polygons) == n - 2
    assert (polygons == 0).all()
    return points[triangles]


def area_vectors(triangles: np.ndarray) -> np.ndarray:
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2


def covers_once(points: np.ndarray) -> bool:
    """Triangles that cover a flat polygon once turn the same way and have its area (shoelace) together."""
    vectors = area_vectors(cut(points))
    whole = sum(np.cross(points[i], points[(i + 1) % len(points)]) for i in range(len(points))) / 2
    size = np.linalg.norm(whole)
    return bool((vectors @ (whole / size)).min() > -1e-9 * size and np.isclose(np.linalg.norm(vectors, axis=1).sum(), size))


FORMS = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "arrow": [(0, 0), (2, 1), (0, 2), (0.5, 1)],
    "L": [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)],
    "comb": [
        (0, 0),
        (7, 0),
        (7, 3),
        (6, 3),
        (6, 1),
        (5, 1),
        (5, 3),
        (4, 3),
        (4, 1),
        (3, 1),
        (3, 3),
        (2, 3),
        (2, 1),
        (1, 1),
        (1, 3),
        (0, 3),
    ],
    "with a hole": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
    "corners in a row": [(0, 0), (1, 0), (2, 0), (3, 0), (3, 3), (2, 1), (1, 2)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_known_forms(form: str, start: int, backwards: bool) -> None:
    flat = np.roll(np.array(FORMS[form], float), start, axis=0)[:: -1 if backwards else 1]
    frame = np.linalg.qr(np.random.default_rng(start).normal(size=(3, 3)))[0]
    assert covers_once(np.column_stack((flat, np.zeros(len(flat)))) @ frame + [5, -3, 2])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 1), min_size=4, max_size=30), st.integers(0, 10))
def test_stars_of_any_radii(radii: list[float], seed: int) -> None:
    turns = 2 * np.pi * np.arange(len(radii)) / len(radii)
    flat = np.array(radii)[:, None] * np.column_stack((np.cos(turns), np.sin(turns)))
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    assert covers_once(np.column_stack((flat, np.zeros(len(flat)))) @ frame)


@pytest.mark.parametrize(
    "points",
    [[(0, 0, 0)] * 5, [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)], [(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 1, 0)], [(np.nan, 0, 0)] * 4],
)
def test_polygons_without_a_plane_or_that_cross_themselves_still_give_triangles(points: list[tuple[float, float, float]]) -> None:
    cut(np.array(points, float))


def test_polygons_of_many_sizes_and_missing_vertices() -> None:
    corners = np.array([0, 0, 1, 0, 1, 2, 0, 1, 2, 3, 9, 0, 1, 2, -1], np.int32)
    starts = np.array([0, 1, 3, 6, 10, 15])
    triangles, polygons = triangulate(np.eye(4, 3), corners, starts)
    assert polygons.tolist() == [2, 3, 3, 4, 4, 4]
    assert corners[triangles[0]].tolist() == [0, 1, 2]
    assert set(corners[triangles[3:]].ravel().tolist()) == {9, 0, 1, 2, -1}
