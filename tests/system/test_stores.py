"""Stores: missing, unfinished or damaged parts are refused; all processes read the same bytes."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from limits import no_hang
from tiny_store import PER_SHARD, change_manifest, write_store, write_tiny_store

from eo_jax.data import Store, open_store
from eo_jax.data.store import reader
from eo_jax.data.store.files import StoreError, sha256_file, write_atomically
from eo_jax.data.store.manifest import content_sha256
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.writer import write_shard
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

SHARD = "shards/00001.array_record"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests only read."""
    return write_tiny_store(tmp_path_factory.mktemp("stores") / "whole", size=8)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def read_all(store: Store) -> list[bytes]:
    return [store.read(i) for i in range(len(store))]


def small(number: int, **fields) -> Sample:
    return Sample(
        pixels=np.full((2, 1, 1), number, np.int16),
        sensor="enmap",
        id=f"{number}",
        group="g",
        **fields,
    )


# ----------------------------------------------------------------------------------------- sequence


def test_samples_come_back_in_the_order_they_were_written(whole: Path):
    store = open_store(whole)
    ids = [sample.id for sample in store]
    assert len(ids) == len(store) == 12 > PER_SHARD
    assert ids == sorted(ids) == store.index["id"].tolist()
    assert store.index["shard"].tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert store.index["row"].tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_index_says_what_the_samples_say(whole: Path):
    store = open_store(whole)
    for i, sample in enumerate(store):
        row = {column: values[i].tolist() for column, values in store.index.items()}
        assert (row["id"], row["group"], row["sensor"]) == (sample.id, sample.group, sample.sensor)
        assert (tuple(row["shape"]), row["dtype"]) == (
            sample.pixels.shape,
            sample.pixels.dtype.name,
        )
        assert (row["time"], tuple(row["lonlat"])) == (sample.time, sample.lonlat)


def test_index_of_absent_time_and_location(tmp_path: Path):
    index = open_store(
        write_store(tmp_path / "store", [small(0), small(1, time=0, lonlat=(0.0, 0.0))])
    ).index
    assert index["time"].tolist() == [np.iinfo(np.int64).min, 0]
    assert np.isnan(index["lonlat"]).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("number", [-1, -12, np.int64(-3)])
def test_negative_numbers_count_from_the_end(whole: Path, number: int):
    store = open_store(whole)
    assert store.read(number) == store.read(number + 12)
    assert store.record_name(number) == store.record_name(number + 12)


@pytest.mark.parametrize("number", [12, -13])
def test_numbers_beyond_the_store_are_index_errors(whole: Path, number: int):
    with pytest.raises(IndexError, match=f"sample {number} of 12"):
        open_store(whole)[number]


def test_a_store_that_does_not_say_its_format_holds_whole_records(path: Path):
    expected = read_all(open_store(path))
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["format"], manifest["tasks"]
    manifest["content_sha256"] = content_sha256(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert open_store(path).format == "array-record"
    assert read_all(open_store(path)) == expected
    assert open_store(path)[3].pixels.shape == (202, 8, 8)


def test_sensors_are_those_the_store_was_written_with(path: Path):
    """Also where the table of this eo_jax has another row of that id, or none."""
    own = dataclasses.replace(ENMAP, scale=0.5, title="My own")
    change_manifest(path, sensors={"enmap": own.row()})
    store = open_store(path)
    assert store.sensor("enmap") == store.sensor_of(-1) == own
    with pytest.raises(StoreError, match=r"manifest.json: no sensor 's1'; there is enmap"):
        store.sensor("s1")
    with pytest.raises(IndexError, match="sample 12 of 12"):
        store.sensor_of(12)


def test_a_sensor_row_that_is_none(path: Path):
    change_manifest(path, sensors={"enmap": {"id": "enmap"}})
    with pytest.raises(StoreError, match=r"manifest.json: .*sensors\..*convert the archive again"):
        open_store(path).sensor("enmap")


def test_an_empty_store_opens(tmp_path: Path):
    assert list(open_store(write_store(tmp_path / "store", []))) == []


# ------------------------------------------------------------------------------------------ opening


def assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(path)
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_no_such_store(tmp_path: Path):
    assert_refused(tmp_path / "nowhere", "no such store", "data_prep convert --help")


def test_unfinished_conversion(path: Path):
    (path / "manifest.json").unlink()
    assert_refused(path, "no manifest.json", "did not finish", "run the same convert command again")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"samples": 3}'])
