"""OBJ files with their libraries and textures, whole, scattered and broken."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from render.meshes import MeshError, load
from render.surface import colors_at
from tests.render.mesh_files import corners, picture, refused, write

DATA = Path(__file__).parents[2] / ".data"


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
    # a folder that is a link is named as it was given
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(MeshError, match=r"bomb\.png: the texture has more than") as caught:
        load(tmp_path / "link/thing.obj")
    assert str(caught.value).startswith(str(tmp_path / "link/thing.obj"))
    assert str(caught.value).count(str(tmp_path)) == 1


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
