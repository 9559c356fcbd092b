"""C2P's module: its losses from their formula, what its camera sees, what a clip brings."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from pipeline.reader import Dataset
from tests.training.clip_cases import ENCODER, write_clips
from training.augment import rng_for
from training.batches import collate
from training.clip_views import draw_frames
from training.encoders import P4TransformerConfig
from training.noise import fold
from training.objectives import check_encoder
from training.objectives.c2p import C2P, C2PConfig, OrbitCamera, prepare, visible


def configured(**changes: Any) -> C2PConfig:
    values = {"hidden": 16, "point_augment": {"frames": 8, "count": 48, "normalise": "clip"}}
    return C2PConfig.model_validate(values | changes)


def module_of(config: C2PConfig) -> C2P:
    torch.manual_seed(0)
    return C2P(config, P4TransformerConfig.model_validate(ENCODER))


@pytest.fixture(scope="module")
def batch(clips_dataset: str) -> dict[str, Tensor]:
    data = Dataset.open(clips_dataset)
    return collate([prepare(configured(), data, index, 5, 0) for index in range(4)])


def by_loops(queries: Tensor, keys: Tensor, asking: Tensor | None = None, answering: Tensor | None = None) -> float:
    """Mean over clips of the mean over frames of the cross entropy among the clip's frames, of those that stand alone, in float64."""
    means = []
    for clip in range(len(queries)):
        a = [row / row.norm() for row in queries[clip].double()]
        b = [row / row.norm() for row in keys[clip].double()]
        places = [place for place in range(len(b)) if answering is None or answering[clip, place]]
        found = []
        for place in places:
            if asking is None or asking[clip, place]:
                scores = {other: math.exp((a[place] @ b[other]).item() / 0.07) for other in places}
                found.append(-math.log(scores[place] / math.fsum(scores.values())))
        means += [np.mean(found)] if found else []
    return float(np.mean(means))


