"""Airborne scenes: the classification benchmarks of ROSIS, CASI and AVIRIS, and HyMap over Berlin.

With the HyMap flight comes EnMAP simulated from it. The benchmarks are .mat files of digital
numbers. Neither they nor their usual sources have wavelengths, so their bands here have only
positions; a file that brings its own may be read with them. Wavelengths over Berlin are those of
the files' ENVI headers.
"""

from __future__ import annotations

import dataclasses

from eo_jax.sensors.base import Band, Sensor, numbered_bands

_KNOWLEDGE = "is general knowledge"


def _benchmark(
    sensor_id: str, title: str, count: int, gsd_m: float | None, dtype: str, source: str
) -> Sensor:
    """A scene of whose bands only the number and ground sampling distance are known."""
    return Sensor(
        id=sensor_id,
        title=f"{title}, {count} bands",
        bands=numbered_bands(count, gsd_m),
        gsd_m=gsd_m,
        dtype=dtype,
        scale=1.0,
        units="digital number",
        nodata=None,
        source=source,
    )


ROSIS_PAVIA_UNIVERSITY = _benchmark(
    "rosis_pavia_university",
    "ROSIS, Pavia University",
    103,
    1.3,
    "uint16",
    f"reg_pavia_dataset.mat (103 bands); 1.3 m, uint16 {_KNOWLEDGE}",
)
ROSIS_PAVIA_CENTRE = _benchmark(
    "rosis_pavia_centre",
    "ROSIS, Pavia Centre",
    102,
    1.3,
    "uint16",
    f"a crop of the scene (102 bands); 1.3 m, uint16 {_KNOWLEDGE}",
)
CASI_HOUSTON2013 = _benchmark(
    "casi_houston2013", "CASI, Houston 2013", 144, 2.5, "uint16", f"all of it {_KNOWLEDGE}"
)
AVIRIS_SALINAS = _benchmark(
    "aviris_salinas",
    "AVIRIS, Salinas and Salinas-A",
    204,
    3.7,
    "int16",
    f"SalinasA_corrected.mat; 3.7 m {_KNOWLEDGE}",
)
AVIRIS_INDIAN_PINES = _benchmark(
    "aviris_indian_pines",
    "AVIRIS, Indian Pines",
    200,
    20.0,
    "uint16",
    f"Train_X.mat (200 bands); 20 m, uint16 {_KNOWLEDGE}",
)

# SlectBands of jasperRidge2_R198.mat: the channels of AVIRIS (of 224) that the file has.
_JASPER_RIDGE_KEPT = (*range(4, 108), *range(113, 154), *range(167, 220))
AVIRIS_JASPER_RIDGE = dataclasses.replace(
    _benchmark(
        "aviris_jasper_ridge",
        "AVIRIS, Jasper Ridge",
        198,
        None,
        "uint16",
        "jasperRidge2_R198.mat; names are AVIRIS channels (SlectBands)",
    ),
    bands=tuple(
        Band(f"band {channel}", position, None, None)
        for position, channel in enumerate(_JASPER_RIDGE_KEPT, 1)
    ),
)

