"""zlib streams of pictures: matches are looked for at two distances only, the pixel to the left and the pixel above.

Rendered pictures are flat or smooth, so these two find nearly all that a search of the whole window finds, without its hash tables. Integer
arithmetic throughout: the same bytes on every host, which fast general encoders (ISA-L, zlib-ng) do not promise. RFC 1950 and 1951; one
block with its own Huffman codes.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from numba import njit

_LONGEST = 258
_MATCH = 1 << 30
_FAR = 1 << 29
_ONES = np.uint64(0x0101010101010101)
_END = 256
# The order in which RFC 1951 (3.2.7) sends the lengths of the code for lengths.
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)


def _length_table() -> npt.NDArray[np.int32]:
    """For each length of a match, 0 to 258: symbol, number of extra bits, their value (RFC 1951, 3.2.5)."""
    table = np.zeros((_LONGEST + 1, 3), np.int32)
    symbol, length = 257, 3
    for extra in (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5):
        for value in range(1 << extra):
            if length < _LONGEST:
                table[length] = symbol, extra, value
            length += 1
        symbol += 1
    table[_LONGEST] = 285, 0, 0
    return table


_LENGTHS = _length_table()


def distance_code(distance: int) -> tuple[int, int, int]:
    """Symbol, number of extra bits, their value, of a distance from 1 to 32768 (RFC 1951, 3.2.5)."""
    if distance <= 4:
        return distance - 1, 0, 0
    extra = (distance - 1).bit_length() - 2
    return 2 * extra + ((distance - 1) >> extra), extra, (distance - 1) & ((1 << extra) - 1)


def compress(data: npt.NDArray[np.uint8], near: int, far: int) -> bytes:
    """The zlib stream of data (N,), C-contiguous. near, far: the two distances, in bytes, at which data repeats itself; near is at most 4.

    A far of more than 32768 is not used, nor one of a picture so narrow that it is no more than near. Raises ValueError for another near.
    """
    if not 1 <= near <= 4:
        raise ValueError(f"a pixel has 1 to 4 bytes, not {near}")
    if far > 32768 or far <= near:
        far = 0
    symbol, extra, value = distance_code(far) if far else (0, 0, 0)
    out, tokens, same_near, same_far = _scratch(data.size)
    size = _deflate(data, near, far, symbol, extra, value, _LENGTHS, _ORDER, out, tokens, same_near, same_far)
    return out[:size].tobytes() + int(isal_zlib.adler32(data)).to_bytes(4, "big")


def scanlines(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture (H, W, C), of any strides, as PNG's rows without filter: (H, 1 + W C), the first column 0."""
    height, width, channels = image.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 0
    if channels == 3:
        _three_channels(image, rows)
    else:
        rows[:, 1:] = image.reshape(height, -1)
    return rows


@njit(cache=True, nogil=True)
def _three_channels(image, rows):  # type: ignore[no-untyped-def]
    """Colours are often the first three of four channels, and numpy copies such strides ten times slower."""
    for i in range(image.shape[0]):
        row = rows[i]
        for j in range(image.shape[1]):
            row[3 * j + 1] = image[i, j, 0]
            row[3 * j + 2] = image[i, j, 1]
            row[3 * j + 3] = image[i, j, 2]


_kept = threading.local()


