"""Reads one hyperspectral scene with its ground truth, such as Pavia University or Houston 2013.

    <root>/<image>            --image, one of these:
        *.mat                 [h, w, c], version 5 or 7.3; or a matrix [c, w * h] with nRow and nCol
                              next to it, as in Jasper Ridge; or a list of n spectra, [n, c]
        *.hdr                 header of an ENVI pair, whose data file may be gzip-compressed
        *.tif                 [c, h, w]
    <root>/<ground truth>     --ground-truth: class numbers [h, w], 0 where there is no label, in
                              one of the same formats
    <root>/<train map> ...    --train-map, --test-map and optionally --val-map: the same with the
                              pixels of one split

--sensor is the row of the sensor table with the bands of the image, or a JSON file with a row of
your own. A file that says the wavelengths of its bands needs none: the row is then what it says
about itself, as `python -m data_prep sensor --from FILE` shows. Of .mat files, these are `wl`,
`wavelength` or `wavelengths` beside the cube, and `fwhm`. Pixels are stored in the dtype of the
row, with every value kept; a scene that was scaled to fractions needs a row that says so. --bands
keeps some bands.

A list of spectra with one class for each, as training pixels of Houston 2013 are passed around, is
an image of n x 1 pixels, whose ground truth is a list of n classes; train on it with draw="pixel".

The scene is one sample, or with --patch-size several adjacent ones; those at the right and bottom
edge are smaller, so that each pixel is used exactly once. Ids end in the row and column of the
upper left pixel, r00032_c00064. The ground truth becomes the label `landcover`. With split maps a
label `landcover.split` is, per pixel, 0 none, 1 train, 2 val, 3 test, and only labels of that split
are used; without them the general split options apply, with each tile as its own location.

    python -m data_prep convert hsi-scene --input salinas_a --output stores/salinas_a \\
        --image SalinasA_corrected.mat --ground-truth SalinasA_gt.mat \\
        --sensor aviris_salinas
    python -m data_prep convert hsi-scene --input pavia --output stores/pavia --image PaviaU.mat \\
        --train-map TRpaviaU.mat --test-map TSpaviaU.mat \\
        --sensor rosis_pavia_university --patch-size 64
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import bad_bands, label_grids, remarks
from data_prep.formats.band_identity import Bands
from data_prep.formats.band_subset import bands_option, check_found, identify_some, reduced
from data_prep.formats.cast import cast_option, narrow, wide
from data_prep.formats.hsi_files import Scene, check_bytes, open_scene, scene_files
from data_prep.formats.labels import class_numbers, first_class_option, label_nodata_option
from data_prep.formats.listing import sorted_by_id
from data_prep.formats.tiling import check_patch_size
from data_prep.reader import Files, Item, SkipSample, option
from eo_jax.data.store.manifest import PIXEL_SPLIT, PIXEL_SPLITS
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_LABEL = "landcover"
_MAX_TILES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Reader:
    """One scene, whole or in tiles."""

    TITLE: ClassVar[str] = "Hyperspectral scene"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "not stated; see where the scene comes from"
    archive: Archive
    image: str = option("", "file of the scene, relative to --input", metavar="FILE")
    sensor: str = option(
        "",
        "row of the sensor table, or a JSON file with one (default: what the file says, if it has "
        "wavelengths)",
        metavar="ID",
    )
    bands: tuple[str, ...] = bands_option()
    ground_truth: str = option("", "class numbers of all labelled pixels", metavar="FILE")
    train_map: str = option("", "class numbers of the training pixels", metavar="FILE")
    val_map: str = option("", "class numbers of the validation pixels", metavar="FILE")
    test_map: str = option("", "class numbers of the test pixels", metavar="FILE")
    variable: str = option("", "name of the image in a .mat file with several", metavar="NAME")
    label_variable: str = option(
        "", "name of the ground truth in a .mat file with several maps", metavar="NAME"
    )
    patch_size: int = option(
        0, "height and width of a tile; 0: the whole scene is one sample", metavar="PIXELS"
    )

    reorder: bool = option(
        False,
        "put bands in the order of the table by their names or wavelengths, where there is no "
        "doubt",
    )
    drop_bad_bands: bool = option(
        False, "leave out the bands that the file's bad-band list (bbl) excludes"
    )
    cast: bool = cast_option()
    label_resample: str = option(
        "none",
        "how label maps with larger or smaller pixels come to those of the image: nearest, or the "
        "most frequent class (mode); none: they are refused",
        choices=("none", *label_grids.RULES),
    )
    first_class: int = first_class_option()
    label_nodata: tuple[str, ...] = label_nodata_option()

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensor of the samples. Raises ValueError where there is none."""
        row = reduced(self._row, self.bands)
        if not self.drop_bad_bands:
            return (row,)
        with self._open_image(self._image_files()) as scene:
            bad = self._bands(scene).bad
        kept = [band.name for index, band in enumerate(row.bands) if index not in bad]
        return (row.select(kept) if bad else row,)

    @functools.cached_property
    def _row(self) -> Sensor:
        """The given row, or that of the file: all bands that an image may have."""
        if self.sensor:
            return get_sensor(self.sensor)
        self._check_options()
        with self._open_image(self._image_files()) as scene:
            row = scene.row()
        if not np.isfinite(row.centres_nm).all():
            raise ArchiveError(
                "--sensor",
                f"is missing, and {self.image} does not say the wavelengths of its bands; give the "
                "row of the sensor table with the bands of the image, or a JSON file with one, "
                f"such as `python -m data_prep sensor --from {self.image}` writes",
            )
        return row

    def _image_files(self) -> Files:
        return Files(self.archive, Item("", "", scene_files(self.archive, "image", self.image)))

    def _bands(self, scene: Scene) -> Bands:
        """The bands of an image that are kept, bad ones among them."""

        def of(sensor: Sensor) -> Bands:
            return scene.bands(sensor, self.reorder)

        return identify_some(self.image, scene.shape[0], self._row, self.bands, of)

    def _open_image(self, files: Files) -> contextlib.AbstractContextManager[Scene]:
        return open_scene(self.archive, files, "image", 3, self.variable)

    def items(self) -> list[Item]:
        self._check_options()
        files = scene_files(self.archive, "image", self.image)
        for role, name in self._maps().items():
            files += scene_files(self.archive, role, name)
        with self._open_image(self._image_files()) as scene:
            self._check_bands(scene.shape[0])
            bands, height, width = scene.shape
        largest = self._window((0, 0), height, width)
        check_bytes(files[0].name, (bands, largest.height, largest.width), self.sensors[0].dtype)
        rows, columns = (range(0, side, self.patch_size or side) for side in (height, width))
        if len(rows) * len(columns) > _MAX_TILES:
            tiles = f"{height} x {width} pixels give {len(rows) * len(columns):,} tiles"
            raise ArchiveError(
                self.image, f"{tiles}, at most {_MAX_TILES:,}; give a larger --patch-size"
            )
        scene_id = str(PurePosixPath(self.image).with_suffix(""))
        split = PIXEL_SPLIT if self.train_map else None
        ids = {
            (row, column): f"{scene_id}/r{row:05}_c{column:05}"
            for row in rows
            for column in columns
        }
        return sorted_by_id(Item(tile, tile, files, split, part) for part, tile in ids.items())

    def read(self, item: Item, files: Files) -> Sample:
        name, (sensor,) = item.files[0].name, self.sensors
        with self._open_image(files) as scene:
            self._check_bands(scene.shape[0])
            _, height, width = scene.shape
            window = self._window(item.part, height, width)
            bands = self._bands(scene)
            pixels = self._pixels(scene, bands, window)
            if sensor.missing(pixels).all():
                raise SkipSample("has no pixel with data")
            rows, columns = window.toslices()
            labels = self._labels(files, scene, name)
            return Sample(
                pixels=pixels,
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                time=scene.time(),
                wavelengths_nm=self._kept(bands).wavelengths_nm,
                labels={
                    label: np.ascontiguousarray(array[rows, columns])
                    for label, array in labels.items()
                },
                **scene.georeference(window),
            )

    def _pixels(self, scene: Scene, bands: Bands, window: Window) -> np.ndarray:
        (sensor,) = self.sensors
        if self.drop_bad_bands and bands.bad:
            row = reduced(self._row, self.bands)
            remarks.note(f"bad bands (bbl) left out: {bad_bands.in_words(bands.bad, row)}")
        row = wide(sensor, scene.dtype) if self.cast else sensor
        pixels = scene.pixels(row, self._kept(bands), window)
        return narrow(self.image, pixels, sensor)

    def _kept(self, bands: Bands) -> Bands:
        """The bands without bad ones if these are dropped."""
        if not self.drop_bad_bands:
            return bands
        good = [index for index in range(len(bands.numbers)) if index not in bands.bad]
        return bands.pick(good)

    # ------------------------------------------------------------------ options

    def _maps(self) -> dict[str, str]:
        """{role: file} of the given label maps."""
        maps = {
            _LABEL: self.ground_truth,
            **{split: getattr(self, f"{split}_map") for split in PIXEL_SPLITS[1:]},
        }
        return {role: name for role, name in maps.items() if name}

    def _check_options(self) -> None:
        if not self.image:
            raise ArchiveError(
                "--image", "is missing; give the file of the scene, relative to --input"
            )
        if bool(self.train_map) != bool(self.test_map) or (self.val_map and not self.train_map):
            raise ArchiveError(
                "--train-map",
                "and --test-map go together, and --val-map needs both; give both, or none",
            )
        check_patch_size(self.patch_size, "scenes")

    def _check_bands(self, found: int) -> None:
        sensor = self._row
        if self.bands:
            check_found(self.image, found, sensor, self.bands)
        elif found != len(sensor.bands):
            hint = "give the --sensor of this scene; in a .mat file, bands must be on the last axis"
            raise ArchiveError(
                self.image,
                f"{found} bands, expected the {len(sensor.bands)} of {sensor.title}; {hint}",
            )

    def _window(self, part: tuple[int, ...], height: int, width: int) -> Window:
        row, column = part
        size = self.patch_size or max(height, width)
        return Window(column, row, min(size, width - column), min(size, height - row))

    # ------------------------------------------------------------------ labels

    def _labels(self, files: Files, scene: Scene, image: str) -> dict[str, np.ndarray]:
        """{label: [h, w]} of the whole scene."""
        shape = scene.shape[1:]
        maps = {role: self._map(files, role, scene, image) for role in self._maps()}
        truth = maps.pop(_LABEL, None)
        if not maps:
            return {} if truth is None else {_LABEL: truth}
        split = np.zeros(shape, np.uint8)
        union = np.zeros(shape, np.result_type(*maps.values()))
        for role, classes in maps.items():
            _check_disjoint(files, role, classes, split)
            split[classes != 0] = PIXEL_SPLITS.index(role)
            union[classes != 0] = classes[classes != 0]
        if truth is None:
            return {_LABEL: union, f"{_LABEL}.split": split}
        _check_agreement(files, maps, truth)
        return {_LABEL: truth, f"{_LABEL}.split": split}

    def _map(self, files: Files, role: str, scene: Scene, image: str) -> np.ndarray:
        name, shape = files.name(role), scene.shape[1:]
        with open_scene(
            self.archive, files, role, 2, self.label_variable if role == _LABEL else ""
        ) as opened:
            self._check_map(name, image, opened.shape, shape)
            _check_ground(name, opened, image, scene)
            classes = opened.map(role, class_numbers(self.first_class, self.label_nodata))
        if classes.shape == shape:
            return classes
        if _is_list(classes.shape, shape):
            return classes.reshape(shape)
        remarks.note(f"label maps brought to the grid of the image: {self.label_resample}")
        return label_grids.on_grid(name, classes, shape, self.label_resample)

    def _check_map(
        self, name: str, image: str, found: tuple[int, int, int], shape: tuple[int, int]
    ) -> None:
        bands, *size = found
        if bands == 1 and (tuple(size) == shape or _is_list(tuple(size), shape)):
            return
        if bands == 1 and self.label_resample != "none":
            return
        transposed = "; it seems transposed" if tuple(size) == shape[::-1] else ""
        raise ArchiveError(
            name,
            f"label map is {bands} x {size[0]} x {size[1]}, but its image {image} has 1 x "
            f"{shape[0]} x {shape[1]} pixels{transposed}; fix the map, or give --label-resample if "
            "both show the same ground",
        )


