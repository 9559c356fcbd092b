"""Gallery, card and table of a dataset tell the truth about it, whatever its names are, and need nothing but themselves."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import page
from pipeline.card import card
from pipeline.dataset import DatasetError
from pipeline.gallery import choose, essentials, write_gallery
from pipeline.generate import generate
from pipeline.page import animation, clips, clouds
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.sources.recordings import FORMATS
from pipeline.stats import stats
from tests.pipeline.importers.recording_files import write_mhomeges, write_synthia

HOSTILE = "<script>alert(1)<" + "|img src=x onerror=alert(1)>&amp;\"'"


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(v in (a.get(k.rstrip("_")) or "").split() for k, v in wanted.items())]

    @property
    def text(self) -> str:
        return "".join(self.words)


def names(classes: dict[str, int], split: str = "") -> list[str]:
    return [f"{split}{cls}/m{number}" for cls, count in classes.items() for number in range(count)]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def gallery(uri: str, tmp_path: Path, **options: int) -> Page:
    return read(write_gallery(uri, tmp_path / "gallery.html", **options))


def test_the_gallery_needs_nothing_from_outside(written, tmp_path: Path) -> None:
    views = {"rig": {"count": 2, "size": 16}, "depth": True, "mask": True}
    uri = written(names({"chair": 2}), points={"count": 64, "colors": True}, views=views)
    found = gallery(uri, tmp_path)
    for tag, attributes in found.tags:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert not {"link", "iframe", "object", "embed", "base"} & ({t for t, a in found.tags if a.get("href") != "data:,"})
    text = (tmp_path / "gallery.html").read_text()
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://", text)
    assert "default-src 'none'" in text


def test_names_of_folders_and_messages_stay_text(written, tmp_path: Path) -> None:
    cls = HOSTILE.replace("/", "")
    uri = written(
        [f"{cls}/a", f"{cls}/b", f"{cls}/<b>torn", "chair/c"],
        {f"{cls}/<b>torn": ("unreadable", f"{HOSTILE} is no mesh")},
        {f"{cls}/a": ("flat",)},
        name=f"</title>{HOSTILE}",
        licence="</style><i>mine</i>",
    )
    found = gallery(uri, tmp_path)
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    assert len(found.all("script")) == 2
    assert not found.all("i", class_="mine")
    assert all(tag != "b" for tag, _ in found.tags)
    assert found.text.count(f"{HOSTILE} is no mesh") == 1
    assert {a["data-class"] for a in found.all("article")} == {cls, "chair"}
    assert "</style><i>mine</i>" in found.text
    text = card(uri)
    assert "<script" not in text.split("```yaml")[0]
    row = next(line for line in text.splitlines() if line.startswith("| &lt;script"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_failures_stand_by_reason_the_commonest_first(written, tmp_path: Path) -> None:
    failing = {f"chair/m{i}": ("empty", f"message {i}") for i in range(3)} | {"chair/m3": ("crashed", "message 3")}
    uri = written(names({"chair": 6}), failing)
    found = gallery(uri, tmp_path)
    text = re.sub(r"\s+", " ", found.text)
    places = [text.index(word) for word in ("empty 3", "message 0", "message 1", "message 2", "crashed 1", "message 3")]
    assert places == sorted(places)
    assert len(found.all("article")) == 2


def test_a_long_list_of_failures_is_cut_and_says_so(written, tmp_path: Path) -> None:
    failing = {f"chair/m{i}": ("empty", "faceless") for i in range(20)}
    found = gallery(written(names({"chair": 21}), failing), tmp_path)
    shown = found.text.count("faceless")
    assert shown < 20
    assert f"and {20 - shown} more" in found.text


@pytest.mark.parametrize("count", [0, 1])
def test_a_page_is_made_of_next_to_nothing(written, tmp_path: Path, count: int) -> None:
    meshes = ["chair/m0", "chair/m1"]
    uri = written(meshes, dict.fromkeys(meshes[count:], ("empty", "no face")), views={"rig": {"count": 1, "size": 8}})
    assert len(gallery(uri, tmp_path).all("article")) == count
    assert card(uri).startswith("# dataset")
    assert stats(uri)[-1]["samples"] == count


def test_a_page_of_meshes_below_a_name_that_is_not_utf_8_is_written(written, tmp_path: Path) -> None:
    uri = written(names({"a": 1}))
    info = json.loads(Path(uri, "dataset.json").read_text())
    info["recipe"]["source"]["path"] = os.fsdecode(b"/meshes/\xff")
    Path(uri, "dataset.json").write_text(json.dumps(info))
    assert "/meshes/?" in gallery(uri, tmp_path).text


def test_a_dataset_that_is_not_there_is_said(tmp_path: Path) -> None:
    for make in (lambda uri: write_gallery(uri, tmp_path / "g.html"), card, stats):
        with pytest.raises(DatasetError, match="holds no dataset"):
            make(str(tmp_path / "nothing"))
    assert not (tmp_path / "g.html").exists()


@pytest.mark.parametrize("limit", [0, 1, 5, 9, 14, 100])
def test_the_choice_is_spread_over_classes_and_splits(written, limit: int) -> None:
    meshes = [*names({"a": 9, "b": 2, "c": 1}, "train/"), *names({"a": 5, "b": 3}, "test/")]
    dataset = Dataset.open(written(meshes, flags={"train/a/m7": ("flat",)}))
    chosen = choose(dataset, limit, 3)
    assert chosen == sorted(set(chosen)) == choose(dataset, limit, 3)
    assert len(chosen) == min(limit, len(meshes))
    found = Counter((str(dataset.classes[i]), str(dataset.splits[i])) for i in chosen)
    flagged = next(i for i, key in enumerate(dataset.keys) if dataset.table["flags"][i].as_py())
    assert not limit or flagged in chosen
    if limit >= 6:
        assert len(found) == 5
    # no group has two more than another that still had samples to give; the flagged one came beside the turns
    sizes = {("a", "train"): 9, ("b", "train"): 2, ("c", "train"): 1, ("a", "test"): 5, ("b", "test"): 3}
    if limit <= 14:
        open_groups = [found[name] for name in sizes if found[name] < sizes[name]]
        assert max(found.values(), default=0) - min(open_groups, default=0) <= 2


def test_a_cloud_survives_its_packing() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (2000, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (2000, 3), dtype=np.uint8)
    parts = np.arange(-1, 1999).astype(np.int16) % 7 - 1
    packed = page.cloud(points, colors, None, parts.astype(np.int16), most=500, seed=1)
    back = np.frombuffer(base64.b64decode(packed.points), np.int8).reshape(-1, 3) / 127
    tint = np.frombuffer(base64.b64decode(packed.colors), np.uint8).reshape(-1, 3)
    part = np.frombuffer(base64.b64decode(packed.parts), np.uint8)
    assert packed.count == len(back) == len(tint) == len(part) == 500
    assert packed.normals == ""
    nearest = np.abs(back[:, None] - points[None]).max(axis=2).argmin(axis=1)
    assert np.abs(back - points[nearest]).max() <= 0.5 / 127 + 1e-6
    assert len(set(nearest.tolist())) == 500
    assert (tint == colors[nearest]).all()
    assert (part == np.where(parts[nearest] < 0, 255, parts[nearest])).all()


def test_a_thumbnail_keeps_the_picture() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (32, 64, 3)).copy()
    image = Image.open(io.BytesIO(base64.b64decode(page.thumbnail(ramp, 32).split(",")[1])))
    assert image.size == (32, 16)
    across = np.asarray(image.convert("L"), float).mean(axis=0)
    assert np.abs(across - np.linspace(2, 253, 32)).max() < 8
    depth = np.zeros((8, 8, 1), np.uint16)
    depth[2:4], depth[4:6] = 8000, 12000
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.thumbnail(depth).split(",")[1]))).convert("L"), float)
    assert grey[2:4].mean() > grey[4:6].mean() + 50 > grey[:2].mean() + 100


def test_stored_cameras_go_into_the_page_as_they_are(written, tmp_path: Path) -> None:
    uri = written(["chair/a"], views={"rig": {"count": 3, "size": 16}})
    dataset = Dataset.open(uri)
    rig = dataset.load(0, ["json"])["json"]["cameras"]
    buttons = [a for a in gallery(uri, tmp_path).all("button") if a.get("data-camera")]
    for number, button in enumerate(buttons):
        values = [float(value) for value in (button["data-camera"] or "").split(",")]
        assert np.allclose(np.array(values[:12]).reshape(3, 4), np.array(rig["world_to_camera"][number])[:3], atol=1e-4)
        assert values[12] == pytest.approx(rig["K"][number][0][0] / 16, abs=1e-4)
    assert len(buttons) == 3


def test_the_page_stays_small(written, tmp_path: Path) -> None:
    uri = written(names({"noise": 8}), points={"count": 4096, "colors": True}, views={"rig": {"count": 24, "size": 64}, "mask": True})
    before = len(gallery(uri, tmp_path, limit=1).all("img"))
    limited = page.load_pair(Dataset.open(uri), 0, bytes_allowed=60_000)
    taken = len(limited.cloud.points + limited.cloud.colors) + sum(len(v.color + v.depth + v.mask) for v in limited.views)
    assert taken <= 60_000
    assert 1 <= len(limited.views) < 12
    assert before > len(limited.views)
    assert (tmp_path / "gallery.html").stat().st_size < 1_500_000


def test_the_table_counts_what_the_tars_hold(written) -> None:
    meshes = [*names({"a": 3, "b": 2}, "train/"), *names({"a": 2}, "test/")]
    views = {"rig": {"count": 3, "size": 8}, "mask": True}
    uri = written(meshes, {"train/b/m0": ("empty", "no face")}, {"test/a/m0": ("flat",)}, views=views)
    rows = {row["split"]: row for row in stats(uri)}
    for split in ("train", "test"):
        members: list[tarfile.TarInfo] = []
        for path in Path(uri, "shards").glob(f"{split}-*.tar"):
            with tarfile.open(path) as tar:
                members += tar.getmembers()
        assert rows[split]["members"] == len(members)
        assert rows[split]["bytes"] == sum(member.size for member in members)
        assert rows[split]["views"] == sum(bool(re.search(r"\.v\d\d\.png$", member.name)) for member in members)
        assert rows[split]["masks"] == rows[split]["views"]
        assert rows[split]["samples"] == len({member.name.split(".")[0] for member in members})
    assert (rows["train"]["failed"], rows["test"]["flagged"], rows["train"]["classes"]) == (1, 1, 2)
    assert all(rows["all"][n] == rows["train"][n] + rows["test"][n] for n in rows["all"] if n not in ("split", "classes"))
    assert "depths" not in rows["all"]


def test_the_card_tells_counts_licences_and_fingerprint(written) -> None:
    uri = written([*names({"a": 3}, "train/"), *names({"a": 2}, "test/")], {"train/a/m0": ("empty", "no face")}, licence="CC0-1.0", seed=7)
    text = card(uri)
    assert Dataset.open(uri).fingerprint in text
    assert "| a | 2 | 2 | 4 |" in text
    assert "| CC0-1.0 | 4 |" in text
    assert "| empty | 1 |" in text
    assert "seed: 7" in text
    info = json.loads(Path(uri, "dataset.json").read_text())
    assert all(str(words) in text for words in info["conventions"].values())


def test_the_program_on_the_card_reads_the_dataset(written) -> None:
    uri = written(names({"a": 2}))
    program = card(uri).split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", program], cwd=uri, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    assert sorted(line.split()[0] for line in lines if line) == sorted(Dataset.open(uri).keys)
    assert "(64, 3) (16, 16)" in lines[0]


# ---- clips -----------------------------------------------------------------------------------------------------------

CREATURES = {"kind": "creatures", "kinds": ["bird"], "actions": ["walk", "fly"], "per_kind": 2, "test_fraction": 0.5}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two creatures in sequences of two to three actions, 12 frames of 24², 96 points with parts."""
    clips = {"frames": 12, "fps": 6, "camera": {"size": 24, "orbit_deg": 90.0}}
    source = CREATURES | {"sequences": 1, "joined": [2, 3]}
    recipe = Recipe.model_validate({"source": source, "points": {"count": 96, "parts": True}, "clips": clips})
    to = str(tmp_path_factory.mktemp("filmed") / "data")
    generate(recipe, to, workers=0, progress=False, isolate=False)
    return to


