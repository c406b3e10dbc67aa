"""The reader of arbitrary GeoTIFFs: the band table is enforced, location and time come from names,
and nothing is guessed.
"""

from __future__ import annotations

import datetime
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import geotiff as layout
from layouts import make_reader, read_all, read_item, reject, write

from data_prep.reader import SkipSample
from data_prep.readers import geotiff

DRONE = {"sensor": layout.OPTIONS["sensor"]}


def flight(root: Path, name: str = "flight.tif", **changes) -> Path:
    """One image of 16 x 20 pixels."""
    return tiny_archives.write(root / name, layout.pixels(0), **changes)


# ------------------------------------------------------------------ what is read


def test_real_landsat_scene_as_rasterio_reads_it(sample_data: Path, tmp_path: Path) -> None:
    (source,) = (sample_data / "landsat" / "L7_ETM_olinda").glob("*.tif")
    row = {
        "id": "etm",
        "title": "ETM+ without the thermal bands",
        "gsd_m": 28.5,
        "dtype": "uint8",
        "scale": 1.0,
        "units": "digital number",
    }
    bands = {
        "name": ["B1", "B2", "B3", "B4", "B5", "B7"],
        "number": [1, 2, 3, 4, 5, 6],
        "centre_nm": [None] * 6,
        "fwhm_nm": [None] * 6,
    }
    (tmp_path / "bands.json").write_text(json.dumps({**row, "nodata": None, "bands": bands}))
    whole = tiny_archives.read(source)
    (sample,) = read_all("geotiff", source.parent, sensor=str(tmp_path / "bands.json"))
    np.testing.assert_array_equal(sample.pixels, whole)
    assert (sample.sensor, sample.crs, sample.wavelengths_nm) == ("etm", "EPSG:31985", None)
    assert sample.gsd_m == pytest.approx(28.5)
    patches = read_all(
        "geotiff", source.parent, sensor=str(tmp_path / "bands.json"), patch_size=100
    )
    assert [patch.id.split("/")[1] for patch in patches] == [
        f"{row:05}_{column:05}" for row in (0, 100, 200) for column in (0, 100, 200)
    ]
    np.testing.assert_array_equal(patches[5].pixels, whole[:, 100:200, 200:300])
    assert patches[5].affine[2] == pytest.approx(sample.affine[2] + 200 * 28.5)


def test_patches_of_the_tiny_archive(tmp_path: Path) -> None:
    options = write("geotiff", tmp_path)
    samples = {sample.id: sample for sample in read_all("geotiff", tmp_path, **options)}
    assert (
        len(samples) == 6 * 2 * 2
    )  # of 16 x 20 pixels, the last four columns are too few for a patch
    for seed, name in enumerate(layout.names()):
        sample = samples[f"{name.removesuffix('.tif')}/00008_00008"]
        np.testing.assert_array_equal(sample.pixels, layout.pixels(seed)[:, 8:16, 8:16])
        for label in ("labels", "weeds"):
            np.testing.assert_array_equal(
                sample.labels[label], tiny_archives.read(tmp_path / label / name)[0, 8:16, 8:16]
            )
        day = datetime.datetime.strptime(layout.DAYS[seed % 2], "%Y%m%d").replace(
            tzinfo=datetime.UTC
        )
        assert (sample.time, sample.group) == (
            int(day.timestamp()),
            f"{name.split('/')[0]}/00008_00008",
        )


