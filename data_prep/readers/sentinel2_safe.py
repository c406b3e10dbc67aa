"""Reads Sentinel-2 products as Copernicus delivers them: .SAFE folders, L1C and L2A, or their zips.

    <root>/**/<product>.SAFE/MTD_MSIL1C.xml (MTD_MSIL2A.xml)
    <root>/**/<product>.SAFE/GRANULE/<granule>/IMG_DATA/<tile>_<time>_B02.jp2            L1C
    <root>/**/<product>.SAFE/GRANULE/<granule>/IMG_DATA/R10m/<tile>_<time>_B02_10m.jp2   L2A, and
                                                        R20m, R60m; SCL in R20m and R60m

<product> is a name such as S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419; --input
may be the .SAFE folder itself. Each band is read at its native resolution, in the order of the
sensor table; other files (true-colour image, aerosol, water vapour, quality masks) are not read.

Pixels are digital numbers, uint16, reflectance = (DN + offset) / 10000. The offset in the metadata
file decides about the row: sentinel2_l1c_offset_uint16 and sentinel2_l2a_offset_uint16 with -1000
(processing baseline 04.00 and later), sentinel2_l1c_uint16 and sentinel2_l2a_uint16 without.
Quantification value, special values, level, baseline and wavelengths must be those of the row. The
no-data value is 0. Saturated pixels (65535) become no-data, and so do pixels that the scene
classification of L2A calls no data (0) or saturated or defective (1). Its codes are kept as the
mask `scl`. Cloudy are its classes 8, 9 and 10 (cloud of medium and high probability, thin cirrus);
L1C has no such layer, so --max-cloud refuses it.

--resolution 0             all bands on the 10 m grid; --resample says how coarser ones get there:
                           bilinear (pixel areas aligned, rounded), nearest (each pixel repeated)
--resolution 10, 20, 60    only the bands of that native resolution; rows such as <row>_20m

Patches are cut on that grid; a pixel counts as no-data where all bands are. Tiles are on fixed
grids, so patches at the same position of a tile (T33NZA) are dates and levels of one location.
Patches above --max-cloud or --max-nodata are skipped and counted.

    python -m data_prep convert sentinel2-safe --input products --output stores/s2 \\
        --patch-size 264 --max-cloud 0.2 --max-nodata 0 --split blocks:50 --val-fraction 0.1
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import band_files, band_stack, geotiff, remarks, sentinel2
from data_prep.formats.limits import check_fractions, skip_above
from data_prep.formats.listing import items_of
from data_prep.formats.tiling import check_patch_size, full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers import _safe_metadata
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_PRODUCT = re.compile(
    r"S2[A-D]_MSIL(?P<level>1C|2A)_\d{8}T\d{6}_N\d{4}_R\d{3}_T(?P<tile>\w{5})_\d{8}T\d{6}"
)
_IMAGE = re.compile(
    r"(?P<folder>|.*/)GRANULE/(?P<granule>[^/]+)/IMG_DATA/(?:R(?P<metres>10|20|60)m/)?"
    r"T\w{5}_\d{8}T\d{6}_(?P<band>B\d[\dA]|SCL)(?:_(?:10|20|60)m)?\.jp2"
)
_MTD = re.compile(r"(?P<folder>|.*/)MTD_MSIL(?:1C|2A)\.xml")
_ROWS = {  # by level and offset
    ("1C", 0): get_sensor("sentinel2_l1c_uint16"),
    ("1C", -1000): get_sensor("sentinel2_l1c_offset_uint16"),
    ("2A", 0): get_sensor("sentinel2_l2a_uint16"),
    ("2A", -1000): get_sensor("sentinel2_l2a_offset_uint16"),
}
_SCL = "SCL"  # the scene classification, of L2A
_EXCLUDED = (0, 1)  # its classes no data, saturated or defective
_CLOUD = (8, 9, 10)

Granule = dict[tuple[str, str], str]  # {(band, metres of its folder or ""): file}


@dataclasses.dataclass(frozen=True)
class Reader:
    """Sentinel-2 products, one sample per granule or patch."""

    TITLE: ClassVar[str] = "Sentinel-2 products"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "contains Copernicus Sentinel data; terms of the Copernicus programme"
    sensors: ClassVar = band_files.all_rows(*_ROWS.values())
    archive: Archive
    patch_size: int = option(
        0, "height and width of patches in pixels; 0 for whole tiles", metavar="N"
    )
    resolution: int = option(
        0, "native resolution of the bands to keep, in m; 0: all, on 10 m", choices=(0, 10, 20, 60)
    )
    resample: str = option(
        "bilinear", "resampling of coarser bands to 10 m", choices=("bilinear", "nearest")
    )
    max_cloud: float = option(
        1.0, "largest fraction of cloudy pixels, 0 to 1, by SCL; L2A only", metavar="FRACTION"
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
                "contains no Sentinel-2 product; expected <product>.SAFE with MTD_MSIL1C.xml or "
                "MTD_MSIL2A.xml in it or below",
            )
        return items_of(
            (folder, functools.partial(self._items, folder, granules))
            for folder, granules in products.items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        product = _PRODUCT.match(item.id)
        name = files.name("metadata")
        data = files.read("metadata", _safe_metadata.MAX_BYTES)
        metadata = _safe_metadata.parse(name, data, product["level"], product[0])
        base = _ROWS[product["level"], metadata.offset]
        sensor = self._row(base)
        _check_files(name, files, sensor, product["level"])
        window = tile_window(item.part, self.patch_size) if item.part else None
        roles = [band.name for band in sensor.bands]
        roles += [_SCL] if _SCL in files else []
        with band_stack.open_layers(files, roles, geotiff.open_jp2_path) as layers:
            bands, classification = layers[: len(sensor.bands)], layers[len(sensor.bands) :]
            for layer in bands:
                sentinel2.check_offset(layer.name, layer.dataset, sensor)
            pixels = band_stack.read_bands(bands, sensor, self.resample, window, metadata.saturated)
            masks = {}
            if classification:
                area = window or band_stack.whole(bands)
                masks["scl"] = band_stack.read_codes(*classification, "uint8", area)
                _exclude(pixels, masks["scl"], sensor)
            self._skip(sensor.missing(pixels).all(0), masks.get("scl"))
            return Sample(
                pixels=pixels,
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=metadata.baseline,
                time=metadata.time,
                wavelengths_nm=_safe_metadata.wavelengths_nm(name, metadata, sensor),
                masks=masks,
                **geotiff.georeference(band_stack.finest(bands).dataset, window),
            )

    def footprint(self, item: Item) -> list[float] | None:
        window = tile_window(item.part, self.patch_size) if item.part else None
        return geotiff.listed_footprint(self.archive, item.files[0].name, window)

    # ------------------------------------------------------------------ listing

    def _check_options(self) -> None:
        check_fractions(max_cloud=self.max_cloud, max_nodata=self.max_nodata)
        check_patch_size(self.patch_size, "tiles")

    def _row(self, base: Sensor) -> Sensor:
        return band_files.rows(base, "native")[self.resolution] if self.resolution else base

    def _items(self, folder: str, granules: dict[str, Granule]) -> Iterator[Item]:
        product = self._product(folder)
        if product["level"] == "1C" and self.max_cloud < 1:
            raise ArchiveError(
                folder,
                f"--max-cloud {self.max_cloud:g} needs the scene classification, which L1C does "
                "not have; leave the option out, or give L2A products",
            )
        sensor = self._row(_ROWS[product["level"], 0])
        metadata = File("metadata", f"{folder}MTD_MSIL{product['level']}.xml")
        for granule, found in granules.items():
            names = (product[0], granule) if len(granules) > 1 else (product[0],)
            images = _images(found, sensor, product["level"], self.resolution)
            # Where one is missing, `read` says which.
            parts = self._parts(images[0]) if _is_complete(images, sensor, product["level"]) else []
            yield from _patches("/".join(names), f"T{product['tile']}", (*images, metadata), parts)

    def _product(self, folder: str) -> re.Match:
        """The product's name, from that of its folder, which may be the archive itself."""
        last = folder.rstrip("/").rpartition("/")[2] or self.archive.root.resolve().name
        match = _PRODUCT.fullmatch(last.removesuffix(".SAFE"))
        if not match:
            raise ArchiveError(
                folder or ".",
                f"is in the folder {last[:80]!r}, expected the name of a Sentinel-2 product such "
                "as S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419.SAFE; restore it",
            )
        return match

    def _parts(self, image: File) -> list[tuple[int, int]]:
        if not self.patch_size:
            return []
        with geotiff.open_listed(self.archive, image.name) as dataset:
            return full_tiles(image.name, dataset.shape, self.patch_size)

    # ------------------------------------------------------------------ limits

    def _skip(self, empty: np.ndarray, codes: np.ndarray | None) -> None:
        """Raises SkipSample for a patch that the options exclude, or without data."""
        if empty.all():
            raise SkipSample("no data in any pixel")
        skip_above("pixels without data", empty, self.max_nodata)
        if codes is not None:
            skip_above("cloud", np.isin(codes, _CLOUD), self.max_cloud)


