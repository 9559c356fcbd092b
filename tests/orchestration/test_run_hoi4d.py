"""The experiment for HOI4D, whole, on small files of its format: nobody here has the real ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestration.experiment import Experiment
from orchestration.run import run_experiment
from tests.pipeline.importers.recording_files import hoi4d_line, write_hoi4d, write_hoi4d_images

RECIPE = Path(__file__).parents[2] / "orchestration/recipes/crossvideo_hoi4d.yaml"
NETWORK = {"width": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp_width": 32, "spatial_stride": 8, "neighbours": 4}
IMAGES = {"image": {"kind": "resnet", "depth": 10, "width": 8}, "width": 16, "depth": 1, "heads": 2}


def written(folder: Path, rows: int = 24) -> Path:
    write_hoi4d(folder / "train1.h5", rows, frames=12, points=64)
    (folder / "release.txt").write_text("\r\n".join(hoi4d_line(row) for row in range(rows)))
    for row in range(rows):
        write_hoi4d_images(folder / "raw", hoi4d_line(row), 24, seed=row)
    return folder


def shrunk(data: Path) -> Experiment:
    """The experiment with its arms, tasks and protocols, and sizes for a minute."""
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    recipe["data"]["source"] |= {"path": str(data), "images": str(data / "raw"), "image_size": 32}
    recipe["data"]["points"] = {"count": 64}
    for arm in recipe["pretrain"].values():
        arm["encoder"] = arm["encoder"] | NETWORK | ({"groups": 4} if arm["encoder"]["kind"] == "pptr" else {})
        arm["objective"] = arm["objective"] | {"hidden": 16, "point_augment": {"frames": 8, "count": 32}}
        if arm["objective"]["kind"] == "crossvideo":
            arm["objective"] |= {"projection": 16, "image": IMAGES, "image_augment": {"size": 32}}
        arm["fit"] = {"epochs": 1}
    training = recipe["finetune"]["actions"]["training"]
    training |= {"points": 32, "augment": {"frames": 8}}
    training["fit"]["epochs"] = 1
    return Experiment.model_validate(recipe | {"seeds": [0], "launch": {"launcher": "local"}, "workers": 0})


@pytest.mark.slow
def test_every_stage_has_its_figures(tmp_path: Path) -> None:
    experiment = shrunk(written(tmp_path / "hoi4d"))
    outcomes = run_experiment(experiment, tmp_path / "out", Console(quiet=True), tracking="none")
    for arm in ("p4transformer", "pptr", "c2p"):
        found = {figure["protocol"] for figure in outcomes[f"evaluate/{arm}/s0"].outputs["figures"]}
        assert found == ({"knn"} if arm == "c2p" else {"knn", "retrieval", "frame_retrieval"})
        tuned = outcomes[f"finetune/actions/{arm}/s0"].outputs["figures"]
        assert {figure["metric"] for figure in tuned} == {"frame_accuracy", "edit", "f1_10", "f1_25", "f1_50"}
    assert (outcomes["report"].folder / "index.html").exists()
