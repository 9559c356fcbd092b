import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.importers.recording import RecordingError
from pipeline.sources.recordings import RecordingSource, assets, open_recording
from tests.pipeline.importers.recording_files import mhomeges_rows, write_mhomeges, write_mhomeges_file

REAL = Path(__file__).parents[3] / ".data" / "mhomeges"
FILE = "longGes_1.8m/804/point_804_1.8m_clap.csv"


def source(path: Path, **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": "mhomeges", "path": path} | options)


def lengths(root: Path, numbers: list[int], **options: object) -> dict[str, int]:
    """Frames of each repetition that a file with these frames' numbers is cut into."""
    write_mhomeges_file(root / FILE, mhomeges_rows(numbers))
    config = source(root, **options)
    return {a.uri.partition("#")[2]: len(open_recording(config, a.uri).frames) for a in assets(config) if not a.left_out}


def test_a_pause_of_eight_frames_ends_a_repetition_and_a_shorter_one_does_not(tmp_path: Path) -> None:
    assert lengths(tmp_path, [1, 2, 3, 10, 18, 19, 20, 21]) == {"000": 4, "001": 4}


def test_a_number_that_falls_ends_one_too_and_may_come_again(tmp_path: Path) -> None:
    assert lengths(tmp_path, [7, 8, 9, 10, 11, 9, 10, 11, 12]) == {"000": 5, "001": 4}


def test_pieces_below_four_frames_are_left_out_and_counted(tmp_path: Path) -> None:
    assert lengths(tmp_path, [1, 2, 3, 30, 31, 32, 33]) == {"001": 4}
    assert [a.left_out for a in assets(source(tmp_path))] == ["shorter than 4 frames", ""]
    assert lengths(tmp_path, [1, 2, 3, 30, 31, 32, 33], short="repeat_last") == {"000": 4, "001": 4}


def test_times_are_those_of_the_frames_numbers(tmp_path: Path) -> None:
    write_mhomeges_file(tmp_path / FILE, mhomeges_rows([5, 6, 9, 10]))
    np.testing.assert_allclose(open_recording(source(tmp_path), f"{FILE}#000").times_s, [0, 0.1, 0.4, 0.5])


def test_points_and_features_are_the_rows_of_their_frame(tmp_path: Path) -> None:
    rows = mhomeges_rows([1, 2, 3, 4, 40, 41, 42, 43], points=5)
    write_mhomeges_file(tmp_path / FILE, rows)
    recording = open_recording(source(tmp_path), f"{FILE}#001")
    for frame, number in enumerate((40, 41, 42, 43)):
        wanted = np.float32([row for row in rows if row[0] == number])
        assert recording.features is not None
        np.testing.assert_allclose(recording.frames[frame], wanted[:, 2:5], rtol=1e-5)
        np.testing.assert_allclose(recording.features[frame], wanted[:, 5:7], rtol=1e-5)
    assert recording.facts | {"person": "804", "distance_m": 1.8, "repetition": 1, "first_frame": 40} == recording.facts


def test_far_and_fast_points_go_and_are_flagged(tmp_path: Path) -> None:
    rows = mhomeges_rows([1, 2, 3, 4])
    rows[1][2], rows[4][5], rows[7][4] = -7.0, 4000.0, float("nan")
    write_mhomeges_file(tmp_path / FILE, rows)
    recording = open_recording(source(tmp_path), f"{FILE}#000")
    assert [len(frame) for frame in recording.frames] == [2, 2, 2, 3]
    assert {"far_points_dropped", "fast_points_dropped"} <= set(recording.flags)
    assert (recording.facts["far_points"], recording.facts["fast_points"]) == (2, 1)


def test_another_count_than_the_frame_lists_is_flagged(tmp_path: Path) -> None:
    write_mhomeges_file(tmp_path / FILE, mhomeges_rows([1, 2, 3, 4])[:-1])
    assert open_recording(source(tmp_path), f"{FILE}#000").flags == ("other_count_than_listed",)


def test_line_ends_change_nothing(tmp_path: Path) -> None:
    rows = mhomeges_rows([1, 2, 3, 4])
    write_mhomeges_file(tmp_path / "a" / FILE, rows)
    write_mhomeges_file(tmp_path / "b" / FILE, rows, "\r\n")
    one, other = (open_recording(source(tmp_path / name), f"{FILE}#000") for name in "ab")
    np.testing.assert_array_equal(np.concatenate(one.frames), np.concatenate(other.frames))


def test_odd_names_are_resolved_and_flagged(tmp_path: Path) -> None:
    gestures = ("circcle", "clap", "down", "knock", "lift", "pull", "push", "up", "zh_z", "")
    folder = tmp_path / "longGes_3m/818"
    for seed, gesture in enumerate(gestures):
        write_mhomeges_file(folder / f"point_818_3m_{gesture}.csv", mhomeges_rows(range(5), seed=seed))
    found = {a.uri.partition("#")[0].rpartition("3m_")[2]: a.cls for a in assets(source(tmp_path))}
    assert (found["circcle.csv"], found["zh_z.csv"], found[".csv"], found["up.csv"]) == ("circle", "z", "yawn", "up")
    names = {name: f"longGes_3m/818/point_818_3m_{name}.csv#000" for name in ("circcle", "zh_z", "", "up")}
    flags = {name: open_recording(source(tmp_path), uri).flags for name, uri in names.items()}
    assert flags == {"circcle": ("gesture_respelled",), "zh_z": ("gesture_respelled",), "": ("gesture_by_elimination",), "up": ()}


def test_a_name_that_elimination_does_not_settle_is_left_out_and_counted(tmp_path: Path) -> None:
    write_mhomeges(tmp_path, people=("804",))
    write_mhomeges_file(tmp_path / "longGes_1.8m/804/point_804_1.8m_.csv", mhomeges_rows(range(5), seed=9))
    write_mhomeges_file(tmp_path / "longGes_1.8m/804/notes.csv", mhomeges_rows(range(5), seed=8))
    left_out = Counter(a.left_out for a in assets(source(tmp_path)))
    assert left_out["no gesture in its name"] == 1
    assert left_out["name is not point_PERSON_DISTANCE_GESTURE.csv"] == 1


def test_a_file_under_two_people_is_nobodys(tmp_path: Path) -> None:
    rows = mhomeges_rows(range(5))
    for person in ("806", "810"):
        write_mhomeges_file(tmp_path / f"longGes_1.8m/{person}/point_{person}_1.8m_z.csv", rows)
    write_mhomeges_file(tmp_path / "longGes_1.8m/810/point_810_1.8m_up.csv", mhomeges_rows(range(5), seed=1))
    assert [a.left_out for a in assets(source(tmp_path))] == ["same file as another one's", "", "same file as another one's"]


def test_no_person_is_on_two_sides(tmp_path: Path) -> None:
    write_mhomeges(tmp_path)
    found = {(a.uri.split("/")[1], a.split) for a in assets(source(tmp_path))}
    assert found == {("804", "train"), ("805", "train"), ("806", "train"), ("807", "test")}
    found = {(a.uri.split("/")[1], a.split) for a in assets(source(tmp_path, test=["805"], val=["804"]))}
    assert found == {("804", "val"), ("805", "test"), ("806", "train"), ("807", "train")}


def test_repetitions_of_a_file_share_a_side_wherever_one_is_cut(tmp_path: Path) -> None:
    write_mhomeges(tmp_path)
    groups = {a.uri: a.group for a in assets(source(tmp_path))}
    assert all(group == uri.partition("#")[0] for uri, group in groups.items())


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "Frame #,# Obj,X,Y,Z,Doppler,Intensity\n1,1,0,0,zero,0,0\n", "\x00\x01"])
def test_a_damaged_file_is_one_asset_with_a_reason(tmp_path: Path, text: str) -> None:
    write_mhomeges(tmp_path, people=("804",))
    (tmp_path / FILE).write_text(text)
    found = [a.uri for a in assets(source(tmp_path)) if a.uri.startswith(FILE)]
    assert found == [FILE]
    with pytest.raises(RecordingError) as caught:
        open_recording(source(tmp_path), FILE)
    assert caught.value.reason in ("unreadable", "empty")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs .data/mhomeges")
def test_the_real_recordings_are_as_their_index_says() -> None:
    from pipeline.importers import mhomeges

    with open(REAL / "index.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    found: dict[str, list[int]] = {}
    for entry in mhomeges.entries(REAL, source(REAL)):
        file_name = entry.uri.partition("#")[0]
        row = rows[file_name]
        assert entry.cls == (row["gesture"] or "yawn")
        assert entry.group == row["user"]
        assert (entry.left_out != "") == (row["duplicate"] == "1")
        found.setdefault(file_name, []).append(entry.frames)
    assert found.keys() == rows.keys()
    for name, frames in found.items():
        if rows[name]["duplicate"] == "0":
            assert sum(frames) == int(rows[name]["frames"])
            assert sum(count >= 4 for count in frames) == int(rows[name]["repetitions"])
    spoiled = [name for name, row in rows.items() if int(row["far_points"]) or int(row["fast_points"])]
    for name in spoiled[:4]:
        facts = [open_recording(source(REAL), f"{name}#{number:03d}").facts for number in range(len(found[name]))]
        for column in ("points", "far_points", "fast_points"):
            assert sum(fact[column] for fact in facts) == int(rows[name][column])


def test_a_file_is_parsed_once_for_its_repetitions_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.importers import mhomeges

    parsed: list[Path] = []
    real = mhomeges._table
    monkeypatch.setattr(mhomeges, "_table", lambda file: parsed.append(file) or real(file))
    write_mhomeges(tmp_path, people=("804", "805"), gestures=("clap",))
    files = [FILE, FILE.replace("804", "805")]
    first = [open_recording(source(tmp_path), f"{name}#{number:03d}") for number in range(3) for name in files]
    assert len(parsed) == 2
    again = open_recording(source(tmp_path), f"{files[0]}#000")
    np.testing.assert_array_equal(np.concatenate(again.frames), np.concatenate(first[0].frames))
    write_mhomeges_file(tmp_path / files[0], mhomeges_rows([1, 2, 3, 4, 5, 6, 7], points=4, seed=77))
    assert len(open_recording(source(tmp_path), f"{files[0]}#000").frames) == 7
