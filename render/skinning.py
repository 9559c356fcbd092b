"""Where the vertices of a glTF scene stand: matrices of nodes, morph targets and skins (sections 3.5.2, 3.7.2.2 and 3.7.3 of glTF 2.0).

Sums are written out and nothing is contracted, so that every host gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from render.gltf import Document, Json, accessor, attribute, item, scene_nodes
from render.meshes import MAX_FACES, MeshError

Floats = npt.NDArray[np.float64]

# What a node's row of a state holds: translation (3), rotation (4, x y z w) and scale (3).
STATE = 10
# Weights of 8 bits are off by up to 4 × 0.5 / 255.
_SUM_TOLERANCE = 0.01


@dataclass(frozen=True)
class Nodes:
    """N nodes, parents first. numbers (N,) their numbers in the document; parents (N,) rows, −1 for none; fixed (N, 4, 4) the matrices of
    those that are given by one, told by has_matrix (N,). rest (S,): the state of the default pose, STATE numbers a node, then the morph
    weights; weights_at (N,) is where a node's begin, weight_counts (N,) how many they are."""

    numbers: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    fixed: Floats
    has_matrix: npt.NDArray[np.bool_]
    rest: Floats
    weights_at: npt.NDArray[np.int64]
    weight_counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Skin:
    """How V vertices hang on J joints. joints (J,) rows of `Nodes`; inverse (J, 4, 4); vertex v has the influences first[v] to first[v + 1]
    of joint (I,) and weight (I,), which sum to total (V,), above 0."""

    joints: npt.NDArray[np.int64]
    inverse: Floats
    first: npt.NDArray[np.int64]
    joint: npt.NDArray[np.int64]
    weight: Floats
    total: Floats


@dataclass(frozen=True)
class Shape:
    """V vertices before they are placed: positions (V, 3); deltas (K, V, 3) of K morph targets; row of the node that carries them; skin."""

    positions: Floats
    deltas: Floats
    row: int
    skin: Skin | None


def read_nodes(document: Document) -> Nodes:
    """The nodes of the default scene."""
    listed = scene_nodes(document)
    rows = {number: row for row, (number, _) in enumerate(listed)}
    fixed, has_matrix = np.tile(np.eye(4), (len(listed), 1, 1)), np.zeros(len(listed), bool)
    rest = np.empty((len(listed), STATE))
    weights: list[float] = []
    weights_at, weight_counts = np.zeros((2, len(listed)), np.int64)
    for row, (number, _) in enumerate(listed):
        node = document.tree["nodes"][number]
        if "matrix" in node:
            fixed[row], has_matrix[row] = np.array(node["matrix"], np.float64).reshape(4, 4).T, True
        rest[row, :3] = node.get("translation", (0, 0, 0))
        rest[row, 3:7] = node.get("rotation", (0, 0, 0, 1))
        rest[row, 7:] = node.get("scale", (1, 1, 1))
        weights_at[row] = rest.size + len(weights)
        if "mesh" in node:
            mesh = item(document.tree["meshes"], node["mesh"])
            given = node.get("weights", mesh.get("weights", []))
            weight_counts[row] = max((len(primitive.get("targets", [])) for primitive in mesh["primitives"]), default=0)
            weights += [float(given[k]) if k < len(given) else 0.0 for k in range(weight_counts[row])]
    parents = np.array([rows.get(parent, -1) for _, parent in listed], np.int64)
    numbers = np.array([number for number, _ in listed], np.int64)
    state = np.concatenate((rest.reshape(-1), np.array(weights, np.float64)))
    return Nodes(numbers, parents, fixed, has_matrix, state, weights_at, weight_counts)


