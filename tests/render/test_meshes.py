"""Mesh files of every format, whole and broken: what comes out, and which sentence where nothing can."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import trimesh

from render.meshes import MeshError, load, read_part_labels
from tests.render.mesh_files import corners, refused, write

DATA = Path(__file__).parents[2] / ".data"


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
    labels.write_text("".join(f"part {number}\n\n" for number in range(2**15 + 1)))
    assert refused(path, labels=labels).reason == "too_large"


@pytest.mark.skipif(not (DATA / "lpsb").exists(), reason="needs the labelled Princeton Segmentation Benchmark")
def test_every_face_of_the_labelled_benchmark_has_a_part() -> None:
    for path in sorted((DATA / "lpsb").glob("*/*.off"))[::40]:
        mesh = load(path, labels=path.with_name(f"{path.stem}_labels.txt"))
        assert mesh.parts is not None
        assert set(mesh.parts.tolist()) == set(range(len(mesh.part_names)))
