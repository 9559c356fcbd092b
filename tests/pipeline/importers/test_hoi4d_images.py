import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import dataset as dataset_file
from pipeline.card import card
from pipeline.gallery import write_gallery
from pipeline.generate import Summary, generate
from pipeline.importers.images import square
from pipeline.importers.recording import RecordingError
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.sources.asset import SourceError
from pipeline.sources.recordings import RecordingSource, assets, content_sha256, open_recording
from pipeline.storage import Store
from pipeline.verify import verify
from tests.pipeline.importers.recording_files import hoi4d_line, write_hoi4d, write_hoi4d_images

FRAMES, IMAGES, SIZE = 6, 12, 16


def release(root: Path, rows: int = 2) -> tuple[Path, Path]:
    """The challenge's file with its list, and the decoded raw release."""
    write_hoi4d(root / "packed/train1.h5", rows, frames=FRAMES)
    (root / "packed/release.txt").write_text("\r\n".join(hoi4d_line(row) for row in range(rows)))
    for row in range(rows):
        write_hoi4d_images(root / "raw", hoi4d_line(row), IMAGES, seed=row)
    return root / "packed", root / "raw"


def source(packed: Path, raw: Path, **options: object) -> RecordingSource:
    values = {"format": "hoi4d_actions", "path": packed, "lists": {"train": "release.txt"}, "images": raw, "image_size": SIZE}
    return RecordingSource.model_validate(values | options)


def made(config: RecordingSource, to: Path) -> Summary:
    recipe = Recipe.model_validate({"source": config, "points": {"count": 16}})
    return generate(recipe, str(to), progress=False, isolate=False)


