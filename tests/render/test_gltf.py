"""glTF documents: geometry compressed by Draco, extensions that are not read, and buffers that are not there."""

from __future__ import annotations

from pathlib import Path

import DracoPy
import numpy as np
import pytest
import trimesh

from render.animation import load_animated
from render.meshes import load
from tests.render.gltf_files import FLOAT, TRIANGLE, UBYTE, USHORT, Document, Evaluator, compressed
from tests.render.mesh_files import corners, picture, refused

DATA = Path(__file__).parents[2] / ".data"


VEC3 = {"componentType": FLOAT, "type": "VEC3"}


def sphere() -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(subdivisions=2)
    return np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.uint32)


def test_draco_joints_weights_uv_and_colours_are_found_by_their_numbers(tmp_path: Path) -> None:
    points, faces = sphere()
    uv = np.round((points[:, :2] + 1) / 2 * 65535).astype(np.uint16)
    shade = np.round((points + 1) * 127).astype(np.uint8)
    upper = (points[:, 2] > 0).astype(np.uint8)
    # the numbers that name attributes are not in the order in which these are used
    joints, weights = (
        np.stack((upper, upper * 0, upper * 0, upper * 0), axis=1),
        np.tile(np.array([255, 0, 0, 0], np.uint8), (len(points), 1)),
    )
    generic = {7: weights, 5: joints, 9: shade, 6: uv}
    data = DracoPy.encode(points, faces, quantization_bits=16, generic_attributes=generic)
    position = next(entry["unique_id"] for entry in DracoPy.decode(data).attributes if entry["attribute_type"] == 0)
    document = compressed(
        data,
        {"POSITION": position, "TEXCOORD_0": 6, "WEIGHTS_0": 7, "JOINTS_0": 5, "COLOR_0": 9},
        {
            "POSITION": VEC3,
            "TEXCOORD_0": {"componentType": USHORT, "type": "VEC2", "normalized": True},
            "COLOR_0": {"componentType": UBYTE, "type": "VEC3", "normalized": True},
            "WEIGHTS_0": {"componentType": UBYTE, "type": "VEC4", "normalized": True},
            "JOINTS_0": {"componentType": UBYTE, "type": "VEC4"},
        },
        len(points),
        skins=[{"joints": [1, 2]}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
    )
    picture(tmp_path / "dots.png")
    document.tree["images"] = [{"bufferView": document.view((tmp_path / "dots.png").read_bytes()), "mimeType": "image/png"}]
    document.tree["meshes"][0]["primitives"][0]["material"] = 0
    document.tree["nodes"] = [{"mesh": 0, "skin": 0}, {"name": "lower"}, {"name": "upper", "translation": [0, 0, 5]}]
    document.animate((1, "translation", [0, 1], [[0, 0, 0], [0, 4, 0]], "LINEAR"))
    animated = load_animated(document.save(tmp_path / "a.glb"))
    mesh = animated.mesh
    order = np.argsort(np.linalg.norm(corners(mesh).mean(axis=1) - [9, 8, 7], axis=1))
    lifted = points + upper[:, None] * np.array([0, 0, 5], np.float32)
    truth = lifted[faces.astype(int)]
    expected = np.argsort(np.linalg.norm(truth.mean(axis=1) - [9, 8, 7], axis=1))
    assert np.abs(corners(mesh)[order].mean(axis=1) - truth[expected].mean(axis=1)).max() < 1e-4
    # the same vertex has its own uv and colour still: both are functions of the place
    flat = corners(mesh) - (corners(mesh)[:, :, 2:] > 1.5) * [0, 0, 5]
    assert mesh.corner_uv is not None
    assert np.abs(mesh.corner_uv[:, :, 0] - (flat[:, :, 0] + 1) / 2).max() < 1e-3
    assert np.abs(mesh.corner_uv[:, :, 1] - (1 - (flat[:, :, 1] + 1) / 2)).max() < 1e-3
    linear = (np.round((flat + 1) * 127)) / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert mesh.vertex_colors is not None
    assert np.median(np.abs(mesh.vertex_colors[mesh.faces][:, :, :3] - srgb)) < 1
    later = animated.pose(0, np.array([1.0]))[0] - mesh.vertices
    assert np.allclose(later, np.where(mesh.vertices[:, 2:] > 1.5, 0, [0, 4, 0]))
    high = mesh.vertices[mesh.faces][:, :, 2].min(axis=1) > 1.5
    assert {animated.node_names[n] for n in animated.face_nodes[high]} == {"upper"}


def test_draco_beside_plain_attributes_gives_way_to_them(tmp_path: Path) -> None:
    document = compressed(b"no Draco data", {"POSITION": 0}, {}, 3)
    document.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = document.add(TRIANGLE)
    assert corners(load(document.save(tmp_path / "a.glb"))).tolist() == [TRIANGLE]


@pytest.mark.parametrize("what", ["rubbish", "cut short", "points only", "another width", "an unknown number", "no buffer view"])
def test_draco_data_that_do_not_fit_are_refused(tmp_path: Path, what: str) -> None:
    points, faces = sphere()
    data, ids, accessor = DracoPy.encode(points, faces), {"POSITION": 0}, dict(VEC3)
    assert len(load(compressed(data, ids, {"POSITION": accessor}, len(points)).save(tmp_path / "a.glb")).faces) == len(faces)
    if what == "rubbish":
        data = bytes(range(256)) * 4
    elif what == "cut short":
        data = data[: len(data) // 2]
    elif what == "points only":
        data = DracoPy.encode(points)
    elif what == "another width":
        accessor["type"] = "VEC4"
    elif what == "an unknown number":
        ids["POSITION"] = 3
    document = compressed(data, ids, {"POSITION": accessor}, len(points))
    if what == "no buffer view":
        document.tree["bufferViews"] = []
    assert refused(document.save(tmp_path / "b.glb")).reason == "unreadable"


def test_draco_bytes_changed_at_random_are_refused_or_decoded(tmp_path: Path) -> None:
    points, faces = sphere()
    data = DracoPy.encode(points, faces)
    random = np.random.default_rng(0)
    reasons = set()
    for _ in range(60):
        # the header, which says how much there is, is left alone
        damaged = bytearray(data)
        damaged[random.integers(40, len(data))] ^= random.integers(1, 256)
        path = compressed(bytes(damaged), {"POSITION": 0}, {"POSITION": VEC3}, len(points)).save(tmp_path / "a.glb")
        try:
            load(path)
            reasons.add("usable")
        except Exception as error:
            reasons.add(getattr(error, "reason", repr(error)))
    assert reasons <= {"usable", "unreadable", "too_large"}


def test_only_the_first_buffer_is_the_chunk_of_the_file(tmp_path: Path) -> None:
    document = Document(nodes=[{"mesh": 0}])
    document.mesh(TRIANGLE)
    document.tree["bufferViews"][0]["buffer"] = 1
    path = document.save(tmp_path / "a.glb")
    # the writer names one buffer; a second one of the same length takes its place in the text
    data = path.read_bytes()
    named = b'"buffers": [{"byteLength": 36}]'
    assert named in data
    path.write_bytes(data.replace(named, b'"buffers":[{},{"byteLength":1}]'))
    assert refused(path).reason == "io_error"


@pytest.mark.skipif(not (DATA / "animated").is_dir(), reason="the data set animated is not here")
def test_files_compressed_by_meshopt_are_refused_by_name() -> None:
    found = sorted((DATA / "animated/features/unsupported/meshopt").glob("*.glb"))
    assert len(found) == 3
    for path in found:
        error = refused(path)
        assert error.reason == "unsupported"
        assert "EXT_meshopt_compression" in str(error)


@pytest.mark.skipif(not (DATA / "animated-draco").is_dir(), reason="the data set animated-draco is not here")
def test_compressed_characters_fill_the_boxes_that_their_files_state() -> None:
    for path in sorted((DATA / "animated-draco").glob("characters/*/*.glb"))[::9]:
        slow = Evaluator(path)
        count = 0
        for mesh in slow.tree["meshes"]:
            for primitive in mesh["primitives"]:
                stated = slow.tree["accessors"][primitive["attributes"]["POSITION"]]
                count += slow.tree["accessors"][primitive["indices"]]["count"] // 3
                found = np.array([slow.attribute(primitive, "POSITION", i) for i in range(stated["count"])])
                size = np.linalg.norm(np.subtract(stated["max"], stated["min"]))
                assert np.abs(found.min(axis=0) - stated["min"]).max() < 2e-3 * size
                assert np.abs(found.max(axis=0) - stated["max"]).max() < 2e-3 * size
        assert len(load(path).faces) == count
