"""Numbers out of the text of mesh files, as compiled loops over bytes: the part of loading that a library spends its time on.

A decimal of up to 53 bits of digits and an exponent within ±22 is exactly one multiplication or division away from its double
(Clinger 1990); any other token is left to Python's `float`, so every number is the correctly rounded one.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

_POWERS = np.array([float(f"1e{i}") for i in range(23)])
_EXACT_LIMIT = np.uint64(2**53)
_DIGITS_LIMIT = np.uint64(10**18)


@numba.njit(cache=True, inline="never")
def _number(data: npt.NDArray[np.uint8], i: int, end: int) -> tuple[float, int, bool]:
    """(value, index behind the token, whether the value is exact) of the token at i."""
    start = i
    negative = data[i] == 45
    if negative or data[i] == 43:
        i += 1
    mantissa = np.uint64(0)
    exponent = 0
    digits = 0
    exact = True
    seen_dot = False
    while i < end:
        c = data[i]
        if 48 <= c <= 57:
            if mantissa < _DIGITS_LIMIT:
                mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
                if seen_dot:
                    exponent -= 1
            else:
                exact = False
            digits += 1
        elif c == 46 and not seen_dot:
            seen_dot = True
        else:
            break
        i += 1
    if i < end and (data[i] == 101 or data[i] == 69) and digits > 0:
        i += 1
        sign = 1
        if i < end and (data[i] == 45 or data[i] == 43):
            sign = -1 if data[i] == 45 else 1
            i += 1
        power = 0
        exponent_digits = 0
        while i < end and 48 <= data[i] <= 57:
            power = min(power * 10 + (data[i] - 48), 100000)
            exponent_digits += 1
            i += 1
        if exponent_digits == 0:
            exact = False
        exponent += sign * power
    if i < end and data[i] > 32:
        exact = False
        while i < end and data[i] > 32:
            i += 1
    if digits == 0 or mantissa > _EXACT_LIMIT or exponent > 22 or exponent < -22:
        exact = False
    value = 0.0
    if exact:
        value = float(mantissa)
        value = value * _POWERS[exponent] if exponent >= 0 else value / _POWERS[-exponent]
        if negative:
            value = -value
    return value, max(i, start + 1), exact


@numba.njit(cache=True, inline="never")
def _integer(data: npt.NDArray[np.uint8], i: int, end: int) -> tuple[int, int, bool]:
    """(value, index behind the digits, whether there were any)."""
    negative = i < end and data[i] == 45
    if negative or (i < end and data[i] == 43):
        i += 1
    value = 0
    start = i
    while i < end and 48 <= data[i] <= 57:
        value = min(value * 10 + (data[i] - 48), 1 << 40)
        i += 1
    return (-value if negative else value), i, i > start


def repair(values: npt.NDArray[np.float64], text: bytes, slow: npt.NDArray[np.int64]) -> int:
    """Fills in what the loops left to Python: rows of slow are (index into values, start, end). Gives the first bad token's start or −1."""
    for index, start, end in slow.tolist():
        try:
            values[index] = float(text[start:end])
        except ValueError:
            return int(start)
    return -1


@numba.njit(cache=True)
def _skip(data: npt.NDArray[np.uint8], i: int, end: int, lines: bool) -> int:
    """Over blanks to the next token; with lines also over line ends and comments, else no further than these."""
    while i < end:
        c = data[i]
        if c == 10 or c == 13:
            if not lines:
                return i
        elif c == 35:
            if not lines:
                return i
            while i < end and data[i] != 10 and data[i] != 13:
                i += 1
            continue
        elif c > 32:
            return i
        i += 1
    return i


