"""Uniform, hardened access to the files of an archive in a folder, tar, tar.gz or zip."""

from data_prep.archive.access import (
    DEFAULT_LIMIT,
    SPOOL_LIMIT,
    Archive,
    Folder,
    LinkedFolder,
    open_archive,
)
from data_prep.archive.containers import ArchiveError, Entry

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
