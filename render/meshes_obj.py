"""Wavefront OBJ files with their material libraries and textures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from render.checks import Flag
from render.meshes import MAX_FACES, Material, Mesh, MeshError, Wrap
from render.polygons import triangulate
from render.scan import repair, scan_obj, scan_obj_counts
from render.textures import find_inside, read_picture
from render.wording import plain

_CONTINUED = re.compile(rb"\\\r?\n")
# Options of a map statement and how many values each takes; -o, -s and -t take one to three.
_MAP_OPTIONS = {"-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2, "-texres": 1, "-type": 1}


@dataclass
class _Look:
    """A material as its library says it, before its texture is read."""

    color: tuple[float, float, float] = (0.7, 0.7, 0.7)
    alpha: float = 1.0
    texture: str = ""
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")


@dataclass
class _Textures:
    """The pictures of the object at a path: each is read once, whatever number of materials name it."""

    object: Path
    root: Path
    flags: list[Flag]
    read: dict[Path, npt.NDArray[np.uint8] | None] = field(default_factory=dict)

    def get(self, name: str, folder: Path) -> npt.NDArray[np.uint8] | None:
        path = find_inside(name, folder, self.root)
        if path is None:
            self.flags.append("texture_missing")
            return None
        if path not in self.read:
            self.read[path] = read_picture(path, f"{self.object}, texture {plain(name, 100)}")
        if self.read[path] is None:
            self.flags.append("texture_unreadable")
        return self.read[path]


def read_obj(path: Path, root: Path) -> Mesh:
    """The mesh of an OBJ file: one material for each name in use, three more numbers of a vertex its colour.

    Kd counts as sRGB; a texture (map_Kd) takes its place, as in most exporters' intention, who leave any Kd beside it.
    """
    text = path.read_bytes()
    if b"\\" in text:
        text = _CONTINUED.sub(b" ", text)
    data = np.frombuffer(text, np.uint8)
    limits = scan_obj_counts(data)
    if limits[3] > 8 * MAX_FACES:
        raise MeshError("too_large", f"{path}: {limits[2]} faces, more than the {MAX_FACES} that are read; simplify it.")
    rows, uvs, starts, corners, others, slow_rows, slow_uvs, error = scan_obj(data, *limits)
    bad = error - 1 if error else max(repair(rows.reshape(-1), text, slow_rows), repair(uvs.reshape(-1), text, slow_uvs))
    if bad >= 0:
        line = text.count(b"\n", 0, bad) + 1
        raise MeshError("unreadable", f"{path}: line {line} is not what OBJ writes for a vertex or a face; write the file again.")
    flags: list[Flag] = []
    names, used_from, libraries = _statements(text, others, flags)
    vertices = np.ascontiguousarray(rows[:, :3])
    triangles, polygons = triangulate(vertices, np.ascontiguousarray(corners[:, 0]), starts)
    looks, folders = _libraries(libraries, path, root, flags)
    # The material in force at a polygon is the last one named before it; −1 stands for none named yet.
    distinct = {name: number for number, name in enumerate(dict.fromkeys(names))}
    statement = np.searchsorted(used_from, np.arange(len(starts) - 1), side="right")
    material_of_polygon = np.array([-1, *(distinct[name] for name in names)])[statement]
    in_use, face_material = np.unique(material_of_polygon[polygons], return_inverse=True)
    textures = _Textures(path, root, flags)
    materials = []
    for number in in_use.tolist():
        name = list(distinct)[number] if number >= 0 else ""
        if name and name not in looks:
            flags.append("material_missing")
        materials.append(_material(name, looks.get(name, _Look()), folders.get(name, path.parent), textures))
    corner_uv = None
    if len(uvs) and any(material.texture is not None for material in materials):
        corner_uv, lacking = _corner_uv(uvs, corners[triangles, 1])
        textured = np.array([material.texture is not None for material in materials])
        if lacking[textured[face_material]].any():
            flags.append("uv_missing")
    elif any(material.texture is not None for material in materials):
        flags.append("uv_missing")
    colored = len(rows) > 0 and (rows[:, 7] == 6).all()
    return Mesh(
        vertices=vertices,
        faces=corners[triangles, 0],
        materials=tuple(materials) or (Material(),),
        face_material=face_material.astype(np.int32),
        corner_uv=corner_uv,
        vertex_colors=_vertex_colors(rows[:, 3:6]) if colored else None,
        flags=tuple(dict.fromkeys(flags)),
    )


def _statements(text: bytes, others: npt.NDArray[np.int64], flags: list[Flag]) -> tuple[list[str], list[int], list[str]]:
    """Names of usemtl, the polygon from which each holds, and the names of material libraries."""
    names: list[str] = []
    used_from: list[int] = []
    libraries: list[str] = []
    for start, end, before in others.tolist():
        if text[start] not in b"umlp":
            continue
        keyword, _, rest = text[start:end].decode("utf-8", "replace").partition(" ")
        if keyword == "usemtl":
            names.append(rest.strip())
            used_from.append(before)
        elif keyword == "mtllib":
            libraries.append(rest.strip())
        elif keyword in ("l", "p"):
            flags.append("lines_ignored")
    return names, used_from, libraries


def _libraries(names: list[str], path: Path, root: Path, flags: list[Flag]) -> tuple[dict[str, _Look], dict[str, Path]]:
    """The materials of all libraries, and the folder that each one's texture names start from."""
    looks: dict[str, _Look] = {}
    folders: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        # The statement takes several names, and names with blanks are written too.
        whole = find_inside(name, path.parent, root)
        found = [whole] if whole is not None else [find_inside(part, path.parent, root) for part in name.split()]
        for library in found:
            if library is None:
                flags.append("material_missing")
                continue
            read = _read_library(library)
            looks.update(read)
            folders.update(dict.fromkeys(read, library.parent))
    return looks, folders


def _read_library(path: Path) -> dict[str, _Look]:
    looks: dict[str, _Look] = {}
    look = _Look()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        values = rest.split()
        if keyword == "newmtl":
            look = looks[rest] = _Look()
        elif keyword == "Kd":
            look.color = _color(values, look.color)
        elif keyword == "d":
            look.alpha = _share(values[-1:], 1.0)
        elif keyword == "Tr":
            look.alpha = 1 - _share(values[-1:], 0.0)
        elif keyword.lower() == "map_kd":
            look.texture, look.wrap = _map_statement(rest)
    return looks


def _color(values: list[str], default: tuple[float, float, float]) -> tuple[float, float, float]:
    try:
        numbers = [float(value) for value in values[:3]]
    except ValueError:
        return default
    if not numbers or not np.isfinite(numbers).all():
        return default
    red, green, blue = (numbers * 3)[:3] if len(numbers) < 3 else numbers
    return red, green, blue


def _share(values: list[str], default: float) -> float:
    try:
        return min(max(float(values[0]), 0.0), 1.0)
    except (ValueError, IndexError):
        return default


def _map_statement(rest: str) -> tuple[str, tuple[Wrap, Wrap]]:
    """The file of a map statement behind its options, blanks in its name kept, and how it wraps."""
    words = rest.split(" ")
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    at = 0
    while at < len(words) - 1 and words[at].startswith("-"):
        option = words[at].lower()
        if option in ("-o", "-s", "-t"):
            at += 1
            taken = 0
            while taken < 3 and at < len(words) - 1 and _is_number(words[at]):
                at += 1
                taken += 1
        elif option in _MAP_OPTIONS:
            if option == "-clamp" and words[at + 1].lower() == "on":
                wrap = ("clamp", "clamp")
            at += 1 + _MAP_OPTIONS[option]
        else:
            break
    return " ".join(words[at:]).strip().strip('"'), wrap


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _material(name: str, look: _Look, folder: Path, textures: _Textures) -> Material:
    texture = textures.get(look.texture, folder) if look.texture else None
    color = (1.0, 1.0, 1.0) if texture is not None else look.color
    return Material(name, np.clip(np.array([*color, look.alpha], np.float32), 0, 1), texture, look.wrap)


def _corner_uv(uvs: npt.NDArray[np.float64], numbers: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """uv (F, 3, 2) of corners' numbers (F, 3), 0 where there is none, and the faces that lack any."""
    missing = (numbers < 0) | (numbers >= len(uvs))
    corner_uv = uvs.astype(np.float32)[np.where(missing, 0, numbers)]
    corner_uv[missing] = 0
    return corner_uv, np.any(missing, axis=1, keepdims=False)


def _vertex_colors(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """(V, 3) numbers, 0 to 1 or in some files 0 to 255, as (V, 4) uint8."""
    scaled = values if values.max() > 1 else values * 255
    result = np.full((len(values), 4), 255, np.uint8)
    result[:, :3] = np.clip(np.floor(np.nan_to_num(scaled) + 0.5), 0, 255)
    return result