def test_a_clip_shows_points_and_frames_of_the_same_instants(filmed: str, tmp_path: Path) -> None:
    dataset = Dataset.open(filmed)
    sample = dataset.load(0, ["json", "clip.npy", "parts.npy", "actions.npy", *(f"f{t:03d}.png" for t in range(12))])
    shown = clips.load_clip(dataset, 0)
    assert shown.reel.times_s == pytest.approx(sample["json"]["clip"]["times_s"], abs=1e-3)
    assert shown.reel.interval_ms == 167
    points = np.frombuffer(base64.b64decode(shown.cloud.points), np.int8).reshape(12, 96, 3) / 127
    assert np.abs(points - sample["clip.npy"]).max() <= 0.5 / 127 + 1e-6
    numbers = np.frombuffer(base64.b64decode(shown.cloud.parts), np.uint8).reshape(12, 96)
    assert (numbers == sample["parts.npy"]).all()
    assert shown.film is not None
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.film.sheet.split(",")[1]))).convert("RGB"), float)
    for t in range(12):
        row, column = divmod(t, shown.film.columns)
        tile = sheet[row * 24 : row * 24 + 24, column * 24 : column * 24 + 24]
        nearest = min(range(12), key=lambda other: np.abs(tile - sample[f"f{other:03d}.png"][..., :3]).mean())
        assert nearest == t
    rig = sample["json"]["cameras"]["world_to_camera"]
    assert np.allclose(np.array(shown.film.cameras)[:, :12].reshape(12, 3, 4), np.array(rig)[:, :3], atol=1e-4)
    names = [sample["json"]["action_names"][number] for number in sample["actions.npy"]]
    told = [next(name for first, name in reversed(shown.reel.runs) if first <= t) for t in range(12)]
    assert told == names
    assert sum(share for _, _, share in shown.reel.bars) == pytest.approx(1)


