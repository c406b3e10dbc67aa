"""`inspect` describes and draws a store of any sensor: two pictures, or one self-contained page."""

from __future__ import annotations

import errno
import html.parser
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from layouts import geotiff as drone_layout
from PIL import Image
from tiny_store import write_store

from data_prep import inspect
from data_prep.__main__ import main
from data_prep.inspection import figures, locations, page, samples, summary
from data_prep.statistics.moments import Contents
from eo_jax.data import Store, open_store
from eo_jax.report import composite
from eo_jax.schema import Sample
from eo_jax.sensors import SENSORS, Band, Sensor, get_sensor

DRONE = Sensor(
    "drone",
    "Camera <one> & only",
    tuple(Band(f"b{n}", n, None, None) for n in range(1, 31)),
    None,
    "int16",
    2.0,
    "counts",
    None,
    5.0,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    tiny_archives.spectral_earth(folder / "archive", "landuse")
    options = ("--labels", "landuse", "--val", "0000007/*", "--workers", "1")
    assert (
        main(
            [
                "convert",
                "spectral-earth",
                "--input",
                str(folder / "archive"),
                "--output",
                str(folder / "store"),
                *options,
            ]
        )
        == 0
    )
    return folder / "store"


def store_of(path: Path, sensor: Sensor, cubes: Sequence[np.ndarray], **fields) -> Store:
    """A store of cubes of one sensor, as `convert` describes it."""
    samples = [
        Sample(pixels=cube, sensor=sensor.id, id=f"<{n}>", group=f"{n}", **fields)
        for n, cube in enumerate(cubes)
    ]
    contents = Contents()
    for sample in samples:
        contents.add_sample(sample, "train", sensor.missing(sample.pixels))
    archive = {
        "name": "An <archive>",
        "reader": "test",
        "licence": "free & open",
        "options": {"labels": []},
        "files": 3,
    }
    about = {
        "archive": archive,
        "sensors": {sensor.id: sensor.row()},
        "splits": {"train": len(samples)},
        "groups": len(samples),
        **contents.about(),
    }
    return open_store(write_store(path, samples, about=about))


def cubes_of(sensor: Sensor, count: int = 2, size: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(1, 100, (len(sensor.bands), size, size)).astype(sensor.dtype)
        for _ in range(count)
    ]


# ------------------------------------------------------------------ the terminal


def test_tables_say_what_is_in_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(store), "--output", str(tmp_path), "--pictures"]) == 0
    said = capsys.readouterr().out
    opened = open_store(store)
    share = opened.index["nodata_share"].mean()
    assert share > 0
    pixels = opened.manifest["labels"]["landuse"]["values"]["3"]
    for words in (
        "7 (train 5, val 2)",
        "5 (3 with 1 sample, 2 with 2 samples)",
        "202 x 32 x 32 (7)",
        f"{share:.3%} of all values",
        "label landuse (uint8)",
        f"{pixels:,}",
        "202, 418 to 2445 nm",
        "SpectralEarth (reader spectral-earth, 14 files)",
        "unknown",  # dates
    ):
        assert words in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quicklook.png", "spectra.png"]


def test_regions_are_means_of_their_bands(store: Path) -> None:
    opened = open_store(store)
    moments = opened.manifest["statistics"]["enmap"]
    rows = {row[0]: row[1:] for row in summary.region_rows(opened.sensor("enmap"), moments).rows}
    inside = (opened.sensor("enmap").centres_nm >= 690) & (opened.sensor("enmap").centres_nm < 780)
    count, mean, _, low, high, _ = rows["red edge"]
    assert count == str(inside.sum())
    assert float(mean) == pytest.approx(np.mean(np.array(moments["mean"])[inside]) * 1e-4, rel=1e-3)
    assert float(low) == pytest.approx(np.min(np.array(moments["min"])[inside]) * 1e-4, rel=1e-3)
    assert float(high) == pytest.approx(np.max(np.array(moments["max"])[inside]) * 1e-4, rel=1e-3)


