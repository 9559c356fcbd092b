"""What a failed asset's row says is the same wherever the source's folder lies and however it is named."""

from pathlib import Path

import pytest

from pipeline.recipe import Recipe
from pipeline.worker import _message


@pytest.mark.parametrize("name", ["data", "/elsewhere/data"])
def test_neither_the_given_nor_the_resolved_folder_stands_in_a_message(name: str) -> None:
    recipe = Recipe.model_validate({"name": "x", "source": {"kind": "folder", "path": name}})
    text = f"cannot read {Path(name).resolve()}/a/x.obj, see {name}/a/y.mtl"
    assert _message(recipe, text) == "cannot read a/x.obj, see a/y.mtl"
