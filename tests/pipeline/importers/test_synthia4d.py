import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.generate import generate
from pipeline.importers.recording import RecordingError
from pipeline.recipe import Recipe
from pipeline.sources.asset import SourceError
from pipeline.sources.recordings import RecordingSource, assets, content_sha256, open_recording
from tests.pipeline.importers.recording_files import write_synthia

SEQUENCE = "SYNTHIA-SEQS-06-SPRING"


def source(path: Path, **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": "synthia4d", "path": path} | options)


def write(root: Path, numbers: range | list[int], sequence: str = SEQUENCE) -> dict[int, dict[str, np.ndarray]]:
    return {number: write_synthia(root / sequence, number) for number in numbers}


def test_a_clip_is_three_frames_newest_first_in_world_metres(tmp_path: Path) -> None:
    frames = write(tmp_path, range(5, 9))
    recording = open_recording(source(tmp_path), f"{SEQUENCE}-000008.npz")
    for found, centre, number in zip(recording.frames, recording.centres if recording.centres is not None else (), (8, 7, 6), strict=True):
        np.testing.assert_allclose(found, frames[number]["pc"], rtol=1e-6)
        np.testing.assert_array_equal(centre, frames[number]["center"])
    assert (np.diff(recording.times_s) < 0).all()
    assert recording.flags == ()
    assert recording.features is not None
    np.testing.assert_allclose(recording.features[2], frames[6]["rgb"], rtol=1e-6)
    assert recording.feature_names == ("red", "green", "blue")


def test_a_missing_frame_repeats_the_last_that_was_found(tmp_path: Path) -> None:
    frames = write(tmp_path, [0, 4, 6, 20, 21])
    middle = open_recording(source(tmp_path), f"{SEQUENCE}-000006.npz")
    assert middle.flags == ("frames_missing",)
    assert middle.fillers is not None
    assert middle.fillers.tolist() == [False, True, False]
    np.testing.assert_allclose(middle.frames[1], frames[6]["pc"], rtol=1e-6)
    np.testing.assert_allclose(middle.frames[2], frames[4]["pc"], rtol=1e-6)
    last = open_recording(source(tmp_path), f"{SEQUENCE}-000021.npz")
    np.testing.assert_allclose(last.frames[2], frames[20]["pc"], rtol=1e-6)
    first = open_recording(source(tmp_path), f"{SEQUENCE}-000000.npz")
    assert first.fillers is not None
    assert first.fillers.tolist() == [False, True, True]
    np.testing.assert_allclose(first.frames[2], frames[0]["pc"], rtol=1e-6)


def test_a_frame_that_appears_changes_the_content_of_the_clips_that_hold_it(tmp_path: Path) -> None:
    write(tmp_path, [4, 6])
    before = content_sha256(source(tmp_path), f"{SEQUENCE}-000006.npz")
    write(tmp_path, [5])
    assert content_sha256(source(tmp_path), f"{SEQUENCE}-000006.npz") != before


def test_raw_classes_become_the_twelve_and_the_rest_is_masked(tmp_path: Path) -> None:
    write(tmp_path, [3])
    recording = open_recording(source(tmp_path), f"{SEQUENCE}-000003.npz")
    assert recording.parts is not None
    assert recording.parts[0][:16].tolist() == [-1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, -1, 11]
    assert recording.parts[0].dtype == np.int16
    assert [recording.part_names[n] for n in (0, 9, 10, 11)] == ["building", "bicycle", "lanemarking", "traffic_light"]


def test_sequences_are_divided_and_other_files_left_alone(tmp_path: Path) -> None:
    for number, sequence in enumerate(("SYNTHIA-SEQS-01-DAWN", "SYNTHIA-SEQS-05-FOG", SEQUENCE)):
        write(tmp_path, [number], sequence)
    np.savez(tmp_path / "labelweights.npz", np.ones(3))
    assert [a.split for a in assets(source(tmp_path))] == ["train", "val", "test"]
    assert [a.split for a in assets(source(tmp_path, test=["*-05-*"]))] == ["train", "test", "train"]


def test_lists_name_frames_by_their_first_word(tmp_path: Path) -> None:
    write(tmp_path, [616, 617])
    (tmp_path / "test.txt").write_text(
        f"{SEQUENCE}/point_clouds/000617.ply {SEQUENCE}/point_clouds/000617_label.ply\r\n{SEQUENCE}/point_clouds/000999.ply x\r\n"
    )
    found = [(a.uri, a.split, a.left_out) for a in assets(source(tmp_path, lists={"test": "test.txt"}))]
    assert found == [(f"{SEQUENCE}-000617.npz", "test", ""), (f"{SEQUENCE}-000999.npz", "test", "listed and not there")]
    (tmp_path / "test.txt").write_text("nothing")
    with pytest.raises(SourceError, match="has the line 'nothing'"):
        list(assets(source(tmp_path, lists={"test": "test.txt"})))


def test_points_beyond_25_m_of_the_centre_are_flagged(tmp_path: Path) -> None:
    write_synthia(tmp_path / SEQUENCE, 1, center=np.zeros(3))
    assert "far_points" in open_recording(source(tmp_path), f"{SEQUENCE}-000001.npz").flags


@pytest.mark.parametrize(
    "changes",
    [
        {"semantic": np.full(32, 16)},
        {"semantic": np.full(31, 1)},
        {"pc": np.zeros((32, 2))},
        {"rgb": np.array([None] * 96).reshape(32, 3)},
        {"center": np.zeros((1, 3))},
        {"pc": np.full((32, 3), "far")},
        {"pc": np.zeros((32, 3), np.complex128)},
        {"rgb": np.full((32, 3), 200, np.uint8)},
        {"center": np.zeros(3, [("x", "f8")])},
        {"center": np.full(3, "here")},
        {"semantic": np.full(32, "road")},
        {"semantic": np.full(32, 2.5)},
        {"semantic": np.full(32, np.nan)},
        {"semantic": np.ones(32, bool)},
    ],
)
def test_frames_of_other_shapes_classes_or_objects_have_a_reason(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    write_synthia(tmp_path / SEQUENCE, 1, **changes)
    with pytest.raises(RecordingError) as caught:
        open_recording(source(tmp_path), f"{SEQUENCE}-000001.npz")
    assert caught.value.reason == "unreadable"


def test_a_file_that_is_cut_or_empty_has_a_reason(tmp_path: Path) -> None:
    write(tmp_path, [1])
    path = tmp_path / f"{SEQUENCE}-000001.npz"
    for data in (path.read_bytes()[:-50], b""):
        path.write_bytes(data)
        with pytest.raises(RecordingError) as caught:
            open_recording(source(tmp_path), path.name)
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("header", ["", "{'descr': (", "{'descr': '<f8', 'fortran_order': False, 'shape': (10**30, 3)}", "  \n x"])
def test_an_array_under_the_name_of_an_archive_or_with_a_broken_header_has_a_reason(tmp_path: Path, header: str) -> None:
    path = tmp_path / f"{SEQUENCE}-000001.npz"
    if header:
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("pc", "rgb", "semantic", "center"):
                archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
    else:
        with open(path, "wb") as file:
            np.save(file, np.zeros((4, 3)))
    with pytest.raises(RecordingError, match="has not the plain arrays") as caught:
        open_recording(source(tmp_path), path.name)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("name", ["pc", "rgb", "center"])
def test_numbers_that_are_none_cost_their_clips_alone(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / "in", [1, 8])[1]
    array = whole[name].copy()
    array[..., 0] = np.nan
    write_synthia(tmp_path / "in" / SEQUENCE, 1, **{name: array})
    recipe = Recipe.model_validate({"source": source(tmp_path / "in"), "points": {"count": 32}})
    summary = generate(recipe, str(tmp_path / "out"), progress=False, isolate=False)
    assert (summary.samples, summary.failed) == (1, {"not_finite": 1})


def test_a_frame_that_a_list_has_twice_is_taken_once(tmp_path: Path) -> None:
    write(tmp_path, [616, 617])
    lines = [f"{SEQUENCE}/point_clouds/{number}.ply x" for number in ("000616", "000617", "616")]
    (tmp_path / "test.txt").write_text("\n".join(lines))
    found = [(asset.uri, asset.left_out) for asset in assets(source(tmp_path, lists={"test": "test.txt"}))]
    assert found == [(f"{SEQUENCE}-000616.npz", ""), (f"{SEQUENCE}-000617.npz", ""), (f"{SEQUENCE}-000616.npz", "listed twice")]
    (tmp_path / "val.txt").write_text(f"{SEQUENCE}/point_clouds/000002.ply x\n\n{lines[0]}")
    both = source(tmp_path, lists={"test": "test.txt", "val": "val.txt"})
    with pytest.raises(
        SourceError, match=rf"val.txt has {SEQUENCE}/point_clouds/000616.ply in line 3, and .*test.txt has it too"
    ) as caught:
        list(assets(both))
    assert len(str(caught.value).splitlines()) == 1


def test_a_frame_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder, [3])
    with pytest.raises(SourceError, match=rf"a/{SEQUENCE}-000003.npz and .*b/{SEQUENCE}-000003.npz are the same frame"):
        list(assets(source(tmp_path)))
