"""Mesh files of every format, whole and broken: what comes out, and which sentence where nothing can."""

import base64
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from render.checks import FLAGS, REASONS
from render.meshes import Mesh, MeshError, load, read_part_labels
from render.surface import colors_at

DATA = Path(__file__).parents[2] / ".data"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path, **options: object) -> MeshError:
    with pytest.raises(MeshError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    error = caught.value
    assert error.reason in REASONS
    text = str(error)
    assert str(path) in text or "labels" in text
    assert text.endswith(".")
    assert "\n" not in text
    return error


def corners(mesh: Mesh) -> np.ndarray:
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == mesh.face_material.dtype == np.int32
    assert len(mesh.face_material) == len(mesh.faces)
    assert 0 <= mesh.face_material.min() <= mesh.face_material.max() < len(mesh.materials)
    assert set(mesh.flags) <= set(FLAGS)
    return mesh.vertices[mesh.faces]


SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"


# OFF


@pytest.mark.parametrize(
    "text",
    [
        "OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0 2 3\n",
        "OFF\n4 1 0\n" + SQUARE + "4 0 1 2 3\n",
        "OFF 4 1 0\n" + SQUARE + "4 0 1 2 3",
        "OFF4 1 0\n" + SQUARE + "4 0 1 2 3\n",
        "# a comment\nOFF # more\n# and more\n4 1 0 # counts\n\n" + SQUARE.replace("\n", " # v\n\n") + "# faces\n4\t0 1 2 3 # f\n",
        "OFF\r\n4 1 0\r\n" + SQUARE.replace("\n", "\r\n") + "4 0 1 2 3\r\n",
        "OFF\n4 1 0\n+0 -0 0.\n1e0 0.0E+5 .0\n10e-1 1.0000000000000000000000001 0\n  0 1 0\n4 0 1 2 3\n",
        "4 1 0\n".join(["OFF\n", SQUARE + "4  0  1  2  3 255 0 0\n"]),
    ],
    ids=["triangles", "polygon", "one line header", "modelnet header", "comments", "crlf", "numbers", "coloured"],
)
def test_off_in_all_its_spellings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "square.off"
    path.write_bytes(text.encode())
    assert corners(load(path)).tolist() == [[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]]


def test_off_numbers_are_the_nearest_doubles(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = np.concatenate((random.normal(size=300) * 10.0 ** random.integers(-300, 300, 300), random.normal(size=300)))
    spelled = [
        f"{value:.{digits}{kind}}"
        for value, digits, kind in zip(values, random.integers(1, 20, 600), random.choice(["g", "e"], 600), strict=True)
    ]
    rows = "\n".join(" ".join(spelled[i : i + 3]) for i in range(0, 600, 3))
    mesh = load(write(tmp_path / "numbers.off", f"OFF\n200 1 0\n{rows}\n3 0 1 2\n"))
    assert mesh.vertices.reshape(-1).tolist() == [float(text) for text in spelled]


def test_off_colors_of_vertices_and_faces(tmp_path: Path) -> None:
    vertex = load(write(tmp_path / "v.off", "COFF\n3 1 0\n0 0 0 255 0 0 255\n1 0 0 0 255 0 255\n0 1 0 0 0 255 128\n3 0 1 2\n"))
    assert vertex.vertex_colors is not None
    assert vertex.vertex_colors.tolist() == [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 128]]
    assert vertex.materials[0].base_color.tolist() == [1, 1, 1, 1]
    face = load(write(tmp_path / "f.off", "OFF\n4 2 0\n" + SQUARE + "4 0 1 2 3 0.5 0 1\n3 0 1 2 1.0 0.0 0.0\n"))
    assert face.face_colors is not None
    assert face.face_colors.tolist() == [[128, 0, 255, 255]] * 2 + [[255, 0, 0, 255]]


def test_off_normals_are_no_colors(tmp_path: Path) -> None:
    mesh = load(write(tmp_path / "n.off", "NOFF\n3 1 0\n0 0 0 0 0 1\n1 0 0 0 0 1\n0 1 0 0 0 1\n3 0 1 2\n"))
    assert mesh.vertex_colors is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0", "unreadable"),
        ("OFF\n4 2 0\n0 0 0\n1 0", "unreadable"),
        ("OFF\n4 1 0\n" + SQUARE.replace("1 1 0", "1 x 0") + "4 0 1 2 3\n", "unreadable"),
        ("OFF\n4 1 0\n" + SQUARE + "4 0 one 2 3\n", "unreadable"),
        ("OFF\n4000000000 900000000 0\n" + SQUARE, "unreadable"),
        ("OFF\n-4 1 0\n" + SQUARE, "unreadable"),
        ("OFF\n", "unreadable"),
        ("ply\nformat ascii 1.0\n", "unreadable"),
        ("OFF BINARY\n", "unsupported"),
        ("4OFF\n1 1 1\n", "unsupported"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "empty"),
        ("OFF\n2 1 0\n0 0 0\n1 0 0\n2 0 1\n", "empty"),
    ],
)
def test_off_that_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert refused(write(tmp_path / "bad.off", text)).reason == reason


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    assert "line 5 " in str(refused(write(tmp_path / "bad.off", "OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 zero\n0 1 0\n4 0 1 2 3\n")))