def test_a_page_of_clips_plays_them_and_needs_nothing_from_outside(filmed: str, tmp_path: Path) -> None:
    found = gallery(filmed, tmp_path)
    text = (tmp_path / "gallery.html").read_text()
    assert len(found.all("article", class_="clip")) == len(found.all("input", type="range")) == len(found.all("canvas", class_="film")) == 2
    assert {a["data-frames"] for a in found.all("canvas", class_="orbit")} == {"12"}
    assert {a["max"] for a in found.all("input", type="range")} == {"11"}
    assert all(json.loads(a["data-runs"] or "") for a in found.all("div", class_="reel"))
    assert "prefers-reduced-motion" in text
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://", text)
    again = tmp_path / "again"
    again.mkdir()
    gallery(filmed, again)
    assert (again / "gallery.html").read_bytes() == (tmp_path / "gallery.html").read_bytes()
    assert ("Clips", "12 frames, 6 a second") in essentials(Dataset.open(filmed).info)


def test_names_of_actions_stay_text() -> None:
    reel = clips.reel_of([0, 1, 2], [0, 1, 2], np.array([0, 0, 1], np.int16), [HOSTILE, "walk"])
    player = page.environment().from_string('{% from "clip.html.j2" import player %}{% call player(r, r.runs[0][1]) %}{% endcall %}')
    found = Page(player.render(r=reel))
    assert {tag for tag, _ in found.tags} == {"div", "button", "input", "i", "output"}
    assert json.loads(found.all("div", class_="reel")[0]["data-runs"] or "") == [[0, HOSTILE], [2, "walk"]]
    assert [a["title"] for a in found.all("i")] == [HOSTILE, "walk"]
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]


