"""The report page of a training run: a single HTML file that loads nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from eo_jax.monitor.metric import Card, Metric
from eo_jax.report import html_page, patches, pictures
from eo_jax.report.html_page import Row
from eo_jax.report.patches import Bands, PatchView

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """The contents of the page.

    Attributes:
        title: heading of the page.
        cards: headline numbers.
        lines: one dict per logged step, with "step", values "<metric>" or "<metric>/<source>",
            "skipped" (above 0 where the non-finite guard skipped the update) and
            "eval/<evaluator>/<metric>"; a later line for a step replaces an earlier one.
        metrics: {metric: description} of the curves, in their order.
        patches, bands: pictures and spectra to draw.
        config, versions, fingerprint: nested.
        links: {text: path relative to the page}.

    Raises:
        ValueError: a patch has another number of bands than `bands`.
    """

    title: str
    cards: Sequence[Card]
    lines: Lines
    metrics: Mapping[str, Metric]
    patches: Sequence[PatchView]
    bands: Bands
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    links: Mapping[str, str]

    def __post_init__(self) -> None:
        expected = len(self.bands.wavelengths_nm)
        for patch in self.patches:
            found = patch.original.shape[-1]
            if found != expected:
                raise ValueError(
                    f"patch {patch.title!r}: {found} bands, expected {expected} as in "
                    "wavelengths_nm; take both from one sensor"
                )


def render(report: Report) -> str:
    """The report as one HTML document, the same text for the same report."""
    limit = patches.error_limit(report.patches)
    return html_page.render(
        "eo_jax.report",
        "report.html",
        title=report.title,
        summary=_summary(report),
        links=[(text, quote(path)) for text, path in report.links.items()],
        cards=report.cards,
        curves=_curves(report.lines, report.metrics),
        curve_notes=_curve_notes(report.lines, report.metrics),
        evaluations=_evaluations(report.lines),
        patches=patches.articles(report.patches, report.bands, limit),
        legend=patches.legend(report.bands, limit),
        config=_rows(report.config),
        versions=_rows(report.versions),
        fingerprint=_rows(report.fingerprint),
    )


def _text(value: Any) -> str:
    """Floats to 4 digits, None as a dash, lists comma-separated."""
    if value is None:
        return "–"
    if isinstance(value, (float, np.floating)):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "–"
    return str(value)


def _rows(mapping: Mapping[str, Any]) -> list[Row]:
    return [
        (str(key), _rows(value) if isinstance(value, Mapping) else _text(value))
        for key, value in mapping.items()
    ]


def _summary(report: Report) -> str:
    """The run in one line: its objective where the configuration names one, bands and steps."""
    nm = report.bands.wavelengths_nm
    objective = report.config.get("objective", {}).get("name")
    steps = [line["step"] for line in report.lines]
    facts = [
        f"Method {_text(objective)}" if objective else "",
        f"{len(nm)} bands, {min(nm):.0f}–{max(nm):.0f} nm" if len(nm) else "",
        f"steps {min(steps):,} to {max(steps):,}" if steps else "no steps logged",
    ]
    return " · ".join(filter(None, facts))


# ------------------------------------------------------------------ curves and evaluations


def _series(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [n], ascending, and values [n] of one metric. A resumed run has logged some steps
    twice: the last one counts.
    """
    found = {line["step"]: line[name] for line in lines if line.get(name) is not None}
    return np.array(sorted(found), int), np.array([found[step] for step in sorted(found)], float)


def _skipped(lines: Lines) -> np.ndarray:
    """Logged steps [m] whose update was skipped."""
    steps, skipped = _series(lines, "skipped")
    return steps[skipped > 0]


def _curve_names(lines: Lines, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """{name: description} of the logged metrics that have a curve, one per source."""
    logged = sorted({name for line in lines for name, value in line.items() if value is not None})
    return {
        name: metrics[metric]
        for metric in metrics
        for name in logged
        if name.partition("/")[0] == metric and metrics[metric].title
    }


def _curves(lines: Lines, metrics: Mapping[str, Metric]) -> list[Markup]:
    marks = _skipped(lines)
    charts = []
    for name, metric in _curve_names(lines, metrics).items():
        title = ": ".join(filter(None, (metric.title, name.partition("/")[2])))
        steps, values = _series(lines, name)
        charts.append(pictures.curve_figure(steps, values, title, marks, metric.scale))
    return charts


def _curve_notes(lines: Lines, metrics: Mapping[str, Metric]) -> str:
    notes, marks = [], _skipped(lines)
    lengths = [len(_series(lines, name)[0]) for name in _curve_names(lines, metrics)]
    if max(lengths, default=0) > pictures.BINS:
        notes.append("Line: median, band: range, of neighbouring logged steps.")
    if len(marks):
        notes.append(
            "▼ Logged steps whose update was skipped, because loss, gradient or carry was not "
            f"finite: {len(marks)}."
        )
    return " ".join(notes)


def _evaluations(lines: Lines) -> dict[str, Any]:
    """The table of scores: evaluators with their number of columns, names of columns, rows."""
    names = sorted({name for line in lines for name in line if name.startswith("eval/")})
    series = [dict(zip(*_series(lines, name), strict=True)) for name in names]
    groups = itertools.groupby(name.split("/")[1] for name in names)
    return {
        "evaluators": [(evaluator, len(list(group))) for evaluator, group in groups],
        "columns": ["/".join(name.split("/")[2:]) for name in names],
        "rows": [
            (f"{step:,}", [_text(scores.get(step)) for scores in series])
            for step in sorted(set().union(*series))
        ],
    }
