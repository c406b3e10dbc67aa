"""Reads DESIS L2A products as delivered by DLR, in patches.

    <root>/**/<scene>-METADATA.xml             bands: centre, width, gain, offset; time
    <root>/**/<scene>-SPECTRAL_IMAGE.tif       int16 [bands, h, w], reflectance x 10000
    <root>/**/<scene>-QL_QUALITY-2.tif         [10, h, w]: shadow, land, snow, haze and clouds over
                                               land and water, water; aerosol, water vapour

<scene> is DESIS-HSI-L2A-DT0667868308_019-20211218T214555-V0220. After DLR's DESIS Product
Specification (PAV-DLR-ICD-003). Bands, their wavelengths and widths are those of METADATA.xml: 235,
or 118, 79 or 60 where they are binned, which have to be alike in one store. Gain and offset are the
scale of the row, -32768 is no-data. The first eight quality bands become masks. QL_QUALITY.tif, the
quality of each band, and QL_IMAGE.tif are not read.

    python -m data_prep convert desis --input products --output stores/desis \\
        --patch-size 128 --split blocks:50 --val-fraction 0.1
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import rasterio
from defusedxml import DefusedXmlException, ElementTree
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import check_count
from data_prep.formats.listing import TIFF, first_readable, items_of
from data_prep.formats.tiling import check_patch_size
from data_prep.formats.times import utc_seconds
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers import _product_rows as rows
from eo_jax.schema import Sample
from eo_jax.sensors import Band, Sensor

_NAME = re.compile(
    r"(?P<scene>DESIS-HSI-L2A-DT\d+_\d+-\d{8}T\d{6}-V(?P<version>\d{4}))-SPECTRAL_IMAGE\.tiff?",
    re.I,
)
MASKS = {
    "shadow": 1,
    "land": 2,
    "snow": 3,
    "haze_land": 4,
    "haze_water": 5,
    "cloud_land": 6,
    "cloud_water": 7,
    "water": 8,
}
_QUALITY_BANDS = 10
_NODATA = -32768
_GSD_M = 30.0
_MAX_XML_BYTES = 64_000_000
_AGAIN = "get the METADATA.xml of this product again"


class Metadata(NamedTuple):
    """The row of a product, and the start of its acquisition in seconds since 1970 UTC."""

    row: Sensor
    time: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """DESIS L2A products, one sample per patch."""

    TITLE: ClassVar[str] = "DESIS L2A products"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "DESIS data (c) Teledyne and DLR; see the licence of the products"
    archive: Archive
    patch_size: int = option(
        128, "height and width of a patch; 0 for whole products", metavar="PIXELS"
    )
    masks: tuple[str, ...] = option(
        tuple(MASKS), "quality bands to keep (default: all)", choices=tuple(MASKS)
    )

    @functools.cached_property
    def _present(self) -> dict[str, str]:
        """{name in lower case: name}"""
        return {name.lower(): name for name in self.archive.names((*TIFF, ".xml"))}

    @functools.cached_property
    def _images(self) -> dict[str, str]:
        """{scene: its image}. Raises ArchiveError."""
        found = {
            match["scene"]: name
            for name in self.archive.names(TIFF)
            if (match := _NAME.fullmatch(PurePosixPath(name).name))
        }
        if not found:
            raise ArchiveError(
                ".",
                "contains no DESIS L2A product; expected DESIS-HSI-L2A-...-SPECTRAL_IMAGE.tif in "
                "it or below",
            )
        return found

    def _files(self, scene: str) -> tuple[File, ...]:
        """The files of a product. Raises ArchiveError where one is missing."""
        image, present = self._images[scene], self._present
        files = [File("image", image)]
        for role, ending in (("metadata", "METADATA.xml"), ("quality", "QL_QUALITY-2.tif")):
            name = str(PurePosixPath(image).with_name(f"{scene}-{ending}"))
            if name.lower() not in present:
                raise ArchiveError(name, f"no such file, but {image} needs it; add it")
            files.append(File(role, present[name.lower()]))
        return tuple(files)

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        """The row of the first readable product, which stands for all. Raises ArchiveError."""
        return (first_readable(sorted(self._images), self._described),)

    def _described(self, scene: str) -> Sensor:
        name = self._files(scene)[1].name
        return parse(name, self.archive.read(name, _MAX_XML_BYTES)).row

    def items(self) -> list[Item]:
        check_patch_size(self.patch_size, "products")
        _ = self.sensors  # so that a first product without a row is refused here
        return items_of((scene, functools.partial(self._tiles, scene)) for scene in self._images)

    def _tiles(self, scene: str) -> list[Item]:
        files = self._files(scene)
        with geotiff.open_listed(self.archive, files[0].name) as dataset:
            return list(rows.tiles(scene, files, dataset.shape, self.patch_size))

    def read(self, item: Item, files: Files) -> Sample:
        name, (sensor,) = item.files[0].name, self.sensors
        metadata = parse(files.name("metadata"), files.read("metadata", _MAX_XML_BYTES))
        rows.check_like(
            files.name("metadata"), metadata.row, sensor, "convert it to a store of its own"
        )
        with geotiff.open_tiff_path(files, "image") as dataset:
            check_count(name, dataset, len(sensor.bands), sensor.title)
            window = self._window(item, dataset.shape)
            pixels = geotiff.read_bands(name, dataset, metadata.row, window)
            if sensor.missing(pixels).all():
                raise SkipSample("no data in any pixel")
            return Sample(
                pixels=pixels,
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=f"V{_NAME.fullmatch(PurePosixPath(name).name)['version']}",
                time=metadata.time,
                wavelengths_nm=metadata.row.centres_nm,
                masks=_masks(dataset, files, window, self.masks),
                **geotiff.georeference(dataset, window),
            )

    def footprint(self, item: Item) -> list[float] | None:
        name = item.files[0].name
        window = None
        if self.patch_size:
            row, column = item.part
            window = Window(column, row, self.patch_size, self.patch_size)
        return geotiff.listed_footprint(self.archive, name, window)

    def _window(self, item: Item, shape: tuple[int, int]) -> Window:
        return Window.from_slices(*rows.extent(item.part, shape, self.patch_size))


def _masks(
    image: rasterio.DatasetReader, files: Files, window: Window, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """{mask: uint8 [h, w]} of QL_QUALITY-2. Raises ArchiveError."""
    name = files.name("quality")
    with geotiff.open_tiff_path(files, "quality") as layer:
        check_count(name, layer, _QUALITY_BANDS, "QL_QUALITY-2")
        geotiff.check_shape(name, layer, *image.shape)
        if (layer.crs, layer.transform) != (image.crs, image.transform):
            raise ArchiveError(
                name,
                "has another CRS or transform than its image; take both from one product",
            )
        geotiff.check_bytes(name, layer, len(names), window)
        found = {mask: layer.read(MASKS[mask], window=window) for mask in names}
    for mask, values in found.items():
        if values.dtype.kind not in "iu":
            raise ArchiveError(
                name, f"band {MASKS[mask]} is {values.dtype}, expected integers; {_AGAIN}"
            )
    return found


# ------------------------------------------------------------------ METADATA.xml


@functools.lru_cache(4)  # every patch of a product needs it
def parse(name: str, data: bytes) -> Metadata:
    """The row and time in a METADATA.xml. Raises ArchiveError."""
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ArchiveError(name, f"cannot be read as XML ({error}); {_AGAIN}") from error
    table = next(root.iter("bandCharacterisation"), None)
    found = [] if table is None else list(table.iter("band"))
    background = next(root.iter("backgroundValue"), None)
    if background is not None and (background.text or "").strip() not in ("", str(_NODATA)):
        raise ArchiveError(
            name, f"backgroundValue is {background.text[:40]!r}, expected {_NODATA}; {_AGAIN}"
        )
    bands = [_band(name, number, element) for number, element in enumerate(found, 1)]
    scales = {(band.scale, band.offset) for band in bands}
    scale, offset = scales.pop() if len(scales) == 1 else (1e-4, 0.0)
    if not scales:
        bands = [dataclasses.replace(band, scale=None, offset=None) for band in bands]
    try:
        row = rows.make_row(
            bands,
            id=f"desis_l2a_{len(bands)}",
            title=f"DESIS L2A, {len(bands)} bands",
            gsd_m=_GSD_M,
            dtype="int16",
            scale=scale,
            offset=offset,
            units="surface reflectance",
            nodata=_NODATA,
            source=f"bandCharacterisation of {PurePosixPath(name).name}",
        )
    except ValueError as error:
        raise ArchiveError(name, f"describes no bands ({error}); {_AGAIN}") from error
    return Metadata(row, _time(name, root))


def _band(name: str, number: int, element: Element) -> Band:
    stated = _number(name, number, element, "bandNumber")
    if stated != number:
        raise ArchiveError(name, f"band {number} has bandNumber {stated:g}; {_AGAIN}")
    return Band(
        f"band {number}",
        number,
        _number(name, number, element, "wavelengthCenterOfBand"),
        _number(name, number, element, "wavelengthWidthOfBand"),
        gsd_m=_GSD_M,
        scale=_number(name, number, element, "gainOfBand"),
        offset=_number(name, number, element, "offsetOfBand"),
    )


def _number(name: str, number: int, element: Element, key: str) -> float:
    text = (element.findtext(key) or "").strip()
    try:
        return float(text)
    except ValueError as error:
        raise ArchiveError(
            name, f"{key} of band {number} is {text[:40]!r}, expected a number; {_AGAIN}"
        ) from error


def _time(name: str, root: Element) -> int:
    text = next((each.text or "" for each in root.iter("startTime")), "").strip()
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name, f"startTime is {text[:40]!r}, expected an ISO time; {_AGAIN}"
        ) from error
