"""Reads BigEarthNet version 2 (reBEN) and 1: Sentinel-2 L2A and Sentinel-1 GRD patches in Europe.

Version 2 (arXiv 2407.03653):
    <root>/BigEarthNet-S2/<tile product>/<patch>/<patch>_{B01,...,B08,B8A,B09,B11,B12}.tif
        uint16, reflectance x 10000, 0 is no-data
    <root>/BigEarthNet-S1/<scene>/<patch>/<patch>_{VV,VH}.tif
        float32, dB
    <root>/Reference_Maps/<tile product>/<patch>/<patch>_reference_map.tif
        uint16, CORINE Land Cover codes
    <root>/metadata.csv
        classes, splits and pairs of S1 and S2, written from metadata.parquet as below
Version 1 (arXiv 1902.06148, 2105.07921):
    <root>/BigEarthNet-v1.0/<patch>/<patch>_{B01,...}.tif, <patch>_labels_metadata.json
    <root>/BigEarthNet-S1-v1.0/<patch>/<patch>_{VV,VH}.tif, <patch>_labels_metadata.json
    <root>/{train,val,test}.csv or bigearthnet-{train,val,test}.csv
        optional; one S2 patch per line, in the first column

Patches are 1.2 km wide: 120 x 120 pixels of 10 m; bands of 20 m have 60 x 60 pixels, bands of 60 m
20 x 20 (for --resample see ssl4eo_s12.py). A group is a location; an S1 patch is in the group of
its S2 patch. Convert the published metadata.parquet to CSV with

    python -c "import pandas as p; t = p.read_parquet('metadata.parquet'); \\
        t.assign(labels=t.labels.map(';'.join)).to_csv('metadata.csv', index=False)"

--labels multilabel    `multilabel` uint8 [19], for version 1 also `multilabel_43` uint8 [43] (names
                       and order in _clc_labels.py). A patch of version 1 that only has classes
                       outside the 19 (roads, airports, ...) has 19 zeros.
--labels landcover     version 2: `landcover` [h, w], the codes of the reference map; an S1 patch
                       gets the map of its S2 patch. With --resample native, on the 10 m grid only.

Where there are lists, patches in none of them are skipped: the published lists omit patches with
snow, clouds or cloud shadows. "validation" becomes the split `val`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import band_files, geotiff
from data_prep.formats.labels import PUBLISHED_CODES, read_labels
from data_prep.formats.listing import image_files, sorted_by_id
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers import _bigearthnet_lists, _clc_labels
from data_prep.readers._bigearthnet_lists import Lists
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_S2 = get_sensor("sentinel2_l2a_bigearthnet")
_S1 = get_sensor("sentinel1_grd")
_UNLISTED = "unlisted"
_S1_PATCH = re.compile(
    r"(?P<scene>S1[A-D]_IW_GRDH_1SDV_(?P<time>\d{8}T\d{6}))_(?P<location>[0-9A-Z]{5}_\d+_\d+)",
    re.ASCII,
)
_S2_PATCH = re.compile(
    r"(?P<scene>S2[A-D]_MSIL2A_(?P<time>\d{8}T\d{6})_N\d{4}_R\d{3}_T[0-9A-Z]{5})_\d+_\d+", re.ASCII
)
_S2_PATCH_V1 = re.compile(r"(?P<scene>S2[A-D]_MSIL2A_(?P<time>\d{8}T\d{6}))_\d+_\d+", re.ASCII)
_EXAMPLES = {
    _S2_PATCH: "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
    _S2_PATCH_V1: "S2A_MSIL2A_20170617T113321_4_55",
}


class Layout(NamedTuple):
    """Folder of a product in a version of the archive, and the pattern of its patches' names."""

    folder: str
    product: str
    version: int
    sensor: Sensor
    patch: re.Pattern


LAYOUTS = (
    Layout("BigEarthNet-S2", "s2", 2, _S2, _S2_PATCH),
    Layout("BigEarthNet-S1", "s1", 2, _S1, _S1_PATCH),
    Layout("BigEarthNet-v1.0", "s2", 1, _S2, _S2_PATCH_V1),
    Layout("BigEarthNet-S1-v1.0", "s1", 1, _S1, _S1_PATCH),
)


