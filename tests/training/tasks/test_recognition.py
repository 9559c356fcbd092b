"""A clip's action is what its windows say together, whatever their order and however many are seen at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.reader import Dataset
from tests.training.clip_cases import write_clips
from tests.training.finetune_cases import VIDEO_CONFIG, VIDEO_ENCODERS
from training.clip_views import ClipAugment
from training.distributed import World
from training.encoders import build
from training.finetune import FinetuneConfig, Finetuned, _score
from training.loop import TrainingError
from training.tasks import Recognition, RecognitionConfig, open_task
from training.tasks.clips import windows
from training.tasks.items import Items
from training.tasks.viewing import Viewing


def opened(uri: str, **config: Any) -> tuple[Recognition, Dataset]:
    dataset = Dataset.open(uri)
    task = open_task(RecognitionConfig(hidden=(16,), **config), dataset, dataset.indices("train"))
    assert isinstance(task, Recognition)
    return task, dataset


def viewing(**changes: Any) -> Viewing:
    return Viewing(ClipAugment(**{"frames": 8, **changes}), 32, 3)


def scores(task: Recognition, dataset: Dataset, items: np.ndarray) -> np.ndarray:
    config = FinetuneConfig.model_validate(VIDEO_CONFIG | {"task": task.config.model_dump()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build(VIDEO_ENCODERS["p4transformer"])
    return _score(Finetuned(task, encoder).eval(), config, dataset, items, World())


def test_every_start_votes_or_a_number_of_them_spread_evenly() -> None:
    augment = ClipAugment(frames=4, step=2)
    every = windows(10, augment, 0)
    # n − 1 − (T − 1)·interval is the last start
    assert [frames.tolist() for frames in every] == [[o, o + 2, o + 4, o + 6] for o in range(4)]
    assert [int(frames[0]) for frames in windows(10, augment, 2)] == [0, 3]
    assert [int(frames[0]) for frames in windows(10, augment, 9)] == [0, 1, 2, 3]
    assert [int(frames[0]) for frames in windows(11, augment, 1)] == [2]
    assert [frames.tolist() for frames in windows(3, augment, 0)] == [[0, 2, 2, 2]]


def test_probabilities_are_summed_over_windows(clips_dataset: str) -> None:
    task, dataset = opened(clips_dataset)
    index = int(dataset.indices("test")[0])
    torch.manual_seed(0)
    encoder = build(VIDEO_ENCODERS["p4transformer"])
    module = Finetuned(task, encoder).eval()
    config = FinetuneConfig.model_validate(VIDEO_CONFIG | {"task": task.config.model_dump()})
    total = np.zeros(3)
    number = 0
    with torch.no_grad():
        for sample in task.seen(dataset, index, config.viewing(), 0):
            logits = module.logits({"points": torch.from_numpy(sample["points"])[None]})[0].double().numpy()
            total += np.exp(logits) / np.exp(logits).sum()
            number += 1
    assert number == 16 - 8 + 1
    row = _score(module, config, dataset, np.array([index]), World())[0]
    assert int(row[3]) == int(total.argmax())
    assert row[0] == pytest.approx(-np.log(total[int(row[2])] / number))
    assert int(row[5]) == number


def test_the_score_does_not_depend_on_the_order_of_windows(clips_dataset: str) -> None:
    task, _ = opened(clips_dataset)
    rng = np.random.default_rng(0)
    passes = torch.from_numpy(np.concatenate([rng.dirichlet(np.ones(3), 7), np.tile([2.0, 0.0], (7, 1))], axis=1))
    there, back = (task.scored([list(each)], [])[0] for each in (passes, passes.flip(0)))
    torch.testing.assert_close(there, back)
    assert int(there[3]) == int(passes[:, :3].sum(0).argmax())


def test_the_score_does_not_depend_on_what_is_seen_at_once(clips_dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, dataset = opened(clips_dataset, windows=3)
    items = dataset.indices("test")
    together = scores(task, dataset, items)
    np.testing.assert_allclose(scores(task, dataset, items[::-1])[::-1], together, atol=1e-5)
    monkeypatch.setattr(Recognition, "at_once", 1)
    np.testing.assert_allclose(scores(task, dataset, items), together, atol=1e-5)


def test_a_training_view_is_a_function_of_seed_epoch_and_key(clips_dataset: str) -> None:
    task, dataset = opened(clips_dataset)
    once, again = (task.drawn(dataset, 3, viewing(), 5) for _ in range(2))
    np.testing.assert_array_equal(once["points"], again["points"])
    assert once["points"].shape == (8, 32, 3)
    other = [task.drawn(dataset, 3, viewing(), 6), task.drawn(dataset, 4, viewing(), 5)]
    other.append(task.drawn(dataset, 3, Viewing(viewing().augment, 32, 4), 5))
    assert all(not np.array_equal(once["points"], view["points"]) for view in other)


def test_training_windows_start_anywhere(tmp_path: Path) -> None:
    task, dataset = opened(write_clips(tmp_path, train=3, test=0, images=False))
    still = viewing(normalise="none", rotation="none", scale=(1, 1), translate=0, jitter_sigma=0)
    stored = dataset.load(0, ("clip.npy",))["clip.npy"]
    frame_of = {point.tobytes(): number for number, frame in enumerate(stored) for point in frame}
    found = set()
    for epoch in range(80):
        frames = [{frame_of[point.tobytes()] for point in frame} for frame in task.drawn(dataset, 0, still, epoch)["points"]]
        starts = {frame.pop() - place for place, frame in enumerate(frames)}
        assert len(starts) == 1
        found |= starts
    assert found == set(range(9))


@pytest.mark.parametrize("kind", ["train", "test"])
def test_clips_shorter_than_a_view_are_counted_or_refused(kind: str, tmp_path: Path) -> None:
    task, dataset = opened(write_clips(tmp_path, train=6, test=3, images=False, lengths=(16, 16, 5)))
    train, test = dataset.indices("train"), dataset.indices("test")
    items = Items(train, train, test[:0], test, {})
    of_length = np.array([len(dataset.load(index, ("clip.npy",))["clip.npy"]) for index in train.tolist()])
    assert task.facts(dataset, items, viewing()) == {"training_clips_shorter_than_a_view": 2}
    rows = scores(task, dataset, dataset.indices("test"))
    assert len(rows) == 3
    assert task.metrics(rows)[0].details["clips_shorter_than_a_view"] == 1
    if kind == "train":
        with pytest.raises(ValueError, match=r"2 of 6 training clips .* fewer frames than the 8 of a view \(the shortest 5\)"):
            task.facts(dataset, items, viewing(short="refuse"))
    else:
        # not when the training is over
        with pytest.raises(ValueError, match=r"1 of 3 test clips .* fewer frames than the 8 of a view"):
            task.facts(dataset, Items(train, train[of_length == 16], test[:0], test, {}), viewing(short="refuse"))
        short = int(dataset.indices("test")[rows[:, 4] > 0][0])
        with pytest.raises(TrainingError, match="has 5 frames, fewer than the 8 of a view"):
            list(task.seen(dataset, short, viewing(short="refuse"), 0))


def test_chance_is_the_commonest_class_and_scores_are_of_clips(clips_dataset: str) -> None:
    task, _ = opened(clips_dataset)
    rows = np.array([[0.1, 1, label, predicted, 0, 4] for label, predicted in [(0, 0), (0, 1), (0, 0), (1, 1), (2, 0)]])
    accuracy, by_class = task.metrics(rows)
    assert accuracy.value == pytest.approx(3 / 5)
    assert accuracy.chance == pytest.approx(3 / 5)
    assert accuracy.details["per_class"] == pytest.approx({"circle": 2 / 3, "rise": 1.0, "swing": 0.0})
    assert by_class.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert len(accuracy.scores) == len(by_class.scores) == 5


def test_what_is_no_clip_and_a_single_class_are_refused(parts_dataset: str, clips_dataset: str) -> None:
    dataset = Dataset.open(parts_dataset)
    with pytest.raises(ValueError, match=r"has no clip\.npy: this task needs a dataset of clips"):
        open_task(RecognitionConfig(), dataset, dataset.indices("train"))
    dataset = Dataset.open(clips_dataset)
    with pytest.raises(ValueError, match="have 1 class: this task needs two"):
        open_task(RecognitionConfig(), dataset, np.flatnonzero(dataset.classes == "rise"))


def test_a_linear_probe_has_a_linear_head(clips_dataset: str) -> None:
    task, _ = opened(clips_dataset)
    linear = Recognition(RecognitionConfig(hidden=()), task.classes, 0)
    head = linear.head(build(VIDEO_ENCODERS["p4transformer"]))
    assert [type(module) for module in head.modules() if not list(module.children())] == [nn.ModuleList, nn.ModuleList, nn.Linear]