def test_points_that_only_fill_up_or_lie_far_out_are_not_shown() -> None:
    points = np.zeros((3, 8, 3), np.float32)
    points[..., 0] = np.arange(8) / 10
    points[2, 0] = 3.0
    valid = np.ones((3, 8), bool)
    valid[0, 2:] = False
    valid[1] = False
    packed = clouds.moving_cloud(points, None, valid)
    back = np.frombuffer(base64.b64decode(packed.points), np.int8).reshape(3, -1, 3)
    shown = [sorted((frame[frame[:, 0] != clouds.HIDDEN, 0] / 12.7).round().astype(int).tolist()) for frame in back]
    assert shown == [[0, 1], [], [1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("up", ["y", "z", "-y"])
def test_what_is_up_in_a_recording_is_up_on_the_page(up: str) -> None:
    axis, sign = {"y": (1, 1), "z": (2, 1), "-y": (1, -1)}[up]
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 50, 3)).astype(np.float32) * 2 + 7
    shown = clips.upright(points, None, up)
    assert np.corrcoef(shown[..., 1].ravel(), sign * points[..., axis].ravel())[0, 1] > 0.999
    assert np.linalg.norm(shown, axis=-1).mean() < 1
    before, after = (one.reshape(-1, 3).astype(float) for one in (points, shown))
    assert np.linalg.det(np.linalg.lstsq(before - before.mean(0), after - after.mean(0), rcond=None)[0]) > 0  # turned, not mirrored