def test_a_manifest_that_is_none(path: Path, text: str):
    (path / "manifest.json").write_text(text)
    assert_refused(path, "manifest.json: not a manifest", "convert the archive again")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"samples": 12', '"samples": 13'),
        ("landuse", "landcover"),
        ('"scale": 0.0001', '"scale": 0.001'),
    ],
)
def test_an_edited_manifest(path: Path, old: str, new: str):
    file = path / "manifest.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert_refused(path, "edited or damaged")


def test_a_manifest_of_another_format(path: Path):
    change_manifest(path, store_format=2)
    assert_refused(path, "store_format 2, this eo_jax reads 1")


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_damaged_index(path: Path, position: int):
    tiny_archives.flip(path / "index.npz", position)
    assert_refused(path, "index.npz", "damaged", "convert the archive again")


def test_an_index_damaged_in_any_column(path: Path):
    file = path / "index.npz"
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member.header_offset + 200 for member in archive.infolist()}
    assert {"group.npy", "group_code.npy", "kind_code.npy"} <= members.keys()
    for position in members.values():
        tiny_archives.flip(file, position)
        assert_refused(path, "index.npz", "damaged", "convert the archive again")
        tiny_archives.flip(file, position)
    open_store(path)


UNREADABLE = {
    "pipe": os.mkfifo,
    "loop of links": lambda file: file.symlink_to(file.name),
    "folder": os.mkdir,
    "link to a device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("name", ["manifest.json", "index.npz", SHARD, "pixels", "zarr.json"])
def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str, kind: str):
    path = write_store(
        tmp_path / "store", [small(number) for number in range(PER_SHARD + 1)], format="zarr"
    )
    array = path / "pixels/enmap-int16-2x1x1"
    file = {"pixels": array / "c/1/0/0/0", "zarr.json": array / "zarr.json"}.get(name, path / name)
    file.unlink()
    UNREADABLE[kind](file)
    with no_hang():
        assert_refused(path, str(file), "copy it again")


def test_an_empty_index_file(path: Path):
    (path / "index.npz").write_bytes(b"")
    assert_refused(path, "index.npz", "damaged", "convert the archive again")


def test_a_missing_index(path: Path):
    (path / "index.npz").unlink()
    assert_refused(path, "index.npz: is missing", "copy it again")


def test_an_index_of_another_store(path: Path, tmp_path: Path):
    other = write_tiny_store(tmp_path / "other", locations=2, size=8)
    shutil.copy(other / "index.npz", path / "index.npz")
    change_manifest(path, index_sha256=sha256_file(path / "index.npz"))
    assert_refused(path, "index has 3 rows, the shards 12 records")


def test_a_missing_shard(path: Path):
    (path / SHARD).unlink()
    assert_refused(path, SHARD, "is missing", "copy it again")


def test_a_truncated_shard(path: Path):
    size = (path / SHARD).stat().st_size
    os.truncate(path / SHARD, size - 1)
    assert_refused(
        path, SHARD, f"has {size - 1} bytes, the manifest says {size} bytes", "copy it again"
    )


def damage(path: Path, number: int) -> None:
    """Flips a bit in the middle of a record of SHARD."""
    data = open_store(path).read(number)
    tiny_archives.flip(path / SHARD, (path / SHARD).read_bytes().index(data) + len(data) // 2)


def test_a_flipped_bit_in_a_shard_is_found_when_its_record_is_read_and_named(path: Path):
    intact = read_all(open_store(path))
    damage(path, 7)
    store = open_store(path)
    with pytest.raises(RecordError) as error:
        store[7]
    for part in (
        f"{path}/{SHARD} record 2 (id {store.index['id'][7]})",
        f"data_prep verify {path}",
    ):
        assert part in str(error.value)
    assert [store.read(i) for i in range(12) if i != 7] == intact[:7] + intact[8:]


def test_a_damaged_record_does_not_end_iteration_early(path: Path):
    """An IndexError would: the sequence protocol treats it as the end."""
    damage(path, 7)
    with pytest.raises(RecordError):
        list(open_store(path))


def test_a_flipped_bit_anywhere_in_a_shard_never_gives_other_bytes(tmp_path: Path):
    path = write_store(tmp_path / "store", [small(0), small(1)])
    shard = path / "shards/00000.array_record"
    intact, data = read_all(open_store(path)), shard.read_bytes()
    errors = []
    for position in [p for p in range(len(data)) if data[p]][::5]:
        tiny_archives.flip(shard, position, position % 8)
        store = open_store(path)
        for i in range(2):
            try:
                assert store.read(i) == intact[i]
            except RecordError as error:
                assert store.record_name(i) in str(error)
                errors.append(position)
        tiny_archives.flip(shard, position, position % 8)
    assert len(set(errors)) > 50


def test_a_shard_that_could_not_be_opened_is_opened_again(path: Path):
    """A network disk may come back."""
    intact, away = read_all(open_store(path)), path / "away"
    store = open_store(path)
    (path / SHARD).rename(away)
    with pytest.raises(RecordError, match=f"{SHARD} record 0"):
        store.read(5)
    away.rename(path / SHARD)
    assert read_all(store) == intact


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are counted where Linux lists them"
)
def test_a_store_keeps_few_files_open(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 2)
    store, before = open_store(whole), len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert len(read_all(store)) == 12
    assert len(os.listdir("/proc/self/fd")) - before <= 2 < len(store.manifest["shards"])


