"""The command line as a person meets it: help, exit codes, one clear sentence for each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestration.cli import app, main

ROOT = Path(__file__).parents[2]

SMALL = {
    "name": "tiny",
    "data": {
        "source": {"kind": "shapes", "classes": ["chair", "mug", "airplane"], "per_class": 8, "test_fraction": 0.5},
        "points": {"count": 96},
        "views": {"rig": {"count": 2, "size": 48}},
    },
    "pretrain": {
        "net": {
            "encoder": {"kind": "pointnet"},
            "objective": {
                "kind": "crosspoint",
                "image": {"kind": "resnet", "depth": 10, "width": 4},
                "image_augment": {"size": 32},
                "point_augment": {"count": 64},
            },
            "fit": {"epochs": 2, "batch": 4},
        }
    },
    "evaluate": {"points": 64, "fewshot": [{"ways": 2, "shots": 2, "queries": 2, "runs": 3}], "svm_folds": 2},
    "workers": 0,
    "launch": {"launcher": "local", "place": {"device": "cpu"}},
    "tracking": "none",
}


def crossloom(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration.cli", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd or ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def here(*arguments: str, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> int:
    """The exit code of the same in this process, which spares the imports."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["crossloom", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


def test_every_verb_explains_itself_with_an_example() -> None:
    commands = [
        (group, command) for group in (app, *(g.typer_instance for g in app.registered_groups)) for command in group.registered_commands
    ]  # type: ignore[union-attr]
    assert len(commands) > 12
    for _, command in commands:
        assert command.callback is not None
        assert "Example: crossloom " in (command.callback.__doc__ or ""), command.callback.__name__


def test_run_goes_through_and_a_second_run_does_nothing(small: Path, tmp_path: Path) -> None:
    first = crossloom("run", str(small), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "report " in first.stdout
    assert "gallery " in first.stdout
    page = Path(next(line.split()[1] for line in first.stdout.splitlines() if line.startswith("report")))
    assert "pretrained" in (tmp_path / page).read_text()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file() and path.name != ".lock"}
    again = crossloom("run", str(small), cwd=tmp_path)
    assert again.stderr.count("finished and unchanged") == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file() and path.name != ".lock"}
    plan = json.loads(crossloom("plan", str(small), "--json", "--set", "pretrain.net.fit.epochs=3", cwd=tmp_path).stdout)
    assert [(row["action"], row["reason"]) for row in plan] == [
        ("skip", "finished"),
        ("run", "configuration changed"),
        ("run", "after another"),
        ("run", "after another"),
    ]
    assert plan[1]["detail"] == "fit.epochs"
    encoder = next((tmp_path / "runs/tiny/pretrain-net-s0").iterdir()) / "encoder"
    data = next((tmp_path / "runs/tiny/dataset").iterdir()) / "data"
    table = crossloom("evaluate", str(encoder), "--data", str(data), "--protocol", "knn", "--json", cwd=tmp_path)
    rows = json.loads(table.stdout)
    assert {row["figure"] for row in rows} == {"knn.accuracy"}
    assert all(row["random"] is not None for row in rows)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("pretrain.net.fit.epoch=3", 2, "did you mean epochs?"),
        ("pretrain.net.fit.epochs=many", 2, "pretrain.net.fit.epochs"),
        ("pretrain.net.encoder.kind=pointnett", 2, "did you mean pointnet?"),
        ("pretrain.net.fit.batch=64", 1, "fewer than one batch of 64"),
        ("data.source.classes=[chair,sofabed]", 2, "no built-in shape 'sofabed'"),
        ("name=Has Blanks", 2, "name"),
    ],
)
def test_a_wrong_value_is_one_sentence(
    small: Path, tmp_path: Path, change: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here("run", str(small), "--set", change, monkeypatch=monkeypatch, cwd=tmp_path) == code
    said = capfd.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()[-1]) < 400


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    ended = crossloom("run", "nowhere.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "nowhere.yaml cannot be read" in ended.stderr


def test_failed_assets_end_a_run_with_code_3_and_their_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "meshes" / "thing"
    folder.mkdir(parents=True)
    (folder / "good.off").write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    (folder / "torn.off").write_text("OFF\n4 4 0\n0 0 0\n1 0")
    (folder / "nan.off").write_text("OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: {kind: folder, path: meshes}\npoints: {count: 16}\nviews: {rig: {count: 1, size: 32}}\n")
    ended = crossloom("generate", "recipe.yaml", "--to", "data", "--workers", "0", cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert "2 assets failed: 1 not_finite, 1 unreadable" in ended.stdout.splitlines()[-1]
    other = crossloom("generate", "recipe.yaml", "--to", "data", "--workers", "0", "--set", "points.count=17", cwd=tmp_path)
    assert other.returncode == 1
    assert "another recipe" in other.stderr
    status = crossloom("status", "data", cwd=tmp_path)
    assert status.returncode == 0
    assert crossloom("verify", "data", "--deep", cwd=tmp_path).returncode == 0
    shard = next((tmp_path / "data" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-512])
    assert crossloom("verify", "data", cwd=tmp_path).returncode == 1


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "meshes" / "thing").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("source: {kind: folder, path: meshes}\n")
    ended = crossloom("generate", "recipe.yaml", "--to", "data", "--workers", "0", cwd=tmp_path)
    assert ended.returncode == 2
    assert "meshes/thing holds no mesh" in ended.stderr
