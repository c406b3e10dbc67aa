"""Archives as readers see them: names and bytes, whether in a folder, a tar, a tar.gz or a zip, and
safe against hostile ones.
"""

from data_prep.archive.access import DEFAULT_LIMIT, SPOOL_LIMIT, Archive, open_archive
from data_prep.archive.containers import ArchiveError, Entry

__all__ = ["DEFAULT_LIMIT", "SPOOL_LIMIT", "Archive", "ArchiveError", "Entry", "open_archive"]
