"""Draws arrays as uint8 RGB, PNG bytes and inline SVG, the same bytes for the same arrays."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

Limits = tuple[np.ndarray, np.ndarray]

HIDDEN = 122  # flat grey: a token that the encoder did not see
HATCH = (205, 165)  # diagonal stripes: no data
# Okabe-Ito colours, distinct for the colour-blind. INK becomes the text colour of the page.
INK, BLUE, ORANGE, GREEN = "#010203", "#0072b2", "#d55e00", "#009e73"
# A step in wavelength of more than this many median steps is a gap in the spectrum: a removed
# water-vapour window.
GAP = 5
FEW_BANDS = 16  # up to here bands are told apart by their names
SHORT_RUN = 8  # bands; runs no longer than this, as of Sentinel-2, show every band as a dot
BINS = 300  # a curve of more steps is drawn as median and range of this many bins

STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


# ------------------------------------------------------------------ images


def percentile_limits(images: Sequence[np.ndarray], valid: Sequence[np.ndarray]) -> Limits:
    """2nd and 98th percentile of each channel, ([k], [k]), over the valid pixels of all images [h,
    w, k]; 0 and 1 where none is valid.
    """
    pixels = np.concatenate([image[mask] for image, mask in zip(images, valid, strict=True)])
    pixels = pixels[np.isfinite(pixels).all(1)]
    if not len(pixels):
        return np.zeros(pixels.shape[1]), np.ones(pixels.shape[1])
    low, high = np.percentile(pixels, [2, 98], axis=0)
    return low, high


def stretch(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scales values [..., k] to uint8, linear from low [k] (0) to high [k] (255).

    A channel without range becomes mid-grey, NaN becomes 0.
    """
    flat = high <= low
    scaled = (image - low) / np.where(flat, 1, high - low)
    scaled = np.where(flat, 0.5, np.clip(np.nan_to_num(scaled, nan=0), 0, 1))
    return np.rint(scaled * 255).astype(np.uint8)


def colour(
    cube: np.ndarray, bands: Sequence[int], limits: Limits, valid: np.ndarray | None = None
) -> np.ndarray:
    """Three bands of cube [h, w, c] as uint8 RGB [h, w, 3], stretched to limits ([3], [3]); pixels
    that are invalid or not finite are hatched.
    """
    image = cube[..., list(bands)]
    drawn = np.isfinite(image).all(-1)
    if valid is not None:
        drawn &= valid
    return hatch(stretch(image, *limits), ~drawn)


