"""SSL4EO-S12 v1.1: the same values as zarr-python, and protection from hostile files that zarr-
python lacks.
"""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from layouts import make_reader, read_all, read_item, reject, write
from layouts.ssl4eo_s12_v1_1 import BANDS, DATES, LOCATIONS, arrays, path_of, time_of, write_file

from data_prep.archive import ArchiveError
from data_prep.formats import zarr_zip
from data_prep.formats.zarr_zip import Source
from eo_jax.sensors import get_sensor

V1_1 = "ssl4eo-s12-v1.1"
NAME = "train/S2L2A/ssl4eos12_train_seasonal_data_000001.zarr.zip"


def source_of(path: Path) -> Source:
    return Source(path.name, path, path.stat().st_mtime_ns)


def zarr_python(path: Path, key: str) -> np.ndarray:
    with zarr.storage.ZipStore(path, mode="r") as store:
        return zarr.open_array(store, path=key, mode="r", zarr_format=2)[...]


def one_file(root: Path, **changes: Any) -> Path:
    """An archive of one Sentinel-2 L2A file; `changes` replace its arrays, or with None remove
    them.
    """
    path = path_of(root, "train", "S2L2A")
    found = {**arrays("S2L2A", LOCATIONS["train"]), **changes}
    write_file(path, {key: values for key, values in found.items() if values is not None})
    return path


