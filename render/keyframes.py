"""What the animations of a glTF document do to the state of its nodes: section 3.11 and appendix C of glTF 2.0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from render.gltf import Document, Json, accessor, item
from render.meshes import MeshError
from render.skinning import STATE, Nodes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Nine hours of keys at 30 a second.
_MAX_KEYS = 1_000_000
_STEP, _LINEAR, _ARC, _SPLINE, _SPLINE_ROTATION = range(5)
_MODES = {"STEP": _STEP, "LINEAR": _LINEAR, "CUBICSPLINE": _SPLINE}
_PLACES = {"translation": (0, 3), "rotation": (3, 4), "scale": (7, 3)}


@dataclass(frozen=True)
class Channels:
    """C channels. Channel c has count[c] keys: seconds in times from time_at[c] on, numbers in values from value_at[c] on, width[c] for a
    key (three times as many for splines: incoming tangent, value, outgoing tangent); it drives a state's numbers from target[c] on."""

    times: Floats
    values: Floats
    time_at: Ints
    count: Ints
    value_at: Ints
    width: Ints
    mode: Ints
    target: Ints


def read_span(document: Document, number: int) -> tuple[float, float]:
    """First and last key in seconds over the channels of an animation that have a node; (0, 0) where none has."""
    animation = document.tree["animations"][number]
    keys = [_times(document, item(animation["samplers"], channel["sampler"])["input"], number) for channel in _channels(animation)]
    return (min(float(k[0]) for k in keys), max(float(k[-1]) for k in keys)) if keys else (0.0, 0.0)


def _channels(animation: Json) -> list[Json]:
    # A channel without a node, or one that drives what an extension defines, is to be ignored (section 3.11).
    known = (*_PLACES, "weights")
    return [channel for channel in animation["channels"] if "node" in channel["target"] and channel["target"]["path"] in known]


def _times(document: Document, number: int, animation: int) -> Floats:
    stored = item(document.tree["accessors"], number)
    if number not in document.times:
        # what a few bytes can claim is looked at before it is filled in
        if stored["type"] != "SCALAR" or int(stored["count"]) > _MAX_KEYS:
            message = f"{document.path}: the key times of animation {animation} are not up to {_MAX_KEYS} numbers; export it again."
            raise MeshError("unreadable", message)
        times = accessor(document, number).astype(np.float64)
        if len(times) == 0 or not np.isfinite(times).all() or (np.diff(times[:, 0]) <= 0).any():
            message = f"{document.path}: the key times of animation {animation} are none, not finite or do not rise; export it again."
            raise MeshError("unreadable", message)
        document.times[number] = times[:, 0]
    return document.times[number]


def read_channels(document: Document, nodes: Nodes, number: int) -> Channels:
    """The channels of an animation that drive nodes of the scene. Raises MeshError: unreadable."""
    animation = document.tree["animations"][number]
    rows = {int(n): row for row, n in enumerate(nodes.numbers)}
    times: list[Floats] = []
    values: list[Floats] = []
    table: list[tuple[int, ...]] = []
    time_at = value_at = 0
    for channel in _channels(animation):
        node, path = channel["target"]["node"], channel["target"]["path"]
        item(document.tree["nodes"], node)
        if node not in rows:
            continue
        row = rows[node]
        if path == "weights":
            target, width = int(nodes.weights_at[row]), int(nodes.weight_counts[row])
            if width == 0:
                continue
        else:
            place, width = _PLACES[path]
            target = row * STATE + place
            if nodes.has_matrix[row]:
                message = (
                    f"{document.path}: animation {number} moves node {node}, which has a matrix; export it with translation and rotation."
                )
                raise MeshError("unreadable", message)
        sampler = item(animation["samplers"], channel["sampler"])
        keys = _times(document, sampler["input"], number)
        mode = _MODES[sampler.get("interpolation", "LINEAR")]
        numbers = _values(document, sampler["output"], path, mode, (len(keys), width), number)
        if path == "rotation":
            mode = {_STEP: _STEP, _LINEAR: _ARC, _SPLINE: _SPLINE_ROTATION}[mode]
        table.append((time_at, len(keys), value_at, width, mode, target))
        times.append(keys)
        values.append(numbers)
        time_at += len(keys)
        value_at += len(numbers)
    columns = np.array(table, np.int64).reshape(-1, 6).T.copy()
    return Channels(np.concatenate([np.zeros(0), *times]), np.concatenate([np.zeros(0), *values]), *columns)


