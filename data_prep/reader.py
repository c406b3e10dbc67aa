"""The contract of a reader: an archive's items, and the sample of each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from data_prep.archive import DEFAULT_LIMIT, Archive
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor


class SkipSample(Exception):
    """A sample that is good but not wanted, such as one under clouds; the text is the reason, the
    same for all of a kind, to be counted.
    """


class File(NamedTuple):
    """One file of an item: its role ("image", the name of a label, ...) and its name in the
    archive.
    """

    role: str
    name: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One sample that an archive has, not read yet.

    Attributes:
        id: unique in the archive; items are converted in the order of their ids, so those that
            share a file should sort together.
        group: the place.
        files: begins with the image.
        split: None where the archive has no split lists; "pixel" where each pixel has its own, in a
            label `<name>.split`.
        part: which part of the files it is, as the reader counts: a window (row, column), a number
            in a container.
    """

    id: str
    group: str
    files: tuple[File, ...]
    split: str | None = None
    part: tuple[int, ...] = ()


class Files:
    """The files of one item, read when asked for. `hashes` collects {name: SHA-256} of each file
    that was read.
    """

    def __init__(self, archive: Archive, item: Item):
        self._archive, self._names = archive, {file.role: file.name for file in item.files}
        self.hashes: dict[str, str] = {}

    def __contains__(self, role: str) -> bool:
        return role in self._names

    def __getitem__(self, role: str) -> bytes:
        return self.read(role)

    def name(self, role: str) -> str:
        """The file's name in the archive, as errors call it."""
        return self._names[role]

    def read(self, role: str, limit: int = DEFAULT_LIMIT) -> bytes:
        """The whole file. Raises ArchiveError."""
        data = self._archive.read(self._names[role], limit)
        self.hashes[self._names[role]] = hashlib.sha256(data).hexdigest()
        return data

    @contextlib.contextmanager
    def local(self, role: str) -> Iterator[Path]:
        """A path of the file on this machine, for formats that are read by window."""
        name = self._names[role]
        with self._archive.local(name) as path:
            self.hashes[name] = _sha256(path, name, self._archive.entry(name).stamp)
            yield path


@functools.lru_cache(8)
def _sha256(path: Path, name: str, stamp: int) -> str:
    """Of a scene that is read tile by tile, once. A member's temporary path may be used again,
    hence name and stamp.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Reader(Protocol):
    """One archive layout. A reader is a frozen dataclass of `archive` and its options (see
    `option`), and goes to worker processes.

    Attributes:
        TITLE: the archive's name for people.
        VERSION: raised with every change that alters what is read, so that no store mixes two
            versions.
        LICENCE: what is known of the terms, for the manifest.
        sensors: rows of the sensor table that its samples may have.
    """

    TITLE: ClassVar[str]
    VERSION: ClassVar[int]
    LICENCE: ClassVar[str]
    archive: Archive
    sensors: tuple[Sensor, ...]

    def items(self) -> list[Item]:
        """All items, sorted by id, by a look at names, lists and headers only. Raises
        ArchiveError.
        """

    def read(self, item: Item, files: Files) -> Sample:
        """The sample of an item. Raises ArchiveError for anything but a good file, SkipSample for
        what the options do not want.
        """


def option(
    default: Any, help: str, choices: Sequence[str] | None = None, metavar: str | None = None
) -> Any:
    """A field of a reader that is an option of the command line: `patch_size` is given as
    --patch-size. Its type is that of the default.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "choices": choices, "metavar": metavar}
    )


def options(kind: type) -> list[dataclasses.Field]:
    """The fields of a reader that are options."""
    return [field for field in dataclasses.fields(kind) if "help" in field.metadata]