def rewrite(path: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    """Changes members of a zip file."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    edit(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def edit_json(path: Path, member: str, **fields: Any) -> None:
    rewrite(
        path,
        lambda members: members.update(
            {member: json.dumps({**json.loads(members[member]), **fields}).encode()}
        ),
    )


# ------------------------------------------------------------------ the archive


def test_samples_are_what_zarr_python_reads(tmp_path: Path) -> None:
    write(V1_1, tmp_path)
    samples = {sample.id: sample for sample in read_all(V1_1, tmp_path)}
    assert len(samples) == sum(map(len, LOCATIONS.values())) * len(BANDS) * DATES
    for split, locations in LOCATIONS.items():
        for product in BANDS:
            pixels = zarr_python(path_of(tmp_path, split, product), "bands")
            for number, location in enumerate(locations):
                for date in range(DATES):
                    sample = samples[f"{split}/000001/{product}/{date}/{location}"]
                    np.testing.assert_array_equal(sample.pixels, pixels[number, date])
                    assert sample.pixels.dtype == pixels.dtype == get_sensor(sample.sensor).dtype
                    assert (sample.group, sample.time) == (location, time_of(number, date))
                    assert sample.product.endswith(f"{location}_{date}")


def test_cloud_masks_of_sentinel_2(tmp_path: Path) -> None:
    write(V1_1, tmp_path)
    masks = zarr_python(path_of(tmp_path, "val", "S2L1C"), "cloud_mask")
    samples = {sample.id: sample for sample in read_all(V1_1, tmp_path)}
    np.testing.assert_array_equal(
        samples["val/000001/S2L1C/2/0012333"].masks["cloud_mask"], masks[1, 2]
    )
    assert samples["val/000001/S1GRD/2/0012333"].masks == {}


def test_georeference_and_grid(tmp_path: Path) -> None:
    write(V1_1, tmp_path)
    sample = next(
        sample for sample in read_all(V1_1, tmp_path) if sample.id == "train/000001/S2L1C/0/0060573"
    )
    assert (sample.crs, sample.gsd_m, sample.lonlat) == ("EPSG:32751", 10.0, (119.0, 41.0))
    assert sample.affine == (
        10.0,
        0.0,
        715895.0,
        0.0,
        -10.0,
        4729005.0,
    )  # the centre of the first pixel is 715900, 4729000


def test_ssl4eo_s12_v1_1_carries_the_offset_of_1000(tmp_path: Path) -> None:
    """The same reflectance has a digital number 1000 higher in v1.1 than in v1.0, and the sensor
    rows account for it.
    """
    write(V1_1, tmp_path)
    sensors = {row.id for row in make_reader(V1_1, tmp_path).sensors}
    for v1_1, v1_0 in (
        ("sentinel2_l1c_offset", "sentinel2_l1c"),
        ("sentinel2_l2a_offset", "sentinel2_l2a"),
    ):
        new, old = get_sensor(v1_1), get_sensor(v1_0)
        digital = np.arange(0, 12000, 500)
        np.testing.assert_allclose(
            (digital[:, None] + 1000) * new.scales + new.offsets,
            digital[:, None] * old.scales + old.offsets,
            atol=1e-12,
        )
        assert v1_1 in sensors
        assert v1_0 not in sensors
    sample = next(sample for sample in read_all(V1_1, tmp_path, products=("S2L1C",)))
    assert sample.pixels.min() >= 1000  # kept as they are


def test_splits_and_products(tmp_path: Path) -> None:
    write(V1_1, tmp_path)
    splits = {item.group: item.split for item in make_reader(V1_1, tmp_path).items()}
    assert splits == {
        location: split for split, locations in LOCATIONS.items() for location in locations
    }
    (tmp_path / "splits" / "ssl4eos12_val.txt").unlink()
    reject(V1_1, tmp_path, "in no split list")
    (tmp_path / "splits" / "ssl4eos12_train.txt").unlink()
    assert splits == {
        item.group: item.split for item in make_reader(V1_1, tmp_path).items()
    }  # by folder
    assert {
        item.id.split("/")[2] for item in make_reader(V1_1, tmp_path, products=("S1GRD",)).items()
    } == {"S1GRD"}
    for path in (tmp_path / "val").rglob("*.zip"):
        path.unlink()
    for path in (tmp_path / "train" / "S1GRD").rglob("*.zip"):
        path.unlink()
    reject(V1_1, tmp_path, "S1GRD", "--products", products=("S1GRD",))


def test_products_must_hold_the_same_locations(tmp_path: Path) -> None:
    write(V1_1, tmp_path)
    write_file(
        path_of(tmp_path, "train", "S2L2A"), arrays("S2L2A", ("0080717", "0179869", "0060573"))
    )
    reject(V1_1, tmp_path, NAME, "same locations")


def test_without_names_locations_are_numbered(tmp_path: Path) -> None:
    one_file(
        tmp_path, sample=None, file_id=None, crs=None, center_lat=None, time_=None, cloud_mask=None
    )
    samples = read_all(V1_1, tmp_path)
    assert [sample.group for sample in samples[:3]] == [
        "train_000001_00",
        "train_000001_01",
        "train_000001_02",
    ]
    first = samples[0]
    assert (first.product, first.crs, first.affine, first.lonlat, first.time, first.masks) == (
        None,
        None,
        None,
        None,
        None,
        {},
    )


@pytest.mark.parametrize(
    ("values", "attributes", "expected"),
    [
        (1_600_000_000_000_000_000, {"units": "nanoseconds since 1970-01-01"}, 1_600_000_000),
        (18_000, {"units": "days since 1970-01-01 00:00:00"}, 18_000 * 86_400),
        (5, {"units": "minutes since 2020-02-29T12:00:00"}, 1_582_977_900),
        (np.iinfo(np.int64).min, {"units": "seconds since 1970-01-01"}, None),
        (np.datetime64("2020-06-04T05:46:39", "ns"), {}, 1_591_249_599),
        (np.datetime64("NaT", "ns"), {}, None),
    ],
)
def test_times(tmp_path: Path, values: Any, attributes: dict, expected: int | None) -> None:
    found = {**arrays("S2L2A", LOCATIONS["train"]), "time_": np.full((3, DATES), values)}
    write_file(path_of(tmp_path, "train", "S2L2A"), found, attributes)
    assert {sample.time for sample in read_all(V1_1, tmp_path)} == {expected}


@pytest.mark.parametrize(
    "units",
    [None, 5, "fortnights since 1970-01-01", "seconds since then", "seconds since 2020-13-45"],
)
def test_units_of_time_that_say_nothing(tmp_path: Path, units: Any) -> None:
    write_file(
        path_of(tmp_path, "train", "S2L2A"),
        arrays("S2L2A", LOCATIONS["train"]),
        {} if units is None else {"units": units},
    )
    reject(V1_1, tmp_path, f"{NAME}/time_", "units")


SWAPPED = np.array(["B02", "B01", *BANDS["S2L2A"][2:]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"band": SWAPPED}, ("/band", "B02, B01", "B01, B02", "in this order")),
        ({"band": None}, ("/band", "unknown")),
        ({"band": np.arange(12)}, ("/band", "unknown")),
        ({"bands": None}, ("no array `bands`",)),
        ({"bands": np.ones((3, DATES, 12, 8, 8), np.uint16)}, ("/bands", "uint16", "int16")),
        ({"bands": np.ones((3, DATES, 13, 8, 8), np.int16)}, ("/bands", "13", "12")),
        ({"crs": np.array([32651, 32751])}, ("/crs", "[2]", "[3]")),
        ({"crs": np.array([32651, 32751, 5])}, ("/crs", "is 5", "EPSG")),
        ({"cloud_mask": np.ones((3, DATES, 4, 8), np.uint8)}, ("/cloud_mask", "4, 8", "8, 8")),
        ({"center_lat": np.array([40.0, 95.0, 40.0])}, ("/center_lon", "95", "degrees")),
        ({"center_lon": np.array([40.0, np.nan, 40.0])}, ("/center_lon", "nan", "degrees")),
        ({"x_": np.tile(np.array([0.0, 10, 20, 35, 40, 50, 60, 70]), (3, 1))}, ("/x_", "unequal")),
        ({"time_": np.full((3, DATES), -(10**10))}, ("/time_", "1970")),
        ({"sample": np.array(["0000001", "../../x", "0000003"])}, ("/sample", "'../../x'")),
        ({"sample": np.array(["0000001", "0000001", "0000003"])}, ("same id",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    one_file(tmp_path, **changes)
    reject(V1_1, tmp_path, NAME, *words)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_nan_in_sentinel_1(tmp_path: Path, value: float) -> None:
    found = arrays("S1GRD", LOCATIONS["train"])
    found["bands"][1, 2, 0, 3, 4] = value
    write_file(path_of(tmp_path, "train", "S1GRD"), found)
    reject(V1_1, tmp_path, "S1GRD", "sample 1, date 2", "1 values", "--skip-bad")


def test_files_in_other_folders(tmp_path: Path) -> None:
    reject(V1_1, tmp_path, "no *.zarr.zip")
    path = one_file(tmp_path)
    path.rename(tmp_path / "train" / path.name)
    reject(V1_1, tmp_path, f"train/{path.name}", "is not at")


# ------------------------------------------------------------------ chunks

CODECS = [
    None,
    numcodecs.Blosc(cname="zstd", shuffle=2),
    numcodecs.Zlib(),
    numcodecs.GZip(),
    numcodecs.LZ4(),
    numcodecs.Zstd(),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.codec_id if codec else "raw")
@pytest.mark.parametrize("chunks", [(2, 1, 2, 3, 4), (1, 2, 3, 7, 5), (3, 4, 3, 7, 5)], ids=str)
def test_any_chunks_and_codecs_as_zarr_python(
    tmp_path: Path, codec: Any, chunks: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(-3000, 3000, (3, 4, 3, 7, 5)).astype(">i2")
    path = tmp_path / "x.zarr.zip"
    write_file(
        path,
        {"bands": values},
        chunks=chunks,
        compressors=codec,
        order="F",
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    np.testing.assert_array_equal(zarr_python(path, "bands"), values)
    for index in ((0, 0), (2, 3), (1,), ()):
        found = zarr_zip.read_part(source_of(path), "bands", index)
        np.testing.assert_array_equal(found, values[index])
        assert found.dtype == np.int16


def test_missing_chunks_do_not_become_black_pixels(tmp_path: Path) -> None:
    rewrite(one_file(tmp_path), lambda members: members.pop("bands/0.2.0.0.0"))
    reject(V1_1, tmp_path, f"{NAME}/bands/0.2.0.0.0", "is missing")


def test_a_chunk_that_samples_share_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_file(tmp_path)
    reader, decoded = make_reader(V1_1, tmp_path), []
    items = reader.items()
    original = zarr_zip._decompress
    monkeypatch.setattr(
        zarr_zip,
        "_decompress",
        lambda array, data: decoded.append(array.key) or original(array, data),
    )
    for item in items:
        read_item(reader, item)
    assert (decoded.count("bands"), decoded.count("cloud_mask"), decoded.count("x_")) == (
        DATES,
        DATES,
        1,
    )


def test_metadata_written_twice_count_as_last_written(tmp_path: Path) -> None:
    """As left behind by zarr-python's ZipStore when attributes change."""
    path = one_file(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("time_/.zattrs", json.dumps({"units": "seconds since 2021-01-01"}))
    assert read_all(V1_1, tmp_path)[0].time > 1_609_000_000


# ------------------------------------------------------------------ hostile and damaged files


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    edit_json(
        path,
        "bands/.zarray",
        dtype="|O",
        filters=[{"id": "pickle", "protocol": 4}],
        compressor=None,
    )
    rewrite(
        path,
        lambda members: members.update(
            {"bands/0.0.0.0.0": pickle.dumps([Touch(tmp_path / "executed")])}
        ),
    )
    reject(V1_1, tmp_path, f"{NAME}/bands", "filters", "pickle")
    edit_json(path, "bands/.zarray", filters=None)
    reject(V1_1, tmp_path, f"{NAME}/bands", "objects are never read")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"compressor": {"id": "bz2"}}, ("'bz2'", "blosc")),
        ({"compressor": ["blosc"]}, ("blosc",)),
        ({"chunks": [3, 1, 12, 2**20, 2**20]}, ("MB, at most",)),
        ({"shape": [3, 4, 12, -8, 8]}, ("shape",)),
        ({"shape": [3, 4, 12, True, 8]}, ("shape",)),
        ({"shape": [2**30, 2**20, 12, 8, 8]}, ("images, at most",)),
        ({"shape": [3, 4, 12, 2**20, 2**20], "chunks": [1, 1, 1, 1, 1]}, ("/",)),
        ({"chunks": [3, 1, 12, 0, 8]}, ("chunks",)),
        ({"chunks": [3, 1, 12, 8]}, ("is not a Zarr version 2 array",)),
        ({"zarr_format": 3}, ("is not a Zarr version 2 array",)),
        ({"dtype": "<U0"}, ("numbers or text",)),
        ({"dtype": [["a", "<i2"]]}, ("numbers or text",)),
        ({"dimension_separator": "/../"}, ("/bands",)),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
