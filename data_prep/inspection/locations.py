"""The map of a store's locations, with coastlines."""

from __future__ import annotations

import functools
from importlib import resources

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from eo_jax.data import Store
from eo_jax.report import pictures
from eo_jax.report.pictures import BLUE, GREEN, INK, ORANGE

_ASPECT = 1.9  # width of a map divided by its height
_LOCAL_DEGREES = 40.0  # locations within less also get a map of the world, to see where that is
# Colour, marker and size of each split. The later is drawn over the earlier and is smaller, so that
# both are seen at one location.
_SPLITS = {"train": (BLUE, "o", 50), "val": (ORANGE, "s", 26), "test": (GREEN, "^", 16)}
_OTHER = ("#777777", "D", 60)


def draw_map(store: Store) -> Figure | None:
    """The locations, one mark each, by split, over coastlines. None where no sample has a longitude
    and latitude.
    """
    index = store.index
    _, first = np.unique(index["group"], return_index=True)
    known = first[np.isfinite(index["lonlat"][first]).all(1)]
    if not len(known):
        return None
    lonlat, splits = index["lonlat"][known], index["split"][known]
    local = np.ptp(lonlat, axis=0).max() < _LOCAL_DEGREES
    with mpl.rc_context(pictures.STYLE):
        figure = Figure(figsize=(5.6, 5.6 if local else 3.2), dpi=150, layout="constrained")
        if local:
            _draw_world(figure.add_subplot(2, 1, 1), lonlat.mean(0))
        axes = figure.add_subplot(2 if local else 1, 1, 2 if local else 1)
        _draw_locations(axes, lonlat, splits)
        return figure


def _draw_world(axes, at: np.ndarray) -> None:
    """All coastlines, and a ring around a longitude and latitude."""
    axes.plot(*at, "o", color=ORANGE, markersize=9, fillstyle="none", markeredgewidth=2)
    axes.set(xlim=(-180, 180), ylim=(-70, 84), title="where on Earth", xticks=[], yticks=[])
    axes.set_aspect("equal")
    _draw_coastlines(axes)


def _draw_locations(axes, lonlat: np.ndarray, splits: np.ndarray) -> None:
    for layer, split in enumerate(sorted(set(splits.tolist()), key=_layer), start=3):
        colour, marker, size = _SPLITS.get(split, _OTHER)
        longitude, latitude = lonlat[splits == split].T
        # Pixels, not one SVG element per location: an archive has up to a million.
        axes.scatter(
            longitude,
            latitude,
            size,
            color=colour,
            marker=marker,
            label=f"{split} ({len(longitude):,})",
            edgecolors="white",
            linewidths=0.4,
            zorder=layer,
            rasterized=True,
        )
    axes.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
    _frame(axes, lonlat)
    _draw_coastlines(axes)
    axes.figure.legend(loc="outside lower center", ncols=4, fontsize=8)


def _layer(split: str) -> tuple[int, str]:
    """Few validation and test locations lie over many of training, other splits below."""
    names = list(_SPLITS)
    return (names.index(split) if split in names else -1, split)


def _frame(axes, lonlat: np.ndarray) -> None:
    """Limits a little beyond the locations and at least half a degree wide, with an aspect that is
    true to distances in the middle.
    """
    low, high = lonlat.min(0), lonlat.max(0)
    middle = (low + high) / 2
    shrink = max(np.cos(np.radians(middle[1])), 0.2)
    half_lon, half_lat = np.maximum((high - low) * 0.55, 0.25)
    half_lat = max(half_lat, half_lon * shrink / _ASPECT)
    half_lon = max(half_lon, half_lat / shrink * _ASPECT)
    axes.set_xlim(max(middle[0] - half_lon, -180), min(middle[0] + half_lon, 180))
    axes.set_ylim(max(middle[1] - half_lat, -90), min(middle[1] + half_lat, 90))
    axes.set_aspect(1 / shrink, adjustable="box")


def _draw_coastlines(axes) -> None:
    """The coastlines that pass through the frame of a map."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    shown = [line for line in coastlines() if _touches(line, west, east, south, north)]
    axes.add_collection(
        LineCollection(shown, colors=INK, linewidths=0.6, alpha=0.55, zorder=2), autolim=False
    )


def _touches(line: np.ndarray, west: float, east: float, south: float, north: float) -> bool:
    low, high = line.min(0), line.max(0)
    return bool(low[0] < east and high[0] > west and low[1] < north and high[1] > south)


@functools.cache
def coastlines() -> list[np.ndarray]:
    """Longitudes and latitudes [n, 2] of each line of coastline.txt, which says where it is from.
    A line is cut where it crosses the 180th meridian.
    """
    text = resources.files("data_prep.inspection").joinpath("coastline.txt").read_text()
    lines = []
    for row in text.splitlines():
        if not row.startswith("#"):
            line = np.array([point.split(",") for point in row.split()], float)
            crossings = np.flatnonzero(np.abs(np.diff(line[:, 0])) > 180) + 1
            lines += [part for part in np.split(line, crossings) if len(part) > 1]
    return lines
