"""The contract of a reader: it lists the items of an archive and reads the sample of each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from data_prep.archive import DEFAULT_LIMIT, Archive
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

# Files beside an image: GDAL's metadata and mask, named as the image with an ending, and a STAC
# item.
AUX, MASK, STAC = ".aux.xml", ".msk", ".json"
SIDECARS = (AUX, MASK, STAC)
_IMAGES = ("tif", "tiff", "jp2")


class SkipSample(Exception):
    """A valid sample that the options exclude, such as a cloudy one.

    The text is the reason, the same for all samples of a kind: it is a key of the manifest's
    "left_out", where they are counted, so a changed text changes the bytes of stores.
    """


class File(NamedTuple):
    """One file of an item: its role ("image", the name of a label, ...) and name in the archive."""

    role: str
    name: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One sample of an archive, not read yet.

    Attributes:
        id: unique in the archive. Items are converted in the order of their ids, so items that
            share a file should be neighbours in that order.
        group: name of the location.
        files: the image first.
        split: None where the archive has no split lists; "pixel" where each pixel has its own
            split, in a label `<name>.split`.
        part: which part of the files the sample is, in the reader's own numbering: a window (row,
            column), or an index in a container.
        sidecars: files beside the others that speak about them, see `with_sidecars`.
    """

    id: str
    group: str
    files: tuple[File, ...]
    split: str | None = None
    part: tuple[int, ...] = ()
    sidecars: tuple[File, ...] = ()

    @property
    def all_files(self) -> tuple[File, ...]:
        """The files and their sidecars."""
        return self.files + self.sidecars


def with_sidecars(archive: Archive, items: Sequence[Item]) -> list[Item]:
    """The items with their sidecars: "image.aux.xml" is that of the role "image"."""
    present = frozenset(archive.names(SIDECARS))
    if not present:
        return list(items)
    return [dataclasses.replace(item, sidecars=tuple(_sidecars(item, present))) for item in items]


def _sidecars(item: Item, present: frozenset[str]) -> Iterator[File]:
    taken = {file.name for file in item.files}
    for role, name in item.files:
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() not in _IMAGES:
            continue
        for sidecar, beside in ((AUX, name + AUX), (MASK, name + MASK), (STAC, stem + STAC)):
            if beside in present and beside not in taken:
                yield File(role + sidecar, beside)


class Files:
    """The files of one item, read on demand. `hashes` collects {name: SHA-256} of files read."""

    def __init__(self, archive: Archive, item: Item):
        self._archive, self._names = archive, {file.role: file.name for file in item.all_files}
        self.hashes: dict[str, str] = {}

    def __contains__(self, role: str) -> bool:
        return role in self._names

    def __getitem__(self, role: str) -> bytes:
        return self.read(role)

    def name(self, role: str) -> str:
        """The file's name in the archive, for error messages."""
        return self._names[role]

    def read(self, role: str, limit: int = DEFAULT_LIMIT) -> bytes:
        """The whole file. Raises ArchiveError."""
        data = self._archive.read(self._names[role], limit)
        self.hashes[self._names[role]] = hashlib.sha256(data).hexdigest()
        return data

    @contextlib.contextmanager
    def local(self, role: str) -> Iterator[Path]:
        """A local path of the file, for formats that are read by window."""
        name = self._names[role]
        with self._archive.local(name) as path:
            self.hashes[name] = _sha256(path, name, self._archive.entry(name).stamp)
            yield path


@functools.lru_cache(64)
def _sha256(path: Path, name: str, stamp: int) -> str:
    """The SHA-256 of a file; cached, so that a scene's files read tile by tile are hashed once.

    Name and stamp are part of the cache key because temporary paths are reused.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Reader(Protocol):
    """Reads archives of one layout.

    A reader is a frozen dataclass of `archive` and its options (see `option`) and is pickled for
    worker processes.

    Attributes:
        TITLE: the archive's display name.
        VERSION: raised with every change that alters the samples, so that no store mixes two
            versions.
        LICENCE: the terms as far as they are known, for the manifest.
        sensors: rows of the sensor table that the samples may have.
    """

    TITLE: ClassVar[str]
    VERSION: ClassVar[int]
    LICENCE: ClassVar[str]
    archive: Archive
    sensors: tuple[Sensor, ...]

    def items(self) -> list[Item]:
        """All items, sorted by id; looks at names, lists and headers only.

        Raises ArchiveError; those about one image go through `formats.listing.items_of`, so that
        the conversion may leave it out.
        """

    def read(self, item: Item, files: Files) -> Sample:
        """The sample of an item.

        Raises ArchiveError for any invalid file, SkipSample for a sample that the options exclude.
        """


@runtime_checkable
class Placed(Protocol):
    """A reader of parts of files, which says where they are."""

    def footprint(self, item: Item) -> list[float] | None:
        """Longitude and latitude of the four corners of an item, [8], from the header of its image;
        None without a georeference. Raises ArchiveError.
        """


def option(
    default: Any, help: str, choices: Sequence[str] | None = None, metavar: str | None = None
) -> Any:
    """A field of a reader that is a command-line option, of the type of its default.

    The field `patch_size` becomes --patch-size.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "choices": choices, "metavar": metavar}
    )


def options(kind: type) -> list[dataclasses.Field]:
    """The fields of a reader that are options."""
    return [field for field in dataclasses.fields(kind) if "help" in field.metadata]
