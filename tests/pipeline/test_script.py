"""What is played when, on characters whose vertices tell clip and time themselves."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.script import Play, Script, joined, one_clip, play, play_of
from render.animation import Animated, Clip
from render.meshes import Material, Mesh

FACES = np.array([[0, 1, 2]], np.int32)


def character(*clips: Clip, closed: tuple[int, ...] = ()) -> Animated:
    """Vertex 0 is (clip, time since the clip's first key, 0); in a closed clip vertex 1 turns once, in another it goes from 0 to 1."""
    mesh = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), FACES, (Material(),), np.zeros(1, np.int32))

    def pose(clip: int | None, times: np.ndarray) -> np.ndarray:
        assert clip is not None
        about = clips[clip]
        since = np.clip(times - about.start_s, 0, about.duration_s)
        out = np.repeat(mesh.vertices[None], len(times), axis=0)
        share = since / about.duration_s if about.duration_s else since
        if clip in closed:
            out[:, 1] += np.stack([np.cos(2 * np.pi * share), np.sin(2 * np.pi * share), 0 * share], 1)
            out[:, 2, 2] = np.round(since, 9) % about.duration_s
        else:
            out[:, 1, 0] += share
            out[:, 2, 2] = since
        return out

    return Animated(mesh, clips, (), np.zeros(1, np.int32), pose)


def one_hot(clips: int) -> Animated:
    """Each clip is one constant pose: vertex 0 has a one at coordinate `clip`, so that a blend shows the shares of three clips."""
    mesh = Mesh(np.zeros((3, 3)), FACES, (Material(),), np.zeros(1, np.int32))

    def pose(clip: int | None, times: np.ndarray) -> np.ndarray:
        out = np.zeros((len(times), 3, 3))
        out[:, 0, clip] = 1
        return out

    return Animated(mesh, tuple(Clip(str(n), 0.0, 1.0) for n in range(clips)), (), np.zeros(1, np.int32), pose)


def times_of(script: Script, frames: int, fps: float, seed: int) -> np.ndarray:
    return play(script, frames, fps, seed).vertices[:, 2, 2]


def test_a_clip_is_closed_where_its_last_pose_is_its_first() -> None:
    animated = character(Clip("loop", 1.0, 2.0), Clip("once", 0.0, 2.0), Clip("pose", 0.0, 0.0), closed=(0,))
    # vertex 2 tells the time, and it too comes back in a closed clip
    assert play_of(animated, 0, 5) == Play(0, 5, 2.0)
    assert play_of(animated, 1, 5) == Play(1, 5, None)
    assert play_of(animated, 2, 5) == Play(2, 5, None)


def test_a_closed_clip_loops_from_a_phase_that_the_seed_draws() -> None:
    script = one_clip(character(Clip("loop", 0.5, 1.5), closed=(0,)), 0, 0, ("loop",), "who")
    phases = set()
    for seed in range(20):
        times = times_of(script, 40, 10.0, seed)
        phases.add(float(times[0]))
        steps = np.diff(times)
        assert np.allclose(np.minimum(np.abs(steps - 0.1), np.abs(steps - 0.1 + 1.5)), 0, atol=1e-9)
        assert 0 <= times.min() <= times.max() < 1.5
    assert len(phases) == 20
    assert min(phases) < 0.4 < 1.1 < max(phases)


def test_a_clip_of_a_looping_action_loops_whatever_its_ends() -> None:
    animated = character(Clip("gait", 0.0, 0.5))
    script = one_clip(animated, 0, 0, ("run",), "who", loops=("run",))
    assert script.plays[0].period_s == 0.5
    assert one_clip(animated, 0, 0, ("run",), "who", loops=("walk",)).plays[0].period_s is None
    times = times_of(script, 30, 10.0, 1)
    assert (np.diff(times) < 0).sum() == 6
    assert [item.period_s for item in joined(animated, [(0, 0)], (2, 2), 0.2, ("run",), "who", 0, ("run",)).plays] == [0.5, 0.5]


