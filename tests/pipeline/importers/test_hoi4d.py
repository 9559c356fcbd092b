import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.generate import generate
from pipeline.importers import hdf5, hoi4d
from pipeline.importers.recording import RecordingError
from pipeline.manifest import read_all
from pipeline.recipe import Recipe
from pipeline.sources.asset import SourceError
from pipeline.sources.recordings import RecordingSource, assets, content_sha256, open_recording
from pipeline.storage import Store
from tests.pipeline.importers.recording_files import hoi4d_line, write_hoi4d


def source(path: Path, kind: str = "actions", **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": f"hoi4d_{kind}", "path": path} | options)


def uris(config: RecordingSource) -> list[str]:
    return [a.uri for a in assets(config) if not a.left_out]


def test_rows_are_counted_by_each_files_own_length_and_files_by_their_number(tmp_path: Path) -> None:
    for number, rows in ((1, 3), (2, 1), (10, 2)):
        write_hoi4d(tmp_path / f"train{number}.h5", rows, number)
    write_hoi4d(tmp_path / "test1.h5", 2, 7)
    write_hoi4d(tmp_path / "elsewhere" / "train1.h5", 5, 9)
    assert uris(source(tmp_path)) == [
        "train1.h5#00000",
        "train1.h5#00001",
        "train1.h5#00002",
        "train2.h5#00000",
        "train10.h5#00000",
        "train10.h5#00001",
        "test1.h5#00000",
        "test1.h5#00001",
    ]
    assert [a.split for a in assets(source(tmp_path))] == ["train"] * 6 + ["test"] * 2


def test_a_row_is_read_as_it_stands_with_actions_and_centres(tmp_path: Path) -> None:
    arrays = write_hoi4d(tmp_path / "train1.h5", 3)
    recording = open_recording(source(tmp_path), "train1.h5#00002")
    np.testing.assert_array_equal(np.stack(recording.frames), arrays["pcd"][2])
    np.testing.assert_array_equal(recording.actions, arrays["label"][2])
    np.testing.assert_allclose(recording.centres, arrays["center"][2])
    assert len(recording.action_names) == 19
    assert recording.flags == ()
    np.testing.assert_allclose(recording.times_s, np.arange(6) / 7.5)


def test_no_more_is_read_than_the_frames_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hoi4d(tmp_path / "train1.h5", 4, labels="semantic")
    taken = []
    real = h5py.Dataset.__getitem__

    def watched(self: h5py.Dataset, *arguments: object, **options: object) -> object:
        found = real(self, *arguments, **options)
        taken.append(np.shape(found))
        return found

    config = source(tmp_path, "semantic")
    names = uris(config)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    open_recording(config, names[3])
    assert sorted(taken) == sorted([(3, 16, 3), (3, 3), (3, 16)])


def test_semantic_clips_are_three_frames_at_multiples_of_three(tmp_path: Path) -> None:
    arrays = write_hoi4d(tmp_path / "train1.h5", 2, labels="semantic", frames=9)
    config = source(tmp_path, "semantic")
    names = uris(config)
    assert len(names) == 6
    for index, name in enumerate(names):
        row, first = index // 3, index % 3 * 3
        recording = open_recording(config, name)
        np.testing.assert_array_equal(np.stack(recording.frames), arrays["pcd"][row, first : first + 3])
        raw = arrays["semantic"][row, first : first + 3]
        assert recording.parts is not None
        np.testing.assert_array_equal(np.stack(recording.parts), np.where(raw <= 1, -1, raw))
        np.testing.assert_allclose(recording.times_s, np.arange(first, first + 3) / 15)
    assert len(recording.part_names) == 49
    assert len({content_sha256(config, name) for name in names}) == 6
    assert len({a.group for a in assets(config)}) == 2


def test_test_rows_without_labels_stand_back_behind_labelled_ones(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "test_wolabel.h5", 2, labels=None)
    only = [open_recording(source(tmp_path), uri) for uri in uris(source(tmp_path))]
    assert [(recording.actions, recording.flags) for recording in only] == [(None, ("no_labels",))] * 2
    write_hoi4d(tmp_path / "test1_right.h5", 2)
    assert uris(source(tmp_path)) == ["test1_right.h5#00000", "test1_right.h5#00001"]
    assert [a.left_out for a in assets(source(tmp_path))].count("also there with labels") == 2


def test_a_list_names_the_rows_whatever_its_line_ends(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "train1.h5", 2)
    write_hoi4d(tmp_path / "train2.h5", 1, 5)
    (tmp_path / "release.txt").write_bytes("\r\n".join([hoi4d_line(n) for n in range(3)] + [""]).encode())
    config = source(tmp_path, lists={"train": "release.txt"})
    assert [a.cls for a in assets(config)] == ["C1", "C2", "C3"]
    recording = open_recording(config, "train2.h5#00000")
    assert (recording.person, recording.facts["recording"]) == ("H3", hoi4d_line(2))
    assert [a.split for a in assets(config.model_copy(update={"test": ("H2",)}))] == ["train", "test", "train"]
    assert content_sha256(config, "train2.h5#00000") != content_sha256(source(tmp_path), "train2.h5#00000")


def test_a_list_of_other_rows_is_refused(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "train1.h5", 2)
    (tmp_path / "release.txt").write_text("\n".join([hoi4d_line(0), hoi4d_line(1), hoi4d_line(1)]))
    with pytest.raises(SourceError, match="has 3 lines, 1 of them doubled, and the train files have 2 rows"):
        uris(source(tmp_path, lists={"train": "release.txt"}))
    (tmp_path / "release.txt").write_text("some\nthing")
    with pytest.raises(SourceError, match="has the line 'some'"):
        uris(source(tmp_path, lists={"train": "release.txt"}))
    with pytest.raises(SourceError, match="people are known from a list alone"):
        uris(source(tmp_path, test=["H1"]))


def spoil(path: Path, name: str, value: object, place: object = (1, 2)) -> None:
    with h5py.File(path, "r+") as file:
        file[name][place] = value


def test_a_label_out_of_range_costs_its_row_alone(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "train1.h5", 3)
    spoil(tmp_path / "train1.h5", "label", 19)
    assert len(open_recording(source(tmp_path), "train1.h5#00000").frames) == 6
    with pytest.raises(RecordingError, match=r"train1.h5#00001 has a label that is no whole number from 0 to 18") as caught:
        open_recording(source(tmp_path), "train1.h5#00001")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (np.full((2, 6), 2.5), "train1.h5#00001 has a label that is no whole number from 0 to 18"),
        (np.full((2, 6), np.nan), "train1.h5#00001 has a label that is no whole number"),
        (np.full((2, 6), "walk", object), "label holds no numbers"),
        (np.zeros((2, 6), bool), "label holds no numbers"),
        (np.zeros((2, 6), [("a", "i4")]), "label holds no numbers"),
        (np.zeros((2, 6, 1), int), r"train1.h5#00001 has label \(6, 1\) for points"),
        (np.zeros((2, 5), int), "has not the arrays pcd and center of HOI4D"),
        (np.int64(3), "has not the arrays pcd and center of HOI4D"),
        (None, "label holds no numbers"),
    ],
)
def test_labels_of_another_kind_are_a_reason(tmp_path: Path, label: object, said: str) -> None:
    write_hoi4d(tmp_path / "in/train1.h5", 2)
    with h5py.File(tmp_path / "in/train1.h5", "r+") as file:
        del file["label"]
        if label is None:
            file.create_group("label")
        else:
            file["label"] = label
    recipe = Recipe.model_validate({"source": source(tmp_path / "in"), "points": {"count": 16}})
    assert set(generate(recipe, str(tmp_path / "out"), progress=False, isolate=False).failed) == {"unreadable"}
    (rows,) = (item.table.to_pylist() for item in read_all(Store(tmp_path / "out")))
    assert re.search(said, rows[-1]["message"])


