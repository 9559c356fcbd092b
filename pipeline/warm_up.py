"""What a process compiles or loads before its first asset, outside of any asset's deadline and memory."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import png
from pipeline.recipe import Recipe
from render.cameras import Rig, build
from render.checks import check, check_views
from render.meshes import Material, Mesh, load
from render.moving import check_clip
from render.surface import places, sample
from render.views import Renderer

_PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 1 0
3 0 1 2
"""


def warm_up(recipe: Recipe, renderer: Renderer) -> None:
    """Draws, samples and encodes a tetrahedron, reads a triangle of each kind of file that the source may hold; where the recipe makes
    clips, moves the one and poses the other."""
    corners = np.array([[-0.5, -0.5, -0.5], [0.5, -0.5, -0.5], [0.0, 0.5, -0.5], [0.0, 0.0, 0.5]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    plain = Mesh(corners, faces, (Material(),), np.zeros(4, np.int32))
    picture = Material(texture=np.full((2, 2, 4), 128, np.uint8))
    textured = replace(plain, materials=(picture,), corner_uv=np.zeros((4, 3, 2), np.float32), vertex_colors=np.full((4, 4), 9, np.uint8))
    for mesh in (plain, textured):
        views = renderer.render(mesh, build(Rig(count=1, size=16), 0), recipe.style)
        check_views(views)
        sample(mesh, 8, 0)
    if recipe.clips is not None:
        moving = check_clip(plain, np.stack((corners, 2 * corners)))
        places(moving.vertices[0], moving.mesh.faces, 8, 0)
    for image in (views.color[0], views.color[0, ..., :3], views.color[0, ..., 0], views.face_ids[0].astype(np.uint16)):
        png.encode(image)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"), ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")):
            path = Path(folder, name)
            path.write_text(text)
            check(load(path))
        if recipe.source.kind == "folder":
            path = Path(folder, "a.ply")
            path.write_text(_PLY)
            load(path)
        if recipe.source.kind in ("folder", "animated"):
            import DracoPy

            DracoPy.decode(DracoPy.encode(corners, faces))
            path = Path(folder, "a.gltf")
            _write_gltf(path)
            load(path)
        if recipe.source.kind == "animated":
            from render.animation import load_animated

            load_animated(path).pose(0, np.array([0.0, 0.5]))


def _write_gltf(path: Path) -> None:
    """A triangle with a skin and one without, a morph target and a channel of each kind."""
    arrays: list[tuple[str, list[float]]] = [
        ("VEC3", [0, 0, 0, 1, 0, 0, 0, 1, 0]),
        ("VEC3", [0.1] * 9),
        ("VEC4", [1, 0, 0, 0] * 3),
        ("SCALAR", [0, 1]),
        ("VEC4", [0, 0, 0, 1, 0, 0, 1, 0]),
        ("SCALAR", [0, 1]),
    ]
    data = b"".join(np.array(values, np.float32).tobytes() for _, values in arrays) + bytes(12)
    sizes = [4 * len(values) for _, values in arrays] + [12]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
    counts = [len(values) // width[kind] for kind, values in arrays]
    accessors = [{"bufferView": n, "componentType": 5126, "count": counts[n], "type": kind} for n, (kind, _) in enumerate(arrays)]
    accessors.append({"bufferView": 6, "componentType": 5121, "count": 3, "type": "VEC4"})
    views = [{"buffer": 0, "byteOffset": sum(sizes[:n]), "byteLength": size} for n, size in enumerate(sizes)]
    primitive = {"attributes": {"POSITION": 0, "WEIGHTS_0": 2, "JOINTS_0": 6}, "targets": [{"POSITION": 1}]}
    channels = [{"sampler": n, "target": {"node": 1 - n, "path": path}} for n, path in enumerate(("rotation", "weights"))]
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(data), "uri": "data:application/octet-stream;base64," + base64.b64encode(data).decode()}],
        "bufferViews": views,
        "accessors": accessors,
        "meshes": [{"primitives": [primitive]}],
        "skins": [{"joints": [1]}],
        "nodes": [{"mesh": 0, "skin": 0}, {}, {"mesh": 0}],
        "scenes": [{"nodes": [0, 1, 2]}],
        "animations": [{"samplers": [{"input": 3, "output": 4}, {"input": 3, "output": 5}], "channels": channels}],
    }
    path.write_text(json.dumps(document))
