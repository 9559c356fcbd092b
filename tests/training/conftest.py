"""Networks of tests are small: more than one thread for each operation costs more than it brings."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def parts_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a dataset of 2 classes of built-in shapes, 12 train and 4 test samples, with part labels; 1 view of 16², 128 points."""
    from pipeline.generate import generate
    from pipeline.recipe import Recipe

    recipe = Recipe.model_validate(
        {
            "source": {"kind": "shapes", "classes": ["chair", "mug"], "per_class": 8, "test_fraction": 0.25},
            "points": {"count": 128, "parts": True},
            "views": {"rig": {"kind": "ring", "count": 1, "size": 16}},
            "shard_assets": 8,
        }
    )
    to = str(tmp_path_factory.mktemp("parts") / "data")
    generate(recipe, to, workers=0, progress=False, isolate=False)
    return to


@pytest.fixture(scope="session")
def clips_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of 12 train and 6 test clips of 3 actions: 16 frames of 64 points with parts, pictures of 16²."""
    from tests.training.clip_cases import write_clips

    return write_clips(tmp_path_factory.mktemp("clips"), parts=True)
