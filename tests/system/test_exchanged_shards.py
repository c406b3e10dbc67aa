"""Files of a store that were exchanged for others of the same size, each intact: no read of any
kind gives pixels or labels of another sample.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from object_server import ObjectServer
from tiny_store import PER_SHARD, change_index, without_checksums, write_store

from eo_jax.data import Store, open_store
from eo_jax.data.source import Draw, Source, SourceConfig
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.zarr_shards import FORMATS as ZARR_FORMATS
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

pytest_plugins = ["served"]

SAMPLES, SIDE = 50, 4
CROP = slice(1, 4)
BANDS = tuple(band.name for band in (ENMAP.bands[0], ENMAP.bands[-1]))  # of two chunks
every_format = pytest.mark.parametrize("format", FORMATS)
every_zarr_format = pytest.mark.parametrize("format", ZARR_FORMATS)


def samples(seed: int) -> list[Sample]:
    """Noise, which no codec makes smaller: all shards have the same size."""
    rng = np.random.default_rng(seed)
    return [
        Sample(
            rng.integers(-(2**15), 2**15, (len(ENMAP.bands), SIDE, SIDE), np.int16),
            ENMAP.id,
            f"s{number:02d}",
            f"g{number:02d}",
            labels={"cover": rng.integers(0, 256, (SIDE, SIDE), np.uint8)},
        )
        for number in range(SAMPLES)
    ]


ABOUT = {"labels": {"cover": {"dtype": "uint8", "shape": "map", "values": None}}}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("intact")
    return {
        format: write_store(folder / format, samples(0), about=ABOUT, format=format)
        for format in FORMATS
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Another conversion: equal ids, other pixels and labels."""
    folder = tmp_path_factory.mktemp("others")
    return {
        format: write_store(folder / format, samples(1), about=ABOUT, format=format)
        for format in FORMATS
    }


def exchange(files: list[Path]) -> None:
    """Exchanges the first file with the second, the third with the fourth and so on."""
    assert len(files) == SAMPLES // PER_SHARD
    for one, other in zip(files[::2], files[1::2], strict=True):
        first, second = one.read_bytes(), other.read_bytes()
        assert len(first) == len(second) and first != second
        replace(one, second)
        replace(other, first)


def replace(file: Path, data: bytes) -> None:
    """By rename, as tools that copy do: a mapped file stays as it was."""
    temporary = file.with_name("temporary")
    temporary.write_bytes(data)
    os.replace(temporary, file)


def record_shards(path: Path) -> list[Path]:
    return sorted((path / "shards").iterdir())


def pixel_shards(path: Path) -> list[Path]:
    return sorted(path.glob("pixels/*/c/*/0/0/0"), key=lambda file: int(file.parts[-4]))


def copy(store: Path, folder: Path) -> Path:
    return Path(shutil.copytree(store, folder / "store"))


# ------------------------------------------------------------------------------------------ reading


def whole(store: Store, i: int) -> np.ndarray:
    return store[i].pixels


def some_bands(store: Store, i: int) -> np.ndarray:
    return store.pixels(i, [0, -1])


def one_band(store: Store, i: int) -> np.ndarray:
    return store.pixels(i, [100], CROP, CROP)


def crop_into(store: Store, i: int) -> np.ndarray:
    out = np.empty((len(ENMAP.bands), SIDE - 1, SIDE - 1), np.int16)
    store.read_into(i, out, CROP, CROP)
    return out


def of_another_dtype(store: Store, i: int) -> np.ndarray:
    out = np.empty((len(ENMAP.bands), SIDE, SIDE), np.float32)
    store.read_into(i, out)
    return out


def through_the_loader(store: Store, i: int, **settings: object) -> np.ndarray:
    source = Source("enmap", SourceConfig(str(store.path), ENMAP.id, **settings), SIDE)
    batch = source.new_batch(np.empty(source.pixels_shape(1), np.int16))
    source.decode_into(batch, 0, 0, Draw(np.array([i]), 0, 0, i))
    return batch["pixels"]


def loader_with_some_bands(store: Store, i: int) -> np.ndarray:
    return through_the_loader(store, i, bands=BANDS)


def loader_from_memory(store: Store, i: int) -> np.ndarray:
    return through_the_loader(store, i, cache="memory")


def labels(store: Store, i: int) -> np.ndarray:
    return store.labels(i)["cover"]


def labels_of_the_loader(store: Store, i: int) -> np.ndarray:
    return through_the_loader(store, i, label="cover")


PIXELS = [whole, some_bands, one_band, crop_into, of_another_dtype, through_the_loader,
          loader_with_some_bands, loader_from_memory]  # fmt: skip
LABELS = [labels, labels_of_the_loader]
Read = Callable[[Store, int], np.ndarray]


def silent(path: Path, reads: list[Read]) -> Iterator[tuple[str, int]]:
    """Reads that give something, of all samples; the others say which file is of another."""
    store = open_store(path)
    for read in reads:
        for i in range(SAMPLES):
            try:
                read(store, i)
            except RecordError as error:
                assert f"(id s{i:02d})" in str(error) and "copy it again" in str(error)
                assert str(path) in str(error)
            else:
                yield read.__name__, i