def _products(archive: Archive) -> dict[str, dict[str, Granule]]:
    """{folder with a final slash, or "": {granule: its files}}, by images and metadata files."""
    found: dict[str, dict[str, Granule]] = {}
    for name in archive.names((".jp2", ".xml")):
        image, metadata = _IMAGE.fullmatch(name), _MTD.fullmatch(name)
        if image:
            granules = found.setdefault(image["folder"], {})
            granule = granules.setdefault(image["granule"], {})
            granule[band_files.one_digit(image["band"]), image["metres"] or ""] = name
        elif metadata:
            found.setdefault(metadata["folder"], {})
    return {folder: granules or {"": {}} for folder, granules in found.items()}


def _images(found: Granule, sensor: Sensor, level: str, resolution: int) -> tuple[File, ...]:
    """The files of a granule that are read, with the finest band first; some may be missing."""
    metres = {band.name: f"{band.gsd_m:g}" if level == "2A" else "" for band in sensor.bands}
    if level == "2A":
        metres[_SCL] = "60" if resolution == 60 else "20"
    fine = sensor.bands[band_files.finest(sensor)].name
    roles = sorted(metres, key=fine.__ne__)
    return tuple(
        File(role, found[role, metres[role]]) for role in roles if (role, metres[role]) in found
    )


