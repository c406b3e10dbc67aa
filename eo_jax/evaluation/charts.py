"""Charts of an evaluation, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from eo_jax.evaluation.intervals import Estimate
from eo_jax.report.pictures import BLUE, INK, STYLE, svg

# Okabe and Ito.
_COLOURS = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")


def fraction_curves(
    lines: Mapping[str, Mapping[float, Estimate]], headline: str, label: str
) -> Markup:
    """The headline over the fraction of the training split, a line per candidate with its interval
    as a band.

    Args:
        lines: {candidate: {fraction: Estimate}}.
        label: for screen readers.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel="training samples, %", ylabel=headline, xscale="log")
        for number, (name, points) in enumerate(lines.items()):
            at = np.array(sorted(points))
            value, low, high = np.array([points[fraction] for fraction in at]).T
            colour = _COLOURS[number % len(_COLOURS)]
            dash = _DASHES[number % len(_DASHES)]
            axes.fill_between(100 * at, low, high, color=colour, alpha=0.1, linewidth=0)
            axes.plot(100 * at, value, marker=".", linestyle=dash, color=colour, label=name)
        ticks = sorted({100 * fraction for points in lines.values() for fraction in points})
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return svg(figure, label)


def predicted_and_true(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Markup:
    """Predicted over true numbers [n, d], a panel per target, with the line of equality."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * columns, 2.3 * rows), layout="constrained")
        for number, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, number + 1, title=name)
            x, y = truth[:, number], predicted[:, number]
            axes.plot(x, y, ".", markersize=3, color=BLUE, alpha=0.5)
            ends = min(x.min(), y.min()), max(x.max(), y.max())
            axes.plot(ends, ends, color=INK, linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(3))
        figure.supxlabel("true", fontsize=9)
        figure.supylabel("predicted", fontsize=9)
        return svg(figure, f"predicted over true values of {', '.join(names)}")