def test_false_metadata(tmp_path: Path, fields: dict[str, Any], words: tuple[str, ...]) -> None:
    edit_json(one_file(tmp_path), "bands/.zarray", **fields)
    reject(V1_1, tmp_path, NAME, *words)


def bomb_of(codec: str) -> bytes:
    """A chunk that decodes to 64 MB or claims far more."""
    if codec == "blosc":
        data = bytearray(numcodecs.Blosc().encode(np.zeros(10_000, np.int16)))
        return bytes(data[:4] + struct.pack("<I", 2**31 - 1) + data[8:])
    if codec == "lz4":
        return struct.pack("<i", 2**31 - 1) + numcodecs.LZ4().encode(np.zeros(10_000, np.int16))[4:]
    if codec == "zstd":
        return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + b"\x01\x00\x00"
    packer = zlib.compressobj(9, wbits=31 if codec == "gzip" else 15)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()


@pytest.mark.parametrize("codec", ["blosc", "lz4", "zstd", "zlib", "gzip"])
def test_decompression_bombs_are_not_unpacked(tmp_path: Path, codec: str) -> None:
    path = one_file(tmp_path)
    edit_json(path, "bands/.zarray", compressor={"id": codec})
    data = bomb_of(codec)
    rewrite(
        path,
        lambda members: members.update(
            {name: data for name in members if name.startswith("bands/0")}
        ),
    )
    tracemalloc.start()
    reject(V1_1, tmp_path, f"{NAME}/bands/0.0.0.0.0", "expected")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        ("blosc", b"abc"),
        ("lz4", b""),
        ("zstd", b"\x28\xb5\x2f\xfd\x00"),
        ("zlib", b"abc"),
        (None, b"abc"),
    ],
)
def test_chunks_that_are_damaged(tmp_path: Path, codec: str | None, data: bytes) -> None:
    path = one_file(tmp_path)
    edit_json(path, "bands/.zarray", compressor=codec and {"id": codec})
    rewrite(path, lambda members: members.update({"bands/0.0.0.0.0": data}))
    reject(V1_1, tmp_path, f"{NAME}/bands/0.0.0.0.0", "damaged")


def test_invalid_members(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("bands/0.0.0.0.0", b"other pixels")
    reject(V1_1, tmp_path, "bands/0.0.0.0.0", "occurs twice")
    one_file(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../../escaped", b"")
    reject(V1_1, tmp_path, NAME, "leads out")
    one_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    reject(V1_1, tmp_path, NAME, "cannot be read")


def test_truncated_and_flipped_files_give_an_error_or_the_sample(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    data, expected = path.read_bytes(), [sample.pixels for sample in read_all(V1_1, tmp_path)]
    rejected = 0
    for position in np.random.default_rng(0).integers(0, len(data), 80).tolist():
        damaged = bytearray(data)
        damaged[position] ^= 16
        path.write_bytes(damaged)
        try:
            found = read_all(V1_1, tmp_path)
        except ArchiveError as error:
            assert NAME in str(error)
            rejected += 1
        else:  # every member has a checksum, so values that are read are right
            for sample, pixels in zip(found, expected, strict=True):
                np.testing.assert_array_equal(sample.pixels, pixels)
    assert rejected > 20
