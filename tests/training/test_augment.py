import colorsys
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from scipy import stats
from scipy.ndimage import gaussian_filter

from training.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FramesAugment,
    ImageAugment,
    PointAugment,
    augment_frames,
    augment_image,
    augment_points,
    colour_jitter,
    crop,
    drop,
    jitter,
    normalise,
    plain_image,
    random_rotation,
    rng_for,
    rotation_y,
    shift_hue,
    take,
    translate,
)

STILL = PointAugment(normalise=False, scale=(1, 1), rotation="none", translate=0, jitter_sigma=0, dropout=0)
RARE = 1e-3  # seeds are fixed; a right implementation falls below this once in a thousand choices of them


def cloud(n: int = 200, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((n, 3)) * (1, 2, 0.5) + (3, -1, 0.2)).astype(np.float32)


def is_uniform(values: NDArray[np.float64], low: float, high: float) -> bool:
    return bool(stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > RARE)


# ---- random numbers --------------------------------------------------------------------------------------------------


def test_a_key_gives_the_same_numbers_for_ever() -> None:
    assert rng_for(1, 2, "chair-3", "points1").random(4).tolist() == rng_for(1, 2, "chair-3", "points1").random(4).tolist()
    # a change of these is a change of every training run
    assert rng_for(1, 2, "chair-3", "points1").integers(0, 2**32, 2).tolist() == [349076578, 3523922471]


def test_every_part_of_the_key_counts() -> None:
    keys = [(0, 0, "a", "s"), (1, 0, "a", "s"), (0, 1, "a", "s"), (0, 0, "b", "s"), (0, 0, "a", "t"), (0, 0, "as", ""), (0, 0, "", "as")]
    assert len({rng_for(*key).random() for key in [*keys, (-1, 0, "a", "s"), (10, 0, "a", "s")]}) == len(keys) + 2


def test_streams_and_neighbours_are_independent() -> None:
    draws = np.array([[rng_for(7, epoch, f"k{i}", s).random() for s in "ab"] for epoch in range(20) for i in range(100)])
    for column in draws.T:
        assert is_uniform(column, 0, 1)
    grid = draws[:, 0].reshape(20, 100)
    pairs = [(draws[:, 0], draws[:, 1]), (grid[:-1].ravel(), grid[1:].ravel()), (grid[:, :-1].ravel(), grid[:, 1:].ravel())]
    for left, right in pairs:
        assert stats.pearsonr(left, right).pvalue > RARE


# ---- clouds ----------------------------------------------------------------------------------------------------------


def test_normalise() -> None:
    out = normalise(cloud())
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(out, axis=1).max() == pytest.approx(1, abs=1e-6)
    centred = cloud().astype(float) - cloud().astype(float).mean(axis=0)
    np.testing.assert_allclose(out, centred / np.sqrt((centred**2).sum(axis=1)).max(), atol=1e-6)
    np.testing.assert_array_equal(normalise(np.full((5, 3), 2, np.float32)), np.zeros((5, 3)))


def test_rotation_about_y() -> None:
    for angle in (0.3, 2.0, 5.5):
        np.testing.assert_allclose(rotation_y(angle) @ (1, 0, 0), (math.cos(angle), 0, -math.sin(angle)), atol=1e-15)
        np.testing.assert_allclose(rotation_y(angle) @ (0, 1, 0), (0, 1, 0), atol=1e-15)
        assert np.linalg.det(rotation_y(angle)) == pytest.approx(1)


def test_the_view_turns_about_y_by_a_uniform_angle() -> None:
    config = STILL.model_copy(update={"rotation": "y"})
    x_axis = np.array([[1, 0, 0], [0, 0.5, 0]], np.float32)
    views = np.array([augment_points(x_axis, config, rng_for(0, 0, str(i), "r")) for i in range(2000)]).astype(float)
    np.testing.assert_allclose(views[:, 1], np.broadcast_to((0, 0.5, 0), (2000, 3)), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(views[:, 0], axis=1), 1, atol=1e-6)
    assert is_uniform(np.arctan2(-views[:, 0, 2], views[:, 0, 0]), -math.pi, math.pi)


