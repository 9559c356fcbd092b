import io
import subprocess
import sys
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import deflate, png


def scene(seed: int, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """Flat background, gradients and noise: every kind of run and literal."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, channels), rng.integers(0, 256), np.uint8)
    image[height // 4 : height // 2] = (np.arange(width) // 3 % 256).astype(np.uint8)[:, None]
    image[height // 2 :, width // 3 :] = rng.integers(0, rng.integers(1, 257), image[height // 2 :, width // 3 :].shape, dtype=np.uint8)
    return image


def pillow(data: bytes) -> npt.NDArray[np.generic]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3), (224, 224), (33, 11000)])
def test_pillow_and_we_read_what_we_write(size: tuple[int, int], channels: int) -> None:
    image = scene(sum(size) + channels, *size, channels)
    flat = image[..., 0] if channels == 1 else image
    data = png.encode(flat)
    np.testing.assert_array_equal(pillow(data), flat)
    np.testing.assert_array_equal(png.decode(data), image)


def test_sixteen_bits() -> None:
    depth = np.add.outer(np.arange(300) * 97, np.arange(200) * 13).astype(np.uint16)
    data = png.encode(depth)
    np.testing.assert_array_equal(pillow(data), depth)
    np.testing.assert_array_equal(png.decode(data)[..., 0], depth)
    assert png.decode(data).dtype == np.uint16


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(1, 4), st.integers(5, 40000), st.integers(1, 9))
def test_zlib_inflates_what_we_deflate(data: bytes, near: int, far: int, repeat: int) -> None:
    array = np.frombuffer(data * repeat, np.uint8)
    assert zlib.decompress(deflate.compress(array, near, far)) == data * repeat


@pytest.mark.parametrize("ratio", [1.3, 1.62, 2.0])
def test_codes_of_extreme_frequencies_stay_within_fifteen_bits(ratio: float) -> None:
    # Frequencies that grow like Fibonacci's numbers make Huffman's tree as deep as it can be.
    counts = np.minimum(ratio ** np.arange(28), 40000).astype(int)
    symbols = np.repeat(np.arange(len(counts)).astype(np.uint8) * 9, counts)
    data = np.random.default_rng(0).permutation(symbols)
    assert zlib.decompress(deflate.compress(data, 1, 5000)) == data.tobytes()
    bits = deflate._code_lengths(np.bincount(data, minlength=286), 15)
    assert bits.max() <= 15
    assert sum(2.0**-b for b in bits if b) == 1.0


def test_every_length_of_a_run_is_told_rightly() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for length in range(1, 800, 1):
        parts += [rng.integers(0, 256, 7, dtype=np.uint8), np.full(length, length % 251, np.uint8)]
    data = np.concatenate(parts)
    for far in (0, 300, 32768, 32769):
        assert zlib.decompress(deflate.compress(data, 1, far)) == data.tobytes()


def test_every_distance_of_the_format_is_told_rightly() -> None:
    block = np.random.default_rng(2).integers(0, 256, 32768, dtype=np.uint8)
    for distance in (
        5,
        6,
        7,
        8,
        9,
        12,
        13,
        16,
        17,
        24,
        25,
        192,
        193,
        256,
        257,
        673,
        769,
        897,
        3073,
        4097,
        12289,
        16384,
        16385,
        24576,
        24577,
        32768,
    ):
        data = np.tile(block[:distance], 3)[: distance + 700]
        packed = deflate.compress(data, 4, distance)
        assert zlib.decompress(packed) == data.tobytes()
        assert len(packed) < distance + 400


def test_the_bytes_do_not_depend_on_what_came_before() -> None:
    code = (
        "import sys, hashlib, numpy as np\nfrom pipeline import png\nrng = np.random.default_rng(int(sys.argv[1]))\n"
        "for _ in range(int(sys.argv[1])):\n    png.encode(rng.integers(0, 256, (rng.integers(1, 300), 70, 3), dtype=np.uint8))\n"
        "image = (np.arange(90 * 80 * 3).reshape(90, 80, 3) // 50 % 256).astype(np.uint8)\n"
        "print(hashlib.sha256(png.encode(image)).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout for n in ("0", "9")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "I;16"])
def test_pictures_of_others_are_read_as_pillow_reads_them(mode: str) -> None:
    image = (
        Image.fromarray(scene(5, 60, 70, 3)).convert(mode)
        if mode != "I;16"
        else Image.fromarray(np.arange(4200, dtype=np.uint16).reshape(60, 70))
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    found = png.decode(buffer.getvalue())
    expected = np.asarray(image.convert("RGBA") if mode == "LA" else image.convert("RGB") if mode in ("P", "1") else image)
    np.testing.assert_array_equal(found, expected if expected.ndim == 3 else expected[..., None])


def test_damage_is_told() -> None:
    data = png.encode(scene(3, 50, 50, 3))
    for broken in (b"", b"no picture", data[:100], data[:-30], data[:60] + b"\0\0\0\0" + data[64:]):
        with pytest.raises(ValueError, match="PNG"):
            png.decode(broken)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint16), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(image: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8|16 bits"):
        png.encode(image)