def test_bands_have_their_own_scale_and_unit() -> None:
    bands = (
        Band("red", 1, 660.0, 30.0),
        Band("heat", 2, 11000.0, 1000.0, kind="thermal", scale=0.1, offset=100.0, units="K"),
    )
    sensor = Sensor("two", "Two", bands, 30.0, "uint8", 0.01, "reflectance", None)
    moments = {
        "mean": [20, 1000],
        "std": [2, 30],
        "min": [10, None],
        "max": [30, 1100],
        "nodata_share": [0, 0.25],
    }
    table = summary.band_rows(sensor, moments)
    assert table.rows[0] == ("red", "660", "0.2", "0.02", "0.1", "0.3", "0.00%", "")
    assert table.rows[1] == ("heat", "11000", "200", "3", "-", "210", "25.00%", "K")


def test_band_without_data_is_no_obstacle(tmp_path: Path) -> None:
    cubes = cubes_of(get_sensor("enmap"))
    for cube in cubes:
        cube[:100] = -32768
    opened = store_of(tmp_path / "store", get_sensor("enmap"), cubes)
    rows = {row[0]: row for row in summary.statistics_rows(opened)[0].rows}
    assert rows["visible"][2:] == ("-", "-", "-", "-", "100.00%")
    assert "-" not in rows["SWIR 2"]
    assert figures.figure_png(figures.draw_spectra(opened))


def test_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    labels = {
        "cover": np.arange(64, dtype=np.uint8).reshape(8, 8) % 12,
        "height": np.array(1.5, np.float32),
    }
    cover, height = summary.label_rows(
        store_of(tmp_path / "store", DRONE, cubes_of(DRONE), labels=labels)
    )
    assert [row[0] for row in cover.rows] == [str(value) for value in range(12)]
    assert height.rows == [("fractions, or more than 256 values", "", "")]


# ------------------------------------------------------------------ how samples are shown


@pytest.mark.parametrize(
    ("sensor", "bands", "words"),
    [
        ("enmap", (43, 28, 10), "true colour (B44, B29, B11: 641, 556, 468 nm)"),
        ("sentinel2_l1c", (3, 2, 1), "true colour (B4, B3, B2: 665, 560, 493 nm)"),
        ("sentinel1_grd", (0, 1), "VV, VH and VV - VH"),
        ("geonrw_dem", (0,), "dem in grey"),
        ("sunrgbd_depth", (0,), "depth in grey"),
        ("sunrgbd_hha", (2, 1, 0), "angle, height, disparity as red, green and blue"),
        ("hyperview", (124, 74, 25), "spread evenly: no true colour is known"),
    ],
)
def test_composites(sensor: str, bands: tuple[int, ...], words: str) -> None:
    shown = composite.composite(get_sensor(sensor))
    assert shown.bands == bands
    assert words in shown.caption


def test_radar_shows_both_polarisations_and_their_ratio(tmp_path: Path) -> None:
    cube = np.zeros((2, 1, 3), np.float32)
    cube[:, 0] = [[-5, -10, -10], [-20, -15, -20]]
    opened = store_of(tmp_path / "store", get_sensor("sentinel1_grd"), [cube])
    (shown,) = samples.examples(opened, 1)["sentinel1_grd"]
    red, green, blue = np.moveaxis(shown.rgb[0].astype(int), -1, 0)
    assert red[0] > red[1] == red[2]
    assert green[1] > green[0] == green[2]
    assert blue[0] > blue[2] > blue[1]  # 15, 10 and 5 dB


def test_one_band_is_grey_and_no_data_is_striped(tmp_path: Path) -> None:
    cube = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    cube[0, 0, :4] = np.nan
    (shown,) = samples.examples(store_of(tmp_path / "store", get_sensor("geonrw_dem"), [cube]), 1)[
        "geonrw_dem"
    ]
    assert (shown.rgb[..., 0] == shown.rgb[..., 1]).all()
    assert shown.rgb[0, :4, 0].tolist() == [205, 205, 165, 165]
    assert shown.rgb[1:, :, 0].ravel().tolist() == sorted(shown.rgb[1:, :, 0].ravel().tolist())


def test_large_samples_are_thinned_out(tmp_path: Path) -> None:
    (shown,) = samples.examples(
        store_of(
            tmp_path / "store", get_sensor("geonrw_dem"), cubes_of(get_sensor("geonrw_dem"), 1, 600)
        ),
        1,
    )["geonrw_dem"]
    assert shown.rgb.shape == (200, 200, 3)