def test_random_rotations_are_uniform_on_so3() -> None:
    rng = np.random.default_rng(5)
    rotations = np.array([random_rotation(rng) for _ in range(4000)])
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4000, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    # any fixed direction becomes a uniform point of the sphere: each of its coordinates is uniform (Archimedes)
    for direction in np.array([(1.0, 0, 0), (0, 0, 1), (0.36, 0.48, 0.8)]):
        for coordinate in (rotations @ direction).T:
            assert is_uniform(coordinate, -1, 1)
    # and the angle of the rotation has the density (1 − cos φ)/π: uniform angles about uniform axes would fail here
    angle = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda phi: (phi - np.sin(phi)) / math.pi).pvalue > RARE
    # Haar measure is unchanged by a fixed rotation
    assert (
        stats.ks_2samp(np.trace(rotations[:2000] @ rotation_y(1), axis1=1, axis2=2), np.trace(rotations[2000:], axis1=1, axis2=2)).pvalue
        > RARE
    )


def test_the_view_turns_rigidly_in_any_direction() -> None:
    config = STILL.model_copy(update={"rotation": "so3"})
    points = cloud(50)
    views = [augment_points(points, config, rng_for(0, 0, str(i), "r")).astype(float) for i in range(500)]
    rotation, *_ = np.linalg.lstsq(points.astype(float), views[0], rcond=None)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    firsts = np.array([view[0] for view in views]) / np.linalg.norm(points[0])
    for coordinate in firsts.T:
        assert is_uniform(coordinate, -1, 1)


def test_scale_is_one_uniform_factor() -> None:
    points = cloud(20)
    config = STILL.model_copy(update={"scale": (0.5, 2.0)})
    ratios = np.array([augment_points(points, config, rng_for(0, 0, str(i), "s")) for i in range(1500)]) / points
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :1, :1], ratios.shape), rtol=1e-5)
    assert is_uniform(ratios[:, 0, 0].astype(float), 0.5, 2)


def test_translation_is_bounded_by_the_extent_of_each_axis() -> None:
    points = cloud()
    rng = np.random.default_rng(0)
    extent = np.ptp(points.astype(float), axis=0)
    shifts = np.array([translate(points, rng, 0.5) for _ in range(1500)]).astype(float) - points
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1], shifts.shape), atol=2e-6)
    relative = shifts[:, 0] / extent
    for column in relative.T:
        assert is_uniform(column, -0.5, 0.5)
    assert stats.pearsonr(relative[:, 0], relative[:, 1]).pvalue > RARE


def test_translation_takes_the_box_as_it_is_after_rotation() -> None:
    rod = np.array([[-1, 0, 0], [1, 0, 0]], np.float32)  # lies along x; turned, its box changes, and so must its shift
    config = STILL.model_copy(update={"rotation": "so3", "translate": 0.5})
    views = np.array([augment_points(rod, config, rng_for(0, 0, str(i), "t")) for i in range(1500)]).astype(float)
    relative = views.mean(axis=1) / np.ptp(views, axis=1)
    for column in relative.T:
        assert is_uniform(column, -0.5, 0.5)


@pytest.mark.parametrize("rotation", ["none", "so3"])
def test_axes_are_scaled_one_by_one_and_before_the_rotation(rotation: str) -> None:
    config = PointAugment.model_validate(STILL.model_dump() | {"scale": (0.5, 2), "per_axis": True, "rotation": rotation})
    points = cloud()
    factors = []
    for number in range(300):
        view = augment_points(points, config, rng_for(0, number, "a", "v")).astype(float)
        linear = np.linalg.lstsq(points.astype(float), view, rcond=None)[0].T  # view = linear · point
        # rotation · diag(f): the columns stay orthogonal and have the factors as lengths
        lengths = np.linalg.norm(linear, axis=0)
        np.testing.assert_allclose(linear.T @ linear, np.diag(lengths**2), atol=1e-5)
        factors.append(lengths)
    found = np.array(factors)
    assert all(is_uniform(column, 0.5, 2) for column in found.T)
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.2


def test_a_shift_is_uniform_in_the_clouds_units() -> None:
    config = PointAugment.model_validate(STILL.model_dump() | {"shift": 0.2})
    points = cloud()
    moves = np.array([(augment_points(points, config, rng_for(0, n, "a", "v")) - points).mean(axis=0) for n in range(300)])
    assert all(is_uniform(column.astype(float), -0.2, 0.2) for column in moves.T)


