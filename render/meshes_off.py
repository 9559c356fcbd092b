"""OFF files: ASCII, with polygons, comments, and colours of vertices or faces."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from render.meshes import MAX_FACES, Material, Mesh, MeshError
from render.polygons import triangulate
from render.scan import repair, scan_off

# ModelNet has files whose counts follow the keyword without a blank: OFF490 518 0.
_HEADER = re.compile(rb"\s*(?:#[^\n]*\s+)*(ST)?(C)?(N)?(4)?(n)?OFF(?=[\s\d#]|$)[ \t]*(BINARY)?")
_COUNT = re.compile(rb"(?:\s|#[^\n]*(?:\n|$))*(\d+)(?=[\s#]|$)")


def read_off(path: Path) -> Mesh:
    """The mesh of an ASCII OFF, COFF, NOFF or STOFF file; extra numbers of a line colours where 3 or 4 fit."""
    text = path.read_bytes()
    header = _HEADER.match(text)
    if header is None:
        raise MeshError("unreadable", f"{path}: the file does not begin with OFF; see that it is an OFF file.")
    textured, colored, normals, four, many, binary = (group is not None for group in header.groups())
    if binary or four or many:
        raise MeshError("unsupported", f"{path}: binary and higher-dimensional OFF is not read; convert it to ASCII OFF or PLY.")
    place = header.end()
    counts = []
    for _ in range(3):
        match = _COUNT.match(text, place)
        if match is None:
            break
        counts.append(int(match[1]))
        place = match.end()
    if len(counts) < 3:
        raise MeshError("unreadable", f"{path}: after OFF the numbers of vertices, faces and edges should follow.")
    # A vertex takes at least six bytes and a face four: what cannot be there is not allocated.
    if counts[0] * 6 > len(text) + 6 or counts[1] * 2 > len(text) + 6:
        raise MeshError("unreadable", f"{path}: the file is shorter than its {counts[0]} vertices and {counts[1]} faces; fetch it again.")
    if counts[1] > MAX_FACES:
        raise MeshError("too_large", f"{path}: {counts[1]} faces, more than the {MAX_FACES} that are read; simplify it.")
    rows, starts, corners, colors, color_counts, slow, error = scan_off(np.frombuffer(text, np.uint8), place, counts[0], counts[1])
    bad = error - 1 if error else repair(rows.reshape(-1), text, slow)
    if bad >= 0:
        if not text[bad:].strip():
            raise MeshError("unreadable", f"{path}: the file ends before its {counts[0]} vertices and {counts[1]} faces; fetch it again.")
        line = text.count(b"\n", 0, bad) + 1
        raise MeshError("unreadable", f"{path}: line {line} is no vertex or face of an OFF file.")
    vertices = np.ascontiguousarray(rows[:, :3])
    triangles, polygons = triangulate(vertices, corners, starts)
    first = 3 + 3 * normals
    width = int(rows[0, 11]) - first - 2 * textured if len(rows) else 0
    vertex_colors = None
    if width in (3, 4) and (colored or not normals) and (rows[:, 11] == rows[0, 11]).all():
        vertex_colors = _colors(rows[:, first : first + width])
    face_colors = None
    if len(color_counts) and color_counts[0] in (3, 4) and (color_counts == color_counts[0]).all():
        face_colors = _colors(colors[:, : color_counts[0]])[polygons]
    return Mesh(
        vertices=vertices,
        faces=corners[triangles],
        materials=(Material(),) if vertex_colors is None and face_colors is None else (Material(base_color=np.ones(4, np.float32)),),
        face_material=np.zeros(len(triangles), np.int32),
        vertex_colors=vertex_colors,
        face_colors=face_colors,
    )


def _colors(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """(n, 3 or 4) numbers, 0 to 255 or all within 0 to 1, as (n, 4) uint8."""
    # Whole numbers of at most 1 stay ambiguous; as a share of white they give what their writer saw.
    scaled = values * 255 if values.max() <= 1 else values
    result = np.full((len(values), 4), 255, np.uint8)
    result[:, : values.shape[1]] = np.clip(np.floor(np.nan_to_num(scaled) + 0.5), 0, 255)
    return result
