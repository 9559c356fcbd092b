"""Where cameras stand, what they see in the middle, and which pixel a known point falls into."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from render.cameras import Cameras, Rig, build, fibonacci, look_at, orbit, project, ring, shapenet24, sphere
from render.trig import cos_sin

RIGS = {
    "ring": ring(7, math.radians(30)),
    "ring from below": ring(3, math.radians(-80)),
    "top": ring(2, math.radians(90)),
    "bottom": ring(2, math.radians(-90)),
    "fibonacci": fibonacci(25),
    "shapenet24": shapenet24(),
    "shapenet24 drawn": shapenet24(5),
}


def centres(cameras: Cameras) -> np.ndarray:
    return np.stack([np.linalg.inv(matrix)[:3, 3] for matrix in cameras.world_to_camera])


@pytest.mark.parametrize("cameras", RIGS.values(), ids=RIGS.keys())
def test_cameras_look_at_the_origin_with_right_handed_opencv_axes(cameras: Cameras) -> None:
    rotations = cameras.world_to_camera[:, :3, :3]
    assert np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() < 1e-14
    assert np.allclose(np.linalg.det(rotations), 1)
    pixels, depth = project(np.zeros((1, 3)), cameras)
    assert np.allclose(pixels[:, 0], (cameras.width / 2, cameras.height / 2))
    assert np.allclose(depth[:, 0], np.linalg.norm(centres(cameras), axis=1))
    # the third axis is the viewing direction, the second points down
    assert np.allclose(rotations[:, 2], -centres(cameras) / depth)
    assert (rotations[:, 1, 1] <= 1e-15).all()


def test_a_known_point_falls_into_the_pixel_that_geometry_gives() -> None:
    # From (0, 0, 5) with a field of view whose half tangent is 1/2 and 200 pixels, a unit at distance 4 is 100/2 pixels.
    cameras = ring(1, 0.0, fov_rad=2 * math.atan(0.5), distance=5.0, size=200)
    pixels, depth = project(np.array([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [-1, -1, 0]]), cameras)
    assert np.allclose(pixels[0], [[100, 100], [150, 100], [100, 50], [60, 140]])
    assert np.allclose(depth[0], [4, 4, 4, 5])


def test_azimuth_goes_from_the_front_to_the_right_and_elevation_upwards() -> None:
    eyes = centres(orbit(sphere(np.array([0, math.pi / 2, 0.0]), np.array([0.0, 0.0, math.pi / 2])), 2.0))
    assert np.allclose(eyes, [[0, 0, 2], [2, 0, 0], [0, 2, 0]])


def test_straight_above_the_pictures_right_stays_the_worlds() -> None:
    above = look_at(np.array([[0.0, 3.0, 0.0], [0.0, -3.0, 0.0]]))
    assert np.allclose(above[:, 0, :3], [1, 0, 0])
    # and the view tends to it as the camera of azimuth 0 rises
    near = ring(1, math.radians(89.9999), distance=3.0).world_to_camera[0]
    assert np.abs(near - above[0]).max() < 1e-5


def test_a_camera_at_its_target_is_refused() -> None:
    with pytest.raises(ValueError, match="distance above 0"):
        look_at(np.zeros((1, 3)))


@settings(max_examples=30, deadline=None)
@given(fov=st.floats(5, 120), margin=st.floats(0, 0.8), kind=st.sampled_from(["ring", "fibonacci"]))
def test_the_unit_sphere_fills_the_picture_up_to_the_margin(fov: float, margin: float, kind: str) -> None:
    cameras = build(Rig(kind=kind, count=3, fov_deg=fov, margin=margin, size=100), 0)  # type: ignore[arg-type]
    # Seen from distance d, the outline of the unit sphere is a circle of radius √(1 − 1/d²) in the plane 1/d in front of the centre.
    for view, eye in enumerate(centres(cameras)):
        d = np.linalg.norm(eye)
        right, down = cameras.world_to_camera[view, :2, :3]
        turns = np.linspace(0, 2 * np.pi, 50)[:, None]
        outline = eye / d**2 + math.sqrt(1 - 1 / d**2) * (np.cos(turns) * right + np.sin(turns) * down)
        pixels, _ = project(outline, Cameras(cameras.K[view : view + 1], cameras.world_to_camera[view : view + 1], 100, 100))
        assert np.allclose(np.linalg.norm(pixels[0] - 50, axis=1), 50 * (1 - margin), rtol=1e-6)


def test_a_wide_picture_fits_its_shorter_side() -> None:
    cameras = orbit(np.array([[0.0, 0, 1]]), 3.0, fov_rad=1.0, width=300, height=100)
    pixels, _ = project(np.array([[0.0, 3 * math.tan(0.5), 0]]), cameras)
    assert np.allclose(pixels[0, 0], [150, 0], atol=1e-9)


def test_the_ring_is_even_and_the_spiral_is_spread() -> None:
    eyes = centres(ring(24, math.radians(30)))
    turned = np.degrees(np.unwrap(np.arctan2(eyes[:, 0], eyes[:, 2])))
    assert np.allclose(np.diff(turned), 15)
    assert np.allclose(np.degrees(np.arcsin(eyes[:, 1] / np.linalg.norm(eyes, axis=1))), 30)
    spread = centres(fibonacci(100))
    spread = spread / np.linalg.norm(spread, axis=1, keepdims=True)
    assert np.abs(spread.mean(axis=0)).max() < 0.01
    nearest = np.sort(spread @ spread.T, axis=1)[:, -2]
    # 100 even cells have an area of 4π/100 each: neighbours are about 0.35 rad apart
    assert np.degrees(np.arccos(nearest)).min() > 15


def test_shapenet_views_keep_the_ranges_of_the_renderings() -> None:
    cameras = shapenet24(11)
    assert len(cameras.K) == 24
    assert cameras.K[0, 0, 0] == pytest.approx(137 * 35 / 32)
    eyes = centres(cameras)
    distance = np.linalg.norm(eyes, axis=1)
    elevation = np.degrees(np.arcsin(eyes[:, 1] / distance))
    assert elevation.min() >= 25
    assert elevation.max() <= 30
    assert distance.min() >= 2 * 1.75 * 0.65
    assert distance.max() <= 2 * 1.75 * 0.95
    assert np.ptp(np.arctan2(eyes[:, 0], eyes[:, 2])) > 4


def test_a_rig_draws_from_its_ranges_by_the_seed_alone() -> None:
    rig = Rig(count=50, elevation_deg=(-10, 40), azimuth_deg=(0, 360))
    first, again, other = build(rig, 1), build(rig, 1), build(rig, 2)
    assert np.array_equal(first.world_to_camera, again.world_to_camera)
    assert not np.array_equal(first.world_to_camera, other.world_to_camera)
    eyes = centres(first)
    elevation = np.degrees(np.arcsin(eyes[:, 1] / np.linalg.norm(eyes, axis=1)))
    assert elevation.min() >= -10
    assert elevation.max() <= 40
    assert np.ptp(elevation) > 30
    fixed = Rig(count=5)
    assert np.array_equal(build(fixed, 1).world_to_camera, build(fixed, 2).world_to_camera)
    assert np.array_equal(build(fixed, 1).world_to_camera, ring(5, math.radians(30)).world_to_camera)


@pytest.mark.parametrize("kind", ["ring", "fibonacci", "shapenet24"])
def test_a_rig_gives_as_many_views_as_it_says(kind: str) -> None:
    rig = Rig(kind=kind, count=5, size=64)  # type: ignore[arg-type]
    cameras = build(rig, 2**63)
    assert len(cameras.K) == len(cameras.world_to_camera) == rig.views
    assert (cameras.width, cameras.height) == (64, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"elevation_deg": 100},
        {"azimuth_deg": (10, 0)},
        {"fov_deg": 0},
        {"colour": 1},
        {"margin": 1},
        {"elevation_deg": (0, 200)},
        {"elevation_deg": (-91, 0)},
        {"azimuth_deg": (0, float("inf"))},
        {"azimuth_deg": float("nan")},
        {"distance": float("inf")},
    ],
)
def test_a_rig_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rig.model_validate(wrong)


@given(st.floats(-1000, 1000))
def test_our_sine_and_cosine_are_the_librarys_to_the_last_digits(angle: float) -> None:
    cosine, sine = cos_sin(angle)
    assert abs(cosine - math.cos(angle)) < 5e-16
    assert abs(sine - math.sin(angle)) < 5e-16