# fmt: off
# The channels of HyMap and of the simulated EnMAP that the files have, with their centres and
# widths.
_HYMAP_BERLIN_KEPT = (*range(1, 63), *range(71, 95), *range(99, 124))
_HYMAP_BERLIN_CENTRE_NM = (
    455.4, 469.4, 484.3, 499.1, 513.8, 528.8, 543.6, 558.4, 573.1, 588.1, 602.9, 617.6, 632.0,
    646.5, 660.9, 675.5, 690.0, 704.5, 718.9, 733.2, 747.6, 761.8, 775.9, 790.1, 804.6, 818.8,
    832.9, 847.1, 861.1, 874.7, 887.8, 893.0, 908.5, 923.9, 939.4, 955.2, 970.4, 985.8, 1001.4,
    1016.6, 1031.8, 1046.9, 1062.0, 1076.6, 1091.3, 1106.2, 1120.8, 1135.3, 1149.7, 1164.1, 1178.6,
    1192.8, 1206.9, 1221.0, 1235.1, 1249.2, 1263.1, 1277.0, 1290.7, 1304.3, 1318.3, 1330.1, 1505.0,
    1518.8, 1532.6, 1546.3, 1559.8, 1573.2, 1586.4, 1599.5, 1612.7, 1625.9, 1638.9, 1651.7, 1664.4,
    1677.1, 1689.6, 1702.1, 1714.6, 1726.9, 1739.3, 1751.5, 1763.6, 1775.6, 1787.6, 1798.1, 2027.5,
    2046.7, 2065.5, 2084.1, 2102.5, 2120.9, 2139.0, 2157.0, 2174.7, 2191.7, 2210.3, 2228.1, 2245.6,
    2263.4, 2280.4, 2297.4, 2314.4, 2331.4, 2348.3, 2365.0, 2381.5, 2397.7, 2414.1, 2430.3, 2446.5,
)
_ENMAP_BERLIN_KEPT = (*range(8, 78), *range(91, 128), *range(144, 169), *range(195, 240))
_ENMAP_BERLIN_CENTRE_NM = (
    460.0, 465.0, 470.0, 475.0, 479.0, 484.0, 489.0, 494.0, 499.0, 503.0, 508.0, 513.0, 518.0,
    523.0, 528.0, 533.0, 538.0, 543.0, 549.0, 554.0, 559.0, 565.0, 570.0, 575.0, 581.0, 587.0,
    592.0, 598.0, 604.0, 610.0, 616.0, 622.0, 628.0, 634.0, 640.0, 646.0, 653.0, 659.0, 665.0,
    672.0, 679.0, 685.0, 692.0, 699.0, 706.0, 713.0, 720.0, 727.0, 734.0, 741.0, 749.0, 756.0,
    763.0, 771.0, 778.0, 786.0, 793.0, 801.0, 809.0, 817.0, 824.0, 832.0, 840.0, 848.0, 856.0,
    864.0, 872.0, 880.0, 888.0, 896.0, 915.0, 924.0, 934.0, 944.0, 955.0, 965.0, 975.0, 986.0,
    997.0, 1007.0, 1018.0, 1029.0, 1040.0, 1051.0, 1063.0, 1074.0, 1086.0, 1097.0, 1109.0, 1120.0,
    1132.0, 1144.0, 1155.0, 1167.0, 1179.0, 1191.0, 1203.0, 1215.0, 1227.0, 1239.0, 1251.0, 1263.0,
    1275.0, 1287.0, 1299.0, 1311.0, 1323.0, 1522.0, 1534.0, 1545.0, 1557.0, 1568.0, 1579.0, 1590.0,
    1601.0, 1612.0, 1624.0, 1634.0, 1645.0, 1656.0, 1667.0, 1678.0, 1689.0, 1699.0, 1710.0, 1721.0,
    1731.0, 1742.0, 1752.0, 1763.0, 1773.0, 1783.0, 2044.0, 2053.0, 2062.0, 2071.0, 2080.0, 2089.0,
    2098.0, 2107.0, 2115.0, 2124.0, 2133.0, 2141.0, 2150.0, 2159.0, 2167.0, 2176.0, 2184.0, 2193.0,
    2201.0, 2210.0, 2218.0, 2226.0, 2234.0, 2243.0, 2251.0, 2259.0, 2267.0, 2275.0, 2283.0, 2292.0,
    2300.0, 2308.0, 2315.0, 2323.0, 2331.0, 2339.0, 2347.0, 2355.0, 2363.0, 2370.0, 2378.0, 2386.0,
    2393.0, 2401.0, 2409.0,
)
_ENMAP_BERLIN_FWHM_NM = (
    5.8, 5.8, 5.8, 5.8, 5.8, 5.8, 5.8, 5.8, 5.8, 5.8, 5.9, 5.9, 6.0, 6.0, 6.1, 6.1, 6.2, 6.2, 6.3,
    6.4, 6.4, 6.5, 6.6, 6.6, 6.7, 6.8, 6.9, 6.9, 7.0, 7.1, 7.2, 7.3, 7.3, 7.4, 7.5, 7.6, 7.7, 7.8,
    7.9, 7.9, 8.0, 8.1, 8.2, 8.3, 8.4, 8.4, 8.5, 8.6, 8.7, 8.7, 8.8, 8.9, 8.9, 9.0, 9.1, 9.1, 9.2,
    9.3, 9.3, 9.4, 9.4, 9.5, 9.5, 9.6, 9.6, 9.6, 9.6, 9.7, 9.7, 9.7, 11.8, 11.9, 12.1, 12.2, 12.4,
    12.5, 12.7, 12.8, 12.9, 13.1, 13.2, 13.3, 13.4, 13.5, 13.6, 13.7, 13.8, 13.9, 14.0, 14.0, 14.1,
    14.1, 14.2, 14.2, 14.3, 14.3, 14.3, 14.4, 14.4, 14.4, 14.4, 14.4, 14.4, 14.4, 14.4, 14.4, 14.4,
    13.7, 13.6, 13.6, 13.5, 13.5, 13.4, 13.4, 13.3, 13.2, 13.2, 13.1, 13.1, 13.0, 12.9, 12.9, 12.8,
    12.8, 12.7, 12.7, 12.6, 12.5, 12.5, 12.4, 12.4, 12.3, 10.9, 10.8, 10.8, 10.7, 10.7, 10.6, 10.6,
    10.5, 10.5, 10.4, 10.4, 10.4, 10.3, 10.3, 10.2, 10.2, 10.1, 10.1, 10.1, 10.0, 10.0, 9.9, 9.9,
    9.9, 9.8, 9.8, 9.7, 9.7, 9.7, 9.6, 9.6, 9.6, 9.5, 9.5, 9.4, 9.4, 9.4, 9.3, 9.3, 9.3, 9.2, 9.2,
    9.1, 9.1, 9.1,
)
# fmt: on

