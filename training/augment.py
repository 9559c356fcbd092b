"""Random views of clouds and images, and the random numbers that they are made from.

Point steps and image steps follow CrossPoint (arXiv 2203.00680, as released): its pipeline is the default of both
configurations, in its order and with its parameters. Clouds are (N, 3) float32, images (H, W, 3 or 4) uint8.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

Cloud = NDArray[np.float32]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def rng_for(seed: int, epoch: int, sample_key: str, stream: str) -> Generator:
    """The generator of one sample's random numbers in one epoch; `stream` separates uses within a sample (view 1, view 2, image).

    A function of the four arguments alone (PCG64 seeded by their BLAKE2b hash), so neither the order of samples nor the
    worker that draws them matters.
    """
    name = repr((int(seed), int(epoch), str(sample_key), str(stream))).encode()
    return Generator(PCG64(int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")))


# ---- clouds ----------------------------------------------------------------------------------------------------------


class PointAugment(BaseModel):
    """One random view of a cloud. The steps run in the order of the fields; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="points taken of the cloud; all, in their order, if not given"
    )
    draw: Literal["random", "first"] = Field(default="random", description="which points, where `count` is given")
    normalise: bool = Field(default=True, description="mean to the origin, largest norm to 1")
    scale: tuple[float, float] = Field(default=(0.5, 2.0), description="range of one factor for all axes")
    per_axis: bool = Field(default=False, description="a factor of its own for each axis, before the rotation")
    rotation: Literal["y", "so3", "none"] = Field(default="y", description="about the y axis, any rotation, or none; uniform")
    translate: float = Field(default=0.5, ge=0, description="largest shift along an axis, in extents of the cloud along it")
    shift: float = Field(default=0.0, ge=0, description="largest shift along an axis, in the cloud's units")
    jitter_sigma: float = Field(default=0.01, ge=0, description="standard deviation of a coordinate's noise")
    jitter_clip: float = Field(default=0.05, ge=0, description="largest noise of a coordinate")
    dropout: float = Field(default=0.875, ge=0, le=1, description="largest share of points overwritten by the first point")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale must be two positive numbers, the smaller first, got {self.scale}")
        return self


def take(points: Cloud, count: int | None, rng: Generator | None = None) -> Cloud:
    """`count` points of the cloud: drawn without replacement in random order, or without `rng` the first ones.

    ValueError if the cloud has fewer.
    """
    if count is None:
        return points
    if count > len(points):
        raise ValueError(f"{count} points were asked for, but the cloud has {len(points)}: lower `count` or sample more points")
    if rng is None:
        return points[:count]
    return points.take(rng.choice(len(points), count, replace=False), axis=0)


def normalise(points: Cloud) -> Cloud:
    """The cloud with its mean at the origin and its farthest point at distance 1; a cloud of one place becomes zeros."""
    centred: Cloud = points - points.T.copy().mean(axis=1)  # reductions over a long first axis of 3 columns are slow in NumPy
    radius = math.sqrt(float(np.einsum("ij,ij->i", centred, centred).max()))
    if radius > 0:
        centred *= np.float32(1 / radius)
    return centred


