"""Reads L7 Irish (doi 10.5066/F7XD0ZWC), the Landsat 7 cloud cover assessment of 206 scenes.

    <root>/**/<biome>/<scene>/L71226098_09820011112.TIF        uint8 [9, h, w] at 30 m: B10 B20 B30
                                                               B40 B50 B61 B62 B70 B80
    <root>/**/<biome>/<scene>/L7_p226_r98_newmask2015.TIF      cloud mask [h, w]

This is the layout in which torchgeo publishes it; each of its tar.gz files is one biome. Scene
folders have names such as p226_r98 or, for a second date, p231_r93_2. The name of an image contains
path (226), row (098, twice) and date (2001-11-12), but no hour, so times are 00:00 UTC. Path and
row of the mask must be those of the image. Scenes are read by window and cut into full tiles.

Label `cloud`: 0 fill, 64 cloud shadow, 128 clear, 192 thin cloud, 255 cloud; with --classes index
0, 1, 2, 3, 4. The biome is the first part of an id and the `product`. There is no split list:
torchgeo assigns whole scenes at random, 60/20/20. Tiles of one scene are similar, so split with
`--split blocks:200` (km), or by biome with `--val 'polar_north/*'`.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import ClassVar

from data_prep.readers._landsat_scenes import SceneReader
from eo_jax.sensors import get_sensor

_IMAGE = re.compile(r"L7[12](\d{3})(\d{3})_(\d{3})(\d{8})\.tif", re.IGNORECASE)
_MASK = re.compile(r"L7_p(\d+)_r(\d+)_newmask2015\.tif", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Reader(SceneReader):
    """L7 Irish, one sample per tile. Bands are in file order."""

    TITLE: ClassVar[str] = "L7 Irish cloud cover assessment"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; Landsat data courtesy of the U.S. Geological Survey"
    LAYOUT: ClassVar[str] = "<biome>/p226_r98/{L71226098_09820011112,L7_p226_r98_newmask2015}.TIF"
    sensors: ClassVar = (get_sensor("landsat7_etm_l1"),)

    def part_of(self, folder: str, file: str) -> tuple[str, str] | None:
        image, mask = _IMAGE.fullmatch(file), _MASK.fullmatch(file)
        if image and image[2] == image[3]:
            return "image", f"{int(image[1])}/{int(image[2])}"
        return ("cloud", f"{int(mask[1])}/{int(mask[2])}") if mask else None

    def time_of(self, file: str) -> int:
        date = datetime.datetime.strptime(_IMAGE.fullmatch(file)[4], "%Y%m%d")
        return int(date.replace(tzinfo=datetime.UTC).timestamp())