@numba.njit(cache=True)
def scan_off(
    data: npt.NDArray[np.uint8], i: int, vertex_count: int, face_count: int
) -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int32],
    npt.NDArray[np.float64],
    npt.NDArray[np.int8],
    npt.NDArray[np.int64],
    int,
]:
    """The body of an ASCII OFF file from byte i on.

    Gives vertex rows (V, 12) of which the first numbers of a line were filled in, corner ranges (F + 1,), corners, face colours (F, 4),
    their numbers (F,), the tokens left to Python, and the place + 1 of an error or 0. Column 11 of a row is how many numbers its line had.
    """
    end = len(data)
    rows = np.zeros((vertex_count, 12))
    # Every token is at least one byte and one blank.
    slow = np.empty(((end - i) // 2 + 2, 3), np.int64)
    slow_count = 0
    starts = np.zeros(face_count + 1, np.int64)
    corners = np.empty((end - i) // 2 + 2, np.int32)
    corner_count = 0
    colors = np.zeros((face_count, 4))
    color_counts = np.zeros(face_count, np.int8)
    for v in range(vertex_count):
        i = _skip(data, i, end, True)
        column = 0
        while column < 11:
            if column > 0:
                i = _skip(data, i, end, column < 3)
            if i >= end or data[i] == 10 or data[i] == 13 or data[i] == 35:
                break
            start = i
            value, i, exact = _number(data, i, end)
            rows[v, column] = value
            if not exact:
                slow[slow_count, 0] = v * 12 + column
                slow[slow_count, 1] = start
                slow[slow_count, 2] = i
                slow_count += 1
            column += 1
        rows[v, 11] = column
        if column < 3 or column == 11:
            return rows, starts, corners[:0], colors, color_counts, slow[:0], i + 1
    for f in range(face_count):
        i = _skip(data, i, end, True)
        sides, i, good = _integer(data, i, end)
        if not good or sides < 0 or sides > (end - i) // 2 + 1:
            return rows, starts, corners[:0], colors, color_counts, slow[:0], i + 1
        for _ in range(sides):
            i = _skip(data, i, end, True)
            corner, i, good = _integer(data, i, end)
            if not good or (i < end and data[i] > 32):
                return rows, starts, corners[:0], colors, color_counts, slow[:0], i + 1
            corners[corner_count] = min(max(corner, -1), 2147483647)
            corner_count += 1
        starts[f + 1] = corner_count
        i = _skip(data, i, end, False)
        while i < end and data[i] != 10 and data[i] != 13 and data[i] != 35:
            value, i, exact = _number(data, i, end)
            if not exact or color_counts[f] == 4:
                return rows, starts, corners[:0], colors, color_counts, slow[:0], i + 1
            colors[f, color_counts[f]] = value
            color_counts[f] += 1
            i = _skip(data, i, end, False)
    return rows, starts, corners[:corner_count], colors, color_counts, slow[:slow_count], 0


@numba.njit(cache=True)
def scan_obj_counts(data: npt.NDArray[np.uint8]) -> tuple[int, int, int, int, int]:
    """Upper bounds for `scan_obj`: lines v, vt and f, corners, statements that begin with u, m, l or p."""
    vertices = uvs = faces = corners = others = 0
    i, end = 0, len(data)
    while i < end:
        while i < end and data[i] <= 32:
            i += 1
        if i >= end:
            break
        c = data[i]
        following = data[i + 1] if i + 1 < end else 10
        if c == 118 and following <= 32:
            vertices += 1
        elif c == 118 and following == 116:
            uvs += 1
        elif c == 102 and following <= 32:
            faces += 1
            i += 1
            blank = True
            while i < end and data[i] != 10 and data[i] != 13:
                if data[i] <= 32:
                    blank = True
                else:
                    corners += blank
                    blank = False
                i += 1
        elif c == 117 or c == 109 or c == 108 or c == 112:
            others += 1
        while i < end and data[i] != 10 and data[i] != 13:
            i += 1
    return vertices, uvs, faces, corners, others


@numba.njit(cache=True)
def scan_obj(
    data: npt.NDArray[np.uint8], vertex_limit: int, uv_limit: int, face_limit: int, corner_limit: int, other_limit: int
) -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int32],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    int,
]:
    """The v, vt and f lines of an OBJ file.

    Gives vertex rows (V, 8) with column 7 the numbers found, uv (T, 2), corner ranges (F + 1,), corners (C, 2) of vertex and uv numbers
    counted from 0 (−1: none, −2: invalid), statements (S, 3) that begin with u, m, l or p as (start, end, faces before), and the tokens
    left to Python for rows and for uv as (index, start, end); last the place + 1 of an error or 0.
    """
    end = len(data)
    rows = np.zeros((vertex_limit, 8))
    uvs = np.zeros((uv_limit, 2))
    starts = np.zeros(face_limit + 1, np.int64)
    corners = np.empty((corner_limit, 2), np.int32)
    others = np.empty((other_limit, 3), np.int64)
    slow_rows = np.empty((vertex_limit * 7, 3), np.int64)
    slow_uvs = np.empty((uv_limit * 2, 3), np.int64)
    v = t = f = k = o = sv = st = 0
    i = 0
    error = 0
    while i < end:
        while i < end and data[i] <= 32:
            i += 1
        if i >= end:
            break
        c = data[i]
        following = data[i + 1] if i + 1 < end else 10
        if c == 118 and (following <= 32 or following == 116):
            is_uv = following == 116
            i += 2 if is_uv else 1
            limit = 2 if is_uv else 7
            column = 0
            while column < limit:
                i = _skip(data, i, end, False)
                if i >= end or data[i] == 10 or data[i] == 13 or data[i] == 35:
                    break
                start = i
                value, i, exact = _number(data, i, end)
                if is_uv:
                    uvs[t, column] = value
                    if not exact:
                        slow_uvs[st, 0], slow_uvs[st, 1], slow_uvs[st, 2] = t * 2 + column, start, i
                        st += 1
                else:
                    rows[v, column] = value
                    if not exact:
                        slow_rows[sv, 0], slow_rows[sv, 1], slow_rows[sv, 2] = v * 8 + column, start, i
                        sv += 1
                column += 1
            if is_uv:
                t += 1
                if column < 1 and error == 0:
                    error = i + 1
            else:
                rows[v, 7] = column
                v += 1
                if column < 3 and error == 0:
                    error = i + 1
        elif c == 102 and following <= 32:
            i += 1
            while True:
                i = _skip(data, i, end, False)
                if i >= end or data[i] == 10 or data[i] == 13 or data[i] == 35:
                    break
                number, i, good = _integer(data, i, end)
                if not good:
                    if error == 0:
                        error = i + 1
                    break
                uv_number = 0
                if i < end and data[i] == 47:
                    i += 1
                    uv_number, i, good = _integer(data, i, end)
                while i < end and data[i] > 32:
                    i += 1
                corners[k, 0] = number - 1 if 0 < number <= 2147483647 else (v + number if number < 0 and v + number >= 0 else -2)
                corners[k, 1] = (
                    uv_number - 1 if 0 < uv_number <= 2147483647 else (t + uv_number if uv_number < 0 and t + uv_number >= 0 else -1)
                )
                k += 1
            f += 1
            starts[f] = k
        elif c == 117 or c == 109 or c == 108 or c == 112:
            others[o, 0] = i
            while i < end and data[i] != 10 and data[i] != 13:
                i += 1
            others[o, 1] = i
            others[o, 2] = f
            o += 1
        while i < end and data[i] != 10 and data[i] != 13:
            i += 1
    return rows[:v], uvs[:t], starts[: f + 1], corners[:k], others[:o], slow_rows[:sv], slow_uvs[:st], error
