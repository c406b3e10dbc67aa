"""Pictures of samples of any sensor, and figures of their spectra, locations and dates."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.inspection import summary
from eo_jax.data import Store
from eo_jax.report import pictures
from eo_jax.report.pictures import BLUE, ORANGE
from eo_jax.sensors import Sensor

_MAX_PIXELS = 256  # of a picture's side; larger samples are subsampled
_FEW_BANDS = 16  # up to here every band is a dot with its name, not a point of a line
_MAP_SHAPE = 1.9  # width of a map divided by its height
_GREEN = "#009e73"
_COLOURS = {"train": BLUE, "val": ORANGE, "test": _GREEN}
_GREY_KINDS = {"sar", "thermal", "elevation"}


class Composite(NamedTuple):
    """How samples of a sensor are shown.

    Attributes:
        bands: shown as red, green and blue.
        ratio: whether blue is red minus green.
    """

    bands: tuple[int, ...]
    ratio: bool
    caption: str


class SamplePicture(NamedTuple):
    """One sample as a picture, uint8 [h, w, 3]."""

    number: int
    rgb: np.ndarray


def composite(sensor: Sensor) -> Composite:
    """True colour where the sensor has it; VV and VH in dB with their ratio; grey for other radar,
    thermal and elevation bands; evenly spread bands otherwise.
    """
    names = [band.name for band in sensor.bands]
    by_name = {name.upper(): index for index, name in enumerate(names)}
    kinds = {band.kind for band in sensor.bands}
    if sensor.true_colour:
        return Composite(
            sensor.true_colour, False, f"true colour ({_listed(names, sensor.true_colour)})"
        )
    if kinds == {"sar"} and {"VV", "VH"} <= set(by_name) and sensor.units == "dB":
        return Composite(
            (by_name["VV"], by_name["VH"]), True, "VV, VH and VV - VH in dB as red, green and blue"
        )
    if len(names) < 3 or kinds <= _GREY_KINDS:
        return Composite((0,), False, f"{names[0]} in grey")
    return Composite(
        sensor.composite,
        False,
        f"{_listed(names, sensor.composite)} as red, green and blue, spread evenly: no true colour "
        "is known",
    )


def _listed(names: list[str], bands: tuple[int, ...]) -> str:
    return ", ".join(names[band] for band in bands)


def examples(store: Store, count: int) -> dict[str, list[SamplePicture]]:
    """{sensor id: pictures}: up to `count` samples, equally many of each sensor and at least one,
    evenly spaced, with one stretch per sensor.
    """
    sensors = np.unique(store.index["sensor"]).tolist()
    each = max(1, count // max(1, len(sensors)))
    return {
        name: _pictures(
            store, store.sensor(name), np.flatnonzero(store.index["sensor"] == name), each
        )
        for name in sensors
    }


def _pictures(store: Store, sensor: Sensor, numbers: np.ndarray, count: int) -> list[SamplePicture]:
    chosen = numbers[
        np.unique(np.linspace(0, len(numbers) - 1, count).round().astype(int))
    ].tolist()
    images, valid = zip(*(_image(store, i, sensor) for i in chosen), strict=True)
    limits = pictures.percentile_limits(images, valid)
    return [
        SamplePicture(i, pictures.colour(image, (0, 1, 2), limits, mask))
        for i, image, mask in zip(chosen, images, valid, strict=True)
    ]


def _image(store: Store, i: int, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """Red, green and blue [h, w, 3] in physical units, and the valid mask [h, w]."""
    shown = composite(sensor)
    bands = list(shown.bands)
    pixels = store.pixels(i, bands)
    step = -(-max(pixels.shape[1:]) // _MAX_PIXELS)
    pixels = pixels[:, ::step, ::step]
    values = np.moveaxis(pixels, 0, -1) * sensor.scales[bands] + sensor.offsets[bands]
    if shown.ratio:
        values = np.concatenate([values, values[..., :1] - values[..., 1:]], axis=-1)
    return np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.float32), ~sensor.missing(
        pixels
    ).any(0)


# ------------------------------------------------------------------ figures


def _styled(draw: Callable[[Store], Figure | None]) -> Callable[[Store], Figure | None]:
    """Draws in the style of the report of a training run."""

    @functools.wraps(draw)
    def styled(store: Store) -> Figure | None:
        with mpl.rc_context(pictures.STYLE):
            return draw(store)

    return styled


@_styled
def draw_spectra(store: Store) -> Figure | None:
    """Mean +- one standard deviation of every band, train split, with a panel per sensor and unit.
    None where there are no statistics.
    """
    panels = [
        panel
        for name, moments in store.manifest["statistics"].items()
        for panel in _panels(store.sensor(name), moments)
    ]
    if not panels:
        return None
    figure = Figure(figsize=(8, 0.3 + 3 * len(panels)), layout="constrained")
    figure.suptitle("Mean and one standard deviation of every band, train split", fontsize=9)
    for number, (sensor, inside, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        _draw_bands(axes, sensor, inside, values)
    return figure


def _panels(
    sensor: Sensor, moments: Mapping[str, list]
) -> Iterator[tuple[Sensor, np.ndarray, dict[str, np.ndarray]]]:
    """(sensor, bands, moments) for each unit of its bands."""
    values = summary.physical(sensor, moments)
    units = np.array([band.units or sensor.units for band in sensor.bands])
    for unit in dict.fromkeys(units.tolist()):
        inside = np.flatnonzero((units == unit) & np.isfinite(values["mean"]))
        if len(inside):
            yield sensor, inside, values


def _draw_bands(axes, sensor: Sensor, inside: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    known = bool(np.isfinite(sensor.centres_nm[inside]).all())
    x = sensor.centres_nm if known else np.array(sensor.band_numbers, float)
    order = inside[np.argsort(x[inside], kind="stable")]
    x, mean, std = x[order], values["mean"][order], values["std"][order]
    draw = _draw_dots if len(order) <= _FEW_BANDS else _draw_line
    draw(axes, x, mean, std)
    names = [sensor.bands[b].name for b in order]
    axes.set_title(sensor.title)
    unknown = "band number; wavelengths are not known" if draw is _draw_line else "band"
    axes.set(
        xlabel="wavelength (nm)" if known else unknown,
        ylabel=sensor.bands[order[0]].units or sensor.units,
    )
    if draw is _draw_line:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    elif known:
        for name, at, value in zip(names, x, mean, strict=True):
            axes.annotate(name, (at, value), xytext=(5, 4), textcoords="offset points", fontsize=8)
    else:
        axes.set_xticks(x, names)


def _draw_dots(axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    axes.errorbar(x, mean, std, fmt="o", color=BLUE, capsize=3, linewidth=1)
    axes.margins(x=0.1)


def _draw_line(axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    """Breaks the line where the sensor has no bands."""
    for run in np.split(np.arange(len(x)), pictures.band_gaps(x)):
        axes.fill_between(
            x[run], mean[run] - std[run], mean[run] + std[run], color=BLUE, alpha=0.2, linewidth=0
        )
        axes.plot(x[run], mean[run], color=BLUE)


@_styled
def draw_map(store: Store) -> Figure | None:
    """The locations, one dot each, coloured by split. None where no sample has a longitude and
    latitude.
    """
    index = store.index
    _, first = np.unique(index["group"], return_index=True)
    known = first[np.isfinite(index["lonlat"][first]).all(1)]
    if not len(known):
        return None
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
    splits = index["split"][known]
    for split in sorted(set(splits.tolist()), key=lambda name: (name not in _COLOURS, name)):
        longitude, latitude = index["lonlat"][known[splits == split]].T
        # Pixels, not one SVG element per location: an archive has up to a million.
        axes.scatter(
            longitude,
            latitude,
            9,
            color=_COLOURS.get(split, "#777777"),
            label=split,
            linewidths=0,
            alpha=0.8,
            rasterized=True,
        )
    _frame(axes, index["lonlat"][known])
    axes.legend(loc="best", fontsize=8)
    return figure


def _frame(axes, lonlat: np.ndarray) -> None:
    """Limits a little beyond the locations and at least half a degree wide, with an aspect that is
    true to distances in the middle.
    """
    low, high = lonlat.min(0), lonlat.max(0)
    middle = (low + high) / 2
    shrink = max(np.cos(np.radians(middle[1])), 0.2)
    half_lon, half_lat = np.maximum((high - low) * 0.55, 0.25)
    half_lat = max(half_lat, half_lon * shrink / _MAP_SHAPE)
    half_lon = max(half_lon, half_lat / shrink * _MAP_SHAPE)
    axes.set_xlim(max(middle[0] - half_lon, -180), min(middle[0] + half_lon, 180))
    axes.set_ylim(max(middle[1] - half_lat, -90), min(middle[1] + half_lat, 90))
    axes.set_aspect(1 / shrink, adjustable="box")


@_styled
def draw_dates(store: Store) -> Figure | None:
    """Samples per month, or per year where they span more than twenty. None where no sample has a
    time.
    """
    times = store.index["time"]
    known = times[times != np.iinfo(np.int64).min].astype("datetime64[s]")
    if not len(known):
        return None
    months = known.astype("datetime64[M]")
    unit, name, days = (
        ("M", "month", 27) if np.ptp(months.astype(np.int64)) <= 240 else ("Y", "year", 350)
    )
    width, margin = np.timedelta64(days, "D"), np.timedelta64(3, "D")
    steps = known.astype(f"datetime64[{unit}]")
    one = np.timedelta64(1, unit)
    every = np.arange(steps.min(), steps.max() + one, one)
    starts = every.astype("datetime64[D]")
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.add_subplot(ylabel=f"samples per {name}")
    axes.bar(
        starts,
        np.bincount((steps - steps.min()).astype(np.int64)),
        width=width,
        align="edge",
        color=BLUE,
    )
    locator = AutoDateLocator(minticks=2, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlim(starts[0] - margin, starts[-1] + width + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
