"""manifest.json: written last, read first, checked against its own hash and its schema."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eo_jax.data.store import bounded_json, manifest_schema
from eo_jax.data.store.files import StoreError, regular_size
from eo_jax.data.store.remote import RemotePath

STORE_FORMAT = 1
# Enough for 64,000 shards of a Zarr store, 4 TB of pixels by default. Parsing takes at most 200 MB.
MAX_MANIFEST_BYTES = 28 * 2**20
NO_TIME = -(2**63)  # `time` in the index of a sample that has none
PIXEL_SPLIT = "pixel"  # `split` of a scene whose labels are split by pixel, see PIXEL_SPLITS
PIXEL_SPLITS = ("", "train", "val", "test")  # the codes in its label map `<name>.split`

_ENCODER = json.JSONEncoder(sort_keys=True)


def content_sha256(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest, which has the hash of every file, without its own `content_sha256`."""
    digest = hashlib.sha256()
    rest = {key: value for key, value in manifest.items() if key != "content_sha256"}
    for piece in _pieces(rest):
        digest.update(piece.encode())
    return digest.hexdigest()


def _pieces(fields: dict[str, Any]) -> Iterator[str]:
    """The text of `json.dumps(fields, sort_keys=True)`.

    It comes in pieces, because in one it would take several times the memory of the text.
    """
    yield "{"
    for number, (name, value) in enumerate(sorted(fields.items())):
        yield f"{_comma(number)}{_ENCODER.encode(name)}: "
        if isinstance(value, list):
            yield "["
            yield from (f"{_comma(n)}{_ENCODER.encode(one)}" for n, one in enumerate(value))
            yield "]"
        else:
            yield _ENCODER.encode(value)
    yield "}"


def _comma(number: int) -> str:
    return ", " if number else ""


def format_of(manifest: dict[str, Any]) -> str:
    """The format of the store, one of `manifest_schema.FORMATS`."""
    return manifest.get("format", "array-record")  # the only one when manifests did not name it


def read_manifest(path: Path | RemotePath) -> dict[str, Any]:
    """The manifest of a store: every field that eo_jax reads is what manifest_schema.py says.

    Raises StoreError where it is absent, of another format, changed since it was written, or says
    what no manifest does; RemoteError.
    """
    file = path / "manifest.json"
    with _naming(file):
        manifest = _parse(_read(path))
    if manifest["store_format"] != STORE_FORMAT:
        raise StoreError(
            f"{file}: store_format {manifest['store_format']!r:.100}, this eo_jax reads "
            f"{STORE_FORMAT}; convert the archive again"
        )
    stated, actual = manifest["content_sha256"], content_sha256(manifest)
    if stated != actual:
        raise StoreError(
            f"{file}: content_sha256 is {stated[:12]}..., its content gives {actual[:12]}...: it "
            "was edited or damaged; convert again"
        )
    with _naming(file):
        _check_consistency(manifest)
    return manifest


def check_written(data: bytes) -> None:
    """Raises ValueError for the bytes of a manifest that `read_manifest` would refuse."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"it has {len(data)} bytes, expected at most {MAX_MANIFEST_BYTES}")
    _check_consistency(_parse(data))


def _parse(data: bytes) -> dict[str, Any]:
    """The manifest; if it is of this format, every field is checked."""
    # In ASCII, as it is written: one other character may take four times the memory for all.
    text = data.decode("ascii")
    del data
    manifest = bounded_json.parse_object(text, "shards", _accept_shard)
    if manifest.get("store_format", STORE_FORMAT) == STORE_FORMAT:
        _check_fields(manifest)
    return manifest


@contextlib.contextmanager
def _naming(file: Path | RemotePath) -> Iterator[None]:
    """Makes a ValueError inside a StoreError that names the file."""
    try:
        yield
    except StoreError:
        raise
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); convert the archive again") from error


def _read(path: Path | RemotePath) -> bytes:
    if isinstance(path, RemotePath):
        return (path / "manifest.json").read_bytes(MAX_MANIFEST_BYTES)
    if not path.is_dir():
        raise StoreError(
            f"{path}: no such store. `python -m data_prep convert --help` says how to make one."
        )
    file = path / "manifest.json"
    if not os.path.lexists(file):
        raise StoreError(
            f"{path}: no manifest.json, so this is not a store or its conversion did not finish; "
            "run the same convert command again"
        )
    size = regular_size(file)
    if size > MAX_MANIFEST_BYTES:
        raise StoreError(
            f"{file}: has {size} bytes, a manifest at most {MAX_MANIFEST_BYTES}; convert the "
            "archive again, with larger shards (--shard-mb)"
        )
    return file.read_bytes()


def _accept_shard(where: str, entry: Any) -> dict[str, Any]:
    """A checked entry of `shards`, whose texts that repeat are in memory once."""
    manifest_schema.check(where, entry, manifest_schema.SHARD)
    for pixels in entry.get("pixels", ()):
        pixels["array"] = sys.intern(pixels["array"])
    return {sys.intern(name): value for name, value in entry.items()}


def _check_fields(manifest: dict[str, Any]) -> None:
    is_zarr = format_of(manifest) in manifest_schema.FORMATS[1:]
    schema = manifest_schema.ZARR_MANIFEST if is_zarr else manifest_schema.MANIFEST
    manifest_schema.check("", manifest, schema)
    if "shards" not in manifest:
        raise ValueError("field 'shards' is missing")
    for number, shard in enumerate(manifest["shards"]):
        if is_zarr and "pixels" not in shard:
            raise ValueError(f"field 'shards[{number}].pixels' is missing")


def _check_consistency(manifest: dict[str, Any]) -> None:
    samples = sum(shard["samples"] for shard in manifest["shards"])
    if manifest.get("samples", samples) != samples:
        raise ValueError(
            f"field 'samples' is {manifest['samples']}, expected {samples}, those of all shards"
        )
    sensors = manifest.get("sensors", {})
    for sensor, moments in manifest.get("statistics", {}).items():
        names = sensors[sensor]["bands"]["name"] if sensor in sensors else moments["mean"]
        if {len(values) for values in moments.values()} != {len(names)}:
            raise ValueError(
                f"field 'statistics.{sensor:.100}': expected lists of {len(names)} values, one per "
                "band"
            )
