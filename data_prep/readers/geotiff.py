r"""Reads a folder of GeoTIFFs of one sensor, described by a band table.

    <root>/**/*.tif                       [c, h, w], the bands of --sensor, in its order, dtype and
                                          digital numbers
    <root>/images/**/*.tif,               the same with label maps, in labels/ or in folders of
    <root>/labels/**/*.tif                --labels; a label has the name of its folder
    <root>/S2L2A/x.tif,                   the same with modalities side by side, as TerraMesh has
    <root>/LULC/x.tif                     them: --pattern 'S2L2A/*' --labels LULC
    <root>/**/*_<band>.tif                with --band-regex: one file per band, see below
    <root>/splits/{train,val,test}.txt    one image per line, named relative to images/ (or <root>);
                                          optional, but complete if present

--sensor is an id of the sensor table, or a band table in a JSON file; without it, files whose tags
or STAC item have wavelengths are read as the first one describes itself (`python -m data_prep
sensor --from FILE` shows that, and writes a table to start from). Nothing is guessed: bands, dtype,
no-data value and scale of every file must be those of the table, and so must wavelength tags, if
there are any. The table of a drone camera with four bands, stored as reflectance x 32768 without a
no-data value:

    {"id": "drone", "title": "Drone camera, four bands", "gsd_m": 0.05,
     "dtype": "uint16", "scale": 3.0517578125e-05, "units": "reflectance",
     "nodata": null, "true_colour": [2, 1, 0], "source": "data sheet of the camera",
     "bands": {"name": ["green", "red", "red edge", "NIR"], "number": [1, 2, 3, 4],
               "centre_nm": [550, 660, 735, 790], "fwhm_nm": [40, 40, 10, 40]}}

"true_colour" has the band indices, from 0, of red, green and blue; leave it out if one does not
exist. To start from a row of the sensor table:

    python -c "import json, eo_jax.sensors as s; \
        print(json.dumps(s.get_sensor('sentinel2_l2a').row(), indent=1))" > bands.json

Location and time come from the file name, relative to images/ (or <root>), by regular expressions;
without --time-regex, from the tags `start_time` and `datetime` or a STAC item beside the image:

    python -m data_prep convert geotiff --input flights --output stores/flights \
        --sensor bands.json --patch-size 256 \
        --group-regex '^(?P<group>[^/]+)/' --time-regex '_(?P<time>\d{8}T\d{6})' --val 'north/*'

Files with some of the bands of a row, as many exports have, need no table: --bands names them.

    python -m data_prep convert geotiff --input exports --output stores/exports \
        --sensor sentinel2_l2a --bands B2 B3 B4 B8

Without --group-regex each file is its own location. Patches are full squares, starting at
the upper left; patches at the same position in the files of a location share a group, which is
right if those files are dates on one grid. Patches and files without any data, and files smaller
than a patch, are left out and counted, and so are edges; --skip-bad also leaves out damaged files.

One file per band, as Major-TOM, SSL4EO-S12 and exports of single bands have it: --band-regex finds
the image and the band in a file name, relative to images/ (or <root>). Files with the same
(?P<item>...) are one image, (?P<band>...) is the name of the band in any spelling of the table's
(B2, B02, SR_B2):

    python -m data_prep convert geotiff --input ssl4eo-s12 --output stores/l1c \
        --sensor sentinel2_l1c --pattern 's2c/*' --resample bilinear \
        --band-regex '^(?P<item>s2c/\d+/[^/]+)/(?P<band>B\w+)\.tif$' \
        --group-regex '/(?P<group>\d{7})/' --time-regex '/(?P<time>\d{8}T\d{6})_'

The item is the id of the sample, its line in split lists, and (with .tif) the name of its label
maps. Bands are in the order of the table. Images that lack a band are left out and counted. Where
bands have pixels of different sizes, --resample brings them to the finest grid: bilinear (pixel
areas aligned; integers rounded to the nearest) or nearest (each pixel repeated); without it they
are refused. Sizes must be whole multiples.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import band_stack, geotiff, sentinel2
from data_prep.formats.band_identity import Bands, data_bands, identify
from data_prep.formats.band_subset import bands_option, identify_some, reduced
from data_prep.formats.cast import cast_option, narrow, wide
from data_prep.formats.described import tiff_row
from data_prep.formats.labels import (
    class_numbers,
    first_class_option,
    label_nodata_option,
    read_label_window,
)
from data_prep.formats.limits import check_fractions, skip_above
from data_prep.formats.listing import (
    files_with_labels,
    first_readable,
    image_files,
    items_of,
    label_folders,
    split_lists,
)
from data_prep.formats.tiling import check_patch_size, full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, SkipSample, option, with_sidecars
from data_prep.readers import _geotiff_bands
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_SPLITS = {split: f"splits/{split}.txt" for split in ("train", "val", "test")}


@dataclasses.dataclass(frozen=True)
class Reader:
    """GeoTIFFs of one sensor."""

    TITLE: ClassVar[str] = "GeoTIFFs"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated"
    archive: Archive
    sensor: str = option(
        "",
        "id of the sensor table, or path of a band table, JSON (default: what the first file says, "
        "if it has wavelengths)",
    )
    bands: tuple[str, ...] = bands_option()
    pattern: str = option(
        "*", "files to read, such as '*_SR.tif'; * also matches folders", metavar="PATTERN"
    )
    labels: tuple[str, ...] = option((), "folders of label maps, with the layout of the images")
    patch_size: int = option(
        0, "height and width of patches in pixels; 0 for whole files", metavar="N"
    )
    max_nodata: float = option(
        1.0, "largest fraction of pixels without data in any band, 0 to 1", metavar="FRACTION"
    )
    group_regex: str = option(
        "", "finds the location in a file name, as (?P<group>...)", metavar="REGEX"
    )
    time_regex: str = option("", "finds the time in a file name, as (?P<time>...)", metavar="REGEX")
    time_format: str = option(
        "",
        "format of the time, such as %%d%%m%%Y; UTC if it has no zone (default: ISO, such as "
        "20220724T104526)",
        metavar="F",
    )
    band_regex: str = option(
        "",
        "one file per band: finds image and band in a file name, as (?P<item>...) and "
        "(?P<band>...)",
        metavar="REGEX",
    )
    resample: str = option(
        "none",
        "with --band-regex, how coarser bands get to the finest grid; none: they are refused",
        choices=("none", "bilinear", "nearest"),
    )
    reorder: bool = option(
        False,
        "put bands in the order of the table by their names or wavelengths, where there is no "
        "doubt",
    )
    cast: bool = cast_option()
    harmonised: bool = option(
        False,
        "the +1000 of Sentinel-2 processing baselines from 04.00 is already subtracted from the "
        "files, whatever their names say",
    )
    first_class: int = first_class_option()
    label_nodata: tuple[str, ...] = label_nodata_option()

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        """The one sensor, with the bands that are kept. Raises ValueError."""
        return (reduced(self._row, self.bands),)

    @functools.cached_property
    def _row(self) -> Sensor:
        """The row that is given, or that of the first readable file. Raises ValueError."""
        if self.sensor:
            return get_sensor(self.sensor)
        images = () if self.band_regex else image_files(self.archive, self._below)
        chosen = [name for name in images if fnmatch.fnmatchcase(self._inner(name), self.pattern)]
        described = functools.partial(_described, self.archive)
        row = first_readable(chosen, described) if chosen else None
        if row is None or not np.isfinite(row.centres_nm).all():
            raise ValueError(
                "--sensor is missing, and the first file does not say the wavelengths of its "
                "bands; give an id of the sensor table or the path of a band table, see `convert "
                "geotiff --help`"
            )
        return row

    @functools.cached_property
    def _below(self) -> str:
        """The folder of the images."""
        has_labels = self.labels or image_files(self.archive, "labels")
        return "images" if has_labels and image_files(self.archive, "images") else ""

    def items(self) -> list[Item]:
        self._check_options()
        folders = label_folders(self.archive, self.labels)
        if self._below and image_files(self.archive, "labels"):
            folders = {"labels": "labels", **folders}
        images = self._images(folders)
        splits = split_lists(self.archive, _SPLITS, images)
        return items_of(
            (listed, functools.partial(self._items, listed, files, folders, splits.get(listed)))
            for listed, files in images.items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        window = tile_window(item.part, self.patch_size) if item.part else None
        read = self._read_band_files if self.band_regex else self._read_file
        return read(item, files, window)

    def _read_file(self, item: Item, files: Files, window: Window | None) -> Sample:
        name, (sensor,) = item.files[0].name, self.sensors
        with geotiff.open_tiff_path(files, "image") as dataset:
            sentinel2.check_offset(name, dataset, sensor, self.harmonised)
            bands = self._identify(name, dataset)
            row = wide(sensor, dataset.dtypes[0]) if self.cast else sensor
            pixels = narrow(name, geotiff.read_bands(name, dataset, row, window, bands), sensor)
            labels = [file.role for file in item.files[1:]]
            return self._sample(item, files, dataset, window, pixels, labels, bands.wavelengths_nm)

    def _read_band_files(self, item: Item, files: Files, window: Window | None) -> Sample:
        (sensor,) = self.sensors
        missing = _geotiff_bands.missing_bands(item, sensor)
        if missing:
            raise SkipSample(f"no file of {', '.join(missing)} (--bands keeps others)")
        with band_stack.open_layers(files, _geotiff_bands.roles(sensor)) as layers:
            if self.resample == "none":
                _geotiff_bands.check_one_grid(layers)
            for layer in layers:
                sentinel2.check_offset(layer.name, layer.dataset, sensor, self.harmonised)
            dtype = layers[0].dataset.dtypes[0]
            row = wide(sensor, dtype) if self.cast else sensor
            pixels = band_stack.read_bands(layers, row, self.resample, window)
            pixels = narrow(layers[0].name, pixels, sensor)
            labels = _geotiff_bands.labels_of(item)
            dataset = band_stack.finest(layers).dataset
            return self._sample(item, files, dataset, window, pixels, labels)

    def _sample(
        self,
        item: Item,
        files: Files,
        dataset: rasterio.DatasetReader,
        window: Window | None,
        pixels: np.ndarray,
        labels: Sequence[str],
        wavelengths_nm: np.ndarray | None = None,
    ) -> Sample:
        name, (sensor,) = item.files[0].name, self.sensors
        sentinel2.note_suspect(pixels, sensor)
        classes = class_numbers(self.first_class, self.label_nodata)
        missing = sensor.missing(pixels)
        if missing.all():
            raise SkipSample("no data in any pixel")
        skip_above("pixels without data", missing.any(0), self.max_nodata)
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            time=self._time(name) if self.time_regex else geotiff.stated_time(name, dataset),
            wavelengths_nm=wavelengths_nm,
            labels={
                role: read_label_window(name, dataset, files, role, window, classes)
                for role in labels
            },
            **geotiff.georeference(dataset, window),
        )

    def _identify(self, name: str, dataset: rasterio.DatasetReader) -> Bands:
        def of(sensor: Sensor) -> Bands:
            return identify(name, dataset, sensor, self.reorder)

        return identify_some(name, len(data_bands(dataset)), self._row, self.bands, of)

    def footprint(self, item: Item) -> list[float] | None:
        window = tile_window(item.part, self.patch_size) if item.part else None
        return geotiff.listed_footprint(self.archive, item.files[0].name, window)

    def _check_options(self) -> None:
        """Raises ValueError for options that cannot work, before a file is opened."""
        _ = self.sensors
        check_patch_size(self.patch_size, "files")
        check_fractions(max_nodata=self.max_nodata)
        if self.time_format and not self.time_regex:
            raise ValueError(
                "--time-format needs --time-regex, which finds the time in a file name; give both"
            )
        if self.resample != "none" and not self.band_regex:
            raise ValueError(
                "--resample is for images with one file per band; give --band-regex, or leave it "
                "out"
            )
        for option_name, pattern, names in (
            ("group", self.group_regex, ("group",)),
            ("time", self.time_regex, ("time",)),
            ("band", self.band_regex, ("item", "band")),
        ):
            for name in names if pattern else ():
                if name not in _compile(option_name, pattern).groupindex:
                    raise ValueError(
                        f"--{option_name}-regex {pattern!r} has no group named {name!r}; write "
                        f"(?P<{name}>...) around the part that it should find"
                    )

    def _inner(self, name: str) -> str:
        return name.removeprefix(f"{self._below}/") if self._below else name

    def _images(self, folders: dict[str, str]) -> dict[str, tuple[File, ...]]:
        """{name in split lists: files without label maps} of every image."""
        names = self._names(folders)
        if not self.band_regex:
            return {self._inner(name): (File("image", name),) for name in names}
        regex = _compile("band", self.band_regex)
        found = ((name, _geotiff_bands.band_name(name, self._inner(name), regex)) for name in names)
        (sensor,) = self.sensors
        kept = set(_geotiff_bands.roles(sensor))
        return {
            item: chosen
            for item, files in _geotiff_bands.group_bands(found, self._row).items()
            if (chosen := tuple(file for file in files if file.role in kept))
        }

    def _label_maps(self, listed: str, image: str, folders: dict[str, str]) -> tuple[File, ...]:
        if self.band_regex:  # its label maps are named as the image, not as one of its bands
            image = f"{self._below}/{listed}.tif" if self._below else f"{listed}.tif"
        return files_with_labels(self.archive, image, self._below, folders)[1:]

    def _names(self, folders: dict[str, str]) -> list[str]:
        inside = tuple(f"{folder}/" for folder in folders.values())
        found = [
            name for name in image_files(self.archive, self._below) if not name.startswith(inside)
        ]
        names = [name for name in found if fnmatch.fnmatchcase(self._inner(name), self.pattern)]
        if not names:
            what = (
                f"none of its {len(found)} GeoTIFFs matches --pattern {self.pattern!r}"
                if found
                else "contains no GeoTIFF; expected *.tif (`hsi-scene` reads ENVI and .mat)"
            )
            raise ArchiveError(self._below or ".", what)
        return names

    def _items(
        self, listed: str, files: tuple[File, ...], folders: dict[str, str], split: str | None
    ) -> Iterator[Item]:
        inner = listed if self.band_regex else str(PurePosixPath(listed).with_suffix(""))
        name = files[0].name
        group = self._match("group", self.group_regex, name) if self.group_regex else inner
        self._time(name)  # so that a name that does not match is reported now, not after hours
        files += self._label_maps(listed, name, folders)
        if not self.patch_size:
            yield Item(inner, group, files, split)
            return
        files = self._image_first(files)
        for part in self._parts(files[0]):
            yield Item(
                f"{inner}/{tile_name(part)}", f"{group}/{tile_name(part)}", files, split, part
            )

    def _image_first(self, files: tuple[File, ...]) -> tuple[File, ...]:
        """The files with one first whose pixels are those of the sample."""
        if self.resample == "none":
            return files
        return _geotiff_bands.finest_first(self.archive, files)

    def _parts(self, image: File) -> list[tuple[int, int]]:
        with geotiff.open_listed(self.archive, image.name) as dataset:
            return full_tiles(image.name, dataset.shape, self.patch_size)

    def _time(self, name: str) -> int | None:
        """Seconds since 1970 UTC, from the file name; None without --time-regex."""
        if not self.time_regex:
            return None
        text = self._match("time", self.time_regex, name)
        try:
            moment = (
                datetime.datetime.strptime(text, self.time_format)
                if self.time_format
                else datetime.datetime.fromisoformat(text)
            )
        except ValueError as error:
            expected = (
                f"--time-format {self.time_format!r}"
                if self.time_format
                else "an ISO time; give --time-format"
            )
            raise ArchiveError(name, f"its time is {text!r}, expected {expected}") from error
        return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())

    def _match(self, group: str, pattern: str, name: str) -> str:
        match = _compile(group, pattern).search(self._inner(name))
        if not (match and match[group]):
            raise ArchiveError(
                name,
                f"--{group}-regex {pattern!r} does not match its name; correct it, or exclude the "
                "file with --pattern",
            )
        return match[group]


def _described(archive: Archive, name: str) -> Sensor:
    """The row that a file describes. Raises ArchiveError."""
    (item,) = with_sidecars(archive, [Item("", "", (File("image", name),))])
    with geotiff.open_tiff_path(Files(archive, item), "image") as dataset:
        gsd_m = geotiff.georeference(dataset)["gsd_m"]
        return tiff_row(name, dataset, data_bands(dataset), gsd_m)


@functools.lru_cache(4)
def _compile(name: str, pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--{name}-regex {pattern!r} is not a valid regular expression ({error}); correct it"
        ) from error
