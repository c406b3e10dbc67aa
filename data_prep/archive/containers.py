"""Shared by folders, tar and zip: error type, limits, name checks, split files read as one."""

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

# Files of an archive, about 300 bytes of memory each; one product of SSL4EO-S12 has 14 million.
MAX_MEMBERS = 50_000_000
MAX_NAME = 4096  # bytes, Linux's limit for a path
CHUNK = 16 * 2**20  # bytes per read of a file that need not be in memory as a whole

# Includes everything that ends a line, because names go into lists with one name per line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:")
_NOT_A_PART = "gz|xz|lz|bz|md|sh"  # two letters after a dot that do not number a part
_PART = rf"(?P<mark>[._-]?(?:part)?[._-]?)(?P<part>(?!{_NOT_A_PART})[a-z]{{2}}|\d{{1,5}})"
_CONTAINER = re.compile(rf"(?P<whole>.+\.(?:tar\.gz|tgz|tar|zip))(?:{_PART})?", re.I)
_NEEDS_EXTRACTION = re.compile(
    r".+\.(?:tar\.(?:zst|xz|bz2|lz|lz4|z)|tzst|txz|tbz2?|7z|rar)(?:[._-]?part[._-]?\w+)?", re.I
)
_NOT_OPENED = ".zarr.zip"  # a Zarr store; its reader opens it


class ArchiveError(ValueError):
    """An archive, or one file of it, that cannot be converted.

    Attributes:
        name: the file or folder, relative to the archive's root.
        reason: the finding, the expectation and the way out.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Entry(NamedTuple):
    """One file of an archive: its size in bytes and modification time in ns since 1970 (whole
    seconds in tar and zip).
    """

    size: int
    stamp: int


# ------------------------------------------------------------------ names


def normalise_name(raw: str, where: str) -> str | None:
    """The name without "." and doubled slashes ("" for the top folder), or None for hidden files:
    .DS_Store, ._x, __MACOSX/.

    Raises ArchiveError about `where` for a name that could lead out of the archive or break a list
    of names.
    """
    fault = _name_fault(raw)
    if fault:
        raise ArchiveError(
            where,
            f"contains the name {raw[:200]!r}, which {fault}; rename it and pack again, or ask the "
            "publisher for a corrected archive",
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


def needs_extraction(name: str) -> bool:
    """Whether the file is a container that cannot be read in place, such as .tar.zst or .rar."""
    return _NEEDS_EXTRACTION.fullmatch(name) is not None


def container_of(name: str) -> str | None:
    """The name of the container that the file is, or is a part of: `x.tar.gz` for `x.tar.gzab`;
    None for any other file.
    """
    match = _CONTAINER.fullmatch(name)
    return (
        match["whole"]
        if match and not needs_extraction(name) and not match["whole"].lower().endswith(_NOT_OPENED)
        else None
    )


# ------------------------------------------------------------------ split files


def group_parts(sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """{first file: all files in order} of each container among files {name: bytes}.

    A complete file is preferred to its parts.

    Parts are numbered like those of `split` (aa, ab, ...) or with digits. Raises ArchiveError for a
    missing part, and for a complete file whose size is not that of its parts together. A missing
    last part is only detected when the container is read.
    """
    wholes, split = [], dict[tuple[str, str], dict[str, str]]()
    for name in sorted(sizes):
        if container_of(name) is None:
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
                f"has {sizes[whole]:,} bytes, but its parts next to it have {together:,}; remove "
                "the incomplete one",
            )
    return found


def _in_order(parts: Mapping[str, str]) -> tuple[str, ...]:
    """The names of {part: name} in order of their parts.

    Raises ArchiveError where a part is missing, or where letters and digits are mixed.
    """
    numbers = {_part_number(part): name for part, name in parts.items()}
    first = parts[min(parts)]
    if len({part.isdigit() for part in parts}) > 1 or len(numbers) != len(parts):
        raise ArchiveError(
            first,
            f"has parts of two kinds ({', '.join(sorted(parts)[:8])}); keep only one kind",
        )
    begin = 1 if min(parts).isdigit() and 0 not in numbers else 0
    missing = next((number for number in range(begin, max(numbers)) if number not in numbers), None)
    if missing is not None:
        present = ", ".join(sorted(parts)[:8])
        raise ArchiveError(
            first,
            f"part {missing + 1 - begin} is missing, found {present}; download it as well, or "
            "rename files that are not parts",
        )
    return tuple(numbers[number] for number in sorted(numbers))


def _part_number(part: str) -> int:
    if part.isdigit():
        return int(part)
    first, second = (ord(letter) - ord("a") for letter in part.lower())
    return first * 26 + second


def open_regular(path: Path, name: str) -> io.FileIO:
    """Opens the file at a path without links, for reading; never blocks.

    Raises ArchiveError about `name` for anything but a regular file.
    """
    regular_status(path, name)  # before opening, because opening can trigger devices
    with io_errors(name):
        file = io.FileIO(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), closefd=True
        )
    try:
        require_regular(os.fstat(file.fileno()), name)  # it may have been replaced in between
    except ArchiveError:
        file.close()
        raise
    return file


def regular_status(path: Path, name: str) -> os.stat_result:
    """The status of a file. Raises ArchiveError about `name` for anything but a regular file."""
    with io_errors(name):
        status = os.stat(path)
    require_regular(status, name)
    return status


def require_regular(status: os.stat_result, name: str) -> None:
    """Raises ArchiveError about `name` for a folder, FIFO, device or socket."""
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
def io_errors(name: str) -> Iterator[None]:
    """Turns errors of the file system into ArchiveError about `name`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(
            name, "vanished while the archive was read; put it back and start again"
        ) from error
    except OSError as error:
        raise ArchiveError(
            name, f"cannot be read ({error.strerror}); check the disk and your permissions"
        ) from error


class Parts(io.RawIOBase):
    """Consecutive files read as one.

    None stays open between reads, so that there can be thousands of containers.

    Raises ArchiveError where a file is absent or has become shorter.
    """

    def __init__(self, paths: Iterable[Path]):
        self._paths = tuple(paths)
        self.stats = tuple(regular_status(path, path.name) for path in self._paths)
        self._ends = tuple(itertools.accumulate(status.st_size for status in self.stats))
        self._at = 0

    @property
    def size(self) -> int:
        """Total bytes of all files."""
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
        path, size = self._paths[number], self.stats[number].st_size
        left = self._ends[number] - self._at
        with open_regular(path, path.name) as file:
            file.seek(size - left)
            count = file.readinto(memoryview(buffer)[:left])
        if not count and len(buffer):
            raise ArchiveError(path.name, f"became shorter than its {size:,} bytes; copy it again")
        self._at += count
        return count