def hatch(rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy of rgb [h, w, 3] with diagonal stripes where `where` [h, w] is True."""
    row, column = np.indices(where.shape)
    stripes = np.where((row + column) % 4 < 2, *HATCH).astype(np.uint8)
    return np.where(where[..., None], stripes[..., None], rgb)


def hide(rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy of rgb [h, w, 3] with flat grey where `where` [h, w] is True."""
    return np.where(where[..., None], np.uint8(HIDDEN), rgb)


def heat(values: np.ndarray, high: float) -> np.ndarray:
    """Values [h, w] from 0 to high as uint8 RGB [h, w, 3] in viridis, which the colour-blind can
    read and which contains no grey.
    """
    return mpl.colormaps["viridis"](
        stretch(values[..., None], np.zeros(1), np.array([high]))[..., 0], bytes=True
    )[..., :3]


def pca_rgb(tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
    """First three principal components of patch tokens as RGB: [h, w, d] to uint8 [h, w, 3] per
    patch, with one d.

    The components and their 2-98 % stretch are fitted over all patches together, so that a colour
    means the same in every picture. The sign of a component makes its largest loading positive.
    Tokens that are not finite stay grey, and so does a component of rounding noise: a collapsed
    encoder gives a grey picture, not a colourful one.
    """
    if not tokens:
        return []
    flat = np.concatenate([patch.reshape(-1, patch.shape[-1]) for patch in tokens]).astype(
        np.float64
    )
    finite = np.isfinite(flat).all(1)
    scores = np.zeros((len(flat), 3))
    if finite.any():
        scores[finite] = _principal_scores(flat[finite])
    low, high = percentile_limits([scores[:, None]], [finite[:, None]])
    rgb = np.where(finite[:, None], stretch(scores, low, high), np.uint8(HIDDEN))
    ends = np.cumsum([patch.shape[0] * patch.shape[1] for patch in tokens])
    return [
        part.reshape(*patch.shape[:2], 3)
        for part, patch in zip(np.split(rgb, ends[:-1]), tokens, strict=True)
    ]


def _principal_scores(rows: np.ndarray) -> np.ndarray:
    """Scores [n, 3] of rows [n, d] on their first three principal components; 0 for components
    beyond the rank of the rows.
    """
    centred = rows - rows.mean(0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    axes, variances = axes[:, ::-1][:, :3], variances[::-1][:3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    # Below float32 rounding of the tokens there is no signal.
    axes = np.where(variances > 1e-12 * np.mean(rows**2), axes, 0)
    scores = centred @ axes
    return np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))


def png(rgb: np.ndarray, zoom: int = 1) -> bytes:
    """PNG bytes of uint8 RGB [h, w, 3], every pixel drawn as a square of zoom x zoom."""
    enlarged = np.repeat(np.repeat(rgb, zoom, axis=0), zoom, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> bytes:
    """PNG bytes of uint8 RGB images [h, w, 3] of any size in rows of `columns`, each with its
    title, on white.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    for number, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_axis_off()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


# ------------------------------------------------------------------ charts


class BandAxis(NamedTuple):
    """The x axis of spectra.

    Attributes:
        x: [c] wavelengths or numbers of bands, in any order.
        label: of the axis.
        names: of the bands, as ticks; () for numbers.
    """

    x: np.ndarray
    label: str
    names: tuple[str, ...]


def spectra_figure(
    axis: BandAxis, spectra: Mapping[str, np.ndarray], title: str, quantity: str
) -> Markup:
    """SVG of one or two spectra {name: [c]}, in `quantity`. The lines break where the sensor has no
    bands.
    """
    order = np.argsort(axis.x, kind="stable")
    runs = np.split(order, band_gaps(axis.x[order]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=axis.label, ylabel=quantity)
        styles = {"color": INK}, {"color": ORANGE, "dashes": (3, 1.2)}
        for (name, values), style in zip(spectra.items(), styles, strict=False):
            for number, run in enumerate(runs):
                marker = "." if len(run) <= SHORT_RUN else None
                axes.plot(
                    axis.x[run],
                    values[run],
                    marker=marker,
                    label=name if number == 0 else None,
                    **style,
                )
        if axis.names:
            axes.set_xticks(axis.x, axis.names)
        axes.legend(loc="best", fontsize=8)
        return svg(figure, f"{title}: {quantity} over {axis.label}, of {' and '.join(spectra)}")


def band_gaps(sorted_nm: np.ndarray) -> np.ndarray:
    """Indices into ascending wavelengths [c] at which a new run of bands starts, after a step of
    more than GAP times the median step.
    """
    steps = np.diff(sorted_nm)
    return np.flatnonzero(steps > GAP * np.median(steps)) + 1 if len(steps) else np.array([], int)


# {name: (steps [n], ascending, values [n])}
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]


def curve_figure(series: Series, title: str, marks: np.ndarray, scale: str) -> Markup:
    """SVG of one or more curves over training steps; NaN is a gap.

    Args:
        title: for screen readers; the page shows it beside the curve.
        marks: steps [m] to flag at the upper edge.
        scale: "linear", or "log" for a log axis if all values are positive and span more than a
            factor of ten.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.1), layout="constrained")
        axes = figure.add_subplot(xlabel="step")
        for number, (name, (steps, values)) in enumerate(series.items()):
            finite = np.where(np.isfinite(values), values, np.nan)
            _plot_series(axes, steps, finite, _curve_style(number, name))
        if len(marks):
            axes.plot(
                marks,
                np.ones(len(marks)),
                "v",
                color=ORANGE,
                markersize=5,
                clip_on=False,
                transform=axes.get_xaxis_transform(),
            )
        if len(series) > 1:
            axes.legend(loc="best", fontsize=8)
        together = np.concatenate([values for _, values in series.values()])
        _scale_y(axes, together[np.isfinite(together)], scale)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        return svg(figure, f"{title} over training steps")


def small_curve(series: Series, title: str) -> Markup:
    """SVG of a curve for the cell of a table; `title` is for screen readers."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.9, 1.0), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, (steps, values)) in enumerate(series.items()):
            finite = np.where(np.isfinite(values), values, np.nan)
            _plot_series(axes, steps, finite, _curve_style(number, name))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(2))
        return svg(figure, f"{title} over training steps")


def _curve_style(number: int, name: str) -> dict[str, Any]:
    """Another colour and another dash for each curve."""
    colours, dashes = (BLUE, ORANGE, GREEN, INK), ("-", "--", "-.", ":")
    return {"color": colours[number % 4], "linestyle": dashes[number % 4], "label": name}


def _plot_series(axes, steps: np.ndarray, values: np.ndarray, style: dict[str, Any]) -> None:
    if len(steps) <= BINS:
        axes.plot(steps, values, marker="." if len(steps) <= 20 else None, **style)
        return
    parts = np.array_split(values, BINS)
    with warnings.catch_warnings():
        # A bin of only NaN is NaN, and drawn as a gap.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, middle, high = (
            np.array([f(part) for part in parts]) for f in (np.nanmin, np.nanmedian, np.nanmax)
        )
    centres = [np.mean(part) for part in np.array_split(steps, BINS)]
    axes.fill_between(centres, low, high, color=style["color"], alpha=0.25, linewidth=0)
    axes.plot(centres, middle, **style)


def _scale_y(axes, finite: np.ndarray, scale: str) -> None:
    if scale == "log" and len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
        axes.set_yscale("log")
        crowded = finite.max() > 300 * finite.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if crowded else (1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def svg(figure: Figure, label: str) -> Markup:
    """The figure as one <svg> element without date, version or global ids; `label` is for screen
    readers.
    """
    buffer = io.StringIO()
    # Text stays text: searchable, and in the font of the page. The salt makes ids repeatable.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return _labelled(text[text.index("<svg") :], label)


def _labelled(svg: str, label: str) -> Markup:
    # matplotlib numbers its groups (axes_1, text_2, ...) from 1 in every figure; nothing refers to
    # them, and an id must be unique within a page.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = svg.replace(INK, "currentColor")
    # matplotlib has escaped the texts of the figure.
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1))
