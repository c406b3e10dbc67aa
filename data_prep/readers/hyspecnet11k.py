"""Reads HySpecNet-11k (arXiv 2306.00385): EnMAP L2A patches of 128 x 128 pixels and 224 bands.

    <root>/**/<tile>-Y<rows>_X<columns>-SPECTRAL_IMAGE.TIF      int16 [224, h, w], reflectance x
                                                                10000; at any depth
    <root>/**/<tile>-Y<rows>_X<columns>-QL_QUALITY_CLOUD.TIF    and other quality layers next to it,
                                                                uint8 [h, w]
    <root>/**/splits/{easy,hard}/{train,val,test}.csv           one <tile>/<patch>/<patch>-DATA.npy
                                                                per line, or only its last part

The files have no wavelengths: according to the paper, their bands are the product bands 1 to 224 in
that order. Bands 127-141 and 161-167 are empty. By default the 202 bands of SpectralEarth are kept,
selected by product band number; `--bands 224` keeps all. In "easy" the splits are by patch, in
"hard" by tile. The archive does not say which patches of different tiles show the same location, so
each patch is its own group.

    python -m data_prep convert hyspecnet11k --input hyspecnet-11k --output stores/hyspecnet11k \\
        --splits hard --masks cloud cirrus
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import rasterio

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import identify
from data_prep.formats.listing import image_files, sorted_by_id, split_lists, text_lines
from data_prep.reader import File, Files, Item, option
from data_prep.readers._enmap_layers import LAYOUTS, QUALITY, read_layer
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

_TILE = r"ENMAP01-____L2A-DT\d{10}_\d{8}T\d{6}Z_\d{3}_V\d{6}_\d{8}T\d{6}Z"
_IMAGE = re.compile(rf"(?P<tile>{_TILE})-(?P<offset>Y\d{{8}}_X\d{{8}})-SPECTRAL_IMAGE\.TIFF?", re.I)
_SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Reader:
    """HySpecNet-11k, one sample per patch."""

    TITLE: ClassVar[str] = "HySpecNet-11k"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "HySpecNet-11k: not stated; EnMAP data (c) DLR"
    sensors: ClassVar = (ENMAP, ENMAP_PRODUCT)
    archive: Archive
    bands: int = option(
        202, "202: those of SpectralEarth; 224: all of the product", choices=tuple(LAYOUTS)
    )
    splits: str = option(
        "easy",
        "split lists to use; none: ignore them, for a part of the archive",
        choices=("easy", "hard", "none"),
    )
    masks: tuple[str, ...] = option(
        (), "quality layers to keep (default: none)", choices=tuple(QUALITY)
    )

    def items(self) -> list[Item]:
        names = [
            name for name in image_files(self.archive) if _IMAGE.fullmatch(PurePosixPath(name).name)
        ]
        if not names:
            raise ArchiveError(
                ".",
                "contains no patch; expected "
                "ENMAP01-____L2A-DT..Z-Y01460273_X03110438-SPECTRAL_IMAGE.TIF in it or below",
            )
        return self._with_splits(sorted_by_id(self._item(name) for name in names))

    def read(self, item: Item, files: Files) -> Sample:
        name, sensor = item.files[0].name, LAYOUTS[self.bands]
        with geotiff.open_tiff(files, "image") as dataset:
            product = identify(name, dataset, ENMAP_PRODUCT)
            bands = product.pick([number - 1 for number in sensor.band_numbers])
            return Sample(
                pixels=geotiff.read_pixels(name, dataset, bands, sensor, (sensor.dtype,)),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=geotiff.product_version(name),
                time=geotiff.acquisition_time(name, dataset),
                masks={file.role: _mask(dataset, files, file.role) for file in item.files[1:]},
                **geotiff.georeference(dataset),
            )

    def _item(self, name: str) -> Item:
        path = PurePosixPath(name)
        match = _IMAGE.fullmatch(path.name)
        files = [File("image", name)]
        for mask in self.masks:
            layer = str(
                path.with_name(re.sub("SPECTRAL_IMAGE", QUALITY[mask], path.name, flags=re.I))
            )
            if not self.archive.exists(layer):
                raise ArchiveError(
                    layer,
                    f"no such file, but --masks {mask} needs it next to {path.name}; add it, or "
                    f"leave {mask} out",
                )
            files.append(File(mask, layer))
        patch = f"{match['tile']}/{match['offset']}"
        return Item(patch, patch, tuple(files))

    # ------------------------------------------------------------------ split lists

    def _with_splits(self, items: list[Item]) -> list[Item]:
        lists = self._lists()
        if not lists:
            return items
        depth = self._depth(lists.values())
        lines = {_line(item, depth): item for item in items}
        try:
            splits = split_lists(self.archive, lists, lines)
        except ArchiveError as error:
            raise ArchiveError(
                error.name,
                f"{error.reason}; for a part of the archive, give --splits none",
            ) from error
        return [dataclasses.replace(item, split=splits[line]) for line, item in lines.items()]

    def _lists(self) -> dict[str, str]:
        """{split: its list}. Raises ArchiveError where some of the chosen lists are missing."""
        if self.splits == "none":
            return {}
        found = [
            name
            for name in self.archive.names((".csv",))
            if PurePosixPath(name).parts[-3:-2] == ("splits",)
        ]
        chosen = {
            PurePosixPath(name).stem: name
            for name in found
            if PurePosixPath(name).parent.name == self.splits
        }
        missing = [f"{split}.csv" for split in _SPLITS if split not in chosen]
        if found and missing:
            raise ArchiveError(
                f"splits/{self.splits}",
                f"has no {', '.join(missing)}, but there is {found[0]}; add it, or give another "
                "--splits",
            )
        return {split: chosen[split] for split in _SPLITS} if found else {}

    def _depth(self, lists: Iterable[str]) -> int:
        """Number of parts of the paths in the lists: 3 in the original, 1 for bare file names."""
        lines = [line for name in lists for line in text_lines(self.archive, name)[:1]]
        return min(lines[0].count("/") + 1, 3) if lines else 1


def _line(item: Item, depth: int) -> str:
    """The name of a patch in the split lists."""
    tile, offset = item.id.split("/")
    patch = f"{tile}-{offset}"
    return "/".join((tile, patch, f"{patch}-DATA.npy")[-depth:])


def _mask(image: rasterio.DatasetReader, files: Files, role: str) -> np.ndarray:
    with geotiff.open_tiff(files, role) as layer:
        return read_layer(image, files.name(role), layer)