@dataclasses.dataclass(frozen=True)
class Reader:
    """BigEarthNet, one sample per patch.

    The `part` of an item is (pixel size, class, class, ...), with the classes of metadata.csv.
    """

    TITLE: ClassVar[str] = "BigEarthNet"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = (
        "CDLA-Permissive-1.0 (not verified); contains modified Copernicus Sentinel data"
    )
    sensors: ClassVar = band_files.all_rows(_S2, _S1)
    archive: Archive
    products: tuple[str, ...] = option(
        (), "s1, s2 or both (default: those in the archive)", choices=("s1", "s2")
    )
    resample: str = option(
        "bilinear",
        "resampling of coarser bands to the 10 m grid; native: one sample per grid",
        choices=band_files.METHODS,
    )
    labels: tuple[str, ...] = option(
        (),
        "multilabel: classes of the patch; landcover: its reference map",
        choices=("multilabel", "landcover"),
    )
    splits: str = option(
        "archive",
        "archive: by the published lists, if present; none: ignore them",
        choices=("archive", "none"),
    )

    def items(self) -> list[Item]:
        layouts = self._layouts()
        lists = self._lists(layouts[0].version)
        return sorted_by_id(item for layout in layouts for item in self._items(layout, lists))

    def read(self, item: Item, files: Files) -> Sample:
        if item.split == _UNLISTED:
            raise SkipSample(
                "in none of the split lists, which leave out snow, clouds and their shadows"
            )
        folder = item.files[0].name.rpartition("/")[0]
        layout = next(layout for layout in LAYOUTS if folder.startswith(f"{layout.folder}/"))
        match = layout.patch.fullmatch(folder.rpartition("/")[2])
        sensor = band_files.rows(layout.sensor, self.resample)[item.part[0]]
        pixels, georeference = band_files.read_image(
            files, sensor, [band.name for band in sensor.bands], self.resample
        )
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            product=match["scene"],
            time=band_files.seconds(folder, match["time"]),
            labels=self._read_labels(item, files, sensor),
            **georeference,
        )

    # ------------------------------------------------------------------ listing

    def _layouts(self) -> list[Layout]:
        """The layouts to read, all of one version."""
        folders = set(self.archive.folders())
        present = [layout for layout in LAYOUTS if layout.folder in folders]
        if not present:
            raise ArchiveError(
                "BigEarthNet-S2",
                f"no such folder, nor {', '.join(layout.folder for layout in LAYOUTS[1:])}; give "
                "the parent of one",
            )
        if len({layout.version for layout in present}) > 1:
            raise ArchiveError(
                present[0].folder,
                f"is version 2, but {present[-1].folder} is version 1; convert them separately",
            )
        absent = sorted(set(self.products) - {layout.product for layout in present})
        if absent:
            raise ArchiveError(
                present[0].folder,
                f"exists, but the folder of {absent[0]} does not; leave {absent[0]} out of "
                "--products, or add it",
            )
        if "landcover" in self.labels and present[0].version == 1:
            raise ArchiveError(
                present[0].folder,
                "is version 1, which has no reference maps; leave landcover out of --labels",
            )
        return [
            layout for layout in present if not self.products or layout.product in self.products
        ]

    def _lists(self, version: int) -> Lists:
        if self.splits == "none":
            lists = Lists({}, {})
        else:
            lists = (
                _bigearthnet_lists.read_version_2(self.archive)
                if version == 2
                else _bigearthnet_lists.read_version_1(self.archive)
            )
        if version == 2 and "multilabel" in self.labels and not lists.patches:
            problem = (
                "not read with --splits none"
                if self.splits == "none"
                else "no such file, or an empty one"
            )
            raise ArchiveError(
                _bigearthnet_lists.METADATA,
                f"{problem}, but --labels multilabel needs it; write it with: "
                f"{_bigearthnet_lists.TO_CSV}",
            )
        return lists

    def _items(self, layout: Layout, lists: Lists) -> Iterator[Item]:
        expected = [band_files.two_digits(band.name) for band in layout.sensor.bands]
        for folder, bands in _patches(self.archive, layout).items():
            band_files.check_names(folder, bands, expected, layout.sensor.title)
            s2_patch = self._s2_patch(layout, folder, lists)
            info = lists.patches.get(s2_patch)
            wanted = info is not None or not lists.patches
            common = {
                "group": _group(layout, folder, s2_patch),
                "split": (info.split if info else None) if wanted else _UNLISTED,
            }
            for size, row in band_files.rows(layout.sensor, self.resample).items():
                files = tuple(
                    File(band.name, bands[band_files.two_digits(band.name)]) for band in row.bands
                )
                if wanted:
                    files += self._label_files(layout, folder, s2_patch, size)
                item_id = f"{common['group']}/{folder.rpartition('/')[2]}" + (
                    f"/{size}m" if size else ""
                )
                yield Item(
                    item_id, files=files, part=(size, *(info.classes if info else ())), **common
                )

    def _s2_patch(self, layout: Layout, folder: str, lists: Lists) -> str | None:
        """The S2 patch of a patch, which may be itself; None for an S1 patch of version 2 that is
        in no list.
        """
        patch = folder.rpartition("/")[2]
        if layout.product == "s2":
            return patch
        if layout.version == 2:
            source, found, form = _bigearthnet_lists.METADATA, lists.pairs.get(patch), _S2_PATCH
        else:
            source, form = f"{folder}/{patch}_labels_metadata.json", _S2_PATCH_V1
            found = _bigearthnet_lists.s2_patch_of(self.archive, source)
        if found is not None and not form.fullmatch(found):
            raise ArchiveError(
                source,
                f"names {found[:100]!r} as the S2 patch of {patch}, expected a name such as "
                f"{_EXAMPLES[form]}; copy it again",
            )
        return found

    def _label_files(
        self, layout: Layout, folder: str, s2_patch: str | None, size: int
    ) -> tuple[File, ...]:
        """The files of the chosen labels. Raises ArchiveError where one is missing."""
        names = {}
        if "multilabel" in self.labels and layout.version == 1:
            names["multilabel"] = f"{folder}/{folder.rpartition('/')[2]}_labels_metadata.json"
        if "landcover" in self.labels and size in (band_files.ON_ONE_GRID, 10):
            names["landcover"] = _reference_map(folder, s2_patch)
        for label, name in names.items():
            if not self.archive.exists(name):
                raise ArchiveError(
                    name,
                    f"no such file, but --labels {label} needs it for {folder}; add it, or leave "
                    f"{label} out of --labels",
                )
        return tuple(File(label, name) for label, name in names.items())

    def _read_labels(self, item: Item, files: Files, sensor: Sensor) -> dict[str, np.ndarray]:
        found = {}
        if "multilabel" in files:
            found = _clc_labels.labels_of_43(
                files.name("multilabel"),
                _bigearthnet_lists.class_names(files.name("multilabel"), files["multilabel"]),
            )
        elif "multilabel" in self.labels:
            found["multilabel"] = _clc_labels.multi_hot(item.part[1:], len(_clc_labels.NAMES_19))
        if "landcover" in files:
            role = sensor.bands[band_files.finest(sensor)].name
            with geotiff.open_tiff(files, role) as image:
                found["landcover"] = read_labels(
                    files.name(role), image, files, "landcover", PUBLISHED_CODES
                )
        return found


