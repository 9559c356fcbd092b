"""Which frames each stream sees and which of them correspond; one geometric draw a clip; what is read of a sample."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.reader import Dataset
from tests.training.clip_cases import write_clips
from training.augment import rng_for
from training.clip_views import (
    ClipAugment,
    augment_clip,
    choose_points,
    draw_frames,
    load_frames,
    mirrored,
    move_clip,
    normalise_clip,
    pivot_of,
    plain_clip,
    plain_frames,
    read_clip,
    rotation_z,
    starts,
    take_points,
)

STILL = ClipAugment(normalise="none", rotation="none", scale=(1.0, 1.0), translate=0.0, jitter_sigma=0.0)


def draws(length: int, config: ClipAugment, count: int = 300) -> list[Any]:
    return [draw_frames(length, config, rng_for(0, number, "clip", "frames")) for number in range(count)]


def random_clip(frames: int = 6, points: int = 40, columns: int = 3) -> NDArray[np.float32]:
    clip = np.random.default_rng(1).standard_normal((frames, points, columns)).astype(np.float32)
    clip[:, :, :3] += np.linspace(0, 2, frames, dtype=np.float32)[:, None, None]
    return clip


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "frames", "step"), [(16, 8, 1), (16, 7, 1), (30, 8, 3), (300, 100, 2), (17, 8, 2), (9, 1, 4)])
def test_windows_rise_inside_the_clip_and_share_at_least_half_their_frames(length: int, frames: int, step: int) -> None:
    config = ClipAugment(frames=frames, step=step)
    for drawn in draws(length, config):
        lists = drawn.frames
        assert lists.shape == (3, frames)
        assert (np.diff(lists, axis=1) == step).all()
        assert lists.min() >= 0
        assert lists.max() < length
        assert (lists[:, 0] % step == 0).all()
        assert not drawn.short
        for a, b in itertools.combinations(range(3), 2):
            assert len(np.intersect1d(lists[a], lists[b])) >= frames / 2
        np.testing.assert_array_equal(drawn.partners, lists)  # equal partners are equal source frames


def test_every_start_occurs_and_both_point_views_start_alike_as_often_as_counted() -> None:
    config = ClipAugment(frames=8)
    first = np.array([drawn.frames[:, 0] for drawn in draws(16, config, 4000)])
    for stream in range(3):
        assert set(first[:, stream]) == set(range(9))
    pairs = [(a, b) for a in range(9) for b in range(9) if abs(a - b) <= 4]
    expected = 9 / len(pairs)  # 0.1475
    assert abs((first[:, 0] == first[:, 1]).mean() - expected) < 4 * np.sqrt(expected / 4000)
    counts = np.array([((first[:, 0] == a) & (first[:, 1] == b)).sum() for a, b in pairs])
    assert ((counts - 4000 / len(pairs)) ** 2 / (4000 / len(pairs))).sum() < 110  # chi² of 60 degrees: 99.99 % lie below
    # the images start anywhere that shares enough with both
    for a, b, fitting in ((4, 4, range(9)), (0, 4, range(5)), (0, 0, range(5))):
        assert set(first[(first[:, 0] == a) & (first[:, 1] == b), 2]) == set(fitting)


@pytest.mark.parametrize(("stride", "step"), [(2, 1), (3, 1), (2, 2)])
def test_views_for_an_encoder_that_thins_out_time_start_whole_strides_apart_anywhere(stride: int, step: int) -> None:
    config = ClipAugment(frames=8, step=step)
    length = 8 * step + config.span  # starts 0 to 8, in steps
    found = [draw_frames(length, config, rng_for(0, number, "clip", "frames"), stride).frames for number in range(4000)]
    first = np.array(found)[:, :, 0] // step
    pairs = [(a, b) for a in range(9) for b in range(9) if abs(a - b) <= 4 and (a - b) % stride == 0]
    counts = np.array([((first[:, 0] == a) & (first[:, 1] == b)).sum() for a, b in pairs])
    assert counts.sum() == 4000
    assert ((counts - 4000 / len(pairs)) ** 2 / (4000 / len(pairs))).sum() < 2 * len(pairs)
    for a, b, fitting in ((4, 4, range(9)), (0, 0, range(5)), (8, 8, range(4, 9))):
        thirds = set(first[(first[:, 0] == a) & (first[:, 1] == b), 2].tolist())
        assert thirds == {start for start in fitting if (start - a) % stride == 0}


def test_a_clip_as_long_as_a_view_is_seen_whole_by_every_stream() -> None:
    for drawn in draws(8, ClipAugment(frames=8), 5):
        np.testing.assert_array_equal(drawn.frames, np.tile(np.arange(8), (3, 1)))


def test_bins_have_one_frame_each_and_correspond_by_their_number() -> None:
    found = draws(19, ClipAugment(frames=8, mode="bins"))
    edges = [19 * number // 8 for number in range(9)]
    for drawn in found:
        for frames in drawn.frames:
            assert all(low <= frame < high for frame, low, high in zip(frames, edges[:-1], edges[1:], strict=True))
        np.testing.assert_array_equal(drawn.partners, np.tile(np.arange(8), (3, 1)))
        np.testing.assert_array_equal(drawn.frames[0], drawn.frames[2])  # images show view 1's frames
    assert any((drawn.frames[0] != drawn.frames[1]).any() for drawn in found)
    assert {frame for drawn in found for frame in drawn.frames[1].tolist()} == set(range(19))


def test_shared_lists_are_equal_and_move() -> None:
    found = draws(16, ClipAugment(frames=8, mode="shared"), 200)
    assert all((drawn.frames == drawn.frames[0]).all() for drawn in found)
    assert {int(drawn.frames[0, 0]) for drawn in found} == set(range(9))


@pytest.mark.parametrize("mode", ["window", "bins", "shared"])
def test_a_short_clip_repeats_its_last_frame_which_then_corresponds_once(mode: str) -> None:
    config = ClipAugment(frames=8, mode=mode)
    for drawn in draws(5, config, 10):
        assert drawn.short
        np.testing.assert_array_equal(drawn.frames, np.tile([0, 1, 2, 3, 4, 4, 4, 4], (3, 1)))
        np.testing.assert_array_equal(drawn.partners, np.tile([0, 1, 2, 3, 4, -1, -1, -1], (3, 1)))
    with pytest.raises(ValueError, match="a clip of 5 frames is shorter than a view of 8"):
        draw_frames(5, config.model_copy(update={"short": "refuse"}), rng_for(0, 0, "clip", "frames"))


def test_a_clip_too_short_for_bins_is_seen_whole_whatever_the_step_of_windows_is() -> None:
    config = ClipAugment(frames=8, step=2, mode="bins")
    for frames in (*draw_frames(6, config, rng_for(0, 0, "clip", "frames")).frames, plain_frames(6, config)):
        assert frames.tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert plain_frames(6, ClipAugment(frames=8, step=2)).tolist() == [0, 2, 4, 5, 5, 5, 5, 5]


def test_the_view_that_is_not_drawn_is_the_middle() -> None:
    assert plain_frames(16, ClipAugment(frames=8)).tolist() == list(range(4, 12))
    assert plain_frames(16, ClipAugment(frames=4, mode="bins")).tolist() == [1, 5, 9, 13]
    assert plain_frames(3, ClipAugment(frames=4)).tolist() == [0, 1, 2, 2]
    assert starts(17, ClipAugment(frames=8, step=2)).tolist() == [0, 2]


# ---- space -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["y", "z", "so3", "none"])
def test_one_similarity_moves_all_frames(rotation: str) -> None:
    clip = random_clip()
    config = ClipAugment(normalise="none", rotation=rotation, jitter_sigma=0.0)
    seen = move_clip(clip, config, rng_for(0, 0, "clip", "points1"))
    flat, moved = clip.reshape(-1, 3).astype(float), seen.reshape(-1, 3).astype(float)
    linear, *_ = np.linalg.lstsq(flat - flat.mean(0), moved - moved.mean(0), rcond=None)
    np.testing.assert_allclose((flat - flat.mean(0)) @ linear, moved - moved.mean(0), atol=1e-5)
    factor = np.linalg.det(linear) ** (1 / 3)  # a mirror image has none
    assert 0.8 <= factor <= 1.2
    np.testing.assert_allclose(linear @ linear.T, factor**2 * np.eye(3), atol=1e-5)
    axis = {"y": 1, "z": 2, "none": None}.get(rotation)
    if axis is not None:
        np.testing.assert_allclose(linear[axis], factor * np.eye(3)[axis], atol=1e-6)
    if rotation == "none":
        np.testing.assert_allclose(linear, factor * np.eye(3), atol=1e-6)
    extent = (flat @ linear).max(0) - (flat @ linear).min(0)
    assert (np.abs(moved.mean(0) - flat.mean(0) @ linear) <= 0.1 * extent + 1e-6).all()


def test_a_rotation_turns_by_at_most_its_angle() -> None:
    x = np.tile(np.array([[1.0, 0, 0]], np.float32), (2, 1, 1))
    config = STILL.model_copy(update={"rotation": "z", "angle": 0.3})
    turned = np.array([move_clip(x, config, rng_for(0, number, "clip", "a"))[0, 0] for number in range(500)])
    angles = np.arctan2(turned[:, 1], turned[:, 0])
    assert np.abs(angles).max() <= 0.3 + 1e-6
    assert angles.min() < -0.28
    assert angles.max() > 0.28
    np.testing.assert_allclose(rotation_z(np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_jitter_and_points_are_drawn_for_each_frame() -> None:
    clip = np.repeat(random_clip(1), 4, axis=0)
    noise = move_clip(clip, STILL.model_copy(update={"jitter_sigma": 0.02, "jitter_clip": 0.03}), rng_for(0, 0, "c", "a")) - clip
    assert np.abs(noise).max() <= 0.03 + 1e-6
    assert len(np.unique(noise[:, 0, 0])) == 4
    chosen = choose_points((4, 40), 10, rng_for(0, 0, "c", "a"))
    assert len({tuple(row) for row in chosen.tolist()}) == 4
    assert all(len(set(row)) == 10 for row in chosen.tolist())


def test_normalising_is_for_the_whole_clip_so_that_it_still_moves() -> None:
    clip = random_clip()
    out = normalise_clip(clip).astype(float)
    np.testing.assert_allclose(out.reshape(-1, 3).mean(0), 0, atol=1e-6)
    assert np.linalg.norm(out, axis=2).max() == pytest.approx(1, abs=1e-6)
    before, after = np.diff(clip.mean(1), axis=0), np.diff(out.mean(1), axis=0)
    np.testing.assert_allclose(before / np.linalg.norm(before), after / np.linalg.norm(after), atol=1e-5)
    assert not np.any(normalise_clip(np.ones((2, 3, 3), np.float32)))


def test_features_go_with_their_points_and_stay_as_they_are() -> None:
    clip = random_clip(columns=5)
    clip[:, :, 3] = np.arange(40)
    seen = augment_clip(clip, ClipAugment(count=12, normalise="clip"), rng_for(0, 0, "c", "a"))
    assert seen.shape == (6, 12, 5)
    chosen = seen[:, :, 3].astype(int)
    np.testing.assert_array_equal(seen[:, :, 4], np.take_along_axis(clip[:, :, 4], chosen, 1))
    np.testing.assert_array_equal(take_points(clip, chosen)[:, :, 3], chosen)
    assert np.abs(seen[:, :, :3] - take_points(clip, chosen)[:, :, :3]).max() > 0.01


def test_valid_points_are_seen_before_fillings_and_each_at_least_once() -> None:
    valid = np.zeros((2, 40), bool)
    valid[0, :25], valid[1, :4] = True, True
    chosen = choose_points((2, 40), 10, rng_for(0, 0, "c", "a"), valid)
    assert (chosen[0] < 25).all()
    assert len(set(chosen[0].tolist())) == 10
    assert set(chosen[1].tolist()) == {0, 1, 2, 3}


def test_what_is_scored_are_points_drawn_by_the_clips_key_that_nothing_moves() -> None:
    clip, frames, valid = random_clip(), np.array([1, 3, 3]), np.ones((6, 40), bool)
    valid[3, 12:] = False
    config = ClipAugment(count=10, normalise="none")
    seen, points = plain_clip(clip, frames, config, "c", valid)
    np.testing.assert_array_equal(seen, clip[frames[:, None], points])
    assert all(len(set(row)) == 10 for row in points.tolist())
    assert (points[1:] < 12).all()
    assert points[0].max() >= 12
    np.testing.assert_array_equal(plain_clip(clip, frames, config, "c", valid)[1], points)
    assert not np.array_equal(plain_clip(clip, frames, config, "d", valid)[1], points)
    assert plain_clip(clip, frames, ClipAugment(count=50), "c")[0].shape == (3, 50, 3)


def test_the_argument_stays_and_the_draw_is_a_function_of_the_generator() -> None:
    clip = random_clip()
    kept = clip.copy()
    first, again = (augment_clip(clip, ClipAugment(count=20), rng_for(1, 2, "c", "a")) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(clip, kept)
    assert first.dtype == np.float32


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.2, 0.8)])
def test_an_impossible_scale_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="scale must be two positive numbers"):
        ClipAugment(scale=scale)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_reading_a_sample(tmp_path: Path, small_dataset: str) -> None:
    data = Dataset.open(write_clips(tmp_path, train=3, test=0, features=True, valid=True))
    plain, valid = read_clip(data, 0, ClipAugment())
    assert plain.shape == (16, 64, 3)
    assert valid is not None
    assert valid.mean() == 0.75
    clip = read_clip(data, 0, ClipAugment(features=("part", "height")))[0][[3, 3, 5]]
    np.testing.assert_array_equal(clip[:, :, :3], plain[[3, 3, 5]])
    assert set(clip[:, :, 3].ravel()) == {0, 1}
    frames = load_frames(data, 0, np.array([2, 9, 2]))
    assert [frame.shape for frame in frames] == [(16, 16, 3)] * 3
    np.testing.assert_array_equal(frames[0], frames[2])
    np.testing.assert_array_equal(frames[1], data.load(0, ("f009.png",))["f009.png"])
    with pytest.raises(ValueError, match="no feature 'speed' beside its points: it has height, part"):
        read_clip(data, 0, ClipAugment(features=("speed",)))
    with pytest.raises(ValueError, match=r"has no clip\.npy: name a dataset of clips"):
        read_clip(Dataset.open(small_dataset), 0, ClipAugment())
    bare = Dataset.open(write_clips(tmp_path / "bare", train=3, test=0, images=False))
    assert read_clip(bare, 0, ClipAugment())[1] is None
    with pytest.raises(ValueError, match="has no frames of images"):
        load_frames(bare, 0, np.array([0]))
    with pytest.raises(ValueError, match="no features beside its points"):
        read_clip(bare, 0, ClipAugment(features=("part",)))


# ---- where views are turned ------------------------------------------------------------------------------------------

IN_METRES = ClipAugment(normalise="none", translate=0.0, jitter_sigma=0.0, flip=1.0)


def test_a_scene_far_from_the_origin_is_turned_scaled_and_mirrored_about_its_first_centre(tmp_path: Path) -> None:
    centre = np.array([100.0, 5.0, -40.0], np.float32)
    dataset = Dataset.open(write_clips(tmp_path, train=3, test=0, images=False, centres=tuple(centre.tolist())))
    pivot = pivot_of(dataset, 0, IN_METRES)
    np.testing.assert_array_equal(pivot, centre)
    clip, _ = read_clip(dataset, 0, IN_METRES)
    flipped = mirrored(clip, IN_METRES, 0, 0, "clip", pivot)
    np.testing.assert_allclose(flipped - centre, (clip - centre) * [-1, 1, 1], atol=1e-4)
    for number in range(5):
        rng, same = rng_for(0, number, "clip", "move"), rng_for(0, number, "clip", "move")
        np.testing.assert_allclose(move_clip(clip, IN_METRES, rng, pivot) - centre, move_clip(clip - centre, IN_METRES, same), atol=1e-4)


def test_a_clip_that_is_normalised_or_states_no_centre_has_no_pivot(tmp_path: Path) -> None:
    stated = Dataset.open(write_clips(tmp_path / "a", train=3, test=0, images=False, centres=(1.0, 2.0, 3.0)))
    silent = Dataset.open(write_clips(tmp_path / "b", train=3, test=0, images=False))
    assert pivot_of(stated, 0, ClipAugment(normalise="clip")) is None
    assert pivot_of(silent, 0, IN_METRES) is None
