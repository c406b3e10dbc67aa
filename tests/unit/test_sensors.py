"""EnMAP against published facts, checks of order and units, and users' tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_jax.sensors import ENMAP, ENMAP_PRODUCT, SENSORS, Sensor, check_wavelengths, get_sensor

# Index in the SpectralEarth cube, product band, centre in nm and FWHM in nm, as recipes publish
# them.
PUBLISHED = (
    (0, 1, 418.4, 7.00),
    (1, 2, 424.0, 6.67),
    (10, 11, 468.4, 5.89),
    (43, 44, 641.3, 7.41),
    (78, 79, 895.8, 10.08),
    (79, 92, 902.0, 9.18),
    (80, 80, 903.9, 10.16),
    (92, 87, 960.7, 10.72),
    (101, 102, 1003.9, 10.37),
    (125, 126, 1282.9, 11.43),
    (126, 142, 1530.3, 10.86),
    (137, 153, 1653.0, 10.37),
    (144, 160, 1728.1, 10.05),
    (145, 168, 1977.1, 9.01),
    (201, 224, 2445.3, 7.16),
)
# Both cameras see 900 to 994 nm; the cube interleaves their bands in this order.
OVERLAP = (92, 80, 93, 81, 82, 94, 83, 95, 84, 96, 85, 97, 86, 87, 98, 88, 99, 89, 100, 90, 101, 91)


def test_the_202_bands_are_those_of_spectral_earth():
    kept = [*range(1, 127), *range(142, 161), *range(168, 225)]
    assert sorted(ENMAP.band_numbers) == kept
    assert ENMAP_PRODUCT.band_numbers == tuple(range(1, 225))


def test_the_overlap_of_the_cameras_is_interleaved_in_a_fixed_order():
    assert ENMAP.band_numbers[79:101] == OVERLAP
    outside = ENMAP.band_numbers[:79] + ENMAP.band_numbers[101:]
    assert list(outside) == sorted(outside)
    assert np.all(np.diff(ENMAP.centres_nm) > 0)


def test_bands_142_to_160_are_where_the_published_mean_says():
    assert ENMAP.band_numbers[126:145] == tuple(range(142, 161))
    assert ENMAP.centres_nm[[126, 144]] == pytest.approx([1530.3, 1728.1], abs=0.06)
    steps = np.abs(np.diff(ENMAP.mean))
    assert steps[126:144].max() < 45  # smooth within the window
    assert steps[125] > 800 and steps[144] > 800  # across the water vapour on either side


def test_the_published_mean_is_smooth_over_each_camera_in_this_order_only():
    def curvature(numbers: np.ndarray) -> float:
        spectrum = dict(zip(numbers.tolist(), ENMAP.mean, strict=True))
        cameras = (range(76, 92), range(92, 105))
        return sum(
            np.abs(np.diff([spectrum[number] for number in camera], 2)).sum() for camera in cameras
        )

    ours = np.array(ENMAP.band_numbers)
    # 5492 if the cube were in product order, 2720 as it is.
    assert curvature(np.sort(ours)) > 1.9 * curvature(ours)


@pytest.mark.parametrize(("index", "number", "centre", "fwhm"), PUBLISHED)
def test_published_row(index: int, number: int, centre: float, fwhm: float):
    band = ENMAP.bands[index]
    assert (band.number, band.name) == (number, f"B{number}")
    assert band.centre_nm == pytest.approx(centre, abs=0.06)
    assert band.fwhm_nm == pytest.approx(fwhm, abs=0.006)


@pytest.mark.parametrize(("number", "fwhm"), [(81, 10.25), (93, 9.32), (91, 10.64), (101, 10.27)])
def test_widths_in_the_overlap_belong_to_the_camera_and_not_to_the_nearest_centre(
    number: int, fwhm: float
):
    assert ENMAP_PRODUCT.bands[number - 1].fwhm_nm == fwhm


def test_centres_and_widths_are_those_of_real_product_files(sample_data: Path):
    paths = sorted(sample_data.glob("enmap/potsdam_l2a_tiles/images/*.tif"))
    assert paths
    for path in paths:
        with rasterio.open(path) as file:
            tags = [file.tags(band) for band in range(1, file.count + 1)]
        check_wavelengths(
            ENMAP_PRODUCT, np.array([float(tag["wavelength"]) for tag in tags]), path.name
        )
        widths = np.array([float(tag["fwhm"]) for tag in tags])
        assert np.abs(widths - [band.fwhm_nm for band in ENMAP_PRODUCT.bands]).max() < 0.02


def test_statistics_are_one_positive_pair_a_band():
    assert len(ENMAP.mean) == len(ENMAP.std) == len(ENMAP.bands) == 202
    assert (ENMAP.mean[0], ENMAP.mean[-1], ENMAP.std[0], ENMAP.std[-1]) == (
        827.3,
        1339.6,
        1718.1,
        1096.9,
    )
    assert min(ENMAP.mean) == 813.0 and max(ENMAP.mean) == 3217.2
    assert min(ENMAP.std) == 1096.4 and max(ENMAP.std) == 1718.5


def test_scale_nodata_and_dtype_are_those_of_the_l2a_product():
    for sensor in (ENMAP, ENMAP_PRODUCT):
        assert (sensor.scale, sensor.offset, sensor.units) == (1e-4, 0.0, "surface reflectance")
        assert (sensor.dtype, sensor.nodata, sensor.gsd_m) == ("int16", -32768, 30.0)


def test_which_sensors_have_colours():
    """Those whose bands are known, and no others."""
    known = [sensor for sensor in SENSORS.values() if np.isfinite(sensor.centres_nm).all()]
    pictures = [
        sensor for sensor in SENSORS.values() if "red" in [band.name for band in sensor.bands]
    ]
    assert [sensor.id for sensor in SENSORS.values() if sensor.true_colour] == [
        sensor.id for sensor in SENSORS.values() if sensor in known + pictures
    ]
    assert [sensor.id for sensor in SENSORS.values() if sensor.false_colour] == [
        sensor.id for sensor in known
    ]
    assert {sensor.true_colour for sensor in pictures} == {(0, 1, 2)}


@pytest.mark.parametrize(
    "sensor",
    [sensor for sensor in SENSORS.values() if sensor.false_colour],
    ids=lambda sensor: sensor.id,
)
def test_quicklook_bands_have_their_colours(sensor: Sensor):
    red, green, blue = sensor.centres_nm[list(sensor.true_colour)]
    assert 620 < red < 680 and 530 < green < 580 and 450 < blue < 500
    infrared, red, green = sensor.centres_nm[list(sensor.false_colour)]
    assert 780 < infrared < 900 and 620 < red < 680 and 530 < green < 580


def test_row_is_json_and_in_storage_order():
    bands = json.loads(json.dumps(ENMAP.row()))["bands"]
    assert bands["name"][79:82] == ["B92", "B80", "B93"]
    assert bands["centre_nm"] == ENMAP.centres_nm.tolist()
    assert len(bands["fwhm_nm"]) == 202


def test_wavelengths_of_another_scene_pass():
    check_wavelengths(ENMAP, ENMAP.centres_nm + 0.5, "scene.tif")
    check_wavelengths(ENMAP, ENMAP.centres_nm - 0.5, "scene.tif")


def _changed(band: int, value: float) -> np.ndarray:
    found = ENMAP.centres_nm.copy()
    found[band] = value
    return found


@pytest.mark.parametrize(
    ("found", "count", "first"),
    [
        (_changed(5, 500.0), 1, ("band 6", "500 nm", "444.7")),
        (_changed(79, np.nan), 1, ("band 92", "nan", "901.96")),
        (ENMAP.centres_nm / 1000, 202, ("band 1", "0.41842", "418.42")),
        (ENMAP.centres_nm[::-1], 202, ("band 1", "2445.3", "418.42")),
        (ENMAP.centres_nm[[0, 1, 3, 2, *range(4, 202)]], 2, ("band 3", "434.69", "429.46")),
    ],
    ids=["one band off", "NaN", "micrometres", "reversed", "two bands swapped"],
)
def test_wrong_wavelengths_name_file_band_found_and_expected(
    found: np.ndarray, count: int, first: tuple[str, ...]
):
    with pytest.raises(ValueError, match=f"{count} of 202 wavelengths") as error:
        check_wavelengths(ENMAP, found, "scene.tif")
    for part in ("scene.tif", ENMAP.title, *first):
        assert part in str(error.value)


def test_product_order_is_not_taken_for_cube_order():
    by_number = sorted(ENMAP.bands, key=lambda band: band.number)
    with pytest.raises(ValueError, match="another order"):
        check_wavelengths(ENMAP, np.array([band.centre_nm for band in by_number]), "scene.tif")


def test_wrong_number_of_wavelengths():
    with pytest.raises(ValueError, match=r"scene\.tif: 224 wavelengths found, 202 expected"):
        check_wavelengths(ENMAP, ENMAP_PRODUCT.centres_nm, "scene.tif")


def test_unknown_sensor_gets_a_suggestion():
    assert get_sensor("enmap") is ENMAP
    with pytest.raises(ValueError, match=r"no sensor 'enmpa'.*Did you mean 'enmap'"):
        get_sensor("enmpa")


def test_bands_without_a_known_wavelength_are_not_checked_and_the_others_are():
    check_wavelengths(get_sensor("rosis_pavia_university"), np.linspace(430, 860, 103), "scene.hdr")
    part = dataclasses.replace(
        ENMAP, bands=(dataclasses.replace(ENMAP.bands[0], centre_nm=None), *ENMAP.bands[1:])
    )
    check_wavelengths(part, ENMAP.centres_nm, "scene.tif")
    with pytest.raises(ValueError, match="1 of 202"):
        check_wavelengths(part, _changed(1, 500.0), "scene.tif")


def _camera(columns: dict | None = None, **changes) -> dict:
    """The row of a user's camera of two bands, with some columns and fields changed."""
    bands = {
        "name": ["red", "thermal"],
        "number": [1, 2],
        "centre_nm": [650.0, 11000.0],
        "kind": ["reflective", "thermal"],
        **(columns or {}),
    }
    row = {
        "id": "my_camera",
        "title": "A camera",
        "bands": bands,
        "gsd_m": 0.1,
        "dtype": "uint16",
        "scale": 1.0,
        "units": "digital number",
    }
    return {**row, "nodata": None, **changes}


