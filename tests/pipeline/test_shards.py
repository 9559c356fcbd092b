import errno
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import manifest
from pipeline.manifest import ManifestError, Row
from pipeline.shards import ShardRecord, ShardWriter
from pipeline.storage import StorageError, Store

SAMPLES = {"b-2": {"json": b"{}", "v00.png": b"x" * 700, "points.npy": b""}, "a_1": {"json": b"[]", "v00.png": b"y" * 512}}


def publish(store: Store, reverse: bool = False) -> ShardRecord:
    writer = ShardWriter("train-000000")
    for key, members in SAMPLES.items():
        writer.add(key, dict(reversed(members.items())) if reverse else members)
    return writer.publish(store)


def test_same_samples_give_the_same_bytes_in_any_order_of_members(tmp_path: Path) -> None:
    one, two = publish(Store(tmp_path / "one")), publish(Store(tmp_path / "two"), reverse=True)
    assert one == two
    assert (tmp_path / "one/shards/train-000000.tar").read_bytes() == (tmp_path / "two/shards/train-000000.tar").read_bytes()


def test_tar_reads_plain_members_without_time_or_owner(tmp_path: Path) -> None:
    record = publish(Store(tmp_path))
    path = tmp_path / "shards/train-000000.tar"
    assert path.stat().st_size == record.size
    with tarfile.open(path) as tar:
        found = tar.getmembers()
        assert [member.name for member in found] == ["b-2.json", "b-2.points.npy", "b-2.v00.png", "a_1.json", "a_1.v00.png"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type, bool(m.pax_headers)) for m in found} == {
            (0, 0, 0, "", "", 0o644, tarfile.REGTYPE, False)
        }
        for key, members in SAMPLES.items():
            for name, data in members.items():
                extracted = tar.extractfile(f"{key}.{name}")
                assert extracted is not None
                assert extracted.read() == data
    assert subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True).stdout.count("\n") == 5


def test_the_record_tells_where_each_member_lies(tmp_path: Path) -> None:
    record = publish(Store(tmp_path))
    data = (tmp_path / "shards/train-000000.tar").read_bytes()
    for key, members in SAMPLES.items():
        assert {m.name: data[m.offset : m.offset + m.size] for m in record.members[key]} == members


@pytest.mark.parametrize("key", ["", "A", "a.b", "a b", "é", "a/b"])
def test_keys_that_a_reader_would_split_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"is no key"):
        ShardWriter("s").add(key, {"json": b""})


def test_a_key_twice_is_refused() -> None:
    writer = ShardWriter("s")
    writer.add("a", {"json": b""})
    with pytest.raises(ValueError, match=r"is no key"):
        writer.add("a", {"json": b""})


@pytest.mark.parametrize("name", ["", "V.png", "x/y.png", ".png", "a" * 100])
def test_names_that_a_reader_would_change_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no name"):
        ShardWriter("s").add("key", {name: b""})


def test_a_shard_without_samples_is_no_file(tmp_path: Path) -> None:
    record = ShardWriter("train-000000").publish(Store(tmp_path))
    assert (record.size, record.sha256) == (0, "")
    assert list(tmp_path.rglob("*")) == []


def rows() -> list[Row]:
    return [
        Row("a_1", "cat", "train", "a/1.off", "CC0", "00", "", "", ("flat", "view_sparse"), "11"),
        Row("bad", "dog", "train", "a/2.off", "", "22", "empty", "It is empty.", (), ""),
        Row("b-2", "dog", "train", "a/3.off", "", "33", "", "", (), "44"),
    ]


def test_a_manifest_says_what_became_of_each_asset(tmp_path: Path) -> None:
    record = publish(Store(tmp_path))
    data = manifest.encode(record, rows(), "plan")
    assert data == manifest.encode(record, rows(), "plan")
    plain = pq.read_table(io.BytesIO(data)).to_pylist()
    assert [(row["key"], row["status"], row["reason"], row["flags"]) for row in plain] == [
        ("a_1", "ok", "", ["flat", "view_sparse"]),
        ("bad", "failed", "empty", []),
        ("b-2", "ok", "", []),
    ]
    assert [[member["name"] for member in row["members"]] for row in plain] == [["json", "v00.png"], [], ["json", "points.npy", "v00.png"]]
    found = manifest.decode(data, "x")
    assert (found.shard, found.size, found.shard_sha256, found.plan) == (record.name, record.size, record.sha256, "plan")


@pytest.mark.parametrize("cut", [0, 10, 500, -4])
def test_a_damaged_manifest_is_named(tmp_path: Path, cut: int) -> None:
    data = manifest.encode(publish(Store(tmp_path)), rows(), "plan")
    with pytest.raises(ManifestError, match=r"^x.parquet is no manifest .*; remove it and generate again\.$"):
        manifest.decode(data[:cut], "x.parquet")


def test_the_fingerprint_depends_on_every_manifest_and_on_no_order(tmp_path: Path) -> None:
    record = publish(Store(tmp_path))
    one = manifest.decode(manifest.encode(record, rows(), "plan"), "x")
    other = manifest.decode(manifest.encode(ShardRecord("test-000000", 0, "", {}), rows()[1:2], "plan"), "x")
    assert manifest.fingerprint([one, other]) == manifest.fingerprint([other, one])
    assert len({manifest.fingerprint(found) for found in ([one], [other], [one, other], [])}) == 4


def test_a_write_is_whole_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a/b", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match=r"There is no space left to write .*/a/b; free some"):
        store.write("a/b", b"new and longer")
    monkeypatch.undo()
    assert store.read("a/b") == b"old"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_killed_writer_leaves_only_what_the_next_one_removes(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pipeline.storage import Store\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\nStore(sys.argv[1]).write('a/b', b'new')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    store = Store(tmp_path)
    assert store.files("a") == {}
    assert len(os.listdir(tmp_path / "a")) == 1
    assert store.remove_temporaries(("a",)) == 1
    assert os.listdir(tmp_path / "a") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"may not be used"):
        Store(tmp_path / "x").write("a", b"")


def test_unknown_storage_is_one_sentence() -> None:
    with pytest.raises(StorageError, match=r"nosuch://a names storage that cannot be opened"):
        Store("nosuch://a")


def test_one_writer_holds_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipeline.storage import Store, StorageError\n"
        "try:\n    with Store(sys.argv[1]).exclusive(): print('in')\nexcept StorageError as error: print(error)"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout.strip()

    with Store(tmp_path).exclusive():
        assert other() == f"Another process is writing to {tmp_path}; wait for it, or give another folder."
    assert other() == "in"
