"""The record: samples come back bit for bit, and any damage is an error that names the record."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from limits import peak_bytes
from record_samples import DTYPES, assert_equal_samples, cube, full, sample

from eo_jax.data.store import record
from eo_jax.data.store.record import Listed, RecordError

NAME = "store/shards/00000.array_record record 3 (id a/b)"
QUICK = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


# --------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(dtype: str):
    expected = sample(
        cube(dtype), labels={"map": cube(dtype, (4, 5))}, masks={"mask": cube(dtype, (4, 5))}
    )
    assert_equal_samples(record.decode(record.encode(expected), NAME), expected)


@QUICK
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays_of.arrays(
            dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
        )
    )
)
def test_every_shape_comes_back_bit_for_bit(array: np.ndarray):
    expected = sample(cube(), labels={"any": array})
    assert_equal_samples(record.decode(record.encode(expected), NAME), expected)


@QUICK
@given(
    arrays_of.arrays(
        np.int16, arrays_of.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)
    )
)
def test_every_int16_cube_comes_back(pixels: np.ndarray):
    assert_equal_samples(record.decode(record.encode(sample(pixels)), NAME), sample(pixels))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_the_band_difference_wraps_at_the_ends_of_the_range(dtype: str):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = np.array([low, high, low, low, high, 0, high, high, low], dtype).reshape(9, 1, 1)
    assert_equal_samples(record.decode(record.encode(sample(pixels)), NAME), sample(pixels))


def test_every_field_comes_back():
    found = record.decode(record.encode(full()), NAME)
    assert_equal_samples(found, full())
    np.testing.assert_array_equal(found.wavelengths_nm, full().wavelengths_nm, strict=True)
    assert isinstance(found.lonlat, tuple) and isinstance(found.affine, tuple)


def test_absent_fields_stay_absent():
    found = record.decode(record.encode(sample(cube())), NAME)
    absent = ("product", "time", "lonlat", "crs", "affine", "gsd_m", "wavelengths_nm")
    assert [getattr(found, field) for field in absent] == [None] * len(absent)
    assert found.labels == found.masks == {}


@pytest.mark.parametrize(
    "pixels",
    [cube()[:, ::-1, ::2], np.asfortranarray(cube()), cube().astype(">i2")],
    ids=["strided", "fortran", "big-endian"],
)
def test_memory_layout_does_not_matter(pixels: np.ndarray):
    plain = np.ascontiguousarray(pixels.astype("<i2"))
    assert record.encode(sample(pixels)) == record.encode(sample(plain))
    assert_equal_samples(record.decode(record.encode(sample(pixels)), NAME), sample(plain))


def test_encoding_leaves_the_sample_alone_and_decoding_gives_arrays_of_its_own():
    original = full()
    data = record.encode(original)
    assert_equal_samples(original, full())
    first = record.decode(data, NAME)
    first.pixels[:] = 0
    assert_equal_samples(record.decode(data, NAME), full())


def test_equal_samples_give_equal_bytes():
    turned = dataclasses.replace(
        full(),
        labels=dict(reversed(full().labels.items())),
        masks=dict(reversed(full().masks.items())),
    )
    assert record.encode(full()) == record.encode(full()) == record.encode(turned)


def test_smooth_spectra_compress():
    bands = (
        1000
        + 5 * np.arange(202)[:, None, None]
        + np.random.default_rng(0).integers(0, 64, (32, 32))
    )
    assert bands.astype(np.int16).nbytes > 20 * len(record.encode(sample(bands.astype(np.int16))))


@pytest.mark.parametrize(
    "array",
    [cube().astype("complex64"), cube().astype("U4"), cube().astype(object)],
    ids=["complex", "text", "object"],
)
def test_other_dtypes_are_refused(array: np.ndarray):
    with pytest.raises(
        ValueError, match=r"sample a/b: labels/x has dtype .*expected one of bool, uint8"
    ):
        record.encode(sample(cube(), labels={"x": array}))


def test_an_array_too_large_for_the_format_is_refused():
    enormous = np.broadcast_to(np.int16(0), (2, 2**15, 2**15))
    with pytest.raises(
        ValueError, match=r"sample a/b: pixels has 4294967296 bytes.*cut it into tiles"
    ):
        record.encode(sample(enormous))


# ------------------------------------------------------------------------------------------- damage


def tiny() -> bytes:
    return record.encode(sample(np.arange(4, dtype=np.int16).reshape(2, 2, 1)))


def assert_refused(data: bytes) -> None:
    with pytest.raises(RecordError) as error:
        record.decode(data, NAME)
    assert str(error.value).startswith(f"{NAME}: ")


def test_every_flipped_bit_is_found():
    data = tiny()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_refused(bytes(damaged))


def test_every_truncation_is_found():
    data = tiny()
    for length in range(len(data)):
        assert_refused(data[:length])


def test_bytes_behind_the_record_are_found():
    assert_refused(tiny() + b"\0")


def test_another_format_version_says_so():
    data = bytearray(tiny())
    struct.pack_into("<H", data, 4, 2)
    with pytest.raises(
        RecordError, match="record format 2, this eo_jax reads 1; convert the archive again"
    ):
        record.decode(sealed(bytes(data[:-4])), NAME)


# ------------------------------------------ hostile records: the checksum is right, the header lies


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", google_crc32c.value(body))


def forged(header: bytes, payload: bytes) -> bytes:
    return sealed(struct.pack("<4sHI", b"EOJX", 1, len(header)) + header + payload)


def opened() -> tuple[dict, bytes]:
    """Header and payload of an intact record."""
    data = tiny()
    length = struct.unpack_from("<4sHI", data)[2]
    return json.loads(data[10 : 10 + length]), data[10 + length : -4]


def with_pixels(payload: bytes | None = None, **changes) -> bytes:
    """A record with changed entry and payload of the pixels."""
    header, own = opened()
    payload = own if payload is None else payload
    header["arrays"][0] = {**header["arrays"][0], "bytes": len(payload), **changes}
    return forged(json.dumps(header).encode(), payload)


def with_extra(**changes) -> bytes:
    """A record with a second, empty array, whose entry is changed."""
    header, payload = opened()
    header["arrays"].append(
        {
            "name": "labels/x",
            "dtype": "uint8",
            "shape": [0],
            "filter": "none",
            "bytes": 0,
            **changes,
        }
    )
    return forged(json.dumps(header).encode(), payload)


def with_header(**changes) -> bytes:
    """A record with changed header fields; ... removes one."""
    header, payload = opened()
    kept = {key: value for key, value in {**header, **changes}.items() if value is not ...}
    return forged(json.dumps(kept).encode(), payload)


def chunk(array: np.ndarray) -> bytes:
    """A payload that holds an array."""
    data = record.encode(sample(array))
    return data[10 + struct.unpack_from("<4sHI", data)[2] : -4]


LIES = {
    "huge shape": with_pixels(shape=[2**20, 2**20, 2**20]),
    "shape beyond int64": with_pixels(shape=[2**62, 2**62, 2**62]),
    "large shape below the limit": with_pixels(shape=[1000, 1000, 500]),
    "huge and empty": with_pixels(shape=[0, 2**62, 2]),
    "negative side": with_pixels(shape=[-2, 2, -1]),
    "one negative side": with_pixels(shape=[2, 2, -1]),
    "fractional side": with_pixels(shape=[2.0, 2, 1]),
    "fractional empty side": with_pixels(shape=[0.0, 2, 1]),
    "shape of text": with_pixels(shape="221"),
    "no shape": with_pixels(shape=None),
    "too many axes": with_pixels(shape=[1] * 100),
    "wrong dtype": with_pixels(dtype="float64"),
    "dtype that runs code": with_pixels(dtype="object"),
    "dtype no string": with_pixels(dtype=["int16"]),
    "unknown filter": with_pixels(filter="exec"),
    "difference of a scalar": with_pixels(chunk(np.zeros(1, np.int16)), shape=[]),
    "negative length": with_pixels(bytes=-1),
    "length too long": with_pixels(bytes=2**40),
    "fractional length": with_pixels(bytes=float(len(opened()[1]))),
    "no pixels": with_pixels(name="labels/pixels"),
    "name no string": with_extra(name=5),
    "name no key": with_extra(name=["labels/x"]),
    "empty with too many axes": with_extra(shape=[0] * 100),
    "payload longer than the shape": with_pixels(chunk(np.zeros((2, 2, 2**18), np.int16))),
    "payload shorter than the shape": with_pixels(chunk(np.zeros((1, 1, 1), np.int16))),
    "payload of noise": with_pixels(bytes(range(64))),
    "payload of zeros": with_pixels(bytes(64)),
    "empty payload": with_pixels(b""),
    "no arrays": with_header(arrays=...),
    "arrays no list": with_header(arrays={"pixels": 1}),
    "no sensor": with_header(sensor=...),
    "id no string": with_header(id=7),
    "time no number": with_header(time="noon"),
    "lonlat no pair": with_header(lonlat=5),
    "lonlat of none": with_header(lonlat=[]),
    "lonlat of three": with_header(lonlat=[1.0, 2.0, 3.0]),
    "affine of text": with_header(affine="abcdef"),
    "wavelengths no numbers": with_header(wavelengths_nm="abc"),
    "ragged wavelengths": with_header(wavelengths_nm=[[1.0], [2.0, 3.0]]),
    "header no JSON": forged(b"{", b""),
    "header no text": forged(b"\xff\xfe", b""),
    "header null": forged(b"null", b""),
    "header a list": forged(b"[1]", b""),
    "header nested deeply": forged(b"[" * 200_000, b""),
    "header longer than the record": sealed(struct.pack("<4sHI", b"EOJX", 1, 2**32 - 1)),
}


def chunk_with(position: int, value: int) -> bytes:
    """The payload of 1000 zeros with one byte of its header changed."""
    payload = bytearray(chunk(np.zeros((1, 1, 1000), np.int16)))
    payload[position] = value
    return bytes(payload)


CHUNKS = {
    "of a codec that is loaded from elsewhere": {2: 0x15 | 6 << 5},
    "through a filter that is loaded from elsewhere": {16: 160},
    "of memory that is not written to": {31: 0x40},
    "of one value that repeats": {31: 0x30},
    "that is read lazily from a file": {31: 0x08},
    "of values of another size": {3: 4},
    "of large blocks": {11: 0x7F},
    "of another length": {12: 1},
}
LIES |= {
    f"a chunk {what}": with_pixels(chunk_with(*changes.popitem()), shape=[1, 1, 1000])
    for what, changes in CHUNKS.items()
} | {
    "labels larger than any map of such pixels": with_extra(shape=[2**27]),
    "two arrays of one name": with_extra(name="pixels"),
    "wavelengths an object": with_header(wavelengths_nm={}),
    "wavelengths beyond float64": with_header(wavelengths_nm=[10**400]),
    "header of megabytes": with_header(crs="x" * 2**20),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_a_lying_header_is_refused_and_allocates_nothing_big(data: bytes):
    tracemalloc.start()
    try:
        assert_refused(data)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_zeros_take_no_memory():
    """32 bytes stand for 2 GB of them, which is right for an empty scene."""
    payload = bytearray(chunk(np.zeros((1, 1, 1000), np.int16)))
    shape = [1, 2**15, 2**15 - 1]
    struct.pack_into("<I", payload, 4, 2 * 2**15 * (2**15 - 1))
    data, before = with_pixels(bytes(payload), shape=shape), peak_bytes()
    pixels, out = record.decode(data, NAME).pixels, np.ones((1, 2, 3), np.int16)
    listed = Listed("a/b", "enmap", "int16", tuple(shape))
    record.decode_pixels(data, NAME, listed, out, slice(5, 7), slice(3))
    assert pixels.shape == tuple(shape) and not pixels[0, -1, -9:].any() and not out.any()
    assert peak_bytes() - before < 50e6


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        (Listed("a/c", "enmap", "int16", (2, 2, 1)), "id is 'a/b', the index says 'a/c'"),
        (Listed("a/b", "s1", "int16", (2, 2, 1)), "sensor is 'enmap', the index says 's1'"),
        (Listed("a/b", "enmap", "uint16", (2, 2, 1)), "dtype is 'int16', the index says 'uint16'"),
        (Listed("a/b", "enmap", "int16", (2, 1, 2)), r"shape is \(2, 2, 1\), the index says"),
    ],
)
def test_another_record_than_the_index_lists(listed: Listed, says: str):
    out = np.zeros(listed.shape, listed.dtype)
    for read in (
        lambda: record.decode(tiny(), NAME, None, listed),
        lambda: record.decode_labels(tiny(), NAME, listed),
        lambda: record.decode_pixels(tiny(), NAME, listed, out, slice(None), slice(None)),
    ):
        with pytest.raises(RecordError, match=f"{re.escape(NAME)}: the record's {says}.*copy it"):
            read()


def test_what_nobody_could_read_is_not_written():
    huge = np.zeros(2**22, np.int64)
    with pytest.raises(ValueError, match=r"sample a/b: labels and masks have \d+ bytes"):
        record.encode(sample(cube(), labels={"x": huge, "y": huge, "z": huge}))
    with pytest.raises(ValueError, match=r"'masks/x' of shape \(2048, 2049\) is not a map"):
        record.encode(sample(cube(), masks={"x": np.zeros((2048, 2049), bool)}))
    wide = np.zeros((1, 2048, 2049), np.int8)  # with a map of its own
    record.encode(sample(wide, labels={"x": wide[0]}))
    with pytest.raises(ValueError, match=r"sample a/b: it has \d+ bytes, expected at most"):
        record.encode(sample(cube(), crs="x" * 2**20))


def test_an_honest_forgery_is_read():
    """Otherwise the lies above could be refused for what they have in common."""
    assert record.decode(with_pixels(), NAME).pixels.ravel().tolist() == [0, 1, 2, 3]
    assert record.decode(with_header(time=5), NAME).time == 5
    assert record.decode(with_extra(), NAME).labels["x"].shape == (0,)
    assert record.decode(
        with_pixels(chunk(np.zeros((2, 2, 2**18), np.int16)), shape=[2, 2, 2**18]), NAME
    ).pixels.shape == (2, 2, 2**18)
