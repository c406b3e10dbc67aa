"""Small archives in every kind of container, for the tests of data_prep.archive."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from data_prep.archive import Archive, open_archive

LONG = f"b/{'n' * 90}/{'m' * 120}.tif"  # in an extended header
FILES = {
    "a/0001/all_bands.tif": np.random.default_rng(0).bytes(3000),
    "a/0002/all_bands.TIF": b"two" * 500,
    "a-b/x.tif": b"beside",
    LONG: b"long",
    "empty.txt": b"",
    "grün.txt": b"not ASCII",
}
HIDDEN = ("a/.DS_Store", "a/0001/._all_bands.tif", "__MACOSX/a/x.tif", ".git/config")
PARTS = ("aa", "ab", "ac", "ad")


def tar_of(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=kind, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name, data in files.items():
            add(tar, name, data=data)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(
                zipfile.ZipInfo(name, (2020, 9, 13, 12, 26, 40)), data, zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def packed(kind: str, files: dict[str, bytes] = FILES) -> bytes:
    if kind == "zip":
        return zip_of(files)
    return tar_of(files) if kind == "tar" else gzip.compress(tar_of(files), mtime=0)


def extracted(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def in_parts(path: Path, data: bytes, names: tuple[str, ...]) -> None:
    size = -(-len(data) // len(names))
    for number, name in enumerate(names):
        Path(f"{path}{name}").write_bytes(data[number * size : (number + 1) * size])


def contents(archive: Archive) -> dict[str, bytes]:
    return {name: archive.read(name) for name in archive.entries()}


def one(folder: Path, name: str, data: bytes) -> Archive:
    (folder / name).write_bytes(data)
    return open_archive(folder / name)