def test_jitter_is_a_clipped_normal() -> None:
    points = np.zeros((40_000, 3), np.float32)
    fine = jitter(points, np.random.default_rng(0), 0.01, 0.05).astype(float).ravel()
    assert stats.kstest(fine, stats.norm(0, 0.01).cdf).pvalue > RARE
    assert np.abs(fine).max() <= 0.05
    coarse = jitter(points, np.random.default_rng(1), 0.05, 0.05)
    assert np.abs(coarse).max() <= np.float32(0.05)
    at_bound = float((np.abs(coarse) == np.float32(0.05)).mean())
    assert at_bound == pytest.approx(2 * stats.norm.sf(1), abs=0.005)  # clipped, not drawn again


def test_dropped_points_become_point_0() -> None:
    points = cloud(500)
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(800):
        out = drop(points, rng, 0.875)
        kept = (out == points).all(axis=1)
        assert out.shape == points.shape
        assert (out[~kept] == points[0]).all()
        shares.append(1 - kept[1:].mean())
    # r is U(0, 0.875); a share over 499 points adds a binomial spread of at most 0.023
    assert stats.kstest(shares, stats.uniform(0, 0.875).cdf).statistic < 0.08
    assert np.mean(shares) == pytest.approx(0.4375, abs=4 * 0.875 / math.sqrt(12 * 800))


def test_take() -> None:
    points = cloud(50)
    np.testing.assert_array_equal(take(points, 7), points[:7])
    rows = {tuple(p): i for i, p in enumerate(points.tolist())}
    rng = np.random.default_rng(0)
    drawn = np.array([[rows[tuple(p)] for p in take(points, 10, rng).tolist()] for _ in range(1000)])
    assert all(len(set(row)) == 10 for row in drawn.tolist())
    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=50)).pvalue > RARE
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=50)).pvalue > RARE  # point 0 has a part in dropout
    with pytest.raises(ValueError, match="51 points were asked for, but the cloud has 50"):
        take(points, 51, rng)


def test_the_papers_pipeline_as_a_whole() -> None:
    points = cloud(64)
    untouched = points.copy()
    views = [augment_points(points, PointAugment(), rng_for(0, 0, str(i), "points1")) for i in range(400)]
    np.testing.assert_array_equal(points, untouched)
    for view in views:
        assert view.shape == (64, 3)
        assert view.dtype == np.float32
        assert view.flags.c_contiguous
        # radius at most 2, shift at most half of an extent of at most 4, noise at most 0.05
        assert np.abs(view).max() <= 2 + 2 + 0.05
    radii = [np.linalg.norm(v - (v.max(axis=0) + v.min(axis=0)) / 2, axis=1).max() for v in views]
    assert 0.3 < min(radii) < 0.75
    assert 1.6 < max(radii) < 2.3


def test_first_points() -> None:
    points = cloud(64)
    np.testing.assert_array_equal(
        augment_points(points, STILL.model_copy(update={"count": 9, "draw": "first"}), rng_for(0, 0, "", "")), points[:9]
    )


@pytest.mark.parametrize("wrong", [{"scale": (2, 1)}, {"scale": (0, 1)}, {"rotation": "z"}, {"dropout": 1.5}, {"count": 0}, {"sigma": 1}])
def test_configuration_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PointAugment.model_validate(wrong)


# ---- images ----------------------------------------------------------------------------------------------------------


