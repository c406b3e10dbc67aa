"""Label maps of rasters: from the file's class numbers to those of a store.

A store counts classes from 1, and 0 is unlabelled. What a file declares as no data (tag, mask,
alpha band, sidecar) is unlabelled; a value below the first class, or the largest value of an
unsigned type, which is the usual fill value, is refused unless the user names it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats import geotiff, remarks
from data_prep.formats.band_identity import data_bands
from data_prep.formats.sidecars import CLASSES_DOMAIN
from data_prep.reader import Files, option

_INTEGERS = {"float32": np.int32, "float64": np.int64}  # of class numbers written as floats
_UNLABELLED = "0 in label maps is unlabelled (--first-class 1)"


@dataclasses.dataclass(frozen=True)
class ClassNumbers:
    """How the files of a label number its classes.

    Attributes:
        first: number of the first class; stores count from 1.
        nodata: values that mean unlabelled, besides those that a file declares.
        known: classes that would be taken for a fill value, such as 255.
    """

    first: int = 1
    nodata: tuple[float, ...] = ()
    known: frozenset[int] = frozenset()

    def to_store(self, name: str, classes: np.ndarray, masked: np.ndarray | None) -> np.ndarray:
        """Integers [h, w], classes from 1 and 0 where there is no label.

        Args:
            name: of the file, for errors.
            classes: the file's values.
            masked: where the file declares them as no data, if it does.

        Raises ArchiveError for values that are neither classes nor unlabelled.
        """
        unlabelled = np.isin(classes, self.nodata) if self.nodata else np.zeros((), bool)
        if masked is not None:
            unlabelled = unlabelled | masked
        if unlabelled.any():
            remarks.note("no-data values in label maps are unlabelled")
            classes = np.where(unlabelled, np.zeros((), classes.dtype), classes)
        integers = _as_integers(name, classes)
        labelled = integers[~np.broadcast_to(unlabelled, integers.shape)]
        self._check(name, labelled)
        if self.first == 1:
            return integers
        self._check_range(name, labelled)
        shift = integers.dtype.type(abs(self.first - 1))
        shifted = integers + shift if self.first < 1 else integers - shift
        return np.where(unlabelled, np.zeros((), integers.dtype), shifted)

    def _check_range(self, name: str, labelled: np.ndarray) -> None:
        """Raises ArchiveError where the dtype of a map cannot hold the stored numbers."""
        largest, most = labelled.max(initial=0), np.iinfo(labelled.dtype).max
        if self.stored(int(largest)) > most or abs(self.first - 1) > most:
            raise ArchiveError(
                name,
                f"label map has the class {largest} in {labelled.dtype}, which cannot hold it when "
                f"classes from {self.first} are counted from 1; write the map in a larger type",
            )

    def _check(self, name: str, labelled: np.ndarray) -> None:
        lowest = int(labelled.min(initial=np.iinfo(labelled.dtype).max))
        if self.first == 1 and lowest == 0:
            remarks.note(_UNLABELLED)
        elif len(labelled) and lowest < self.first:
            raise ArchiveError(
                name,
                f"label map has the value {lowest} in {(labelled == lowest).sum()} pixels, below "
                f"the first class {self.first}; give --label-nodata {lowest} if it means "
                f"unlabelled, or --first-class {lowest} if it is a class",
            )
        if labelled.dtype.kind == "u" and labelled.dtype.itemsize <= 2:
            fill = int(np.iinfo(labelled.dtype).max)
            if fill not in self.known and (labelled == fill).any():
                raise ArchiveError(
                    name,
                    f"label map has the value {fill} in {(labelled == fill).sum()} pixels, without "
                    f"a no-data tag; give --label-nodata {fill} if it means unlabelled, or number "
                    "that class below it",
                )

    def stored(self, number: int) -> int:
        """The number in a store of a class of the files."""
        return number - self.first + 1


# Codes of a published legend, which are kept as they are.
PUBLISHED_CODES = ClassNumbers(known=frozenset((255, 65535)))


def first_class_option() -> Any:
    """The option --first-class of a reader of label maps."""
    return option(1, "number of the first class in label maps; stores count from 1", metavar="N")


def label_nodata_option() -> Any:
    """The option --label-nodata of a reader of label maps."""
    return option(
        (), "values of label maps that mean unlabelled, besides their no-data tag", metavar="V"
    )


def class_numbers(first: int, nodata: Iterable[str]) -> ClassNumbers:
    """Those of the options --first-class and --label-nodata. Raises ValueError."""
    try:
        values = tuple(float(text) for text in nodata)
    except ValueError as error:
        raise ValueError(f"--label-nodata: {error}; give numbers, such as 255") from error
    return ClassNumbers(first, values)


def read_labels(
    image_name: str,
    image: rasterio.DatasetReader,
    files: Files,
    role: str,
    numbers: ClassNumbers = ClassNumbers(),
) -> np.ndarray:
    """An integer label map [h, w] on the grid of its image, see `ClassNumbers.to_store`.

    Maps with class numbers as floats become int32 (float32) or int64 (float64), whatever their
    values, so that all maps of a kind have the same dtype. Raises ArchiveError.
    """
    with geotiff.open_tiff(files, role) as label:
        return read_open_labels(image_name, image, files.name(role), role, label, numbers)


def read_label_window(
    image_name: str,
    image: rasterio.DatasetReader,
    files: Files,
    role: str,
    window: Window | None,
    numbers: ClassNumbers = ClassNumbers(),
) -> np.ndarray:
    """Like `read_labels`, for a window [h, w] of a map that may be as large as a scene."""
    with geotiff.open_tiff_path(files, role) as label:
        return read_open_labels(image_name, image, files.name(role), role, label, numbers, window)


def read_open_labels(
    image_name: str,
    image: rasterio.DatasetReader,
    name: str,
    role: str,
    label: rasterio.DatasetReader,
    numbers: ClassNumbers,
    window: Window | None = None,
) -> np.ndarray:
    """Like `read_labels`, for an open map."""
    _check_grid(image_name, image, name, label)
    _check_scale(name, label)
    geotiff.check_bytes(name, label, 1, window)
    (band,) = data_bands(label)
    classes = label.read(band, window=window)
    stored = numbers.to_store(name, classes, _masked(label, band, window))
    remarks.note_classes(role, _class_table(label, band, stored, numbers))
    return stored


def _masked(label: rasterio.DatasetReader, band: int, window: Window | None) -> np.ndarray | None:
    if MaskFlags.all_valid in label.mask_flag_enums[band - 1]:
        return None
    return label.read_masks(band, window=window) == 0


def _class_table(
    label: rasterio.DatasetReader, band: int, stored: np.ndarray, numbers: ClassNumbers
) -> Mapping[int, dict[str, Any]]:
    """{class in the store: its name and colour, as far as the file has them}."""
    names = {
        int(number): name
        for number, name in label.tags(band, ns=CLASSES_DOMAIN).items()
        if number.lstrip("-").isdigit()
    }
    try:
        colours = label.colormap(band)
    except ValueError:  # none
        colours = {}
    if not names and not colours:
        return {}
    table = {}
    for value in np.unique(stored[stored > 0]).tolist():
        in_file = value + numbers.first - 1
        entry = {"name": names[in_file]} if in_file in names else {}
        if in_file in colours:
            entry["colour"] = list(colours[in_file][:3])
        table[value] = entry
    return table


# ------------------------------------------------------------------ checks


def _check_scale(name: str, label: rasterio.DatasetReader) -> None:
    if set(label.scales) != {1.0} or set(label.offsets) != {0.0}:
        raise ArchiveError(
            name,
            f"label map has scale {label.scales[0]:g} and offset {label.offsets[0]:g}, expected "
            "class numbers; write them as uint8 or uint16 without a scale",
        )


def _check_grid(
    image_name: str, image: rasterio.DatasetReader, name: str, label: rasterio.DatasetReader
) -> None:
    warp = "warp the map to the image"
    if len(data_bands(label)) != 1:
        raise ArchiveError(
            name,
            f"{label.count} bands, expected 1, the label map of {image_name}; write each map to a "
            "folder of its own, and give all of them in --labels",
        )
    if label.shape != image.shape:
        raise ArchiveError(
            name,
            f"{geotiff.size_text(label)} pixels, but its image {image_name} has "
            f"{geotiff.size_text(image)}; cut both on the same grid",
        )
    if label.crs and image.crs and label.crs != image.crs:
        raise ArchiveError(
            name,
            f"CRS is {geotiff.crs_name(label.crs)}, but its image {image_name} has "
            f"{geotiff.crs_name(image.crs)}; {warp}",
        )
    georeferenced = not (label.transform.is_identity or image.transform.is_identity)
    tolerance = 1e-3 * math.sqrt(abs(image.transform.determinant))
    if georeferenced and not label.transform.almost_equals(image.transform, tolerance):
        raise ArchiveError(
            name,
            f"transform is {_numbers(label)}, but its image {image_name} has {_numbers(image)}; "
            f"{warp}",
        )


def _numbers(dataset: rasterio.DatasetReader) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in tuple(dataset.transform)[:6]) + ")"


def _as_integers(name: str, classes: np.ndarray) -> np.ndarray:
    if classes.dtype.kind in "iu":
        return classes
    if classes.dtype.name not in _INTEGERS:
        raise ArchiveError(
            name,
            f"label map is {classes.dtype}, expected class numbers; write it as uint8 or uint16",
        )
    with np.errstate(invalid="ignore"):  # NaN and values out of range do not compare equal
        converted = classes.astype(_INTEGERS[classes.dtype.name])
    if not (converted == classes).all():
        raise ArchiveError(
            name,
            "label map has values that are not class numbers (fractions, NaN, too large); write it "
            "as uint8 or uint16",
        )
    return converted
