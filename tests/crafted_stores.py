"""Stores that lie, with every hash and checksum recomputed, as somebody hostile would publish them.

    python tests/crafted_stores.py FIRST COUNT

reads the stores of that many seeds, prints each that ends in another error than a StoreError or a
RecordError, and the memory that reading took.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import math
import os
import shutil
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc2
import google_crc32c
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from limits import no_hang, peak_bytes
from tiny_store import change_index, sign_index, without_checksums, write_store

from data_prep.inspection import summary
from data_prep.statistics.moments import stored_bytes
from data_prep.verify import verify
from eo_jax.data import Store, open_store
from eo_jax.data.index import group_samples
from eo_jax.data.store.files import StoreError
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.schema import Sample
from eo_jax.sensors import Band, Sensor

SENSOR = Sensor(
    "toy", "Toy", tuple(Band(f"B{n}", n, 400.0 + n, 1.0) for n in range(1, 36)), 10.0, "int16",
    1e-4, "reflectance", -1,
)  # fmt: skip
SHAPE = (len(SENSOR.bands), 6, 5)  # two chunks in "zarr"
HUGE = (1, 2**15, 2**15 - 1)  # of 16 bits, the largest that the format holds: 2 GB
SMALL_BYTES = 2**20
MOST_BYTES = 200_000_000
Craft = Callable[[np.random.Generator, Path], None]

ODD = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**30, 37 * 2**30, 47 * 2**40, 0.5, 1e308,
    float("nan"), float("inf"), "", "map", "int16", "object", "x", "../../etc/passwd",
    "/etc/passwd", "a\0b", "\ud800", "x" * 5000, [], {}, [1], [[]], [[1, 2], [3]], [None] * 40,
    {"a": 1}, {"": [{}]}, [2**40] * 3, ["int16"],
]  # fmt: skip


def write_originals(folder: Path) -> dict[str, Path]:
    """{format: an intact store of eight samples in two shards}."""
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            rng.integers(0, 3000, SHAPE).astype(np.int16),
            SENSOR.id,
            f"s{number}",
            f"g{number // 2}",
            time=1_650_000_000 + number,
            lonlat=(13.0, 52.0),
            affine=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0),
            wavelengths_nm=np.arange(SHAPE[0]) + 400.0,
            labels={"map": rng.integers(0, 3, SHAPE[1:], np.uint8), "class": np.array(number % 3)},
            masks={"cloud": rng.random(SHAPE[1:]) < 0.1},
        )
        for number in range(8)
    ]
    moments = {name: [1.0] * SHAPE[0] for name in ("mean", "std", "min", "max", "nodata_share")}
    about = {
        "archive": {"name": "a", "reader": "b", "licence": "c", "options": {"val": None}},
        "sensors": {SENSOR.id: SENSOR.row()},
        "splits": {"train": 8},
        "groups": 4,
        "statistics": {SENSOR.id: {"count": [9] * SHAPE[0], **moments}},
        "labels": {
            "map": {"dtype": "uint8", "shape": "map", "values": {"0": 5, "1": 6}},
            "class": {"dtype": "int64", "shape": [], "values": None},
        },
        "left_out": {"too dark": 3},
    }
    return {
        format: write_store(folder / format, samples, about=about, format=format)
        for format in FORMATS
    }


# ----------------------------------------------------------------------------------------- manifest


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(object or list, name or number) of everything inside a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def change_somewhere(rng: np.random.Generator, value: Any) -> None:
    """Replaces, removes or doubles something inside a JSON value."""
    found = [place for place in places(value) if place[1] != "content_sha256"]
    if not found:
        return
    parent, key = found[rng.integers(len(found))]
    action = rng.integers(8)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif action == 2 and type(parent[key]) is int:
        parent[key] += int(rng.choice([-1, 1, 1000, 2**20]))
    else:
        parent[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])


def sign(path: Path, manifest: Any) -> None:
    """Writes a manifest with its hash."""
    if isinstance(manifest, dict):
        rest = {key: value for key, value in manifest.items() if key != "content_sha256"}
        text = json.dumps(rest, sort_keys=True)
        manifest = {**rest, "content_sha256": hashlib.sha256(text.encode()).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def read_manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_bytes())


def craft_manifest(rng: np.random.Generator, path: Path) -> None:
    manifest = read_manifest(path)
    change_somewhere(rng, manifest)
    sign(path, manifest)


def craft_manifest_text(rng: np.random.Generator, path: Path) -> None:
    """Puts something into the text that is long, deep or not JSON; it is written piece by piece."""
    file = path / "manifest.json"
    text, thousands = file.read_bytes(), int(rng.choice([1, 1, 100, 100, 10_000]))
    head, repeated, tail = [
        (b"", b"[" * 1000, b""),
        (b"", b'{"a":' * 1000, b""),
        (b"[[]", b",[]" * 1000, b"]"),
        (b'{"":{}', b"".join(b',"%x":{}' % number for number in range(1000)), b"}"),
        (b"", b"9" * 1000, b""),
        (b'"', b"x" * 1000, b'\\ud83d\\ude00"'),
        (b'"', "\N{GRINNING FACE}".encode() * 250, b'"'),
        (b"", b" " * 1000, b""),
        (b"1e9", b"", b""),
        (b'"\\ud800"', b"", b""),
    ][rng.integers(10)]
    at = {
        0: (b'{"archive": ', b", " + text.lstrip()[1:]),
        1: (text.partition(b'"shards": [')[0] + b'"shards": [', b", {}]}"),
        2: (text[: rng.integers(len(text))], b""),
    }[int(rng.integers(3))]
    with open(file, "wb") as out:
        out.write(at[0] + head)
        for _ in range(thousands):
            out.write(repeated)
        out.write(tail + at[1])


# -------------------------------------------------------------------------------------------- index


def craft_index(rng: np.random.Generator, path: Path) -> None:
    def change(columns: dict[str, np.ndarray]) -> None:
        name = sorted(columns)[rng.integers(len(columns))]
        columns[name] = changed_column(rng, columns[name])
        if rng.integers(10) == 0:
            del columns[name]

    change_index(path, change)


def changed_column(rng: np.random.Generator, column: np.ndarray) -> np.ndarray:
    action = rng.integers(8)
    if action == 0:
        dtypes = ["float32", "int8", "uint64", "complex64", "S5", "U3", "bool", ">i4", "M8[s]"]
        with np.errstate(all="ignore"):
            try:
                return column.astype(rng.choice(dtypes))
            except (ValueError, TypeError):
                return column.astype(object)
    if action == 1:
        shapes = [column[:-1], column[None], column.ravel(), column[..., None], column[:0]]
        return shapes[rng.integers(len(shapes))]
    if action == 2:
        return np.concatenate([column, column])
    column = column.copy()
    at = tuple(int(rng.integers(side)) for side in column.shape)
    if column.dtype.kind == "U":
        texts = ["../x", "", "int99", "object", "float64", "x" * 3000, "toy2", "\ud800"]
        column = column.astype("U3000") if rng.integers(2) else column
        column[at] = texts[rng.integers(len(texts))]
        if rng.integers(4) == 0:
            column.view(np.uint32)[..., :1] = 2**32 - 1
    elif column.dtype.kind == "f":
        column[at] = rng.choice([np.nan, np.inf, -np.inf, 1e308, -0.5])
    else:
        limits = np.iinfo(column.dtype)
        column[at] = rng.choice([limits.min, limits.max, 0, 1, 2, limits.max // 2])
    return column


def craft_index_bytes(rng: np.random.Generator, path: Path) -> None:
    data = bytearray((path / "index.npz").read_bytes())
    action = rng.integers(3)
    if action == 0:
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
    elif action == 1:
        starts = [at for at in range(len(data)) if data[at : at + 8] == b"{'descr'"]
        start = starts[rng.integers(len(starts))]
        news = [b"(" * 100, b"{'descr': '<U99999', ", b"{'descr': '|O8', ", b"[" * 70, b"\xff" * 30,
                b"{'descr': [('a', '<i4', (99999, 9999))], "]  # fmt: skip
        new = news[rng.integers(len(news))]
        data[start : start + len(new)] = new
    else:
        del data[rng.integers(len(data)) :]
    sign_index(path, bytes(data))


# ------------------------------------------------------------------------------------------ records


def craft_record(rng: np.random.Generator, path: Path) -> None:
    """Changes one record of the first shard; the index lists its checksum, or none."""
    file = path / "shards/00000.array_record"
    reader = ArrayRecordReader(str(file))
    records = reader.read_all()
    reader.close()
    which = int(rng.integers(len(records)))
    records[which] = changed_record(rng, path, which, records[which])
    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed,max_parallelism:1")
    for data in records:
        writer.write(data)
    writer.close()
    manifest = read_manifest(path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["shards"][0] |= {"bytes": file.stat().st_size, "sha256": digest}
    sign(path, manifest)
    checksums = [int.from_bytes(data[-4:], "little") for data in records]
    if rng.integers(3):
        change_index(path, lambda columns: columns["record_crc32c"].put(range(5), checksums))
    else:
        change_index(path, without_checksums)


def changed_record(rng: np.random.Generator, path: Path, which: int, data: bytes) -> bytes:
    prefix = struct.Struct("<4sHI")
    magic, version, length = prefix.unpack_from(data)
    header, payload = json.loads(data[10 : 10 + length]), bytearray(data[10 + length : -4])
    action = rng.integers(5)
    if action == 0 and payload:
        for _ in range(rng.integers(1, 4)):
            payload[rng.integers(len(payload))] = rng.integers(256)
    elif action == 1:
        add_bomb(rng, path, which, header, payload)
    elif action == 2 and payload:
        payload[: min(36, len(payload))] = rng.bytes(min(36, len(payload)))
    else:
        for _ in range(rng.integers(1, 3)):
            change_somewhere(rng, header)
    text = json.dumps(header).encode()
    if rng.integers(20) == 0:
        text = [b"[" * 200_000, b"[" + b"[]," * 10**6 + b"[]]", b"{", b""][rng.integers(4)]
    body = prefix.pack(magic, version, len(text)) + text + bytes(payload)
    return body + struct.pack("<I", google_crc32c.value(body))


def add_bomb(
    rng: np.random.Generator, path: Path, which: int, header: dict, payload: bytearray
) -> None:
    """Makes one array 32 bytes that say 2 GB, of some kind of Blosc2's; maybe in the index, too."""
    entries = header["arrays"]
    entry = entries[rng.integers(len(entries))]
    start = sum(one["bytes"] for one in itertools.takewhile(lambda one: one is not entry, entries))
    settings = {"codec": blosc2.Codec.LZ4, "filters": [blosc2.Filter.BITSHUFFLE], "typesize": 2}
    chunk = bytearray(blosc2.compress2(np.zeros(1000, np.int16), **settings))
    struct.pack_into("<I", chunk, 4, 2 * math.prod(HUGE))
    chunk[31] = rng.choice([0x10, 0x20, 0x30, 0x40, 0x00])  # zeros, NaN, a value, nothing at all
    payload[start : start + entry["bytes"]] = chunk
    entry |= {"dtype": "int16", "shape": list(HUGE), "bytes": len(chunk)}
    entry["filter"] = str(rng.choice(["none", "band_difference"]))
    if entry["name"] == "pixels" and rng.integers(2):

        def change(columns: dict[str, np.ndarray]) -> None:
            columns["shape"][which], columns["dtype"][which] = HUGE, "int16"
            columns.pop("kind_code")

        change_index(path, change)


