"""The sensor table: what each band of each product is, in numbers that someone published.

Sources of the EnMAP rows: centre wavelengths from the EnMAP spectral band list (EnMAP_Spectral_Bands_update.xlsx, as torchgeo carries it);
FWHM from the band tags of EnMAP L2A products, rounded to 0.01 nm; the 202 kept bands, their mean and standard deviation from SpectralEarth
(arXiv 2408.08447). SpectralEarth's own band file mislabels 15 bands (it skips 146-152 and keeps 161-167, where the data have it the other
way round), so it is not used.
"""

from __future__ import annotations

import dataclasses
import difflib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Band:
    """One spectral band: its name, its 1-based number in the product, centre wavelength and FWHM in nm."""

    name: str
    number: int
    centre_nm: float
    fwhm_nm: float


@dataclasses.dataclass(frozen=True)
class Sensor:
    """One product of one sensor, bands in storage order.

    Physical value = digital number x `scale`; `units` names it. `mean` and `std` are in digital numbers, one a band, or empty where nobody
    published them; `statistics_source` says who did. `true_colour` and `false_colour` are band indices for red, green and blue.
    """

    id: str
    title: str
    bands: tuple[Band, ...]
    gsd_m: float
    dtype: str
    scale: float
    units: str
    nodata: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics_source: str
    true_colour: tuple[int, int, int]
    false_colour: tuple[int, int, int]

    @property
    def centres_nm(self) -> np.ndarray:
        """Centre wavelengths, float64 [c], nm."""
        return np.array([band.centre_nm for band in self.bands])

    @property
    def band_numbers(self) -> tuple[int, ...]:
        """Product band number (1-based) of each stored band."""
        return tuple(band.number for band in self.bands)

    def row(self) -> dict:
        """The sensor as plain JSON types, for manifests and export contracts."""
        return {
            "id": self.id,
            "title": self.title,
            "bands": [band.name for band in self.bands],
            "centre_nm": [band.centre_nm for band in self.bands],
            "fwhm_nm": [band.fwhm_nm for band in self.bands],
            "gsd_m": self.gsd_m,
            "dtype": self.dtype,
            "scale": self.scale,
            "units": self.units,
            "nodata": self.nodata,
        }


# How far a file's centre wavelength may lie from the table. Scenes differ by up to 0.5 nm; neighbouring bands of one camera are 4.6 nm apart or more.
WAVELENGTH_TOLERANCE_NM = 1.0


def check_wavelengths(sensor: Sensor, found_nm: np.ndarray, source: str) -> None:
    """Raises ValueError, naming file and bands, where a file's wavelengths [c] do not belong to the bands of `sensor`."""
    if len(found_nm) != len(sensor.bands):
        raise ValueError(f"{source}: {len(found_nm)} wavelengths found, {len(sensor.bands)} expected for {sensor.title}")
    distance = np.abs(np.asarray(found_nm, float) - sensor.centres_nm)
    off = np.flatnonzero(~(distance <= WAVELENGTH_TOLERANCE_NM))  # so written, NaN is off too
    if len(off):
        first = sensor.bands[off[0]]
        raise ValueError(
            f"{source}: {len(off)} of {len(sensor.bands)} wavelengths are not those of {sensor.title}; first: band {first.number} has "
            f"{found_nm[off[0]]:g} nm, expected {first.centre_nm:g} +- {WAVELENGTH_TOLERANCE_NM:g} nm. Bands may be in another order or "
            f"in another unit: write them in product order, with centre wavelengths in nm."
        )