def _patches(archive: Archive, layout: Layout) -> dict[str, dict[str, str]]:
    """{folder of a patch: {band: file}} of a layout. Raises ArchiveError for files outside it."""
    found: dict[str, dict[str, str]] = {}
    for name in image_files(archive, layout.folder):
        folder, _, file = name.rpartition("/")
        inner, patch = folder.removeprefix(layout.folder).strip("/"), folder.rpartition("/")[2]
        match = layout.patch.fullmatch(patch)
        expected = f"{match['scene']}/{patch}" if match and layout.version == 2 else patch
        if not match or inner != expected or not file.startswith(f"{patch}_"):
            form = (
                "<scene>/<patch>/<patch>_<band>.tif"
                if layout.version == 2
                else "<patch>/<patch>_<band>.tif"
            )
            raise ArchiveError(
                name,
                f"is not at {layout.folder}/{form}, or has another name; move it there, or out of "
                f"{layout.folder}",
            )
        found.setdefault(folder, {})[file.removeprefix(f"{patch}_").rpartition(".")[0]] = name
    return found


def _group(layout: Layout, folder: str, s2_patch: str | None) -> str:
    """Name of the location: in version 1 the S2 patch; in version 2 tile, column and row,
    "33UUP_75_43", which are in the names of both S1 and S2 patches.
    """
    if layout.version == 1:
        return s2_patch
    if s2_patch is None:
        return layout.patch.fullmatch(folder.rpartition("/")[2])["location"]
    tile, column, row = s2_patch.split("_")[-3:]
    return f"{tile[1:]}_{column}_{row}"


def _reference_map(folder: str, s2_patch: str | None) -> str:
    if s2_patch is None:
        raise ArchiveError(
            folder,
            f"{_bigearthnet_lists.METADATA} has no S2 patch for it, but --labels landcover needs "
            "the map of one; add the metadata",
        )
    return f"Reference_Maps/{s2_patch.rsplit('_', 2)[0]}/{s2_patch}/{s2_patch}_reference_map.tif"