# ------------------------------------------------------------------------------------- pixel files


def craft_pixels(rng: np.random.Generator, path: Path) -> None:
    """Changes chunks, or their places, in a Zarr store's first pixel file."""
    files = sorted(path.glob("pixels/*/c/0/0/0/0"))
    if not files:
        return craft_record(rng, path)
    data, chunks = bytearray(files[0].read_bytes()), 2 if path.name == "zarr" else 1
    start = len(data) - 5 * chunks * 16 - 4
    index = np.frombuffer(bytes(data[start:-4]), "<u8").reshape(5, chunks, 2).copy()
    row, chunk = int(rng.integers(5)), int(rng.integers(chunks))
    offset, length = index[row, chunk].tolist()
    if rng.integers(2):
        places = [0, 1, 4, 20, 100, 2**31, 2**40, 2**63, 2**64 - 1, offset, length]
        index[row, chunk] = [places[rng.integers(len(places))] for _ in range(2)]
    else:
        for at in rng.integers(0, min(length - 4, 40), 3):
            data[offset + at] = rng.integers(256)
        checksum = google_crc32c.value(bytes(data[offset : offset + length - 4]))
        struct.pack_into("<I", data, offset + length - 4, checksum)
        at = row * chunks + chunk
        change_index(path, lambda columns: columns["chunk_crc32c"].put(at, checksum))
    data[start:-4] = index.tobytes()
    struct.pack_into("<I", data, len(data) - 4, google_crc32c.value(bytes(data[start:-4])))
    files[0].write_bytes(data)