# fmt: off
# Centre wavelength of product bands 1..224 in nm: 1-91 from the VNIR camera, 92-224 from the SWIR camera.
_ENMAP_CENTRE_NM = (
    418.42, 424.04, 429.46, 434.69, 439.76, 444.70, 449.54, 454.31, 459.03, 463.73, 468.41, 473.08,
    477.74, 482.41, 487.09, 491.78, 496.50, 501.24, 506.02, 510.83, 515.67, 520.55, 525.47, 530.42,
    535.42, 540.46, 545.55, 550.69, 555.87, 561.11, 566.41, 571.76, 577.17, 582.64, 588.17, 593.77,
    599.45, 605.19, 611.02, 616.92, 622.92, 628.99, 635.11, 641.29, 647.54, 653.84, 660.21, 666.64,
    673.13, 679.69, 686.32, 693.01, 699.78, 706.62, 713.52, 720.50, 727.54, 734.65, 741.83, 749.06,
    756.35, 763.70, 771.11, 778.57, 786.08, 793.64, 801.25, 808.90, 816.61, 824.35, 832.14, 839.98,
    847.85, 855.76, 863.70, 871.68, 879.69, 887.73, 895.79, 903.87, 911.97, 920.08, 928.20, 936.34,
    944.47, 952.61, 960.75, 968.89, 977.04, 985.19, 993.34, 901.96, 911.57, 921.32, 931.20, 941.22,
    951.36, 961.63, 972.02, 982.52, 993.14, 1003.88, 1014.72, 1025.66, 1036.70, 1047.84, 1059.07, 1070.39,
    1081.78, 1093.26, 1104.81, 1116.43, 1128.10, 1139.84, 1151.62, 1163.44, 1175.30, 1187.20, 1199.11, 1211.05,
    1223.00, 1234.97, 1246.94, 1258.93, 1270.92, 1282.92, 1294.91, 1306.90, 1318.88, 1330.85, 1342.82, 1354.76,
    1366.69, 1378.60, 1390.48, 1461.10, 1472.74, 1484.34, 1495.89, 1507.40, 1518.87, 1530.29, 1541.67, 1553.01,
    1564.30, 1575.55, 1586.76, 1597.91, 1609.02, 1620.09, 1631.11, 1642.07, 1653.00, 1663.87, 1674.70, 1685.47,
    1696.20, 1706.87, 1717.50, 1728.08, 1738.60, 1749.08, 1759.51, 1939.14, 1948.69, 1958.20, 1967.66, 1977.08,
    1986.45, 1995.79, 2005.08, 2014.33, 2023.54, 2032.70, 2041.83, 2050.92, 2059.96, 2068.97, 2077.93, 2086.86,
    2095.74, 2104.59, 2113.40, 2122.17, 2130.90, 2139.60, 2148.26, 2156.88, 2165.47, 2174.02, 2182.53, 2191.01,
    2199.45, 2207.86, 2216.24, 2224.58, 2232.89, 2241.16, 2249.40, 2257.61, 2265.79, 2273.93, 2282.04, 2290.12,
    2298.17, 2306.19, 2314.17, 2322.13, 2330.05, 2337.94, 2345.81, 2353.64, 2361.44, 2369.21, 2376.95, 2384.66,
    2392.34, 2400.00, 2407.62, 2415.21, 2422.78, 2430.32, 2437.82, 2445.30,
)

# Full width at half maximum of product bands 1..224 in nm.
_ENMAP_FWHM_NM = (
    7.00, 6.67, 6.42, 6.25, 6.13, 6.06, 6.01, 5.98, 5.95, 5.92, 5.89, 5.86, 5.83, 5.81,
    5.80, 5.80, 5.81, 5.84, 5.87, 5.91, 5.96, 6.01, 6.07, 6.12, 6.18, 6.24, 6.29, 6.35,
    6.41, 6.47, 6.53, 6.58, 6.64, 6.70, 6.76, 6.82, 6.88, 6.95, 7.02, 7.10, 7.18, 7.25,
    7.33, 7.41, 7.48, 7.55, 7.62, 7.69, 7.76, 7.83, 7.90, 7.97, 8.05, 8.13, 8.21, 8.29,
    8.38, 8.47, 8.55, 8.64, 8.72, 8.80, 8.88, 8.96, 9.03, 9.10, 9.17, 9.24, 9.30, 9.37,
    9.44, 9.51, 9.58, 9.66, 9.74, 9.82, 9.91, 9.99, 10.08, 10.16, 10.25, 10.34, 10.42, 10.51,
    10.59, 10.66, 10.72, 10.75, 10.75, 10.72, 10.64, 9.18, 9.32, 9.45, 9.58, 9.71, 9.83, 9.94,
    10.06, 10.16, 10.27, 10.37, 10.48, 10.58, 10.68, 10.77, 10.86, 10.94, 11.02, 11.08, 11.14, 11.20,
    11.24, 11.28, 11.31, 11.34, 11.37, 11.38, 11.40, 11.41, 11.42, 11.43, 11.43, 11.43, 11.43, 11.43,
    11.42, 11.41, 11.39, 11.38, 11.36, 11.34, 11.32, 11.30, 11.27, 11.09, 11.05, 11.02, 10.98, 10.94,
    10.90, 10.86, 10.82, 10.77, 10.73, 10.69, 10.64, 10.60, 10.55, 10.51, 10.46, 10.42, 10.37, 10.33,
    10.28, 10.23, 10.19, 10.14, 10.10, 10.05, 10.01, 9.96, 9.92, 9.17, 9.13, 9.09, 9.05, 9.01,
    8.97, 8.93, 8.89, 8.85, 8.81, 8.78, 8.74, 8.70, 8.66, 8.63, 8.59, 8.55, 8.52, 8.48,
    8.44, 8.41, 8.37, 8.34, 8.30, 8.27, 8.23, 8.20, 8.16, 8.13, 8.10, 8.06, 8.03, 8.00,
    7.97, 7.94, 7.91, 7.88, 7.85, 7.82, 7.79, 7.76, 7.73, 7.70, 7.67, 7.64, 7.61, 7.59,
    7.56, 7.53, 7.50, 7.47, 7.44, 7.41, 7.38, 7.35, 7.32, 7.29, 7.26, 7.22, 7.19, 7.16,
)

