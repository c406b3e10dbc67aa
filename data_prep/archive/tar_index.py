"""Reads tar and tar.gz files, whole or in parts, without extracting them: one pass lists the
members, then each is read where it lies.

A tar.gz can be read from the middle only with seek points, the state of the decompressor every few
megabytes. `Tar` keeps them, with the table of members, as one file in `index_dir`; so the long pass
is made once, and not again by each worker process.

The pass trusts the standard library with what matters: `gzip` checks length and CRC-32 of the whole
stream, and `tarfile` decodes and checks each header block. indexed_gzip only finds the place: it
takes a truncated stream for a short one, and checks nothing that it reads from the middle, so the
table has a CRC-32 a member. Headers are walked here because tarfile's own walk keeps every member
in memory, takes extended headers of any size, and stops without a word at a damaged header.

No limit on the decompressed size is needed: deflate gives at most 1032 bytes for one, nothing of it
is held while listing, and there are at most MAX_POINTS seek points of 32 KB, however large the
archive is.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import indexed_gzip

from data_prep.archive.containers import (
    CHUNK,
    MAX_MEMBERS,
    ArchiveError,
    Entry,
    Parts,
    checked_name,
)
from data_prep.jobs import progress

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = (
    65_536  # bytes of one extended header; what it can say of a name, size and time is far below
)
MAX_SIZE = 2**62  # bytes of a member; beyond any file system, so that offsets stay 64-bit numbers
SPACING = (
    4 * 2**20
    # bytes between seek points: reading a member costs at most that much decompression more; wider
    # for large archives
)
MAX_POINTS = 8192  # seek points of 32 KB: 256 MB of memory a process
MAX_SPACING = 2**29  # bytes; indexed_gzip allocates four times as much
READ = 2**20  # bytes that are taken at once while listing, and of a compressed file
STEP = 2**30  # bytes of the stream between two chances to interrupt

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_RECORD = re.compile(rb"(\d{1,9}) ")
_AGAIN = "it is truncated or damaged: download it again"


class Member(NamedTuple):
    """Where a file lies: offset and size in bytes of the decompressed tar; its modification time in
    ns; its CRC-32 in a tar.gz.
    """

    offset: int
    size: int
    stamp: int
    crc: int | None


class Index(NamedTuple):
    """What the pass over a tar finds: the table of members, a line each, and the seek points of a
    tar.gz as indexed_gzip exports them.
    """

    lines: bytes
    points: bytes


class Tar:
    """A tar or tar.gz. It goes to worker processes without its table and handles, which are made
    again from `index_dir`.

    Attributes:
        name: as errors call it.
        parts: its files, in order.
        index_dir: where the table is kept between processes; None to list the members anew in each.
    """

    def __init__(self, name: str, parts: tuple[Path, ...], index_dir: Path | None = None):
        self.name, self.parts, self.index_dir = name, parts, index_dir
        self._found: Index | None = None  # only where there is no index_dir

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "parts": self.parts, "index_dir": self.index_dir, "_found": None}

    def entries(self) -> dict[str, Entry]:
        """{name: Entry} of its files. Raises ArchiveError."""
        return {name: Entry(member.size, member.stamp) for name, member in self._table.items()}

    def entry(self, name: str) -> Entry | None:
        """One of `entries`, or None."""
        member = self._table.get(name)
        return member and Entry(member.size, member.stamp)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, CHUNK at a time; in a tar.gz their CRC-32 is checked before the last
        comes. Raises ArchiveError.
        """
        member, where, crc = self._table[name], f"{self.name}/{name}", 0
        for begin in range(0, member.size, CHUNK):
            wanted = min(CHUNK, member.size - begin)
            with _damage(where):
                data = self._read(member.offset + begin, wanted)
            crc = zlib.crc32(data, crc)
            last = begin + wanted == member.size
            if len(data) != wanted or (last and member.crc not in (None, crc)):
                raise ArchiveError(
                    where, f"is not what was there when the archive was listed; {_AGAIN}"
                )
            yield data

    def release(self) -> None:
        """Frees the seek points and buffers, until the next read."""
        self.__dict__.pop("_stream", None)

    def _read(self, offset: int, size: int) -> bytes:
        if self._stream:
            return self._stream.pread(size, offset)
        with self._open(io.DEFAULT_BUFFER_SIZE) as file:
            file.seek(offset)
            return file.read(size)

    def _open(self, buffer: int) -> io.BufferedReader:
        return io.BufferedReader(Parts(self.parts), buffer)

    @functools.cached_property
    def _table(self) -> dict[str, Member]:
        return _table_of(self._index().lines)

    @functools.cached_property
    def _stream(self) -> indexed_gzip.IndexedGzipFile | None:
        """The decompressor of a tar.gz."""
        points = self._index().points
        if not points:
            return None
        # With a buffer as wide as the points are apart, members read in the order of the tar are
        # decompressed about twice, not many times.
        total = max((member.offset + member.size for member in self._table.values()), default=0)
        stream = indexed_gzip.IndexedGzipFile(
            fileobj=self._open(READ), buffer_size=min(_spacing(total, self.name), CHUNK)
        )
        stream.import_index(fileobj=io.BytesIO(points))
        return stream

    def _index(self) -> Index:
        """From index_dir, or by the long pass."""
        if self.index_dir is None:
            self._found = self._found or self._scan()
            return self._found
        path = self.index_dir / f"{self._key()}.members"
        index = load_index(path)
        if index is None:
            index = self._scan()
            save_index(path, index)
        return index

    def _key(self) -> str:
        """A hash of the names, sizes and modification times of the parts: other files, another
        index.
        """
        facts = [
            (path.name, status.st_size, status.st_mtime_ns)
            for path, status in zip(self.parts, Parts(self.parts).stats, strict=True)
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _scan(self) -> Index:
        with _damage(self.name):
            with self._open(io.DEFAULT_BUFFER_SIZE) as file:
                if (
                    file.read(2) != b"\x1f\x8b"
                ):  # not by its name: browsers are known to decompress on the way
                    return Index(_lines_of(list_members(file, self.name, _no_checksum)), b"")
            with (
                self._open(READ) as file,
                gzip.GzipFile(fileobj=file) as stream,
                self._shown(file) as advance,
            ):

                def checksum(member: BinaryIO, size: int) -> int:
                    advance()
                    return _checksum(member, size)

                table = list_members(stream, self.name, checksum)
                while stream.read(READ):  # to its end, where the checksum is
                    advance()
                return Index(
                    _lines_of(table), _find_points(file, stream.tell(), self.name, advance)
                )

    @contextlib.contextmanager
    def _shown(self, file: BinaryIO) -> Iterator[Callable[[], None]]:
        """Shows how far the two passes over a tar.gz are, in compressed megabytes. Gives a function
        to call now and then.
        """
        size, done = sum(status.st_size for status in Parts(self.parts).stats), 0
        with progress.show(f"list {self.name}", 2 * size // 10**6, "MB") as show:

            def advance() -> None:
                nonlocal done
                here = (
                    file.tell() if file.tell() >= done else size + file.tell()
                )  # the second pass begins at the front
                show(here // 10**6 - done // 10**6, here - done)
                done = here

            yield advance


def _spacing(total: int, name: str) -> int:
    """Bytes between the seek points of a stream of `total` bytes. Raises ArchiveError where they
    would be too far apart.
    """
    spacing = max(SPACING, -(-total // MAX_POINTS))
    if spacing > MAX_SPACING:
        raise ArchiveError(
            name,
            f"holds {total / 1e12:,.1f} TB, too much to be read in place; extract it with `tar "
            "-xzf` first and give the folder",
        )
    return spacing


def _find_points(file: BinaryIO, total: int, name: str, advance: Callable[[], None]) -> bytes:
    """The seek points of a gzip stream that has been found good and has `total` bytes decompressed.
    Raises ArchiveError.
    """
    file.seek(0)
    stream = indexed_gzip.IndexedGzipFile(
        fileobj=file, spacing=_spacing(total, name), skip_crc_check=True, buffer_size=READ
    )
    for offset in [*range(STEP, total, STEP), total]:
        stream.seek(offset)
        advance()
    points = io.BytesIO()
    stream.export_index(fileobj=points)
    return points.getvalue()


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Every error of decompression as ArchiveError."""
    try:
        yield
    except (
        EOFError,
        zlib.error,
        OSError,
        indexed_gzip.NotCoveredError,
    ) as error:  # ZranError, CrcError and BadGzipFile are OSErrors
        raise ArchiveError(name, f"cannot be read ({error}); {_AGAIN}") from error


# ------------------------------------------------------------------ the members of a tar


def _checksum(stream: BinaryIO, size: int) -> int:
    """CRC-32 of the next `size` bytes, or of all there are."""
    crc = 0
    while size and (data := stream.read(min(READ, size))):
        crc, size = zlib.crc32(data, crc), size - len(data)
    return crc


def _no_checksum(stream: BinaryIO, size: int) -> None:
    """An uncompressed tar has no checksum of its contents, and they are not read to list it."""


def list_members(
    stream: BinaryIO, name: str, checksum: Callable[[BinaryIO, int], int | None]
) -> dict[str, Member]:
    """{name: Member} of the files of a tar, seeking forward only. Hidden files are left out.
    `checksum` reads the data of one.

    Raises ArchiveError, called `name`, for links, devices, sparse files, escaping names, names that
    are there twice, damage and truncation.
    """
    table: dict[str, Member] = {}
    for count, (header, offset) in enumerate(_headers(stream, name), 1):
        if count > MAX_MEMBERS:
            raise ArchiveError(name, f"has more than {MAX_MEMBERS:,} members; split it")
        inner = checked_name(header.name, name)
        if inner is None or header.isdir():
            continue
        if header.type not in _REGULAR:
            kind = _KINDS.get(header.type, f"of the unknown kind {header.type!r}")
            raise ArchiveError(
                f"{name}/{inner}",
                f"is {kind}, expected a file; extract the archive with `tar -x` first and give the "
                "folder",
            )
        if inner in table:
            where = f"at byte {table[inner].offset:,}, and as {header.name!r} at byte {offset:,}"
            raise ArchiveError(
                f"{name}/{inner}",
                f"is there twice, {where}; extract the archive with `tar -x` first and give the "
                "folder",
            )
        table[inner] = Member(
            offset, header.size, int(header.mtime) * 10**9, checksum(stream, header.size)
        )
    return table


def _headers(stream: BinaryIO, name: str) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member's header, and the offset of its data. What extended headers say is put
    into it.
    """
    position, shared, own = 0, dict[str, str](), dict[str, str]()
    while True:
        header = _header(stream, position, name)
        if header is None:
            return
        position += BLOCK
        if header.type in _EXTENDED:
            records = _extended(
                _take(stream, position, header, name), header.type, f"{name} at byte {position:,}"
            )
            (shared if header.type == tarfile.XGLTYPE else own).update(records)
        else:
            _apply({**shared, **own}, header, name)
            own = {}
            yield header, position
        if (
            header.type in _EXTENDED or header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        ):  # others have no data
            position += -(-header.size // BLOCK) * BLOCK


def _header(stream: BinaryIO, position: int, name: str) -> tarfile.TarInfo | None:
    """The header at that offset, or None at the end mark."""
    stream.seek(position)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise ArchiveError(
            name,
            f"ends at byte {position + len(block):,} or before, without the end mark of a tar; "
            f"{_AGAIN}",
        )
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:
        return None
    except tarfile.HeaderError as error:
        raise ArchiveError(
            name, f"has no tar header at byte {position:,} ({error}); it is no tar, or {_AGAIN}"
        ) from error
    _check_size(header.size, name)
    return header


def _check_size(size: int, name: str) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise ArchiveError(name, f"has a member of {size:,} bytes; {_AGAIN}")


def _take(stream: BinaryIO, position: int, header: tarfile.TarInfo, name: str) -> bytes:
    """The data of an extended header."""
    if header.size > MAX_HEADER:
        raise ArchiveError(
            name,
            f"has an extended header of {header.size:,} bytes at byte {position:,}, at most "
            f"{MAX_HEADER:,}; {_AGAIN}",
        )
    data = stream.read(header.size)
    if len(data) < header.size:
        raise ArchiveError(name, f"ends in the header at byte {position:,}; {_AGAIN}")
    return data


def _extended(data: bytes, kind: bytes, where: str) -> dict[str, str]:
    """What an extended header says of path, size and mtime."""
    if kind == tarfile.GNUTYPE_LONGLINK:
        return {}
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": tarfile.nts(data, "utf-8", "surrogateescape")}
    return _pax_records(data, where)


def _pax_records(data: bytes, where: str) -> dict[str, str]:
    """path, size and mtime of records "<length> <key>=<value>\\n", where the length counts the
    whole record.
    """
    records, at = {}, 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else at
        if not match or end <= match.end() or end > len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveError(where, f"has no PAX record at byte {at}; {_AGAIN}")
        key, _, value = (
            data[match.end() : end - 1].decode("utf-8", "surrogateescape").partition("=")
        )
        if key.startswith("GNU.sparse."):
            raise ArchiveError(
                where,
                "has a sparse file, expected a plain one; extract the archive with `tar -x` first "
                "and give the folder",
            )
        if key in ("path", "size", "mtime"):
            records[key] = value
        at = end
    return records


def _apply(records: dict[str, str], header: tarfile.TarInfo, name: str) -> None:
    """Puts the records of extended headers into the header that they belong to."""
    header.name = records.get("path", header.name)
    if "size" in records:
        header.size = _number(records["size"], "size", name)
        _check_size(header.size, name)
    if "mtime" in records:
        header.mtime = _number(records["mtime"], "mtime", name)


def _number(text: str, field: str, name: str) -> int:
    """A number of a PAX record without its fraction."""
    match = re.fullmatch(r"(-?[0-9]{1,20})(?:\.[0-9]*)?", text)
    if not match:
        raise ArchiveError(
            name, f"has a PAX record {field}={text[:50]!r}, expected a number; {_AGAIN}"
        )
    return int(match[1])


# ------------------------------ the index on disk: a line of JSON, a line a member, the seek points


def _lines_of(table: dict[str, Member]) -> bytes:
    return "".join(
        f"{m.offset}\t{m.size}\t{m.stamp}\t{'' if m.crc is None else m.crc}\t{name}\n"
        for name, m in table.items()
    ).encode()


def _table_of(lines: bytes) -> dict[str, Member]:
    rows = (line.split("\t") for line in lines.decode().splitlines())
    return {
        name: Member(int(offset), int(size), int(stamp), int(crc) if crc else None)
        for offset, size, stamp, crc, name in rows
    }


def save_index(path: Path, index: Index) -> None:
    """Writes an index, never half of one. Raises OSError."""
    body = index.lines + index.points
    head = {
        "format": 1,
        "table_bytes": len(index.lines),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(json.dumps(head).encode() + b"\n" + body)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_index(path: Path) -> Index | None:
    """What `save_index` wrote, or None where it is absent or damaged: then the archive is listed
    again.
    """
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["format"] != 1 or hashlib.sha256(body).hexdigest() != facts["sha256"]:
            return None
        return Index(body[: facts["table_bytes"]], body[facts["table_bytes"] :])
    except (OSError, ValueError, KeyError, TypeError):
        return None
