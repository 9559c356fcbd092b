"""The graph runs what is missing or changed, says why, and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestration.graph import Outcome, Stage, bring_up_to_date, changed_keys, plan


class World:
    """Stages that count their runs; `value` stands for configuration."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.values = {"data": 1, "train": 1, "judge": 1}
        self.fail = ""
        self.same = ""

    def stages(self) -> list[Stage]:
        def work(name: str) -> Any:
            def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
                if self.fail == name:
                    (folder / "half").write_text("x")
                    raise RuntimeError(name)
                self.ran.append(name)
                above = [needs[n].outputs["fingerprint"] for n in sorted(needs)]
                return {"fingerprint": f"{name}" if name == self.same else f"{name}-{self.values[name]}-{above}"}

            return run

        order = [("data", ()), ("train", ("data",)), ("judge", ("data", "train"))]
        return [Stage(name, name, {"value": self.values[name]}, needs, work(name)) for name, needs in order]

    def go(self, out: Path, **options: Any) -> list[str]:
        self.ran = []
        bring_up_to_date(self.stages(), out, **options)
        return self.ran


def reasons(world: World, out: Path) -> dict[str, str]:
    return {step.stage.name: step.reason for step in plan(world.stages(), out)}


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    world = World()
    assert world.go(tmp_path) == ["data", "train", "judge"]
    assert world.go(tmp_path) == []
    assert set(reasons(world, tmp_path).values()) == {"finished"}


def test_a_change_runs_what_depends_on_it(tmp_path: Path) -> None:
    world = World()
    world.go(tmp_path)
    world.values["train"] = 2
    assert reasons(world, tmp_path) == {"data": "finished", "train": "configuration changed", "judge": "after another"}
    assert plan(world.stages(), tmp_path)[1].detail == "value"
    assert world.go(tmp_path) == ["train", "judge"]


def test_a_change_taken_back_finds_the_old_result(tmp_path: Path) -> None:
    world = World()
    world.go(tmp_path)
    world.values["train"] = 2
    world.go(tmp_path)
    world.values["train"] = 1
    assert world.go(tmp_path) == []


def test_an_equal_result_above_stops_the_change(tmp_path: Path) -> None:
    world = World()
    world.same = "data"
    world.go(tmp_path)
    world.values["data"] = 2
    assert world.go(tmp_path) == ["data"]


def test_an_interrupted_stage_runs_again_in_its_folder(tmp_path: Path) -> None:
    world = World()
    world.fail = "train"
    with pytest.raises(RuntimeError):
        world.go(tmp_path)
    assert reasons(world, tmp_path) == {"data": "finished", "train": "interrupted", "judge": "after another"}
    world.fail = ""
    assert world.go(tmp_path) == ["train", "judge"]
    assert list(tmp_path.glob("train/*/half"))


def test_forcing_runs_a_finished_stage(tmp_path: Path) -> None:
    world = World()
    world.go(tmp_path)
    assert world.go(tmp_path, force=["judge"]) == ["judge"]


def test_a_damaged_record_is_named_and_made_anew(tmp_path: Path) -> None:
    world = World()
    world.go(tmp_path)
    record = next(tmp_path.glob("judge/*/stage.json"))
    record.write_text(record.read_text()[:40])
    assert reasons(world, tmp_path)["judge"] == "record damaged"
    assert world.go(tmp_path) == ["judge"]
    json.loads(record.read_text())


def test_changed_keys_are_named_by_their_path() -> None:
    assert changed_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}) == ["a.c", "d", "e"]


def test_a_forced_stage_begins_with_an_empty_folder(tmp_path: Path) -> None:
    world = World()
    world.go(tmp_path)
    left = next(tmp_path.glob("judge/*")) / "left"
    left.write_text("x")
    world.go(tmp_path, force=["judge"])
    assert not left.exists()