def test_labels_that_are_whole_numbers_are_read_however_they_are_stored(tmp_path: Path) -> None:
    arrays = write_hoi4d(tmp_path / "train1.h5", 1)
    with h5py.File(tmp_path / "train1.h5", "r+") as file:
        del file["label"]
        file["label"] = arrays["label"].astype(">f4")
    np.testing.assert_array_equal(open_recording(source(tmp_path), "train1.h5#00000").actions, arrays["label"][0])


def test_a_centre_beside_its_points_is_flagged(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "train1.h5", 2)
    spoil(tmp_path / "train1.h5", "center", 50.0)
    assert open_recording(source(tmp_path), "train1.h5#00001").flags == ("centre_off",)
    assert open_recording(source(tmp_path), "train1.h5#00000").flags == ()


def test_other_files_have_a_reason_and_cost_one_asset(tmp_path: Path) -> None:
    write_hoi4d(tmp_path / "train1.h5", 2)
    (tmp_path / "train2.h5").write_bytes((tmp_path / "train1.h5").read_bytes()[:900])
    with h5py.File(tmp_path / "train3.h5", "w") as file:
        file["data"] = np.zeros(3)
    with h5py.File(tmp_path / "train4.h5", "w") as file:
        file["pcd"], file["center"], file["label"] = np.zeros((1, 4, 8, 3), "f4"), np.zeros((1, 5, 3)), np.zeros((1, 4), int)
    assert uris(source(tmp_path))[2:] == ["train2.h5", "train3.h5", "train4.h5#00000"]
    for name in ("train2.h5", "train3.h5", "train4.h5#00000"):
        with pytest.raises(RecordingError) as caught:
            open_recording(source(tmp_path), name)
        assert caught.value.reason == "unreadable"