def triangles(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear weights as wide as the reduction, of the middle square, written out pixel by pixel."""
    height, width = image.shape[:2]
    short = min(height, width)
    scale = short / size

    def along(length: int) -> np.ndarray:
        weights = np.zeros((size, length))
        for place in range(size):
            centre = (length - short) / 2 + (place + 0.5) * scale
            weights[place] = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centre) / max(scale, 1))
            weights[place] /= weights[place].sum()
        return weights

    return np.einsum("ih,hwc,jw->ijc", along(height), image.astype(float), along(width))


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (33, 20), (20, 20)])
def test_an_image_is_resized_without_aliases_and_cut_to_its_middle(tmp_path: Path, size: tuple[int, int]) -> None:
    (image,) = write_hoi4d_images(tmp_path, "a", 1, size=size)
    found = square(tmp_path / "a/align_rgb/00000.jpg", 12)
    assert (found.shape, found.dtype) == ((12, 12, 3), np.uint8)
    assert np.abs(found - triangles(image, 12)).max() <= 1.0 + 1e-6  # rounded once along each axis


def test_a_frame_has_the_image_of_its_own_time(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)

    def numbers(**options: object) -> list[int]:
        recording = open_recording(source(packed, raw, **options), "train1.h5#00001" + ("@00002" if options.get("window") else ""))
        assert recording.images is not None
        assert {file.parent for file in recording.images} == {raw / hoi4d_line(1) / "align_rgb"}
        return [int(file.stem) for file in recording.images]

    assert numbers() == [0, 2, 4, 6, 8, 10]
    assert numbers(image_fps=7.5) == [0, 1, 2, 3, 4, 5]
    assert numbers(image_fps=30) == [0, 4, 8, 12, 16, 20]
    assert numbers(window=3) == [4, 6, 8]
    assert numbers(at_least=8, short="repeat_last") == [0, 2, 4, 6, 8, 10, 10, 10]


def test_samples_have_a_frame_for_each_time_and_every_page_and_check_takes_them(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)
    uri = str(tmp_path / "out")
    summary = made(source(packed, raw), tmp_path / "out")
    assert (summary.samples, summary.images_made, summary.pictures) == (2, 2 * FRAMES, "frames")
    data = Dataset.open(uri)
    for index in range(2):
        row = int(data.table["source"][index].as_py()[-5:])
        members = data.load(index, data.members(index))
        assert {name for name in members if name.endswith(".png")} == {f"f{number:03d}.png" for number in range(FRAMES)}
        for number in range(FRAMES):
            file = raw / hoi4d_line(row) / f"align_rgb/{2 * number:05d}.jpg"
            np.testing.assert_array_equal(members[f"f{number:03d}.png"], square(file, SIZE))
        assert "cameras" not in members["json"]
    assert verify(uri, deep=True) == []
    write_gallery(uri, tmp_path / "gallery.html")
    page = (tmp_path / "gallery.html").read_text()
    assert 'data-cameras=""' in page
    assert "as its camera does" not in page
    text = card(uri)
    assert "f005.png" in text
    assert 'facts["cameras"]' not in text
    assert str(tmp_path) not in text


def test_the_decoder_of_the_images_is_named(tmp_path: Path) -> None:
    made(source(*release(tmp_path, rows=1)), tmp_path / "made")
    assert Dataset.open(str(tmp_path / "made")).info["codecs"]["pillow"] == importlib.metadata.version("pillow")


def test_verify_tells_frames_of_another_size_or_number(tmp_path: Path) -> None:
    packed, raw = release(tmp_path, rows=1)
    made(source(packed, raw), tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    text = store.read(dataset_file.NAME).decode()
    store.write(dataset_file.NAME, text.replace(f'"image_size": {SIZE}', '"image_size": 24').encode())
    assert "f000.png is 16 × 16 × 3 and not 24 × 24 × 3" in str(verify(store.uri, deep=True)[0])
    store.write(dataset_file.NAME, text.replace(f'"images": "{raw}"', '"images": null').encode())
    assert "6 images stand for 0 frames" in str(verify(store.uri, deep=True)[0])


@pytest.mark.parametrize(
    ("damage", "reason", "words"),
    [("missing", "io_error", "cannot be read"), ("text", "unreadable", "is damaged"), ("cut", "unreadable", "is damaged")],
)
def test_a_missing_or_broken_image_costs_its_recording_alone(tmp_path: Path, damage: str, reason: str, words: str) -> None:
    packed, raw = release(tmp_path)
    file = raw / hoi4d_line(0) / "align_rgb/00004.jpg"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"no image" if damage == "text" else file.read_bytes()[:300])
    summary = made(source(packed, raw), tmp_path / "out")
    assert (summary.samples, summary.failed) == (1, {reason: 1})
    with pytest.raises(RecordingError, match=words) as caught:
        square(file, SIZE)
    assert str(caught.value).endswith(".")
    assert "00004.jpg" in str(caught.value)


def test_an_image_that_no_frame_needs_may_be_missing(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)
    (raw / hoi4d_line(0) / "align_rgb/00005.jpg").unlink()
    assert made(source(packed, raw), tmp_path / "out").samples == 2


def test_the_content_is_that_of_the_images_used(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)
    config = source(packed, raw)

    def digests() -> list[str]:
        return [content_sha256(config, asset.uri) for asset in assets(config)]

    before = digests()
    folder = raw / hoi4d_line(0) / "align_rgb"
    Image.new("RGB", (48, 32), (9, 200, 9)).save(folder / "00003.jpg")
    assert digests() == before
    Image.new("RGB", (48, 32), (9, 200, 9)).save(folder / "00002.jpg")
    assert digests()[0] != before[0]
    assert digests()[1] == before[1]
    assert content_sha256(source(packed, raw, images=None), "train1.h5#00001") != before[1]


def test_the_place_of_the_images_is_no_part_of_the_recipe_but_their_size_is(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)

    def identity(**options: object) -> str:
        return Recipe.model_validate({"source": source(packed, raw, **options)}).resolved_hash()

    assert identity() == identity(images=packed)
    assert len({identity(), identity(image_size=32), identity(image_fps=30), identity(images=None)}) == 4
    assert identity(images=None) == identity(images=None, image_size=32)


def test_images_that_cannot_be_found_by_a_list_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    packed, raw = release(tmp_path)
    with pytest.raises(SourceError, match="is no folder; give the one of the raw release"):
        list(assets(source(packed, tmp_path / "nowhere")))
    write_hoi4d(packed / "test1.h5", 1, 5, frames=FRAMES)
    with pytest.raises(SourceError, match=r"test1.h5 has no list, and images are found by its lines"):
        list(assets(source(packed, raw)))
    with pytest.raises(ValueError, match="give lists too"):
        source(packed, raw, lists={})
    with pytest.raises(ValueError, match="radhar is read without images"):
        RecordingSource.model_validate({"format": "radhar", "path": packed, "images": raw})