def test_a_drive_is_shown_newest_first_and_its_missing_frames_as_the_ones_they_repeat(tmp_path: Path) -> None:
    for number in (3, 4, 6):
        write_synthia(tmp_path / "in/SYNTHIA-SEQS-01-DAWN", number, points=40)
    source = {"kind": "recording", "format": "synthia4d", "path": tmp_path / "in"}
    uri = str(tmp_path / "data")
    generate(Recipe.model_validate({"source": source, "points": {"count": 40}}), uri, progress=False, isolate=False)
    dataset = Dataset.open(uri)
    words = []
    for index in range(3):
        shown = clips.load_clip(dataset, index)
        points = np.frombuffer(base64.b64decode(shown.cloud.points), np.int8).reshape(3, -1, 3)
        assert (points[..., 0] != clouds.HIDDEN).any(axis=1).all()
        pictures, _ = animation.side_by_side(dataset, index)
        assert all(len(np.unique(picture)) > 1 for picture in pictures)
        words.append(shown.words)
    assert words == [
        "3 frames at 5 a second, newest first, 2 without points of their own, 40 points each",
        *["3 frames at 5 a second, newest first, 1 without points of its own, 40 points each"] * 2,
    ]
    assert ("Clips", "three frames of a drive each, newest first") in essentials(dataset.info)


def test_a_radars_clip_says_how_many_points_it_has_before_they_fill_up(tmp_path: Path) -> None:
    write_mhomeges(tmp_path / "in", people=("804",), gestures=("clap",))
    uri = str(tmp_path / "data")
    source = {"kind": "recording", "format": "mhomeges", "path": tmp_path / "in"}
    generate(Recipe.model_validate({"source": source, "points": {"count": 64}}), uri, progress=False, isolate=False)
    found = {clips.load_clip(Dataset.open(uri), index).words for index in range(2)}
    assert found == {f"804, {frames} frames at 10 a second, 3 points in the median, filled up to 64" for frames in (5, 6)}
    assert ("Held out", "every fourth person; there is no official split") in essentials(Dataset.open(uri).info)


