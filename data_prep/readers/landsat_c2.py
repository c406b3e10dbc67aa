"""Reads Landsat Collection 2 scenes as USGS delivers them: level 1 and level 2, TM to OLI-2.

    <root>/**/<product>_SR_B1.TIF ... _SR_B7.TIF    level 2: surface reflectance, uint16
    <root>/**/<product>_B1.TIF ... _B11.TIF         level 1: uint16 (OLI/TIRS), uint8 (TM, ETM+)
    <root>/**/<product>_QA_PIXEL.TIF                uint16, bits of fill, cloud, shadow, snow, water
    <root>/**/<product>_MTL.txt                     date, scale and offset, the sun's elevation

in folders or in the .tar files as downloaded. <product> is a name such as
LC08_L2SP_224063_20200814_20200920_02_T1 of LT04, LT05, LE07, LC08 or LC09 and one of the levels
L1TP, L1GT, L1GS, L2SP and L2SR. Other files of a product (surface temperature, aerosol and
saturation bands, angles, the panchromatic band 8 with its grid of 15 m) are not read.

Pixels are digital numbers in the files' dtype, by product:

    level 2             reflectance = DN x 0.0000275 - 0.2; rows landsat5_tm_sr_c2,
                        landsat7_etm_sr_c2, landsat8_oli_sr_c2
    level 1 of OLI      reflectance x sine of the sun's elevation = DN x 0.00002 - 0.1, thermal
                        bands in digital numbers; row landsat8_oli_tirs_l1_c2
    level 1 of TM, ETM+ digital numbers, whose scale differs between scenes; rows landsat5_tm_l1_c2,
                        landsat7_etm_l1_c2

LT04 and LC09 use the rows of LT05 and LC08, whose bands have the same nominal ranges. Scale and
offset in MTL.txt must be those of the row. Samples of level 1 have the label `sun_elevation` in
degrees, those of TM and ETM+ also `reflectance_mult` and `reflectance_add` of the reflective bands
in their order: reflectance = (mult x DN + add) / sine of the elevation.

Fill of QA_PIXEL (the value 1) is no-data in every band. The codes are kept as the mask `qa_pixel`.
Cloudy are pixels with the bits of cloud, dilated cloud or cirrus (3, 1, 2). Patches above
--max-cloud or --max-nodata are skipped and counted; a pixel counts as no-data where all bands are.
Scenes of one path and row have different grids, so each patch is its own location.

    python -m data_prep convert landsat-c2 --input scenes --output stores/landsat \\
        --patch-size 256 --max-cloud 0.2 --max-nodata 0 --split blocks:50 --val-fraction 0.1
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import band_stack, geotiff, remarks
from data_prep.formats.limits import check_fractions, skip_above
from data_prep.formats.listing import TIFF, items_of
from data_prep.formats.tiling import check_patch_size, full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers import _landsat_mtl
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_PRODUCT = re.compile(
    r"(?P<satellite>LT04|LT05|LE07|LC08|LC09)_L(?P<level>[12])(?:TP|GT|GS|SP|SR)_\d{6}_"
    r"(?P<date>\d{8})_\d{8}_02_(?:T1|T2|RT)"
)
_FILE = re.compile(rf"(?P<product>{_PRODUCT.pattern})_(?P<part>\w+)\.(?:TIFF?|txt)", re.I)
_ROWS = {
    ("T", "1"): get_sensor("landsat5_tm_l1_c2"),
    ("E", "1"): get_sensor("landsat7_etm_l1_c2"),
    ("C", "1"): get_sensor("landsat8_oli_tirs_l1_c2"),
    ("T", "2"): get_sensor("landsat5_tm_sr_c2"),
    ("E", "2"): get_sensor("landsat7_etm_sr_c2"),
    ("C", "2"): get_sensor("landsat8_oli_sr_c2"),
}
_OF_ANOTHER = {"LT04": "LT05", "LC09": "LC08"}
# Of QA_PIXEL. The value of fill has no other bit set.
_FILL = 1
_CLOUD = 1 << 1 | 1 << 2 | 1 << 3  # dilated cloud, cirrus (OLI), cloud


@dataclasses.dataclass(frozen=True)
class Reader:
    """Landsat Collection 2, one sample per scene or patch."""

    TITLE: ClassVar[str] = "Landsat Collection 2"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "public domain; Landsat data courtesy of the U.S. Geological Survey"
    sensors: ClassVar = tuple(_ROWS.values())
    archive: Archive
    patch_size: int = option(
        0, "height and width of patches in pixels; 0 for whole scenes", metavar="N"
    )
    max_cloud: float = option(
        1.0, "largest fraction of cloudy pixels, 0 to 1, by QA_PIXEL", metavar="FRACTION"
    )
    max_nodata: float = option(
        1.0, "largest fraction of pixels without data in any band, 0 to 1", metavar="FRACTION"
    )

    def items(self) -> list[Item]:
        self._check_options()
        products = _products(self.archive)
        if not products:
            raise ArchiveError(
                ".",
                "contains no Landsat Collection 2 product; expected names such as "
                "LC08_L2SP_224063_20200814_20200920_02_T1_SR_B1.TIF in it or below",
            )
        return items_of(
            (product, functools.partial(self._items, folder, product, parts))
            for (folder, product), parts in products.items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        product = _PRODUCT.match(item.id)
        sensor, metadata = _row(product), files.name("metadata")
        mtl = _landsat_mtl.parse(metadata, files.read("metadata", _landsat_mtl.MAX_BYTES))
        _landsat_mtl.check_product(metadata, mtl, product[0])
        with band_stack.open_layers(files, [*_names(sensor), "qa_pixel"]) as layers:
            _check_one_grid(layers)
            *bands, quality = layers
            window = tile_window(item.part, self.patch_size) if item.part else None
            codes = _read_quality(quality, window or band_stack.whole(layers))
            pixels = band_stack.read_bands(bands, sensor, "nearest", window)
            _exclude_fill(pixels, codes, sensor)
            self._skip(sensor.missing(pixels).all(0), codes)
            _note_row(product)
            return Sample(
                pixels=pixels,
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=product[0],
                time=_landsat_mtl.time(metadata, mtl, product["date"]),
                labels=_labels(metadata, mtl, product["level"], sensor),
                masks={"qa_pixel": codes},
                **geotiff.georeference(quality.dataset, window),
            )

    def footprint(self, item: Item) -> list[float] | None:
        window = tile_window(item.part, self.patch_size) if item.part else None
        return geotiff.listed_footprint(self.archive, item.files[0].name, window)

    def _check_options(self) -> None:
        check_fractions(max_cloud=self.max_cloud, max_nodata=self.max_nodata)
        check_patch_size(self.patch_size, "scenes")

    def _items(self, folder: str, product: str, parts: dict[str, str]) -> Iterator[Item]:
        sensor = _row(_PRODUCT.fullmatch(product))
        roles = {name: name for name in _names(sensor)}
        roles |= {"qa_pixel": "QA_PIXEL", "metadata": "MTL"}
        for part in roles.values():
            if part not in parts:
                raise ArchiveError(
                    str(PurePosixPath(folder) / f"{product}_{part}"),
                    f"no such file, but {product} needs it; download the product again, or remove "
                    "it",
                )
        files = tuple(File(role, parts[part]) for role, part in roles.items())
        if not self.patch_size:
            yield Item(product, product, files)
            return
        with geotiff.open_listed(self.archive, files[0].name) as dataset:
            tiles = full_tiles(files[0].name, dataset.shape, self.patch_size)
        for tile in tiles:
            tile_id = f"{product}/{tile_name(tile)}"
            yield Item(tile_id, tile_id, files, part=tile)

    def _skip(self, empty: np.ndarray, codes: np.ndarray) -> None:
        """Raises SkipSample for a patch that the options exclude, or without data."""
        if empty.all():
            raise SkipSample("no data in any pixel")
        skip_above("pixels without data", empty, self.max_nodata)
        skip_above("cloud", (codes & _CLOUD != 0) & (codes != _FILL), self.max_cloud)


def _products(archive: Archive) -> dict[tuple[str, str], dict[str, str]]:
    """{(folder, product): {"SR_B1", "QA_PIXEL", "MTL", ...: file}}."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in archive.names((*TIFF, "_MTL.txt")):
        path = PurePosixPath(name)
        match = _FILE.fullmatch(path.name)
        if not match:
            raise ArchiveError(
                name,
                "is not a file of a Landsat Collection 2 product of LT04, LT05, LE07, LC08 or "
                "LC09; move it away, or read it with `geotiff`",
            )
        key = str(path.parent), match["product"].upper()
        other = found.setdefault(key, {}).setdefault(match["part"].upper(), name)
        if other != name:
            raise ArchiveError(name, f"its product already has {other}; keep one of them")
    return found