def assert_as_before(path: Path, intact: Path, reads: list[Read]) -> None:
    found, expected = open_store(path), open_store(intact)
    for read in reads:
        for i in range(SAMPLES):
            np.testing.assert_array_equal(read(found, i), read(expected, i))


# ------------------------------------------------------------------------------------------ records


def test_exchanged_record_shards(intact: dict[str, Path], tmp_path: Path):
    path = copy(intact["array-record"], tmp_path)
    exchange(record_shards(path))
    assert list(silent(path, PIXELS + LABELS)) == []


@every_zarr_format
def test_exchanged_label_shards(intact: dict[str, Path], tmp_path: Path, format: str):
    path = copy(intact[format], tmp_path)
    exchange(record_shards(path))
    assert list(silent(path, [whole, *LABELS])) == []
    assert_as_before(path, intact[format], [some_bands, crop_into])


def test_exchanged_record_shards_of_an_index_without_checksums(
    intact: dict[str, Path], tmp_path: Path
):
    """Ids are compared as well."""
    path = copy(intact["array-record"], tmp_path)
    change_index(path, without_checksums)
    exchange(record_shards(path))
    assert list(silent(path, PIXELS + LABELS)) == []


# ------------------------------------------------------------------------------------------- pixels


@every_zarr_format
def test_exchanged_pixel_shards(intact: dict[str, Path], tmp_path: Path, format: str):
    path = copy(intact[format], tmp_path)
    exchange(pixel_shards(path))
    assert list(silent(path, [*PIXELS, labels_of_the_loader])) == []
    assert_as_before(path, intact[format], [labels])


@every_zarr_format
def test_pixel_shards_that_are_exchanged_after_the_first_read(
    intact: dict[str, Path], tmp_path: Path, format: str
):
    """Then pixels come from a memory map, and checksums are no longer computed."""
    path = copy(intact[format], tmp_path)
    store = open_store(path)
    for i in range(SAMPLES):
        crop_into(store, i)
    exchange(pixel_shards(path))
    for i in range(SAMPLES):
        with pytest.raises(RecordError, match=rf"\(id s{i:02d}\).*copy it again"):
            crop_into(store, i)


# ------------------------------------------------------------------------- shards of another store


@every_format
def test_shards_of_another_conversion(
    intact: dict[str, Path], others: dict[str, Path], tmp_path: Path, format: str
):
    """A half-finished copy leaves them, with ids that are right."""
    path = copy(intact[format], tmp_path)
    for file in [*record_shards(others[format]), *pixel_shards(others[format])]:
        target = path / file.relative_to(others[format])
        assert target.stat().st_size == file.stat().st_size
        replace(target, file.read_bytes())
    assert list(silent(path, PIXELS + LABELS)) == []


@every_format
def test_manifest_and_index_of_another_conversion_are_refused_or_found(
    intact: dict[str, Path], others: dict[str, Path], tmp_path: Path, format: str
):
    path = copy(intact[format], tmp_path)
    shutil.copy(others[format] / "index.npz", path / "index.npz")
    with pytest.raises(ValueError, match=r"index\.npz: damaged"):
        open_store(path)
    shutil.copy(others[format] / "manifest.json", path / "manifest.json")
    assert list(silent(path, PIXELS + LABELS)) == []


@every_format
def test_a_store_over_the_network(
    intact: dict[str, Path],
    tmp_path: Path,
    cache: Path,
    slept: list[float],
    format: str,
):
    path = copy(intact[format], tmp_path / "bucket")
    exchange(pixel_shards(path) if "zarr" in format else record_shards(path))
    with ObjectServer(tmp_path) as server:
        store = open_store(f"{server.url}/bucket/store")
        for read in (some_bands, crop_into, whole, through_the_loader):
            for i in range(0, SAMPLES, PER_SHARD + 1):
                with pytest.raises(RecordError, match=r"copy it again|SHA-256 is not the manifest"):
                    read(store, i)


# -------------------------------------------------------------------------------------- the columns


@every_format
def test_an_index_of_an_older_version_is_read(intact: dict[str, Path], tmp_path: Path, format: str):
    path = copy(intact[format], tmp_path)
    change_index(path, without_checksums)
    assert "record_crc32c" not in open_store(path).index
    assert_as_before(path, intact[format], [whole, one_band, crop_into, labels])


@every_format
def test_checksums_are_in_the_index_once_per_record_and_chunk(intact: dict[str, Path], format: str):
    index = open_store(intact[format]).index
    assert (index["record_crc32c"].dtype, index["record_crc32c"].shape) == (np.uint32, (SAMPLES,))
    chunks = {"zarr": 7, "zarr-raw": 1}.get(format)
    assert ("chunk_crc32c" in index) == (chunks is not None)
    if chunks:
        assert index["chunk_crc32c"].shape == (SAMPLES, chunks)
        assert len(set(index["chunk_crc32c"].ravel().tolist())) == SAMPLES * chunks
