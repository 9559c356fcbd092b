"""What the tests of mesh files share: writing them, looking at what came out, and expecting a refusal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from render.checks import FLAGS, REASONS
from render.meshes import Mesh, MeshError, load


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path, **options: object) -> MeshError:
    with pytest.raises(MeshError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    error = caught.value
    assert error.reason in REASONS
    text = str(error)
    assert str(path) in text or "labels" in text
    assert text.endswith(".")
    assert "\n" not in text
    return error


def corners(mesh: Mesh) -> np.ndarray:
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == mesh.face_material.dtype == np.int32
    assert len(mesh.face_material) == len(mesh.faces)
    assert 0 <= mesh.face_material.min() <= mesh.face_material.max() < len(mesh.materials)
    assert set(mesh.flags) <= set(FLAGS)
    return mesh.vertices[mesh.faces]


def picture(path: Path) -> np.ndarray:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0], pixels[1, 1] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 80, 70)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels
