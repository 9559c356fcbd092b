import csv
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.importers import radhar
from pipeline.importers.recording import Recording, RecordingError
from pipeline.sources.asset import SourceError
from pipeline.sources.recordings import RecordingSource, assets, open_recording
from tests.pipeline.importers.recording_files import radhar_points, radhar_record, radhar_text, write_radhar

REAL = Path(__file__).parents[3] / ".data" / "radhar"


def source(path: Path, **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": "radhar", "path": path} | options)


def read(tmp_path: Path, text: str | bytes, name: str = "a.txt") -> Recording:
    path = tmp_path / "Data/Train/walk" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_recording(source(tmp_path), f"Data/Train/walk/{name}")


def test_frames_begin_at_point_id_zero_and_holes_in_the_ids_end_none(tmp_path: Path) -> None:
    points = radhar_points(7)
    starts = [number for number, point in enumerate(points) if point["point_id"] == 0]
    recording = read(tmp_path, radhar_text(points))
    assert recording.flags == ("short",)
    assert [len(frame) for frame in recording.frames] == np.diff([*starts, len(points)]).tolist()
    np.testing.assert_array_equal(np.concatenate(recording.frames), np.float32([[p["x"], p["y"], p["z"]] for p in points]))
    assert recording.feature_names == ("velocity", "intensity")
    assert recording.features is not None
    np.testing.assert_array_equal(np.concatenate(recording.features)[:, 1], np.float32([p["intensity"] for p in points]))


def test_time_is_the_frames_number_and_not_its_arrival(tmp_path: Path) -> None:
    np.testing.assert_allclose(np.diff(read(tmp_path, radhar_text(radhar_points(9))).times_s), 1 / 30)


@pytest.mark.parametrize("value", ["", "\n{x}"])
def test_a_missing_value_is_not_taken_from_the_next_line(tmp_path: Path, value: str) -> None:
    points = radhar_points(4)
    x = points[2]["x"]
    recording = read(tmp_path, radhar_text(points).replace(f"\nx: {x}\n", f"\nx: {value.format(x=x)}\n", 1))
    assert sum(map(len, recording.frames)) == len(points) - 1
    assert {"damaged_records_dropped", "records_missing"} <= set(recording.flags)
    assert recording.facts["damaged_records"] == 1


def test_a_lost_first_record_of_a_frame_does_not_join_it_to_the_one_before(tmp_path: Path) -> None:
    points = radhar_points(5)
    second = [number for number, point in enumerate(points) if point["point_id"] == 0][1]
    records = radhar_text(points).split("---\n")
    records[second] = records[second].replace("velocity: 0.0", "velocity: ?")
    assert len(read(tmp_path, "---\n".join(records)).frames) == 5


def test_a_record_that_is_cut_off_is_dropped_and_counted(tmp_path: Path) -> None:
    points = radhar_points(5)
    recording = read(tmp_path, radhar_text(points)[:-30])
    assert sum(map(len, recording.frames)) == len(points) - 1
    assert recording.facts["damaged_records"] == 1


def test_corrupt_points_go_and_are_flagged_and_their_frame_stays(tmp_path: Path) -> None:
    points = radhar_points(6)
    points[3] |= {"doppler_bin": 64100, "velocity": -887.0}
    points[9] |= {"x": 55.0}
    points[10] |= {"z": "nan"}
    points[1] |= {"doppler_bin": -1}
    points[4] |= {"intensity": "inf"}
    recording = read(tmp_path, radhar_text(points))
    assert "corrupt_points_dropped" in recording.flags
    assert recording.facts["corrupt_points"] == 5
    assert len(recording.frames) == 6
    kept = [p for number, p in enumerate(points) if number not in (1, 3, 4, 9, 10)]
    np.testing.assert_array_equal(np.concatenate(recording.frames)[:, 1], np.float32([p["y"] for p in kept]))


def test_odd_orders_are_flagged(tmp_path: Path) -> None:
    points = radhar_points(3)
    backwards = radhar_record(1, 10, 5, points[0]) + radhar_record(2, 9, 0, points[1] | {"point_id": 1})
    assert "time_runs_backwards" in read(tmp_path, backwards).flags
    assert "begins_within_a_frame" in read(tmp_path, radhar_record(1, 10, 5, points[0] | {"point_id": 4})).flags


def test_plain_text_crlf_and_xz_are_the_same_recording(tmp_path: Path) -> None:
    text = radhar_text(radhar_points(4))
    plain = read(tmp_path, text)
    for other in (read(tmp_path, text.replace("\n", "\r\n"), "b.txt"), read(tmp_path, lzma.compress(text.encode()), "c.txt.xz")):
        assert other.flags == plain.flags
        np.testing.assert_array_equal(np.concatenate(other.frames), np.concatenate(plain.frames))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.txt.xz", lzma.compress(radhar_text(radhar_points(4)).encode())[:-40], "unreadable"),
        ("noise.txt.xz", b"noise", "unreadable"),
        ("other.txt", b"x: 1\ny: 2\n---\n", "unreadable"),
        ("none.txt", b"", "unreadable"),
    ],
)
def test_a_file_that_is_no_recording_has_a_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read(tmp_path, data, name)
    assert caught.value.reason == reason
    assert name in str(caught.value)


def test_an_absent_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        open_recording(source(write_radhar(tmp_path)), "Data/Train/walk/gone.txt.xz")
    assert caught.value.reason == "io_error"


def test_class_split_and_session_come_from_folders_and_index(tmp_path: Path) -> None:
    found = {a.uri: (a.cls, a.split) for a in assets(source(write_radhar(tmp_path)))}
    assert found["Data/Train/jack/20_jack_1.txt.xz"] == ("jack", "train")
    assert found["Data/Test/walk/20_walk_2.txt.xz"] == ("walk", "test")
    assert len(found) == 6
    assert open_recording(source(tmp_path), "Data/Train/jack/20_jack_1.txt.xz").facts["session"] == "C"


def test_a_whole_session_can_be_held_out(tmp_path: Path) -> None:
    write_radhar(tmp_path)
    found = {a.uri: a.split for a in assets(source(tmp_path, test=["B"], val=["D"]))}
    assert sorted(uri for uri, split in found.items() if split == "test") == [
        "Data/Test/walk/20_walk_2.txt.xz",
        "Data/Train/walk/20_walk_2.txt.xz",
    ]
    assert [uri for uri, split in found.items() if split == "val"] == ["Data/Train/jack/20_jack_2.txt.xz"]
    assert found["Data/Test/walk/20_walk_1.txt.xz"] == "train"
    official = {a.uri: a.split for a in assets(source(tmp_path, val=["A"]))}
    assert official["Data/Train/walk/20_walk_1.txt.xz"] == "val"
    assert official["Data/Test/walk/20_walk_1.txt.xz"] == "test"


def test_sessions_that_nothing_names_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no group 'E' to hold out; its groups are A, B, C, D\."):
        list(assets(source(write_radhar(tmp_path / "a"), test=["E"])))
    with pytest.raises(SourceError, match=r"no index\.csv with a column session"):
        list(assets(source(write_radhar(tmp_path / "b", sessions=False), test=["A"])))


def test_windows_cover_the_recording_and_share_its_side(tmp_path: Path) -> None:
    write_radhar(tmp_path, {"Train/walk/a": 12, "Train/walk/b": 3})
    config = source(tmp_path, window=5, step=3, at_least=1)
    found = list(assets(config))
    assert [a.uri.rpartition("@")[2] for a in found] == ["00000", "00003", "00006", "00000"]
    assert len({a.group for a in found}) == 2
    whole = open_recording(source(tmp_path), "Data/Train/walk/a.txt.xz")
    part = open_recording(config, found[1].uri)
    assert [len(frame) for frame in part.frames] == [len(frame) for frame in whole.frames[3:8]]
    np.testing.assert_allclose(part.times_s, np.arange(3, 8) / 30)
    assert "short" in open_recording(config, found[3].uri).flags


def test_a_text_beside_its_packed_self_and_folders_that_are_no_class_are_left_out_and_counted(tmp_path: Path) -> None:
    write_radhar(tmp_path)
    walk = tmp_path / "Data/Train/walk"
    (walk / "20_walk_1.txt").write_text(radhar_text(radhar_points(5)))
    for name in ("Jack", "squat", "jack_old"):
        (tmp_path / "Data/Test" / name).mkdir()
        (tmp_path / "Data/Test" / name / "a.txt").write_text(radhar_text(radhar_points(4)))
    (tmp_path / "Data/Train/notes.txt").write_text("no recording")
    expected = {"Data/Train/walk/20_walk_1.txt": "also there as .txt.xz"}
    expected |= {f"Data/Test/{name}/a.txt": "folder is no class" for name in ("Jack", "squat", "jack_old")}
    for options in ({}, {"test": ["A"]}):  # sessions are asked of none of these
        found = list(assets(source(tmp_path, **options)))
        assert {asset.uri: asset.left_out for asset in found if asset.left_out} == expected
        assert len([asset for asset in found if not asset.left_out]) == 6


def index() -> list[dict[str, str]]:
    with open(REAL / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


def check_against_index(rows: list[dict[str, str]]) -> None:
    config = source(REAL)
    for row in rows:
        recording = open_recording(config, row["file"])
        facts = recording.facts
        names = {"frames": "frames", "points": "points", "corrupt_points": "corrupt_points", "skipped_point_ids": "skipped_point_ids"}
        assert {name: facts[name] for name in names} == {name: int(row[column]) for name, column in names.items()}, row["file"]
        sizes = [len(frame) for frame in recording.frames]
        if not facts["corrupt_points"]:
            assert (min(sizes), max(sizes)) == (int(row["points_per_frame_min"]), int(row["points_per_frame_max"]))
        assert facts["damaged_records"] == 0
        assert set(recording.flags) <= {"corrupt_points_dropped"}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs .data/radhar")
def test_the_real_recordings_are_as_their_index_says() -> None:
    rows = index()
    counts = Counter((a.split, a.cls) for a in assets(source(REAL)))
    assert counts == Counter((row["split"], row["class"]) for row in rows)
    check_against_index([row for row in rows if int(row["corrupt_points"])] + rows[::40])


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs .data/radhar")
def test_every_real_recording_is_as_its_index_says() -> None:
    check_against_index(index())


def test_a_recording_is_read_once_for_all_of_its_windows_and_anew_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_radhar(tmp_path, {f"Train/walk/{n}": 12 for n in range(3)})
    config = source(tmp_path, window=4, step=4)
    uris = sorted((asset.uri for asset in assets(config)), key=lambda uri: uri.rpartition("@")[::-1])  # one of each recording by turns
    whole = {uri: open_recording(source(tmp_path), uri) for uri in {uri.partition("@")[0] for uri in uris}}
    reads = []
    monkeypatch.setattr(radhar, "_text", lambda file, text=radhar._text: reads.append(file.name) or text(file))
    for uri in uris:
        name, _, start = uri.partition("@")
        window, own = open_recording(config, uri), whole[name].cut((int(start), int(start) + 4))
        assert [frame.tobytes() for frame in window.frames] == [frame.tobytes() for frame in own.frames]
        assert (window.times_s.tolist(), list(window.facts.items())) == (own.times_s.tolist(), list(own.facts.items()))
    assert (len(uris), sorted(reads)) == (9, ["0.txt.xz", "1.txt.xz", "2.txt.xz"])
    index = tmp_path / "index.csv"
    index.write_text(index.read_text().replace(",A\n", ",Z\n"))
    write_radhar(tmp_path, {"Train/walk/1": 8}, sessions=False)
    assert open_recording(config, uris[0]).facts["session"] == "Z"
    assert (open_recording(config, uris[1]).facts["frames"], len(reads)) == (8, 4)
