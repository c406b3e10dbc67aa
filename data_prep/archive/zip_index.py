"""Reads zip files, complete or split, in place."""

from __future__ import annotations

import calendar
import contextlib
import functools
import io
import itertools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.archive.containers import (
    CHUNK,
    MAX_MEMBERS,
    ArchiveError,
    Entry,
    Parts,
    normalise_name,
)

# Bytes of the list of members, which zipfile reads at once: about 100 for each of MAX_MEMBERS.
MAX_DIRECTORY = 1_000_000_000
MAX_RATIO = 1032  # maximum expansion of deflate
LOCAL_HEADER = 30  # bytes before a member's data, without its name

_ENCRYPTED = 0x1
_LINKS_AND_DEVICES = (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
_EXTRACT = "extract the archive with `unzip` first and give the folder"
_AGAIN = "it is truncated or damaged: download it again"


class Zip:
    """A zip file. It is pickled for worker processes without its table and handles.

    Attributes:
        name: for error messages.
        parts: its files, in order.
    """

    def __init__(self, name: str, parts: tuple[Path, ...]):
        self.name, self.parts = name, parts

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "parts": self.parts}

    def entries(self) -> dict[str, Entry]:
        """{name: Entry} of its files. Raises ArchiveError."""
        return {name: _entry(info) for name, info in self._table.items()}

    def entry(self, name: str) -> Entry | None:
        """One of `entries`, or None."""
        info = self._table.get(name)
        return info and _entry(info)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, CHUNK at a time; their CRC-32 is checked before the last chunk is
        yielded. Raises ArchiveError.
        """
        info, where = self._table[name], f"{self.name}/{name}"
        left = info.file_size
        with _zip_errors(where), self._zip.open(info) as stream:
            while left:
                data = stream.read(min(CHUNK, left))
                if not data:
                    raise ArchiveError(where, f"ends {left:,} bytes early; {_AGAIN}")
                left -= len(data)
                yield data
            stream.read(1)  # returns nothing, but compares the checksum of an empty file

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        with _zip_errors(self.name):
            return zipfile.ZipFile(_Bounded(Parts(self.parts), self.name))

    @functools.cached_property
    def _table(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise ArchiveError(
                self.name, f"has {len(infos):,} members, at most {MAX_MEMBERS:,}; split it"
            )
        _check_overlap(infos, self._zip.start_dir, self.name)
        table: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            inner = normalise_name(info.orig_filename, self.name)
            if inner is None or info.is_dir():
                continue
            _check_member(info, f"{self.name}/{inner}")
            if inner in table:
                where = (
                    f"at byte {table[inner].header_offset:,}, and as {info.filename!r} at byte "
                    f"{info.header_offset:,}"
                )
                raise ArchiveError(f"{self.name}/{inner}", f"occurs twice, {where}; {_EXTRACT}")
            table[inner] = info
        return table


class _Bounded(io.BufferedReader):
    """Refuses to read more than MAX_DIRECTORY bytes at once, which a damaged or hostile zip file
    can request.
    """

    def __init__(self, parts: Parts, name: str):
        super().__init__(parts, 2**16)
        self._size, self._name = parts.size, name

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._size - self.tell() if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY:
            raise ArchiveError(
                self._name,
                f"its list of members has {wanted:,} bytes, at most {MAX_DIRECTORY:,}; {_EXTRACT}",
            )
        return super().read(size)


def _entry(info: zipfile.ZipInfo) -> Entry:
    try:
        stamp = calendar.timegm(info.date_time)  # zip has no time zone
    except ValueError:  # month 0, which some writers use for an unknown time
        stamp = 0
    return Entry(info.file_size, stamp * 10**9)


def _check_member(info: zipfile.ZipInfo, where: str) -> None:
    """Raises ArchiveError for a member that cannot be read, or that claims more bytes than its data
    can expand to.
    """
    if stat.S_IFMT(info.external_attr >> 16) in _LINKS_AND_DEVICES:
        raise ArchiveError(where, f"is a link or device, expected a file; {_EXTRACT}")
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(where, f"is encrypted; {_EXTRACT}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(
            where,
            f"is compressed by method {info.compress_type}, expected 0 (stored) or 8 (deflate); "
            f"{_EXTRACT}",
        )
    limit = info.compress_size * (MAX_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.file_size > limit:
        raise ArchiveError(
            where,
            f"claims {info.file_size:,} bytes, but its {info.compress_size:,} can expand to at "
            f"most {limit:,}; {_AGAIN}",
        )


def _check_overlap(infos: list[zipfile.ZipInfo], end: int, name: str) -> None:
    """Raises ArchiveError where members overlap, which would let a small file claim any size."""
    order = sorted(infos, key=lambda info: info.header_offset)
    begins = [info.header_offset for info in order[1:]] + [end]
    for info, following in itertools.zip_longest(order, begins[: len(order)]):
        if (
            info.header_offset < 0
            or info.header_offset + LOCAL_HEADER + info.compress_size > following
        ):
            raise ArchiveError(
                f"{name}/{info.filename[:200]}", f"overlaps the next member; {_AGAIN}"
            )


@contextlib.contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    """Turns every error of zipfile into ArchiveError."""
    try:
        yield
    except ArchiveError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ArchiveError(name, f"cannot be read ({error}); {_AGAIN}") from error
