"""The benchmark of renderers: its rows, its measure of error, and that it leaves the process as it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from orchestration.bench.render import Candidate, bench_render, supersampled
from render.cameras import Cameras, ring
from render.meshes import Material, Mesh
from render.views import Style

TETRAHEDRON = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
MESH = Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32), (Material(),), np.zeros(1, np.int32))


def test_a_row_for_each_folder_and_renderer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.off").write_text(TETRAHEDRON)
    (tmp_path / "b" / "broken.off").write_text("no mesh")
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    rows = bench_render([tmp_path / "a", tmp_path / "b"], limit=0, views=3, size=32, repeats=1)
    if before is not None:
        assert os.sched_getaffinity(0) == before
    assert {(row["meshes"], row["count"], row["faces_median"]) for row in rows} == {("a", 1, 4.0), ("b", 1, 4.0)}
    for row in rows:
        assert row["views_per_s"] == pytest.approx(3 / row["ms_per_mesh"] * 1000)
        assert 0 < row["error_rms"] < 60
        if row["renderer"] == "pyrender":
            assert row["speedup_total"] == row["speedup_median"] == 1
    assert "raster" in {row["renderer"] for row in rows}


def test_a_folder_without_meshes_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: no mesh"):
        bench_render([tmp_path])


def test_the_reference_shows_the_same_scene_averaged_over_blocks() -> None:
    """A candidate paints in each pixel where its centre lies in the camera's plane: the mean over a block is the block's centre."""

    def draw(mesh: Mesh, cameras: Cameras, style: Style) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u, v = np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5
        x, y = np.meshgrid((u - cameras.K[0, 0, 2]) / cameras.K[0, 0, 0], (v - cameras.K[0, 1, 2]) / cameras.K[0, 1, 1])
        color = np.stack([x, y, 0 * x, 0 * x], -1)[None] * 100 + 100
        return color, color[..., 0], color[..., 0] > 0

    cameras = ring(1, 0.3, size=16)
    candidate = Candidate("ramp", draw, 4)
    np.testing.assert_allclose(supersampled(candidate, MESH, cameras, Style()), draw(MESH, cameras, Style())[0])