def picture(size: int = 32, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    smooth = gaussian_filter(np.random.default_rng(seed).random((size, size, channels)), (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 200 + 20).astype(np.uint8)


def back_to_bytes(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Undoes ImageNet's standardisation: (H, W, 3) from 0 to 255."""
    return (image.transpose(1, 2, 0).astype(float) * IMAGENET_STD + IMAGENET_MEAN) * 255


def test_plain_image_is_imagenet_standardised() -> None:
    image = picture()
    out = plain_image(image, ImageAugment(size=32))
    assert out.shape == (3, 32, 32)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, ((image / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 80), (20, 12)])
def test_resize_is_the_antialiased_bilinear_one(shape: tuple[int, int]) -> None:
    image = np.ascontiguousarray(picture(96)[: shape[0], : shape[1]])
    out = back_to_bytes(plain_image(image, ImageAugment(size=24)))

    def weights(inputs: int) -> NDArray[np.float64]:  # a triangle as wide as the larger pixel, at each output's centre
        support = max(inputs / 24, 1)
        centres = (np.arange(24) + 0.5) * inputs / 24
        w = np.clip(1 - np.abs(np.arange(inputs)[None] + 0.5 - centres[:, None]) / support, 0, None)
        return w / w.sum(axis=1, keepdims=True)

    expected = np.einsum("yh,hwc,xw->yxc", weights(shape[0]), image.astype(float), weights(shape[1]))
    assert np.abs(out - expected).max() <= 1.01  # two passes rounded to bytes


def test_alpha_is_dropped_or_laid_over_a_colour() -> None:
    image = picture(16, 4)
    image[:8, :, 3] = 0
    image[8:, :, 3] = 255
    for size in (16, 8):
        dropped = plain_image(image, ImageAugment(size=size))
        np.testing.assert_array_equal(dropped, plain_image(np.ascontiguousarray(image[:, :, :3]), ImageAugment(size=size)))
    laid = back_to_bytes(plain_image(image, ImageAugment(size=16, background=(255, 10, 0))))
    np.testing.assert_allclose(laid[:8], np.broadcast_to((255, 10, 0), (8, 16, 3)), atol=1e-3)
    np.testing.assert_allclose(laid[8:], image[8:, :, :3], atol=1e-3)
    image[:, :, 3] = 128
    half = back_to_bytes(plain_image(image, ImageAugment(size=16, background=(255, 255, 255))))
    np.testing.assert_allclose(half, image[:, :, :3] * (128 / 255) + 255 * (127 / 255), atol=0.51)


@pytest.mark.parametrize("strengths", [(0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.4)])
def test_each_colour_change_is_pillows_enhancement_with_a_uniform_factor(strengths: tuple[float, float, float]) -> None:
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[[s > 0 for s in strengths].index(True)]
    image = picture()
    bytes_image, factors = Image.fromarray(image), []
    for i in range(300):
        out = image.transpose(2, 0, 1).astype(np.float32)
        colour_jitter(out, rng_for(0, 0, str(i), "c"), *strengths)
        # the factor that explains the pixels that no bound has cut
        zero, one = np.asarray(enhance(bytes_image).enhance(0.0)).astype(float), image.astype(float)
        free = (out.transpose(1, 2, 0) > 0.5) & (out.transpose(1, 2, 0) < 254.5)
        direction, moved = (one - zero)[free], (out.transpose(1, 2, 0) - zero)[free]
        factors.append(float(direction @ moved / (direction @ direction)))
        if i < 20:
            expected = np.asarray(enhance(bytes_image).enhance(factors[-1])).astype(float)
            assert np.abs(out.transpose(1, 2, 0) - expected).max() <= 1.6  # bytes of grey and of the result
    assert is_uniform(np.array(factors), 0.6, 1.4)


def test_colour_changes_come_in_every_order() -> None:
    image = picture(8).astype(float)

    def brightness(x: NDArray[np.float64], f: float) -> NDArray[np.float64]:
        return np.clip(f * x, 0, 255)

    def grey(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ (0.299, 0.587, 0.114)

    def contrast(x: NDArray[np.float64], f: float) -> NDArray[np.float64]:
        return np.clip(f * x + (1 - f) * grey(x).mean(), 0, 255)

    def saturation(x: NDArray[np.float64], f: float) -> NDArray[np.float64]:
        return np.clip(f * x + (1 - f) * grey(x)[..., None], 0, 255)

    changes = {"b": brightness, "c": contrast, "s": saturation}
    orders = dict.fromkeys(("bcs", "bsc", "cbs", "csb", "sbc", "scb"), 0)
    rng = np.random.default_rng(0)
    for _ in range(600):
        state = rng.bit_generator.state
        out = image.transpose(2, 0, 1).astype(np.float32)
        colour_jitter(out, rng, 0.4, 0.4, 0.4)
        replay = np.random.default_rng(0)
        replay.bit_generator.state = state
        replay.permutation(3)
        factors = replay.uniform(0.6, 1.4, 3)
        errors = {}
        for order in orders:
            x = image
            for name, factor in zip(order, factors, strict=True):
                x = changes[name](x, factor)
            errors[order] = np.abs(out.transpose(1, 2, 0) - x).max()
        best = min(errors, key=lambda name: errors[name])
        assert errors[best] < 2e-3
        orders[best] += 1
    assert stats.chisquare(list(orders.values())).pvalue > RARE


def test_a_crop_keeps_its_share_of_the_area_and_lies_anywhere() -> None:
    height, width = 60, 80
    image = np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width), 0), axis=-1).astype(np.uint8)
    shares, corners = [], []
    for number in range(400):
        part = crop(image, rng_for(0, number, "a", "i"), (0.25, 1.0))
        top, left = part[0, 0, :2].tolist()
        assert np.array_equal(part, image[top : top + part.shape[0], left : left + part.shape[1]])
        assert abs(part.shape[0] / part.shape[1] - height / width) < 0.04
        shares.append(part.shape[0] * part.shape[1] / (height * width))
        corners.append((top / max(1, height - part.shape[0]), left / max(1, width - part.shape[1])))
    assert min(shares) == pytest.approx(0.25, abs=0.03)
    assert max(shares) == pytest.approx(1.0, abs=0.03)
    assert np.mean(shares) == pytest.approx(0.625, abs=0.04)
    assert np.allclose(np.mean(corners, axis=0), 0.5, atol=0.08)