# ------------------------------------------------------------------------------- processes, threads


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_the_same_bytes(whole: Path, method: str):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    store = open_store(whole)
    expected = read_all(store)  # opens readers, which the child must not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries in this process warn of their own threads
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(read_all, store).result(60) == expected
    assert read_all(store) == expected


def test_four_threads_read_the_same_bytes(whole: Path):
    expected = read_all(open_store(whole))
    store = open_store(whole)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.read, list(range(12)) * 20)) == expected * 20


def test_a_pickled_store_reads_the_same_bytes(whole: Path):
    store = open_store(whole)
    expected = read_all(store)
    assert read_all(pickle.loads(pickle.dumps(store))) == expected


def test_a_torch_loader_with_workers_can_wrap_a_store(whole: Path):
    torch = pytest.importorskip("torch")

    class Patches(torch.utils.data.Dataset):
        def __init__(self, path: Path):
            self.store = open_store(path)

        def __len__(self) -> int:
            return len(self.store)

        def __getitem__(self, i: int):
            sample = self.store[i]
            return torch.from_numpy(sample.pixels), sample.id

    dataset = Patches(whole)
    dataset[0]  # a reader is open before the workers fork
    loaded = list(torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2))
    assert [identity for _, ids in loaded for identity in ids] == [
        sample.id for sample in dataset.store
    ]
    np.testing.assert_array_equal(
        torch.cat([pixels for pixels, _ in loaded]).numpy(),
        np.stack([sample.pixels for sample in dataset.store]),
    )


# ------------------------------------------------------------------------------------------ writing


def test_equal_samples_give_equal_files(tmp_path: Path):
    one, two = (write_tiny_store(tmp_path / name, size=8) for name in ("one", "two"))
    assert tiny_archives.files(one) == tiny_archives.files(two)
    assert open_store(one).content_hash == open_store(two).content_hash


def test_the_content_hash_tells_stores_apart(tmp_path: Path, whole: Path):
    other = write_tiny_store(tmp_path / "other", size=8, seed=1)
    assert open_store(other).content_hash != open_store(whole).content_hash


def test_manifest_has_the_size_and_hash_of_every_shard(whole: Path):
    for shard in open_store(whole).manifest["shards"]:
        assert (whole / shard["file"]).stat().st_size == shard["bytes"]
        assert sha256_file(whole / shard["file"]) == shard["sha256"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "failure", [ValueError("bad tile"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
def test_a_shard_that_fails_leaves_nothing_behind(
    tmp_path: Path, failure: BaseException, format: str
):
    def samples():
        yield small(0)
        raise failure

    with pytest.raises(type(failure)):
        write_shard(tmp_path, 0, format, 2, samples())
    assert tiny_archives.files(tmp_path) == {}


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_that_fails_keeps_the_old_one(tmp_path: Path, format: str):
    write_shard(tmp_path, 0, format, 2, [small(0)])
    before = tiny_archives.files(tmp_path)
    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path, 0, format, 2, (small(1 // n) for n in (1, 0)))
    assert tiny_archives.files(tmp_path) == before


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_atomically(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device.*{tmp_path}/file"):
        write_atomically(tmp_path / "file", b"new")
    assert tiny_archives.files(tmp_path) == {"file": b"old"}