def test_an_open_clip_plays_once_and_holds_its_last_pose() -> None:
    script = one_clip(character(Clip("once", 3.0, 0.55)), 0, 0, ("once",), "who")
    assert np.allclose(times_of(script, 10, 10.0, 4), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.55, 0.55, 0.55])


def test_an_open_clip_longer_than_the_frames_begins_where_the_seed_says_and_never_ends_early() -> None:
    script = one_clip(character(Clip("once", 0.0, 5.0)), 0, 0, ("once",), "who")
    starts = []
    for seed in range(30):
        times = times_of(script, 11, 10.0, seed)
        assert np.allclose(np.diff(times), 0.1)
        starts.append(float(times[0]))
    assert 0 <= min(starts) < 1 < 3 < max(starts) <= 4.0


def test_the_same_seed_plays_the_same() -> None:
    script = one_clip(character(Clip("loop", 0.0, 1.0), closed=(0,)), 0, 0, ("loop",), "who")
    first, again, other = (play(script, 6, 12.0, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.vertices, again.vertices)
    assert first.start_s == again.start_s != other.start_s


@pytest.mark.parametrize("blend_s", [0.0, 0.3])
def test_labels_change_in_the_middle_of_a_blend(blend_s: float) -> None:
    animated = one_hot(3)
    script = Script(animated, tuple(Play(n, n) for n in (0, 1, 2)), ("a", "b", "c"), blend_s=blend_s)
    for seed in range(5):
        played = play(script, 600, 100.0, seed)
        shares = played.vertices[:, 0]
        assert np.allclose(shares.sum(axis=1), 1)
        assert shares.min() >= 0
        changes = np.flatnonzero(np.diff(played.actions))
        assert played.actions[[0, -1]].tolist() == [0, 2]
        assert len(changes) == 2
        # whoever has the larger share gives the label
        clear = np.sort(shares, axis=1)[:, -1] > 0.52
        assert np.array_equal(np.argmax(shares, axis=1)[clear], played.actions[clear])
        blended = ((shares > 0) & (shares < 1)).any(axis=1).sum()
        assert abs(blended - 2 * blend_s * 100) <= 4
        if blend_s:
            # a linear fade: no step between frames is longer than 1 / (blend_s · fps)
            assert np.abs(np.diff(shares, axis=0)).max() <= 1 / (blend_s * 100) + 1e-9


def test_plays_share_the_time_so_that_none_is_twice_as_long_as_another() -> None:
    script = Script(one_hot(3), tuple(Play(n % 3, n % 3) for n in range(6)), ("a", "b", "c"), blend_s=0.1)
    for seed in range(20):
        actions = play(script, 3000, 100.0, seed).actions
        lengths = np.diff(np.concatenate(([0], np.flatnonzero(np.diff(actions)) + 1, [3000])))
        assert len(lengths) == 6
        assert lengths.max() <= 2 * lengths.min() + 2


def test_a_blend_is_no_longer_than_the_plays_beside_it() -> None:
    script = Script(one_hot(3), (Play(0, 0), Play(1, 1), Play(2, 2)), ("a", "b", "c"), blend_s=100.0)
    played = play(script, 300, 100.0, 0)
    shares = played.vertices[:, 0]
    assert np.allclose(shares.sum(axis=1), 1)
    assert shares.min() >= 0
    assert shares[0].tolist() == [1, 0, 0]


def test_sequences_have_so_many_clips_and_no_action_twice_in_a_row() -> None:
    animated = one_hot(3)
    choices = [(0, 0), (1, 0), (2, 1)]
    counts, orders = set(), set()
    for seed in range(40):
        script = joined(animated, choices, (4, 7), 0.2, ("a", "b"), "who", seed)
        actions = [item.action for item in script.plays]
        assert all(first != second for first, second in pairwise(actions))
        counts.add(len(actions))
        orders.add(tuple(item.clip for item in script.plays))
    assert counts == {4, 5, 6, 7}
    assert len(orders) > 20
    alone = joined(animated, [(2, 0)], (2, 2), 0.2, ("a",), "who", 0)
    assert [item.clip for item in alone.plays] == [2, 2]