# SpectralEarth's cube: band i of the cube is product band _ENMAP_KEPT[i]. A fixed list, in which the VNIR and SWIR bands between 900
# and 994 nm are interleaved. It is *not* computed from wavelengths, because two bands 0.2 nm apart swap in a scene-dependent sort.
_ENMAP_KEPT = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
    23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44,
    45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66,
    67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 92, 80, 93, 81, 82, 94, 83, 95, 84,
    96, 85, 97, 86, 87, 98, 88, 99, 89, 100, 90, 101, 91, 102, 103, 104, 105, 106, 107, 108, 109, 110,
    111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 142, 143, 144, 145, 146, 147,
    148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 168, 169, 170, 171, 172, 173, 174, 175, 176,
    177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198,
    199, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219, 220,
    221, 222, 223, 224,
)

# Published mean and standard deviation of the SpectralEarth cube in digital numbers (reflectance x 10000), cube order.
_ENMAP_MEAN = (
    827.3, 813.0, 833.3, 867.9, 886.9, 894.3, 914.6, 932.7, 940.5, 961.3, 971.6, 977.1, 987.5, 1007.0,
    1022.3, 1025.6, 1036.4, 1057.0, 1064.5, 1087.7, 1122.9, 1141.2, 1162.7, 1193.0, 1223.0, 1255.0, 1274.8, 1297.0,
    1321.8, 1343.4, 1364.0, 1376.8, 1380.9, 1406.4, 1419.1, 1433.7, 1454.3, 1471.5, 1482.7, 1489.5, 1509.6, 1514.9,
    1521.2, 1539.9, 1548.1, 1546.1, 1553.8, 1562.7, 1569.3, 1581.0, 1618.0, 1662.0, 1755.2, 1848.1, 1958.0, 2056.9,
    2185.4, 2285.2, 2371.4, 2414.7, 2498.9, 2364.7, 2514.4, 2549.3, 2563.0, 2581.4, 2594.3, 2628.2, 2626.6, 2657.4,
    2650.9, 2672.0, 2683.2, 2693.6, 2716.4, 2720.5, 2739.3, 2721.1, 2743.7, 2825.3, 2725.6, 2768.9, 2713.0, 2610.5,
    2868.0, 2804.9, 2695.0, 2820.2, 2922.5, 2814.8, 2832.2, 2662.3, 2584.1, 2817.9, 2642.3, 2858.3, 2646.7, 2875.9,
    2656.7, 2832.3, 2723.9, 2907.9, 2932.9, 2962.6, 2994.8, 3022.2, 3059.3, 3098.9, 3113.4, 3129.8, 3129.9, 3016.9,
    3217.2, 3121.2, 2918.5, 2942.5, 2944.9, 2960.9, 2956.7, 2960.4, 2993.0, 3032.6, 3060.7, 3089.7, 3149.9, 3140.6,
    2288.6, 2325.2, 2363.8, 2400.1, 2437.9, 2475.0, 2508.2, 2548.3, 2583.7, 2605.5, 2623.2, 2643.8, 2650.5, 2649.4,
    2645.0, 2631.6, 2617.5, 2601.6, 2581.6, 1772.4, 1867.5, 1744.3, 1626.4, 1668.9, 1879.0, 1928.7, 1951.6, 1852.5,
    1877.0, 1879.7, 1942.8, 1917.1, 1920.2, 1932.8, 1947.8, 1942.6, 1963.6, 1958.5, 1958.4, 1952.7, 1955.5, 1952.2,
    1955.8, 1950.1, 1934.0, 1932.5, 1962.9, 1970.7, 1967.8, 1921.9, 1894.2, 1851.9, 1826.9, 1791.5, 1784.2, 1732.0,
    1710.4, 1679.8, 1650.0, 1645.4, 1640.9, 1591.4, 1588.5, 1592.2, 1626.9, 1598.0, 1619.7, 1584.3, 1607.3, 1569.5,
    1577.8, 1489.1, 1544.8, 1483.0, 1519.1, 1339.6,
)
_ENMAP_STD = (
    1718.1, 1701.8, 1699.6, 1712.1, 1709.4, 1698.1, 1698.7, 1694.2, 1685.8, 1688.0, 1684.1, 1678.0, 1677.4, 1681.5,
    1686.1, 1680.1, 1677.2, 1680.1, 1672.8, 1673.4, 1679.9, 1671.5, 1661.7, 1657.6, 1656.5, 1661.2, 1657.4, 1654.1,
    1655.7, 1658.6, 1665.1, 1668.4, 1664.9, 1675.9, 1679.2, 1682.6, 1686.4, 1689.0, 1690.6, 1691.4, 1700.5, 1697.6,
    1688.6, 1696.9, 1703.9, 1701.6, 1704.3, 1708.1, 1708.6, 1706.2, 1718.5, 1676.5, 1646.7, 1608.5, 1579.8, 1547.3,
    1533.3, 1524.6, 1527.1, 1522.1, 1548.5, 1506.2, 1533.4, 1524.9, 1518.0, 1508.1, 1504.2, 1508.7, 1506.3, 1513.3,
    1506.9, 1513.6, 1510.6, 1512.2, 1508.7, 1489.4, 1486.7, 1462.4, 1453.6, 1419.0, 1431.4, 1404.6, 1410.2, 1368.5,
    1421.6, 1433.7, 1330.0, 1504.4, 1381.4, 1486.1, 1349.1, 1420.5, 1378.0, 1350.3, 1364.0, 1362.2, 1358.2, 1355.0,
    1349.0, 1346.1, 1340.4, 1335.5, 1334.8, 1337.0, 1346.1, 1356.9, 1376.1, 1392.2, 1396.4, 1394.9, 1379.5, 1309.5,
    1365.3, 1336.3, 1275.0, 1297.3, 1294.1, 1294.4, 1288.8, 1283.7, 1291.0, 1301.3, 1309.3, 1314.4, 1326.3, 1329.9,
    1412.6, 1411.4, 1411.6, 1409.7, 1409.2, 1408.7, 1408.0, 1412.8, 1415.9, 1415.5, 1414.3, 1417.0, 1414.9, 1411.4,
    1407.5, 1402.9, 1400.1, 1397.8, 1392.1, 1374.6, 1419.7, 1329.0, 1196.7, 1255.0, 1370.4, 1420.7, 1426.1, 1365.7,
    1369.1, 1375.5, 1404.7, 1388.6, 1377.3, 1384.4, 1377.5, 1374.0, 1367.6, 1357.6, 1335.4, 1321.0, 1299.7, 1289.9,
    1272.8, 1259.3, 1225.3, 1213.9, 1229.1, 1246.3, 1243.6, 1231.5, 1219.9, 1215.5, 1205.9, 1203.9, 1196.7, 1175.7,
    1159.9, 1162.8, 1138.2, 1139.7, 1133.3, 1113.3, 1100.8, 1120.7, 1141.8, 1134.2, 1134.5, 1129.6, 1138.1, 1141.2,
    1124.0, 1096.4, 1125.8, 1131.3, 1149.6, 1096.9,
)
# fmt: on


