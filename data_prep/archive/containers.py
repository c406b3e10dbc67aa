"""What folders, tar and zip files have in common: their error, their limits, checked names, and
parts of a split file read as one.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# files of an archive, about 300 bytes of memory each; one product of SSL4EO-S12 has 14 million
MAX_MEMBERS = 50_000_000
MAX_NAME = 4096  # bytes, as Linux allows for a path
CHUNK = (
    16 * 2**20
)  # bytes of a file that are taken at once, where it need not be in memory as a whole

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
)  # with everything that ends a line: names go into lists of one name a line
_DRIVE = re.compile(r"[A-Za-z]:")
_NOT_A_PART = "gz|xz|lz|bz|md|sh"  # two letters after a dot that are no part of a split file
_PART = rf"(?P<mark>[._-]?(?:part)?[._-]?)(?P<part>(?!{_NOT_A_PART})[a-z]{{2}}|\d{{1,5}})"
_CONTAINER = re.compile(rf"(?P<whole>.+\.(?:tar\.gz|tgz|tar|zip))(?:{_PART})?", re.I)
_CLOSED = re.compile(
    r".+\.(?:tar\.(?:zst|xz|bz2|lz|lz4|z)|tzst|txz|tbz2?|7z|rar)(?:[._-]?part[._-]?\w+)?", re.I
)
_NOT_LOOKED_INTO = ".zarr.zip"  # a Zarr store; its reader opens it as it is


class ArchiveError(ValueError):
    """An archive, or one file of it, that cannot be converted.

    Attributes:
        name: the file or folder, relative to the archive's root.
        reason: what was found, what was expected, what to do.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Entry(NamedTuple):
    """One file of an archive: its size in bytes and its modification time in ns since 1970 (tar and
    zip keep whole seconds).
    """

    size: int
    stamp: int


# ------------------------------------------------------------------ names


def checked_name(raw: str, where: str) -> str | None:
    """The name without "." and doubled slashes ("" for the top folder), or None for what is hidden:
    .DS_Store, ._x, __MACOSX/.

    Raises ArchiveError, called `where`, for a name that could lead out of the archive or break a
    list of names.
    """
    fault = _name_fault(raw)
    if fault:
        raise ArchiveError(
            where,
            f"holds the name {raw[:200]!r}, which {fault}; rename it and pack again, or ask the "
            "publisher for a sound archive",
        )
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    return None if any(map(_is_hidden, parts)) else "/".join(parts)


def _is_hidden(part: str) -> bool:
    return part[0] == "." or part == "__MACOSX"


