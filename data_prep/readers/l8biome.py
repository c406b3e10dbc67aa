"""Reads L8 Biome (doi 10.5066/F7251GDH), the Landsat 8 cloud cover assessment of 96 scenes.

    <root>/**/<biome>/<scene>/<scene>.TIF              uint8 [11, h, w] at 30 m: B1 to B11
    <root>/**/<biome>/<scene>/<scene>_fixedmask.TIF    cloud mask [h, w]

This is the layout in which torchgeo publishes it; each of its tar.gz files is one biome. A scene
such as LC80420082013220LGN00 is path 042, row 008, day 220 of 2013 (8 August), without an hour, so
times are 00:00 UTC. Scenes are read by window and cut into full tiles.

Label `cloud`: 0 fill, 64 cloud shadow, 128 clear, 192 thin cloud, 255 cloud; with --classes index
0, 1, 2, 3, 4. The biome is the first part of an id and the `product`. There is no split list:
torchgeo assigns whole scenes at random, 60/20/20. Tiles of one scene are similar, so split with
`--split blocks:200` (km), or by biome with `--val 'barren/*'`.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import ClassVar

from data_prep.readers._landsat_scenes import SceneReader
from eo_jax.sensors import get_sensor

_NAME = re.compile(r"(LC8\d{6}(\d{7})[A-Z]{3}\d{2})(_fixedmask)?\.tif", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Reader(SceneReader):
    """L8 Biome, one sample per tile. Bands are in file order."""

    TITLE: ClassVar[str] = "L8 Biome cloud cover assessment"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; Landsat data courtesy of the U.S. Geological Survey"
    LAYOUT: ClassVar[str] = "<biome>/LC80420082013220LGN00/LC80420082013220LGN00{,_fixedmask}.TIF"
    sensors: ClassVar = (get_sensor("landsat8_oli_tirs_l1"),)

    def part_of(self, folder: str, file: str) -> tuple[str, str] | None:
        found = _NAME.fullmatch(file)
        if not found or found[1] != folder:
            return None
        return "cloud" if found[3] else "image", folder

    def time_of(self, file: str) -> int:
        date = datetime.datetime.strptime(_NAME.fullmatch(file)[2], "%Y%j")
        return int(date.replace(tzinfo=datetime.UTC).timestamp())
