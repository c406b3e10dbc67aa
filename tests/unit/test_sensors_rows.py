"""Every sensor row against its source, written down a second time, in the source's own units."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io

from eo_jax.sensors import SENSORS, Sensor, check_wavelengths, get_sensor

# Landsat: lower and upper end in um, native GSD in m. torchgeo datasets/landsat.py and
# band_data.csv.
TM = {
    "1": (0.45, 0.52, 30),
    "2": (0.52, 0.60, 30),
    "3": (0.63, 0.69, 30),
    "4": (0.76, 0.90, 30),
    "5": (1.55, 1.75, 30),
}
TM |= {"6": (10.40, 12.50, 120), "7": (2.08, 2.35, 30)}
ETM = TM | {
    "4": (0.77, 0.90, 30),
    "6": (10.40, 12.50, 60),
    "7": (2.09, 2.35, 30),
    "8": (0.52, 0.90, 15),
}
OLI = {
    "1": (0.43, 0.45, 30),
    "2": (0.45, 0.51, 30),
    "3": (0.53, 0.59, 30),
    "4": (0.64, 0.67, 30),
    "5": (0.85, 0.88, 30),
}
OLI |= {"6": (1.57, 1.65, 30), "7": (2.11, 2.29, 30), "8": (0.50, 0.68, 15), "9": (1.36, 1.38, 30)}
OLI |= {"10": (10.6, 11.19, 100), "11": (11.50, 12.51, 100)}

# Physical values at two digital numbers, and their unit. torchgeo experiments/ssl4eo/landsat;
# Collection 2: DN x 0.0000275 - 0.2.
TOA = ((0, 0.0), (255, 0.4), "top-of-atmosphere reflectance")
KELVIN = ((0, 248.15), (255, 318.15), "K")
SR = ((0, 0.0), (255, 0.3), "surface reflectance")
SR_C2 = ((0, -0.2), (40_000, 0.9), "surface reflectance")
TOA_C2 = (
    (0, -0.1),
    (55_000, 1.0),
    "top-of-atmosphere reflectance x sine of the sun's elevation",
)
DN = ((0, 0), (255, 255), "digital number")


class Landsat(NamedTuple):
    """`order` has the names in file order, with "=number" of the band where the name lacks it."""

    order: str
    ranges: dict[str, tuple[float, float, float]]
    reflective: tuple
    thermal: tuple
    dtype: str
    nodata: int | None


# Order from torchgeo datasets/ssl4eo.py, l7irish.py, l8biome.py, and for Collection 2
# google/earthengine-catalog pipelines/landsat.py.
SR_6 = "SR_B1=1 SR_B2=2 SR_B3=3 SR_B4=4 SR_B5=5 SR_B7=7"
SR_7 = "SR_B1=1 SR_B2=2 SR_B3=3 SR_B4=4 SR_B5=5 SR_B6=6 SR_B7=7"
B_7 = "B1=1 B2=2 B3=3 B4=4 B5=5 B6=6 B7=7"
B_11 = f"{B_7} B8=8 B9=9 B10=10 B11=11"
LANDSAT = {
    "landsat5_tm_toa": Landsat(B_7, TM, TOA, KELVIN, "uint8", None),
    "landsat7_etm_toa": Landsat(
        "B1=1 B2=2 B3=3 B4=4 B5=5 B6_VCID_1=6 B6_VCID_2=6 B7=7 B8=8",
        ETM,
        TOA,
        KELVIN,
        "uint8",
        None,
    ),
    "landsat7_etm_sr": Landsat(SR_6, ETM, SR, (), "uint8", None),
    "landsat8_oli_tirs_toa": Landsat(B_11, OLI, TOA, KELVIN, "uint8", None),
    "landsat8_oli_sr": Landsat(SR_7, OLI, SR, (), "uint8", None),
    "landsat7_etm_l1": Landsat(
        "B10=1 B20=2 B30=3 B40=4 B50=5 B61=6 B62=6 B70=7 B80=8", ETM, DN, DN, "uint8", 0
    ),
    "landsat8_oli_tirs_l1": Landsat(B_11, OLI, DN, DN, "uint8", 0),
    "landsat5_tm_sr_c2": Landsat(SR_6, TM, SR_C2, (), "uint16", 0),
    "landsat7_etm_sr_c2": Landsat(SR_6, ETM, SR_C2, (), "uint16", 0),
    "landsat8_oli_sr_c2": Landsat(SR_7, OLI, SR_C2, (), "uint16", 0),
    "landsat5_tm_l1_c2": Landsat(B_7, TM, DN, DN, "uint8", 0),
    "landsat7_etm_l1_c2": Landsat(
        "B1=1 B2=2 B3=3 B4=4 B5=5 B6_VCID_1=6 B6_VCID_2=6 B7=7", ETM, DN, DN, "uint8", 0
    ),
    "landsat8_oli_tirs_l1_c2": Landsat(f"{B_7} B9=9 B10=10 B11=11", OLI, TOA_C2, DN, "uint16", 0),
    "geobench_forestnet": Landsat(
        "SR_B2=2 SR_B3=3 SR_B4=4 SR_B5=5 SR_B6=6 SR_B7=7", OLI, DN, (), "uint8", None
    ),
}


def physical(sensor: Sensor, number: float) -> np.ndarray:
    """[c]: the physical value of a digital number in each band."""
    return number * sensor.scales + sensor.offsets


@pytest.mark.parametrize("sensor_id", LANDSAT)
def test_landsat(sensor_id: str):
    sensor, row = get_sensor(sensor_id), LANDSAT[sensor_id]
    names, numbers = zip(*(name.split("=") for name in row.order.split()), strict=True)
    assert tuple(band.name for band in sensor.bands) == names
    assert (sensor.gsd_m, sensor.dtype, sensor.nodata, sensor.mean, sensor.std) == (
        30,
        row.dtype,
        row.nodata,
        (),
        (),
    )
    for index, (band, number) in enumerate(zip(sensor.bands, numbers, strict=True)):
        low, high, gsd_m = row.ranges[number]
        assert band.centre_nm == pytest.approx(1000 * (low + high) / 2)
        assert band.fwhm_nm == pytest.approx(1000 * (high - low))
        assert (band.gsd_m, band.kind) == (gsd_m, "thermal" if low > 10 else "reflective")
        *ends, units = row.thermal if low > 10 else row.reflective
        assert (band.units or sensor.units) == units
        for digital, value in ends:
            assert physical(sensor, digital)[index] == pytest.approx(value)


def test_both_gains_of_etm_thermal_share_a_wavelength():
    for sensor_id, gains in (("landsat7_etm_toa", (5, 6)), ("landsat7_etm_l1", (5, 6))):
        assert get_sensor(sensor_id).centres_nm[list(gains)].tolist() == [11_450, 11_450]


# Centre in nm, native GSD in m, order of L1C. torchgeo datasets/sentinel.py. No source has
# bandwidths.
MSI = """B1 442.7 60, B2 492.7 10, B3 559.8 10, B4 664.6 10, B5 704.1 20, B6 740.5 20,
B7 782.8 20, B8 832.8 10, B8A 864.7 20, B9 945.1 60, B10 1373.5 60, B11 1613.7 20, B12 2202.4 20"""
PADDED = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"  # SSL4EO-S12 v1.1
S2 = {  # which of the 13 bands, names, dtype, physical value of DN 0 and 10000, units
    "sentinel2_l1c": (range(13), None, "uint16", (0, 1), "top-of-atmosphere reflectance"),
    "sentinel2_l2a": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        None,
        "uint16",
        (0, 1),
        "surface reflectance",
    ),
    "sentinel2_l2a_bigearthnet": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        None,
        "uint16",
        (0, 1),
        "surface reflectance",
    ),
    "sentinel2_l1c_offset": (
        range(13),
        PADDED,
        "int16",
        (-0.1, 0.9),
        "top-of-atmosphere reflectance",
    ),
    "sentinel2_l2a_offset": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        PADDED,
        "int16",
        (-0.1, 0.9),
        "surface reflectance",
    ),
    "sentinel2_l1c_offset_uint16": (
        range(13),
        None,
        "uint16",
        (-0.1, 0.9),
        "top-of-atmosphere reflectance",
    ),
    "sentinel2_l2a_offset_uint16": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        None,
        "uint16",
        (-0.1, 0.9),
        "surface reflectance",
    ),
    "sentinel2_l1c_uint16": (
        range(13),
        None,
        "uint16",
        (0, 1),
        "top-of-atmosphere reflectance",
    ),
    "sentinel2_l2a_uint16": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        None,
        "uint16",
        (0, 1),
        "surface reflectance",
    ),
    "sentinel2_so2sat": (
        (1, 2, 3, 4, 5, 6, 7, 8, 11, 12),
        None,
        "float32",
        (0, 10_000),
        "reflectance",
    ),  # 1 is 1, so 10000 is 10000
    "geobench_brick_kiln": (
        (0, 1, 2, 3, 4, 5, 6, 7, 11, 12),
        None,
        "float32",
        (0, 1),
        "reflectance",
    ),
    "geobench_sa_crop_type": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
        None,
        "uint8",
        (0, 10_000),
        "digital number",
    ),
}


@pytest.mark.parametrize("sensor_id", S2)
def test_sentinel2(sensor_id: str):
    sensor, (kept, names, dtype, ends, units) = get_sensor(sensor_id), S2[sensor_id]
    rows = [band.split() for band in MSI.split(",")]
    names = names.split() if names else [name for name, _, _ in rows]
    found = [
        (band.name, band.centre_nm, band.fwhm_nm, band.gsd_m, band.kind) for band in sensor.bands
    ]
    assert found == [
        (names[index], float(rows[index][1]), None, float(rows[index][2]), "reflective")
        for index in kept
    ]
    assert (sensor.dtype, sensor.units, sensor.gsd_m) == (dtype, units, 10)
    # From the tags of BigEarthNet's files, and ESA's special value NODATA.
    has_nodata = sensor_id.endswith(("_bigearthnet", "_uint16"))
    assert sensor.nodata == (0 if has_nodata else None)
    for digital, value in zip((0, 10_000), ends, strict=True):
        assert physical(sensor, digital) == pytest.approx(value)


def test_only_landsat_has_bands_in_units_of_their_own():
    others = [sensor for sensor in SENSORS.values() if sensor.id not in LANDSAT]
    assert {
        (band.scale, band.offset, band.units) for sensor in others for band in sensor.bands
    } == {(None, None, None)}


# Names, dtype, GSD, kind, units. SSL4EO-S12 v1.0 and v1.1; GeoNRW: torchgeo; SUN RGB-D: CMX.
WITHOUT_WAVELENGTH = {
    "sentinel1_grd": ("VV VH", "float32", 10, "sar", "dB"),
    "sentinel1_grd_v1_1": ("vv vh", "float16", 10, "sar", "dB"),
    "sentinel2_rgb": ("red green blue", "uint8", 10, "reflective", "digital number"),
    "geonrw_rgb": ("red green blue", "uint8", 1, "reflective", "digital number"),
    "geonrw_dem": ("dem", "float32", 1, "elevation", "m"),
    "sunrgbd_rgb": ("red green blue", "uint8", None, "reflective", "digital number"),
    "sunrgbd_depth": ("depth", "uint16", None, "depth", "digital number"),
    "sunrgbd_hha": ("disparity height angle", "uint8", None, "depth", "digital number"),
    "geobench_chesapeake": ("red green blue nir", "float32", 1, "reflective", "digital number"),
    "geobench_pv4ger": ("red green blue", "uint8", None, "reflective", "digital number"),
    "geobench_nz_cattle": ("red green blue", "uint8", None, "reflective", "digital number"),
    "geobench_neontree": ("red green blue", "uint8", None, "reflective", "digital number"),
}
# Number of bands, dtype, GSD. DESIS, EO-1, HYPERVIEW: SpectralEarth; Salinas and Jasper Ridge:
# their .mat files; GSD is general knowledge.
NUMBERED = {
    "desis": (235, "int16", 30),
    "eo1_hyperion": (198, "int16", 30),
    "hyperview": (150, "int16", None),
    "rosis_pavia_university": (103, "uint16", 1.3),
    "rosis_pavia_centre": (102, "uint16", 1.3),
    "casi_houston2013": (144, "uint16", 2.5),
    "aviris_salinas": (204, "int16", 3.7),
    "aviris_indian_pines": (200, "uint16", 20),
    "aviris_jasper_ridge": (198, "uint16", None),
}


@pytest.mark.parametrize("sensor_id", [*WITHOUT_WAVELENGTH, *NUMBERED])
def test_sensors_of_which_no_wavelength_is_published(sensor_id: str):
    sensor = get_sensor(sensor_id)
    if sensor_id in NUMBERED:
        count, dtype, gsd_m = NUMBERED[sensor_id]
        names, kind, units = (
            [f"band {number}" for number in range(1, count + 1)],
            "reflective",
            "digital number",
        )
    else:
        names, dtype, gsd_m, kind, units = WITHOUT_WAVELENGTH[sensor_id]
        names = names.split()
    # Named after the 224 channels of AVIRIS; SlectBands in its .mat file.
    if sensor_id == "aviris_jasper_ridge":
        names = [
            f"band {channel}"
            for channel in range(4, 220)
            if channel not in {*range(108, 113), *range(154, 167)}
        ]
    assert [
        (band.name, band.centre_nm, band.fwhm_nm, band.gsd_m, band.kind) for band in sensor.bands
    ] == [(name, None, None, gsd_m, kind) for name in names]
    assert (sensor.gsd_m, sensor.dtype, sensor.units, sensor.nodata) == (gsd_m, dtype, units, None)
    assert (set(sensor.scales), set(sensor.offsets)) == ({1.0}, {0.0})


# Position, name, centre in nm, FWHM in nm: both ends of each gap in the channels, from the ENVI
# headers.
BERLIN = {
    "hymap_berlin": """1 1 455.4 -, 15 15 660.9 -, 31 31 887.8 -, 32 32 893.0 -, 62 62 1330.1 -, 63
        71 1505.0 -,
        86 94 1798.1 -, 87 99 2027.5 -, 111 123 2446.5 -""",
    "enmap_simulated_berlin": """1 8 460 5.8, 38 45 659 7.8, 70 77 896 9.7, 71 91 915 11.8, 107 127
        1323 14.4,
        108 144 1522 13.7, 132 168 1783 12.3, 133 195 2044 10.9, 177 239 2409 9.1""",
}


@pytest.mark.parametrize(
    ("sensor_id", "bands", "gsd_m", "dtype", "scale", "nodata"),
    [
        ("hymap_berlin", 111, 9, "float32", 1, None),
        ("enmap_simulated_berlin", 177, 30, "int16", 1e-4, -99),
    ],
)
def test_berlin(
    sensor_id: str, bands: int, gsd_m: float, dtype: str, scale: float, nodata: float | None
):
    sensor = get_sensor(sensor_id)
    assert (len(sensor.bands), sensor.gsd_m, sensor.dtype, sensor.nodata, sensor.units) == (
        bands,
        gsd_m,
        dtype,
        nodata,
        "reflectance",
    )
    assert (sensor.scale, sensor.offset) == (scale, 0)
    assert {(band.kind, band.gsd_m) for band in sensor.bands} == {("reflective", gsd_m)}
    assert {band.fwhm_nm is None for band in sensor.bands} == {sensor_id == "hymap_berlin"}
    for position, channel, centre, fwhm in (row.split() for row in BERLIN[sensor_id].split(",")):
        band = sensor.bands[int(position) - 1]
        assert (band.name, band.centre_nm) == (f"band {channel}", float(centre))
        assert band.fwhm_nm == (None if fwhm == "-" else float(fwhm))


# mean; std. SSL4EO-S12 v1.0 (50k subset), SSL4EO-S12 v1.1 (README).
STATISTICS = {
    "sentinel1_grd": "-12.548 -20.192; 5.257 5.912",
    "sentinel2_l2a": """
        752.4 884.3 1144.2 1297.5 1624.9 2194.6 2422.2 2517.8 2581.6 2645.5 2368.5 1805.1;
        1108.0 1155.2 1183.6 1368.1 1370.3 1355.6 1416.5 1474.8 1439.3 1582.3 1455.5 1343.5""",
    "sentinel2_l1c": """
        1605.6 1390.8 1314.9 1363.5 1549.4 2091.7 2371.7 2299.9 2560.3 830.1 22.1 2177.1 1524.1;
        786.8 850.3 875.1 1138.8 1122.2 1161.6 1274.4 1248.4 1345.5 577.3 51.2 1336.1 1136.5""",
    "sentinel2_l1c_offset": """
        2607.345 2393.068 2320.225 2373.963 2562.536 3110.071 3392.832 3321.154 3583.77 1838.712
        1021.753 3205.112 2545.798;
        786.523 849.702 875.318 1143.578 1126.248 1161.98 1273.505 1246.79 1342.755 576.795 45.626
        1340.347 1145.036""",
    "sentinel2_l2a_offset": """
        1793.243 1924.863 2184.553 2340.936 2671.402 3240.082 3468.412 3563.244 3627.704 3711.071
        3416.714 2849.625;
        1160.144 1201.092 1219.943 1397.225 1400.035 1373.136 1429.17 1485.025 1447.836 1652.703
        1471.002 1365.307""",
    "sentinel1_grd_v1_1": "-12.577 -20.265; 5.179 5.872",
    "sentinel2_rgb": "100.708 87.489 61.932; 68.55 47.647 40.592",
}


def test_statistics_are_the_published_ones_and_no_others():
    for sensor_id, text in STATISTICS.items():
        sensor, (mean, std) = (
            get_sensor(sensor_id),
            (tuple(map(float, row.split())) for row in text.split(";")),
        )
        assert (sensor.mean, sensor.std) == (mean, std)
        assert "SSL4EO-S12" in sensor.statistics_source
    assert {sensor.id for sensor in SENSORS.values() if sensor.mean or sensor.std} == {
        "enmap",
        "sentinel2_l2a_bigearthnet",
        "sentinel2_l1c_offset_uint16",
        "sentinel2_l2a_offset_uint16",
        "sentinel2_l1c_uint16",
        "sentinel2_l2a_uint16",
        *STATISTICS,
    }


def test_bigearthnet_is_normalised_as_ssl4eo_s12():
    ours, theirs = get_sensor("sentinel2_l2a_bigearthnet"), get_sensor("sentinel2_l2a")
    assert (ours.mean, ours.std, ours.statistics_source) == (
        theirs.mean,
        theirs.std,
        theirs.statistics_source,
    )


def test_v1_1_is_v1_0_and_1000():
    """The offset is real: reflectances of the two releases agree, digital numbers do not."""
    for sensor_id in ("sentinel2_l1c", "sentinel2_l2a"):
        old, new = get_sensor(sensor_id), get_sensor(f"{sensor_id}_offset")
        reflectances = [
            np.array(sensor.mean) * sensor.scale + sensor.offset for sensor in (old, new)
        ]
        assert np.abs(reflectances[0] - reflectances[1]).max() < 0.01
        assert np.abs(np.array(old.mean) - new.mean).min() > 900


def test_every_row_is_pinned_here():
    pinned = {"enmap", "enmap_l2a_224", *LANDSAT, *S2, *WITHOUT_WAVELENGTH, *NUMBERED, *BERLIN}
    assert set(SENSORS) == pinned  # the two of EnMAP are in test_sensors.py


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=lambda sensor: sensor.id)
def test_row_survives_json(sensor: Sensor):
    assert Sensor.from_row(json.loads(json.dumps(sensor.row(), allow_nan=False))) == sensor


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=lambda sensor: sensor.id)
def test_every_row_names_its_source_and_counts_its_bands(sensor: Sensor):
    assert sensor.source and sensor.title and bool(sensor.statistics_source) == bool(sensor.mean)
    if not sensor.id.startswith("enmap"):
        assert sensor.band_numbers == tuple(range(1, len(sensor.bands) + 1))


def test_wavelengths_of_hymap_are_those_of_the_file(sample_data: Path):
    header = (
        sample_data / "hyperspectral/berlin_urban_gradient/HyMap02_Berlin_Urban_Gradient_2009.hdr"
    ).read_text()
    found = re.findall(r"(band \d+) \(([\d.]+) Micrometers\)", header)
    sensor = get_sensor("hymap_berlin")
    assert [name for name, _ in found] == [band.name for band in sensor.bands]
    assert np.array([1000 * float(um) for _, um in found]) == pytest.approx(
        sensor.centres_nm, abs=0.001
    )


def test_wavelengths_of_simulated_enmap_are_those_of_the_file(sample_data: Path):
    header = (
        sample_data / "hyperspectral/berlin_urban_gradient/EnMAP_BerlinUrbanGradient.hdr"
    ).read_text()
    lists = {
        key.strip(): values.split(",")
        for key, values in re.findall(r"^([a-z ]+)= \{([^}]*)\}", header, re.MULTILINE)
    }
    sensor = get_sensor("enmap_simulated_berlin")
    assert [name.strip() for name in lists["band names"]] == [band.name for band in sensor.bands]
    check_wavelengths(
        sensor, 1000 * np.array(lists["wavelength"], float), "EnMAP_BerlinUrbanGradient.hdr"
    )
    assert 1000 * np.array(lists["fwhm"], float) == pytest.approx(
        [band.fwhm_nm for band in sensor.bands], abs=0.001
    )


def test_channels_and_dtypes_of_aviris_are_those_of_the_files(sample_data: Path):
    jasper = scipy.io.loadmat(sample_data / "hyperspectral/jasper_ridge/jasperRidge2_R198.mat")
    salinas = scipy.io.loadmat(sample_data / "hyperspectral/salinas_a/SalinasA_corrected.mat")[
        "salinasA_corrected"
    ]
    assert [f"band {channel}" for channel in jasper["SlectBands"].ravel()] == [
        band.name for band in get_sensor("aviris_jasper_ridge").bands
    ]
    assert jasper["Y"].dtype == get_sensor("aviris_jasper_ridge").dtype
    assert (salinas.shape[2], salinas.dtype) == (
        len(get_sensor("aviris_salinas").bands),
        get_sensor("aviris_salinas").dtype,
    )