@pytest.mark.skipif(not (DATA / "psb").exists(), reason="needs the Princeton Shape Benchmark")
def test_off_agrees_with_trimesh_on_real_files() -> None:
    files = sorted((DATA / "psb").glob("t*/*/*.off"))[::100] + sorted((DATA / "lpsb").glob("*/*.off"))[::60]
    for path in files:
        theirs = trimesh.load_mesh(path, process=False)
        ours = load(path)
        assert np.array_equal(ours.vertices, theirs.vertices)
        assert np.array_equal(ours.faces, theirs.faces)


# OBJ

MTL = "newmtl red\nKd 1 0 0\nd 0.5\n\nnewmtl pattern\nKd 0 0 0\nmap_Kd {texture}\n"
OBJ = """# a square and a triangle
mtllib looks.mtl
o thing
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0.25 0.25
vt 0.75 0.25
vt 0.75 0.75
vn 0 0 1
usemtl red
f 1//1 2//1 3//1 4//1
usemtl pattern
f -4/-3 -3/-2/1 \\
  -2/-1
"""


def picture(path: Path) -> np.ndarray:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0], pixels[1, 1] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 80, 70)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_obj_with_two_materials_and_a_texture(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture="dots.png"))
    pixels = picture(tmp_path / "dots.png")
    mesh = load(path)
    assert corners(mesh).tolist() == [
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
        [[0, 0, 0], [1, 1, 0], [0, 1, 0]],
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
    ]
    assert mesh.flags == ()
    red, pattern = (mesh.materials[mesh.face_material[face]] for face in (0, 2))
    assert (red.name, red.base_color.tolist(), red.texture) == ("red", [1, 0, 0, 0.5], None)
    # the exporter's black beside the texture does not blacken it
    assert pattern.base_color.tolist() == [1, 1, 1, 1]
    assert pattern.texture is not None
    assert np.array_equal(pattern.texture[..., :3], pixels)
    assert mesh.corner_uv is not None
    assert mesh.corner_uv[2].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]]
    # the first corner is at the picture's lower left
    assert colors_at(mesh, np.array([2, 2, 2]), np.eye(3)).tolist() == [[0, 0, 255], [90, 80, 70], [0, 255, 0]]


def test_a_texture_beside_the_models_folder_is_found_as_in_shapenet(tmp_path: Path) -> None:
    path = write(tmp_path / "1a2b" / "models" / "model.obj", OBJ)
    write(tmp_path / "1a2b" / "models" / "looks.mtl", MTL.format(texture="../images/dots.png"))
    picture(tmp_path / "1a2b" / "images" / "dots.png")
    assert load(path).flags == ()


def test_a_texture_outside_the_root_is_missing_unless_the_root_is_wider(tmp_path: Path) -> None:
    path = write(tmp_path / "object" / "thing.obj", OBJ)
    write(tmp_path / "object" / "looks.mtl", MTL.format(texture="../dots.png"))
    picture(tmp_path / "dots.png")
    mesh = load(path)
    assert mesh.flags == ("texture_missing",)
    assert all(material.texture is None for material in mesh.materials)
    assert load(path, root=tmp_path).flags == ()
    (tmp_path / "object" / "link.png").symlink_to(tmp_path / "dots.png")
    write(tmp_path / "object" / "looks.mtl", MTL.format(texture="link.png"))
    assert load(path).flags == ("texture_missing",)


