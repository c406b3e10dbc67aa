"""Which bands of a sensor are shown as red, green and blue."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eo_jax.sensors import Sensor

VISIBLE_NM = (650.0, 560.0, 480.0)
INFRARED_NM = (840.0, 650.0, 560.0)
_NEAR_NM = 40.0  # how far a band may be from the wavelength that it stands for
# Where water vapour absorbs nearly all light, so that bands hold noise.
WATER_NM = ((1340.0, 1460.0), (1790.0, 1970.0), (2450.0, 3000.0))
_GREY_KINDS = {"sar", "thermal", "elevation"}
_SPREAD = (5 / 6, 1 / 2, 1 / 6)  # the ends of a spectrum are its noisiest part


class Composite(NamedTuple):
    """How samples of a sensor are shown.

    Attributes:
        bands: shown as red, green and blue, or one in grey.
        ratio: whether blue is red minus green.
        name: "true colour", "false colour", "bands in colour" or "one band".
        caption: in words, with the names of the bands.
    """

    bands: tuple[int, ...]
    ratio: bool
    name: str
    caption: str


def composite(sensor: Sensor, good: np.ndarray | None = None) -> Composite:
    """True colour where the sensor has it, or bands near those wavelengths; VV and VH in dB with
    their ratio; grey for other radar, thermal and elevation bands; evenly spread bands otherwise.

    Args:
        good: bool [c], bands with usable values; None for all.
    """
    good = np.ones(len(sensor.bands), bool) if good is None else good
    by_name = {band.name.upper(): index for index, band in enumerate(sensor.bands)}
    kinds = {band.kind for band in sensor.bands}
    visible = _all_good(sensor.true_colour, good) or _nearest(sensor, VISIBLE_NM, good)
    if visible:
        return Composite(visible, False, "true colour", f"true colour ({_listed(sensor, visible)})")
    if kinds == {"sar"} and {"VV", "VH"} <= set(by_name) and sensor.units == "dB":
        caption = "VV, VH and VV - VH in dB as red, green and blue"
        return Composite((by_name["VV"], by_name["VH"]), True, "bands in colour", caption)
    if len(sensor.bands) < 3 or kinds <= _GREY_KINDS:
        return Composite((0,), False, "one band", f"{sensor.bands[0].name} in grey")
    spread = _spread(sensor, good)
    caption = f"{_listed(sensor, spread)} as red, green and blue, spread evenly: no true colour is "
    return Composite(spread, False, "bands in colour", f"{caption}known")


def false_colour(sensor: Sensor, good: np.ndarray) -> Composite | None:
    """Near infrared, red and green; None where the sensor does not have them."""
    bands = _all_good(sensor.false_colour, good) or _nearest(sensor, INFRARED_NM, good)
    if not bands:
        return None
    return Composite(bands, False, "false colour", f"false colour ({_listed(sensor, bands)})")


def red_green_blue(pixels: np.ndarray, shown: Composite) -> np.ndarray:
    """The three channels [h, w, 3] of the bands of a composite [h, w, len(shown.bands)]."""
    if shown.ratio:
        pixels = np.concatenate([pixels, pixels[..., :1] - pixels[..., 1:]], axis=-1)
    return np.broadcast_to(pixels, (*pixels.shape[:-1], 3)).astype(np.float32)


def in_water_bands(nm: np.ndarray) -> np.ndarray:
    """bool [c]: wavelengths where water vapour absorbs; False for NaN."""
    return np.any([(nm > low) & (nm < high) for low, high in WATER_NM], axis=0)


def _all_good(bands: tuple[int, int, int] | None, good: np.ndarray) -> tuple[int, int, int] | None:
    return bands if bands and good[list(bands)].all() else None


def _nearest(
    sensor: Sensor, wanted_nm: tuple[float, ...], good: np.ndarray
) -> tuple[int, ...] | None:
    """The good reflective bands nearest to some wavelengths; None where one is far away."""
    reflective = np.array([band.kind == "reflective" for band in sensor.bands])
    nm = np.where(good & reflective, sensor.centres_nm, np.nan)
    distance = np.abs(nm[:, None] - np.array(wanted_nm))
    distance = np.where(np.isfinite(distance), distance, np.inf)
    chosen = tuple(distance.argmin(0).tolist())
    found = (distance.min(0) <= _NEAR_NM).all() and len(set(chosen)) == len(chosen)
    return chosen if found else None


def _spread(sensor: Sensor, good: np.ndarray) -> tuple[int, ...]:
    usable = np.flatnonzero(good & ~in_water_bands(sensor.centres_nm))
    if len(usable) < 3:
        usable = np.arange(len(sensor.bands))
    ordered = usable[np.argsort(sensor.axis[usable], kind="stable")]
    return tuple(int(ordered[round(at * (len(ordered) - 1))]) for at in _SPREAD)


def _listed(sensor: Sensor, bands: tuple[int, ...]) -> str:
    """Names of bands, and their wavelengths where all are known."""
    names = ", ".join(sensor.bands[band].name for band in bands)
    nm = sensor.centres_nm[list(bands)]
    if not np.isfinite(nm).all():
        return names
    return f"{names}: {', '.join(f'{value:.0f}' for value in nm)} nm"