def test_recordings_have_the_axes_of_their_format_and_what_is_filmed_has_y_up() -> None:
    found = {name: clips.recorded_up({"kind": "recording", "format": name}) for name in FORMATS}
    assert {name for name, up in found.items() if up == "z"} == {"radhar", "mhomeges"}
    assert {up for name, up in found.items() if name not in ("radhar", "mhomeges")} == {"-y"}  # camera axes
    assert clips.recorded_up({"kind": "creatures"}) == "y"


def test_long_clips_are_thinned_in_time_and_kept_small() -> None:
    assert clips.shown_frames(24, 12) == list(range(24))
    for length, fps in ((96, 12.0), (600, 30.0), (5000, 7.5), (1, 1.0)):
        shown = clips.shown_frames(length, fps)
        steps = set(np.diff(shown).tolist())
        assert 1 <= len(shown) <= clips.FRAMES
        assert len(steps) <= 1
        assert fps / max(steps, default=1) >= 5 or max(steps, default=1) == 1


def test_an_animated_picture_shows_the_points_where_the_frame_shows_the_body(filmed: str) -> None:
    dataset = Dataset.open(filmed)
    pictures, interval_ms = animation.side_by_side(dataset, 0, side=24)
    assert [picture.shape for picture in pictures] == [(24, 48, 3)] * 12
    for picture in pictures[::4]:
        left, right = picture[:, :24].astype(int), picture[:, 24:].astype(int)
        drawn, body = (np.abs(half - half[0, 0]).sum(axis=2) > 40 for half in (left, right))
        assert (drawn & ~_grown(body)).sum() <= 0.05 * drawn.sum()
        assert drawn.sum() > 0.4 * body.sum()
    content = animation.webp(pictures, interval_ms)
    assert content == animation.webp(pictures, interval_ms)
    image = Image.open(io.BytesIO(content))
    assert (image.n_frames, image.info["loop"]) == (12, 0)  # type: ignore[attr-defined]


def _grown(mask: np.ndarray) -> np.ndarray:
    wide = np.pad(mask, 1)
    return np.any([wide[y : y + len(mask), x : x + len(mask)] for y in range(3) for x in range(3)], axis=0)


def test_card_and_table_of_clips_tell_frames_and_points(filmed: str) -> None:
    rows = stats(filmed)
    assert (rows[-1]["frames"], rows[-1]["points"], rows[-1]["views"]) == (24, 2 * 12 * 96, 0)
    text = card(filmed)
    assert "2 point-cloud videos, each with an image video" in text
    assert "| Clips | 12 frames, 6 a second |" in text
    program = text.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", program], cwd=filmed, capture_output=True, text=True, check=True)
    assert done.stdout.count("(12, 96, 3)") == 2


@pytest.mark.parametrize(
    ("source", "turn", "words"),
    [
        ({"kind": "shapes"}, 0.0, "turning by 360°,"),
        ({"kind": "shapes"}, [0.0, 0.0], "turning by 360°,"),
        ({"kind": "shapes"}, 90.0, "turning by 90°"),
        (CREATURES, 0.0, "standing still"),
        (CREATURES, [0.0, 0.0], "standing still"),
        (CREATURES, [30.0, 30.0], "turning by 30°,"),
        (CREATURES, [0.0, 90.0], "turning by 0° to 90°"),
    ],
)
def test_the_camera_of_a_clip_is_told_as_it_moves(source: dict[str, Any], turn: Any, words: str) -> None:
    recipe = Recipe.model_validate({"source": source, "clips": {"camera": {"orbit_deg": turn}}})
    info = {"recipe": recipe.model_dump(mode="json"), "renderer": "raster", "plan": {"left_out": {}}}
    assert f", {words}" in dict(essentials(info))["Camera"]
