"""Spectra of surfaces, atmospheric residues and instrument noise as functions of wavelength in nm.

Absorbing mixtures (leaves, straw, moist soil) follow Kubelka and Munk: an optically thick layer
with absorption-to-scattering ratio q reflects 1 + q - sqrt(q^2 + 2 q). Water bodies follow Gordon's
quadratic in u = backscatter / (absorption + backscatter). Absorption of liquid water approximates
the size and shape of Pope and Fry 1997 (below 700 nm) and Hale and Querry 1973 (above). Amplitudes
are set by hand, after the shape of library spectra and the magnitude of an EnMAP scene of Potsdam;
they are plausible, not fitted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# fmt: off
# Liquid water: wavelength in nm, absorption coefficient in 1/cm.
_WATER_NM = (400, 450, 500, 550, 600, 650, 700, 750, 800, 850, 900, 940, 970, 1000, 1070, 1100,
    1150, 1200, 1240, 1270, 1320, 1400, 1450, 1530, 1600, 1660, 1730, 1800, 1880, 1935, 1980, 2030,
    2100, 2200, 2260, 2320, 2400, 2500)
_WATER_PER_CM = (7e-5, 9e-5, 2e-4, 5.7e-4, 2.2e-3, 3.4e-3, 6.2e-3, .026, .020, .043, .068, .27, .45,
    .36, .16, .19, .85, 1.24, 1.1, .98, 1.6, 12.4, 29., 12.5, 6.7, 5.4, 6.0, 8.0, 22., 120., 80.,
    45., 26., 17., 18., 25., 44., 90.)
# Absorption bands of the atmosphere within the kept bands: centre and width (standard deviation) in
# nm, optical depth of a typical column.
_VAPOUR = ((823, 8, .10), (905, 9, .20), (937, 14, .60), (1128, 14, .75), (1160, 14, .25),
    (1978, 10, .6), (2430, 25, .25))
_OTHER_GASES = ((687, 3, .15), (762, 3, .5), (1270, 6, .08), (2005, 7, .7), (2013, 5, .4),
    (2060, 7, .35), (2317, 6, .1), (2350, 8, .1))
# Instrument noise over a dark target: wavelength in nm, standard deviation in reflectance.
_NOISE_NM = (418, 430, 450, 500, 560, 640, 760, 840, 895, 900, 995, 1000, 1250, 1730, 1970, 2020,
    2100, 2200, 2300, 2360, 2400, 2446)
_NOISE = (.0024, .0017, .0012, .0009, .0008, .0007, .0007, .0010, .0016, .0010, .0012, .0005, .0004,
    .0005, .0012, .0016, .0010, .0009, .0011, .0016, .0020, .0030)
# fmt: on


def _peak(nm: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((nm - centre) / width) ** 2)


def _thick_layer(q: np.ndarray) -> np.ndarray:
    return 1 + q - np.sqrt(q * q + 2 * q)


def _layer_ratio(reflectance: np.ndarray) -> np.ndarray:
    return (1 - reflectance) ** 2 / (2 * reflectance)


def water_absorption(nm: ArrayLike) -> np.ndarray:
    """Absorption of liquid water in 1/cm at wavelengths `nm`."""
    return np.exp(np.interp(nm, _WATER_NM, np.log(_WATER_PER_CM)))


def _chlorophyll(nm: np.ndarray) -> np.ndarray:
    red = _peak(nm, 674, np.where(nm < 674, 16, 22))  # the long tail is the red edge
    return (
        red
        + 1.0 * _peak(nm, 430, 28)
        + 0.75 * _peak(nm, 470, 26)
        + 0.45 * _peak(nm, 630, 26)
        + 0.45 * _peak(nm, 575, 50)
    )


def _dry_matter(nm: np.ndarray) -> np.ndarray:
    lignin = 0.9 * np.exp(-(nm - 400) / 170)
    cellulose = (
        0.14 * _peak(nm, 2100, 60)
        + 0.18 * _peak(nm, 2310, 60)
        + 0.12 * _peak(nm, 2445, 60)
        + 0.04 * _peak(nm, 1730, 28)
    )
    return lignin + cellulose + 0.03 * _peak(nm, 1200, 50)


def leaves(nm: np.ndarray, chlorophyll: float, water: float, dry: float) -> np.ndarray:
    """Reflectance [c] of a closed leaf layer; `chlorophyll`, `water` and `dry` are amounts relative
    to a typical leaf (1).
    """
    carotenoid = 0.6 * _peak(nm, 480, 35)
    q = (
        0.20
        + 9 * chlorophyll * (_chlorophyll(nm) + carotenoid)
        + 0.14 * water * water_absorption(nm)
        + dry * _dry_matter(nm)
    )
    return 0.012 + 0.97 * _thick_layer(q)  # 0.012: reflection at the leaf surface


def dead_plants(nm: np.ndarray, age: float) -> np.ndarray:
    """Reflectance [c] of straw (`age` 0) to weathered litter and twigs (`age` 1)."""
    q = 0.16 + 0.25 * age + (2.6 + 3 * age) * _dry_matter(nm) + 0.004 * water_absorption(nm)
    return _thick_layer(q)


def soil(
    nm: np.ndarray, brightness: float, iron: float, clay: float, moisture: float
) -> np.ndarray:
    """Reflectance [c] of bare soil; `brightness` is the dry plateau, `iron` and `clay` are
    absorption depths, `moisture` is 0 to 1.
    """
    rise = 1 - np.exp(-(((nm - 330) / 420) ** 1.1))
    oxides = 1 - iron * (_peak(nm, 480, 70) + 0.5 * _peak(nm, 890, 75))
    hydroxyl = (
        1 - clay * (_peak(nm, 2206, 18) + 0.4 * _peak(nm, 2350, 30)) - 0.15 * _peak(nm, 1930, 60)
    )
    dry = np.clip(brightness * rise * oxides * hydroxyl, 0.01, 0.9)
    return _thick_layer(
        _layer_ratio(dry) * (1 + 1.3 * moisture) + 0.02 * moisture * water_absorption(nm)
    )


def water_body(nm: np.ndarray, particles: float, chlorophyll: float, humus: float) -> np.ndarray:
    """Reflectance [c] of deep water; `particles` in g/m3, `chlorophyll` in mg/m3, `humus` as
    absorption at 440 nm in 1/m.
    """
    absorption = (
        100 * water_absorption(nm)
        + humus * np.exp(-0.015 * (nm - 440))
        + 0.02 * chlorophyll**0.8 * _chlorophyll(nm)
    )
    backscatter = 0.0010 * (500 / nm) ** 4.3 + (0.012 * particles + 0.001 * chlorophyll) * (
        550 / nm
    )
    u = backscatter / (absorption + backscatter)
    return np.pi * 0.54 * (0.0895 * u + 0.1247 * u * u) + 0.002


def asphalt(nm: np.ndarray, wear: float) -> np.ndarray:
    """Reflectance [c] of asphalt, fresh (`wear` 0) to bleached (1); hydrocarbon absorptions at 1730
    and 2310 nm fade with wear.
    """
    base = np.interp(nm, (400, 700, 1300, 2200, 2500), (0.045, 0.07, 0.10, 0.115, 0.105)) * (
        1 + 0.9 * wear
    )
    return base * (1 - (0.10 - 0.08 * wear) * (_peak(nm, 1730, 20) + _peak(nm, 2310, 25)))


def concrete(nm: np.ndarray, brightness: float) -> np.ndarray:
    """Reflectance [c] of concrete and light stone, with carbonate at 2340 nm."""
    shape = np.interp(
        nm,
        (400, 550, 750, 1300, 1750, 2000, 2200, 2500),
        (0.5, 0.75, 0.92, 1.0, 1.02, 0.86, 0.92, 0.78),
    )
    return brightness * shape * (1 - 0.08 * _peak(nm, 2340, 25) - 0.04 * _peak(nm, 880, 80))


def tile(nm: np.ndarray, brightness: float) -> np.ndarray:
    """Reflectance [c] of fired red clay: iron-oxide edge at 580 nm and dip near 870 nm."""
    at_nm = (400, 520, 570, 620, 700, 760, 1000, 1300, 1750, 2200, 2500)
    shape = np.interp(nm, at_nm, (0.18, 0.24, 0.38, 0.64, 0.74, 0.79, 0.88, 1.0, 1.04, 1.0, 0.9))
    return brightness * shape * (1 - 0.10 * _peak(nm, 870, 60))


def metal(nm: np.ndarray, brightness: float) -> np.ndarray:
    """Reflectance [c] of coated metal roofs: flat, with a coating that darkens below 430 nm and
    beyond 2200 nm.
    """
    return brightness * np.interp(
        nm, (400, 440, 900, 1300, 1700, 2200, 2500), (0.7, 0.95, 0.97, 1.0, 0.98, 0.88, 0.75)
    )


def library(nm: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Endmembers of one location, {name: reflectance [c]} at wavelengths `nm` [c]; `rng` draws
    species, soils and materials.

    Pixels of a location are between the two of a pair, such as tree_lush and tree_sparse.
    """
    u = rng.uniform
    iron, clay, lake_humus = u(0.1, 0.4), u(0.03, 0.15), u(0.1, 1.2)
    return {
        "tree_lush": leaves(nm, u(0.9, 1.3), u(0.9, 1.3), u(1.0, 1.6)),
        "tree_sparse": leaves(nm, u(0.5, 0.7), u(0.6, 0.9), u(1.2, 1.8)),
        "crop_lush": leaves(nm, u(0.9, 1.4), u(0.9, 1.4), u(0.6, 1.2)),
        "crop_sparse": leaves(nm, u(0.5, 0.7), u(0.5, 0.8), u(1.0, 1.6)),
        "grass_lush": leaves(nm, u(0.7, 1.1), u(0.7, 1.1), u(0.8, 1.4)),
        "grass_sparse": leaves(nm, u(0.4, 0.6), u(0.4, 0.7), u(1.4, 2.0)),
        "straw": dead_plants(nm, u(0.0, 0.3)),
        "litter": dead_plants(nm, u(0.6, 1.0)),
        "sand": soil(nm, u(0.32, 0.46), iron, clay, 0.05),
        "loam": soil(nm, u(0.22, 0.34), iron, clay * 1.5, 0.15),
        "moist_soil": soil(nm, u(0.22, 0.34), iron, clay, 0.9),
        "clear_water": water_body(nm, u(0.2, 1.0), u(0.5, 2), 0.3 * lake_humus),
        "turbid_water": water_body(nm, u(3, 10), u(2, 8), lake_humus),
        "green_water": water_body(nm, u(1, 4), u(20, 60), lake_humus),
        "asphalt": asphalt(nm, u(0.0, 0.3)),
        "worn_asphalt": asphalt(nm, u(0.6, 1.0)),
        "bitumen": asphalt(nm, u(0.0, 0.2)) * 0.8,
        "concrete": concrete(nm, u(0.18, 0.32)),
        "tile": tile(nm, u(0.22, 0.36)),
        "metal": metal(nm, u(0.25, 0.45)),
    }