# -------------------------------------------------------------------------------------------- files


def craft_files(rng: np.random.Generator, path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file, other = (files[rng.integers(len(files))] for _ in range(2))
    action = rng.integers(6)
    if action == 0:
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
    elif action == 1:
        os.truncate(file, int(rng.choice([0, 1, 2**33, 2**40])))  # larger without using space
        if (path / "manifest.json").stat().st_size < SMALL_BYTES:
            state_size(path, file)
    else:
        file.unlink()
        make = [os.mkfifo, os.mkdir, lambda file: os.symlink(file.name, file), lambda file: None]
        make[action - 2](file)


def state_size(path: Path, file: Path) -> None:
    """Makes the manifest say the size that a shard has."""
    manifest = read_manifest(path)
    for entry in manifest["shards"]:
        for part in [entry, *entry.get("pixels", [])]:
            if part["file"] == str(file.relative_to(path)):
                part["bytes"] = max(1, file.stat().st_size)
    sign(path, manifest)


# In the order in which they are applied: the last may leave files that wait for ever.
CRAFTS: list[Craft] = [
    *[craft_record] * 3,
    *[craft_pixels] * 2,
    *[craft_index] * 3,
    craft_index_bytes,
    *[craft_manifest] * 3,
    craft_manifest_text,
    craft_files,
]


# ------------------------------------------------------------------------------------------ reading


def read_or_explain(path: Path) -> None:
    """Reads everything of a store: what comes is what the index says, or an error that says why."""
    try:
        store = open_store(path)
        summary.overview(store)
        for table in (summary.sensor_rows, summary.label_rows, summary.statistics_rows):
            table(store)
    except StoreError as error:
        assert str(path) in str(error) and "\n" not in str(error), error
        return
    for i in range(min(len(store), 8)):
        for read in READS:
            try:
                read(store, i)
            except (RecordError, StoreError) as error:
                assert str(path) in str(error), error
    try:
        group_samples(store, "train", 1, "repeat", SENSOR.id)
    except ValueError as error:  # no such split or sensor
        assert str(path) in str(error), error
    sizes = [*map(math.prod, store.index["shape"].tolist()), stored_bytes(store)]
    if max(sizes) < SMALL_BYTES:
        verify_or_explain(path)


def verify_or_explain(path: Path) -> None:
    try:
        verify(path)
    except StoreError as error:  # a sensor that nobody needed before
        assert str(path) in str(error), error


def read_sample(store: Store, i: int) -> None:
    sample = store[i]
    assert (sample.id, sample.sensor) == (store.index["id"][i], store.index["sensor"][i])
    assert sample.pixels.shape == tuple(store.index["shape"][i].tolist())
    assert sample.pixels.dtype == store.index["dtype"][i]


def read_part(store: Store, i: int) -> None:
    part = store.pixels(i, [0], slice(0, 2), slice(0, 3))
    np.testing.assert_array_equal(part, store[i].pixels[:1, :2, :3])


def read_into(store: Store, i: int) -> None:
    bands, height, width = store.index["shape"][i].tolist()
    if bands * 12 < SMALL_BYTES:
        out = np.empty((bands, min(height, 4), min(width, 3)), store.index["dtype"][i])
        for _ in range(2):  # read and verified, then out of the memory map
            store.read_into(i, out, slice(0, 4), slice(0, 3))
            np.testing.assert_array_equal(out, store[i].pixels[:, :4, :3])


def read_labels(store: Store, i: int) -> None:
    for label in store.labels(i).values():
        assert isinstance(label, np.ndarray)


READS = (read_sample, read_part, read_into, read_labels)


def try_case(originals: dict[str, Path], seed: int) -> None:
    """Crafts the store of a seed and reads it. Raises what it should not raise."""
    rng = np.random.default_rng(seed)
    original = originals[FORMATS[rng.integers(len(FORMATS))]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(original, Path(folder) / original.name))
        numbers = sorted(rng.integers(len(CRAFTS), size=rng.integers(1, 3)).tolist())
        for craft in dict.fromkeys(CRAFTS[number] for number in numbers):
            with contextlib.suppress(Exception):  # what an earlier one left cannot be changed
                craft(rng, path)
        with no_hang():
            read_or_explain(path)


def main() -> None:
    first, count = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        originals = write_originals(Path(folder))
        for path in originals.values():
            read_or_explain(path)
        before, failed = peak_bytes(), []
        for seed in range(first, first + count):
            try:
                try_case(originals, seed)
            except Exception:
                failed.append(seed)
                print(f"seed {seed}: {traceback.format_exc()}", file=sys.stderr)
    print(json.dumps({"failed": failed, "bytes": peak_bytes() - before}))


if __name__ == "__main__":
    main()