HYMAP_BERLIN = Sensor(
    id="hymap_berlin",
    title="HyMap over Berlin, 2009, 111 bands",
    bands=tuple(
        Band(f"band {channel}", position, centre, None, gsd_m=9.0)
        for position, (channel, centre) in enumerate(
            zip(_HYMAP_BERLIN_KEPT, _HYMAP_BERLIN_CENTRE_NM, strict=True), 1
        )
    ),
    gsd_m=9.0,
    dtype="float32",
    scale=1.0,
    units="reflectance",
    nodata=None,
    true_colour=(14, 7, 2),  # 661, 558 and 484 nm
    false_colour=(28, 14, 7),  # 861 nm
    source="HyMap02_Berlin_Urban_Gradient_2009.hdr",
)
ENMAP_SIMULATED_BERLIN = Sensor(
    id="enmap_simulated_berlin",
    title="EnMAP simulated from HyMap over Berlin, 177 bands",
    bands=tuple(
        Band(f"band {channel}", position, centre, fwhm, gsd_m=30.0)
        for position, (channel, centre, fwhm) in enumerate(
            zip(_ENMAP_BERLIN_KEPT, _ENMAP_BERLIN_CENTRE_NM, _ENMAP_BERLIN_FWHM_NM, strict=True), 1
        )
    ),
    gsd_m=30.0,
    dtype="int16",
    scale=1e-4,
    units="reflectance",
    nodata=-99,
    true_colour=(37, 20, 4),  # 659, 559 and 479 nm
    false_colour=(65, 37, 20),  # 864 nm
    source="EnMAP_BerlinUrbanGradient.hdr",
)

AIRBORNE = (
    ROSIS_PAVIA_UNIVERSITY,
    ROSIS_PAVIA_CENTRE,
    CASI_HOUSTON2013,
    AVIRIS_SALINAS,
    AVIRIS_INDIAN_PINES,
    AVIRIS_JASPER_RIDGE,
    HYMAP_BERLIN,
    ENMAP_SIMULATED_BERLIN,
)