def _check_ground(name: str, label: Scene, image: str, scene: Scene) -> None:
    """Raises ArchiveError where map and image say that they show other ground."""
    grids = []
    for opened in (label, scene):
        _, height, width = opened.shape
        grids.append(opened.georeference(Window(0, 0, width, height)))
    crs, affines = [grid.get("crs") for grid in grids], [grid.get("affine") for grid in grids]
    if all(crs) and crs[0] != crs[1]:
        raise ArchiveError(name, f"CRS is {crs[0]}, but {image} has {crs[1]}; warp the map to it")
    if not all(affines):
        return
    ends = []
    for affine, opened in zip(affines, (label, scene), strict=True):
        a, b, c, d, e, f = affine
        _, height, width = opened.shape
        ends.append([c, f, a * width + b * height + c, d * width + e * height + f])
    pixel = np.hypot(affines[1][0], affines[1][3])
    if not np.allclose(*ends, rtol=0, atol=0.5 * pixel):
        raise ArchiveError(
            name,
            f"its corners are at {_places(ends[0])}, those of {image} at {_places(ends[1])}; warp "
            "the map to the image",
        )


def _places(ends: list[float]) -> str:
    return "({:.10g}, {:.10g}) and ({:.10g}, {:.10g})".format(*ends)


def _is_list(found: tuple[int, ...], shape: tuple[int, int]) -> bool:
    """Whether a map is the list of classes of an image that is a list of spectra, [n, 1]."""
    return shape[1] == 1 and found == shape[::-1]


def _check_disjoint(files: Files, role: str, classes: np.ndarray, split: np.ndarray) -> None:
    both = (classes != 0) & (split != 0)
    if both.any():
        row, column = np.argwhere(both)[0]
        other = PIXEL_SPLITS[split[row, column]]
        where = (
            f"has {both.sum()} pixels that are also in {other}, {files.name(other)}, the first at "
            f"row {row}, column {column}"
        )
        raise ArchiveError(files.name(role), f"{where}; a pixel can be in one split only")


def _check_agreement(files: Files, maps: dict[str, np.ndarray], truth: np.ndarray) -> None:
    for role, classes in maps.items():
        different = (classes != 0) & (classes != truth)
        if different.any():
            row, column = np.argwhere(different)[0]
            where = (
                f"{different.sum()} pixels have another class than in {files.name(_LABEL)}, the "
                f"first at row {row}, column {column}"
            )
            found = f"{classes[row, column]} and {truth[row, column]}"
            raise ArchiveError(
                files.name(role),
                f"{where}: {found}; take all maps from one source, or leave --ground-truth out",
            )
