"""Reads SSL4EO-S12 v1.0 (arXiv 2211.07044): Sentinel-1 GRD, Sentinel-2 L1C and L2A time series.

    <root>/s1/0000200/S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457/
        {VV,VH}.tif                                float32, dB
    <root>/s2c/0000200/20200604T054639_20200604T054831_T43RCP/
        {B1,...,B8,B8A,B9,B10,B11,B12}.tif         uint16, reflectance x 10000
    <root>/s2a/0000200/20200604T054639_20200604T054831_T43RCP/
        {B1,...,B8,B8A,B9,B11,B12}.tif             uint16, no B10

There are 251,079 locations. Patches are 264 x 264 pixels of 10 m; bands of 20 m have 132 x 132
pixels, bands of 60 m 44 x 44. A group is a location, over all products; bands are in the order of
the sensor table, dates in order of time. (The published code takes seasons in the arbitrary order
of the folder listing.) The archive has four dates per location and product. Fewer are not an error:
their handling is decided when an index is built. Files metadata.json are not read. `product` is the
name of the folder, with tile or orbit. The time is the first one in that name, the sensing time.

--resample bilinear    coarser bands on the 10 m grid, pixel areas aligned, rounded to uint16, as
                       in the published code with OpenCV
--resample nearest     the same with each pixel repeated, as in torchgeo
--resample native      one sample per grid of 10, 20 and 60 m, in one group

Grids are as stated by their files, which is not exact to the pixel. In every file the transform is
off by half a pixel of its own size, so that grids of 10, 20 and 60 m share the centre of their
first pixel. And each band was cropped about its own centre: relative to the 10 m bands, bands of
20 m match by their areas, but bands of 60 m are off by up to 5 pixels of 10 m (seen at location
0000200). All methods leave this as in the published code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import band_files
from data_prep.formats.listing import image_files, sorted_by_id, text_lines
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

PRODUCTS = {
    "s1": get_sensor("sentinel1_grd"),
    "s2c": get_sensor("sentinel2_l1c"),
    "s2a": get_sensor("sentinel2_l2a"),
}
MAX_DATES = 4
_OPTICAL = re.compile(r"(\d{8}T\d{6})_\d{8}T\d{6}_T\w{5}", re.ASCII)
_RADAR = re.compile(
    r"S1[A-D]_IW_GRD[HFM]_1SDV_(\d{8}T\d{6})_\d{8}T\d{6}(?:_[0-9A-F]+){3}", re.ASCII
)
_SCENES = {"s1": _RADAR, "s2c": _OPTICAL, "s2a": _OPTICAL}
_EXAMPLES = {"s1": "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"}


@dataclass(frozen=True)
class Reader:
    """SSL4EO-S12 v1.0, one sample per location, product and date."""

    TITLE: ClassVar[str] = "SSL4EO-S12 v1.0"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "CC-BY-4.0 (not verified); contains modified Copernicus Sentinel data"
    sensors: ClassVar = band_files.all_rows(*PRODUCTS.values())
    archive: Archive
    products: tuple[str, ...] = option(
        (), "some of s1, s2c and s2a (default: those in the archive)", choices=tuple(PRODUCTS)
    )
    resample: str = option(
        "bilinear",
        "resampling of coarser bands to the 10 m grid; native: one sample per grid",
        choices=band_files.METHODS,
    )
    void_ids: str = option(
        "", "file in the archive with locations to omit, one number per line", metavar="FILE"
    )

    def items(self) -> list[Item]:
        names = {product: image_files(self.archive, product) for product in PRODUCTS}
        products = self.products or tuple(product for product in PRODUCTS if names[product])
        if not products:
            raise ArchiveError(
                "s2c",
                "no such folder, nor s1 or s2a; expected <input>/s2c/<location>/<date>/<band>.tif",
            )
        return sorted_by_id(
            item
            for product in products
            for item in self._items(product, names[product], self._void())
        )

    def read(self, item: Item, files: Files) -> Sample:
        product, scene = item.files[0].name.split("/")[0], item.files[0].name.split("/")[2]
        sensor = band_files.rows(PRODUCTS[product], self.resample)[item.part[0]]
        pixels, georeference = band_files.read_image(
            files, sensor, [file.role for file in item.files], self.resample
        )
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            product=scene,
            time=_time(product, item.files[0].name),
            **georeference,
        )

    def _void(self) -> frozenset[str]:
        lines = text_lines(self.archive, self.void_ids) if self.void_ids else []
        wrong = [line for line in lines if not re.fullmatch(r"[0-9]{1,7}", line)]
        if wrong:
            raise ArchiveError(
                self.void_ids,
                f"has the line {wrong[0][:80]!r}, expected the number of a location; correct the "
                "line",
            )
        return frozenset(line.zfill(7) for line in lines)

    def _items(self, product: str, names: list[str], void: frozenset[str]) -> Iterator[Item]:
        if not names:
            raise ArchiveError(
                product,
                f"no such folder, or no GeoTIFF in it; leave {product} out of --products, or add "
                "the folder",
            )
        for location, scenes in _by_location(product, names).items():
            _check_dates(f"{product}/{location}", product, list(scenes))
            if location not in void:
                for scene, bands in scenes.items():
                    yield from self._images(product, location, scene, bands)

    def _images(
        self, product: str, location: str, scene: str, bands: dict[str, str]
    ) -> Iterator[Item]:
        """The items of one image, given as {band: file}: one, or with `native` one per grid."""
        folder, sensor = f"{product}/{location}/{scene}", PRODUCTS[product]
        band_files.check_names(
            folder, bands, [band_files.one_digit(band.name) for band in sensor.bands], sensor.title
        )
        for size, row in band_files.rows(sensor, self.resample).items():
            files = tuple(
                File(band.name, bands[band_files.one_digit(band.name)]) for band in row.bands
            )
            grid = f"/{size}m" if size else ""
            yield Item(
                f"{location}/{product}/{_stamp(product, folder, scene)}{grid}",
                location,
                files,
                part=(size,),
            )


def _by_location(product: str, names: list[str]) -> dict[str, dict[str, dict[str, str]]]:
    """{location: {scene: {band: file}}} of the files of a product."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) != 4:
            raise ArchiveError(
                name,
                f"is not at {product}/<location>/<date>/<band>.tif; move it there, or out of "
                f"{product}/",
            )
        found.setdefault(parts[1], {}).setdefault(parts[2], {})[parts[3].rpartition(".")[0]] = name
    return found