def _row(product: re.Match) -> Sensor:
    return _ROWS[product["satellite"][1], product["level"]]


def _names(sensor: Sensor) -> list[str]:
    return [band.name for band in sensor.bands]


def _note_row(product: re.Match) -> None:
    other = _OF_ANOTHER.get(product["satellite"])
    if other:
        remarks.note(
            f"{product['satellite']}: row of {other}, whose bands have the same nominal ranges"
        )


def _labels(name: str, mtl: _landsat_mtl.Mtl, level: str, sensor: Sensor) -> dict[str, np.ndarray]:
    if sensor.units != "digital number":
        _landsat_mtl.check_scale(name, mtl, level, sensor)
    return _landsat_mtl.calibration(name, mtl, level, sensor) if level == "1" else {}


def _check_one_grid(layers: Sequence[band_stack.Layer]) -> None:
    fine = band_stack.finest(layers)
    for layer in layers:
        geotiff.check_shape(layer.name, layer.dataset, *fine.dataset.shape)


def _exclude_fill(pixels: np.ndarray, codes: np.ndarray, sensor: Sensor) -> None:
    """Gives pixels [c, h, w] the no-data value where QA_PIXEL has fill."""
    fill = codes == _FILL
    if fill.any():
        remarks.note("fill of QA_PIXEL is no-data in every band")
        pixels[:, fill] = sensor.nodata


def _read_quality(layer: band_stack.Layer, window: geotiff.Window) -> np.ndarray:
    stated = layer.dataset.nodata
    if stated not in (None, _FILL):
        raise ArchiveError(
            layer.name,
            f"no-data value is {stated:g}, expected the {_FILL} of fill in QA_PIXEL; copy it again",
        )
    return band_stack.read_codes(layer, "uint16", window)
