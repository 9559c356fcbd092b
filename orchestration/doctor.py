"""What this machine can do, found by doing it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable

Row = dict[str, str]


def examine() -> list[Row]:
    """A row per ability: name, state ("yes", "no", "limited"), what was found or what to do."""
    checks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("python", lambda: ("yes", platform.python_version())),
        ("processors", lambda: ("yes", f"{len(os.sched_getaffinity(0))} usable")),
        ("packages", _packages),
        ("raster renderer", _raster),
        ("opengl renderer", _opengl),
        ("training", _torch),
        ("loader processes", _shared_memory),
        ("ray", lambda: ("yes", importlib.metadata.version("ray"))),
        ("tracking", lambda: ("yes", f"mlflow {importlib.metadata.version('mlflow')}")),
        ("disk", _disk),
    ]
    rows = []
    for name, check in checks:
        try:
            state, found = check()
        except Exception as error:
            state, found = "no", (str(error).strip() or type(error).__name__).splitlines()[0]
        rows.append({"ability": name, "state": state, "found": found})
    return rows


def _packages() -> tuple[str, str]:
    names = ("crossloom", "numba", "trimesh", "pyarrow", "webdataset", "transformers")
    return "yes", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _raster() -> tuple[str, str]:
    from render.raster import RasterRenderer

    renderer = RasterRenderer()
    return _known_sphere(renderer), renderer.description


def _opengl() -> tuple[str, str]:
    from render.opengl import OpenGLRenderer

    renderer = OpenGLRenderer()
    software = any(word in renderer.description.lower() for word in ("llvmpipe", "softpipe", "swrast", "software"))
    state = _known_sphere(renderer)
    return ("limited" if software and state == "yes" else state), renderer.description + (" (no GPU: in software)" if software else "")


def _known_sphere(renderer: object) -> str:
    """Renders a unit sphere and compares its depth at the middle and its outline with what geometry says."""
    import numpy as np
    import trimesh

    from render.cameras import ring
    from render.meshes import Material, Mesh
    from render.views import Style

    ball = trimesh.creation.icosphere(subdivisions=4)
    faces = np.asarray(ball.faces, np.int32)
    mesh = Mesh(np.asarray(ball.vertices, np.float64), faces, (Material(),), np.zeros(len(faces), np.int32))
    cameras = ring(1, 0.5)
    views = renderer.render(mesh, cameras, Style())  # type: ignore[attr-defined]
    middle = float(views.depth[0, cameras.height // 2, cameras.width // 2])
    distance = float(np.linalg.norm(cameras.world_to_camera[0, :3, 3]))
    return "yes" if abs(middle - (distance - 1)) < 0.01 else "no"


def _torch() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return "yes", f"torch {torch.__version__}, {torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return "limited", f"torch {torch.__version__}, no GPU: small encoders only"


def _shared_memory() -> tuple[str, str]:
    free = shutil.disk_usage("/dev/shm").free
    return ("yes" if free > 1 << 30 else "limited"), f"{free / 2**30:.1f} GiB of shared memory" + (
        "" if free > 1 << 30 else ": give it 1 GiB"
    )


def _disk() -> tuple[str, str]:
    free = shutil.disk_usage(".").free
    return ("yes" if free > 5 << 30 else "limited"), f"{free / 2**30:.0f} GiB free here"
