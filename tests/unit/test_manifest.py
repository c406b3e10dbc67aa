"""The manifest: what it may say, how long it may be, and the memory that parsing it takes."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import change_manifest, write_tiny_store

from eo_jax.data.store import bounded_json, manifest, writer
from eo_jax.data.store.bounded_json import MAX_OTHER, parse_object
from eo_jax.data.store.files import StoreError
from eo_jax.data.store.manifest import content_sha256, read_manifest

SHA256 = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_store(tmp_path / "store", locations=2, size=8, format="zarr")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["shards", "a", "content_sha256", "é"]), JSON)


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_the_hash_is_that_of_the_sorted_json(fields: dict[str, Any]):
    rest = {name: value for name, value in fields.items() if name != "content_sha256"}
    text = json.dumps(rest, sort_keys=True)
    assert content_sha256(fields) == hashlib.sha256(text.encode()).hexdigest()


# --------------------------------------------------------------------------------------------- JSON


def parse(text: str) -> dict[str, Any]:
    return parse_object(text, "shards", lambda name, value: value)


@settings(max_examples=100, deadline=None)
@given(OBJECTS, st.sampled_from([None, 1]))
def test_json_is_parsed_as_json(fields: dict[str, Any], indent: int | None):
    fields = {"first": 1, **fields, "shards": [*fields.items()]}
    text = json.dumps(fields, indent=indent)
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[]", "null", '{"a"}', '{"a": }', '{"a": 1,}', '{"a": 1} x', '{1: 2}',
        '{"shards": 1}', '{"shards": {}}', '{"shards": [1,]}', '{"shards": [1 2]}',
        '{"shards": [1', '{"a": 1 "b": 2}', '{"a": 12',
        '{"a": ' + "[" * 100_000, '{"shards": [' + '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "[" * 150 + "]" * 150 + "}",
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_not_the_json_of_a_manifest(text: str):
    with pytest.raises(ValueError):
        parse(text)


def test_an_entry_may_be_long_and_all_others_together_may_not():
    entry = {"pixels": ["x" * 100] * 5000}
    assert parse(json.dumps({"shards": [entry, 1, entry]}))["shards"] == [entry, 1, entry]
    half = ["x" * (MAX_OTHER // 2 - 20)]
    assert parse(json.dumps({"a": half, "shards": [], "b": half}))["b"] == half
    with pytest.raises(ValueError, match=r"at character .*expected JSON of at most"):
        parse(json.dumps({"a": half, "shards": [], "b": half, "c": half}))


@pytest.mark.parametrize("at", ["archive", "shards", "in a shard"])
@pytest.mark.parametrize("one", ["[]", '{"":0}'])
def test_memory_does_not_grow_with_what_is_nested(at: str, one: str):
    """Of these, json.loads makes up to 25 times the memory of the text."""
    many = f"[{one}{f',{one}' * (MAX_OTHER * 4 // len(one))}]"
    text = {
        "archive": f'{{"archive": {many}}}',
        "shards": f'{{"shards": {many}}}',
        "in a shard": f'{{"shards": [{{"pixels": {many}}}]}}',
    }[at]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            parse_object(text, "shards", manifest._accept_shard)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text) + 26 * MAX_OTHER
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------- schema


FIELDS = [
    ("store_format", None, "store_format None, this eo_jax reads 1"),
    ("record_format", "1", "field 'record_format' is '1', expected a whole number from 1"),
    ("format", ["zarr"], r"field 'format' is \['zarr'\], expected one of array-record, zarr"),
    ("tasks", True, "field 'tasks' is True, expected a whole number from 0"),
    ("samples", 7, "field 'samples' is 7, expected 3, those of all shards"),
    ("samples_a_shard", 37 * 2**40, "field 'samples_a_shard' is 40"),
    ("index_sha256", "x", "field 'index_sha256' is 'x', expected 64 hexadecimal digits"),
    ("shards", {}, r"expected '\['"),
    ("shards", [{}], r"field 'shards\[0\].file' is missing"),
    ("shards", [7], r"field 'shards\[0\]' is 7, expected an object"),
    ("arrays", {"../x": {}}, "name in arrays' is '../x', expected letters"),
    ("arrays", [], r"field 'arrays' is \[\], expected an object"),
    ("archive", {"name": 5}, "field 'archive.name' is 5, expected text"),
    ("archive", "x", "field 'archive' is 'x', expected an object"),
    ("sensors", {"enmap": []}, r"field 'sensors.enmap' is \[\], expected an object"),
    ("splits", {"train": -1}, "field 'splits.train' is -1, expected a whole number from 0"),
    ("groups", 2.0, "field 'groups' is 2.0, expected a whole number from 0"),
    ("statistics", {"enmap": {"mean": [1]}}, "field 'statistics.enmap.std' is missing"),
    (
        "statistics",
        {"enmap": {"mean": [1], "std": [1]}},
        "'statistics.enmap': expected lists of 202",
    ),
    ("statistics", {"x": {"mean": ["1"], "std": []}}, r"field 'statistics.x.mean\[0\]' is '1'"),
    ("statistics", {"x": {"mean": [float("nan")], "std": [1]}}, r"mean\[0\]' is nan, expected a f"),
    ("labels", {"a": {"dtype": "object", "shape": []}}, "field 'labels.a.dtype' is 'object'"),
    ("labels", {"a": {"dtype": "int8", "shape": [2**40]}}, r"field 'labels.a.shape' is \[1099"),
    ("labels", {"a": {"dtype": "int8", "shape": [2**15] * 4}}, "field 'labels.a.shape' is "),
    (
        "labels",
        {"a": {"dtype": "int8", "shape": [], "values": {"x": 1}}},
        "expected a whole number",
    ),
    ("left_out", {"why": None}, "field 'left_out.why' is None, expected a whole number"),
    ("rejects", {"file": "rejects.txt"}, "field 'rejects.samples' is missing"),
    (
        "pixels",
        {"file": 5, "sha256": SHA256},
        "field 'pixels.file' is 5, expected the name of a file",
    ),
]


@pytest.mark.parametrize(("name", "value", "says"), FIELDS, ids=lambda value: str(value)[:30])
def test_an_odd_field_is_named(path: Path, name: str, value: Any, says: str):
    change_manifest(path, **{name: value})
    with pytest.raises(StoreError, match=rf"{path}/manifest.json: .*{says}.*onvert.* again"):
        read_manifest(path)


ENTRY = {"file": "shards/0", "samples": 1, "bytes": 9, "sha256": SHA256, "pixels": []}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": "/etc/passwd"}, "outside the store"),
        ({"file": "a/../../b"}, "outside the store"),
        ({"file": "a\0b"}, "outside the store"),
        ({"file": "x" * 256}, "outside the store"),
        ({"bytes": 0}, "expected a whole number from 1"),
        ({"bytes": 47 * 2**60}, "expected a whole number from 1"),
        ({"samples": -1}, "expected a whole number from 0"),
        ({"samples": 10**30}, "expected a whole number from 0"),
        ({"sha256": SHA256.upper() + "g"}, "expected 64 hexadecimal digits"),
        ({"more": 1}, r".more' is unknown, expected one of file"),
        ({"pixels": [{}]}, r".pixels\[0\].array' is missing"),
        ({"pixels": None}, r".pixels' is None, expected a list"),
    ],
    ids=str,
)
def test_an_odd_shard_is_named(path: Path, changes: dict, says: str):
    change_manifest(path, shards=[ENTRY | changes])
    with pytest.raises(StoreError, match=rf"not a manifest \(field 'shards\[0\].*{says}"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["tasks", "samples_a_shard", "arrays"])
def test_a_zarr_store_needs_more(path: Path, name: str):
    fields = json.loads((path / "manifest.json").read_bytes())
    del fields[name]
    (path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(StoreError, match=rf"not a manifest \(field '{name}' is missing\)"):
        read_manifest(path)
    change_manifest(path, **{name: {} if name == "arrays" else 1})
    change_manifest(path, shards=[{k: v for k, v in ENTRY.items() if k != "pixels"}])
    with pytest.raises(StoreError, match=r"field 'shards\[0\].pixels' is missing"):
        read_manifest(path)


def test_an_unknown_field_is_left_alone(path: Path):
    change_manifest(path, comment={"any": ["thing", None]})
    assert read_manifest(path)["comment"] == {"any": ["thing", None]}


@pytest.mark.parametrize("data", [b'{"a": "\xff"}', '{"a": "\N{SNOWMAN}"}'.encode(), b"\xff\xfe{"])
def test_only_ascii_is_a_manifest(path: Path, data: bytes):
    (path / "manifest.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"manifest.json: not a manifest \('ascii' codec can't"):
        read_manifest(path)


# -------------------------------------------------------------------------------------------- sizes


def test_a_manifest_that_is_too_long(path: Path, monkeypatch: pytest.MonkeyPatch):
    size = (path / "manifest.json").stat().st_size
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", size)
    read_manifest(path)
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(StoreError, match=rf"has {size} bytes, a manifest at most {size - 1}"):
        read_manifest(path)


def test_a_manifest_that_nobody_could_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"could not be read \(it has \d+ bytes, expected"):
        write_tiny_store(tmp_path / "store", locations=2, size=8)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_the_estimate_of_a_manifest_is_not_below_the_real_one(path: Path):
    fields = read_manifest(path)
    size = max(len(json.dumps([shard], indent=1)) for shard in fields["shards"])
    assert size <= writer._SHARD_ENTRY_BYTES + writer._PIXELS_ENTRY_BYTES
    assert bounded_json.MAX_OTHER < manifest.MAX_MANIFEST_BYTES