def _values(document: Document, output: int, path: str, mode: int, shape: tuple[int, int], number: int) -> Floats:
    numbers = accessor(document, output).astype(np.float64).reshape(-1)
    if len(numbers) != shape[0] * shape[1] * (3 if mode == _SPLINE else 1):
        raise MeshError("unreadable", f"{document.path}: animation {number} has more or fewer values than keys; export it again.")
    if not np.isfinite(numbers).all():
        raise MeshError("unreadable", f"{document.path}: animation {number} has values that are NaN or infinite; export it again.")
    if path == "rotation" and mode != _SPLINE:
        # Rotations stored in few bits are not quite of length one.
        x, y, z, w = numbers.reshape(-1, 4).T
        length = np.sqrt(x * x + y * y + z * z + w * w)
        if not (length > 0).all():
            raise MeshError("unreadable", f"{document.path}: animation {number} has a rotation of length 0; export it again.")
        numbers = (numbers.reshape(-1, 4) / length[:, None]).reshape(-1)
    return numbers


def drive(channels: Channels, times: Floats, states: Floats) -> None:
    """Sets what the channels drive in states (T, S) to what it is at times (T,) in seconds, each channel clamped to its own keys."""
    c = channels
    _drive(c.times, c.values, c.time_at, c.count, c.value_at, c.width, c.mode, c.target, times, states)


@njit(cache=True, nogil=True, error_model="numpy")
def _drive(all_times, all_values, time_at, count, value_at, widths, modes, target, times, states):  # type: ignore[no-untyped-def]
    for c in range(len(count)):
        keys = all_times[time_at[c] : time_at[c] + count[c]]
        width, mode = widths[c], modes[c]
        spline = mode >= _SPLINE
        step = 3 * width if spline else width
        middle = width if spline else 0
        values = all_values[value_at[c] : value_at[c] + count[c] * step]
        last = count[c] - 1
        for t in range(len(times)):
            out = states[t, target[c] : target[c] + width]
            k = np.searchsorted(keys, times[t], side="right") - 1
            if k < 0 or k >= last:
                at = max(k, 0) * step + middle
                for i in range(width):
                    out[i] = values[at + i]
                if mode == _SPLINE_ROTATION:
                    _normalise(out)
                continue
            at = k * step + middle
            span = keys[k + 1] - keys[k]
            u = (times[t] - keys[k]) / span
            if mode == _STEP:
                for i in range(width):
                    out[i] = values[at + i]
            elif mode == _LINEAR:
                for i in range(width):
                    out[i] = (1 - u) * values[at + i] + u * values[at + step + i]
            elif mode == _ARC:
                a, b = _arc(values, at, u)
                for i in range(4):
                    out[i] = a * values[at + i] + b * values[at + 4 + i]
            else:
                u2, u3 = u * u, u * u * u
                for i in range(width):
                    out[i] = (
                        (2 * u3 - 3 * u2 + 1) * values[at + i]
                        + span * (u3 - 2 * u2 + u) * values[at + width + i]
                        + (3 * u2 - 2 * u3) * values[at + step + i]
                        + span * (u3 - u2) * values[at + step - width + i]
                    )
                if mode == _SPLINE_ROTATION:
                    _normalise(out)


@njit(cache=True, nogil=True, error_model="numpy")
def _normalise(q):  # type: ignore[no-untyped-def]
    length = np.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    if length > 0:
        for i in range(4):
            q[i] /= length
    else:
        q[0], q[1], q[2], q[3] = 0.0, 0.0, 0.0, 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _arc(q, at, u):  # type: ignore[no-untyped-def]
    """Weights of two unit quaternions, one after the other in q, a share u along the shorter arc between them.

    The angle comes from the chord, which says it better than the cosine where it is small.
    """
    dot = q[at] * q[at + 4] + q[at + 1] * q[at + 5] + q[at + 2] * q[at + 6] + q[at + 3] * q[at + 7]
    sign = -1.0 if dot < 0 else 1.0
    squares = 0.0
    for i in range(4):
        difference = q[at + i] - sign * q[at + 4 + i]
        squares += difference * difference
    angle = 2 * _arcsine(np.sqrt(squares) / 2)
    if angle < 1e-9:
        return 1 - u, sign * u
    whole = _sine(angle)
    return _sine((1 - u) * angle) / whole, sign * _sine(u * angle) / whole


@njit(cache=True, nogil=True, error_model="numpy")
def _arcsine(x):  # type: ignore[no-untyped-def]
    """For 0 ≤ x ≤ √½, from operations that every host does alike: the angle is halved twice, then its series has few terms."""
    for _ in range(2):
        x /= np.sqrt(2 * (1 + np.sqrt(max(1 - x * x, 0.0))))
    square, term, result = x * x, x, x
    for n in range(1, 13):
        term *= square * ((2 * n - 1) / (2 * n))
        result += term / (2 * n + 1)
    return 4 * result


@njit(cache=True, nogil=True, error_model="numpy")
def _sine(x):  # type: ignore[no-untyped-def]
    """For 0 ≤ x ≤ π / 2."""
    square, term, result = x * x, x, x
    for n in range(1, 11):
        term *= -square / ((2 * n) * (2 * n + 1))
        result += term
    return result