@pytest.mark.parametrize("name", ["/etc/hostname", "C:\\Users\\someone\\dots.png", "absent.png"])
def test_a_missing_texture_is_flagged_and_the_color_stays(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture=name).replace("Kd 0 0 0", "Kd 0.25 0.5 0.75"))
    mesh = load(path)
    assert mesh.flags == ("texture_missing",)
    assert mesh.materials[mesh.face_material[2]].base_color.tolist() == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    "name",
    ["Dots.PNG", ".\\dots.png", "C:\\Users\\someone\\dots.png", "-s 2 2 1 -o 0.5 dots.png", "-clamp on -bm 1.0 dots.png", "  dots.png  "],
)
def test_texture_names_of_other_computers_are_understood(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture=name))
    picture(tmp_path / "dots.png")
    mesh = load(path)
    assert mesh.flags == ()
    assert mesh.materials[mesh.face_material[2]].wrap == (("clamp", "clamp") if "clamp" in name else ("repeat", "repeat"))


def test_a_texture_with_blanks_in_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture="my dots.png"))
    picture(tmp_path / "my dots.png")
    assert load(path).flags == ()


def test_a_broken_picture_is_flagged(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture="dots.png"))
    picture(tmp_path / "dots.png")
    whole = (tmp_path / "dots.png").read_bytes()
    (tmp_path / "dots.png").write_bytes(whole[: len(whole) // 2])
    assert load(path).flags == ("texture_unreadable",)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    write(tmp_path / "looks.mtl", MTL.format(texture="bomb.png"))
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MeshError) as caught:
        load(path)
    assert caught.value.reason == "too_large"


def test_missing_libraries_and_materials_are_flagged(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ)
    assert load(path).flags == ("material_missing",)
    write(tmp_path / "looks.mtl", "newmtl red\nKd 1 0 0\n")
    mesh = load(path)
    assert mesh.flags == ("material_missing",)
    assert {material.name for material in mesh.materials} == {"red", "pattern"}


def test_textured_faces_without_coordinates_are_flagged(tmp_path: Path) -> None:
    path = write(tmp_path / "thing.obj", OBJ.replace("usemtl red", "usemtl pattern"))
    write(tmp_path / "looks.mtl", MTL.format(texture="dots.png"))
    picture(tmp_path / "dots.png")
    assert load(path).flags == ("uv_missing",)


def test_obj_vertex_colors_lines_and_faces_before_any_material(tmp_path: Path) -> None:
    mesh = load(write(tmp_path / "a.obj", "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 0.5\nl 1 2\nf 1 2 3\nf 3 2\n"))
    assert mesh.vertex_colors is not None
    assert mesh.vertex_colors[:, :3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 128]]
    assert mesh.flags == ("lines_ignored",)
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_a_corner_that_does_not_exist_survives_as_invalid(tmp_path: Path) -> None:
    mesh = load(write(tmp_path / "a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nf 1 2 9\nf 1 2 -7\nf 0 1 2\n"))
    inside = (mesh.faces >= 0) & (mesh.faces < 3)
    assert inside.all(axis=1).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v 0 0 0\nv 1 0 0\n", "empty"),
        ("# nothing\n", "empty"),
        ("v 0 0 0\nl 1 1\n", "empty"),
        ("v 0 0\nv 1 0 0\nf 1 2 1\n", "unreadable"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf a b c\n", "unreadable"),
        ("v 0 0 0\nv 1 zero 0\nv 0 1 0\nf 1 2 3\n", "unreadable"),
    ],
)
def test_obj_that_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert refused(write(tmp_path / "bad.obj", text)).reason == reason


@pytest.mark.skipif(not (DATA / "sh3d").exists(), reason="needs the furniture of Sweet Home 3D")
def test_obj_agrees_with_trimesh_on_real_files() -> None:
    for path in sorted((DATA / "sh3d").glob("*/*/*.obj"))[::40]:
        scene = trimesh.load_scene(path, process=False)
        theirs = np.concatenate([part.triangles for part in scene.geometry.values() if hasattr(part, "faces")])
        ours = corners(load(path))
        # trimesh sorts faces by material and cuts every polygon into a fan. Whatever the cut, triangles add up to the vector area of the
        # polygon's border; a fan of a polygon that is not convex overlaps itself, so its area may be larger but never smaller.
        assert len(ours) == len(theirs)
        low = ours.reshape(-1, 3).min(axis=0)
        ours, theirs = ours - low, theirs - low
        vectors = [np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (ours, theirs)]
        areas = [np.linalg.norm(vector, axis=1).sum() for vector in vectors]
        assert areas[0] < areas[1] * (1 + 1e-5)
        assert areas[0] > areas[1] * 0.98
        assert np.abs(vectors[0].sum(axis=0) - vectors[1].sum(axis=0)).max() < 1e-5 * areas[0]


