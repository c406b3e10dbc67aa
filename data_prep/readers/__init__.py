"""What a reader of an archive is. The files in this folder are the list of readers:
`spectral_earth.py` is read as `spectral-earth`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Protocol

from data_prep.archive import DEFAULT_LIMIT, Archive, ArchiveError
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

TIFF = (".tif", ".tiff")


class LeftOut(Exception):
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
        """The sample of an item. Raises ArchiveError for anything but a good file, LeftOut for what
        the options do not want.
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


def names() -> list[str]:
    """The readers there are."""
    return sorted(
        re.sub(r"-v(\d)-(\d)$", r"-v\1.\2", module.name.replace("_", "-"))
        for module in pkgutil.iter_modules(__path__)
    )


def reader_class(name: str) -> type:
    """The class of the reader of that name."""
    return importlib.import_module("data_prep.readers." + re.sub("[-.]", "_", name)).Reader


# ------------------------------------------------------------------ what readers share


def image_files(archive: Archive, below: str = "") -> list[str]:
    """Names of the *.tif and *.tiff files below a folder of the archive, in any case of letters,
    sorted.
    """
    prefix = f"{below}/" if below else ""
    return [name for name in archive.names(TIFF) if name.startswith(prefix)]


def sorted_by_id(items: Iterable[Item]) -> list[Item]:
    """The items sorted by id. Raises ArchiveError where two have one id."""
    found: dict[str, Item] = {}
    for item in items:
        if item.id in found:
            raise ArchiveError(
                item.files[0].name,
                f"has the same id {item.id!r} as {found[item.id].files[0].name}; rename one of "
                "them",
            )
        found[item.id] = item
    return [found[name] for name in sorted(found)]


def text_lines(archive: Archive, name: str, limit: int = 200_000_000) -> list[str]:
    """The lines of a text file that are not blank, stripped. Raises ArchiveError where it is not
    UTF-8.
    """
    try:
        text = archive.read(name, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(
            name, f"is no UTF-8 text ({error.reason} at byte {error.start}); copy it again"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def split_lists(
    archive: Archive, lists: Mapping[str, str], present: Iterable[str], below: str = ""
) -> dict[str, str]:
    """{name: split} of split lists {split: file of one name a line}; names are relative to `below`.
    Lists that are not there are left away.

    Half a list is a mistake: raises ArchiveError for a name that is not in `present`, for one in
        two lists, and for one of `present` in none.
    """
    lines = {
        split: (file, text_lines(archive, file))
        for split, file in lists.items()
        if archive.exists(file)
    }
    present, found = set(present), dict[str, str]()
    for split, (file, names) in lines.items():
        for name in names:
            if name not in present:
                raise ArchiveError(
                    file,
                    f"lists {name!r}, but there is no {below}{name}; remove the line, or add the "
                    "file",
                )
            if name in found:
                raise ArchiveError(
                    file,
                    f"lists {name!r}, which {lists[found[name]]} has already; keep one of the two "
                    "lines",
                )
            found[name] = split
    left = sorted(present - set(found))
    if lines and left:
        there = ", ".join(sorted(lists.values()))
        raise ArchiveError(
            f"{below}{left[0]}",
            f"is in no split list, as {len(left)} images are; list them, or remove {there}",
        )
    return found


def label_folders(archive: Archive, labels: Sequence[str]) -> dict[str, str]:
    """{label name: folder} of --labels, folders of the archive. Raises ArchiveError for what is
    none.
    """
    for label in labels:
        if not any(name.startswith(f"{label}/") for name in archive.entries()):
            raise ArchiveError(
                label,
                "no such label folder, or nothing in it; --labels takes names of folders of the "
                "archive, such as landuse",
            )
    return {PurePosixPath(label).name: label for label in labels}


def with_labels(
    archive: Archive, image: str, below: str, folders: Mapping[str, str]
) -> tuple[File, ...]:
    """The files of an item: image, and its label maps at the same path below each label folder.
    Raises ArchiveError where one is missing.
    """
    inner = image.removeprefix(f"{below}/") if below else image
    files = [File("image", image)]
    for label, folder in folders.items():
        name = f"{folder}/{inner}"
        if not archive.exists(name):
            raise ArchiveError(
                name, f"no such file, but {image} needs its label map {label!r} there"
            )
        files.append(File(label, name))
    return tuple(files)