def test_arrays_that_lie_in_another_file_are_not_followed(tmp_path: Path) -> None:
    arrays = write_hoi4d(tmp_path / "elsewhere/far.h5", 2)
    layout = h5py.VirtualLayout(shape=arrays["pcd"].shape, dtype="f4")
    layout[:] = h5py.VirtualSource(tmp_path / "elsewhere/far.h5", "pcd", shape=arrays["pcd"].shape)
    for number in (1, 2, 3, 4):
        write_hoi4d(tmp_path / f"train{number}.h5", 2)
        with h5py.File(tmp_path / f"train{number}.h5", "r+") as file:
            del file["pcd"]
            if number == 1:
                file["pcd"] = h5py.ExternalLink(tmp_path / "elsewhere/far.h5", "pcd")
            elif number == 2:
                file["pcd"] = h5py.SoftLink("/center")
            elif number == 3:
                file.create_virtual_dataset("pcd", layout)
            else:
                (tmp_path / "raw.bin").write_bytes(arrays["pcd"].tobytes())
                file.create_dataset("pcd", arrays["pcd"].shape, "f4", external=[(str(tmp_path / "raw.bin"), 0, arrays["pcd"].nbytes)])
    (tmp_path / "train5.h5").write_bytes(b"\x89HDF\r\n\x1a\n\x09" + bytes(2000))
    assert uris(source(tmp_path)) == [f"train{number}.h5" for number in (1, 2, 3, 4, 5)]
    for name in uris(source(tmp_path)):
        with pytest.raises(RecordingError, match=rf"fetch {name} again"):
            open_recording(source(tmp_path), name)


def test_a_file_that_ends_its_reader_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        write_hoi4d(tmp_path / f"train{number}.h5", 2, number)
    whole = {uri: content_sha256(source(tmp_path), uri) for uri in uris(source(tmp_path))}
    deadly = """
import os
from pipeline.importers import hdf5, hoi4d
real = hdf5.opened
hdf5.opened = lambda file, names: os.abort() if file.name == "train2.h5" else real(file, names)
hdf5.serve()
"""
    monkeypatch.setattr(hdf5, "_CODE", deadly)
    hdf5.end()
    forget()
    found = {}
    for asset in assets(source(tmp_path)):
        try:
            found[asset.uri] = content_sha256(source(tmp_path), asset.uri)
        except OSError:
            found[asset.uri] = ""
    hdf5.end()
    assert found == {uri: digest for uri, digest in whole.items() if "train2" not in uri} | {"train2.h5": ""}


def forget() -> None:
    hoi4d._shape_of.cache_clear()
    hoi4d._row_sha256.cache_clear()


def test_a_reader_that_others_end_is_not_charged_to_a_file(tmp_path: Path) -> None:
    for number in (1, 2):
        write_hoi4d(tmp_path / f"train{number}.h5", 2, number)
    found = []
    for killed in (False, True):
        forget()
        rows = {}
        for asset in assets(source(tmp_path)):
            if killed:
                hdf5._children[0].kill()
                hdf5._children[0].wait()
            rows[asset.uri] = content_sha256(source(tmp_path), asset.uri)
        found.append(rows)
    hdf5.end()
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_question_that_was_broken_off_does_not_answer_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hoi4d(tmp_path / "train1.h5", 2)
    write_hoi4d(tmp_path / "train2.h5", 3)
    assert hdf5.shapes(tmp_path / "train1.h5", ["pcd"])["pcd"][0] == 2
    child = hdf5._children[0]

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(child.stdout, "readline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hdf5.shapes(tmp_path / "train1.h5", ["pcd"])
    assert child.poll() is not None
    assert hdf5.shapes(tmp_path / "train2.h5", ["pcd"])["pcd"][0] == 3
    hdf5.end()


def test_a_reader_that_hangs_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hoi4d(tmp_path / "train1.h5", 1)
    monkeypatch.setattr(
        hdf5,
        "_CODE",
        """
from pipeline.importers import hdf5, hoi4d
hdf5._SECONDS = 1
def hang(file, names):
    while True:
        pass
hdf5.opened = hang
hdf5.serve()
""",
    )
    hdf5.end()
    with pytest.raises(OSError, match="died of it"):
        hdf5.shapes(tmp_path / "train1.h5", ["pcd"])
    assert not hdf5._children


@pytest.mark.parametrize("chunked", [False, True])
def test_rows_that_a_header_only_claims_are_not_believed(tmp_path: Path, chunked: bool) -> None:
    with h5py.File(tmp_path / "train1.h5", "w") as file:
        file.create_dataset("pcd", (10**9, 8, 8, 3), "f4", chunks=(1, 8, 8, 3) if chunked else None)
    assert (tmp_path / "train1.h5").stat().st_size < 10_000
    assert uris(source(tmp_path)) == ["train1.h5"]


def test_compressed_rows_are_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train1.h5", "w") as file:
        file.create_dataset("pcd", data=np.zeros((3, 8, 8, 3), "f4"), chunks=(1, 8, 8, 3), compression="gzip")
    assert len(uris(source(tmp_path))) == 3


def test_frames_that_fill_a_short_recording_up_have_no_action(tmp_path: Path) -> None:
    arrays = write_hoi4d(tmp_path / "train1.h5", 1)
    recording = open_recording(source(tmp_path, at_least=8, short="repeat_last"), "train1.h5#00000")
    assert recording.actions is not None
    np.testing.assert_array_equal(recording.actions, [*arrays["label"][0], -1, -1])