@pytest.mark.parametrize("name", [sensor.id for sensor in SENSORS.values()] + ["drone"])
def test_every_sensor_of_the_table_can_be_shown(name: str, tmp_path: Path) -> None:
    sensor = SENSORS.get(name, DRONE)
    opened = store_of(tmp_path / "store", sensor, cubes_of(sensor))
    assert inspect.images(opened, 2).keys() == {"quicklook.png", "spectra.png"}


# ------------------------------------------------------------------ pictures


def test_pictures_are_the_same_every_time(store: Path) -> None:
    opened = open_store(store)
    assert inspect.images(opened, 4) == inspect.images(opened, 4)


def test_quicklook_shows_as_many_as_asked(store: Path) -> None:
    opened = open_store(store)
    heights = [
        Image.open(io.BytesIO(inspect.quicklook(opened, count))).height for count in (1, 4, 5, 100)
    ]
    assert (
        heights[0] == heights[1] < heights[2] == heights[3]
    )  # seven samples fit into two rows of four


def test_spectrum_breaks_over_the_removed_windows(store: Path) -> None:
    picture = np.array(
        Image.open(io.BytesIO(inspect.images(open_store(store), 1)["spectra.png"])).convert("RGB")
    ).astype(int)
    blue = (picture[..., 2] - picture[..., 0] > 100).any(0)
    runs = np.flatnonzero(np.diff(np.flatnonzero(blue)) > 20)
    assert len(runs) == 2  # around 1400 and 1900 nm


def test_units_have_panels_of_their_own(tmp_path: Path) -> None:
    sensor = get_sensor("landsat8_oli_tirs_toa")
    figure = figures.draw_spectra(store_of(tmp_path / "store", sensor, cubes_of(sensor)))
    assert [axes.get_ylabel() for axes in figure.axes] == ["top-of-atmosphere reflectance", "K"]


def test_bands_without_wavelengths_are_drawn_by_number(tmp_path: Path) -> None:
    (axes,) = figures.draw_spectra(store_of(tmp_path / "store", DRONE, cubes_of(DRONE))).axes
    assert "wavelengths are not known" in axes.get_xlabel()
    assert axes.lines[0].get_xdata().tolist() == list(range(1, 31))


def test_dates_are_counted_by_month(tmp_path: Path) -> None:
    samples = [
        Sample(
            pixels=np.ones((30, 2, 2), np.int16), sensor="drone", id=f"{n}", group="g", time=time
        )
        for n, time in enumerate(TIMES)
    ]
    figure = figures.draw_dates(open_store(write_store(tmp_path / "store", samples)))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 0, 1]


TIMES = [
    1_590_969_600,
    1_593_561_599,
    1_596_240_000,
    None,
]  # 1 June, 30 June 23:59:59 and 1 August 2020


# ------------------------------------------------------------------ the page