# the last three frames fill up; no valid point in two frames; one frame alone, which no other follows; none at all
GAPS = [[1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("standing", [[[1] * 8] * 4, GAPS], ids=["whole", "gaps"])
def test_the_losses_are_their_formulas_over_frames_that_repeat_no_other(batch: dict[str, Tensor], standing: list[list[int]]) -> None:
    module = module_of(configured()).double()
    wide = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    assert batch["standing"].all()
    stand = wide["standing"] = torch.tensor(standing, dtype=torch.bool)
    loss, terms = module(wide)
    student = module.encoder.frame_features(wide["partial"], fold(wide["noise"], 0))
    teacher = module.encoder.frame_features(wide["complete"], fold(wide["noise"], 1), stage="pre")
    following = module.next_head(student[:, :-1].flatten(0, 1)).view(4, 7, -1)  # type: ignore[misc]
    before = module.previous_head(student[:, 1:].flatten(0, 1)).view(4, 7, -1)  # type: ignore[misc]
    expected = {
        "distill": by_loops(student, teacher, stand, stand),
        "forward": by_loops(following, teacher[:, 1:], stand[:, :-1], stand[:, 1:]),
        "backward": by_loops(before, teacher[:, :-1], stand[:, 1:], stand[:, :-1]),
    }
    for name, value in expected.items():
        assert terms[f"loss_{name}"].item() == pytest.approx(value, abs=1e-9), name
    assert loss.item() == pytest.approx(0.5 * expected["distill"] + 0.25 * (expected["forward"] + expected["backward"]), abs=1e-9)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert module.frame_pair(wide)[2].tolist() == [[[place if one else -1 for place, one in enumerate(row)]] * 2 for row in standing]


def test_clips_of_fillings_alone_cost_nothing_and_pull_nowhere(batch: dict[str, Tensor]) -> None:
    module = module_of(configured())
    loss, _ = module(batch | {"standing": torch.zeros(4, 8, dtype=torch.bool)})
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


def test_collapsed_frames_give_the_log_of_their_number() -> None:
    module = module_of(configured())
    same, all_stand = torch.ones(3, 8, 5), torch.ones(3, 8, dtype=torch.bool)
    assert module._contrast(same, same, all_stand, all_stand).item() == pytest.approx(math.log(8), abs=1e-6)


def test_the_teacher_takes_gradient_unless_it_is_stopped(batch: dict[str, Tensor]) -> None:
    for stopped in (False, True):
        module = module_of(configured(stop_gradient=stopped))
        complete = batch["complete"].clone().requires_grad_()
        loss, _ = module(batch | {"complete": complete})
        loss.backward()
        assert (complete.grad is not None) == (not stopped)
        assert not [name for name, p in module.named_parameters() if p.grad is None]


def test_a_predictor_without_weight_is_not_built(batch: dict[str, Tensor]) -> None:
    module = module_of(configured(forward=0.5, backward=0.0))
    assert module.previous_head is None
    _, terms = module(batch)
    assert {name for name in terms if name.startswith("loss_")} == {"loss_distill", "loss_forward"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"distill": 0.0, "forward": 0.0, "backward": 0.0}, "nothing would be trained"),
        ({"point_augment": {"mode": "window"}}, "point_augment.mode must be shared"),
        ({"point_augment": {"frames": 1}}, "at least 2"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        configured(**changes)


def test_an_encoder_that_makes_one_frame_of_all_is_refused() -> None:
    encoder = P4TransformerConfig.model_validate(ENCODER | {"temporal_stride": 2, "padding": (1, 0)})
    with pytest.raises(ValueError, match=r"the encoder makes one of 2: raise point_augment\.frames or lower encoder\.temporal_stride"):
        check_encoder(configured(point_augment={"frames": 2}), encoder)
    check_encoder(configured(point_augment={"frames": 4}), encoder)


# ---- the camera ------------------------------------------------------------------------------------------------------


def sphere(frames: int, points: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(0).standard_normal((points, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.repeat(rows[None].astype(np.float32), frames, axis=0)


def camera_of(seed: int, frames: int = 9, **changes: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    # as many points as the picture's pixels, so that a surface is closed
    clip = sphere(frames, 20_000)
    return clip, visible(clip, OrbitCamera(**({"spread": 2, "tolerance": 0.12} | changes)), rng_for(seed, 0, "clip", "camera"))


def test_the_camera_sees_the_near_half_of_a_sphere_and_goes_round_it() -> None:
    first = set()
    for seed in range(8):
        clip, seen = camera_of(seed, lift_deg=0.0)
        # the direction to the camera is that of the mean of what it sees
        middles = np.array([clip[t][seen[t]].mean(0) for t in range(9)])
        angles = np.degrees(np.arctan2(middles[:, 2], middles[:, 0]))
        expected = np.linspace(15, 165, 9)
        backwards = angles[0] > 90
        first.add(bool(backwards))
        np.testing.assert_allclose(angles, expected[::-1] if backwards else expected, atol=6)
        assert np.abs(middles[:, 1]).max() < 0.06
        distance = 1 / math.sin(math.atan(60 / 150))
        for t in range(9):
            facing = clip[t] @ (middles[t] / np.linalg.norm(middles[t]))
            assert seen[t][facing < -0.1].mean() < 0.01  # behind, but for gaps at the rim
            assert seen[t][facing > 1 / distance + 0.25].mean() > 0.9  # well within the rim that the camera can see
    assert first == {False, True}


def test_the_camera_rises_sinks_or_stays_and_comes_back() -> None:
    heights = set()
    for seed in range(12):
        clip, seen = camera_of(seed, lift_deg=40.0)
        rise = np.array([clip[t][seen[t]].mean(0)[1] for t in (0, 4, 8)])
        assert abs(rise[0]) < 0.06
        assert abs(rise[2]) < 0.06
        heights.add(int(np.sign(rise[1])) if abs(rise[1]) > 0.2 else 0)
    assert heights == {-1, 0, 1}


def test_with_z_up_the_camera_goes_round_z() -> None:
    clip, seen = camera_of(0, lift_deg=0.0, up="z")
    middles = np.array([clip[t][seen[t]].mean(0) for t in range(9)])
    assert np.abs(middles[:, 2]).max() < 0.06
    assert np.abs(middles[:, :2]).max() > 0.4


def test_a_wall_hides_what_stands_behind_it_from_in_front_alone() -> None:
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    wall = np.stack([x, y, np.zeros_like(x)], 2).reshape(-1, 3)
    behind = np.array([[0.0, 0.0, -0.3]])
    clip = np.repeat(np.concatenate([wall, behind])[None], 3, 0).astype(np.float32)
    camera = OrbitCamera(spread=3, tolerance=0.1, start_deg=90, stop_deg=90, lift_deg=0.0)
    seen = visible(clip, camera, rng_for(0, 0, "c", "camera"))
    assert not seen[:, -1].any()
    other = camera.model_copy(update={"start_deg": 270.0, "stop_deg": 270.0})
    assert visible(clip, other, rng_for(0, 0, "c", "camera"))[:, -1].all()
    assert visible(clip, camera.model_copy(update={"tolerance": 0.5}), rng_for(0, 0, "c", "camera")).all()


# ---- what a clip brings ----------------------------------------------------------------------------------------------


def test_the_partial_clip_is_part_of_the_complete_one_in_the_same_frames_and_movement(clips_dataset: str) -> None:
    data = Dataset.open(clips_dataset)
    config = configured(point_augment={"frames": 8, "count": 64, "normalise": "clip"}, camera={"height": 24, "width": 36, "focal": 30})
    for index in range(4):
        found = prepare(config, data, index, 0, 0)
        assert 0.1 < found["seen"] < 0.95
        for whole, part in zip(found["complete"], found["partial"], strict=True):
            known = {row.tobytes() for row in whole}
            seen = {row.tobytes() for row in part}
            assert len(known) == 64
            assert seen < known
        again, other = prepare(config, data, index, 0, 0), prepare(config, data, index, 0, 1)
        assert all(np.array_equal(found[name], again[name]) for name in found)
        assert not np.array_equal(found["partial"], other["partial"])


def test_a_still_clip_shows_points_of_its_first_frame_alone(clips_dataset: str) -> None:
    data = Dataset.open(clips_dataset)
    unmoved = {"rotation": "none", "scale": [1.0, 1.0], "translate": 0.0, "jitter_sigma": 0.0, "normalise": "none"}
    config = configured(point_augment={"frames": 8, "count": 48, **unmoved})
    first = {row.tobytes() for row in data.load(2, ("clip.npy",))["clip.npy"][0]}
    still, moving = module_of(config).prepare_still(data, 2, 5), prepare(config, data, 2, 5, 0)
    for name in ("complete", "partial"):
        assert {row.tobytes() for frame in still[name] for row in frame} <= first
        assert not {row.tobytes() for row in moving[name][-1]} & first


def test_frames_that_fill_up_a_clip_or_have_no_valid_point_do_not_stand(
    tmp_path: Path, clips_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Dataset.open(write_clips(tmp_path, train=2, test=0, lengths=(5, 8)))
    lengths = [len(short.load(index, ("clip.npy",))["clip.npy"]) for index in range(2)]
    for index, length in enumerate(lengths):
        assert prepare(configured(), short, index, 0, 0)["standing"].tolist() == [True] * length + [False] * (8 - length)
    data = Dataset.open(clips_dataset)
    clip = data.load(0, ("clip.npy",))["clip.npy"]
    valid = np.ones(clip.shape[:2], bool)
    valid[7], valid[8, 1:] = False, False
    monkeypatch.setattr("training.objectives.c2p.read_clip", lambda *_: (clip, valid))
    drawn = draw_frames(16, configured().point_augment, rng_for(0, 3, data.keys[0], "frames")).frames[0]
    assert (drawn == 7).any()
    for still in (False, True):
        np.testing.assert_array_equal(prepare(configured(), data, 0, 0, 3, still)["standing"], drawn != 7)


def test_length_of_rows_does_not_matter() -> None:
    module = module_of(configured())
    a, b = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    stand = torch.ones(3, 8, dtype=torch.bool)
    expected = module._contrast(a, b, stand, stand)
    torch.testing.assert_close(module._contrast(4 * a, functional.normalize(b, dim=2), stand, stand), expected)
