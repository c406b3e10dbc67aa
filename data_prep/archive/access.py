"""Uniform read access to an archive: a folder, or tar, tar.gz and zip files as if extracted.

    archive = open_archive(Path("SSL4EO-L"), index_dir=Path("stores/ssl4eo_l/index"))
    for name in archive.names((".tif",)):
        data = archive.read(name)

The long pass over a tar.gz is made once; `index_dir` keeps its result (see tar_index.py).
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.archive.containers import (
    MAX_MEMBERS,
    ArchiveError,
    Entry,
    container_of,
    group_parts,
    io_errors,
    needs_extraction,
    normalise_name,
    open_regular,
    regular_status,
    require_regular,
)
from data_prep.archive.tar_index import Tar
from data_prep.archive.zip_index import Zip

__all__ = [
    "DEFAULT_LIMIT",
    "SPOOL_LIMIT",
    "Archive",
    "ArchiveError",
    "Entry",
    "Folder",
    "LinkedFolder",
    "open_archive",
]

DEFAULT_LIMIT = 512_000_000  # bytes of a file that is read into memory
SPOOL_LIMIT = 64_000_000_000  # bytes of a member that is unpacked to a temporary file
MAX_OPEN = 8  # tar.gz files with their seek points in memory at a time
MAX_SPOOLED = 4  # temporary files kept for the next call: an image and its label maps
# More are kept while they are small together: the band files of a scene, for its next patch.
MAX_SPOOLED_BYTES = 2_000_000_000


class Folder:
    """The files below a folder, or one of them. Links are followed only to files below the folder.

    Attributes:
        real: its path without links.
        only: the name of the file, where the archive is a single file.
    """

    def __init__(self, real: Path, only: str | None = None):
        self.real, self.only = real, only

    def entries(self) -> dict[str, Entry]:
        """{name: Entry} of its files, without hidden ones. Raises ArchiveError."""
        if self.only:
            return {self.only: self.entry(self.only)}
        found, folders = dict[str, Entry](), [""]
        while folders:
            folder = folders.pop()
            for file in _listing(self.real / folder, folder):
                name = normalise_name(folder + file.name, folder or ".")
                if name is None:
                    continue
                if self._is_folder(file, name):
                    folders.append(f"{name}/")
                else:
                    found[name] = self._entry(file, name)
                if len(found) + len(folders) > MAX_MEMBERS:
                    raise ArchiveError(
                        folder or ".", f"the archive has more than {MAX_MEMBERS:,} files; split it"
                    )
        return found

    def _entry(self, file: os.DirEntry, name: str) -> Entry:
        if file.is_symlink():
            self._target(name)
        with io_errors(name):
            status = file.stat()
        require_regular(status, name)
        return Entry(status.st_size, status.st_mtime_ns)

    def entry(self, name: str) -> Entry | None:
        """The entry of one file, or None where there is none."""
        path = self.path(name)
        if path is None:
            return None
        status = regular_status(path, name)
        return Entry(status.st_size, status.st_mtime_ns)

    def path(self, name: str) -> Path | None:
        """The path of the file without links, or None where there is none.

        Raises ArchiveError where it is not below the folder.
        """
        if (self.only and name != self.only) or not os.path.lexists(self.real / name):
            return None
        return self._target(name)

    def _target(self, name: str) -> Path:
        """The path that a name resolves to.

        Raises ArchiveError outside the folder, and for a link to nothing or to a folder.
        """
        path = self.real / name
        target = Path(os.path.realpath(path))
        if not self._is_allowed(target):
            raise ArchiveError(
                name,
                f"is a link to {target}, outside the archive; give --follow-links if you trust it, "
                "or the real folder as --input",
            )
        if not os.path.lexists(target):
            raise ArchiveError(
                name,
                f"is a link to {target}, which does not exist; remove the link, or put the file "
                "there",
            )
        if path.is_symlink() and target.is_dir():
            raise ArchiveError(
                name,
                f"is a link to the folder {target}, which would be read twice; remove the link",
            )
        return target

    def _is_folder(self, file: os.DirEntry, name: str) -> bool:
        """Whether a file of the listing is a folder that is listed as well. Raises ArchiveError."""
        return file.is_dir(follow_symlinks=False)

    def _is_allowed(self, target: Path) -> bool:
        return target.is_relative_to(self.real)


class LinkedFolder(Folder):
    """A folder whose links are followed to files and folders anywhere, for archives that the user
    trusts.
    """

    def __init__(self, real: Path, only: str | None = None):
        super().__init__(real, only)
        self._listed: set[Path] = set()  # folders, so that none is listed twice

    def entries(self) -> dict[str, Entry]:
        self._listed = {self.real}
        return super().entries()

    def _is_folder(self, file: os.DirEntry, name: str) -> bool:
        if not file.is_dir():
            return False
        target = Path(os.path.realpath(self.real / name))
        if target in self._listed:
            raise ArchiveError(
                name, f"shows the folder {target} a second time; remove the link or the folder"
            )
        self._listed.add(target)
        return True

    def _is_allowed(self, target: Path) -> bool:
        return True


def _listing(path: Path, folder: str) -> list[os.DirEntry]:
    with io_errors(folder or "."), os.scandir(path) as files:
        return list(files)


class Archive:
    """The files of an archive by name, "folder/file.tif".

    It is pickled for worker processes without open files or lists.

    Names do not depend on whether an archive is extracted: members of a container appear in the
    container's folder. An extracted file is preferred to a member of the same name. Hidden files
    are ignored.

    Attributes:
        root: the path that the user gave, a folder or a file.
    """

    def __init__(
        self,
        root: Path,
        folder: Folder | None,
        containers: tuple[tuple[str, Tar | Zip], ...] | None,
        index_dir: Path | None,
    ):
        self.root = root
        self._folder, self._containers, self._index_dir = folder, containers, index_dir
        self._reset()

    def _reset(self) -> None:
        self._entries: dict[str, Entry] | None = None
        self._names: list[str] = []
        self._opened: collections.deque[Tar] = collections.deque()
        self._spools: collections.deque[_Spool] = collections.deque()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: self.__dict__[name] for name in ("root", "_folder", "_containers", "_index_dir")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def entries(self) -> Mapping[str, Entry]:
        """{name: Entry}, sorted by name; listed once per process. Raises ArchiveError."""
        if self._entries is None:
            found = self._scan()
            self._names = sorted(found)
            self._entries = {name: found[name] for name in self._names}
        return self._entries

    def entry(self, name: str) -> Entry:
        """The entry of one file, without listing all. Raises ArchiveError where there is none."""
        source, inner = self._find(name)
        return source.entry(inner)

    def names(self, suffixes: tuple[str, ...]) -> list[str]:
        """The names that end in one of `suffixes`, ignoring case, sorted."""
        suffixes = tuple(suffix.lower() for suffix in suffixes)
        return [name for name in self.entries() if name.lower().endswith(suffixes)]

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self.entries()

    def folders(self, below: str = "") -> list[str]:
        """Sorted names, relative to `below`, of the non-empty folders directly in folder `below`
        ("" for the top).
        """
        self.entries()
        prefix, found = f"{below}/" if below else "", []
        at = bisect.bisect_left(self._names, prefix)
        while at < len(self._names) and self._names[at].startswith(prefix):
            child, slash, _ = self._names[at][len(prefix) :].partition("/")
            if slash:
                found.append(child)
                at = bisect.bisect_left(self._names, f"{prefix}{child}0", at)  # "0" follows "/"
            else:
                at += 1
        return sorted(found)

    def read(self, name: str, limit: int = DEFAULT_LIMIT) -> bytes:
        """The whole file.

        Raises ArchiveError where it is absent or damaged, has vanished, or has more than `limit`
        bytes.
        """
        source, inner = self._find(name)
        if isinstance(source, Folder):
            return _read_file(source.path(inner), name, limit)
        _check_size(source.entry(inner).size, name, limit)
        return b"".join(source.chunks(inner))

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local path of the file, for formats that are read by window.

        A member of a tar or zip is unpacked to a temporary file (below TMPDIR), which is kept for
        the next calls until MAX_SPOOLED and MAX_SPOOLED_BYTES of others followed or the process
        ends. Raises ArchiveError like `read`, and where the disk is full.
        """
        source, inner = self._find(name)
        if isinstance(source, Folder):
            path = source.path(inner)
            regular_status(path, name)
            yield path
        else:
            # A reference, so that it outlives its position in the queue.
            spool = next((spool for spool in self._spools if spool.name == name), None)
            if spool is None:
                spool = _Spool(name, source, inner)
                self._spools.append(spool)
                self._forget_spools()
            yield spool.path

    def _forget_spools(self) -> None:
        """Lets go of the oldest temporary files, which remain as long as somebody reads them."""
        size = sum(spool.size for spool in self._spools)
        while len(self._spools) > MAX_SPOOLED and size > MAX_SPOOLED_BYTES:
            size -= self._spools.popleft().size

    # ------------------------------------------------------------------ finding files

    def _find(self, name: str) -> tuple[Folder | Tar | Zip, str]:
        """The folder or container that has the file, and its name there."""
        if normalise_name(name, name) == name and name:
            if (
                self._folder
                and (self._folder.only or container_of(name) is None)
                and self._folder.path(name)
            ):
                return self._folder, name
            for prefix, container in self._all_containers():
                if name.startswith(prefix) and container.entry(name.removeprefix(prefix)):
                    self._release_others(container)
                    return container, name.removeprefix(prefix)
        if self._entries is not None and name in self._entries:
            raise ArchiveError(
                name, "vanished while the archive was read; put it back and start again"
            )
        raise ArchiveError(name, "no such file in the archive; check that the archive is complete")

    def _release_others(self, container: Tar | Zip) -> None:
        """Frees the tar that was opened first once more than MAX_OPEN are open."""
        if isinstance(container, Tar) and container not in self._opened:
            self._opened.append(container)
        if len(self._opened) > MAX_OPEN:
            self._opened.popleft().release()

    def _all_containers(self) -> tuple[tuple[str, Tar | Zip], ...]:
        if self._containers is None:
            self.entries()
        return self._containers

    def _scan(self) -> dict[str, Entry]:
        files = self._folder.entries() if self._folder else {}
        if self._containers is None:
            self._containers = _containers(
                self._folder.real,
                {name: entry.size for name, entry in files.items()},
                self._index_dir,
            )
        if not self._folder or not self._folder.only:
            files = {name: entry for name, entry in files.items() if container_of(name) is None}
        if files and all(map(needs_extraction, files)):
            raise _needs_extraction(min(files))
        members = _merge_members(self._containers, files)
        return members | files


