"""What is compiled before the first asset: everything, or that asset would pay for it with its time and memory."""

import subprocess
import sys
from pathlib import Path

import DracoPy
import numpy as np
import pytest
import trimesh

from pipeline.recipe import Recipe
from tests.pipeline.clip_files import character
from tests.render.gltf_files import FLOAT, compressed, rigged

_CHILD = """
import sys
from pipeline.plan import make_plan
from pipeline.recipe import Recipe
from pipeline.warm_up import warm_up
from pipeline.worker import make_sample, open_renderer

def compiled():
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("render", "pipeline")]
    found = {(module.__name__, name): value for module in modules for name, value in vars(module).items()}
    return {(*key, str(one)) for key, value in found.items() for one in getattr(value, "nopython_signatures", ())}

recipe = Recipe.model_validate_json(sys.argv[1])
renderer = open_renderer(recipe)
warm_up(recipe, renderer)
before = compiled()
readers = [name for name in ("DracoPy", "trimesh") if name not in sys.modules]
plan = make_plan(recipe)
outcome = make_sample(recipe, renderer, plan.assets(next(iter(plan.starts)))[0])
assert not outcome.reason, outcome.message
assert before
print(sorted(compiled() - before), [name for name in readers if name in sys.modules])
"""


@pytest.mark.parametrize(("kind", "points"), [("animated", "surface"), ("creatures", "track"), ("shapes", "visible")])
def test_nothing_is_compiled_for_the_first_clip(tmp_path: Path, kind: str, points: str) -> None:
    sources = {
        "animated": {"kind": "animated", "path": str(character(tmp_path / "zoo/cats/Tom.glb").parents[1]), "files": ["cats/*"]},
        "creatures": {"kind": "creatures", "kinds": ["biped"], "actions": ["walk"], "per_kind": 1},
        "shapes": {"kind": "shapes"},
    }
    values = {"source": sources[kind], "points": {"count": 8, "parts": True}, "clips": {"frames": 3, "points": points, "min_motion": 0}}
    assert compiled_for_the_first(Recipe.model_validate(values)) == "[] []\n"


@pytest.mark.parametrize("name", ["skinned.glb", "compressed.glb", "plain.stl"])
def test_nothing_is_compiled_for_the_first_file_of_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    vertices, faces = np.asarray(trimesh.creation.box().vertices, np.float32), np.asarray(trimesh.creation.box().faces, np.uint32)
    if name == "skinned.glb":
        rigged(3).save(tmp_path / "a" / name)
    elif name == "compressed.glb":
        accessor = {"componentType": FLOAT, "type": "VEC3"}
        compressed(DracoPy.encode(vertices, faces), {"POSITION": 0}, {"POSITION": accessor}, len(vertices)).save(tmp_path / "a" / name)
    else:
        trimesh.creation.box().export(tmp_path / "a" / name)
    recipe = {"source": {"kind": "folder", "path": str(tmp_path)}, "points": {"count": 8}, "views": {"rig": {"count": 1, "size": 16}}}
    assert compiled_for_the_first(Recipe.model_validate(recipe)) == "[] []\n"


def compiled_for_the_first(recipe: Recipe) -> str:
    """What a child compiles, and which packages it loads, for its first asset after warming up."""
    done = subprocess.run([sys.executable, "-c", _CHILD, recipe.model_dump_json()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout
