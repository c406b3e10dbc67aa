"""Reads SpectralEarth (arXiv 2408.08447): one GeoTIFF of 202 EnMAP bands a place and date.

<root>/enmap/<location>/<scene>.tif        int16 [202, h, w], reflectance x 10000
<root>/<label>/<location>/<scene>.tif      a label map on the same grid, for each --labels
<root>/splits/{train,val,test}.txt         one <location>/<scene>.tif a line; optional, but where one is, every image is in one of them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from data_prep import geotiff
from data_prep.readers import ArchiveError, Item, image_files, label_folders, relative_name, sorted_by_id, with_labels
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

_SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Reader:
    """SpectralEarth below `root`, with the label maps of the folders named in `labels`. Bands are in cube order already."""

    TITLE: ClassVar[str] = "SpectralEarth"
    VERSION: ClassVar[int] = 1
    root: Path
    labels: tuple[str, ...] = ()

    def items(self) -> list[Item]:
        images, folders = self.root / "enmap", label_folders(self.root, self.labels)
        if not images.is_dir():
            raise ArchiveError("enmap", "no such folder; expected <input>/enmap/<location>/<scene>.tif")
        paths = image_files(images)
        if not paths:
            raise ArchiveError("enmap", "no GeoTIFF in it; expected <input>/enmap/<location>/<scene>.tif")
        names = [relative_name(images, path) for path in paths]
        splits = self._splits(names)
        return sorted_by_id(self._item(path, name, folders, splits.get(name)) for path, name in zip(paths, names, strict=True))

    def read(self, item: Item, contents: Mapping[str, bytes]) -> Sample:
        name = item.files[0].name
        with geotiff.open_tiff(name, contents["image"]) as dataset:
            if dataset.count != len(ENMAP.bands):
                raise ArchiveError(name, f"{dataset.count} bands, expected the {len(ENMAP.bands)} of SpectralEarth; for 224, try enmap-tiles")
            found_nm = geotiff.wavelengths_nm(name, dataset)
            if found_nm is not None:
                geotiff.check_wavelengths(name, found_nm, ENMAP)
            return Sample(
                pixels=geotiff.read_pixels(name, dataset, dataset.indexes, ENMAP, ("int16",)),
                sensor=ENMAP.id,
                id=item.id,
                group=item.group,
                product=geotiff.product_version(name),
                time=geotiff.acquisition_time(name, dataset),
                wavelengths_nm=found_nm,
                labels={file.role: geotiff.read_labels(name, dataset, file.name, contents[file.role]) for file in item.files[1:]},
                **geotiff.place(dataset),
            )

    def _item(self, path: Path, name: str, folders: Mapping[str, Path], split: str | None) -> Item:
        if name.count("/") != 1:
            raise ArchiveError(f"enmap/{name}", "lies elsewhere than enmap/<location>/<scene>.tif; move it there, or out of enmap/")
        return Item(name.rpartition(".")[0], path.parent.name, with_labels(self.root, path, self.root / "enmap", folders), split)

    def _splits(self, images: Sequence[str]) -> dict[str, str]:
        """{image below enmap/: split}; empty without split lists. Half a list is a mistake, so an image in none of them is an error."""
        lists = {split: self.root / "splits" / f"{split}.txt" for split in _SPLITS}
        lists = {split: path.read_text().split() for split, path in lists.items() if path.is_file()}
        present, found = set(images), dict[str, str]()
        for split, listed in lists.items():
            for image in listed:
                self._check_listed(image, split, present, found)
                found[image] = split
        left = sorted(present - set(found))
        if found and left:
            raise ArchiveError(f"enmap/{left[0]}", f"is in no split list, as {len(left)} images are; list them, or remove the folder splits/")
        return found

    def _check_listed(self, image: str, split: str, images: set[str], found: dict[str, str]) -> None:
        if image not in images:
            raise ArchiveError(f"splits/{split}.txt", f"lists {image!r}, but there is no enmap/{image}; remove the line, or add the file")
        if image in found:
            raise ArchiveError(f"splits/{split}.txt", f"lists {image!r}, which {found[image]}.txt has already; keep one of the two lines")
