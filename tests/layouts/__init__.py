"""Tiny, valid archives for every reader: <reader>.py has `write(root)` and optionally `OPTIONS` for
its reader. OTHER_LAYOUTS are further ones of a reader.

The fuzzing and the convert-then-verify tests run on them, so each has the complete layout:
locations, dates, splits, labels.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.archive import ArchiveError, open_archive
from data_prep.reader import Files, Item, Reader, SkipSample
from data_prep.readers import reader_class
from eo_jax.schema import Sample

OTHER_LAYOUTS = {"geotiff-bands": "geotiff"}  # {layout: reader}


def make_reader(name: str, root: Path, **options: Any) -> Reader:
    """The reader of that name, or of that layout, for a folder or file."""
    return reader_class(OTHER_LAYOUTS.get(name, name))(open_archive(root), **options)


def read_item(reader: Reader, item: Item) -> Sample:
    """The sample of one item."""
    return reader.read(item, Files(reader.archive, item))


def read_all(name: str, root: Path, **options: Any) -> list[Sample]:
    """Every sample of an archive that is not skipped, in order."""
    reader, found = make_reader(name, root, **options), []
    for item in reader.items():
        with contextlib.suppress(SkipSample):
            found.append(read_item(reader, item))
    return found


def reject(name: str, root: Path, *words: str, **options: Any) -> None:
    """Asserts that reading fails with an ArchiveError that contains all words."""
    with pytest.raises(ArchiveError) as caught:
        read_all(name, root, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def write(name: str, root: Path) -> dict[str, Any]:
    """Writes the tiny archive of a reader; returns the options that its reader needs."""
    module = importlib.import_module(f"{__name__}.{re.sub('[-.]', '_', name)}")
    root.mkdir(parents=True, exist_ok=True)
    module.write(root)
    return getattr(module, "OPTIONS", {})
