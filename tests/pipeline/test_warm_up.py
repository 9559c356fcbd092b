"""What is compiled before the first asset: everything, or that asset would pay for it with its time and memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.clip_files import character

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
plan = make_plan(recipe)
outcome = make_sample(recipe, renderer, plan.assets(next(iter(plan.starts)))[0])
assert not outcome.reason, outcome.message
assert before
print(sorted(compiled() - before))
"""


@pytest.mark.parametrize(("kind", "points"), [("animated", "surface"), ("creatures", "track"), ("shapes", "visible")])
def test_nothing_is_compiled_for_the_first_clip(tmp_path: Path, kind: str, points: str) -> None:
    from pipeline.recipe import Recipe

    sources = {
        "animated": {"kind": "animated", "path": str(character(tmp_path / "zoo/cats/Tom.glb").parents[1]), "files": ["cats/*"]},
        "creatures": {"kind": "creatures", "kinds": ["biped"], "actions": ["walk"], "per_kind": 1},
        "shapes": {"kind": "shapes"},
    }
    values = {"source": sources[kind], "points": {"count": 8, "parts": True}, "clips": {"frames": 3, "points": points, "min_motion": 0}}
    text = Recipe.model_validate(values).model_dump_json()
    done = subprocess.run([sys.executable, "-c", _CHILD, text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr[-1500:]
