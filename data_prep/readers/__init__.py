"""What a reader of an archive is. The files in this folder are the list of readers: `spectral_earth.py` is read as `spectral-earth`."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from eo_jax.schema import Sample


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


class File(NamedTuple):
    """One file of an item: "image" or the name of a label as its role, and its path relative to the archive's root."""

    role: str
    name: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One sample that an archive has, not read yet. `files` begins with the image; `split` is None where the archive has no split lists."""

    id: str
    group: str
    files: tuple[File, ...]
    split: str | None = None


class Reader(Protocol):
    """One archive layout. A reader is a frozen dataclass of `root` and its options, and goes to worker processes.

    Attributes:
        TITLE: the archive's name for people.
        VERSION: raised with every change that alters what is read, so that no store mixes two versions.
    """

    TITLE: ClassVar[str]
    VERSION: ClassVar[int]
    root: Path

    def items(self) -> list[Item]:
        """All items by a look at folders only, sorted by id. Raises ArchiveError."""

    def read(self, item: Item, contents: Mapping[str, bytes]) -> Sample:
        """The sample in the bytes of the item's files, {role: bytes}. Raises ArchiveError for anything but a good file."""


def names() -> list[str]:
    """The readers there are."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def make_reader(name: str, root: Path, options: dict[str, Any]) -> Reader:
    """The reader of that name. Raises ValueError for an option that it does not have."""
    kind = importlib.import_module(f"data_prep.readers.{name.replace('-', '_')}").Reader
    fields = {field.name for field in dataclasses.fields(kind)} - {"root"}
    for option in options:
        if option not in fields:
            raise ValueError(f"{name} has no option --{option.replace('_', '-')}; leave it out")
    return kind(root, **options)


def image_files(folder: Path) -> list[Path]:
    """The *.tif and *.tiff files below `folder`, in any case of letters, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".tiff") and path.is_file())


def sorted_by_id(items: Iterable[Item]) -> list[Item]:
    """The items sorted by id. Raises ArchiveError where two have one id."""
    found: dict[str, Item] = {}
    for item in items:
        if item.id in found:
            raise ArchiveError(item.files[0].name, f"has the same id {item.id!r} as {found[item.id].files[0].name}; rename one of them")
        found[item.id] = item
    return [found[name] for name in sorted(found)]


def label_folders(root: Path, labels: Sequence[str]) -> dict[str, Path]:
    """{label name: folder} of --labels: each a folder of `root`, or a folder anywhere. Raises ArchiveError for what is neither."""
    folders = {}
    for label in labels:
        folder = root / label  # an absolute path wins over root
        folder = folder if folder.is_dir() else Path(label)
        if not folder.is_dir():
            raise ArchiveError(label, "no such label folder; --labels takes the name of a folder beside the images, or the path of one")
        folders[folder.resolve().name] = folder
    return folders


def with_labels(root: Path, image: Path, below: Path, folders: Mapping[str, Path]) -> tuple[File, ...]:
    """The files of an item: image, and its label maps at the same path below each label folder. Raises ArchiveError where one is missing."""
    files = [File("image", relative_name(root, image))]
    for label, folder in folders.items():
        path = folder / image.relative_to(below)
        if not path.is_file():
            raise ArchiveError(relative_name(root, path), f"no such file, but {files[0].name} needs its label map {label!r} there")
        files.append(File(label, relative_name(root, path)))
    return tuple(files)


def relative_name(root: Path, path: Path) -> str:
    """`path` as seen from `root`, with forward slashes; begins with ../ for a label folder elsewhere."""
    return Path(os.path.relpath(path, root)).as_posix()