def _scratch(size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Room for the stream, the tokens and the comparisons, kept from call to call: fresh pages would cost more than the work."""
    if getattr(_kept, "size", -1) < size:
        padded = (size + 7) // 8 * 8
        out = np.empty(2 * size + 1024, np.uint8)
        out[0], out[1] = 0x78, 0x01
        _kept.buffers = out, np.empty(size, np.int32), np.empty(padded, np.uint8), np.empty(padded, np.uint8)
        _kept.size = size
    found: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]] = _kept.buffers
    return found


@njit(cache=True, nogil=True)
def _deflate(data, near, far, far_symbol, far_extra, far_value, lengths, order, out, tokens, same_near, same_far):  # type: ignore[no-untyped-def]
    count = _tokens(data, near, far, tokens, same_near, same_far)
    frequency = np.zeros(286, np.int64)
    frequency[_END] = 1
    nears = fars = 0
    for t in range(count):
        token = tokens[t]
        if token < _MATCH:
            frequency[token] += 1
        else:
            frequency[lengths[token & 511, 0]] += 1
            if token & _FAR:
                fars += 1
            else:
                nears += 1
    bits = _code_lengths(frequency, 15)
    codes = _codes(bits)
    # With two distances in use each has one bit; the nearer one has the smaller symbol, so its bit is 0.
    distances = np.zeros(30, np.int64)
    if nears or not fars:
        distances[near - 1] = 1
    if fars:
        distances[far_symbol] = 1
    far_bit = 1 if nears else 0
    position, held, hold = _header(bits, distances, order, out)
    mask32 = np.uint64(0xFFFFFFFF)
    for t in range(count):
        token = tokens[t]
        if token < _MATCH:
            hold |= np.uint64(codes[token]) << np.uint64(held)
            held += bits[token]
        else:
            length = token & 511
            symbol = lengths[length, 0]
            code = np.uint64(codes[symbol])
            width = bits[symbol]
            code |= np.uint64(lengths[length, 2]) << np.uint64(width)
            width += lengths[length, 1]
            if token & _FAR:
                code |= np.uint64(far_bit | (far_value << 1)) << np.uint64(width)
                width += 1 + far_extra
            else:
                width += 1
            # At most 15 + 5 + 1 + 13 bits here, with at most 31 held: more than 64 only where the codes are longest.
            if held + width > 63:
                while held >= 8:
                    out[position] = np.uint8(hold & np.uint64(255))
                    position += 1
                    hold >>= np.uint64(8)
                    held -= 8
            hold |= code << np.uint64(held)
            held += width
        while held >= 32:
            word = hold & mask32
            out[position] = np.uint8(word & np.uint64(255))
            out[position + 1] = np.uint8((word >> np.uint64(8)) & np.uint64(255))
            out[position + 2] = np.uint8((word >> np.uint64(16)) & np.uint64(255))
            out[position + 3] = np.uint8(word >> np.uint64(24))
            position += 4
            hold >>= np.uint64(32)
            held -= 32
    hold |= np.uint64(codes[_END]) << np.uint64(held)
    held += bits[_END]
    while held > 0:
        out[position] = np.uint8(hold & np.uint64(255))
        position += 1
        hold >>= np.uint64(8)
        held -= 8
    return position


@njit(cache=True, nogil=True)
def _tokens(data, near, far, tokens, same_near, same_far):  # type: ignore[no-untyped-def]
    """Literals (0 to 255) and matches (_MATCH | length, with _FAR for the farther distance), greedily."""
    size = data.size
    _compare(data, near, same_near)
    _compare(data, far, same_far)
    words_near, words_far = same_near.view(np.uint64), same_far.view(np.uint64)
    count = i = 0
    while i < size:
        run = kind = 0
        if same_far[i]:
            run, kind = _run(same_far, words_far, i), _FAR
        if same_near[i]:
            other = _run(same_near, words_near, i)
            if other >= run or run < 4:
                run, kind = other, 0
        if run < 3 or (kind and run < 4):
            # A whole pixel: where its first channel is new, the others mostly are.
            for _ in range(min(near, size - i)):
                tokens[count] = data[i]
                count += 1
                i += 1
            continue
        i += run
        while run >= 3:
            # What is left after a full match must not be too short for one of its own.
            length = min(run, _LONGEST if run >= _LONGEST + 3 or run <= _LONGEST else run - 3)
            tokens[count] = _MATCH | kind | length
            count += 1
            run -= length
    return count


@njit(cache=True, nogil=True)
def _compare(data, distance, same):  # type: ignore[no-untyped-def]
    """1 in same where data repeats itself at this distance; nowhere at distance 0, which stands for none."""
    start = min(distance, data.size) if distance else data.size
    same[:start] = 0
    same[data.size :] = 0
    here, there, into = data[start:], data[: data.size - start], same[start : data.size]
    for i in range(here.size):
        into[i] = here[i] == there[i]


@njit(cache=True, nogil=True)
def _run(same, words, i):  # type: ignore[no-untyped-def]
    """How many ones follow in `same` from i on; `words` is the same memory, eight at a time."""
    start = i
    size = same.size
    while i < size and i & 7:
        if not same[i]:
            return i - start
        i += 1
    while i < size and words[i >> 3] == _ONES:
        i += 8
    while i < size and same[i]:
        i += 1
    return i - start


@njit(cache=True, nogil=True)
def _code_lengths(frequency, longest):  # type: ignore[no-untyped-def]
    """Bits of each symbol's code, 0 where it does not occur: Huffman's, then shortened to `longest` bits."""
    symbols = frequency.size
    bits = np.zeros(symbols, np.int64)
    used = 0
    keys = np.empty(symbols, np.int64)
    for s in range(symbols):
        if frequency[s]:
            keys[used] = frequency[s] * 512 + s
            used += 1
    if used == 1:
        bits[keys[0] & 511] = 1
        return bits
    keys = np.sort(keys[:used])
    # Two queues, both ascending: leaves 0 to used - 1 and inner nodes used to 2 used - 2.
    weight = np.empty(2 * used - 1, np.int64)
    parent = np.zeros(2 * used - 1, np.int64)
    for k in range(used):
        weight[k] = keys[k] >> 9
    leaf, inner = 0, used
    for node in range(used, 2 * used - 1):
        total = 0
        for _ in range(2):
            if leaf < used and (inner >= node or weight[leaf] <= weight[inner]):
                child = leaf
                leaf += 1
            else:
                child = inner
                inner += 1
            parent[child] = node
            total += weight[child]
        weight[node] = total
    depth = np.zeros(2 * used - 1, np.int64)
    count = np.zeros(longest + 1, np.int64)
    for node in range(2 * used - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
        if node < used:
            count[min(depth[node], longest)] += 1
    # Codes that were cut to `longest` bits claim too much of the code space; a shorter code made longer gives some back.
    space = 0
    for length in range(1, longest + 1):
        space += count[length] << (longest - length)
    while space > 1 << longest:
        count[longest] -= 1
        for length in range(longest - 1, 0, -1):
            if count[length]:
                count[length] -= 1
                count[length + 1] += 2
                break
        space -= 1
    k = 0
    for length in range(longest, 0, -1):
        for _ in range(count[length]):
            bits[keys[k] & 511] = length
            k += 1
    return bits


@njit(cache=True, nogil=True)
def _codes(bits):  # type: ignore[no-untyped-def]
    """The canonical codes of RFC 1951 (3.2.2), bit-reversed, as they are sent from the lowest bit."""
    count = np.zeros(16, np.int64)
    for b in bits:
        count[b] += 1
    count[0] = 0
    following = np.zeros(17, np.int64)
    for length in range(1, 16):
        following[length + 1] = (following[length] + count[length]) << 1
    codes = np.zeros(bits.size, np.int64)
    for s in range(bits.size):
        if bits[s]:
            code = following[bits[s]]
            following[bits[s]] += 1
            turned = 0
            for _ in range(bits[s]):
                turned = (turned << 1) | (code & 1)
                code >>= 1
            codes[s] = turned
    return codes


@njit(cache=True, nogil=True)
def _header(bits, distances, order, out):  # type: ignore[no-untyped-def]
    """The block's head from byte 2 on: its type and both codes, their lengths run-length coded. Gives position, bits held, and these."""
    literals, farthest = 257, 1
    for s in range(286):
        if bits[s]:
            literals = max(literals, s + 1)
    for s in range(30):
        if distances[s]:
            farthest = max(farthest, s + 1)
    sent = np.empty(literals + farthest, np.int64)
    sent[:literals] = bits[:literals]
    sent[literals:] = distances[:farthest]
    symbol = np.empty(sent.size, np.int64)
    repeat = np.zeros(sent.size, np.int64)
    items = i = 0
    while i < sent.size:
        run = 1
        while i + run < sent.size and sent[i + run] == sent[i]:
            run += 1
        if sent[i] == 0 and run >= 3:
            run = min(run, 138)
            symbol[items], repeat[items] = (17, run - 3) if run <= 10 else (18, run - 11)
        elif i and sent[i] == sent[i - 1] and run >= 3:
            run = min(run, 6)
            symbol[items], repeat[items] = 16, run - 3
        else:
            run = 1
            symbol[items] = sent[i]
        items += 1
        i += run
    frequency = np.zeros(19, np.int64)
    for k in range(items):
        frequency[symbol[k]] += 1
    lengths = _code_lengths(frequency, 7)
    codes = _codes(lengths)
    last = 19
    while last > 4 and lengths[order[last - 1]] == 0:
        last -= 1
    position = 2
    hold = np.uint64(1 | (2 << 1) | ((literals - 257) << 3) | ((farthest - 1) << 8) | ((last - 4) << 13))
    held = 17
    for k in range(last + items):
        if k < last:
            value, width = lengths[order[k]], 3
        else:
            s = symbol[k - last]
            value, width = codes[s] | (repeat[k - last] << lengths[s]), lengths[s]
            if s >= 16:
                width += 2 if s == 16 else 3 if s == 17 else 7
        hold |= np.uint64(value) << np.uint64(held)
        held += width
        while held >= 8:
            out[position] = np.uint8(hold & np.uint64(255))
            position += 1
            hold >>= np.uint64(8)
            held -= 8
    return position, held, hold