def _written(tmp_path: Path, row: object) -> str:
    path = tmp_path / "camera.json"
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    return str(path)


def test_a_users_table_is_a_sensor(tmp_path: Path):
    sensor = get_sensor(_written(tmp_path, _camera(mean=[1, 2.5], std=[1, 1])))
    assert [band.kind for band in sensor.bands] == ["reflective", "thermal"]
    assert sensor.bands[0].fwhm_nm is None and sensor.mean == (1, 2.5)
    assert sensor.centres_nm.tolist() == [650, 11_000]


def test_a_users_table_may_repeat_a_row_but_not_change_it(tmp_path: Path):
    assert get_sensor(_written(tmp_path, ENMAP.row())) == ENMAP
    with pytest.raises(
        ValueError,
        match=r"camera\.json: field 'id' is 'enmap', which the table has with other values",
    ):
        get_sensor(_written(tmp_path, {**ENMAP.row(), "nodata": 0}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": 7}, "'id' is 7"),
        ({"id": "../camera.json"}, "'id'"),
        ({"title": None}, "'title' is None"),
        ({"gsd_m": "30"}, "'gsd_m' is '30'"),
        ({"gsd_m": 0}, "'gsd_m' is 0"),
        ({"dtype": "object"}, "'dtype' is 'object'"),
        ({"dtype": ["uint8"]}, "'dtype'"),
        ({"scale": 0}, "'scale' is 0"),
        ({"scale": True}, "'scale' is True"),
        ({"offset": float("nan")}, "'offset' is nan"),
        ({"offset": 10**400}, "'offset'"),
        ({"nodata": "none"}, "'nodata' is 'none'"),
        ({"nodata": float("inf")}, "'nodata' is inf"),
        ({"mean": [1.0]}, "'mean' and 'std' have 1 and 0 values, expected 2"),
        ({"mean": [1, 2], "std": [1]}, "'mean' and 'std' have 2 and 1 values"),
        ({"mean": [1, "2"], "std": [1, 1]}, "'mean'"),
        ({"mean": 5}, "'mean' is 5"),
        ({"mean": [1, 2], "std": [1, 0]}, "'std'"),
        ({"true_colour": [0, 1, 2]}, r"'true_colour' is \(0, 1, 2\), expected indices below 2"),
        ({"true_colour": [0, -1, 1]}, "'true_colour'"),
        ({"false_colour": [0, 1]}, "'false_colour'"),
        ({"false_colour": [0, 1.0, 1]}, "'false_colour'"),
        ({"bands": []}, "'bands' is of type list"),
        ({"bands": {"name": [], "number": []}}, "'bands'.*at least one band"),
        ({"bands": {"name": ["red"]}}, "'bands' lacks the fields number"),
        ({"columns": {"name": ["red"]}}, "'bands'.*columns of one length"),
        ({"columns": {"name": "ab"}}, "'bands.name' is 'ab'"),
        ({"columns": {"name": ["red", "red"]}}, "'bands.name'.*a different value for each band"),
        ({"columns": {"name": ["red", 5]}}, r"'bands.name\[1\]' is 5"),
        ({"columns": {"number": [0, 1]}}, r"'bands.number\[0\]' is 0"),
        (
            {"columns": {"centre_nm": [0.65, 11.0]}},
            r"'bands.centre_nm\[0\]' is 0.65, expected a wavelength in nm",
        ),
        (
            {"columns": {"kind": ["reflective", "sar"]}},
            r"'bands.centre_nm\[1\]' is 11000.0, expected null",
        ),
        ({"columns": {"kind": ["reflective", "radar"]}}, r"'bands.kind\[1\]' is 'radar'"),
        ({"columns": {"wavelength": [650, 11000]}}, "'bands' has the unknown fields wavelength"),
    ],
    ids=str,
)
def test_a_wrong_field_of_a_users_table_is_named(tmp_path: Path, changes: dict, field: str):
    with pytest.raises(ValueError, match=rf"camera\.json: .*{field}"):
        get_sensor(_written(tmp_path, _camera(**changes)))


def test_missing_and_unknown_fields_of_a_users_table_are_named(tmp_path: Path):
    without = {name: value for name, value in _camera().items() if name not in ("units", "nodata")}
    with pytest.raises(ValueError, match="lacks the fields units, nodata"):
        get_sensor(_written(tmp_path, without))
    with pytest.raises(ValueError, match="the unknown fields nodata_value"):
        get_sensor(_written(tmp_path, {**_camera(), "nodata_value": 0}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "is of type list, expected an object"),
        ("null", "NoneType"),
    ],
    ids=["cut short", "deep", "empty", "list", "null"],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=rf"camera\.json: .*{message}"):
        get_sensor(_written(tmp_path, text))


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nothing\.json: no such file"):
        get_sensor(str(tmp_path / "nothing.json"))
    with pytest.raises(ValueError, match=r"camera\.json: 10485761 bytes"):
        get_sensor(_written(tmp_path, " " * (10 * 2**20 + 1)))