def _check_dates(folder: str, product: str, scenes: list[str]) -> None:
    """Raises ArchiveError for more dates than published, and for two images with the same time."""
    stamps = [_stamp(product, f"{folder}/{scene}", scene) for scene in scenes]
    if len(set(stamps)) < len(stamps):
        raise ArchiveError(
            folder,
            f"two folders with the time {max(stamps, key=stamps.count)}, expected one; remove one "
            "of them",
        )
    if len(stamps) > MAX_DATES:
        raise ArchiveError(
            folder,
            f"{len(stamps)} dates, expected at most the {MAX_DATES} of SSL4EO-S12; remove folders "
            "that do not belong there",
        )


def _stamp(product: str, folder: str, scene: str) -> str:
    """The sensing time in the name of a scene, "20200604T054639".

    Raises ArchiveError where there is none.
    """
    found = _SCENES[product].fullmatch(scene)
    if not found:
        example = _EXAMPLES.get(product, "20200604T054639_20200604T054831_T43RCP")
        raise ArchiveError(
            folder,
            f"is not the name of a {product} scene, expected one such as {example}; rename the "
            "folder, or move it away",
        )
    return found[1]


def _time(product: str, name: str) -> int:
    """Seconds since 1970 UTC of an image, from the name of its first file."""
    folder, scene = name.rpartition("/")[0], name.split("/")[2]
    return band_files.seconds(folder, _stamp(product, folder, scene))
