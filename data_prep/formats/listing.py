"""Listing the files of an archive: images, split lists, label folders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import left_out
from data_prep.reader import File, Item

TIFF = (".tif", ".tiff")
Found = TypeVar("Found")
_TRIES = 16  # more bad files in a row are not a few damaged ones


def image_files(archive: Archive, below: str = "") -> list[str]:
    """Sorted names of the *.tif and *.tiff files below a folder of the archive, ignoring case."""
    prefix = f"{below}/" if below else ""
    return [name for name in archive.names(TIFF) if name.startswith(prefix)]


def sorted_by_id(items: Iterable[Item]) -> list[Item]:
    """The items sorted by id. Raises ArchiveError where two have the same id."""
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


def items_of(images: Iterable[tuple[str, Callable[[], Iterable[Item]]]]) -> list[Item]:
    """The items of all images, each given as (name, function that lists it), sorted by id.

    An image whose listing raises ArchiveError is left out, see `left_out`.
    """
    return sorted_by_id(_listed(images))


def first_readable(names: Iterable[str], read: Callable[[str], Found]) -> Found:
    """What `read` says of the first file that it can read, among the first _TRIES.

    Raises the ArchiveError of the first file where it can read none; `names` is not empty.
    """
    errors = []
    for name in itertools.islice(names, _TRIES):
        try:
            return read(name)
        except ArchiveError as error:
            errors.append(error)
    raise errors[0]


def _listed(images: Iterable[tuple[str, Callable[[], Iterable[Item]]]]) -> Iterator[Item]:
    for name, items in images:
        with left_out.image(name):
            yield from list(items())


def text_lines(archive: Archive, name: str, limit: int = 200_000_000) -> list[str]:
    """The non-blank lines of a text file, stripped. Raises ArchiveError where it is not UTF-8."""
    try:
        text = archive.read(name, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(
            name, f"is not UTF-8 text ({error.reason} at byte {error.start}); copy it again"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def split_lists(
    archive: Archive, lists: Mapping[str, str], present: Iterable[str], below: str = ""
) -> dict[str, str]:
    """{name: split} from split lists {split: file with one name per line}; names are relative to
    `below`. Missing lists are ignored.

    Lists must be complete: raises ArchiveError for a name that is not in `present`, for one in two
    lists, and for one of `present` in none.
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
                    f"lists {name!r}, which is also in {lists[found[name]]}; keep one of the two "
                    "lines",
                )
            found[name] = split
    unlisted = sorted(present - set(found))
    if lines and unlisted:
        raise ArchiveError(
            f"{below}{unlisted[0]}",
            f"is in no split list, the first of {len(unlisted)} such images; list them, or remove "
            f"{', '.join(sorted(lists.values()))}",
        )
    return found


def label_folders(archive: Archive, labels: Sequence[str]) -> dict[str, str]:
    """{label name: folder} of --labels, folders of the archive.

    Raises ArchiveError where there is no such folder.
    """
    for label in labels:
        if not any(name.startswith(f"{label}/") for name in archive.entries()):
            raise ArchiveError(
                label,
                "no such label folder, or an empty one; --labels takes names of folders of the "
                "archive, such as landuse",
            )
    return {PurePosixPath(label).name: label for label in labels}


def files_with_labels(
    archive: Archive, image: str, below: str, folders: Mapping[str, str]
) -> tuple[File, ...]:
    """The files of an item: an image, and its label maps at the same path below each label folder;
    or, where the label folder is beside that of the images, below it: LULC/x.tif of S2L2A/x.tif.

    Raises ArchiveError where a map is missing.
    """
    inner = image.removeprefix(f"{below}/") if below else image
    return File("image", image), *(
        File(label, _label_map(archive, image, label, folder, inner))
        for label, folder in folders.items()
    )


def _label_map(archive: Archive, image: str, label: str, folder: str, inner: str) -> str:
    own, _, beside = inner.partition("/")
    names = [f"{folder}/{inner}", *([f"{folder}/{beside}"] if beside and own != folder else [])]
    found = next((name for name in names if archive.exists(name)), None)
    if found is None:
        other = f", or as {names[1]}" if names[1:] else ""
        raise ArchiveError(
            names[0], f"no such file, but {image} needs its label map {label!r} there{other}"
        )
    return found
