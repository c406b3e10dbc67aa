"""Shared by the readers of L7 Irish and L8 Biome: Landsat scenes and cloud masks cut into tiles."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff, remarks
from data_prep.formats.labels import ClassNumbers, read_label_window
from data_prep.formats.listing import TIFF, items_of
from data_prep.formats.tiling import full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, SkipSample, option
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

_CLOUD_CLASSES = {64: "cloud shadow", 128: "clear", 192: "thin cloud", 255: "cloud"}
FILL = 0
CLOUD_CODES = (FILL, *_CLOUD_CLASSES)
_CODES = ClassNumbers(known=frozenset(CLOUD_CODES))


@dataclasses.dataclass(frozen=True)
class SceneReader:
    """Scenes in <biome>/<scene>/, at any depth: an image with all bands, and a cloud mask on the
    same grid.

    A subclass sets `sensors` to its one sensor and LAYOUT to the layout that errors name as
    expected, and defines `part_of` and `time_of`.
    """

    LAYOUT: ClassVar[str]
    sensors: ClassVar[tuple[Sensor, ...]]
    archive: Archive
    patch_size: int = option(
        256,
        "height and width of the tiles in pixels; remainders at the right and bottom edge are not "
        "converted",
    )
    max_nodata: float = option(
        0.9, "largest fraction of fill in a tile, by the mask; tiles with more are skipped"
    )
    classes: str = option(
        "raw", "raw: the codes of the mask; index: 0 to 4 in their order", choices=("raw", "index")
    )

    def part_of(self, folder: str, file: str) -> tuple[str, str] | None:
        """("image" or "cloud", a key that distinguishes the scenes of a folder) of a file name, or
        None for a file that does not belong to the archive.
        """
        raise NotImplementedError

    def time_of(self, file: str) -> int:
        """Seconds since 1970 UTC from an image's file name. Raises ValueError without a date."""
        raise NotImplementedError

    def items(self) -> list[Item]:
        return items_of(
            (names["image"], functools.partial(self._tiles, names["image"], names["cloud"]))
            for names in self._scenes()
        )

    def read(self, item: Item, files: Files) -> Sample:
        """Raises SkipSample for a tile with too much fill, ArchiveError for any invalid file."""
        name, (sensor,) = item.files[0].name, self.sensors
        window = tile_window(item.part, self.patch_size)
        with geotiff.open_tiff_path(files, "image") as dataset:
            cloud = read_label_window(name, dataset, files, "cloud", window, _CODES)
            _check_codes(files.name("cloud"), cloud)
            if (cloud == FILL).mean() > self.max_nodata:
                raise SkipSample(f"more than {self.max_nodata:.0%} fill (--max-nodata)")
            remarks.note_classes("cloud", self._class_table())
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor, window),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=item.id.split("/")[0],
                time=self.time_of(PurePosixPath(name).name),
                labels={
                    "cloud": cloud
                    if self.classes == "raw"
                    else np.searchsorted(CLOUD_CODES, cloud).astype(np.uint8)
                },
                **geotiff.georeference(dataset, window),
            )

    def footprint(self, item: Item) -> list[float] | None:
        """Corners of a tile, see `reader.Placed`."""
        window = tile_window(item.part, self.patch_size)
        return geotiff.listed_footprint(self.archive, item.files[0].name, window)

    def _class_table(self) -> dict[int, dict[str, str]]:
        stored = _CLOUD_CLASSES if self.classes == "raw" else range(1, len(CLOUD_CODES))
        return {
            number: {"name": name}
            for number, name in zip(stored, _CLOUD_CLASSES.values(), strict=True)
        }

    def _scenes(self) -> list[dict[str, str]]:
        """{"image" or "cloud": name} of each scene."""
        scenes: dict[tuple[str, str], dict[str, str]] = collections.defaultdict(dict)
        for name in self.archive.names(TIFF):
            path = PurePosixPath(name)
            part = self.part_of(path.parent.name, path.name) if len(path.parts) > 2 else None
            if part is None:
                raise ArchiveError(
                    name, f"is not a file of this archive, expected {self.LAYOUT}; move it away"
                )
            role, scene = part
            other = scenes[str(path.parent), scene].setdefault(role, name)
            if other != name:
                raise ArchiveError(name, f"its scene already has {other}; keep one of them")
        for names in scenes.values():
            if len(names) < 2:
                missing = "cloud mask" if "image" in names else "image"
                raise ArchiveError(
                    min(names.values()),
                    f"has no {missing} of its scene next to it, expected {self.LAYOUT}; copy the "
                    "folder again",
                )
        if not scenes:
            raise ArchiveError(".", f"contains no GeoTIFF; expected {self.LAYOUT}")
        return list(scenes.values())

    def _tiles(self, image: str, mask: str) -> Iterator[Item]:
        path = PurePosixPath(image)
        try:
            self.time_of(path.name)
        except ValueError as error:
            raise ArchiveError(
                image, f"its name has no date ({error}); restore its published name"
            ) from error
        with geotiff.open_listed(self.archive, mask) as dataset:
            tiles = full_tiles(mask, dataset.shape, self.patch_size)
        for tile in tiles:
            tile_id = "/".join((*path.parts[-3:-1], tile_name(tile)))
            yield Item(tile_id, tile_id, (File("image", image), File("cloud", mask)), part=tile)


def _check_codes(name: str, cloud: np.ndarray) -> None:
    unknown = np.setdiff1d(cloud, CLOUD_CODES)
    if len(unknown):
        codes = ", ".join(map(str, CLOUD_CODES))
        raise ArchiveError(
            name,
            f"has the code {unknown[0]}, expected {codes} (fill, cloud shadow, clear, thin cloud, "
            "cloud); copy it again",
        )