def _enmap_bands(numbers: tuple[int, ...]) -> tuple[Band, ...]:
    return tuple(Band(f"B{n}", n, _ENMAP_CENTRE_NM[n - 1], _ENMAP_FWHM_NM[n - 1]) for n in numbers)


ENMAP_PRODUCT = Sensor(
    id="enmap_l2a_224",
    title="EnMAP L2A, all 224 product bands",
    bands=_enmap_bands(tuple(range(1, 225))),
    gsd_m=30.0,
    dtype="int16",
    scale=1e-4,
    units="surface reflectance",
    nodata=-32768,
    mean=(),
    std=(),
    statistics_source="",
    true_colour=(47, 29, 15),  # B48, B30, B16
    false_colour=(71, 47, 29),  # B72 (840 nm), B48, B30
)

ENMAP = dataclasses.replace(
    ENMAP_PRODUCT,
    id="enmap",
    title="EnMAP L2A, the 202 bands of SpectralEarth",
    bands=_enmap_bands(_ENMAP_KEPT),
    mean=_ENMAP_MEAN,
    std=_ENMAP_STD,
    statistics_source="SpectralEarth, arXiv 2408.08447, mu.npy and sigma.npy",
    true_colour=(43, 28, 10),  # the bands of SpectralEarth's own quicklooks
    false_colour=(71, 43, 28),
)

SENSORS = {sensor.id: sensor for sensor in (ENMAP, ENMAP_PRODUCT)}


def get_sensor(sensor_id: str) -> Sensor:
    """The sensor of that id; ValueError with the nearest name where there is none."""
    if sensor_id not in SENSORS:
        near = difflib.get_close_matches(sensor_id, SENSORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no sensor {sensor_id!r} in the table; there are {', '.join(SENSORS)}.{hint}")
    return SENSORS[sensor_id]