def _is_complete(images: tuple[File, ...], sensor: Sensor, level: str) -> bool:
    return len(images) == len(sensor.bands) + (level == "2A")


def _patches(
    name: str, tile: str, files: tuple[File, ...], parts: list[tuple[int, int]]
) -> Iterator[Item]:
    """The items of a granule, by patch, or as a whole where there are no parts."""
    if not parts:
        yield Item(name, tile, files)
    for part in parts:
        yield Item(f"{name}/{tile_name(part)}", f"{tile}/{tile_name(part)}", files, part=part)


def _check_files(name: str, files: Files, sensor: Sensor, level: str) -> None:
    roles = [*(band.name for band in sensor.bands), *([_SCL] if level == "2A" else [])]
    missing = [role for role in roles if role not in files]
    if missing:
        folder = PurePosixPath(name).parent
        raise ArchiveError(
            str(folder),
            f"no file of {', '.join(map(band_files.two_digits, missing))} in "
            "GRANULE/*/IMG_DATA; copy the product again, or remove it",
        )


def _exclude(pixels: np.ndarray, codes: np.ndarray, sensor: Sensor) -> None:
    """Gives pixels [c, h, w] the no-data value where the scene classification excludes them."""
    excluded = np.isin(codes, _EXCLUDED)
    if excluded.any():
        remarks.note("SCL: pixels without data, saturated or defective are no-data in every band")
        pixels[:, excluded] = sensor.nodata
