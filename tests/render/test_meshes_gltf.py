"""glTF and GLB files: nodes, materials, skins, and documents that do not hold together."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from render.meshes import load
from render.surface import colors_at
from tests.render.mesh_files import corners, picture, refused, write


def document(positions: list[list[float]], **more: object) -> tuple[dict[str, object], bytes]:
    """A document of one triangle mesh, uint16 indices 0, 1, 2, … and uv (0, 0), (1, 0), (0, 1), … and the bytes of its buffer."""
    n = len(positions)
    data = np.array(positions, "<f4").tobytes()
    uv_at = len(data)
    data += np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]] * (n // 3), "<f4").tobytes()
    index_at = len(data)
    data += np.arange(n, dtype="<u2").tobytes()
    tree: dict[str, object] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"name": "m", "pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.0, 1.0, 1.0]}}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": n, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": n, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5123, "count": n, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": uv_at},
            {"buffer": 0, "byteOffset": uv_at, "byteLength": index_at - uv_at},
            {"buffer": 0, "byteOffset": index_at, "byteLength": len(data) - index_at},
        ],
        "buffers": [{"byteLength": len(data)}],
    }
    return tree | more, data


def glb(path: Path, tree: dict[str, object], data: bytes) -> Path:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path


TRIANGLE = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_glb_nodes_move_their_meshes(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    nodes = [
        {"children": [1, 2], "translation": [10, 0, 0]},
        {"mesh": 0, "rotation": [0, 0, half, half], "scale": [2, 1, 1]},
        {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 0, 5, 0, 1]},
        {"mesh": 0},
    ]
    mesh = load(glb(tmp_path / "a.glb", *document(TRIANGLE, nodes=nodes)))
    # node 1: doubled in x, a quarter turn about z, then moved; node 2: mirrored in z, so wound the other way; node 3 is in no scene
    assert np.allclose(corners(mesh)[0], [[10, 0, 0], [10, 2, 0], [9, 0, 0]])
    assert np.allclose(corners(mesh)[1], [[10, 6, 0], [11, 5, 0], [10, 5, 0]])
    assert len(mesh.faces) == 2


def test_glb_color_factors_are_linear_light(tmp_path: Path) -> None:
    mesh = load(glb(tmp_path / "a.glb", *document(TRIANGLE)))
    # the sRGB code of half the light is 188 of 255
    assert colors_at(mesh, np.array([0]), np.array([[1.0, 0, 0]])).tolist() == [[188, 0, 255]]


def test_glb_texture_inside_the_file_with_its_wrapping(tmp_path: Path) -> None:
    picture(tmp_path / "dots.png")
    tree, data = document(TRIANGLE)
    views = [*tree["bufferViews"], {"buffer": 0, "byteOffset": len(data), "byteLength": (tmp_path / "dots.png").stat().st_size}]  # type: ignore[misc]
    data += (tmp_path / "dots.png").read_bytes()
    tree |= {
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 33648}],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }
    mesh = load(glb(tmp_path / "a.glb", tree, data))
    assert mesh.materials[0].wrap == ("clamp", "mirror")
    # glTF counts v from the top: (0.25, 0.25) is the middle of the upper left pixel
    assert colors_at(mesh, np.zeros(3, int), np.eye(3)).tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_gltf_with_files_beside_it_and_data_uris(tmp_path: Path) -> None:
    tree, data = document(TRIANGLE)
    tree["images"] = [{"uri": "my%20dots.png"}]
    tree["textures"] = [{"source": 0}]
    tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    tree["buffers"] = [{"uri": "data:application/octet-stream;base64," + base64.b64encode(data).decode(), "byteLength": len(data)}]
    path = write(tmp_path / "a.gltf", json.dumps(tree))
    assert load(path).flags == ("texture_missing",)
    picture(tmp_path / "my dots.png")
    assert load(path).flags == ()
    tree["buffers"] = [{"uri": "a.bin", "byteLength": len(data)}]
    write(path, json.dumps(tree))
    assert refused(path).reason == "io_error"
    (tmp_path / "a.bin").write_bytes(data)
    assert corners(load(path)).tolist() == [TRIANGLE]
    tree["buffers"] = [{"uri": "../a.bin", "byteLength": len(data)}]
    inner = write(tmp_path / "inner" / "a.gltf", json.dumps(tree))
    assert refused(inner).reason == "io_error"
    assert corners(load(inner, root=tmp_path)).tolist() == [TRIANGLE]


def test_a_required_extension_that_is_not_read_is_refused(tmp_path: Path) -> None:
    for extension in ("EXT_meshopt_compression", "KHR_texture_basisu"):
        error = refused(glb(tmp_path / "a.glb", *document(TRIANGLE, extensionsRequired=[extension], extensionsUsed=[extension])))
        assert error.reason == "unsupported"
        assert extension in str(error)
    assert len(load(glb(tmp_path / "b.glb", *document(TRIANGLE, extensionsRequired=["KHR_materials_unlit"]))).faces) == 1
    error = refused(glb(tmp_path / "a.glb", *document(TRIANGLE, extensionsRequired=["EXT_\ud800odd\n" + "x" * 5000])))
    assert str(error).encode().endswith(b"which is not read; export it without.")
    assert "EXT_?odd" in str(error)


def test_glb_quantised_positions_and_vertex_colors(tmp_path: Path) -> None:
    data = (
        np.array([[0, 0, 0, 0], [127, 0, 0, 0], [0, -127, 0, 0]], "i1").tobytes()
        + np.array([[0, 0, 0, 0], [65535, 0, 0, 0], [0, 65535, 0, 0]], "<u2").tobytes()
    )
    tree, _ = document(TRIANGLE)
    tree |= {
        "extensionsRequired": ["KHR_mesh_quantization"],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5120, "normalized": True, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "normalized": True, "count": 3, "type": "VEC3"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": 12, "byteStride": 4},
            {"buffer": 0, "byteOffset": 12, "byteLength": 24, "byteStride": 8},
        ],
        "buffers": [{"byteLength": 36}],
    }
    mesh = load(glb(tmp_path / "a.glb", tree, data))
    assert corners(mesh).tolist() == [[[0, 0, 0], [1, 0, 0], [0, -1, 0]]]
    assert mesh.vertex_colors is not None
    assert mesh.vertex_colors[:, :3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(4, [[0, 1, 2], [3, 4, 5]]), (5, [[0, 1, 2], [1, 3, 2], [2, 3, 4], [3, 5, 4]]), (6, [[1, 2, 0], [2, 3, 0], [3, 4, 0], [4, 5, 0]])],
)
def test_glb_strips_and_fans(tmp_path: Path, mode: int, expected: list[list[int]]) -> None:
    tree, data = document([[float(i), float(i * i), 0.0] for i in range(6)])
    tree["meshes"] = [
        {"primitives": [{"attributes": {"POSITION": 0}, "indices": 2, "mode": mode}, {"attributes": {"POSITION": 0}, "mode": 1}]}
    ]
    mesh = load(glb(tmp_path / "a.glb", tree, data))
    assert mesh.faces.tolist() == expected
    assert mesh.flags == ("lines_ignored",)


def test_glb_skins_are_placed_by_their_joints(tmp_path: Path) -> None:
    tree, data = document(TRIANGLE)
    start = len(data)
    # two joints; the third vertex hangs half on each, the first has weights of NaN
    data += np.array([[0, 1, 0, 0]] * 3, "u1").tobytes() + np.array([[np.nan, 0, 0, 0], [1, 0, 0, 0], [3, 3, 0, 0]], "<f4").tobytes()
    tree["accessors"] += [  # type: ignore[operator]
        {"bufferView": 3, "componentType": 5121, "count": 3, "type": "VEC4"},
        {"bufferView": 4, "componentType": 5126, "count": 3, "type": "VEC4"},
    ]
    tree["bufferViews"] += [{"buffer": 0, "byteOffset": start, "byteLength": 12}, {"buffer": 0, "byteOffset": start + 12, "byteLength": 48}]  # type: ignore[operator]
    tree |= {
        "buffers": [{"byteLength": len(data)}],
        "nodes": [{"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, {"translation": [0, 0, 2]}, {"translation": [0, 0, 4]}],
        "scenes": [{"nodes": [0, 1, 2]}],
        "skins": [{"joints": [1, 2]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "JOINTS_0": 3, "WEIGHTS_0": 4}, "indices": 2}]}],
    }
    assert np.allclose(corners(load(glb(tmp_path / "a.glb", tree, data)))[0], [[0, 0, 2], [1, 0, 2], [0, 1, 3]])


@pytest.mark.parametrize(
    "more",
    [
        {"nodes": [{"mesh": 0, "children": [0]}]},
        {"nodes": [{"mesh": 7}]},
        {
            "buffers": [{"byteLength": 10**9}],
            "bufferViews": [{"buffer": 0, "byteLength": 10**9}] * 3,
            "accessors": [{"bufferView": 0, "componentType": 5126, "count": 10**6, "type": "VEC3"}] * 3,
        },
        {"accessors": "none"},
        {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}]},
        {"asset": {}},
        {"accessors": [{"componentType": 5126, "count": 10**9, "type": "VEC3"}] * 3},
    ],
    ids=["cycle", "no such mesh", "overrun", "no list", "indices of floats", "no version", "zeros without end"],
)
def test_gltf_that_does_not_hold_together_is_refused(tmp_path: Path, more: dict[str, object]) -> None:
    assert refused(glb(tmp_path / "a.glb", *document(TRIANGLE, **more))).reason in ("unreadable", "unsupported", "too_large", "empty")


def test_a_glb_cut_short_is_refused(tmp_path: Path) -> None:
    path = glb(tmp_path / "a.glb", *document(TRIANGLE))
    whole = path.read_bytes()
    for length in (4, 11, 20, len(whole) // 2, len(whole) - 8):
        path.write_bytes(whole[:length])
        assert refused(path).reason == "unreadable"


def test_gltf_agrees_with_trimesh(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    random = np.random.default_rng(0)
    for k in range(3):
        scene.add_geometry(
            trimesh.creation.box(random.uniform(0.5, 2, 3)),
            transform=trimesh.transformations.random_rotation_matrix(random.random(3)),
            node_name=f"n{k}",
        )
    scene.export(tmp_path / "scene.glb")
    assert np.allclose(corners(load(tmp_path / "scene.glb")), scene.to_mesh().triangles, atol=1e-6)
