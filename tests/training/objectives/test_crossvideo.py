"""CrossVideo's module: the four losses from their formulas, who is a negative of whom, what a clip brings, the index shortcut."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.reader import Dataset
from tests.training.clip_cases import ENCODER, OBJECTIVE, write_clips
from training.augment import FramesAugment
from training.batches import collate
from training.clip_views import ClipAugment
from training.encoders import P4TransformerConfig
from training.evaluation.clips import shortcut
from training.evaluation.retrieval import hits
from training.losses import nt_pairs
from training.objectives import check_encoder
from training.objectives import prepare as prepare_for
from training.objectives.crossvideo import CrossVideo, CrossVideoConfig, contrast_frames, matches, prepare

TAU = 0.07


def configured(**changes: Any) -> CrossVideoConfig:
    return CrossVideoConfig.model_validate(OBJECTIVE | changes)


def module_of(config: CrossVideoConfig, **encoder: Any) -> CrossVideo:
    torch.manual_seed(0)
    return CrossVideo(config, P4TransformerConfig.model_validate(ENCODER | encoder))


def batch_of(config: CrossVideoConfig, data: Dataset, indices: Any, epoch: int = 0, stride: int = 1) -> dict[str, Tensor]:
    return collate([prepare(config, data, int(index), 5, epoch, stride) for index in indices])


@pytest.fixture(scope="module")
def data(clips_dataset: str) -> Dataset:
    return Dataset.open(clips_dataset)


# ---- the losses ------------------------------------------------------------------------------------------------------


def loss_by_loops(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """NT of a list of pairs of vectors, from its formula, in float64."""
    u = [(row.double() / row.double().norm()).tolist() for side in (0, 1) for row in (pair[side] for pair in pairs)]
    count = len(pairs)
    total = 0.0
    for i in range(2 * count):
        scores = [math.exp(sum(x * y for x, y in zip(u[i], other, strict=True)) / TAU) for other in u]
        total -= math.log(scores[(i + count) % (2 * count)] / (math.fsum(scores) - scores[i]))
    return total / (2 * count)


@pytest.mark.parametrize(
    ("stride", "mode", "feature"),
    [(1, "window", "post"), (2, "window", "post"), (1, "window", "pre"), (1, "bins", "post"), (2, "bins", "pre")],
)
def test_the_four_losses_are_their_formulas_over_the_modules_own_embeddings(data: Dataset, stride: int, mode: str, feature: Any) -> None:
    config = configured(
        weights={"intra_video": 1.0, "intra_frame": 0.5, "cross_video": 2.0, "cross_frame": 3.0},
        point_augment=OBJECTIVE["point_augment"] | {"mode": mode},
        frame_feature=feature,
    )
    module = module_of(config, temporal_stride=stride, padding=(1, 0) if stride == 2 else (1, 1)).double()
    batch = batch_of(config, data, range(4), stride=stride)
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    loss, terms = module(batch)
    # the module's own embeddings, of one batch of both views, since they share batch statistics
    clips = torch.cat([batch["points1"], batch["points2"]])
    zv = module.point_video_head(module.encoder(clips)).chunk(2)
    iv = module.image_video_head(module.image_encoder(batch["images"]))  # type: ignore[misc]
    y = module.encoder.frame_features(clips, stage=feature)
    x = module.image_encoder.frame_features(batch["images"], stage=feature)  # type: ignore[union-attr]
    zf = module.point_frame_head(y.flatten(0, 1)).view(8, y.shape[1], -1).chunk(2)
    every = range(0, 8, stride)  # the frames that the encoder's outputs stand for
    kept = x[:, list(every)]
    fi = module.image_frame_head(kept.flatten(0, 1)).view(4, len(every), -1)
    lists = [[list(range(8))] * 3] * 4 if mode == "bins" else batch["frames"].tolist()

    def corresponding(a: Tensor, b: Tensor, one: int, two: int) -> list[tuple[Tensor, Tensor]]:
        return [
            (a[clip, i], b[clip, j])
            for clip in range(4)
            for i, first in enumerate(every)
            for j, second in enumerate(every)
            if lists[clip][one][first] == lists[clip][two][second]
        ]

    expected = {
        "intra_video": loss_by_loops(list(zip(*zv, strict=True))),
        "intra_frame": loss_by_loops(corresponding(*zf, 0, 1)),
        "cross_video": loss_by_loops(list(zip((zv[0] + zv[1]) / 2, iv, strict=True))),
        "cross_frame": (loss_by_loops(corresponding(zf[0], fi, 0, 2)) + loss_by_loops(corresponding(zf[1], fi, 1, 2))) / 2,
    }
    for name, value in expected.items():
        assert float(terms[f"loss_{name}"]) == pytest.approx(value, abs=1e-9), name
    weights = config.weights.model_dump()
    assert loss.item() == pytest.approx(sum(weights[name] * value for name, value in expected.items()), abs=1e-9)
    assert float(terms["frame_pairs"]) == pytest.approx(len(corresponding(*zf, 0, 1)) / 4)


def test_the_point_side_of_the_cross_video_loss_is_the_mean_or_the_first_view(data: Dataset) -> None:
    weights = {"intra_video": 0.0, "intra_frame": 0.0, "cross_frame": 0.0}
    for points in ("mean", "view1"):
        config = configured(weights=weights, cross_points=points)
        module = module_of(config).double()
        batch = {name: value.double() if value.is_floating_point() else value for name, value in batch_of(config, data, range(4)).items()}
        z1, z2 = module.point_video_head(module.encoder(torch.cat([batch["points1"], batch["points2"]]))).chunk(2)
        images = module.image_video_head(module.image_encoder(batch["images"]))  # type: ignore[misc]
        expected = loss_by_loops(list(zip((z1 + z2) / 2 if points == "mean" else z1, images, strict=True)))
        assert module(batch)[0].item() == pytest.approx(expected, abs=1e-9)


def test_embeddings_of_late_frames_tell_them_apart_in_mixed_precision(data: Dataset) -> None:
    module = module_of(configured())
    late = 100 * torch.randn(32) + 0.1 * torch.randn(40, 32)  # a large time, and what was seen
    for head in (module.point_frame_head, module.image_frame_head, module.point_video_head):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = head(late)
        torch.testing.assert_close(mixed, head(late), rtol=0, atol=0)


def test_each_stream_draws_its_own_dropout(data: Dataset) -> None:
    config = configured(weights={"cross_video": 0.0, "cross_frame": 0.0})
    module = module_of(config, dropout=0.5)
    batch = batch_of(config, data, range(4))
    seen: list[Tensor] = []
    module.point_video_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(batch | {"points2": batch["points1"]})
    first, second = seen[0].chunk(2)
    assert not torch.allclose(first, second)


def pairs_of_frames(lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random frame pairs of clips with so many each: a, b (M, 6), clip (M,), moments (2M,), every second source frame."""
    count = sum(lengths)
    a, b = torch.randn(2, count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    clip = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    moments = torch.tensor([2 * frame + number for number, length in enumerate(lengths) for frame in range(length)])
    return a, b, clip, moments.repeat(2)


def frames_by_loops(
    a: Tensor, b: Tensor, clip: Tensor, moments: Tensor, negative: Any, positive: Any = lambda same, apart: False
) -> list[float]:
    """The loss of every frame; negative and positive say of another frame (same clip?, source frames apart) what it is."""
    u = functional.normalize(torch.cat([a, b]), dim=1)
    count, owner, time = len(a), clip.repeat(2).tolist(), moments.tolist()
    found = []
    for i in range(2 * count):
        own, below = [], []
        for m in range(2 * count):
            if m == i:
                continue
            partner = m == (i + count) % (2 * count)
            same, apart = owner[m] == owner[i], abs(time[m] - time[i])
            is_positive = partner or ((m < count) != (i < count) and same and positive(same, apart))
            score = math.exp(float(u[i] @ u[m]) / TAU)
            own += [score] if is_positive else []
            below += [score] if is_positive or negative(same, apart) else []
        found.append(-math.fsum(math.log(score / math.fsum(below)) for score in own) / len(own))
    return found


@pytest.mark.parametrize("window", [0, 2, 5])
@pytest.mark.parametrize("negatives", ["batch", "video", "other_videos"])
def test_negatives_of_frames(negatives: str, window: int) -> None:
    lengths = (5, 3, 1)
    a, b, clip, moments = pairs_of_frames(lengths)
    config = configured(frame_negatives=negatives, exclude_window=window)

    def negative(same: bool, apart: int) -> bool:
        allowed = {"batch": True, "video": same, "other_videos": not same}[negatives]
        return allowed and not (same and 0 < apart <= window)

    found = frames_by_loops(a, b, clip, moments, negative)
    if negatives == "video":  # clips weigh alike
        by_clip = [np.mean([value for value, owner in zip(found, clip.repeat(2).tolist(), strict=True) if owner == c]) for c in range(3)]
        expected = float(np.mean(by_clip))
        assert by_clip[2] == 0
    else:
        expected = float(np.mean(found))
    assert contrast_frames(a, b, clip, moments, config).item() == pytest.approx(expected, abs=1e-9)


class Made(TorchDispatchMode):
    """The dtypes of the new tensors of one shape that operations inside the block return."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape, self.dtypes = shape, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.shape == self.shape:
            self.dtypes.append(out.dtype)
        return out


@pytest.mark.parametrize("form", ["nt", "clip"])
def test_the_default_negatives_of_frames_cost_no_memory_beside_the_loss_itself(form: Any) -> None:
    a, b, clip, moments = pairs_of_frames((5, 3, 1))
    with Made(18, 18) as plain:
        nt_pairs(a, b, TAU, form=form)
    with Made(18, 18) as ours:
        contrast_frames(a, b, clip, moments, configured(form=form))
    assert ours.dtypes == plain.dtypes
    for negatives in ("video", "other_videos"):  # which need whose frame each is, and not when
        with Made(18, 18) as ours:
            contrast_frames(a, b, clip, moments, configured(form=form, frame_negatives=negatives))
        assert torch.int64 not in ours.dtypes


@pytest.mark.parametrize("negatives", ["batch", "other_videos"])
def test_frames_within_the_positive_window_are_positives(negatives: str) -> None:
    a, b, clip, moments = pairs_of_frames((5, 4))
    config = configured(frame_negatives=negatives, positive_window=2)
    found = frames_by_loops(a, b, clip, moments, lambda same, _: negatives == "batch" or not same, lambda _, apart: apart <= 2)
    assert contrast_frames(a, b, clip, moments, config).item() == pytest.approx(float(np.mean(found)), abs=1e-9)


def test_collapsed_frames_of_one_clip_give_the_log_of_the_choices() -> None:
    same = torch.ones(7, 4, dtype=torch.float64)
    clip, moments = torch.zeros(7, dtype=torch.int64), torch.arange(7).repeat(2)
    assert contrast_frames(same, same, clip, moments, configured(frame_negatives="video")).item() == pytest.approx(math.log(13))
    form = configured(frame_negatives="video", form="clip")
    assert contrast_frames(same, same, clip, moments, form).item() == pytest.approx(math.log(7))


def test_one_corresponding_frame_in_its_own_clip_costs_nothing_and_pulls_nowhere() -> None:
    a, b, clip, moments = pairs_of_frames((1, 1, 1))
    a.requires_grad_()
    loss = contrast_frames(a, b, clip, moments, configured(frame_negatives="video"))
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None
    assert not a.grad.any()


def test_frames_correspond_iff_their_source_frames_are_equal_and_not_fillings() -> None:
    partners = torch.tensor([[[2, 3, 4, -1], [0, 2, 3, -1]]])
    assert matches(partners).nonzero().tolist() == [[0, 0, 1], [0, 1, 2]]


HEADS = {
    "intra_video": {"point_video_head"},
    "intra_frame": {"point_frame_head"},
    "cross_video": {"point_video_head", "image_video_head"},
    "cross_frame": {"point_frame_head", "image_frame_head"},
}


@pytest.mark.parametrize("term", HEADS)
def test_one_loss_alone_trains_its_own_heads(data: Dataset, term: str) -> None:
    config = configured(weights={name: float(name == term) for name in HEADS})
    module = module_of(config)
    loss, terms = module(batch_of(config, data, range(4)))
    loss.backward()
    assert {name for name in terms if name.startswith("loss_")} == {f"loss_{term}"}
    moved = {name for name in ("point_video_head", "point_frame_head", "image_video_head", "image_frame_head") if hasattr(module, name)}
    moved = {name for name in moved if any(p.grad is not None and p.grad.any() for p in module.get_submodule(name).parameters())}
    assert moved == HEADS[term]
    # workers wait for every parameter that could move: each must have a gradient
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert (module.image_encoder is None) == term.startswith("intra")


def test_frames_before_the_transformer_leave_no_parameter_waiting_for_a_gradient(data: Dataset) -> None:
    for untrained in ({}, {"intra_video": 0.0}, {"cross_video": 0.0}, {"cross_video": 0.0, "intra_frame": 0.0}):
        config = configured(frame_feature="pre", weights=untrained)
        module = module_of(config)
        module(batch_of(config, data, range(4)))[0].backward()
        assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None], untrained
        assert (module.image_encoder.transformer.blocks[0].out.weight.grad is None) == ("cross_video" in untrained)  # type: ignore[union-attr]


def test_features_from_before_the_transformer_cost_no_second_pass(data: Dataset) -> None:
    config = configured(frame_feature="pre")
    module = module_of(config)
    passes: list[str] = []
    module.encoder.tubes.conv.register_forward_hook(lambda *_: passes.append("points"))
    module.image_encoder.image.register_forward_hook(lambda *_: passes.append("images"))  # type: ignore[union-attr]
    module(batch_of(config, data, range(4)))
    assert sorted(passes) == ["images", "points"]


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be trained"):
        configured(weights=dict.fromkeys(HEADS, 0.0))
    with pytest.raises(ValidationError, match="nothing would train the transformer over time"):
        configured(weights={"intra_video": 0.0, "cross_video": 0.0}, frame_feature="pre")
    with pytest.raises(ValueError, match=r"encoder\.features is 0 and objective\.point_augment\.features names 1"):
        check_encoder(configured(point_augment={"features": ["height"]}), P4TransformerConfig.model_validate(ENCODER))


def test_images_are_not_mirrored_by_themselves() -> None:
    with pytest.raises(ValidationError, match=r"image_augment\.flip"):
        configured(image_augment={"size": 16, "flip": 0.5})


def test_a_flip_mirrors_every_point_and_every_image_of_a_clip_or_none(data: Dataset) -> None:
    still = {"rotation": "none", "scale": [1.0, 1.0], "translate": 0.0, "jitter_sigma": 0.0, "normalise": "none", "count": None}
    plain, flipping = (
        configured(point_augment={"frames": 8, "flip": flip, **still}, image_augment={"size": 16, "crop": [1.0, 1.0], "colours": 0.0})
        for flip in (0.0, 0.5)
    )
    flips = []
    for epoch in range(8):
        for index in range(4):
            found, other = (prepare(config, data, index, 0, epoch, 1) for config in (plain, flipping))
            flips.append(not np.array_equal(found["points1"], other["points1"]))
            sign = np.array([-1 if flips[-1] else 1, 1, 1], np.float32)
            for name in ("points1", "points2"):
                np.testing.assert_array_equal(other[name], found[name] * sign)
            np.testing.assert_array_equal(other["images"], found["images"][..., ::-1] if flips[-1] else found["images"])
    assert 8 <= sum(flips) <= 24


def test_the_published_size_is_kept_where_a_file_changes_one_thing() -> None:
    config = CrossVideoConfig.model_validate({"point_augment": {"step": 2}})
    assert config.point_augment == ClipAugment(frames=100, count=2048, step=2, normalise="none", angle=0.05 * math.pi)
    assert (config.temperature, config.projection, config.frame_negatives) == (0.07, 256, "batch")
    assert set(config.weights.model_dump().values()) == {1.0}


# ---- what a clip brings ----------------------------------------------------------------------------------------------


def test_what_a_clip_brings_is_a_function_of_seed_epoch_and_key(data: Dataset) -> None:
    config = configured()
    first, again = prepare(config, data, 3, 5, 7, 1), prepare(config, data, 3, 5, 7, 1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    shapes = {"points1": (8, 48, 3), "points2": (8, 48, 3), "images": (8, 3, 16, 16), "frames": (3, 8), "partners": (3, 8)}
    assert {name: value.shape for name, value in first.items()} == shapes | {"short": (), "noise": ()}
    for other in (prepare(config, data, 3, 5, 8, 1), prepare(config, data, 3, 6, 7, 1), prepare(config, data, 4, 5, 7, 1)):
        assert not np.array_equal(first["points1"], other["points1"])
    without = prepare(configured(weights={"cross_video": 0.0, "cross_frame": 0.0}), data, 3, 5, 7, 1)
    assert set(without) == set(first) - {"images"}
    np.testing.assert_array_equal(first["points1"], without["points1"])


def test_the_two_point_views_are_turned_scaled_and_sampled_each_for_itself(data: Dataset) -> None:
    found = prepare(configured(point_augment=OBJECTIVE["point_augment"] | {"mode": "shared", "jitter_sigma": 0.0}), data, 3, 5, 7, 1)
    np.testing.assert_array_equal(found["frames"][0], found["frames"][1])
    spans = [
        np.linalg.norm(found[name].reshape(-1, 3) - found[name].reshape(-1, 3).mean(0), axis=1).max() for name in ("points1", "points2")
    ]
    assert abs(spans[0] - spans[1]) > 1e-3  # of another scale
    heights = [np.unique(np.round(found[name][0][:, 1] / spans[number], 3)) for number, name in enumerate(("points1", "points2"))]
    assert not np.array_equal(*heights)  # of other points: a turn about y keeps heights


def test_points_and_images_of_a_source_frame_are_the_same_instant(data: Dataset) -> None:
    still = {"rotation": "none", "scale": [1.0, 1.0], "translate": 0.0, "jitter_sigma": 0.0, "normalise": "none", "count": None}
    plain = FramesAugment(size=16, crop=(1.0, 1.0), colours=0.0)
    config = configured(point_augment={"frames": 8, **still}, image_augment=plain)
    for index in range(6):
        found = prepare(config, data, index, 0, 0, 1)
        stored = data.load(index, ("clip.npy", *(f"f{t:03d}.png" for t in range(16))))
        np.testing.assert_array_equal(found["points1"], stored["clip.npy"][found["frames"][0]])
        np.testing.assert_array_equal(found["points2"], stored["clip.npy"][found["frames"][1]])
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        images = (found["images"].transpose(0, 2, 3, 1) * std + mean) * 255
        np.testing.assert_allclose(images, np.stack([stored[f"f{t:03d}.png"] for t in found["frames"][2]]), atol=0.01)


def test_every_clip_has_pairs_of_frames_in_every_pair_of_streams_where_the_encoder_thins_out_time(data: Dataset) -> None:
    config = configured()
    module = module_of(config, temporal_stride=2, padding=(1, 0))
    thin = module.encoder.frame_index(8)
    batch = collate([prepare_for(config, module.encoder.config, data, 5, index, epoch) for epoch in range(4) for index in range(12)])
    for pair in ([0, 1], [0, 2], [1, 2]):
        pairs = matches(batch["partners"][:, pair][:, :, thin]).sum((1, 2))
        assert (pairs >= 2).all()
        assert (pairs < 4).any()  # not by starting alike
    still = collate([module.prepare_still(data, index, 5) for index in range(12)])
    assert matches(still["partners"][:, :2, thin]).any((1, 2)).all()


def test_a_still_clip_shows_its_first_frame_in_the_places_of_those_drawn(data: Dataset) -> None:
    unmoved = {"rotation": "none", "scale": [1.0, 1.0], "translate": 0.0, "jitter_sigma": 0.0, "normalise": "none", "count": None}
    config = configured(point_augment={"frames": 8, **unmoved}, image_augment={"size": 16, "crop": [1.0, 1.0], "colours": 0.0})
    moving = prepare(config, data, 3, 5, 0, 1)
    clip = data.load(3, ("clip.npy",))["clip.npy"]
    found, seen = prepare(config, data, 3, 5, 0, 1, still=True), module_of(config).prepare_still(data, 3, 5)
    for still in (found, seen):
        np.testing.assert_array_equal(still["points1"], np.repeat(clip[:1], 8, axis=0))
        np.testing.assert_array_equal(still["points2"], np.repeat(clip[:1], 8, axis=0))
        # which frames correspond is what it was
        np.testing.assert_array_equal(still["frames"], moving["frames"])
        np.testing.assert_array_equal(still["partners"], moving["partners"])
    assert (found["images"] == found["images"][0]).all()
    assert set(seen) == set(found) - {"images"}  # which the monitor does not look at
    assert (moving["images"] != moving["images"][0]).any()
    first = prepare(config.model_copy(update={"point_augment": config.point_augment.model_copy(update={"frames": 16})}), data, 3, 5, 0, 1)
    np.testing.assert_array_equal(found["images"][0], first["images"][0])  # a view of the whole clip begins with its first frame


def test_short_clips_are_counted(tmp_path: Path) -> None:
    short = Dataset.open(write_clips(tmp_path, train=4, test=0, lengths=(16, 5)))
    config = configured()
    module = module_of(config)
    _, terms = module(batch_of(config, short, range(4)))
    assert float(terms["short"]) == 0.5


def test_a_stored_frame_without_a_valid_point_corresponds_to_nothing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(weights={"cross_video": 0.0, "cross_frame": 0.0})
    plain = prepare(config, data, 0, 5, 0, 1)["partners"]
    clip = data.load(0, ("clip.npy",))["clip.npy"]
    valid = np.ones(clip.shape[:2], bool)
    valid[7], valid[8, 1:] = False, False
    monkeypatch.setattr("training.objectives.crossvideo.read_clip", lambda *_: (clip, valid))
    found = prepare(config, data, 0, 5, 0, 1)["partners"]
    assert (plain == 7).any()
    np.testing.assert_array_equal(found, np.where(plain == 7, -1, plain))


def test_clips_with_features_of_their_points(tmp_path: Path) -> None:
    data = Dataset.open(write_clips(tmp_path, train=4, test=0, features=True, valid=True, images=False))
    config = configured(
        weights={"cross_video": 0.0, "cross_frame": 0.0}, point_augment=OBJECTIVE["point_augment"] | {"features": ["height", "part"]}
    )
    batch = batch_of(config, data, range(4))
    assert batch["points1"].shape == (4, 8, 48, 5)
    assert math.isfinite(module_of(config, features=2)(batch)[0].item())


# ---- what it learns --------------------------------------------------------------------------------------------------


def trained(
    module: CrossVideo, config: CrossVideoConfig, data: Dataset, steps: int, shuffled: bool = False, lr: float = 3e-3
) -> list[float]:
    """Steps on the first eight clips; the values of the cross video loss."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 3e-3)
    rng = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps):
        batch = batch_of(config, data, range(8), step)
        if shuffled:
            batch["images"] = batch["images"][torch.randperm(8, generator=rng)]
        loss, terms = module(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        found.append(float(terms.get("loss_cross_video", torch.zeros(()))))
    return found


GENTLE: dict[str, Any] = {
    "point_augment": OBJECTIVE["point_augment"] | {"angle": 0.1, "translate": 0.02, "jitter_sigma": 0.002},
    "image_augment": {"size": 16, "crop": [0.95, 1.0], "hue": 0.0, "colours": 0.3},
}


@pytest.mark.slow
def test_eight_pairs_are_learnt_by_heart_and_shuffled_ones_are_not(data: Dataset) -> None:
    config = configured(**GENTLE)
    module = module_of(config)
    learnt = trained(module, config, data, 150)
    batch = batch_of(config, data, range(8), 1000)
    module.train()  # the batch's own statistics: this asks whether the pairs can be told, not how they carry over
    with torch.no_grad():
        points = module.point_video_head(module.encoder(batch["points1"])).numpy()
        images = module.image_branch(batch["images"]).numpy()  # type: ignore[misc]
    owner = np.arange(8)
    assert hits(points, owner, images, owner, 1).mean() == 1
    assert hits(images, owner, points, owner, 1).mean() == 1
    assert np.mean(learnt[-10:]) < 0.5
    other = module_of(config)
    confused = trained(other, config, data, 150, shuffled=True)
    assert np.mean(confused[-50:]) > math.log(15) - 0.4


@pytest.mark.slow
def test_frames_of_moving_clips_are_found_again(data: Dataset) -> None:
    config = configured(**GENTLE)
    module = module_of(config)
    trained(module, config, data, 150)
    batch = batch_of(config, data, range(8), 1000)
    module.train()
    with torch.no_grad():
        a, b, partners = module.frame_pair(batch)
    similar = functional.normalize(a, dim=2) @ functional.normalize(b, dim=2).transpose(1, 2)
    asked = matches(partners)
    right = (similar.argmax(2) == asked.int().argmax(2))[asked.any(2)].float().mean()
    assert float(right) > 2 / 8


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "feature", "open_to_it"), [("window", "post", False), ("shared", "post", True)])
def test_the_index_shortcut_is_closed_by_windows_and_seen_where_lists_are_shared(
    tmp_path: Path, mode: str, feature: str, open_to_it: bool
) -> None:
    """Trained on clips of identical frames, where a frame's place is all there is to learn. [C.5, 8]"""
    data = Dataset.open(write_clips(tmp_path, train=48, test=0, still=True))
    config = configured(
        frame_feature=feature,
        weights={"intra_video": 1.0, "intra_frame": 1.0, "cross_video": 0.0, "cross_frame": 0.0},
        point_augment=GENTLE["point_augment"] | {"mode": mode},
    )
    module = module_of(config)
    for steps in (0, 50):
        trained(module.train(), config, data, steps)
        found = shortcut(module.eval(), data, np.arange(48), 0, most=48)
        assert found["shortcut_chance"] == 1 / 8
        if not open_to_it:
            # answering by the place is right for the clips whose starts are alike, and no better is possible
            noise = 3 * math.sqrt(0.15 * 0.85 / 48)
            assert found["shortcut_start"] == pytest.approx(0.15, abs=noise)
            assert found["shortcut"] < 0.15 + noise
    if open_to_it:
        assert found["shortcut"] > 0.5
