"""The README names every verb, and what it names exists."""

import re
from pathlib import Path

import pytest

from orchestration.cli import app
from orchestration.experiment import Experiment
from pipeline.config import load_yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


VERBS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def test_every_verb_stands_in_the_readme() -> None:
    assert not {verb for verb in VERBS if not re.search(rf"\b{verb}\b", README)}


def test_verbs_of_the_readme_exist() -> None:
    verbs = VERBS | {"bench"}
    named = set(re.findall(r"`crossloom ([a-z]+)", README))
    assert named <= verbs


@pytest.mark.parametrize("file", sorted((ROOT / "orchestration" / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_that_ships_is_valid(file: Path) -> None:
    assert load_yaml(file, Experiment).name


def test_what_two_experiments_share_is_the_same_in_both() -> None:
    small, families, unlabelled = (
        load_yaml(ROOT / "orchestration" / "recipes" / f"crossvideo_{name}.yaml", Experiment)
        for name in ("small", "families", "unlabelled")
    )
    assert unlabelled.finetune["recognition"].data == small.data
    assert unlabelled.pretrain["all"] == small.pretrain["all"] == families.pretrain["all"]
    for name in ("recognition", "few-recognition"):
        assert unlabelled.finetune[name].training == small.finetune[name].training == families.finetune[name].training


def test_the_readmes_own_experiment_is_valid(tmp_path: Path) -> None:
    block = README.split("## An experiment")[1].split("`crossloom run mine.yaml`")[0]
    (tmp_path / "mine.yaml").write_text("\n".join(line[4:] for line in block.splitlines()))
    assert load_yaml(tmp_path / "mine.yaml", Experiment).seeds == (0, 1, 2)


def test_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"`((?:render|pipeline|training|orchestration|infra)/[\w./]+)`", README) + re.findall(
        r"\]\(([\w./]+)\)", README
    ):
        assert (ROOT / name).exists(), name
