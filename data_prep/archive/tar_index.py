"""Reads tar and tar.gz files, complete or split, in place: one pass lists the members.

Reading from the middle of a tar.gz needs seek points: the state of the decompressor every few
megabytes. `Tar` keeps them, with the table of members, in a file in `index_dir`, so that the long
pass is made once and not again by each worker process.

The pass leaves the critical checks to the standard library: `gzip` checks length and CRC-32 of the
whole stream, and `tarfile` decodes and checks each header block. indexed_gzip only seeks: it
mistakes a truncated stream for a short one, and does not check anything that it reads from the
middle, so the table has a CRC-32 per member. Headers are iterated here because tarfile itself keeps
every member in memory, accepts extended headers of any size, and stops silently at a damaged
header.

The decompressed size needs no limit: deflate expands at most 1032-fold, listing keeps none of the
data, and there are at most MAX_POINTS seek points of 32 KB, whatever the size of the archive.
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
    normalise_name,
)
from data_prep.jobs import progress

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 65_536  # bytes of one extended header; far more than a name, size and time need
MAX_SIZE = 2**62  # bytes of a member; above any file system's limit, so offsets stay 64-bit numbers
# Bytes between seek points, and thus the maximum extra decompression per member; wider for large
# archives.
SPACING = 4 * 2**20
MAX_POINTS = 8192  # seek points of 32 KB: 256 MB of memory per process
MAX_SPACING = 2**29  # bytes; indexed_gzip allocates four times as much
READ = 2**20  # bytes per read while listing, and of a compressed file
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
    """A file in a tar: offset and size in bytes of the decompressed tar, modification time in ns,
    CRC-32 in a tar.gz.
    """

    offset: int
    size: int
    stamp: int
    crc: int | None


class Index(NamedTuple):
    """The result of the pass over a tar: the table of members, one line each, and the seek points
    of a tar.gz as exported by indexed_gzip.
    """

    lines: bytes
    points: bytes


class Tar:
    """A tar or tar.gz.

    It is pickled for worker processes without its table and handles, which are restored from
    `index_dir`.

    Attributes:
        name: for error messages.
        parts: its files, in order.
        index_dir: where the table is kept between processes; None to list the members in each.
    """

    def __init__(self, name: str, parts: tuple[Path, ...], index_dir: Path | None = None):
        self.name, self.parts, self.index_dir = name, parts, index_dir
        self._own_index: Index | None = None  # only without index_dir

    def __getstate__(self) -> dict[str, Any]:
        kept = {"name": self.name, "parts": self.parts, "index_dir": self.index_dir}
        return kept | {"_own_index": None}

    def entries(self) -> dict[str, Entry]:
        """{name: Entry} of its files. Raises ArchiveError."""
        return {name: Entry(member.size, member.stamp) for name, member in self._table.items()}

    def entry(self, name: str) -> Entry | None:
        """One of `entries`, or None."""
        member = self._table.get(name)
        return member and Entry(member.size, member.stamp)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, CHUNK at a time; in a tar.gz their CRC-32 is checked before the last
        chunk is yielded. Raises ArchiveError.
        """
        member, where, crc = self._table[name], f"{self.name}/{name}", 0
        for begin in range(0, member.size, CHUNK):
            wanted = min(CHUNK, member.size - begin)
            with _decompression_errors(where):
                data = self._read(member.offset + begin, wanted)
            crc = zlib.crc32(data, crc)
            last = begin + wanted == member.size
            if len(data) != wanted or (last and member.crc not in (None, crc)):
                raise ArchiveError(where, f"has changed since the archive was listed; {_AGAIN}")
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
        # With a buffer of the spacing of the points, members read in the order of the tar are
        # decompressed about twice, not many times.
        total = max((member.offset + member.size for member in self._table.values()), default=0)
        stream = indexed_gzip.IndexedGzipFile(
            fileobj=self._open(READ), buffer_size=min(_spacing(total, self.name), CHUNK)
        )
        stream.import_index(fileobj=io.BytesIO(points))
        return stream

    def _index(self) -> Index:
        """The index from index_dir, or from the long pass."""
        if self.index_dir is None:
            self._own_index = self._own_index or self._scan()
            return self._own_index
        path = self.index_dir / f"{self._key()}.members"
        index = load_index(path)
        if index is None:
            index = self._scan()
            save_index(path, index)
        return index

    def _key(self) -> str:
        """A hash of the names, sizes and modification times of the parts, which identifies an
        index.
        """
        facts = [
            (path.name, status.st_size, status.st_mtime_ns)
            for path, status in zip(self.parts, Parts(self.parts).stats, strict=True)
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _scan(self) -> Index:
        with _decompression_errors(self.name):
            with self._open(io.DEFAULT_BUFFER_SIZE) as file:
                # Not decided by the name, because browsers may decompress while downloading.
                if file.read(2) != b"\x1f\x8b":
                    return Index(_lines_of(list_members(file, self.name, _no_checksum)), b"")
            with (
                self._open(READ) as file,
                gzip.GzipFile(fileobj=file) as stream,
                self._progress(file) as advance,
            ):

                def checksum(member: BinaryIO, size: int) -> int:
                    advance()
                    return _checksum(member, size)

                table = list_members(stream, self.name, checksum)
                while stream.read(READ):  # to the end, where the checksum is
                    advance()
                points = _find_points(file, stream.tell(), self.name, advance)
                return Index(_lines_of(table), points)

    @contextlib.contextmanager
    def _progress(self, file: BinaryIO) -> Iterator[Callable[[], None]]:
        """Shows the progress of the two passes over a tar.gz, in compressed megabytes.

        Yields a function to call from time to time.
        """
        size, done = sum(status.st_size for status in Parts(self.parts).stats), 0
        with progress.show(f"list {self.name}", 2 * size // 10**6, "MB") as show:

            def advance() -> None:
                nonlocal done
                # The second pass starts at the front again.
                here = file.tell() if file.tell() >= done else size + file.tell()
                show(here // 10**6 - done // 10**6, here - done)
                done = here

            yield advance


def _spacing(total: int, name: str) -> int:
    """Bytes between the seek points of a stream of `total` bytes.

    Raises ArchiveError where they would be too far apart.
    """
    spacing = max(SPACING, -(-total // MAX_POINTS))
    if spacing > MAX_SPACING:
        raise ArchiveError(
            name,
            f"has {total / 1e12:,.1f} TB, too much to read in place; extract it with `tar -xzf` "
            "first and give the folder",
        )
    return spacing


def _find_points(file: BinaryIO, total: int, name: str, advance: Callable[[], None]) -> bytes:
    """The seek points of a checked gzip stream of `total` decompressed bytes.

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
def _decompression_errors(name: str) -> Iterator[None]:
    """Turns every error of decompression into ArchiveError."""
    try:
        yield
    # ZranError, CrcError and BadGzipFile are OSErrors.
    except (EOFError, zlib.error, OSError, indexed_gzip.NotCoveredError) as error:
        raise ArchiveError(name, f"cannot be read ({error}); {_AGAIN}") from error


# ------------------------------------------------------------------ the members of a tar


def _checksum(stream: BinaryIO, size: int) -> int:
    """CRC-32 of the next `size` bytes, or of fewer at the end of the stream."""
    crc = 0
    while size and (data := stream.read(min(READ, size))):
        crc, size = zlib.crc32(data, crc), size - len(data)
    return crc


def _no_checksum(stream: BinaryIO, size: int) -> None:
    """Nothing: listing an uncompressed tar does not read the data."""


def list_members(
    stream: BinaryIO, name: str, checksum: Callable[[BinaryIO, int], int | None]
) -> dict[str, Member]:
    """{name: Member} of the files of a tar, without hidden ones, seeking forward only.

    `checksum` reads the data of a member.

    Raises ArchiveError about `name` for links, devices, sparse files, escaping names, duplicate
    names, damage and truncation.
    """
    table: dict[str, Member] = {}
    for count, (header, offset) in enumerate(_headers(stream, name), 1):
        if count > MAX_MEMBERS:
            raise ArchiveError(name, f"has more than {MAX_MEMBERS:,} members; split it")
        inner = normalise_name(header.name, name)
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
                f"occurs twice, {where}; extract the archive with `tar -x` first and give the "
                "folder",
            )
        table[inner] = Member(
            offset, header.size, int(header.mtime) * 10**9, checksum(stream, header.size)
        )
    return table


def _headers(stream: BinaryIO, name: str) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member's header, with the records of its extended headers applied, and the offset of its
    data.
    """
    position, shared, own = 0, dict[str, str](), dict[str, str]()
    while True:
        header = _header(stream, position, name)
        if header is None:
            return
        position += BLOCK
        if header.type in _EXTENDED:
            records = _extended(
                _header_data(stream, position, header, name),
                header.type,
                f"{name} at byte {position:,}",
            )
            (shared if header.type == tarfile.XGLTYPE else own).update(records)
        else:
            _apply({**shared, **own}, header, name)
            own = {}
            yield header, position
        if _has_data(header):
            position += -(-header.size // BLOCK) * BLOCK


def _has_data(header: tarfile.TarInfo) -> bool:
    unknown = header.type not in tarfile.SUPPORTED_TYPES
    return header.type in _EXTENDED or header.isreg() or unknown


def _header(stream: BinaryIO, position: int, name: str) -> tarfile.TarInfo | None:
    """The header at that offset, or None at the end mark."""
    stream.seek(position)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise ArchiveError(
            name,
            f"ends at byte {position + len(block):,} or earlier, without the end mark of a tar; "
            f"{_AGAIN}",
        )
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:
        return None
    except tarfile.HeaderError as error:
        raise ArchiveError(
            name, f"has no tar header at byte {position:,} ({error}); it is not a tar, or {_AGAIN}"
        ) from error
    _check_size(header.size, name)
    return header


def _check_size(size: int, name: str) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise ArchiveError(name, f"has a member of {size:,} bytes; {_AGAIN}")


def _header_data(stream: BinaryIO, position: int, header: tarfile.TarInfo, name: str) -> bytes:
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
    """path, size and mtime in an extended header."""
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
    """Applies the records of extended headers to the header that they belong to."""
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


# ------------------------------------------------------------------ the index on disk

# One line of JSON, one line per member, the seek points.


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
    """Writes an index atomically. Raises OSError."""
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
    """The index that `save_index` wrote, or None where it is absent or damaged, so that the archive
    is listed again.
    """
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["format"] != 1 or hashlib.sha256(body).hexdigest() != facts["sha256"]:
            return None
        return Index(body[: facts["table_bytes"]], body[facts["table_bytes"] :])
    except (OSError, ValueError, KeyError, TypeError):
        return None
