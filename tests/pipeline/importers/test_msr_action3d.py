import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.importers.recording import RecordingError
from pipeline.sources.recordings import RecordingSource, assets, open_recording
from tests.pipeline.importers.recording_files import msr_clouds, msr_depth, write_msr, write_msr_npz

NAME = "a13_s09_e03_sdepth"


def source(path: Path, **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": "msr_action3d", "path": path, "at_least": 1} | options)


def reason(path: Path, name: str) -> str:
    with pytest.raises(RecordingError) as caught:
        open_recording(source(path), name)
    assert name in str(caught.value)
    return caught.value.reason


def test_raw_depth_becomes_points_in_metres_with_y_down(tmp_path: Path) -> None:
    depth = msr_depth(3)
    write_msr(tmp_path / f"{NAME}.bin", depth)
    recording = open_recording(source(tmp_path), f"{NAME}.bin")
    for frame, wanted in zip(recording.frames, msr_clouds(depth), strict=True):
        np.testing.assert_allclose(frame, wanted / 1000, rtol=1e-6)
        assert frame.dtype == np.float32
    lower = np.zeros((1, 4, 4), np.uint32)
    lower[0, 3, 1] = 1000
    write_msr(tmp_path / "low" / f"{NAME}.bin", lower)
    assert open_recording(source(tmp_path / "low"), f"{NAME}.bin").frames[0][0, 1] > 0


@pytest.mark.parametrize("frames", [1, 4])
def test_the_npz_of_the_published_preprocessing_gives_the_same_points(tmp_path: Path, frames: int) -> None:
    depth = msr_depth(frames)
    write_msr(tmp_path / f"{NAME}.bin", depth)
    write_msr_npz(tmp_path / "npz" / f"{NAME}.npz", msr_clouds(depth))
    raw, saved = open_recording(source(tmp_path), f"{NAME}.bin"), open_recording(source(tmp_path / "npz"), f"{NAME}.npz")
    assert len(raw.frames) == len(saved.frames) == frames
    for one, other in zip(raw.frames, saved.frames, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "module"), [(3, b"numpy.core.multiarray"), (3, b"numpy._core.multiarray"), (4, b"numpy._core.multiarray")]
)
def test_files_of_old_and_new_numpy_are_read(tmp_path: Path, protocol: int, module: bytes) -> None:
    clouds = np.empty(2, object)
    clouds[:] = [np.arange(6.0, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(12, dtype=np.int16).reshape(4, 3))]
    data = pickle.dumps(clouds, protocol).replace(b"numpy._core.multiarray", module)
    write_object_npz(tmp_path / f"{NAME}.npz", data, 2)
    frames = open_recording(source(tmp_path), f"{NAME}.npz").frames
    np.testing.assert_allclose(frames[0], np.arange(6).reshape(2, 3) / 1000, rtol=1e-6)
    np.testing.assert_allclose(frames[1], np.arange(12).reshape(4, 3) / 1000, rtol=1e-6)


def write_object_npz(path: Path, data: bytes, count: int) -> None:
    import io
    import zipfile

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("point_clouds.npy", head.getvalue() + data)


def test_a_list_of_equal_clouds_is_a_plain_array_and_read_too(tmp_path: Path) -> None:
    clouds = np.random.default_rng(0).normal(size=(5, 7, 3)) * 1000
    np.savez_compressed(tmp_path / f"{NAME}.npz", point_clouds=clouds)
    np.testing.assert_allclose(np.stack(open_recording(source(tmp_path), f"{NAME}.npz").frames), clouds / 1000, rtol=1e-6)


class Harm:
    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.place,)


def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    first = np.empty(2, object)
    first[:] = [np.ones((2, 3)), Harm(str(mark))]
    np.savez(tmp_path / f"{NAME}.npz", point_clouds=first)
    assert reason(tmp_path, f"{NAME}.npz") == "unreadable"
    write_object_npz(tmp_path / f"{NAME}.npz", pickle.dumps(Harm(str(mark))), 1)
    assert reason(tmp_path, f"{NAME}.npz") == "unreadable"
    assert not mark.exists()
    np.load(tmp_path / f"{NAME}.npz", allow_pickle=True)["point_clouds"]
    assert mark.exists(), "the file would have run it"


@pytest.mark.parametrize("items", [["text"], [{"a": 1}], [np.array(["a"])], [None], [np.ones(3)], [np.ones((2, 2))], [[1.0, 2.0]]])
def test_lists_of_other_things_are_refused(tmp_path: Path, items: list[object]) -> None:
    ragged = np.empty(len(items), object)
    ragged[:] = items
    np.savez(tmp_path / f"{NAME}.npz", point_clouds=ragged)
    assert reason(tmp_path, f"{NAME}.npz") == "unreadable"


def test_a_cut_or_foreign_npz_has_a_reason(tmp_path: Path) -> None:
    write_msr_npz(tmp_path / f"{NAME}.npz", msr_clouds(msr_depth(3)))
    whole = (tmp_path / f"{NAME}.npz").read_bytes()
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"PK\x03\x04"):
        (tmp_path / f"{NAME}.npz").write_bytes(data)
        assert reason(tmp_path, f"{NAME}.npz") == "unreadable"
    np.savez(tmp_path / f"{NAME}.npz", other=np.ones(3))
    assert reason(tmp_path, f"{NAME}.npz") == "unreadable"
    clouds = np.empty(3, object)
    clouds[:] = [np.ones((2, 3))] * 3
    data = pickle.dumps(clouds)
    for length in range(0, len(data), 7):
        write_object_npz(tmp_path / f"{NAME}.npz", data[:length], 3)
        assert reason(tmp_path, f"{NAME}.npz") == "unreadable"