def test_label_maps_are_read_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map may be larger than the limit of one read, like its image, and a patch costs no more in
    a large file.
    """
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    classes = np.random.default_rng(0).integers(0, 5, (1, 64, 64)).astype(np.uint8)
    tiny_archives.write(tmp_path / "images" / "a.tif", layout.pixels(0, 64, 64), **blocks)
    tiny_archives.write(tmp_path / "labels" / "a.tif", classes, **blocks)
    monkeypatch.setattr(
        geotiff.geotiff, "MAX_BYTES", 16 * 16 * 4 * 2
    )  # of a block of the image; the map has 4096
    samples = {
        sample.id: sample for sample in read_all("geotiff", tmp_path, **DRONE, patch_size=16)
    }
    assert len(samples) == 16
    np.testing.assert_array_equal(samples["a/00016_00048"].labels["labels"], classes[0, 16:32, 48:])


def test_splits_are_those_of_the_lists(tmp_path: Path) -> None:
    options = write("geotiff", tmp_path)
    items = make_reader("geotiff", tmp_path, **options).items()
    assert {item.split for item in items if item.group.startswith("west")} == {"val"}
    assert {item.split for item in items if not item.group.startswith("west")} == {"train"}


def test_without_options_a_file_is_a_location_and_has_no_time(tmp_path: Path) -> None:
    flight(tmp_path, "a/one.tif")
    flight(tmp_path, "two.TIFF", crs=None, transform=None)
    one, two = read_all("geotiff", tmp_path, **DRONE)
    assert (one.id, one.group, one.time, one.labels) == ("a/one", "a/one", None, {})
    assert (two.id, two.crs, two.lonlat) == ("two", None, None)


def test_the_pattern_picks_files(tmp_path: Path) -> None:
    flight(tmp_path, "a/one_SR.tif")
    tiny_archives.write(tmp_path / "a/one_quality.tif", layout.pixels(0)[:1])
    assert [sample.id for sample in read_all("geotiff", tmp_path, **DRONE, pattern="*_SR.tif")] == [
        "a/one_SR"
    ]
    reject(
        "geotiff", tmp_path, "none of its 2 GeoTIFFs", "'*_TOA.tif'", **DRONE, pattern="*_TOA.tif"
    )


@pytest.mark.parametrize(
    ("name", "regex", "form", "time"),
    [
        ("a_20220724T104526.tif", r"_(?P<time>[\dT]+)", "", "2022-07-24T10:45:26+00:00"),
        ("a_2022-07-24.tif", r"_(?P<time>[-\d]+)", "", "2022-07-24T00:00:00+00:00"),
        ("a_20220724T104526+0200.tif", r"_(?P<time>[+\dT]+)", "", "2022-07-24T08:45:26+00:00"),
        ("LC82070332019254.tif", r"(?P<time>\d{7})\.", "%Y%j", "2019-09-11T00:00:00+00:00"),
        ("24.07.22/a.tif", r"^(?P<time>[.\d]+)/", "%d.%m.%y", "2022-07-24T00:00:00+00:00"),
    ],
)
def test_times(tmp_path: Path, name: str, regex: str, form: str, time: str) -> None:
    flight(tmp_path, name)
    (sample,) = read_all("geotiff", tmp_path, **DRONE, time_regex=regex, time_format=form)
    assert sample.time == int(datetime.datetime.fromisoformat(time).timestamp())


def test_wavelength_tags_are_kept(tmp_path: Path) -> None:
    tiny_archives.tag(flight(tmp_path), np.array([550.2, 660, 735, 790]))
    assert read_all("geotiff", tmp_path, **DRONE)[0].wavelengths_nm.tolist() == [
        550.2,
        660,
        735,
        790,
    ]


def test_files_without_data_are_skipped(tmp_path: Path) -> None:
    cube = layout.pixels(0)
    cube[:, :8, :8] = layout.NODATA
    tiny_archives.write(tmp_path / "a.tif", cube)
    reader = make_reader("geotiff", tmp_path, **DRONE, patch_size=8)
    first, *others = reader.items()
    with pytest.raises(SkipSample, match="no data"):
        read_item(reader, first)
    assert all(read_item(reader, item).pixels.any() for item in others)


def test_the_help_shows_a_band_table_that_works(tmp_path: Path) -> None:
    text = inspect.getdoc(geotiff)
    example = text[text.index('{"id": "drone"') : text.index("}}") + 2]
    (tmp_path / "bands.json").write_text(example)
    flight(tmp_path / "flights")
    (sample,) = read_all("geotiff", tmp_path / "flights", sensor=str(tmp_path / "bands.json"))
    assert sample.sensor == "drone"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("cube", "changes", "words"),
    [
        (layout.pixels(0)[:3], {}, ("3 bands", "the 4 of Drone camera")),
        (np.concatenate([layout.pixels(0)] * 2), {}, ("8 bands", "the 4 of Drone camera")),
        (layout.pixels(0).astype(np.int16), {}, ("int16", "expected uint16")),
        (layout.pixels(0).astype(np.float32), {}, ("float32", "expected uint16")),
        (
            layout.pixels(0),
            {"nodata": 0},
            ("no-data value is 0", "has 65535", "--sensor", '"nodata": 0'),
        ),
    ],
    ids=["few bands", "many bands", "signed", "float", "other no-data"],
)
def test_pixels_that_are_not_those_of_the_table(
    tmp_path: Path, cube: np.ndarray, changes: dict, words: tuple[str, ...]
) -> None:
    tiny_archives.write(tmp_path / "a.tif", cube, **changes)
    reject("geotiff", tmp_path, "a.tif", *words, **DRONE)


def test_another_scale(tmp_path: Path) -> None:
    with rasterio.open(flight(tmp_path), "r+") as file:
        file.scales = (0.0001,) * 4
    reject("geotiff", tmp_path, "flight.tif", "scale of band 1 is 0.0001", "3.05176e-05", **DRONE)


def test_bands_in_another_order(tmp_path: Path) -> None:
    tiny_archives.tag(flight(tmp_path), np.array([790, 660, 735, 550]))
    reject("geotiff", tmp_path, "flight.tif", "band 1 has 790 nm", "expected 550", **DRONE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"group_regex": r"^(?P<group>\d+)/"},
            ("flight.tif", "--group-regex", "does not match its name"),
        ),
        (
            {"time_regex": r"(?P<time>\d{8})"},
            ("flight.tif", "--time-regex", "does not match its name"),
        ),
        ({"time_regex": r"^(?P<time>[a-z]+)"}, ("flight.tif", "'flight'", "--time-format")),
        (
            {"time_regex": r"^(?P<time>[a-z]+)", "time_format": "%Y"},
            ("flight.tif", "'flight'", "'%Y'"),
        ),
        ({"patch_size": 17}, ("flight.tif", "16 x 20 pixels", "--patch-size")),
        ({"labels": ("weeds",)}, ("weeds", "no such label folder")),
    ],
)
def test_files_that_do_not_fit_the_options(
    tmp_path: Path, options: dict, words: tuple[str, ...]
) -> None:
    flight(tmp_path)
    reject("geotiff", tmp_path, *words, **DRONE, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sensor": ""}, "--sensor is missing"),
        ({"sensor": "drohne"}, "drohne"),
        ({"sensor": "nowhere/bands.json"}, "nowhere/bands.json"),
        ({"group_regex": "(?P<group>["}, "--group-regex.*not a valid regular expression"),
        ({"group_regex": r"\d+"}, r"--group-regex .*no group named 'group'"),
        ({"time_regex": r"(?P<date>\d+)"}, r"--time-regex .*no group named 'time'"),
        ({"time_format": "%Y"}, "needs --time-regex"),
        ({"patch_size": -1}, "--patch-size: is -1"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict, words: str) -> None:
    flight(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        make_reader("geotiff", tmp_path, **{**DRONE, **options}).items()


def test_a_label_map_of_another_grid(tmp_path: Path) -> None:
    options = write("geotiff", tmp_path)
    name = layout.names()[3]
    tiny_archives.write(tmp_path / "weeds" / name, np.zeros((1, 8, 8), np.uint8))
    reject("geotiff", tmp_path, f"weeds/{name}", "8 x 8 pixels", **options)


def test_an_image_without_its_label_map(tmp_path: Path) -> None:
    options = write("geotiff", tmp_path)
    (tmp_path / "labels" / layout.names()[2]).unlink()
    reject("geotiff", tmp_path, f"labels/{layout.names()[2]}", "needs its label map", **options)


def test_half_a_split_list(tmp_path: Path) -> None:
    options = write("geotiff", tmp_path)
    (tmp_path / "splits" / "val.txt").unlink()
    reject("geotiff", tmp_path, "west", "in no split list", **options)


def test_an_empty_folder(tmp_path: Path) -> None:
    reject("geotiff", tmp_path, "no GeoTIFF", **DRONE)


def test_a_damaged_name_of_the_crs_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    """GDAL hands it on as bytes that are not UTF-8."""
    ours = rasterio.CRS.from_string("+proj=tmerc +lon_0=9.5 +k=0.9996 +x_0=500000 +datum=WGS84")
    named = ours.to_wkt().replace('"unknown"', '"Grid of ours"', 1)
    path = flight(tmp_path)
    with rasterio.open(path, "r+") as file:
        file.crs = rasterio.CRS.from_wkt(named)
    data = path.read_bytes()
    assert b"Grid of ours" in data
    path.write_bytes(data.replace(b"Grid of ours", b"Grid \x92f ours"))
    reject("geotiff", tmp_path, "flight.tif", "cannot be read as GeoTIFF", **DRONE)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"start_time": "2022-07-24T10:45:26"}, datetime.datetime(2022, 7, 24, 10, 45, 26)),
        ({"datetime": "2021-07-23T13:22:41.000000000"}, datetime.datetime(2021, 7, 23, 13, 22, 41)),
        ({"TIFFTAG_DATETIME": "2020:01:02 03:04:05"}, None),  # when the file was written
        ({"datetime": "last summer"}, None),
    ],
)
def test_the_time_of_tags_without_a_regex(tmp_path: Path, tags: dict, expected) -> None:
    with rasterio.open(flight(tmp_path), "r+") as file:
        file.update_tags(**tags)
    (sample,) = read_all("geotiff", tmp_path, **DRONE)
    seconds = expected and int(expected.replace(tzinfo=datetime.UTC).timestamp())
    assert sample.time == seconds


def test_valid_no_data_values_are_refused_in_windows_without_masked_pixels(tmp_path: Path) -> None:
    """The mask counts in every patch alike, not only where it excludes something."""
    cube = np.full((4, 8, 16), 500, np.uint16)
    cube[:, 2, 3] = layout.NODATA
    valid = np.ones((8, 16), bool)
    valid[:, 8:] = False
    path = tiny_archives.write(tmp_path / "a.tif", cube)
    with rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    reject("geotiff", tmp_path, "a.tif", "declares valid", **DRONE, patch_size=8)


def test_whole_numbers_are_not_taken_for_fractions(tmp_path: Path) -> None:
    """A dark patch of integers as floats."""
    row = {**json.loads(Path(DRONE["sensor"]).read_text()), "dtype": "float32", "nodata": None}
    (tmp_path / "row.json").write_text(json.dumps({**row, "id": "floats"}))
    tiny_archives.write(tmp_path / "in" / "a.tif", np.ones((4, 8, 8), np.float32))
    options = {"sensor": str(tmp_path / "row.json")}
    assert len(read_all("geotiff", tmp_path / "in", **options)) == 1
    tiny_archives.write(tmp_path / "in" / "a.tif", np.full((4, 8, 8), 0.3, np.float32))
    reject("geotiff", tmp_path / "in", "a.tif", "fractions", **options)