def _containers(
    real: Path, sizes: Mapping[str, int], index_dir: Path | None
) -> tuple[tuple[str, Tar | Zip], ...]:
    """(prefix of its members' names, container) of each container among the files {name: bytes} of
    a folder.
    """
    found = []
    for name, parts in sorted(group_parts(sizes).items()):
        prefix = name[: name.rfind("/") + 1]
        paths = tuple(Path(os.path.realpath(real / part)) for part in parts)
        found.append((prefix, _container(name, paths, index_dir)))
    return tuple(found)


def _container(name: str, parts: tuple[Path, ...], index_dir: Path | None) -> Tar | Zip:
    is_zip = container_of(name).lower().endswith(".zip")
    return Zip(name, parts) if is_zip else Tar(name, parts, index_dir)


def _merge_members(
    containers: tuple[tuple[str, Tar | Zip], ...], extracted: Mapping[str, Entry]
) -> dict[str, Entry]:
    """The members of all containers that are not extracted.

    Raises ArchiveError where two containers have a file of the same name.
    """
    found, owners = dict[str, Entry](), dict[str, str]()
    for prefix, container in containers:
        for inner, entry in container.entries().items():
            name = prefix + inner
            if name in extracted:
                continue
            if name in found:
                raise ArchiveError(
                    name,
                    f"is in {owners[name]} and in {container.name}; move one of the two out of the "
                    "folder, or extract both",
                )
            found[name], owners[name] = entry, container.name
    return found


