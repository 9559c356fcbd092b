"""The built-in creatures: sound, jointed, moving as their actions say, and the same everywhere."""

import hashlib
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.sources.asset import SourceError
from pipeline.sources.creatures import CreaturesSource, action_names, assets, content_sha256, open_animated
from pipeline.sources.creatures_kinds import ACTIONS, CYCLIC, KINDS, Performer, actions_of, make
from pipeline.sources.creatures_rig import arc, beat, cos_sin_all, keys, swing
from render.animation import Animated
from render.checks import check
from render.trig import cos_sin

SHARED = ("idle", "walk", "run", "jump", "attack", "wave", "fall")


@cache
def performer(kind: str, seed: int) -> Performer:
    return make(kind, seed)


@cache
def animated(kind: str, seed: int) -> Animated:
    return performer(kind, seed).animated()


def film(kind: str, seed: int, action: str, frames: int = 33) -> np.ndarray:
    """Vertices (frames, V, 3) over a whole clip."""
    creature = animated(kind, seed)
    number = [clip.name for clip in creature.clips].index(action)
    return creature.pose(number, np.linspace(0, creature.clips[number].duration_s, frames))


def vertices_of(creature: Animated, pattern: str) -> np.ndarray:
    nodes = [number for number, name in enumerate(creature.node_names) if fnmatch(name, pattern)]
    assert nodes, pattern
    return np.unique(creature.mesh.faces[np.isin(creature.face_nodes, nodes)])


