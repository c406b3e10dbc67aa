"""Reads GeoNRW (IEEE DataPort): aerial photographs, elevation and land cover at 1 m.

    <root>/<city>/<x>_<y>_rgb.jp2     or .tif, uint8 [3, h, w]
    <root>/<city>/<x>_<y>_dem.tif     float32 [1, h, w], metres
    <root>/<city>/<x>_<y>_seg.tif     class codes [h, w], 0 background and 10 classes

Tiles of 1000 x 1000 pixels in North Rhine-Westphalia are cut into full patches; remainders at the
right and bottom edge are not converted. Each patch is two samples in one group, `geonrw_rgb` and
`geonrw_dem`, each with the label `landcover`, raw codes. *_sar.tif, present in some copies, are
ignored. The archive has no split lists (torchgeo tests on duesseldorf, herne and neuss);
neighbouring patches are similar, so blocks are a fairer split than single patches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import rasterio

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.labels import PUBLISHED_CODES, read_labels
from data_prep.formats.listing import items_of
from data_prep.formats.tiling import full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

_SENSORS = {"rgb": get_sensor("geonrw_rgb"), "dem": get_sensor("geonrw_dem")}
_NAME = re.compile(r"([^/]+/\d+_\d+)_(?:(rgb)\.(?:jp2|tif)|(dem|seg|sar)\.tif)")


@dataclasses.dataclass(frozen=True)
class Reader:
    """GeoNRW, two samples per patch."""

    TITLE: ClassVar[str] = "GeoNRW"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; see GeoNRW at IEEE DataPort"
    sensors: ClassVar = tuple(_SENSORS.values())
    archive: Archive
    patch_size: int = option(250, "height and width of the patches in pixels")

    def items(self) -> list[Item]:
        return items_of(
            (tile, functools.partial(self._items, tile, files))
            for tile, files in self._tiles().items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        name, window = item.files[0].name, tile_window(item.part, self.patch_size)
        sensor = _SENSORS[item.id.split("/")[2]]
        with _open(files) as dataset:
            landcover = read_labels(name, dataset, files, "landcover", PUBLISHED_CODES)
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor, window),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                labels={"landcover": np.ascontiguousarray(landcover[window.toslices()])},
                **geotiff.georeference(dataset, window),
            )

    def _tiles(self) -> dict[str, dict[str, str]]:
        """{"<city>/<x>_<y>": {kind: name}}"""
        tiles: dict[str, dict[str, str]] = {}
        for name in self.archive.names((".tif", ".tiff", ".jp2")):
            found = _NAME.fullmatch(name)
            if not found:
                raise ArchiveError(
                    name,
                    "is not a file of GeoNRW, expected <city>/<x>_<y>_{rgb.jp2,dem.tif,seg.tif}; "
                    "move it away",
                )
            kinds, kind = tiles.setdefault(found[1], {}), found[2] or found[3]
            if kind in kinds:
                raise ArchiveError(name, f"the tile already has {kinds[kind]}; keep one of them")
            kinds[kind] = name
        if not tiles:
            raise ArchiveError(
                ".", "contains no GeoNRW; expected <city>/<x>_<y>_{rgb.jp2,dem.tif,seg.tif}"
            )
        return tiles

    def _items(self, tile: str, names: Mapping[str, str]) -> Iterator[Item]:
        for kind in ("rgb", "dem", "seg"):
            if kind not in names:
                raise ArchiveError(
                    f"{tile}_{kind}",
                    f"no such file, but there is {min(names.values())}; copy the tile again",
                )
        with geotiff.open_listed(self.archive, names["seg"]) as dataset:
            patches = full_tiles(names["seg"], dataset.shape, self.patch_size)
        for kind in _SENSORS:
            for patch in patches:
                files = (File("image", names[kind]), File("landcover", names["seg"]))
                yield Item(
                    f"{tile}/{kind}/{tile_name(patch)}",
                    f"{tile}/{tile_name(patch)}",
                    files,
                    part=patch,
                )


def _open(files: Files) -> contextlib.AbstractContextManager[rasterio.DatasetReader]:
    is_jp2 = files.name("image").endswith(".jp2")
    return (geotiff.open_jp2_path if is_jp2 else geotiff.open_tiff_path)(files, "image")