def rotation_y(angle_rad: float) -> NDArray[np.float64]:
    """(3, 3) rotation about y for column vectors: (1, 0, 0) goes to (cos θ, 0, −sin θ)."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def random_rotation(rng: Generator) -> NDArray[np.float64]:
    """(3, 3) rotation, uniform on SO(3) (Haar): a normalised 4-d Gaussian read as a quaternion (Shoemake 1992)."""
    q = rng.standard_normal(4)
    w, x, y, z = (q / math.sqrt(float(q @ q))).tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def translate(points: Cloud, rng: Generator, largest: float) -> Cloud:
    """The cloud moved along each axis by U(−largest, largest) times its extent along that axis."""
    columns = points.T.copy()  # as in `normalise`
    extent = columns.max(axis=1) - columns.min(axis=1)
    moved: Cloud = points + (rng.uniform(-largest, largest, 3) * extent).astype(np.float32)
    return moved


def jitter(points: Cloud, rng: Generator, sigma: float, clip: float) -> Cloud:
    """The cloud with noise N(0, sigma) clipped to ±clip on every coordinate."""
    noise: Cloud = rng.standard_normal(points.shape, dtype=np.float32)
    noise *= np.float32(sigma)
    np.clip(noise, -clip, clip, out=noise)
    noise += points
    return noise


def drop(points: Cloud, rng: Generator, largest: float) -> Cloud:
    """The cloud with each point overwritten by point 0 with probability r, r drawn from U(0, largest); N stays."""
    ratio = largest * rng.random()
    lost = rng.random(len(points), dtype=np.float32) < ratio
    dropped: Cloud = np.where(lost[:, None], points[0], points)
    return dropped


def augment_points(points: Cloud, config: PointAugment, rng: Generator) -> Cloud:
    """A random view (N or `count`, 3) float32 of a cloud (N, 3) float32, N ≥ 1; the argument is not changed."""
    view = take(points, config.count, rng if config.draw == "random" else None)
    if config.normalise:
        view = normalise(view)
    factor = rng.uniform(*config.scale, 3 if config.per_axis else None)
    if config.rotation == "y":
        view = view @ (factor * rotation_y(rng.uniform(0, 2 * math.pi))).T.astype(np.float32)
    elif config.rotation == "so3":
        view = view @ (factor * random_rotation(rng)).T.astype(np.float32)
    else:
        view = view * np.asarray(factor, np.float32)
    if config.translate:
        view = translate(view, rng, config.translate)
    if config.shift:
        view = view + rng.uniform(-config.shift, config.shift, 3).astype(np.float32)
    if config.jitter_sigma:
        view = jitter(view, rng, config.jitter_sigma, config.jitter_clip)
    if config.dropout:
        view = drop(view, rng, config.dropout)
    return view


# ---- images ----------------------------------------------------------------------------------------------------------


_Byte = Annotated[int, Field(ge=0, le=255)]


class ImageAugment(BaseModel):
    """One random view of an image. The steps run in the order of the fields; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: tuple[_Byte, _Byte, _Byte] | None = Field(
        default=None, description="colour that RGBA is laid over; if not given, alpha is dropped and the colours under it show"
    )
    crop: tuple[float, float] = Field(default=(1.0, 1.0), description="range of the share of the area that a crop keeps, at a random place")
    size: int = Field(default=224, ge=1, description="both sides in pixels, to which the image or the crop is resized")
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a mirror image, left to right")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.crop
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop must be two shares of the area in (0, 1], the smaller first, got {self.crop}")
        return self


def crop_box(height: int, width: int, rng: Generator, shares: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of a part of an image with its aspect ratio and a share of its area from U(shares), at a uniform place."""
    side = math.sqrt(rng.uniform(*shares))
    h, w = max(1, round(height * side)), max(1, round(width * side))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return slice(top, top + h), slice(left, left + w)


def crop(image: NDArray[np.uint8], rng: Generator, shares: tuple[float, float]) -> NDArray[np.uint8]:
    """The part of an (H, W, C) image in a random `crop_box`."""
    rows, columns = crop_box(image.shape[0], image.shape[1], rng, shares)
    return image[rows, columns]


def _planar(image: NDArray[np.uint8], size: int, background: tuple[int, int, int] | None) -> NDArray[np.float32]:
    """(H, W, 3 or 4) uint8 to (3, size, size) float32 from 0 to 255: alpha removed, resized by antialiased bilinear weights."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or image.size == 0:
        raise ValueError(f"an image must be (H, W, 3 or 4) uint8, got {image.shape} {image.dtype}")
    if image.shape[2] == 4 and background is not None:
        alpha = image[:, :, 3:].astype(np.float32) / 255
        laid = image[:, :, :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
        image = (laid + 0.5).astype(np.uint8)
    if image.shape[:2] != (size, size):
        height, width, channels = image.shape
        # as RGBX, not RGBA: Pillow would weigh colours by their alpha
        mode = "RGB" if channels == 3 else "RGBX"
        whole = Image.frombuffer(mode, (width, height), np.ascontiguousarray(image), "raw", mode, 0, 1)
        image = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))
    planar = np.empty((3, size, size), np.float32)
    np.copyto(planar, image[:, :, :3].transpose(2, 0, 1))
    return planar


_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_GAIN = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)[:, None, None]
_OFFSET = (np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)[:, None, None]


def colour_jitter(image: NDArray[np.float32], rng: Generator, brightness: float, contrast: float, saturation: float) -> None:
    """Changes a (3, H, W) float32 image with values from 0 to 255 in place, as torchvision's `ColorJitter` does a float image.

    The three changes come in random order. Each has a factor f from U(1 − strength, 1 + strength) and gives
    f·image + (1 − f)·other, clipped to the range; other is black (brightness), the mean grey of the whole image (contrast) or
    each pixel's own grey (saturation). A strength of 0 leaves its change out.
    """
    change_colours(image, draw_colours(rng, brightness, contrast, saturation))


def draw_colours(rng: Generator, brightness: float, contrast: float, saturation: float) -> list[tuple[int, np.float32]]:
    """The changes of `colour_jitter` in their order: (0 brightness, 1 contrast or 2 saturation, factor)."""
    strengths = (brightness, contrast, saturation)
    order = [which for which in rng.permutation(3).tolist() if strengths[which]]
    return [(which, np.float32(rng.uniform(1 - strengths[which], 1 + strengths[which]))) for which in order]


def change_colours(image: NDArray[np.float32], changes: list[tuple[int, np.float32]]) -> None:
    """Makes these changes to a (3, H, W) float32 image with values from 0 to 255, in place."""
    for which, factor in changes:
        if which == 0:
            image *= factor
        else:
            grey = np.tensordot(_GREY, image, axes=1)
            image *= factor
            image += (1 - factor) * (grey.mean() if which == 1 else grey)
        if factor > 1:  # between two images in range, the result is in range
            np.clip(image, 0, 255, out=image)


def _standardised(image: NDArray[np.float32]) -> NDArray[np.float32]:
    out = image * _GAIN
    out -= _OFFSET
    return out


def augment_image(image: NDArray[np.uint8], config: ImageAugment, rng: Generator) -> NDArray[np.float32]:
    """A random view (3, size, size) float32 of an image (H, W, 3 or 4) uint8, in units of ImageNet's mean and deviation."""
    if config.crop[0] < 1:
        image = crop(image, rng, config.crop)
    view = _planar(image, config.size, config.background)
    colour_jitter(view, rng, config.brightness, config.contrast, config.saturation)
    mirrored = rng.random() < config.flip
    return _standardised(view[:, :, ::-1] if mirrored else view)


def plain_image(image: NDArray[np.uint8], config: ImageAugment) -> NDArray[np.float32]:
    """The image as `augment_image` would return it without its random steps."""
    return _standardised(_planar(image, config.size, config.background))


# ---- image videos ----------------------------------------------------------------------------------------------------


class FramesAugment(ImageAugment):
    """One random view of an image video: one crop and one change of colours for all of its frames."""

    crop: tuple[float, float] = Field(default=(0.6, 1.0), description="range of the share of the area that a crop keeps")
    flip: float = Field(default=0.0, ge=0, le=0, description="no: `ClipAugment.flip` mirrors a clip's points and images together")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="largest shift of the hue, in turns")
    colours: float = Field(default=0.8, ge=0, le=1, description="probability that colours change at all")


def shift_hue(image: NDArray[np.float32], turns: float) -> NDArray[np.float32]:
    """A (3, H, W) image with values from 0 to 255 whose hue (of HSV) is moved; value and chroma of each pixel stay."""
    value, low = image.max(axis=0), image.min(axis=0)
    chroma = value - low
    r, g, b = image
    safe = np.where(chroma > 0, chroma, 1)
    sector = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)) + 6 * turns
    # a channel falls from full to none over one sector of the hue and stays for two; n places red, green and blue on the circle
    out = [value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1) for k in ((sector + n) % 6 for n in (5, 3, 1))]
    return np.stack(out).astype(np.float32)


def augment_frames(images: Sequence[NDArray[np.uint8]], config: FramesAugment, rng: Generator) -> NDArray[np.float32]:
    """A random view (T, 3, size, size) float32 of T images (H, W, 3 or 4) uint8, in units of ImageNet's mean and deviation.

    Every frame has the same crop, factors and hue. ValueError for frames of different sizes.
    """
    if len({image.shape for image in images}) != 1:
        raise ValueError(f"the frames of a video must have one size, got {sorted({image.shape for image in images})}")
    height, width = images[0].shape[:2]
    rows, columns = crop_box(height, width, rng, config.crop) if config.crop[0] < 1 else (slice(None), slice(None))
    coloured = rng.random() < config.colours
    changes = draw_colours(rng, config.brightness, config.contrast, config.saturation)
    turns = rng.uniform(-config.hue, config.hue)
    views = []
    for image in images:
        view = _planar(image[rows, columns], config.size, config.background)
        if coloured:
            change_colours(view, changes)
            view = shift_hue(view, turns) if config.hue else view
        views.append(_standardised(view))
    return np.stack(views)
