"""Clips in evaluation: frozen views of point-cloud and image videos, frames found again inside their clip, and the index shortcut.

A clip is seen through its middle window (`clip_views.plain_frames`), its points drawn by its key, normalised as in the training. Frames
are looked for inside their own clip: of the frames that one stream shows, the one of the same source frame as the other stream's. For that
the two streams show windows drawn as in training, by (seed, key): with the same window for both, a frame's place would be answer enough.
It still says something, since a partner is oftener near the same place than far from it, so chance is not k of the L frames but what the
best answer by the place alone would reach on these windows (`by_place`).

The index shortcut is what is left when there is nothing to see: frame retrieval on clips all of whose frames are the first one. An encoder
that answers by a frame's place alone finds its partner exactly where both windows start alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.reader import Dataset
from training.augment import FramesAugment, plain_image, random_rotation, rng_for
from training.batches import collate
from training.clip_views import STREAMS, Clip, ClipAugment, frame_names, load_frames, plain_clip, plain_frames, read_clip
from training.encoders import temporal_stride
from training.evaluation.retrieval import hits
from training.objectives import C2P, CrossVideo
from training.objectives.crossvideo import prepare

Indices = Sequence[int] | NDArray[np.int64]


def turn_clip(clip: Clip, seed: int, key: str) -> Clip:
    """The clip turned about the origin by one uniform rotation, a function of (seed, key): the same for every encoder."""
    out = clip.copy()
    out[:, :, :3] = clip[:, :, :3] @ random_rotation(rng_for(seed, 0, key, "turned")).T.astype(np.float32)
    return out


def clips(dataset: Dataset, indices: Indices, view: ClipAugment, turned: int | None, short: list[str] | None = None) -> Iterator[Clip]:
    """The samples' middle windows (T, N, 3 + F) as the encoder gets them, in the order of the indices, without random steps.

    A seed `turned` turns each as `turn_clip` does. The keys of those that had to be filled up are added to `short`.
    """
    for index in np.asarray(indices).tolist():
        clip, valid = read_clip(dataset, index, view)
        if short is not None and len(clip) < view.span:
            short.append(dataset.keys[index])
        plain, _ = plain_clip(clip, plain_frames(len(clip), view), view, dataset.keys[index], valid)
        yield plain if turned is None else turn_clip(plain, turned, dataset.keys[index])


def with_count(view: ClipAugment, points: int | None) -> ClipAugment:
    """The view with another number of points, where one is given."""
    return view if points is None else view.model_copy(update={"count": points})


def videos(dataset: Dataset, indices: Indices, view: ClipAugment, image: FramesAugment) -> Iterator[NDArray[np.float32]]:
    """The image videos (T, 3, S, S) of the same frames as `clips`, without random steps. ValueError for a clip without images."""
    for index in indices:
        length = len(frame_names(dataset, int(index)))
        frames = plain_frames(max(length, 1), view)
        yield np.stack([plain_image(picture, image) for picture in load_frames(dataset, int(index), frames)])


# ---- frames inside their clip ----------------------------------------------------------------------------------------


def frame_hits(
    a: NDArray[np.float32], b: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64], k: int = 1
) -> NDArray[np.float64] | None:
    """Of each frame of a (L, D) that has a partner among b (L', D), whether that is among the k nearest of b, in [0, 1]; None without any.

    first (L,), second (L',) int64: frames correspond iff equal and not −1. Equal similarities share the place, as in `retrieval.hits`.
    """
    asked = np.flatnonzero(np.isin(first, second[second >= 0]))
    if not len(asked):
        return None
    places = np.array([int(np.flatnonzero(second == first[frame])[0]) for frame in asked])
    return hits(a[asked], places, b, np.arange(len(b)), k)


@dataclass(frozen=True)
class FrameScores:
    """metric, "point_to_image@1"; scores (n,) in [0, 1], one for each clip of the dataset indices `clips`; chance, `by_place`; k, view."""

    metric: str
    scores: NDArray[np.float64]
    clips: tuple[int, ...]
    chance: float
    k: int
    view: ClipAugment


def by_place(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], k: int) -> float:
    """The most that an answer by the place alone can reach on these clips, of (first (L,), second (L',)) each, as `frame_hits` has them.

    Such an answer names the same k places of the second stream for a place of the first, whatever stands there. The mean over clips of
    their shares of frames whose partner is named is a sum over the places of the first, so the best answer is that of each place.
    """
    asked = [(np.flatnonzero(np.isin(first, second[second >= 0])), first, second) for first, second in pairs]
    asked = [row for row in asked if len(row[0])]
    weights = np.zeros((len(pairs[0][0]), len(pairs[0][1])))
    for places, first, second in asked:
        for place in places:
            weights[place, np.flatnonzero(second == first[place])[0]] += 1 / len(places)
    return float(np.sort(weights, axis=1)[:, -k:].sum() / len(asked))


def frame_retrieval(
    module: CrossVideo, dataset: Dataset, indices: Indices, ks: Sequence[int], seed: int, device: torch.device | str, batch: int
) -> list[FrameScores]:
    """Frames found in another stream of their own clip, in random views as in training, by `window` whatever the training's mode was.

    Every pair of streams in both directions but for the two point views, whose directions are alike; and at k = 1 the same on clips of
    identical frames, "still_…". A k that the clip has no more frames than is left out.
    The module is put into eval mode.
    """
    ways = [("point_to_point", "points1", "points2")]
    if module.image_encoder is not None:
        ways += [("point_to_image", "points1", "images"), ("image_to_point", "images", "points1")]
    view = module.config.point_augment.model_copy(update={"mode": "window"})
    config = module.config.model_copy(update={"point_augment": view})
    place = {name: number for number, name in enumerate(STREAMS)}
    found: dict[tuple[str, int], dict[int, float]] = {}
    drawn: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
    stride = temporal_stride(module.encoder.config)
    module.eval()
    for start in range(0, len(indices), batch):
        chosen = [int(index) for index in indices[start : start + batch]]
        for still in (False, True):
            samples = [prepare(config, dataset, index, seed, 0, stride, still) for index in chosen]
            tensors = {name: value.to(device) for name, value in collate(samples).items()}
            with torch.inference_mode():
                streams, partners = module.frame_streams(tensors)
            rows = {name: z.float().cpu().numpy() for name, z in streams.items()}
            pairs = partners.cpu().numpy()
            length = pairs.shape[2]
            for name, a, b in ways:
                name = f"still_{name}" if still else name
                drawn.setdefault(name, []).extend(zip(pairs[:, place[a]], pairs[:, place[b]], strict=True))
                for k in (1,) if still else [k for k in ks if k < length]:
                    for number, index in enumerate(chosen):
                        first, second = pairs[number, place[a]], pairs[number, place[b]]
                        scores = frame_hits(rows[a][number], rows[b][number], first, second, k)
                        if scores is not None:
                            found.setdefault((name, k), {})[index] = float(scores.mean())
    return [
        FrameScores(f"{name}@{k}", np.array(list(by_clip.values())), tuple(by_clip), by_place(drawn[name], k), k, view)
        for (name, k), by_clip in found.items()
    ]


def shortcut(module: CrossVideo | C2P, dataset: Dataset, indices: Indices, seed: int, most: int = 16) -> dict[str, float]:
    """Frame retrieval between the objective's two streams of points on clips of identical frames, and its chance, 1 / L.

    The clips are at most `most` of `indices`, drawn by the seed. Values "shortcut", the mean over clips, "shortcut_start", the share of
    clips in which both streams start alike: what answering by the place gives, and "shortcut_chance"; the first is missing where no clip
    has corresponding frames. The module should be in eval mode.
    """
    device = next(module.parameters()).device
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(np.asarray(indices))[:most]  # neighbours in a split are alike
    samples = [module.prepare_still(dataset, int(index), seed) for index in chosen]
    batch = {name: value.to(device) for name, value in collate(samples).items()}
    with torch.no_grad():
        a, b, partners = (x.cpu().numpy() for x in module.frame_pair(batch))
    found = [frame_hits(x.astype(np.float32), y.astype(np.float32), p[0], p[1]) for x, y, p in zip(a, b, partners, strict=True)]
    means = [float(scores.mean()) for scores in found if scores is not None]
    alike = [bool((p[0] == p[1]).all()) for p in partners]
    about = {"shortcut_start": float(np.mean(alike)), "shortcut_chance": 1 / a.shape[1]}
    return {"shortcut": float(np.mean(means)), **about} if means else about
