"""Evaluation of clips: what encoders get, frames found inside their clip, the shortcut's measure, figures of a trained objective."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestration.judge import _recorded_view, evaluate_folder, judge
from pipeline.reader import Dataset
from tests.training.clip_cases import ADAM, ENCODER, OBJECTIVE, write_clips
from training import encoder_file
from training.augment import FramesAugment
from training.clip_views import ClipAugment
from training.distributed import World
from training.evaluation.clips import by_place, clips, frame_hits, shortcut, videos
from training.evaluation.evaluate import EvaluateConfig
from training.finetune import FinetuneConfig, finetune
from training.loop import Place
from training.objectives import CrossVideo
from training.pretrain import PretrainConfig, fresh, pretrain
from training.tasks import RecognitionConfig, open_task
from training.tasks.viewing import Viewing

VIEW = ClipAugment(frames=8, count=48, normalise="none")


def test_an_encoder_gets_the_middle_frames_and_the_images_of_the_same_instants(clips_dataset: str) -> None:
    data = Dataset.open(clips_dataset)
    found = list(clips(data, [2, 0], VIEW, None))
    stored = [data.load(index, ("clip.npy",))["clip.npy"] for index in (2, 0)]
    for seen, clip in zip(found, stored, strict=True):
        for points, frame in zip(seen, clip[4:12], strict=True):
            assert len({row.tobytes() for row in points} & {row.tobytes() for row in frame}) == 48
    task = open_task(RecognitionConfig(windows=1), data, data.indices("train"))
    (scored,) = task.seen(data, 2, Viewing(VIEW, 48, 0), 0)
    np.testing.assert_array_equal(found[0], scored["points"])  # a fine-tuned encoder is scored on the same points
    seen = list(videos(data, [2, 0], VIEW, FramesAugment(size=16)))
    assert [video.shape for video in seen] == [(8, 3, 16, 16)] * 2
    picture = data.load(2, ("f004.png",))["f004.png"]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose((seen[0][0].transpose(1, 2, 0) * std + mean) * 255, picture, atol=0.01)


def test_turned_clips_are_turned_once_for_all_frames_and_the_same_for_every_encoder(clips_dataset: str) -> None:
    data = Dataset.open(clips_dataset)
    (still,), (turned,), (again,) = (list(clips(data, [1], VIEW, seed)) for seed in (None, 3, 3))
    np.testing.assert_array_equal(turned, again)
    a, b = still.reshape(-1, 3).astype(float), turned.reshape(-1, 3).astype(float)
    rotation, *_ = np.linalg.lstsq(a, b, rcond=None)
    np.testing.assert_allclose(a @ rotation, b, atol=1e-5)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    assert np.abs(a - b).max() > 0.05


def test_short_clips_are_named(tmp_path: Path) -> None:
    data = Dataset.open(write_clips(tmp_path, train=4, test=0, lengths=(16, 5)))
    short: list[str] = []
    found = list(clips(data, range(4), VIEW, None, short))
    lengths = [len(data.load(index, ("clip.npy",))["clip.npy"]) for index in range(4)]
    assert short == [key for key, length in zip(data.keys, lengths, strict=True) if length == 5]
    last = {row.tobytes() for row in data.load(lengths.index(5), ("clip.npy",))["clip.npy"][-1]}
    assert all({row.tobytes() for row in frame} <= last for frame in found[lengths.index(5)][4:])


def test_a_frame_is_found_where_its_partner_is_nearest() -> None:
    a, b = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[[1, 2, 3, 0]]
    first, second = np.array([4, 5, 6, 7]), np.array([5, 6, 7, 8])
    scores = frame_hits(a, b, first, second)
    assert scores is not None
    assert scores.tolist() == [1, 1, 1]  # frame 4 has no partner
    wrong = frame_hits(a, np.roll(b, 1, axis=0), first, second)
    assert wrong is not None
    assert wrong.tolist() == [0, 0, 0]
    equal = frame_hits(np.ones((4, 2), np.float32), np.ones((4, 2), np.float32), first, second, 2)
    assert equal is not None
    assert equal.tolist() == pytest.approx([0.5] * 3)  # all alike: 2 of 4 places
    assert frame_hits(a, b, first, np.array([-1, 9, 10, -1])) is None


@pytest.mark.parametrize("k", [1, 2])
def test_chance_of_frames_is_the_best_answer_by_their_place_alone(k: int) -> None:
    rng = np.random.default_rng(k)
    pairs = [(rng.permutation(5)[:3], np.where(rng.random(3) < 0.2, -1, rng.permutation(5)[:3])) for _ in range(12)]
    answers = list(itertools.combinations(range(3), k))
    reached = []
    for answer in itertools.product(answers, repeat=3):
        rows = np.array([[float(place in answer[asking]) for place in range(3)] for asking in range(3)], np.float32)
        scores = [frame_hits(rows, np.eye(3, dtype=np.float32), first, second, k) for first, second in pairs]
        reached.append(np.mean([score.mean() for score in scores if score is not None]))
    assert by_place(pairs, k) == pytest.approx(max(reached))
    assert max(reached) > k / 3


class ByPlace:
    """An objective whose frames say their place in the list and nothing else, or their source frame."""

    def __init__(self, lists: np.ndarray, by_source: bool) -> None:
        self.lists, self.by_source = lists, by_source
        self.asked: list[int] = []

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def prepare_still(self, _: Dataset, index: int, seed: int) -> dict[str, np.ndarray]:
        self.asked.append(index)
        return {"partners": self.lists[index]}

    def frame_pair(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        partners = batch["partners"]
        places = partners if self.by_source else torch.arange(partners.shape[2]).expand_as(partners)
        rows = torch.nn.functional.one_hot(places, 20).float()
        return rows[:, 0], rows[:, 1], partners


def test_answering_by_the_place_is_right_exactly_where_the_lists_start_alike() -> None:
    starts = [(0, 0), (0, 1), (3, 3), (2, 4), (5, 4)]
    lists = np.array([[np.arange(a, a + 8), np.arange(b, b + 8)] for a, b in starts])
    found = shortcut(ByPlace(lists, by_source=False), None, range(5), 0)  # type: ignore[arg-type]
    assert found == {"shortcut": pytest.approx(0.4), "shortcut_start": pytest.approx(0.4), "shortcut_chance": 1 / 8}
    seeing = shortcut(ByPlace(lists, by_source=True), None, range(5), 0)  # type: ignore[arg-type]
    assert seeing["shortcut"] == 1
    apart = lists[1:2, :, ::2]  # an encoder that halves the frames sees even ones of the one and odd ones of the other
    assert shortcut(ByPlace(apart, by_source=True), None, [0], 0) == {"shortcut_start": 0, "shortcut_chance": 1 / 4}  # type: ignore[arg-type]


def test_the_shortcut_is_looked_for_in_clips_of_the_whole_split_the_same_after_each_epoch() -> None:
    lists = np.array([[np.arange(8), np.arange(8)]] * 100)
    asked = []
    for seed in (0, 0, 1):
        module = ByPlace(lists, by_source=True)
        shortcut(module, None, np.arange(100), seed)  # type: ignore[arg-type]
        asked.append(module.asked)
    assert asked[0] == asked[1] != asked[2]
    for chosen in asked:
        assert len(set(chosen)) == 16
        assert min(chosen) < 30
        assert max(chosen) >= 70


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(clips_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for kind, objective in (
        ("crossvideo", OBJECTIVE),
        ("points", OBJECTIVE | {"weights": {"cross_video": 0.0, "cross_frame": 0.0}}),
        ("c2p", {"kind": "c2p", "hidden": 16, "point_augment": {"frames": 8, "count": 48, "normalise": "clip"}}),
    ):
        fit = {"epochs": 1, "batch": 4, "optimizer": ADAM}
        config = PretrainConfig.model_validate({"encoder": ENCODER, "objective": objective, "fit": fit})
        pretrain(config, Dataset.open(clips_dataset), folder / kind, World(), Place(device="cpu", threads=1))
    return folder


CONFIG = EvaluateConfig.model_validate(
    {"protocols": ["svm", "knn", "retrieval", "frame_retrieval"], "svm_folds": 2, "recall": [1, 3], "turned": [False]}
)


def test_the_figures_of_clips_stand_beside_chance_and_random_weights(trained: Path, clips_dataset: str, tmp_path: Path) -> None:
    found = judge(tmp_path / "one", trained / "crossvideo", clips_dataset, CONFIG)
    rows = {row["figure"]: row for row in found["table"]}
    ways = ("point_to_point", "point_to_image", "image_to_point")
    names = {f"frame_retrieval.{way}@{k}" for way in ways for k in (1, 3)} | {f"frame_retrieval.still_{way}@1" for way in ways}
    names |= {f"retrieval.{way}@{k}" for way in ("point_to_image", "image_to_point") for k in (1, 3)}
    assert names <= set(rows)
    for name in names:
        row = rows[name]
        assert row["n"] == 6
        assert row["random"] is not None
        if name.startswith("frame"):
            assert int(name[-1]) / 8 < row["chance"] < 1
        else:
            assert row["chance"] == pytest.approx(int(name[-1]) / 6)
    assert "left_out_protocols" not in found
    details = next(figure["details"] for figure in found["figures"] if figure["protocol"] == "knn")
    assert (details["frames"], details["points"], details["short_clips"], details["normalise"]) == (8, 48, 0, "clip")
    assert all(figure["details"]["owners"] == list(range(6)) for figure in found["figures"])  # each clip has a file of its own
    again = judge(tmp_path / "two", trained / "crossvideo", clips_dataset, CONFIG.model_copy(update={"batch": 4}))
    assert [row["pretrained"] for row in again["table"]] == pytest.approx([row["pretrained"] for row in found["table"]])
    assert np.load(tmp_path / "one" / "evidence" / "images.npy").shape == (6, 16)


def test_what_an_objective_has_nothing_for_is_left_out_and_named(trained: Path, clips_dataset: str, tmp_path: Path) -> None:
    points = judge(tmp_path / "points", trained / "points", clips_dataset, CONFIG)
    assert points["left_out_protocols"] == ["retrieval"]
    assert {row["figure"] for row in points["table"] if row["figure"].startswith("frame")} == {
        "frame_retrieval.point_to_point@1",
        "frame_retrieval.point_to_point@3",
        "frame_retrieval.still_point_to_point@1",
    }
    c2p = judge(tmp_path / "c2p", trained / "c2p", clips_dataset, CONFIG)
    assert c2p["left_out_protocols"] == ["retrieval", "frame_retrieval"]
    with pytest.raises(ValueError, match="c2p has nothing for retrieval: choose other protocols"):
        judge(tmp_path / "none", trained / "c2p", clips_dataset, CONFIG.model_copy(update={"protocols": ("retrieval",)}))


def test_an_encoder_alone_is_seen_as_in_its_training(trained: Path, clips_dataset: str) -> None:
    alone = evaluate_folder(trained / "crossvideo" / "encoder", clips_dataset, ["knn"], None)
    whole = evaluate_folder(trained / "crossvideo", clips_dataset, ["knn"], None)
    assert [row["pretrained"] for row in alone] == [row["pretrained"] for row in whole]


def test_frames_are_found_in_views_of_the_training_and_say_so(trained: Path, clips_dataset: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"points": 24, "clips": ClipAugment(frames=4, mode="bins"), "protocols": ("knn", "frame_retrieval")})
    found = judge(tmp_path / "found", trained / "crossvideo", clips_dataset, config)
    seen = {
        figure["protocol"]: tuple(figure["details"][name] for name in ("points", "frames", "step", "mode", "normalise"))
        for figure in found["figures"]
    }
    assert seen == {"knn": (24, 4, 1, "bins", "clip"), "frame_retrieval": (48, 8, 1, "window", "clip")}


def test_clips_are_not_asked_to_be_normalised_as_clouds(trained: Path, clips_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"normalise is of single clouds: an encoder of clips sees them as clips\.normalise says"):
        judge(tmp_path / "found", trained / "crossvideo", clips_dataset, CONFIG.model_copy(update={"normalise": True}))


def test_an_encoder_of_a_fine_tuning_is_seen_as_in_that(clips_dataset: str, tmp_path: Path) -> None:
    augment = {"frames": 6, "normalise": "none", "angle": 0.1}
    config = {"encoder": ENCODER, "task": {"kind": "recognition"}, "augment": augment, "points": 24, "fit": {"epochs": 1, "batch": 4}}
    finetune(FinetuneConfig.model_validate(config), Dataset.open(clips_dataset), tmp_path, World(), Place(device="cpu", threads=1))
    view = _recorded_view(encoder_file.load(tmp_path / "encoder"))
    assert view == ClipAugment(frames=6, normalise="none", angle=0.1, count=24)


def test_all_norms_that_figures_read_of_random_weights_have_the_statistics_of_training_clips(
    clips_dataset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Path
) -> None:
    twins: list[CrossVideo] = []

    def kept(config: PretrainConfig) -> CrossVideo:
        module = fresh(config)
        assert isinstance(module, CrossVideo)
        twins.append(module)
        return module

    monkeypatch.setattr("orchestration.judge.fresh", kept)
    judge(tmp_path, trained / "crossvideo", clips_dataset, CONFIG)
    norms = {name: module for name, module in twins[0].named_modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)}
    heads = {name.partition(".")[0] for name in norms}
    assert {"point_video_head", "point_frame_head", "image_encoder", "image_video_head", "image_frame_head"} <= heads
    assert [name for name, norm in norms.items() if (norm.running_mean == 0).all()] == []