def _optical_depth(nm: np.ndarray, gases: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    return sum(depth * _peak(nm, centre, width) for centre, width, depth in gases)


def air_residue(nm: np.ndarray, vapour_error: float, shift_error_nm: float) -> np.ndarray:
    """Factor [c] in corrected reflectance due to errors of the water column (relative) and the
    wavelength (nm).
    """
    all_gases = _VAPOUR + _OTHER_GASES
    change = _optical_depth(nm + shift_error_nm, all_gases) - _optical_depth(nm, all_gases)
    return np.exp(-vapour_error * _optical_depth(nm, _VAPOUR) - change)


def transmittance(nm: np.ndarray) -> np.ndarray:
    """Share of the light [c] that a typical column of air lets through, at the top of the
    atmosphere. The strong water bands around 1375 nm, which EnMAP's cube leaves out, let none.
    """
    air = np.exp(-_optical_depth(nm, _VAPOUR + _OTHER_GASES))
    return np.where(np.abs(nm - 1375) < 30, 0.0, air)


def haze(nm: np.ndarray, strength: float, exponent: float) -> np.ndarray:
    """Offset in reflectance [c] due to an error of the aerosol load: `strength` at 450 nm, falling
    as wavelength to the power -`exponent`.
    """
    return strength * (nm / 450) ** -exponent


def noise_floor(nm: np.ndarray) -> np.ndarray:
    """Standard deviation [c] of instrument noise over a dark target, in reflectance."""
    return np.interp(nm, _NOISE_NM, _NOISE)
