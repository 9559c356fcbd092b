"""A mesh as plain arrays, and how a file becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from render.wording import plain

Wrap = Literal["repeat", "clamp", "mirror"]
_MESSAGE_LENGTH = 1000


class MeshError(Exception):
    """A file gives no usable mesh. `reason` is from the closed list of `render.checks.REASONS`; the text is one sentence, `plain`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(plain(message, _MESSAGE_LENGTH))
        self.reason = reason

    def __reduce__(self) -> tuple[type[MeshError], tuple[str, str]]:
        return (type(self), (self.reason, str(self)))


@dataclass(frozen=True)
class Material:
    """What a face is made of. Colours are sRGB-encoded.

    base_color: (4,) float32 in [0, 1], RGBA. texture: (H, W, 4) uint8 or None, row 0 the top of the picture; it is multiplied by
    base_color. uv (0, 0) is the picture's lower left corner (OBJ, OpenGL); wrap holds the modes for u and v.
    """

    name: str = ""
    base_color: npt.NDArray[np.float32] = field(default_factory=lambda: np.array([0.7, 0.7, 0.7, 1.0], np.float32))
    texture: npt.NDArray[np.uint8] | None = None
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")


@dataclass(frozen=True)
class Mesh:
    """Triangles with their looks and labels.

    vertices (V, 3) float64; faces (F, 3) int32; face_material (F,) int32 indexes materials (never empty);
    corner_uv (F, 3, 2) float32; vertex_colors (V, 4) uint8; face_colors (F, 4) uint8; parts (F,) int16 indexes part_names, -1 for none.
    The colour of a point is base_color × texture × (vertex colour or else face colour), each where present.
    flags are warnings from the closed list of `render.checks.FLAGS` (a texture that is missing, ...).
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    materials: tuple[Material, ...]
    face_material: npt.NDArray[np.int32]
    corner_uv: npt.NDArray[np.float32] | None = None
    vertex_colors: npt.NDArray[np.uint8] | None = None
    face_colors: npt.NDArray[np.uint8] | None = None
    parts: npt.NDArray[np.int16] | None = None
    part_names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb", ".gltf")
MAX_FILE_BYTES = 512 * 2**20
MAX_FACES = 5_000_000
MAX_PARTS = 2**15  # their numbers are int16


def load(path: str | Path, *, root: Path | None = None, labels: Path | None = None) -> Mesh:
    """The triangles of an OFF, OBJ, PLY, STL, GLB or glTF file, as they are written: nothing merged, dropped or moved.

    Files that it names (materials, textures, buffers) are read from inside root only: by default the file's folder, or the one above where
    that is called "models", as ShapeNet has it. labels is a file for `read_part_labels`. What is missing is said in the mesh's flags.
    Raises MeshError: io_error, too_large, unsupported, unreadable, empty.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MeshError("unsupported", f"{path}: no mesh format that is read; convert it to one of {', '.join(SUFFIXES)}.")
    with readable(path):
        mesh = _read(path, suffix, folder_of(path) if root is None else root)
    if len(mesh.faces) == 0:
        raise MeshError("empty", f"{path}: no faces in it; give a surface, not points or lines.")
    if len(mesh.faces) > MAX_FACES:
        raise MeshError("too_large", f"{path}: {len(mesh.faces)} faces, more than the {MAX_FACES} that are read; simplify it.")
    if labels is None:
        return mesh
    parts, names = read_part_labels(labels, len(mesh.faces))
    return replace(mesh, parts=parts, part_names=names)


def folder_of(path: Path) -> Path:
    """What a file may name files of, unless it is told: its folder, or the one above where that is called "models"."""
    return path.parent.parent if path.parent.name == "models" else path.parent


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Looks at the size of a file before it is read, and makes MeshErrors of what reading it runs into."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // 2**20
            raise MeshError("too_large", f"{path}: {size / 2**20:.0f} MiB, more than the {limit} MiB that are read; simplify it.")
        if size == 0:
            raise MeshError("empty", f"{path}: the file has no bytes; fetch it again.")
        yield
    except OSError as error:
        raise MeshError("io_error", f"{path}: {error.strerror or error}; see that the file is there and may be read.") from error
    except MemoryError as error:
        raise MeshError("out_of_memory", f"{path}: not enough memory to read it; simplify the mesh.") from error


def _read(path: Path, suffix: str, root: Path) -> Mesh:
    # The readers need the names above, and a process that only handles meshes in memory needs none of them.
    if suffix == ".off":
        from render.meshes_off import read_off

        return read_off(path)
    if suffix == ".obj":
        from render.meshes_obj import read_obj

        return read_obj(path, root)
    if suffix in (".glb", ".gltf"):
        from render.meshes_gltf import read_gltf

        return read_gltf(path, root)
    from render.meshes_trimesh import read_with_trimesh

    return read_with_trimesh(path)


def read_part_labels(path: str | Path, faces: int) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
    """Part labels in the form of the labelled Princeton Segmentation Benchmark: parts (faces,) int16 and their names in the file's order.

    The file is pairs of lines, a part's name and its faces' numbers from 1 on. Faces that it leaves out are −1.
    Raises MeshError: io_error; unreadable where a number is none of a face; too_large above MAX_PARTS.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise MeshError("io_error", f"{path}: {error.strerror or error}; see that the label file is there and may be read.") from error
    while lines and not lines[-1]:
        lines.pop()
    parts = np.full(faces, -1, np.int16)
    part_of: dict[str, int] = {}
    for number in range(0, len(lines), 2):
        name, members = plain(lines[number]), lines[number + 1] if number + 1 < len(lines) else ""
        try:
            places = np.array(members.split(), np.int64) - 1
        except (ValueError, OverflowError):
            raise MeshError("unreadable", f"{path}: line {number + 2} should hold face numbers of part {name!r}.") from None
        if len(places) and not 0 <= places.min() <= places.max() < faces:
            raise MeshError("unreadable", f"{path}: line {number + 2} names a face outside 1 to {faces}; the labels are of another mesh.")
        part_of.setdefault(name, len(part_of))
        if len(part_of) > MAX_PARTS:
            raise MeshError("too_large", f"{path}: more than {MAX_PARTS} parts, which cannot be numbered; join some.")
        parts[places] = part_of[name]
    return parts, tuple(part_of)
