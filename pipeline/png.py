"""PNG with pinned parameters: no filter, then the deflate of `pipeline.deflate`, made for rendered pictures.

Bytes are a function of the pixels alone, on every host. Any PNG reader opens the files; those of others, with filters, palettes or
interlacing, are decoded by Pillow.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

IsalError: Any = isal_zlib.error
CODEC = "png filter none, crossloom deflate 1"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I4sI", 0, b"IEND", 0xAE426082)
_COLOR_TYPE = {1: 0, 3: 2, 4: 6}
_CHANNELS = {0: 1, 2: 3, 6: 4}


class Hash(Protocol):
    """What of hashlib is used here."""

    def update(self, data: Any, /) -> None: ...


def encode(image: Image, pixels: Hash | None = None) -> bytes:
    """uint8 (H, W), (H, W, 3) or (H, W, 4), or uint16 (H, W), as a PNG; strides may be any. Raises ValueError for other arrays.

    `pixels` is fed the picture's scanlines, each after a zero byte, 16 bits in big-endian order: an identity whatever the codec.
    """
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.ndim not in (2, 3) or channels not in _COLOR_TYPE or image.dtype not in (np.uint8, np.uint16) or not image.size:
        raise ValueError(f"a picture must be uint8 (H, W), (H, W, 3), (H, W, 4) or uint16 (H, W), not {image.dtype} {image.shape}")
    if image.dtype == np.uint16 and image.ndim != 2:
        raise ValueError("16 bits are for one channel only")
    from pipeline.deflate import compress, scanlines  # readers need no compiled encoder

    height, width = image.shape[:2]
    depth = 8 * image.dtype.itemsize
    plain: npt.NDArray[Any] = image.astype(">u2").view(np.uint8) if depth == 16 else image
    rows = scanlines(plain.reshape(height, -1, channels))
    if pixels is not None:
        pixels.update(rows)
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOR_TYPE[channels], 0, 0, 0)
    stream = compress(rows.reshape(-1), channels * depth // 8, rows.shape[1])
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", stream), _END))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I4s", len(data), kind), data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))))


def decode(data: bytes) -> Image:
    """The pixels of a PNG: (H, W, C) uint8 with C of 1, 3 or 4, or (H, W, 1) uint16. Raises ValueError where it is damaged."""
    try:
        return _decode_plain(data)
    except (struct.error, IsalError, IndexError) as error:
        raise ValueError(f"the PNG is damaged ({error})") from None


def _decode_plain(data: bytes) -> Image:
    if data[:8] != _SIGNATURE:
        raise ValueError("these bytes are no PNG")
    if data[12:16] != b"IHDR":
        raise ValueError("the PNG is damaged (it has no header)")
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if color not in _CHANNELS or interlaced or not (depth == 8 or (depth == 16 and color == 0)):
        return _decode_any(data)
    parts: list[bytes] = []
    position = 8
    while True:
        size, kind = struct.unpack_from(">I4s", data, position)
        (crc,) = struct.unpack_from(">I", data, position + 8 + size)
        if isal_zlib.crc32(data[position + 4 : position + 8 + size]) != crc:
            raise ValueError("the PNG is damaged (a checksum is wrong)")
        if kind == b"IEND":
            break
        if kind == b"tRNS":
            return _decode_any(data)
        if kind == b"IDAT":
            parts.append(data[position + 8 : position + 8 + size])
        position += 12 + size
    stride = 1 + width * _CHANNELS[color] * depth // 8
    raw = np.frombuffer(isal_zlib.decompress(parts[0] if len(parts) == 1 else b"".join(parts), bufsize=height * stride), np.uint8)
    if raw.size != height * stride:
        raise ValueError("the PNG is damaged (rows are missing)")
    rows = raw.reshape(height, stride)
    if rows[:, 0].any():
        return _decode_any(data)
    pixels = np.ascontiguousarray(rows[:, 1:])
    if depth == 16:
        return pixels.view(">u2").astype(np.uint16).reshape(height, width, 1)
    return pixels.reshape(height, width, _CHANNELS[color])


def _decode_any(data: bytes) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode.startswith("I"):
                array: npt.NDArray[Any] = np.asarray(picture).astype(np.uint16)
            elif picture.mode in ("L", "RGB", "RGBA"):
                array = np.array(picture)
            else:
                array = np.array(picture.convert("RGBA" if "transparency" in picture.info or "A" in picture.mode else "RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the PNG is damaged ({error})") from None
    return array[..., None] if array.ndim == 2 else array
