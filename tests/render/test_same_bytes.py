"""What goes into a dataset is the same on processors of other abilities: numpy is told to use the least of this one."""

import os
import subprocess
import sys
from pathlib import Path

from numpy._core import _multiarray_umath as numpy_core

ROOT = Path(__file__).parents[2]
CODE = """
import hashlib, sys
import numpy as np
from pathlib import Path
from pipeline.sources.shapes import CLASSES, make
from render.cameras import Rig, build
from render.checks import check, normalize
from render.meshes import load
from render.surface import sample

digest = hashlib.sha256()
for kind in ("ring", "fibonacci", "shapenet24"):
    cameras = build(Rig(kind=kind, count=9, elevation_deg=(-20, 50), azimuth_deg=(0, 360)), 12345)
    digest.update(cameras.K.tobytes() + cameras.world_to_camera.tobytes())
for mesh in [*(make(cls, 3) for cls in CLASSES), load(sys.argv[1])]:
    mesh, centre, scale = normalize(check(mesh))
    found = sample(mesh, 3000, 99)
    digest.update(mesh.vertices.tobytes() + centre.tobytes() + np.float64(scale).tobytes())
    digest.update(found.points.tobytes() + found.normals.tobytes() + found.colors.tobytes() + found.faces.tobytes())
print(digest.hexdigest())
"""


def test_cameras_shapes_and_samples_do_not_depend_on_the_processor(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    lines = [f"{i * 0.1234567890123:.17g} {(i * 7919 % 101) / 3.0:.9g} {i * i / 7:.5e} {i} 99 7 255\n" for i in range(1, 90)]
    path.write_text(f"COFF\n{len(lines)} 80 0\n" + "".join(lines) + "".join(f"4 {i} {i + 1} {i + 2} {i + 5}\n" for i in range(80)))
    features = numpy_core.__cpu_features__
    able = [name for name in numpy_core.__cpu_dispatch__ if features.get(name)]
    assert able
    digests = set()
    for disabled in ("", " ".join(able)):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": disabled}
        run = subprocess.run([sys.executable, "-c", CODE, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1