def test_an_image_is_cropped_before_it_is_resized() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    config = ImageAugment(size=20, crop=(0.5, 0.5), brightness=0, contrast=0, saturation=0, flip=0)
    view = augment_image(image, config, rng_for(0, 0, "a", "i"))
    part = crop(image, rng_for(0, 0, "a", "i"), (0.5, 0.5))
    assert part.shape == (28, 28, 3)
    np.testing.assert_array_equal(view, plain_image(part, config))
    with pytest.raises(ValidationError, match="crop"):
        ImageAugment(crop=(0.9, 0.5))


def test_half_of_the_images_are_mirrored() -> None:
    image = picture()
    config = ImageAugment(size=32, brightness=0, contrast=0, saturation=0)
    plain = plain_image(image, config)
    mirrored = 0
    for i in range(400):
        out = augment_image(image, config, rng_for(0, 0, str(i), "image"))
        assert out.flags.c_contiguous
        flipped = bool((out == plain[:, :, ::-1]).all())
        assert flipped or (out == plain).all()
        mirrored += flipped
    assert stats.binomtest(mirrored, 400, 0.5).pvalue > RARE


def test_a_view_is_a_function_of_its_key() -> None:
    image, config = picture(40, 4), ImageAugment(size=24)
    first = augment_image(image, config, rng_for(3, 1, "k", "image"))
    np.testing.assert_array_equal(first, augment_image(image, config, rng_for(3, 1, "k", "image")))
    assert np.abs(first - augment_image(image, config, rng_for(3, 2, "k", "image"))).max() > 0.01
    np.testing.assert_array_equal(image, picture(40, 4))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
def test_refuses_what_is_no_image(wrong: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="an image must be"):
        plain_image(wrong, ImageAugment(size=4))  # type: ignore[arg-type]


# ---- image videos ----------------------------------------------------------------------------------------------------


def test_every_frame_of_a_video_gets_the_same_crop_and_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    config = FramesAugment(size=12, crop=(0.4, 0.9))
    for number in range(20):
        video = augment_frames([image] * 5, config, rng_for(0, number, "a", "images"))
        assert video.shape == (5, 3, 12, 12)
        assert (video == video[0]).all()
    different = [np.roll(image, shift, axis=1) for shift in range(3)]
    first = augment_frames(different, config, rng_for(0, 1, "a", "images"))
    np.testing.assert_array_equal(first, augment_frames(different, config, rng_for(0, 1, "a", "images")))
    np.testing.assert_array_equal(first[0], augment_frames([image], config, rng_for(0, 1, "a", "images"))[0])
    with pytest.raises(ValueError, match="must have one size"):
        augment_frames([image, image[:10]], config, rng_for(0, 1, "a", "images"))


def test_a_video_without_random_steps_is_its_plain_images() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    config = FramesAugment(size=16, crop=(1.0, 1.0), colours=0.0)
    for number in range(10):
        found = augment_frames(images, config, rng_for(0, number, "a", "images"))
        np.testing.assert_array_equal(found, np.stack([plain_image(image, config) for image in images]))


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0.0, 0.1, 0.4])
def test_hue_turns_as_in_the_colour_model_of_python(turns: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 6, 7)).astype(np.float32)
    image[:, 0] = 90  # grey has no hue
    expected = np.empty_like(image)
    for row, column in np.ndindex(6, 7):
        h, s, v = colorsys.rgb_to_hsv(*(image[:, row, column] / 255).tolist())
        expected[:, row, column] = 255 * np.array(colorsys.hsv_to_rgb((h + turns) % 1, s, v))
    np.testing.assert_allclose(shift_hue(image, turns), expected, atol=1e-3)
