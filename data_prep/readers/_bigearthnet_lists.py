"""Metadata of BigEarthNet patches: splits, classes, and pairs of Sentinel-1 and 2 patches."""

from __future__ import annotations

import csv
import json
from typing import Any, NamedTuple

from data_prep.archive import Archive, ArchiveError
from data_prep.formats.listing import text_lines
from data_prep.readers import _clc_labels

METADATA = "metadata.csv"
PARQUET = "metadata.parquet"
TO_CSV = (
    f"python -c \"import pandas as p; t = p.read_parquet('{PARQUET}'); "
    f"t.assign(labels=t.labels.map(';'.join)).to_csv('{METADATA}', index=False)\""
)
_COLUMNS = ("patch_id", "labels", "split", "s1_name")
_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_CSV_BYTES = 400_000_000  # twice the size of 480,038 lines of some 350 bytes
_JSON_BYTES = 1_000_000


class PatchInfo(NamedTuple):
    """Split of an S2 patch and, in version 2, its classes, as indices into _clc_labels.NAMES_19."""

    split: str
    classes: tuple[int, ...] = ()


class Lists(NamedTuple):
    """`patches` {S2 patch: PatchInfo} and `pairs` {S1 patch: S2 patch}; both empty where the
    archive has no lists.
    """

    patches: dict[str, PatchInfo]
    pairs: dict[str, str]


def read_version_2(archive: Archive) -> Lists:
    """The contents of metadata.csv.

    Raises ArchiveError where it is invalid, and where there is only metadata.parquet.
    """
    if not archive.exists(METADATA):
        if archive.exists(PARQUET):
            raise ArchiveError(
                PARQUET,
                f"is Parquet, expected {METADATA} next to it; write that with: {TO_CSV}; or give "
                "--splits none",
            )
        return Lists({}, {})
    patches, pairs = dict[str, PatchInfo](), dict[str, str]()
    for row in _rows(archive):
        patch = row["patch_id"]
        if patch in patches or row["s1_name"] in pairs:
            raise ArchiveError(
                METADATA,
                f"has {patch!r} or its S1 patch twice, expected one line per patch; write it again "
                f"with: {TO_CSV}",
            )
        patches[patch] = PatchInfo(_split(row["split"]), _classes(row["labels"]))
        pairs[row["s1_name"]] = patch
    return Lists(patches, pairs)


def read_version_1(archive: Archive) -> Lists:
    """The contents of the split lists {train,val,test}.csv or bigearthnet-{train,val,test}.csv,
    with one S2 patch per line, in the first column.
    """
    patches = dict[str, PatchInfo]()
    for split in ("train", "val", "test"):
        for name in (f"{split}.csv", f"bigearthnet-{split}.csv"):
            for line in text_lines(archive, name) if archive.exists(name) else ():
                patch = line.split(",")[0]
                if patches.setdefault(patch, PatchInfo(split)).split != split:
                    raise ArchiveError(
                        name,
                        f"lists {patch[:100]!r}, which is already in {patches[patch].split!r}; "
                        "keep one of the two lines",
                    )
    return Lists(patches, {})


def _rows(archive: Archive) -> list[dict[str, str]]:
    table = csv.DictReader(text_lines(archive, METADATA, _CSV_BYTES), strict=True)
    try:
        rows, columns = list(table), table.fieldnames or ()
    except csv.Error as error:
        raise ArchiveError(
            METADATA, f"is not a CSV file ({error}); write it again with: {TO_CSV}"
        ) from error
    absent = [
        column
        for column in _COLUMNS
        if column not in columns or any(row[column] is None for row in rows)
    ]
    if absent:
        raise ArchiveError(
            METADATA,
            f"has no column {absent[0]}, or lines without it, expected {', '.join(_COLUMNS)}; "
            f"write it with: {TO_CSV}",
        )
    return rows


def _split(name: str) -> str:
    if name not in _SPLITS:
        raise ArchiveError(
            METADATA,
            f"has the split {name[:100]!r}, expected one of {', '.join(_SPLITS)}; write it again "
            f"with: {TO_CSV}",
        )
    return _SPLITS[name]


def _classes(cell: str) -> tuple[int, ...]:
    if cell.startswith("["):
        raise ArchiveError(
            METADATA,
            f"has the labels {cell[:60]!r}, expected names separated by semicolons; write it with: "
            f"{TO_CSV}",
        )
    return _clc_labels.indices_19(METADATA, filter(None, cell.split(";")))


# ------------------------------------------------------------------ JSON files of version 1


def s2_patch_of(archive: Archive, name: str) -> str:
    """The S2 patch that the JSON file of an S1 patch names. Raises ArchiveError."""
    patch = _field(name, archive.read(name, _JSON_BYTES), "corresponding_s2_patch")
    if not isinstance(patch, str) or not patch:
        raise ArchiveError(
            name,
            f"corresponding_s2_patch is {str(patch)[:100]!r}, expected the name of an S2 patch; "
            "copy the file again",
        )
    return patch


def class_names(name: str, data: bytes) -> list[str]:
    """The CORINE classes that the JSON file of a patch names. Raises ArchiveError."""
    names = _field(name, data, "labels")
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ArchiveError(
            name,
            f"labels is {str(names)[:100]!r}, expected a list of class names; copy the file again",
        )
    return names


def _field(name: str, data: bytes, key: str) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(name, "is not JSON; copy the file again") from error
    if not isinstance(found, dict) or key not in found:
        raise ArchiveError(
            name, f"has no {key!r}; copy the file again, or get the metadata files of version 1.0"
        )
    return found[key]