def diagonal(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def test_all_kinds_share_at_least_five_actions_and_have_a_clip_for_each() -> None:
    assert len(KINDS) >= 4
    for kind in KINDS:
        assert set(SHARED) <= set(actions_of(kind)) <= set(ACTIONS)
        clips = animated(kind, 0).clips
        assert tuple(clip.name for clip in clips) == actions_of(kind)
        assert all(clip.start_s == 0 and 0.3 < clip.duration_s < 4 for clip in clips)


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_are_sound_closed_and_wound_outwards(kind: str) -> None:
    for seed in range(5):
        creature = animated(kind, seed)
        mesh = creature.mesh
        assert check(mesh).flags == ()
        assert 1000 < len(mesh.faces) < 8000
        assert len(mesh.materials) >= 3
        edges = np.concatenate((mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]))
        assert len(np.unique(edges, axis=0)) == len(edges)
        assert {tuple(edge) for edge in edges.tolist()} == {tuple(edge) for edge in edges[:, ::-1].tolist()}
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        volumes = np.bincount(creature.face_nodes, (a * np.cross(b, c)).sum(axis=1) / 6, len(creature.node_names))
        assert (volumes > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_segment_has_a_name_that_a_table_of_parts_can_use(kind: str) -> None:
    for seed in range(4):
        creature = animated(kind, seed)
        assert creature.face_nodes.shape == (len(creature.mesh.faces),)
        assert set(creature.face_nodes.tolist()) == set(range(len(creature.node_names)))
        assert len(set(creature.node_names)) == len(creature.node_names)
        for pattern in ("torso", "head", "leg.*left*", "leg.*right*", "leg.*.foot", "leg.*.upper", "leg.*.lower"):
            assert any(fnmatch(name, pattern) for name in creature.node_names), (kind, pattern)
        left, right = (vertices_of(creature, f"*.{side}*") for side in ("left", "right"))
        assert creature.mesh.vertices[left, 0].mean() > 0 > creature.mesh.vertices[right, 0].mean()
        head, feet = vertices_of(creature, "head"), vertices_of(creature, "leg.*.foot")
        assert creature.mesh.vertices[head, 2].mean() > creature.mesh.vertices[vertices_of(creature, "torso"), 2].mean() - 0.02
        assert creature.mesh.vertices[head, 1].mean() > creature.mesh.vertices[feet, 1].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_creature_and_another_seed_another(kind: str) -> None:
    def digests(seed: int) -> tuple[str, ...]:
        creature = make(kind, seed).animated()
        moves = [creature.pose(number, np.linspace(0, 1, 5)) for number in range(len(creature.clips))]
        return tuple(hashlib.sha256(move.tobytes()).hexdigest() for move in moves)

    there = [digests(seed) for seed in range(4)]
    assert there == [digests(seed) for seed in range(4)]
    assert len({digest for creature in there for digest in creature}) == 4 * len(actions_of(kind))


def test_another_process_makes_the_same_poses() -> None:
    code = (
        "import hashlib, numpy as np\nfrom pipeline.sources.creatures import open_animated\n"
        "for kind in ('biped', 'bird', 'quadruped', 'spider'):\n a = open_animated(f'creature:{kind}/00003/77#walk')\n"
        " print(hashlib.sha256(b''.join(a.pose(c, np.linspace(0, 1.3, 7)).tobytes() for c in range(7))).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    ).stdout.split()
    here = [make(kind, 77).animated() for kind in ("biped", "bird", "quadruped", "spider")]
    times = np.linspace(0, 1.3, 7)
    assert there == [hashlib.sha256(b"".join(a.pose(c, times).tobytes() for c in range(7))).hexdigest() for a in here]


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_does_not_depend_on_the_others_asked_for_and_the_ends_are_held(kind: str) -> None:
    creature = animated(kind, 1)
    for number, clip in enumerate(creature.clips):
        times = np.array([0.7 * clip.duration_s, 0.1, clip.duration_s, 0.0])
        together = creature.pose(number, times)
        for time, moment in zip(times, together, strict=True):
            assert np.array_equal(creature.pose(number, np.array([time]))[0], moment)
        assert np.array_equal(creature.pose(number, np.array([-1.0, 99.0])), together[[3, 2]])
    assert np.array_equal(creature.pose(None, np.array([0.0, 5.0])), np.stack([creature.mesh.vertices] * 2))


def fitted(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation and shift that take points (n, 3) to others, by Kabsch's formula."""
    middle, there = before.mean(axis=0), after.mean(axis=0)
    u, _, vt = np.linalg.svd((before - middle).T @ (after - there))
    rotation = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    return rotation, there - rotation @ middle


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_rigid_and_stay_joined(kind: str) -> None:
    # Each segment's vertices move as one body, and where a joint is in the default pose, its segment and its parent's agree at all times.
    for seed in range(3):
        creature, joints = animated(kind, seed), performer(kind, seed).creature.joints
        rest = creature.mesh.vertices
        _, places, _ = performer(kind, seed).creature.place(performer(kind, seed).motion(None, np.zeros(1)))
        pieces = [np.unique(creature.mesh.faces[creature.face_nodes == node]) for node in range(len(joints))]
        for action in actions_of(kind):
            poses = film(kind, seed, action, 5)
            assert np.isfinite(poses).all()
            for pose in poses[1:]:
                moves = [fitted(rest[piece], pose[piece]) for piece in pieces]
                for piece, (rotation, shift) in zip(pieces, moves, strict=True):
                    assert np.allclose(rest[piece] @ rotation.T + shift, pose[piece], atol=1e-9)
                for node, joint in enumerate(joints):
                    if joint.parent >= 0:
                        ends = [moves[k][0] @ places[0, node] + moves[k][1] for k in (node, joint.parent)]
                        assert np.allclose(ends[0], ends[1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_joints_lie_inside_both_of_the_segments_that_they_join(kind: str) -> None:
    for seed in range(8):
        creature, joints = animated(kind, seed), performer(kind, seed).creature.joints
        rest = creature.mesh.vertices
        _, places, _ = performer(kind, seed).creature.place(performer(kind, seed).motion(None, np.zeros(1)))
        margin = 0.015 * diagonal(rest)
        for node, joint in enumerate(joints):
            for piece in {node, joint.parent if joint.parent >= 0 else node}:
                corners = rest[np.unique(creature.mesh.faces[creature.face_nodes == piece])]
                assert (corners.min(axis=0) - margin < places[0, node]).all(), (seed, joint.name)
                assert (places[0, node] < corners.max(axis=0) + margin).all(), (seed, joint.name)


@pytest.mark.parametrize("kind", KINDS)
def test_loops_close_without_a_jerk_and_everything_moves(kind: str) -> None:
    for seed in range(4):
        for action in actions_of(kind):
            poses = film(kind, seed, action)
            size = diagonal(poses[0])
            # far above what a recipe calls no motion
            assert np.linalg.norm(poses - poses[0], axis=2).max() > 0.03 * size
            if action in CYCLIC:
                assert np.allclose(poses[0], poses[-1], atol=1e-9)
                steps = np.diff(np.concatenate((poses, poses[1:3])), axis=0)
                jerks = np.linalg.norm(np.diff(steps, axis=0), axis=2).max(axis=1)
                assert jerks[31] <= 1.5 * np.sort(jerks[:31])[-3:].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_feet_of_a_walk_stay_above_ground_and_each_steps_on_it_and_off(kind: str) -> None:
    for seed in range(6):
        creature, poses = animated(kind, seed), film(kind, seed, "walk")
        height = np.ptp(poses[0, :, 1])
        assert np.allclose(poses[:, :, 1].min(axis=1), 0, atol=1e-9)
        feet = [name for name in creature.node_names if name.endswith(".foot")]
        lows = np.stack([poses[:, vertices_of(creature, foot), 1].min(axis=1) for foot in feet]) / height
        assert (lows.min(axis=1) < 0.06).all()
        assert (lows.max(axis=1) > 0.02).all()
        # the two of a pair are not in step
        for left in feet:
            if ".left" in left:
                right = feet.index(left.replace(".left", ".right"))
                assert np.corrcoef(lows[feet.index(left)], lows[right])[0, 1] < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_a_jump_crouches_then_flies_then_lands(kind: str) -> None:
    for seed in range(6):
        creature, poses = animated(kind, seed), film(kind, seed, "jump", 61)
        height, low = np.ptp(poses[0, :, 1]), poses[:, :, 1].min(axis=1)
        body = poses[:, vertices_of(creature, "torso"), 1].mean(axis=1)
        flight = np.flatnonzero(low > 0.02 * height)
        assert low.max() > 0.15 * height
        assert (np.diff(flight) == 1).all()
        assert 15 < flight[0] < flight[-1] < 50
        assert body[: flight[0]].min() < body[0] - 0.03 * height
        assert body[flight[-1] :].min() < body[0] - 0.02 * height
        assert np.allclose(poses[0], poses[-1], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fall_ends_lying_still(kind: str) -> None:
    for seed in range(8):
        creature, poses = animated(kind, seed), film(kind, seed, "fall", 41)
        trunk = vertices_of(creature, "torso")
        up = fitted(poses[0, trunk], poses[-1, trunk])[0][1, 1]
        if kind == "spider":
            assert up < -0.9, "it lies on its back"
        else:
            assert up < 0.2, "it lies on a side, its face or its back"
            assert poses[-1, vertices_of(creature, "head"), 1].mean() < 0.5 * poses[0, vertices_of(creature, "head"), 1].mean()
            assert poses[-1, trunk, 1].min() < 0.2 * np.ptp(poses[0, :, 1])
        speed = np.linalg.norm(np.diff(poses, axis=0), axis=2).max(axis=1)
        assert speed[-2:].max() < 0.1 * speed.max()


def test_an_attack_is_wound_up_slower_than_it_strikes() -> None:
    for kind in KINDS:
        for seed in range(6):
            poses = film(kind, seed, "attack", 61)[:, ::5]
            speed = np.linalg.norm(np.diff(poses, axis=0), axis=2).mean(axis=1)
            strike = int(speed.argmax())
            assert 10 < strike < 45
            assert speed.max() > 2 * speed.mean()


def test_two_creatures_walk_differently() -> None:
    for kind in KINDS:
        durations = [animated(kind, seed).clips[1].duration_s for seed in range(12)]
        assert np.std(durations) > 0.05 * np.mean(durations)
        walks = [film(kind, seed, "walk", 9) for seed in range(12)]
        spreads = [np.ptp(walk, axis=0).mean() / diagonal(walk[0]) for walk in walks]
        assert np.std(spreads) > 0.08 * np.mean(spreads)


def described(kind: str, seed: int, action: str) -> np.ndarray:
    """A few plain measures of a clip, blind to names of joints, in shares of the creature's height."""
    creature = animated(kind, seed)
    seconds = creature.clips[actions_of(kind).index(action)].duration_s
    poses = film(kind, seed, action, 17)[:, ::5] / np.ptp(creature.mesh.vertices[:, 1])
    low, high, size = poses[:, :, 1].min(axis=1), poses[:, :, 1].max(axis=1), np.ptp(poses, axis=1)
    step = np.linalg.norm(np.diff(poses, axis=0), axis=2).mean(axis=1) * 16 / seconds
    away = np.linalg.norm(poses - poses[0], axis=2).mean(axis=1)
    turns = [low.max(), high.min(), high.max(), high[-1], *size.std(axis=0), step.mean(), step.max(), step.std(), away.max(), away[-1]]
    return np.array(turns)


def test_actions_are_told_apart_by_how_creatures_move_but_not_by_a_single_measure() -> None:
    right, best = 0, np.zeros(12)
    for kind in KINDS:
        known = np.array([[described(kind, seed, action) for seed in range(5)] for action in SHARED])
        unseen = np.array([[described(kind, seed, action) for seed in range(5, 8)] for action in SHARED])
        scale = known.std(axis=(0, 1)) + 1e-9
        gaps = np.abs(unseen[:, :, None] - known.mean(axis=1)[None, None]) / scale
        truth = np.arange(len(SHARED))[:, None]
        right += (gaps.sum(axis=-1).argmin(axis=-1) == truth).mean()
        best += (gaps.argmin(axis=2) == truth[..., None]).mean(axis=(0, 1))
    assert right / len(KINDS) > 4 / len(SHARED)
    assert best.max() / len(KINDS) < 0.9


def test_a_source_names_its_assets_and_holds_whole_creatures_out() -> None:
    source = CreaturesSource(per_kind=4, test_fraction=0.25, seed=3)
    there = list(assets(source))
    assert len(there) == len({asset.uri for asset in there}) == sum(4 * len(actions_of(kind)) for kind in KINDS)
    assert there == list(assets(source))
    sides: dict[str, set[str]] = {}
    for asset in there:
        creature, _, action = asset.uri.partition("#")
        assert asset.cls == action
        sides.setdefault(creature, set()).add(asset.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert {name.split("/")[1] for name, splits in sides.items() if splits == {"test"}} == {"00003"}
    assert {asset.uri for asset in assets(CreaturesSource(per_kind=4, seed=4))}.isdisjoint({asset.uri for asset in there})
    assert len({content_sha256(asset.uri) for asset in there}) == len(there)


def test_a_source_of_sequences_has_the_kind_as_its_class() -> None:
    source = CreaturesSource(kinds=("bird", "biped"), per_kind=2, sequences=3, test_fraction=0.5)
    there = list(assets(source))
    assert [asset.uri.partition("#")[2] for asset in there] == ["s0", "s1", "s2"] * 4
    assert [asset.cls for asset in there] == ["bird"] * 6 + ["biped"] * 6
    assert open_animated(there[0].uri).clips == open_animated(there[1].uri).clips
    assert action_names(source) == ACTIONS
    assert action_names(CreaturesSource(kinds=("biped",), actions=("jump", "fly", "walk"))) == ("walk", "jump")


def test_only_the_actions_asked_for_are_given() -> None:
    there = list(assets(CreaturesSource(actions=("fly", "run"), per_kind=1, test_fraction=0)))
    assert [asset.cls for asset in there if asset.uri.startswith("creature:bird")] == ["run", "fly"]
    assert [asset.cls for asset in there if asset.uri.startswith("creature:spider")] == ["run"]
    # a kind that does none of them has nothing to join either
    there = list(assets(CreaturesSource(actions=("fly",), per_kind=2, sequences=1, test_fraction=0)))
    assert [asset.cls for asset in there] == ["bird", "bird"]


def test_what_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(SourceError, match=r"kind of creature called 'unicorn'.*biped, bird"):
        list(assets(CreaturesSource(kinds=("unicorn",))))
    with pytest.raises(SourceError, match=r"action of creature called 'sing'.*idle, walk"):
        list(assets(CreaturesSource(actions=("sing",))))
    with pytest.raises(ValueError, match=r"'unicorn'.*biped, bird"):
        make("unicorn", 0)
    with pytest.raises(SourceError, match=r"None of the kinds biped does any of the actions fly"):
        list(assets(CreaturesSource(kinds=("biped",), actions=("fly",))))
    with pytest.raises(ValidationError, match="joined"):
        CreaturesSource(joined=(5, 4))
    for twice in ({"kinds": ("bird", "bird")}, {"actions": ("walk", "fly", "walk")}):
        with pytest.raises(ValidationError, match="stands there twice"):
            CreaturesSource.model_validate(twice)


def test_angles_of_an_array_have_the_bits_of_single_ones() -> None:
    angles = np.random.default_rng(0).normal(0, 4, (50, 40))
    cosines, sines = cos_sin_all(angles)
    assert [cos_sin(angle) for angle in angles.ravel().tolist()] == list(zip(cosines.ravel().tolist(), sines.ravel().tolist(), strict=True))


def test_curves_of_time_go_where_they_are_told() -> None:
    u = np.linspace(0, 1, 101)
    curve = keys(u, (0.2, 1.0), (0.5, -2.0), (0.6, 0.5))
    assert np.allclose(curve[[0, 20, 50, 60, 100]], [1, 1, -2, 0.5, 0.5])
    assert all(abs(b - a) < 0.5 for a, b in pairwise(curve))
    turns = np.linspace(-2, 2, 401)
    bump = beat(turns, 0.4)
    assert np.allclose(bump, beat(turns + 1, 0.4))
    assert np.allclose(bump[[0, 100, 200]], 1)
    assert (bump[np.abs(turns - np.round(turns)) >= 0.2 + 1e-9] == 0).all()
    assert np.allclose(swing(turns), np.sin(2 * np.pi * turns), atol=1e-12)
    assert np.allclose(arc(u, 0.2, 0.6)[[0, 20, 40, 60, 90]], [0, 0, 1, 0, 0])
