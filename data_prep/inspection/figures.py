"""Figures of the spectra and dates of a store."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.inspection import summary
from eo_jax.data import Store
from eo_jax.report import pictures
from eo_jax.report.pictures import BLUE
from eo_jax.sensors import Sensor

_FEW_BANDS = 16  # up to here every band is a dot with its name, not a point of a line
_WIDTH = 5.6  # inches; wider figures would be unreadable on a phone


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
    figure = Figure(figsize=(_WIDTH, 0.3 + 2.6 * len(panels)), layout="constrained")
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
    figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
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