def test_a_raw_file_must_have_the_size_that_its_header_says(tmp_path: Path) -> None:
    path = write_msr(tmp_path / f"{NAME}.bin", msr_depth(3))
    whole = path.read_bytes()
    for data, wanted in ((whole[:-4], "unreadable"), (whole + b"1234", "unreadable"), (whole[:9], "unreadable"), (bytes(12), "empty")):
        path.write_bytes(data)
        assert reason(tmp_path, path.name) == wanted


def test_width_and_height_come_from_the_header(tmp_path: Path) -> None:
    write_msr(tmp_path / f"{NAME}.bin", msr_depth(2, size=(5, 11)))
    np.testing.assert_allclose(open_recording(source(tmp_path), f"{NAME}.bin").frames[1], msr_clouds(msr_depth(2, size=(5, 11)))[1] / 1000)


def test_people_are_divided_and_names_order_the_recordings(tmp_path: Path) -> None:
    for name in ("a20_s10_e03", "a01_s05_e01", "a01_s06_e02", "a12_s01_e02"):
        write_msr(tmp_path / f"{name}_sdepth.bin", msr_depth(2))
    found = [(a.uri[:11], a.cls, a.split) for a in assets(source(tmp_path))]
    assert found == [
        ("a01_s05_e01", "a01", "train"),
        ("a01_s06_e02", "a01", "test"),
        ("a12_s01_e02", "a12", "train"),
        ("a20_s10_e03", "a20", "test"),
    ]
    assert [a.split for a in assets(source(tmp_path, test=["s01", "s05"]))] == ["test", "train", "test", "train"]


def test_what_is_not_taken_is_counted(tmp_path: Path) -> None:
    write_msr(tmp_path / f"{NAME}.bin", msr_depth(2))
    write_msr_npz(tmp_path / f"{NAME}.npz", msr_clouds(msr_depth(2)))
    write_msr(tmp_path / "a21_s01_e01_sdepth.bin", msr_depth(2))
    found = {a.uri: a.left_out for a in assets(source(tmp_path))}
    assert found == {
        f"{NAME}.bin": "",
        f"{NAME}.npz": "also there as raw depth",
        "a21_s01_e01_sdepth.bin": "name is not aXX_sYY_eZZ_sdepth",
    }


def test_a_recording_shorter_than_a_clip_is_never_dropped_in_silence(tmp_path: Path) -> None:
    write_msr(tmp_path / "a01_s01_e01_sdepth.bin", msr_depth(5))
    write_msr(tmp_path / "a01_s01_e02_sdepth.bin", msr_depth(24))
    write_msr_npz(tmp_path / "a01_s01_e03_sdepth.npz", msr_clouds(msr_depth(7)))
    official = RecordingSource(format="msr_action3d", path=tmp_path)
    assert [a.left_out for a in assets(official)] == ["shorter than 24 frames", "", "shorter than 24 frames"]
    kept = official.model_copy(update={"short": "keep"})
    assert [a.left_out for a in assets(kept)] == ["", "", ""]
    recording = open_recording(kept, "a01_s01_e01_sdepth.bin")
    assert (len(recording.frames), recording.flags) == (5, ("short",))
    longer = open_recording(official.model_copy(update={"short": "repeat_last"}), "a01_s01_e01_sdepth.bin")
    assert longer.flags == ("short",)
    assert longer.fillers is not None
    assert longer.fillers.tolist() == [False] * 5 + [True] * 19
    np.testing.assert_array_equal(longer.frames[23], longer.frames[4])
    np.testing.assert_allclose(longer.times_s, np.arange(24) / 30)


def test_a_length_that_a_file_cannot_hold_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.bin").write_bytes(struct.pack("<3I", 4_000_000_000, 320, 240))
    write_object_npz(tmp_path / f"{NAME.replace('e03', 'e02')}.npz", pickle.dumps([]), 4_000_000_000)
    found = list(assets(source(tmp_path, window=24)))
    assert len(found) == 2
    for asset in found:
        with pytest.raises(RecordingError):
            open_recording(source(tmp_path, window=24), asset.uri)


def test_windows_take_every_recording_that_is_as_long_as_they_are(tmp_path: Path) -> None:
    for take, frames in ((1, 40), (2, 16), (3, 15)):
        write_msr(tmp_path / f"a01_s01_e{take:02d}_sdepth.bin", msr_depth(frames, take))
    for short, lost in (("leave_out", 1), ("repeat_last", 0), ("keep", 0)):
        config = RecordingSource.model_validate({"format": "msr_action3d", "path": tmp_path, "window": 16, "step": 8, "short": short})
        found = list(assets(config))
        assert [asset.left_out for asset in found if asset.left_out] == ["shorter than 16 frames"] * lost
        windows = [asset.uri for asset in found if "e03" not in asset.uri]
        assert windows == [f"a01_s01_e01_sdepth.bin@{start:05d}" for start in (0, 8, 16, 24)] + ["a01_s01_e02_sdepth.bin@00000"]
        for uri in windows:
            recording = open_recording(config, uri)
            assert (len(recording.frames), recording.flags, recording.fillers) == (16, (), None)
    kept = open_recording(config, "a01_s01_e03_sdepth.bin@00000")
    assert (len(kept.frames), kept.flags) == (15, ("short",))
    filled = open_recording(config.model_copy(update={"short": "repeat_last"}), "a01_s01_e03_sdepth.bin@00000")
    assert (len(filled.frames), filled.flags) == (16, ("short",))