def _read_file(path: Path, name: str, limit: int) -> bytes:
    with io.BufferedReader(open_regular(path, name)) as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size, name, limit)
        with io_errors(name):
            data = file.read(size + 1)
    if len(data) != size:
        raise ArchiveError(
            name,
            f"changed while it was being read, from {size:,} bytes to {len(data):,} or more; start "
            "again when it is complete",
        )
    return data


def _check_size(size: int, name: str, limit: int) -> None:
    if size > limit:
        raise ArchiveError(
            name,
            f"has {size / 1e6:,.1f} MB, at most {limit / 1e6:,.1f} MB; it is damaged or not a file "
            "of this archive: remove it",
        )


class _Spool:
    """A member as a temporary file, which is removed with the last reference to it."""

    def __init__(self, name: str, container: Tar | Zip, inner: str):
        self.size = container.entry(inner).size
        _check_size(self.size, name, SPOOL_LIMIT)
        folder = tempfile.mkdtemp(prefix="data_prep_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.name, self.path = name, Path(folder) / PurePosixPath(inner).name
        try:
            with open(self.path, "xb") as file:
                file.writelines(container.chunks(inner))
        except OSError as error:
            raise ArchiveError(
                name,
                f"cannot be unpacked to {folder} ({error.strerror}); set TMPDIR to a disk with "
                "free space",
            ) from error


# ------------------------------------------------------------------ opening


def open_archive(
    path: Path, index_dir: Path | None = None, folder: type[Folder] = Folder
) -> Archive:
    """The archive in a folder, in a tar, tar.gz or zip file (or the first part of a split one), or
    in a single file of another kind.

    `folder` says which links of a folder are followed; those in tar and zip files never are.
    `index_dir` keeps the tables of tar files. Lists nothing yet. Raises ArchiveError.
    """
    if str(path).startswith("/vsi"):
        raise ArchiveError(
            str(path),
            "paths of GDAL's virtual file systems are not supported; give a local folder or file",
        )
    real = Path(os.path.realpath(path))
    if real.is_dir():
        return Archive(path, folder(real), None, index_dir)
    if not real.exists():
        raise ArchiveError(str(path), "no such folder or file; check the path of --input")
    regular_status(real, str(path))
    if needs_extraction(real.name):
        raise _needs_extraction(str(path))
    if container_of(real.name) is None:
        return Archive(path, Folder(real.parent, real.name), (), index_dir)
    parts = _parts_of(real)
    return Archive(path, None, (("", _container(real.name, parts, index_dir)),), index_dir)


def _needs_extraction(name: str) -> ArchiveError:
    return ArchiveError(
        name,
        "this kind cannot be read in place; extract it with `tar -xf`, `7z x` or `unrar x` first "
        "and give the folder",
    )


def _parts_of(first: Path) -> tuple[Path, ...]:
    """The parts of a container, given its first part or all of it in one file.

    Raises ArchiveError for another part.
    """
    whole = container_of(first.name)
    if whole == first.name:
        return (first,)
    sizes = {
        file.name: file.stat().st_size
        for file in _listing(first.parent, ".")
        if file.name != whole and container_of(file.name) == whole
    }
    groups = group_parts(sizes)
    names = groups.get(first.name)
    if names is None:
        begin = next(names[0] for names in groups.values() if first.name in names)
        raise ArchiveError(first.name, f"is not the first part; give {begin}, or the folder")
    return tuple(first.parent / name for name in names)
