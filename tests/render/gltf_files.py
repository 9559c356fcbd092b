"""What the tests of glTF files share: a writer of small documents, and a slow evaluator written after the specification."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

BYTE, UBYTE, SHORT, USHORT, UINT, FLOAT = 5120, 5121, 5122, 5123, 5125, 5126
_DTYPES = {BYTE: "<i1", UBYTE: "<u1", SHORT: "<i2", USHORT: "<u2", UINT: "<u4", FLOAT: "<f4"}
_CODES = {BYTE: "b", UBYTE: "B", SHORT: "h", USHORT: "H", UINT: "I", FLOAT: "f"}
_MAXIMA = {BYTE: 127, UBYTE: 255, SHORT: 32767, USHORT: 65535}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

TRIANGLE = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]


class Document:
    """A document under construction: one buffer, an accessor for each array."""

    def __init__(self, **tree: Any) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "animations": []} | tree

    def view(self, data: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data
        return len(self.tree["bufferViews"]) - 1

    def add(self, values: Any, component: int = FLOAT, **more: Any) -> int:
        """An accessor of an array: (n,) scalars, (n, w) vectors, (n, 4, 4) matrices, which are turned to glTF's columns."""
        array = np.asarray(values, _DTYPES[component])
        kind = "MAT4" if array.ndim == 3 else "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}"
        if array.ndim == 3:
            array = array.transpose(0, 2, 1)
        accessor = {"bufferView": self.view(array.tobytes()), "componentType": component, "count": len(array), "type": kind}
        self.tree["accessors"].append(accessor | more)
        return len(self.tree["accessors"]) - 1

    def mesh(self, positions: Any, *, targets: Any = (), weights: Any = None, **attributes: int) -> int:
        """A mesh of one primitive; triangles are the vertices in threes."""
        primitive: dict[str, Any] = {"attributes": {"POSITION": self.add(positions)} | attributes}
        if len(targets):
            primitive["targets"] = [{"POSITION": t if isinstance(t, int) else self.add(t)} for t in targets]
        meshes = self.tree.setdefault("meshes", [])
        meshes.append({"primitives": [primitive]} | ({} if weights is None else {"weights": weights}))
        return len(meshes) - 1

    def animate(self, *channels: tuple[int | None, str, Any, Any, str], **more: Any) -> None:
        """An animation of channels (node, path, times, values or (values, component), interpolation)."""
        samplers, listed = [], []
        for node, path, times, values, mode in channels:
            values, component = values if isinstance(values, tuple) else (values, FLOAT)
            normalized = {} if component == FLOAT else {"normalized": True}
            samplers.append({"input": self.add(times), "output": self.add(values, component, **normalized), "interpolation": mode})
            listed.append({"sampler": len(samplers) - 1, "target": ({} if node is None else {"node": node}) | {"path": path}})
        self.tree["animations"].append({"channels": listed, "samplers": samplers} | more)

    def save(self, path: Path) -> Path:
        self.tree["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + b"\0" * (-len(self.data) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path


def rigged(seed: int, groups: int = 2, faults: bool = True) -> Document:
    """A tree of five joints under a moved root, 30 vertices with 4 × groups influences each, on a node whose place must not count."""
    random = np.random.default_rng(seed)
    nodes: list[dict[str, Any]] = [{"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, {"scale": [2, 0.5, -3], "children": [2, 3]}]
    for k, children in enumerate(([4], [5, 6], [], [], [])):
        turn, move = Rotation.random(random_state=seed + k).as_quat().tolist(), random.normal(size=3).tolist()
        nodes.append({"name": f"joint {k}", "rotation": turn, "translation": move, "scale": [1.5, 1, 0.25], "children": children})
    document = Document(nodes=nodes, scenes=[{"nodes": [0, 1]}])
    joints = random.integers(0, 5, (30, 4 * groups))
    weights = random.random((30, 4 * groups)) * (random.random((30, 4 * groups)) < 0.6)
    if faults:
        weights[3, 1], weights[4], weights[5] = np.nan, 0, np.nan
    attributes = {}
    for group in range(groups):
        attributes[f"JOINTS_{group}"] = document.add(joints[:, 4 * group :][:, :4], USHORT if group else UBYTE)
        attributes[f"WEIGHTS_{group}"] = document.add(weights[:, 4 * group :][:, :4])
    document.mesh(random.normal(size=(30, 3)), **attributes)
    inverse = np.tile(np.eye(4), (5, 1, 1))
    inverse[:, :3] = random.normal(size=(5, 3, 4))
    document.tree["skins"] = [{"joints": [4, 2, 6, 3, 5], "inverseBindMatrices": document.add(inverse)}]
    for node in (2, 4, 6):
        turns = Rotation.random(4, random_state=seed + node).as_quat()
        document.animate((node, "rotation", [0, 0.5, 1, 2], turns, "LINEAR"), (1, "translation", [1, 2], [[0, 0, 0], [3, 1, 2]], "LINEAR"))
    return document


def compressed(data: bytes, ids: dict[str, int], accessors: dict[str, dict[str, Any]], count: int, **tree: Any) -> Document:
    """A document of one primitive whose attributes lie in Draco data only."""
    document = Document(nodes=[{"mesh": 0}], **tree)
    document.tree["extensionsRequired"] = document.tree["extensionsUsed"] = ["KHR_draco_mesh_compression"]
    attributes = {}
    for name, accessor in accessors.items():
        attributes[name] = len(document.tree["accessors"])
        document.tree["accessors"].append({"count": count} | accessor)
    extension = {"bufferView": document.view(data), "attributes": ids}
    primitive = {"attributes": attributes, "extensions": {"KHR_draco_mesh_compression": extension}}
    document.tree["meshes"] = [{"primitives": [primitive]}]
    return document


class Evaluator:
    """One file, evaluated one number and one vertex at a time."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        chunk = b""
        if data[:4] == b"glTF":
            length = struct.unpack_from("<I", data, 12)[0]
            chunk = data[20 + length + 8 :]
            data = data[20 : 20 + length]
        self.tree = json.loads(data)
        self.buffers = []
        for buffer in self.tree.get("buffers", []):
            uri = buffer.get("uri")
            if uri is None:
                self.buffers.append(chunk)
            elif uri.startswith("data:"):
                self.buffers.append(base64.b64decode(uri.split(",", 1)[1]))
            else:
                self.buffers.append((path.parent / uri).read_bytes())
        self.whole_accessors: dict[int, list[list[float]]] = {}
        self.sparse: dict[int, dict[int, list[float]]] = {}
        self.decoded: dict[int, Any] = {}

    # section 3.6.2: accessors
    def element(self, number: int, i: int) -> list[float]:
        accessor = self.tree["accessors"][number]
        component, width = accessor["componentType"], _WIDTHS[accessor["type"]]
        if "sparse" in accessor:
            if number not in self.sparse:
                sparse = accessor["sparse"]
                at = [int(self._raw(sparse["indices"], sparse["indices"]["componentType"], 1, k)[0]) for k in range(sparse["count"])]
                self.sparse[number] = {place: self._raw(sparse["values"], component, width, k) for k, place in enumerate(at)}
            if i in self.sparse[number]:
                return self._normalised(self.sparse[number][i], accessor)
        if "bufferView" not in accessor:
            return [0.0] * width
        return self._normalised(self._raw(accessor, component, width, i), accessor)

    def _raw(self, where: dict[str, Any], component: int, width: int, i: int) -> list[float]:
        view = self.tree["bufferViews"][where["bufferView"]]
        code = "<" + _CODES[component] * width
        stride = view.get("byteStride", struct.calcsize(code))
        start = view.get("byteOffset", 0) + where.get("byteOffset", 0) + i * stride
        return list(struct.unpack_from(code, self.buffers[view["buffer"]], start))

    def _normalised(self, values: list[float], accessor: dict[str, Any]) -> list[float]:
        if not accessor.get("normalized"):
            return [float(v) for v in values]
        return [max(v / _MAXIMA[accessor["componentType"]], -1.0) for v in values]

    def all(self, number: int) -> list[list[float]]:
        if number not in self.whole_accessors:
            count = self.tree["accessors"][number]["count"]
            self.whole_accessors[number] = [self.element(number, i) for i in range(count)]
        return self.whole_accessors[number]

    def attribute(self, primitive: dict[str, Any], name: str, i: int) -> list[float]:
        extension = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
        number = primitive["attributes"][name]
        if extension is None:
            return self.element(number, i)
        values = self._draco(extension).get_attribute_by_unique_id(extension["attributes"][name])["data"][i]
        return self._normalised(values.tolist(), self.tree["accessors"][number])

    def _draco(self, extension: dict[str, Any]) -> Any:
        number = extension["bufferView"]
        if number not in self.decoded:
            import DracoPy

            view = self.tree["bufferViews"][number]
            start = view.get("byteOffset", 0)
            self.decoded[number] = DracoPy.decode(self.buffers[view["buffer"]][start : start + view["byteLength"]])
        return self.decoded[number]

    # section 3.11 and appendix C: animations
    def keyed(self, clip: int | None, time: float) -> dict[tuple[int, str], list[float]]:
        result: dict[tuple[int, str], list[float]] = {}
        if clip is None:
            return result
        animation = self.tree["animations"][clip]
        for channel in animation["channels"]:
            target = channel["target"]
            if "node" not in target:
                continue
            sampler = animation["samplers"][channel["sampler"]]
            times = [t[0] for t in self.all(sampler["input"])]
            mode = sampler.get("interpolation", "LINEAR")
            flat = [v for row in self.all(sampler["output"]) for v in row]
            result[target["node"], target["path"]] = self._sample(times, flat, mode, target["path"] == "rotation", time)
        return result

    def _sample(self, times: list[float], flat: list[float], mode: str, rotation: bool, time: float) -> list[float]:
        parts = 3 if mode == "CUBICSPLINE" else 1
        width = len(flat) // len(times) // parts

        def stored(key: int, part: int) -> list[float]:
            start = (parts * key + part) * width
            return flat[start : start + width]

        def value(key: int) -> list[float]:
            return _unit(stored(key, parts // 2)) if rotation and parts == 1 else stored(key, parts // 2)

        if time <= times[0]:
            return _unit(value(0)) if rotation else value(0)
        if time >= times[-1]:
            return _unit(value(len(times) - 1)) if rotation else value(len(times) - 1)
        k = max(n for n, key in enumerate(times) if key <= time)
        td = times[k + 1] - times[k]
        t = (time - times[k]) / td
        a, b = value(k), value(k + 1)
        if mode == "STEP":
            return a
        if mode == "LINEAR":
            return _slerp(a, b, t) if rotation else [(1 - t) * p + t * q for p, q in zip(a, b, strict=True)]
        out, into = stored(k, 2), stored(k + 1, 0)
        spline = [
            (2 * t**3 - 3 * t**2 + 1) * a[i]
            + td * (t**3 - 2 * t**2 + t) * out[i]
            + (-2 * t**3 + 3 * t**2) * b[i]
            + td * (t**3 - t**2) * into[i]
            for i in range(len(a))
        ]
        return _unit(spline) if rotation else spline

    # sections 3.5 and 3.7: nodes, morph targets, skins
    def vertices(self, clip: int | None, time: float, every: int = 1) -> np.ndarray:
        """Vertices (V, 3) of all primitives of triangles, in the order of the scene's tree; NaN but for every `every`th of each."""
        keyed = self.keyed(clip, time)
        nodes = self.tree["nodes"]
        children = {child for node in nodes for child in node.get("children", [])}
        scenes = self.tree.get("scenes")
        roots = scenes[self.tree.get("scene", 0)]["nodes"] if scenes else [n for n in range(len(nodes)) if n not in children]
        order: list[int] = []
        worlds: dict[int, np.ndarray] = {}

        def visit(number: int, parent: np.ndarray) -> None:
            order.append(number)
            worlds[number] = parent @ self._local(number, keyed)
            for child in nodes[number].get("children", []):
                visit(child, worlds[number])

        for root in roots:
            visit(root, np.eye(4))
        result = []
        for number in order:
            node = nodes[number]
            if "mesh" not in node:
                continue
            mesh = self.tree["meshes"][node["mesh"]]
            weights = keyed.get((number, "weights"), node.get("weights", mesh.get("weights", [])))
            skin = self.tree["skins"][node["skin"]] if "skin" in node else None
            matrices = []
            if skin is not None:
                for k, joint in enumerate(skin["joints"]):
                    stored = self.element(skin["inverseBindMatrices"], k) if "inverseBindMatrices" in skin else np.eye(4).ravel()
                    matrices.append(worlds[joint] @ np.array(stored).reshape(4, 4).T)
            for primitive in mesh["primitives"]:
                if primitive.get("mode", 4) < 4:
                    continue
                for i in range(self._count(primitive)):
                    if i % every:
                        result.append(np.full(3, np.nan))
                        continue
                    p = np.array(self.attribute(primitive, "POSITION", i))
                    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
                        if "POSITION" in target:
                            p = p + weight * np.array(self.element(target["POSITION"], i))
                    matrix = worlds[number]
                    if skin is not None and "JOINTS_0" in primitive["attributes"]:
                        matrix = self._blend(primitive, matrices, i)
                    result.append((matrix @ [*p, 1])[:3])
        return np.array(result)

    def _count(self, primitive: dict[str, Any]) -> int:
        extension = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
        if extension is not None:
            return len(self._draco(extension).points)
        return int(self.tree["accessors"][primitive["attributes"]["POSITION"]]["count"])

    def _blend(self, primitive: dict[str, Any], matrices: list[np.ndarray], i: int) -> np.ndarray:
        total, matrix, group = 0.0, np.zeros((4, 4)), 0
        while f"JOINTS_{group}" in primitive["attributes"]:
            joints, weights = (self.attribute(primitive, f"{name}_{group}", i) for name in ("JOINTS", "WEIGHTS"))
            for joint, weight in zip(joints, weights, strict=True):
                if math.isfinite(weight) and weight != 0:
                    matrix = matrix + weight * matrices[int(joint)]
                    total += weight
            group += 1
        # the specification says nothing of vertices that hang on nothing: they stay with the first joint
        return matrix / total if total > 0 else matrices[0]

    def _local(self, number: int, keyed: dict[tuple[int, str], list[float]]) -> np.ndarray:
        node = self.tree["nodes"][number]
        if "matrix" in node:
            return np.array(node["matrix"], float).reshape(4, 4).T
        t = keyed.get((number, "translation"), node.get("translation", [0, 0, 0]))
        x, y, z, w = keyed.get((number, "rotation"), node.get("rotation", [0, 0, 0, 1]))
        s = keyed.get((number, "scale"), node.get("scale", [1, 1, 1]))
        move, turn = np.eye(4), np.eye(4)
        move[:3, 3] = t
        # the rotation as q p q*, one axis at a time
        for axis in range(3):
            p = [0.0, 0.0, 0.0, 0.0]
            p[axis] = 1.0
            turn[:3, axis] = _times(_times([x, y, z, w], p), [-x, -y, -z, w])[:3]
        return move @ turn @ np.diag([*s, 1])


def _times(a: list[float], b: list[float]) -> list[float]:
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return [
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ]


def _unit(q: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in q))
    return [v / length for v in q]


def _slerp(a: list[float], b: list[float], t: float) -> list[float]:
    d = sum(p * q for p, q in zip(a, b, strict=True))
    angle = math.acos(min(abs(d), 1.0))
    s = 1.0 if d >= 0 else -1.0
    if angle < 1e-6:
        return [(1 - t) * p + t * s * q for p, q in zip(a, b, strict=True)]
    wa, wb = math.sin(angle * (1 - t)) / math.sin(angle), s * math.sin(angle * t) / math.sin(angle)
    return [wa * p + wb * q for p, q in zip(a, b, strict=True)]
