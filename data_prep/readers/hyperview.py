"""Reads HYPERVIEW as used by SpectralEarth: fields with 150 bands, and four soil properties.

    <root>/images/<sample_index>.npz    `data` [150, h, w], optionally `mask` of the same shape,
                                        true outside the field
    <root>/{train,val}.csv              columns sample_index, P, K, Mg, pH and others; also in
                                        splits/ or splits/hyperview/

Label `targets`: float32 [4], P, K, Mg, pH, to be predicted; standardised as in the lists.
SpectralEarth resizes the images to 128 x 128 (bicubic); here they keep their original, varying
sizes, and every value. Its repository has no test.csv. One field can have several samples, in both
train and val.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats.dtype_rows import rows_by_dtype
from data_prep.formats.listing import sorted_by_id
from data_prep.formats.npyzip import read_npz
from data_prep.reader import File, Files, Item
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

TARGETS = ("P", "K", "Mg", "pH")

_ROWS = rows_by_dtype(get_sensor("hyperview"), "int16", "uint16", "float32")
_SPLITS = ("train", "val", "test")
_LISTS_IN = ("", "splits/", "splits/hyperview/")


@dataclasses.dataclass(frozen=True)
class Reader:
    """HYPERVIEW, one sample per .npz file. Bands are in file order."""

    TITLE: ClassVar[str] = "HYPERVIEW"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = (
        "non-commercial research use with citation of the HYPERVIEW papers (platform.ai4eo.eu)"
    )
    sensors: ClassVar = tuple(_ROWS.values())
    archive: Archive

    def items(self) -> list[Item]:
        images, listed = self._images(), self._lists()
        missing = sorted(set(images) - set(listed))
        if missing:
            raise ArchiveError(
                images[missing[0]],
                f"is in no list, the first of {len(missing)} such images; add their rows, or "
                "remove them",
            )
        return sorted_by_id(self._item(index, images, *listed[index]) for index in listed)

    def read(self, item: Item, files: Files) -> Sample:
        name = item.files[0].name
        arrays = read_npz(name, files["image"], ("data",), ("mask",))
        pixels = arrays["data"]
        _check_pixels(name, pixels)
        return Sample(
            pixels=np.ascontiguousarray(pixels, pixels.dtype.name),
            sensor=_ROWS[pixels.dtype.name].id,
            id=item.id,
            group=item.group,
            labels={"targets": _targets(files.name("targets"), files["targets"])[int(item.id)]},
            masks={"outside_field": _mask(name, arrays["mask"], pixels)}
            if "mask" in arrays
            else {},
        )

    def _images(self) -> dict[int, str]:
        """{sample_index: name}"""
        images = {}
        for name in self.archive.names((".npz",)):
            path = PurePosixPath(name)
            if str(path.parent) != "images" or not path.stem.isdecimal():
                raise ArchiveError(
                    name, "expected images/<sample_index>.npz; move it there, or out of the archive"
                )
            if int(path.stem) in images:
                raise ArchiveError(
                    name, f"has the sample_index of {images[int(path.stem)]}; remove one of them"
                )
            images[int(path.stem)] = name
        return images

    def _lists(self) -> dict[int, tuple[str, str]]:
        """{sample_index: (split, name of its list)}"""
        found = [
            (split, f"{folder}{split}.csv")
            for folder in _LISTS_IN
            for split in _SPLITS
            if self.archive.exists(f"{folder}{split}.csv")
        ]
        if not found:
            raise ArchiveError(
                "train.csv",
                "no such list, nor val.csv; copy data/splits/hyperview of SpectralEarth's "
                "repository to splits/",
            )
        listed: dict[int, tuple[str, str]] = {}
        for split, name in found:
            for index in _targets(name, self.archive.read(name, _LIST_BYTES)):
                if index in listed:
                    raise ArchiveError(
                        name,
                        f"lists sample_index {index}, which is also in {listed[index][1]}; keep "
                        "one of the two rows",
                    )
                listed[index] = (split, name)
        return listed

    def _item(self, index: int, images: dict[int, str], split: str, name: str) -> Item:
        if index not in images:
            raise ArchiveError(
                name,
                f"lists sample_index {index}, but images/{index}.npz does not exist; add the file, "
                "or remove the row",
            )
        return Item(
            f"{index:05}",
            f"{index:05}",
            (File("image", images[index]), File("targets", name)),
            split,
        )


_LIST_BYTES = 20_000_000


@functools.lru_cache(4)
def _targets(name: str, data: bytes) -> dict[int, np.ndarray]:
    """{sample_index: float32 [4]} of a list."""
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        absent = {"sample_index", *TARGETS} - set(rows.fieldnames or ())
        if absent:
            raise ArchiveError(
                name,
                f"has no column {', '.join(sorted(absent))}; expected sample_index, "
                f"{', '.join(TARGETS)}",
            )
        return _parse(name, rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(
            name, f"is not a list of comma-separated values ({error}); copy it again"
        ) from error


def _parse(name: str, rows: csv.DictReader) -> dict[int, np.ndarray]:
    targets: dict[int, np.ndarray] = {}
    for row in rows:
        where = f"line {rows.line_num} has"
        try:
            index = int(row["sample_index"])
            values = np.array([float(row[target]) for target in TARGETS], np.float32)
        except (TypeError, ValueError) as error:
            raise ArchiveError(
                name,
                f"{where} {error}; expected an integer sample_index, and numbers for "
                f"{', '.join(TARGETS)}",
            ) from error
        if not np.isfinite(values).all():
            raise ArchiveError(
                name, f"{where} a target that is NaN or infinite; correct or remove the row"
            )
        if index in targets:
            raise ArchiveError(
                name, f"{where} sample_index {index} a second time; keep one of the two rows"
            )
        targets[index] = values
    return targets


def _check_pixels(name: str, pixels: np.ndarray) -> None:
    bands = len(next(iter(_ROWS.values())).bands)
    if pixels.ndim != 3 or pixels.shape[0] != bands or not pixels.size:
        raise ArchiveError(
            name, f"data has shape {pixels.shape}, expected ({bands}, height, width); copy it again"
        )
    if pixels.dtype.name not in _ROWS:
        raise ArchiveError(
            name,
            f"data is {pixels.dtype}, expected {' or '.join(sorted(_ROWS))}; write it in one of "
            "these",
        )
    if not np.isfinite(pixels).all():
        raise ArchiveError(
            name, "data has values that are NaN or infinite; fix the file, or give --skip-bad"
        )


def _mask(name: str, mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w], 1 outside the field. The file repeats it for every band."""
    if mask.shape != pixels.shape or mask.dtype != bool:
        raise ArchiveError(
            name,
            f"mask is {mask.dtype} {mask.shape}, expected bool {pixels.shape}, the shape of data; "
            "copy it again",
        )
    if (mask != mask[0]).any():
        raise ArchiveError(
            name,
            "mask differs between bands, expected the field's outline in all; remove the mask, or "
            "fix it",
        )
    return mask[0].astype(np.uint8)