def _name_fault(raw: str) -> str:
    if raw.startswith("/") or _DRIVE.match(raw):
        return "is an absolute path"
    if ".." in raw.split("/"):
        return "leads out of its folder"
    if _CONTROL.search(raw):
        return "has control characters"
    if "\\" in raw:
        return "has a backslash"
    try:
        length = len(raw.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {length:,} bytes, at most {MAX_NAME:,}" if length > MAX_NAME else ""


def is_closed(name: str) -> bool:
    """Whether the file is a container of a kind that cannot be read in place, such as .tar.zst or
    .rar.
    """
    return _CLOSED.fullmatch(name) is not None


def whole_of(name: str) -> str | None:
    """The name of the container that the file is, or is a part of: `x.tar.gz` for `x.tar.gzab`.
    None for any other file.
    """
    match = _CONTAINER.fullmatch(name)
    return (
        match["whole"]
        if match and not is_closed(name) and not match["whole"].lower().endswith(_NOT_LOOKED_INTO)
        else None
    )


# ------------------------------------------------------------------ split files


def group_parts(sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """{first file: all files in order} of each container among files {name: bytes}. A whole file is
    preferred to its parts.

    Parts are numbered as `split` does (aa, ab, ...) or with digits. Raises ArchiveError for a
    missing part, and for a whole file that has another size than its parts together. A missing last
    part is found when the container is read.
    """
    wholes, split = [], dict[tuple[str, str], dict[str, str]]()
    for name in sorted(sizes):
        if whole_of(name) is None:
            continue
        match = _CONTAINER.fullmatch(name)
        if match["part"] is None:
            wholes.append(name)
        else:
            split.setdefault((match["whole"], match["mark"]), {})[match["part"]] = name
    found = {name: (name,) for name in wholes}
    for (whole, _), parts in split.items():
        names = _in_order(parts)
        if whole not in sizes:
            found[names[0]] = names
        elif sizes[whole] != sum(sizes[name] for name in names):
            together = sum(sizes[name] for name in names)
            raise ArchiveError(
                whole,
                f"has {sizes[whole]:,} bytes, its parts beside it {together:,}; remove the one "
                "that is incomplete",
            )
    return found


def _in_order(parts: Mapping[str, str]) -> tuple[str, ...]:
    """The names of {part: name} by their parts. Raises ArchiveError where one is missing, or where
    letters and digits are mixed.
    """
    numbers = {_part_number(part): name for part, name in parts.items()}
    first = parts[min(parts)]
    if len({part.isdigit() for part in parts}) > 1 or len(numbers) != len(parts):
        raise ArchiveError(
            first,
            f"has parts of two kinds ({', '.join(sorted(parts)[:8])}); keep those of one kind",
        )
    begin = 1 if min(parts).isdigit() and 0 not in numbers else 0
    missing = next((number for number in range(begin, max(numbers)) if number not in numbers), None)
    if missing is not None:
        there = ", ".join(sorted(parts)[:8])
        raise ArchiveError(
            first,
            f"part {missing + 1 - begin} is missing, there are {there}; download it, too, or "
            "rename what is no part",
        )
    return tuple(numbers[number] for number in sorted(numbers))


def _part_number(part: str) -> int:
    return (
        int(part)
        if part.isdigit()
        else (ord(part[0].lower()) - 97) * 26 + ord(part[1].lower()) - 97
    )


def open_regular(path: Path, name: str) -> io.FileIO:
    """The file at a path without links, for reading; it never waits. Raises ArchiveError, called
    `name`, for anything but a regular file.
    """
    regular_status(path, name)  # before it is opened, on which devices may act
    with unreadable(name):
        file = io.FileIO(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), closefd=True
        )
    try:
        require_regular(os.fstat(file.fileno()), name)  # it may have been exchanged in between
    except ArchiveError:
        file.close()
        raise
    return file


def regular_status(path: Path, name: str) -> os.stat_result:
    """The status of a file. Raises ArchiveError, called `name`, for anything but a regular file."""
    with unreadable(name):
        status = os.stat(path)
    require_regular(status, name)
    return status


def require_regular(status: os.stat_result, name: str) -> None:
    """Raises ArchiveError, called `name`, for a folder, FIFO, device or socket."""
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "FIFO",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
        stat.S_IFSOCK: "socket",
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind:
        raise ArchiveError(name, f"is a {kind}, expected a file; remove it from the archive")


@contextlib.contextmanager
def unreadable(name: str) -> Iterator[None]:
    """Errors of the file system as ArchiveError, called `name`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(
            name, "vanished while the archive was read; put it back and start again"
        ) from error
    except OSError as error:
        raise ArchiveError(
            name, f"cannot be read ({error.strerror}); check the disk, and that you may read it"
        ) from error


class Parts(io.RawIOBase):
    """Files one after another, read as one. None stays open between reads, so that there may be
    thousands of containers.

    Raises ArchiveError where a file is absent or shorter than it was.
    """

    def __init__(self, paths: Iterable[Path]):
        self._paths = tuple(paths)
        self.stats = tuple(regular_status(path, path.name) for path in self._paths)
        self._ends = tuple(itertools.accumulate(status.st_size for status in self.stats))
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return self._ends[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError(f"seek to byte {at}")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:
        number = bisect.bisect_right(self._ends, self._at)
        if number == len(self._paths):
            return 0
        path, size, left = (
            self._paths[number],
            self.stats[number].st_size,
            self._ends[number] - self._at,
        )
        with open_regular(path, path.name) as file:
            file.seek(size - left)
            count = file.readinto(memoryview(buffer)[:left])
        if not count and len(buffer):
            raise ArchiveError(path.name, f"became shorter than its {size:,} bytes; copy it again")
        self._at += count
        return count