def read_shape(document: Document, nodes: Nodes, row: int, primitive: Json) -> Shape:
    """The vertices of a primitive on the node of a row, and what moves them."""
    node, attributes = document.tree["nodes"][nodes.numbers[row]], primitive["attributes"]
    positions = np.ascontiguousarray(attribute(document, primitive, "POSITION"), np.float64)
    if positions.shape[1] != 3:
        raise ValueError("positions without three numbers")
    targets = primitive.get("targets", [])
    if len(targets) * len(positions) > 4 * MAX_FACES:
        raise MeshError("too_large", f"{document.path}: {len(targets)} morph targets of {len(positions)} vertices; simplify the mesh.")
    deltas = np.zeros((len(targets), *positions.shape))
    for delta, target in zip(deltas, targets, strict=True):
        if "POSITION" in target:
            moved = accessor(document, target["POSITION"])
            if moved.shape != positions.shape:
                raise ValueError("a morph target of another number of vertices")
            delta[:] = moved
    skin = None
    if "skin" in node and "JOINTS_0" in attributes:
        skin = _read_skin(document, nodes, item(document.tree["skins"], node["skin"]), primitive, len(positions))
    return Shape(positions, deltas, row, skin)


def _read_skin(document: Document, nodes: Nodes, skin: Json, primitive: Json, vertices: int) -> Skin:
    rows = {int(number): row for row, number in enumerate(nodes.numbers)}
    for joint in skin["joints"]:
        item(document.tree["nodes"], joint)
    missing = [joint for joint in skin["joints"] if joint not in rows]
    if missing or not skin["joints"]:
        which = f"its joint {missing[0]} is in no scene" if missing else "a skin has no joints"
        raise MeshError("unreadable", f"{document.path}: {which}; export it again.")
    inverse = np.tile(np.eye(4), (len(skin["joints"]), 1, 1))
    if "inverseBindMatrices" in skin:
        stored = accessor(document, skin["inverseBindMatrices"]).astype(np.float64).reshape(-1, 4, 4)
        if len(stored) < len(inverse):
            raise ValueError("fewer inverse bind matrices than joints")
        inverse = stored[: len(inverse)].transpose(0, 2, 1)
    joints, weights = [], []
    for group in range(len(primitive["attributes"])):
        if f"JOINTS_{group}" not in primitive["attributes"]:
            break
        joints.append(attribute(document, primitive, f"JOINTS_{group}"))
        weights.append(attribute(document, primitive, f"WEIGHTS_{group}").astype(np.float64))
        if joints[-1].dtype.kind != "u" or not joints[-1].shape == weights[-1].shape == (vertices, 4):
            raise ValueError("joints or weights that are no four numbers a vertex")
    first, joint, weight, total = _influences(np.concatenate(joints, axis=1).astype(np.int64), np.concatenate(weights, axis=1), document)
    if len(joint) and joint.max() >= len(inverse):
        raise MeshError("unreadable", f"{document.path}: a vertex hangs on a joint that its skin does not have; export it again.")
    return Skin(np.array([rows[j] for j in skin["joints"]], np.int64), np.ascontiguousarray(inverse), first, joint, weight, total)


def _influences(
    joints: npt.NDArray[np.int64], weights: Floats, document: Document
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats]:
    """(first, joint, weight, total) of `Skin` from joints and weights (V, 4 G). A vertex without weight hangs on joint 0."""
    finite = np.isfinite(weights)
    weights = np.where(finite, weights, 0.0)
    total = np.zeros(len(weights))
    for column in weights.T:
        total = total + column
    bare = ~(total > 0)
    if bare.any() or not finite.all() or (np.abs(total - 1) > _SUM_TOLERANCE).any():
        document.flags.append("skin_weights_repaired")
    weights[bare] = 0
    joints = np.where(bare[:, None], 0, joints)
    weights[bare, 0] = 1
    total[bare] = 1
    used = weights != 0
    first = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(used.sum(axis=1), out=first[1:])
    return first, joints[used], weights[used], total


def place(nodes: Nodes, shapes: list[Shape], states: Floats) -> Floats:
    """Vertices (T, V, 3) float64 of all shapes, one after the other, in T states (T, S)."""
    worlds = world_matrices(nodes, states)
    result = np.empty((len(states), sum(len(shape.positions) for shape in shapes), 3))
    start = 0
    for shape in shapes:
        at = int(nodes.weights_at[shape.row])
        if shape.skin is None:
            _carry(shape.positions, shape.deltas, states, at, worlds, shape.row, result, start)
        else:
            skin = shape.skin
            matrices = _joint_matrices(worlds, skin.joints, skin.inverse)
            _skin(shape.positions, shape.deltas, states, at, matrices, skin.first, skin.joint, skin.weight, skin.total, result, start)
        start += len(shape.positions)
    return result


