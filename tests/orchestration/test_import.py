import sys
from pathlib import Path

import pytest

from orchestration.cli import main
from pipeline.reader import Dataset
from tests.pipeline.importers.recording_files import msr_depth, write_msr, write_radhar


def crossloom(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["crossloom", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_import_makes_a_dataset_that_the_other_verbs_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_radhar(tmp_path / "in")
    to = tmp_path / "out"
    command = ("import", "radhar", tmp_path / "in", "--to", to, "--test", "A", "--val", "B", "--points", "8", "--workers", "0")
    assert crossloom(monkeypatch, *command) == 0
    said = capsys.readouterr().out
    assert "train by the official split: 4 recordings of the whole set's 142 are here" in said
    assert "flagged: 6 short" in said
    dataset = Dataset.open(str(to))
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [2, 2, 2]
    assert dataset.load(0, ("clip.npy",))["clip.npy"].shape[1:] == (8, 3)
    for verb in (("status",), ("stats",), ("card",), ("verify", "--deep")):
        assert crossloom(monkeypatch, *verb, to) == 0
    capsys.readouterr()
    assert crossloom(monkeypatch, *command) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_bad_file_ends_with_three_and_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_msr(tmp_path / "in/a01_s01_e01_sdepth.bin", msr_depth(30))
    (tmp_path / "in/a02_s01_e01_sdepth.bin").write_bytes(bytes(5))
    code = crossloom(monkeypatch, "import", "msr_action3d", tmp_path / "in", "--to", tmp_path / "out", "--workers", "0")
    assert code == 3
    assert "1 assets failed: 1 unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("radar", "in"), "did you mean radhar?"),
        (("radhar", "nowhere"), "is no folder"),
        (("radhar", "in", "--test", "Z"), "no group 'Z' to hold out"),
        (("radhar", "in", "--short", "drop"), "source.short cannot be 'drop'"),
        (("radhar", "in", "--list", "release.txt"), "--list release.txt names no split"),
        (("radhar", "in", "--list", "train=release.txt"), "no lists of names"),
        (("mhomeges", "in"), "holds no file of the format mhomeges"),
        (("radhar", "in/index.csv"), "is no folder; give the one that holds the files of radhar"),
        (("synthia4d", "set.zip"), "is no folder; give the one that holds the files of synthia4d"),
        (("radhar", "in", "--window", "3", "--at-least", "4"), "--at-least 4 asks for more frames than --window 3 has"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    write_radhar(tmp_path / "in", {"Train/walk/a": 3})
    (tmp_path / "set.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    monkeypatch.chdir(tmp_path)
    assert crossloom(monkeypatch, "import", *arguments, "--to", tmp_path / "out", "--workers", "0") == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out/dataset.json").exists()