class Page(html.parser.HTMLParser):
    """Collects everything that could be loaded, and checks that elements are closed."""

    void = ("meta", "img", "br", "path", "use", "image")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [
            value
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def assert_self_contained(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text


def test_page_of_a_store(store: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(store), "--output", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["inspect.html"]
    text = (tmp_path / "inspect.html").read_text()
    assert_self_contained(text)
    manifest = open_store(store).manifest
    for words in (
        "true colour (B44, B29, B11: 641, 556, 468 nm)",
        f"{manifest['labels']['landuse']['values']['3']:,}",
        manifest["content_sha256"],
        manifest["archive"]["listing_sha256"],
        manifest["archive"]["licence"],
        "reader_version",
        "val · 32 x 32",
        "No sample says when it was taken.",
    ):
        assert words in text, words
    assert text == page.render(open_store(store), 12)
    assert str(store) not in text


def test_page_escapes_what_archives_say(tmp_path: Path) -> None:
    text = page.render(store_of(tmp_path / "store", DRONE, cubes_of(DRONE)), 4)
    assert_self_contained(text)
    assert "<archive>" not in text and "An &lt;archive&gt;" in text
    assert "<one>" not in text and "Camera &lt;one&gt; &amp; only" in text
    assert "&lt;0&gt;" in text
    for words in (
        "No sample says where it is.",
        "spread evenly: no true colour is known",
        "digital number x 2 + 5",
    ):
        assert words in text


def test_page_of_a_store_without_training_samples(tmp_path: Path) -> None:
    samples = [Sample(pixels=np.ones((30, 2, 2), np.int16), sensor="drone", id="a", group="a")]
    about = {
        "archive": {"name": "a", "reader": "b"},
        "sensors": {"drone": DRONE.row()},
        "splits": {"test": 1},
        "groups": 1,
    }
    opened = open_store(
        write_store(
            tmp_path / "store", samples, ["test"], {**about, "statistics": {}, "labels": {}}
        )
    )
    assert inspect.images(opened, 1).keys() == {"quicklook.png"}
    assert "There is no sample in the train split." in page.render(opened, 1)


def test_page_of_many_sensors_and_nested_archives(store: Path, tmp_path: Path) -> None:
    drone_layout.write(tmp_path / "archive")
    options = drone_layout.OPTIONS
    words = [
        "--sensor",
        options["sensor"],
        "--labels",
        "weeds",
        "--time-regex",
        options["time_regex"],
        "--group-regex",
        options["group_regex"],
    ]
    assert (
        main(
            [
                "convert",
                "geotiff",
                "--input",
                str(tmp_path / "archive"),
                "--output",
                str(tmp_path / "drone"),
                "--workers",
                "1",
                *words,
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "merge",
                str(store),
                str(tmp_path / "drone"),
                "--output",
                str(tmp_path / "both"),
                "--workers",
                "1",
            ]
        )
        == 0
    )
    text = page.render(open_store(tmp_path / "both"), 4)
    assert_self_contained(text)
    for words in (
        "sources 1",
        "sources 2",
        "SpectralEarth + GeoTIFFs",
        "Drone camera, four bands",
        "Samples over time",
        "Longitude and latitude",
    ):
        assert words in text


# ------------------------------------------------------------------ errors


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("pictures", [[], ["--pictures"]])
@pytest.mark.parametrize(
    "field", ["archive", "sensors", "statistics", "labels", "splits", "groups"]
)
def test_manifest_without_what_is_shown(
    field: str, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    about = {
        "archive": {"name": "a", "reader": "b"},
        "sensors": {"drone": DRONE.row()},
        "splits": {},
        "groups": 1,
        "statistics": {},
        "labels": {},
    }
    del about[field]
    write_store(
        tmp_path / "store",
        [Sample(pixels=np.ones((30, 2, 2), np.int16), sensor="drone", id="a", group="a")],
        about=about,
    )
    assert (
        main(["inspect", str(tmp_path / "store"), "--output", str(tmp_path / "look"), *pictures])
        == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: ")
        and f"manifest.json: has no {field!r}" in line
        and "convert again" in line
    )


# ------------------------------------------------------------------ where the page goes


def test_the_page_lies_beside_the_store_and_verify_does_not_mind(tmp_path: Path) -> None:
    path = Path(store_of(tmp_path / "store", DRONE, cubes_of(DRONE)).path)
    assert main(["inspect", str(path)]) == 0
    assert (path / "inspect.html").is_file()
    assert main(["verify", str(path), "--workers", "1"]) == 0


def test_a_folder_that_cannot_be_written_to_says_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store_of(tmp_path / "store", DRONE, cubes_of(DRONE)).path

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(inspect, "write_atomically", refuse)
    assert main(["inspect", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: inspect.html cannot be written there (Read-only file system)" in line
    assert "--output DIR" in line


# ------------------------------------------------------------------ labels, bands and places


def labelled_store(path: Path, **labels: np.ndarray) -> Store:
    """A store whose label "cover" has the classes "water" and "<b>wood</b>"."""
    opened = store_of(path, DRONE, cubes_of(DRONE), labels=labels)
    for name in labels:
        opened.manifest["labels"][name]["classes"] = {
            "1": {"name": "water"},
            "2": {"name": "<b>wood</b>"},
        }
    return opened


def test_a_label_map_is_drawn_beside_its_sample_with_a_legend_of_names(tmp_path: Path) -> None:
    cover = np.repeat(np.array([0, 1, 2, 2], np.uint8), 2)[None].repeat(8, 0)
    opened = labelled_store(tmp_path / "store", cover=cover)
    (shown, _) = samples.examples(opened, 2)["drone"]
    (drawn,) = shown.maps
    assert len(np.unique(drawn.rgb[:, 2:].reshape(-1, 3), axis=0)) == 2
    water, wood = (drawn.rgb[0, column].tolist() for column in (2, 5))
    text = page.render(opened, 2)
    assert_self_contained(text)
    for rgb, name in ((water, "1 water"), (wood, "2 &lt;b&gt;wood&lt;/b&gt;")):
        assert '<i style="background:#{:02x}{:02x}{:02x}"></i>'.format(*rgb) + name in text
    assert 'alt="Label cover of &lt;0&gt;"' in text and "<b>wood" not in text


def test_the_class_of_a_whole_patch_is_named(tmp_path: Path) -> None:
    opened = labelled_store(tmp_path / "store", use=np.array(2), both=np.array([1, 1], np.uint8))
    (shown, _) = samples.examples(opened, 2)["drone"]
    assert shown.labels == ("both: water, <b>wood</b>", "use: 2 <b>wood</b>")


def test_each_sample_has_its_own_stretch(tmp_path: Path) -> None:
    dark = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    opened = store_of(tmp_path / "store", get_sensor("geonrw_dem"), [dark, 1000 + 100 * dark])
    one, other = samples.examples(opened, 2)["geonrw_dem"]
    assert (one.rgb == other.rgb).all() and len(np.unique(one.rgb)) > 30


def test_bad_bands_and_water_vapour_are_not_shown() -> None:
    nm = [450.0, 550.0, 560.0, 650.0, 1000.0, 1400.0, 1600.0, 1900.0, 2200.0]
    bands = tuple(Band(f"b{n}", n, at, 10.0) for n, at in enumerate(nm, start=1))
    sensor = Sensor("nine", "Nine", bands, 30.0, "int16", 1e-4, "reflectance", None)
    good = np.ones(9, bool)
    assert composite.composite(sensor, good).bands == (3, 2, 0)
    good[2] = False
    assert composite.composite(sensor, good).bands == (3, 1, 0)
    good[[1, 3]] = False  # no green and no red are left: of 450, 1000, 1600 and 2200 nm
    shown = composite.composite(sensor, good)
    assert set(shown.bands) <= {0, 4, 6, 8} and "no true colour is known" in shown.caption


def test_constant_and_empty_bands_are_bad(tmp_path: Path) -> None:
    cubes = cubes_of(get_sensor("enmap"))
    for cube in cubes:
        cube[43], cube[28] = 7, -32768
    opened = store_of(tmp_path / "store", get_sensor("enmap"), cubes)
    good = samples.good_bands(opened, get_sensor("enmap"))
    assert np.flatnonzero(~good).tolist() == [28, 43]
    assert not {28, 43} & set(samples.composite_of(opened, get_sensor("enmap")).bands)


def test_coastlines_are_whole_and_cut_at_the_date_line() -> None:
    lines = locations.coastlines()
    assert sum(map(len, lines)) > 5000
    for line in lines:
        assert np.abs(line[:, 0]).max() <= 180 and np.abs(line[:, 1]).max() <= 90
        assert np.abs(np.diff(line[:, 0])).max() < 180


def test_validation_is_drawn_over_training_and_looks_different(tmp_path: Path) -> None:
    places = [(13.0, 52.0), (13.0, 52.0), (100.0, 20.0)]
    cubes = [
        Sample(np.ones((30, 2, 2), np.int16), "drone", f"{n}", f"{n}", lonlat=place)
        for n, place in enumerate(places)
    ]
    path = write_store(tmp_path / "store", cubes, ["val", "train", "test"])
    (axes,) = locations.draw_map(open_store(path)).axes
    drawn = {one.get_label(): one for one in axes.collections if "(" in one.get_label()}
    order = sorted(drawn, key=lambda name: drawn[name].zorder)
    assert order == ["train (1)", "val (1)", "test (1)"]
    assert len({one.get_paths()[0].vertices.tobytes() for one in drawn.values()}) == 3
    assert len({one.get_facecolor().tobytes() for one in drawn.values()}) == 3


def test_locations_close_together_come_with_a_map_of_the_world(tmp_path: Path) -> None:
    sample = Sample(np.ones((30, 2, 2), np.int16), "drone", "a", "a", lonlat=(13.0, 52.0))
    world, near = locations.draw_map(open_store(write_store(tmp_path / "store", [sample]))).axes
    assert world.get_xlim() == (-180, 180) and np.ptp(near.get_xlim()) < 2