def world_matrices(nodes: Nodes, states: Floats) -> Floats:
    """The upper three rows of the nodes' world matrices in T states: (T, N, 3, 4)."""
    return _worlds(states, nodes.parents, nodes.fixed, nodes.has_matrix)  # type: ignore[no-any-return]


@njit(cache=True, nogil=True, error_model="numpy")
def _worlds(states, parents, fixed, has_matrix):  # type: ignore[no-untyped-def]
    count = len(parents)
    result = np.empty((len(states), count, 3, 4))
    m = np.zeros((4, 4))
    for t in range(len(states)):
        for n in range(count):
            if has_matrix[n]:
                m[:] = fixed[n]
            else:
                s = states[t, STATE * n : STATE * (n + 1)]
                x, y, z, w = s[3], s[4], s[5], s[6]
                m[0, 0], m[0, 1], m[0, 2] = (1 - 2 * (y * y + z * z)) * s[7], 2 * (x * y - z * w) * s[8], 2 * (x * z + y * w) * s[9]
                m[1, 0], m[1, 1], m[1, 2] = 2 * (x * y + z * w) * s[7], (1 - 2 * (x * x + z * z)) * s[8], 2 * (y * z - x * w) * s[9]
                m[2, 0], m[2, 1], m[2, 2] = 2 * (x * z - y * w) * s[7], 2 * (y * z + x * w) * s[8], (1 - 2 * (x * x + y * y)) * s[9]
                m[0, 3], m[1, 3], m[2, 3] = s[0], s[1], s[2]
                m[3, 0], m[3, 1], m[3, 2], m[3, 3] = 0.0, 0.0, 0.0, 1.0
            p = parents[n]
            for i in range(3):
                for j in range(4):
                    if p < 0:
                        result[t, n, i, j] = m[i, j]
                    else:
                        a = result[t, p, i]
                        result[t, n, i, j] = a[0] * m[0, j] + a[1] * m[1, j] + a[2] * m[2, j] + a[3] * m[3, j]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _joint_matrices(worlds, joints, inverse):  # type: ignore[no-untyped-def]
    result = np.empty((len(worlds), len(joints), 3, 4))
    for t in range(len(worlds)):
        for k in range(len(joints)):
            for i in range(3):
                a = worlds[t, joints[k], i]
                for j in range(4):
                    b = inverse[k, :, j]
                    result[t, k, i, j] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _morph(positions, deltas, state, at, moved):  # type: ignore[no-untyped-def]
    moved[:] = positions
    for k in range(len(deltas)):
        if state[at + k] != 0:
            for v in range(len(positions)):
                for c in range(3):
                    moved[v, c] += state[at + k] * deltas[k, v, c]


@njit(cache=True, nogil=True, error_model="numpy")
def _carry(positions, deltas, states, at, worlds, row, out, start):  # type: ignore[no-untyped-def]
    p = positions.copy()
    for t in range(len(states)):
        if len(deltas):
            _morph(positions, deltas, states[t], at, p)
        m = worlds[t, row]
        for v in range(len(p)):
            x, y, z = p[v, 0], p[v, 1], p[v, 2]
            for i in range(3):
                out[t, start + v, i] = m[i, 0] * x + m[i, 1] * y + m[i, 2] * z + m[i, 3]


@njit(cache=True, nogil=True, error_model="numpy")
def _skin(positions, deltas, states, at, matrices, first, joint, weight, total, out, start):  # type: ignore[no-untyped-def]
    p = positions.copy()
    for t in range(len(matrices)):
        if len(deltas):
            _morph(positions, deltas, states[t], at, p)
        for v in range(len(p)):
            x, y, z = p[v, 0], p[v, 1], p[v, 2]
            sx, sy, sz = 0.0, 0.0, 0.0
            for k in range(first[v], first[v + 1]):
                m, w = matrices[t, joint[k]], weight[k]
                sx += w * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
                sy += w * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
                sz += w * (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
            o = out[t, start + v]
            o[0], o[1], o[2] = sx / total[v], sy / total[v], sz / total[v]
