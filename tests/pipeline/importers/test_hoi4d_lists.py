"""Which rows of HOI4D's files are taken where lists name them, and on which side they stand."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.importers import hoi4d
from pipeline.sources.asset import Asset, SourceError
from pipeline.sources.recordings import RecordingSource, assets, open_recording, overview
from tests.pipeline.importers.recording_files import hoi4d_line, write_hoi4d, write_hoi4d_images

BOTH = {"train": "release.txt", "test": "test.txt"}


def source(path: Path, **options: object) -> RecordingSource:
    return RecordingSource.model_validate({"format": "hoi4d_actions", "path": path, "lists": {"train": "release.txt"}} | options)


def write_list(path: Path, numbers: Sequence[int]) -> None:
    path.write_text("\n".join(hoi4d_line(number) for number in numbers))


def release(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    """train1.h5 with its list; line n is of person H(n % 4 + 1)."""
    write_hoi4d(root / "train1.h5", len(numbers))
    write_list(root / "release.txt", numbers)
    return root


def left_out(found: Sequence[Asset]) -> Counter[str]:
    return Counter(asset.left_out for asset in found if asset.left_out)


def test_test_rows_that_no_list_names_are_left_out_where_people_are_held_out(tmp_path: Path) -> None:
    release(tmp_path)
    write_hoi4d(tmp_path / "test1.h5", 3, 5)
    found = list(assets(source(tmp_path, test=["H1"])))
    assert {(asset.uri, asset.split) for asset in found if not asset.left_out} == {
        (f"train1.h5#{row:05d}", "test" if row % 4 == 0 else "train") for row in range(8)
    }
    assert left_out(found) == {"in no list": 3}
    assert not left_out(list(assets(source(tmp_path))))


@pytest.mark.parametrize("lists", [{"train": "release.txt"}, BOTH])
def test_test_rows_without_labels_are_left_out_where_people_are_held_out(tmp_path: Path, lists: dict[str, str]) -> None:
    release(tmp_path)
    write_hoi4d(tmp_path / "test_wolabel.h5", 2, 5, labels=None)
    write_list(tmp_path / "test.txt", [20, 21])
    found = list(assets(source(tmp_path, test=["H1"], lists=lists)))
    assert left_out(found) == {"no labels": 2}
    assert {asset.uri.partition("#")[0] for asset in found if not asset.left_out} == {"train1.h5"}


def test_images_need_no_list_of_rows_that_are_left_out(tmp_path: Path) -> None:
    release(tmp_path, range(2))
    write_hoi4d(tmp_path / "test_wolabel.h5", 1, labels=None)
    write_hoi4d_images(tmp_path / "raw", hoi4d_line(0), 1)
    found = list(assets(source(tmp_path, images=tmp_path / "raw", test=["H1"])))
    assert [asset.left_out for asset in found] == ["", "", "no labels"]


def test_a_person_of_rows_that_are_left_out_alone_cannot_be_held_out(tmp_path: Path) -> None:
    release(tmp_path, [0, 1])
    write_hoi4d(tmp_path / "test_wolabel.h5", 1, labels=None)
    write_list(tmp_path / "test.txt", [3])
    with pytest.raises(SourceError, match="has no group 'H4' to hold out; its groups are H1, H2"):
        list(assets(source(tmp_path, test=["H4"], lists=BOTH)))


def test_a_test_row_that_train_has_too_is_left_out_and_counted(tmp_path: Path) -> None:
    release(tmp_path, range(4))
    write_hoi4d(tmp_path / "test1.h5", 3, 5)
    write_list(tmp_path / "test.txt", [10, 2, 11])
    for options in ({}, {"test": ["H3"]}):
        found = list(assets(source(tmp_path, lists=BOTH, **options)))
        assert [asset.uri for asset in found if asset.left_out] == ["test1.h5#00001"]
        assert left_out(found) == {"also in the list of train": 1}
    assert overview(source(tmp_path, lists=BOTH))["test"][0] == 2


def test_rows_of_one_line_stay_on_one_side(tmp_path: Path) -> None:
    release(tmp_path, [0, 1, 0, 2])
    config = source(tmp_path)
    groups = [asset.group for asset in assets(config)]
    assert groups == ["train1.h5#00000", "train1.h5#00001", "train1.h5#00000", "train1.h5#00003"]
    assert [open_recording(config, f"train1.h5#{row:05d}").together for row in range(4)] == groups


def test_lists_count_no_row_that_stands_back_behind_a_labelled_one(tmp_path: Path) -> None:
    release(tmp_path, range(2))
    write_hoi4d(tmp_path / "test_wolabel.h5", 2, 7, labels=None)
    write_hoi4d(tmp_path / "test1_right.h5", 2, 7)
    write_list(tmp_path / "test.txt", [8, 9])
    config = source(tmp_path, lists=BOTH)
    found = {asset.uri: (asset.cls, asset.left_out) for asset in assets(config)}
    assert found["test1_right.h5#00000"] == ("C9", "")
    assert found["test1_right.h5#00001"] == ("C1", "")
    assert left_out(list(assets(config))) == {"also there with labels": 2}
    assert open_recording(config, "test1_right.h5#00001").facts["recording"] == hoi4d_line(9)
    (tmp_path / "test1_right.h5").unlink()
    assert [asset.cls for asset in assets(config) if asset.split == "test"] == ["C9", "C1"]


def test_the_train_list_is_read_before_the_test_list_in_whatever_order_they_are_given(tmp_path: Path) -> None:
    release(tmp_path, [0, 1])
    write_hoi4d(tmp_path / "test1.h5", 2, 5)
    write_list(tmp_path / "test.txt", [1, 4])
    backwards = source(tmp_path, lists=dict(reversed(BOTH.items())))
    assert [asset.group for asset in assets(backwards)] == [asset.group for asset in assets(source(tmp_path, lists=BOTH))]
    assert hoi4d.content(tmp_path, "train1.h5#00001", backwards) == hoi4d.content(tmp_path, "train1.h5#00001", source(tmp_path, lists=BOTH))
