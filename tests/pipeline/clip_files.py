"""A small character for the tests of clips: a body and an arm, two boxes on nodes of their own, whose clips tell what they should show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from tests.render.gltf_files import Document

TURN = Rotation.from_euler("x", [[0], [90], [180], [270], [360]], degrees=True).as_quat()
WALK, FALL, STAND, LONG, VANISH = "Rig|Walk", "Rig|Fall_Down", "Rig|Stand", "Rig|March", "Rig|Vanish"


def box(size: tuple[float, float, float]) -> np.ndarray:
    """Triangles as vertices in threes, (36, 3), of a box about the origin."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * size
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return np.array([corners[q[i]] for q in quads for i in (0, 1, 2, 0, 2, 3)])


def character(path: Path, size: float = 1.0) -> Path:
    """Writes a GLB. Walk (1 s, closed): the arm turns about x; Fall_Down (0.5 s, open): the whole moves by (2, 0, 0); Stand: nothing moves;
    March (4 s, open): by (4, 0, 0); Vanish (1 s, closed): the whole is nothing for 0.4 s."""
    nodes = [
        {"name": "Root", "children": [1, 2]},
        {"name": "Torso", "mesh": 0},
        {"name": "Arm.L", "mesh": 1, "translation": [0.5 * size, 0.4, 0.0]},
    ]
    document = Document(nodes=nodes, scenes=[{"nodes": [0]}])
    document.mesh(box((0.5 * size, 1.5, 0.4)))
    document.mesh(box((0.2, 0.2, 1.0)))
    document.animate((2, "rotation", [0, 0.25, 0.5, 0.75, 1], TURN, "LINEAR"), name=WALK)
    document.animate((0, "translation", [0, 0.5], [[0, 0, 0], [2, 0, 0]], "LINEAR"), name=FALL)
    document.animate((0, "translation", [0, 1], [[0, 0, 0], [0, 0, 0]], "LINEAR"), name=STAND)
    document.animate((0, "translation", [1, 5], [[0, 0, 0], [4, 0, 0]], "LINEAR"), name=LONG)
    document.animate((0, "scale", [0, 0.3, 0.7, 1], [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]], "LINEAR"), name=VANISH)
    path.parent.mkdir(parents=True, exist_ok=True)
    return document.save(path)
