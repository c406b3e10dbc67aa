"""manifest.json and index.npz of a store, on a disk or over a network: written last, read first, held against their hashes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from eo_jax.data.files import StoreError
from eo_jax.data.remote import RemoteError, RemotePath

STORE_FORMAT = 1
_INDEX_COLUMNS = ("id", "group", "split", "shard", "row", "sensor", "shape", "dtype", "time", "lonlat", "nodata_share")


def content_sha256(manifest: dict) -> str:
    """SHA-256 of a manifest without its own `content_sha256`; the manifest names the hash of every other file."""
    rest = {key: value for key, value in manifest.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def format_of(manifest: dict) -> str:
    """The format of the store, one of `stores.FORMATS` unless this eo_jax is too old for it."""
    return manifest.get("format", "array-record")  # stores written before there were others do not say


def read_manifest(path: Path | RemotePath) -> dict:
    """The manifest of a store. Raises StoreError where there is none, or one of another format or content than it says, RemoteError."""
    file = path / "manifest.json"
    if isinstance(path, Path):
        _check_finished(path)
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["store_format"] != STORE_FORMAT:
            raise StoreError(f"{file}: store_format {manifest['store_format']}, this eo_jax reads {STORE_FORMAT}; convert the archive again")
        stated, actual = str(manifest["content_sha256"]), content_sha256(manifest)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); convert the archive again") from error
    if stated != actual:
        raise StoreError(f"{file}: content_sha256 is {stated[:12]}..., its content gives {actual[:12]}...: it was edited or damaged; convert again")
    return manifest


def _check_finished(path: Path) -> None:
    if not path.is_dir():
        raise StoreError(f"{path}: no such store. `python -m data_prep convert --help` says how to make one.")
    if not (path / "manifest.json").is_file():
        raise StoreError(f"{path}: no manifest.json, so this is no store or its conversion did not finish; run the same convert command again")


def index_bytes(rows: list[dict]) -> bytes:
    """The index.npz of rows as `stores.index_row` gives them, with "shard" and "row"."""
    columns = {name: np.array([row[name] for row in rows]) for name in _INDEX_COLUMNS}
    buffer = io.BytesIO()
    np.savez(buffer, **columns)  # numpy stamps every member 1980-01-01, so equal rows give equal bytes
    return buffer.getvalue()


def read_index(path: Path | RemotePath, sha256: str) -> dict[str, np.ndarray]:
    """{column: array of one row a record}. Raises StoreError where it is absent or not what the manifest says, RemoteError."""
    file = path / "index.npz"
    try:
        data = file.read_bytes() if isinstance(file, Path) else file.read_checked(sha256)
    except RemoteError:
        raise
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; convert the archive again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(f"{file}: SHA-256 is not the manifest's, so it is damaged; convert the archive again")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in _INDEX_COLUMNS}
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"{file}: not an index ({error}); convert the archive again") from error
