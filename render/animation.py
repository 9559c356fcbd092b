"""Meshes that move: the clips of a glTF file, and where its vertices are at any time of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from render.gltf import Document, open_document, whole
from render.keyframes import Channels, drive, read_channels, read_span
from render.meshes import Mesh, MeshError, folder_of, load, readable
from render.meshes_gltf import Piece, join, read_pieces
from render.skinning import Nodes, place, read_nodes
from render.wording import plain

Floats = npt.NDArray[np.float64]
Pose = Callable[[int | None, Floats], Floats]

_SUFFIXES = (".glb", ".gltf")


@dataclass(frozen=True)
class Clip:
    """An animation of a file: from its first key to its last, over all its channels, in seconds; 0 where its keys are damaged, which posing
    it says. name is "" where it has none."""

    name: str
    start_s: float
    duration_s: float


@dataclass(frozen=True)
class Animated:
    """A mesh and how it moves.

    mesh is in its default pose, without parts. node_names: the joints of its skins and the nodes that carry rigid pieces, as the file
    orders them; face_nodes (F,) int32 indexes them: the node that moves most of a face (the largest sum of its corners' weights; of equals
    the skin's earlier joint), −1 where nothing is known of nodes. pose(clip, times (T,) in seconds) gives the vertices (T, V, 3) float64
    of clip number `clip` at absolute times, each channel held at its first and last key beyond them; of the default pose where clip is
    None. It raises MeshError where the clip is damaged, IndexError where there is none of that number.
    """

    mesh: Mesh
    clips: tuple[Clip, ...]
    node_names: tuple[str, ...]
    face_nodes: npt.NDArray[np.int32]
    pose: Pose


def load_animated(path: str | Path, *, root: Path | None = None) -> Animated:
    """A glTF or GLB file with its clips; of another format the mesh alone, `still`. Vertices and faces are those of `render.meshes.load`.

    Raises MeshError as `load` does; a damaged clip is found out when it is posed.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        return still(load(path, root=root))
    with readable(path):
        document = open_document(path, folder_of(path) if root is None else root)
        with whole(path):
            nodes = read_nodes(document)
            pieces = read_pieces(document, nodes)
            mesh = join(document, nodes, pieces)
            names, face_nodes = _face_nodes(document, nodes, pieces)
            return Animated(mesh, _clips(document), names, face_nodes, _poser(document, nodes, pieces))


def list_clips(path: str | Path, *, root: Path | None = None) -> tuple[Clip, ...]:
    """The clips of a file without its geometry; none where its format has no clips. Raises MeshError as `load` does."""
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        return ()
    with readable(path):
        document = open_document(path, folder_of(path) if root is None else root)
        with whole(path):
            return _clips(document)


def still(mesh: Mesh) -> Animated:
    """A mesh that does not move: no clip, every pose the same; its parts, where it has any, stand for nodes."""
    vertices = mesh.vertices

    def pose(clip: int | None, times: Floats) -> Floats:
        _check(clip, times, 0)
        return np.repeat(vertices[None], len(times), axis=0)

    face_nodes = np.full(len(mesh.faces), -1, np.int32) if mesh.parts is None else mesh.parts.astype(np.int32)
    return Animated(replace(mesh, parts=None, part_names=()), (), mesh.part_names, face_nodes, pose)


def _clips(document: Document) -> tuple[Clip, ...]:
    clips = []
    for number, animation in enumerate(document.tree.get("animations", [])):
        try:
            with whole(document.path):
                first, last = read_span(document, number)
        except MeshError:
            first = last = 0.0
        clips.append(Clip(plain(animation.get("name", "")), first, last - first))
    return tuple(clips)


def _poser(document: Document, nodes: Nodes, pieces: list[Piece]) -> Pose:
    shapes = [piece.shape for piece in pieces]
    count = len(document.tree.get("animations", []))
    parsed: dict[int, Channels] = {}

    def pose(clip: int | None, times: Floats) -> Floats:
        times = _check(clip, times, count)
        states = np.tile(nodes.rest, (len(times), 1))
        if clip is not None:
            if clip not in parsed:
                with readable(document.path), whole(document.path):
                    read_span(document, clip)
                    parsed[clip] = read_channels(document, nodes, clip)
            drive(parsed[clip], times, states)
        return place(nodes, shapes, states)

    return pose


def _check(clip: int | None, times: Floats, count: int) -> Floats:
    if clip is not None and not 0 <= clip < count:
        raise IndexError(f"clip {clip} of {count}")
    times = np.ascontiguousarray(times, np.float64)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise ValueError("times must be finite seconds, (T,)")
    return times


def _face_nodes(document: Document, nodes: Nodes, pieces: list[Piece]) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """(node_names, face_nodes) of `Animated`."""
    rows = []
    for piece in pieces:
        shape = piece.shape
        if shape.skin is None:
            rows.append(np.full(len(piece.faces), shape.row))
        else:
            skin = shape.skin
            heaviest = _heaviest(piece.faces, skin.first, skin.joint, skin.weight, skin.total, len(skin.joints))
            rows.append(skin.joints[heaviest])
    used = {piece.shape.row for piece in pieces if piece.shape.skin is None}
    used |= {int(row) for piece in pieces if piece.shape.skin is not None for row in piece.shape.skin.joints}
    ordered = sorted(used, key=lambda row: int(nodes.numbers[row]))
    place_of = np.zeros(len(nodes.numbers), np.int32)
    place_of[ordered] = np.arange(len(ordered))
    numbers = [int(nodes.numbers[row]) for row in ordered]
    names = tuple(plain(document.tree["nodes"][number].get("name") or f"node{number}") for number in numbers)
    return names, place_of[np.concatenate(rows)]


@njit(cache=True, nogil=True, error_model="numpy")
def _heaviest(faces, first, joint, weight, total, joints):  # type: ignore[no-untyped-def]
    """The joint with the largest sum of normalised weights over the corners of each face, of equals the lower: (F,) int64."""
    sums = np.zeros(joints)
    result = np.zeros(len(faces), np.int64)
    for f in range(len(faces)):
        best = -1
        for c in range(3):
            v = faces[f, c]
            for k in range(first[v], first[v + 1]):
                sums[joint[k]] += weight[k] / total[v]
        for c in range(3):
            v = faces[f, c]
            for k in range(first[v], first[v + 1]):
                j = joint[k]
                if best < 0 or sums[j] > sums[best] or (sums[j] == sums[best] and j < best):
                    best = j
        for c in range(3):
            v = faces[f, c]
            for k in range(first[v], first[v + 1]):
                sums[joint[k]] = 0.0
        result[f] = best
    return result
