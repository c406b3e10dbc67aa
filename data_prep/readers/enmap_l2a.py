"""Reads whole EnMAP L2A products as delivered by DLR, cut into patches.

    <root>/**/<scene>-METADATA.XML              wavelengths, scale, no-data value, time
    <root>/**/<scene>-SPECTRAL_IMAGE.TIF        int16 [224, h, w], reflectance x 10000; or
                                                -SPECTRAL_IMAGE_COG.tiff, likewise for the layers
    <root>/**/<scene>-QL_QUALITY_CLOUD.TIF      and -CLOUDSHADOW, -CIRRUS, -HAZE, -SNOW, -CLASSES,
                                                uint8 [h, w], on the same grid

<scene> is ENMAP01-____L2A-DT0000001053_20220611T072305Z_002_V010400_20231221T134421Z. Bands are in
the order of bandID in METADATA.XML, whose wavelengths must be those of the sensor table. By default
the 202 bands of SpectralEarth are kept, selected by product band number.

Patches are adjacent (with --stride they overlap or are apart); remainders at the right and bottom
edge are not converted. Patches above --max-cloud or --max-nodata are skipped and counted. A pixel
counts as no-data where all kept bands are: products flag whole bands in water vapour as bad, and
fill them with the no-data value. The archive does not say which patches of different scenes show
the same location, so each patch is its own group. Products in a tar or zip file are unpacked to a
temporary file one by one, so extracted products are listed faster.

    python -m data_prep convert enmap-l2a --input products --output stores/enmap \\
        --patch-size 128 --max-cloud 0.05 --split blocks:50
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff, left_out
from data_prep.formats.band_identity import check_count
from data_prep.formats.limits import check_fractions, skip_above
from data_prep.formats.listing import TIFF, items_of
from data_prep.formats.tiling import tile_window, too_small
from data_prep.reader import File, Files, Item, option
from data_prep.readers import _enmap_metadata
from data_prep.readers._enmap_layers import LAYOUTS, QUALITY, read_layer
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

_IMAGE = re.compile(
    r"(?P<scene>ENMAP01-____L2A-DT\d{10}_\d{8}T\d{6}Z_\d{3}_V\d{6}_\d{8}T\d{6}Z)-SPECTRAL_IMAGE(?:_COG)?\.TIFF?",
    re.I,
)

_MAX_PATCHES = 1_000_000  # of a product; real ones have about 1200 x 1200 pixels


@dataclasses.dataclass(frozen=True)
class Reader:
    """EnMAP L2A products, one sample per patch."""

    TITLE: ClassVar[str] = "EnMAP L2A products"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "EnMAP data (c) DLR; see the licence of the EnMAP products"
    sensors: ClassVar = (ENMAP, ENMAP_PRODUCT)
    archive: Archive
    bands: int = option(
        202, "202: those of SpectralEarth; 224: all of the product", choices=tuple(LAYOUTS)
    )
    patch_size: int = option(128, "height and width of a patch", metavar="PIXELS")
    stride: int = option(0, "from patch to patch; 0: the same as --patch-size", metavar="PIXELS")
    max_cloud: float = option(
        0.1, "largest fraction of cloudy pixels, 0 to 1, by QL_QUALITY_CLOUD", metavar="FRACTION"
    )
    max_nodata: float = option(
        0.0, "largest fraction of pixels without data in any kept band, 0 to 1", metavar="FRACTION"
    )
    masks: tuple[str, ...] = option(
        tuple(QUALITY), "quality layers to keep (default: all)", choices=tuple(QUALITY)
    )

    def items(self) -> list[Item]:
        self._check_options()
        files = {name.lower(): name for name in self.archive.names((*TIFF, ".xml"))}
        images = [name for name in files.values() if _IMAGE.fullmatch(PurePosixPath(name).name)]
        if not images:
            raise ArchiveError(
                ".",
                "contains no EnMAP L2A product; expected ENMAP01-____L2A-DT..Z-SPECTRAL_IMAGE.TIF "
                "in it or below",
            )
        return items_of((name, functools.partial(self._patches, name, files)) for name in images)

    def read(self, item: Item, files: Files) -> Sample:
        name, sensor = item.files[0].name, LAYOUTS[self.bands]
        metadata = _enmap_metadata.parse(
            files.name("metadata"), files.read("metadata", _enmap_metadata.MAX_BYTES)
        )
        row, column = item.part
        window = Window(column, row, self.patch_size, self.patch_size)
        kept = [number - 1 for number in sensor.band_numbers]
        with geotiff.open_tiff_path(files, "image") as dataset:
            pixels = geotiff.read_bands(name, dataset, ENMAP_PRODUCT, window)[kept]
            skip_above("pixels without data", sensor.missing(pixels).all(0), self.max_nodata)
            skip_above("cloud", _layer(dataset, files, "cloud", window) != 0, self.max_cloud)
            return Sample(
                pixels=pixels,
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=geotiff.product_version(name),
                time=metadata.time,
                wavelengths_nm=metadata.wavelengths_nm[kept],
                masks={mask: _layer(dataset, files, mask, window) for mask in self.masks},
                **geotiff.georeference(dataset, window),
            )

    def footprint(self, item: Item) -> list[float] | None:
        window = tile_window(item.part, self.patch_size)
        return geotiff.listed_footprint(self.archive, item.files[0].name, window)

    # ------------------------------------------------------------------ listing

    def _check_options(self) -> None:
        check_fractions(max_cloud=self.max_cloud, max_nodata=self.max_nodata)
        if self.patch_size < 1 or self.stride < 0:
            raise ArchiveError(
                "--patch-size, --stride",
                f"are {self.patch_size} and {self.stride}, expected 1 or more and 0 or more pixels",
            )

    def _patches(self, name: str, present: Mapping[str, str]) -> list[Item]:
        scene = _IMAGE.fullmatch(PurePosixPath(name).name)["scene"]
        files = (File("image", name), *self._other_files(name, scene, present))
        with geotiff.open_listed(self.archive, name) as dataset:
            check_count(name, dataset, len(ENMAP_PRODUCT.bands), ENMAP_PRODUCT.title)
            height, width = dataset.shape
        size, step = self.patch_size, self.stride or self.patch_size
        rows, columns = (range(0, side - size + 1, step) for side in (height, width))
        if not len(rows) * len(columns):
            raise too_small(name, dataset.shape, size)
        if len(rows) * len(columns) > _MAX_PATCHES:
            count = (
                f"{height} x {width} pixels give {len(rows) * len(columns):,} patches of {size} x "
                f"{size}"
            )
            raise ArchiveError(
                name,
                f"{count}, at most {_MAX_PATCHES:,}; give a larger --patch-size or --stride",
            )
        sides = ((len(along) - 1) * min(step, size) + size for along in (rows, columns))
        left_out.note_edges(dataset.shape, size, math.prod(sides))
        corners = [(row, column) for row in rows for column in columns]
        ids = [f"{scene}/{row:05}_{column:05}" for row, column in corners]
        return [
            Item(patch, patch, files, part=corner)
            for patch, corner in zip(ids, corners, strict=True)
        ]

    def _other_files(self, name: str, scene: str, present: Mapping[str, str]) -> list[File]:
        """The other files of a product. Raises ArchiveError where one is missing."""
        wanted = {
            "metadata": ("METADATA", (".xml",)),
            **{mask: (QUALITY[mask], TIFF) for mask in dict.fromkeys(("cloud", *self.masks))},
        }
        files = []
        for role, (part, suffixes) in wanted.items():
            stem = str(PurePosixPath(name).with_name(f"{scene}-{part}"))
            found = [
                present[key]
                for suffix in suffixes
                for cog in ("", "_cog")
                if (key := f"{stem}{cog}{suffix}".lower()) in present
            ]
            if not found:
                raise ArchiveError(
                    f"{stem}{suffixes[0].upper()}",
                    f"no such file, but the product of {PurePosixPath(name).name} needs it; add it",
                )
            files.append(File(role, found[0]))
        return files


def _layer(image: rasterio.DatasetReader, files: Files, role: str, window: Window) -> np.ndarray:
    with geotiff.open_tiff_path(files, role) as layer:
        return read_layer(image, files.name(role), layer, window)