# PLY and STL


def test_ply_with_vertex_colors(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    header += (
        "".join(f"property uchar {part}\n" for part in ("red", "green", "blue"))
        + "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = "0 0 0 4 0 0\n1 0 0 123 0 0\n1 1 0 185 0 0\n0 1 0 9 9 9\n4 0 1 2 3\n"
    mesh = load(write(tmp_path / "a.ply", header + rows))
    a, b, c = corners(mesh).transpose(1, 0, 2)
    assert np.cross(b - a, c - a).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert mesh.vertex_colors is not None
    assert mesh.vertex_colors.tolist() == [[4, 0, 0, 255], [123, 0, 0, 255], [185, 0, 0, 255], [9, 9, 9, 255]]
    assert mesh.materials[0].base_color.tolist() == [1, 1, 1, 1]


def test_ply_and_stl_as_trimesh_writes_them(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(2)
    for name in ("ball.ply", "ball.stl"):
        ball.export(tmp_path / name)
        mesh = load(tmp_path / name)
        assert mesh.vertex_colors is None
        assert np.allclose(corners(mesh), ball.triangles, atol=1e-6)


def test_text_stl(tmp_path: Path) -> None:
    text = "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid a\n"
    assert corners(load(write(tmp_path / "a.stl", text))).tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize("suffix", [".ply", ".stl"])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_files_cut_short_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole = trimesh.creation.icosphere(2).export(file_type=suffix[1:])
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path).reason in ("unreadable", "empty")


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply", ".stl", ".glb", ".gltf"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 100, bytes(range(256)) * 4, b"OFF\nobj ply solid {}"])
def test_rubbish_is_refused_in_every_format(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"rubbish{suffix}"
    path.write_bytes(content)
    assert refused(path).reason in ("unreadable", "empty", "unsupported")


# glTF


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
    for extension in ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu"):
        error = refused(glb(tmp_path / "a.glb", *document(TRIANGLE, extensionsRequired=[extension], extensionsUsed=[extension])))
        assert error.reason == "unsupported"
        assert extension in str(error)
    assert len(load(glb(tmp_path / "b.glb", *document(TRIANGLE, extensionsRequired=["KHR_materials_unlit"]))).faces) == 1


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


# What holds for all


def test_absent_files_folders_and_formats(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.off").reason == "io_error"
    (tmp_path / "folder.obj").mkdir()
    assert refused(tmp_path / "folder.obj").reason == "io_error"
    assert refused(write(tmp_path / "scene.blend", "BLENDER")).reason == "unsupported"


def test_files_above_the_caps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.off", "OFF\n4 1 0\n" + SQUARE + "4 0 1 2 3\n")
    monkeypatch.setattr("render.meshes.MAX_FILE_BYTES", 10)
    assert refused(path).reason == "too_large"
    monkeypatch.undo()
    monkeypatch.setattr("render.meshes.MAX_FACES", 1)
    assert refused(path).reason == "too_large"


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MeshError("empty", "a.off: nothing in it.")))
    assert (error.reason, str(error)) == ("empty", "a.off: nothing in it.")


def test_part_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.off", "OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0 2 3\n")
    labels = write(tmp_path / "a_labels.txt", "wing\n2 \nbody\n1\n")
    mesh = load(path, labels=labels)
    assert mesh.part_names == ("wing", "body")
    assert mesh.parts is not None
    assert mesh.parts.tolist() == [1, 0]
    assert read_part_labels(labels, 4)[0].tolist() == [1, 0, -1, -1]
    write(labels, "wing\n3\n")
    assert refused(path, labels=labels).reason == "unreadable"
    write(labels, "wing\none\n")
    assert refused(path, labels=labels).reason == "unreadable"
    assert refused(path, labels=tmp_path / "no labels.txt").reason == "io_error"


@pytest.mark.skipif(not (DATA / "lpsb").exists(), reason="needs the labelled Princeton Segmentation Benchmark")
def test_every_face_of_the_labelled_benchmark_has_a_part() -> None:
    for path in sorted((DATA / "lpsb").glob("*/*.off"))[::40]:
        mesh = load(path, labels=path.with_name(f"{path.stem}_labels.txt"))
        assert mesh.parts is not None
        assert set(mesh.parts.tolist()) == set(range(len(mesh.part_names)))
