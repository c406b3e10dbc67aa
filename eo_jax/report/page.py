"""The report page of a training run: a single HTML file that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from eo_jax.monitor.metric import Card, Metric
from eo_jax.report import html_page, patches, pictures, predictions
from eo_jax.report.html_page import Row
from eo_jax.report.patches import Bands, PatchView
from eo_jax.report.predictions import Predictions

# Of a card, before its sentence: not by colour alone.
_SIGNS = {"": "", "better": "▲", "worse": "▼"}

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
        scores: {"<evaluator>/<score>": description}.
        patches, bands: pictures and spectra to draw.
        predictions: of a supervised run, or None.
        config, versions, fingerprint: nested.
        links: {text: path relative to the page}.

    Raises:
        ValueError: a patch has another number of bands than `bands`.
    """

    title: str
    cards: Sequence[Card]
    lines: Lines
    metrics: Mapping[str, Metric]
    scores: Mapping[str, Metric]
    patches: Sequence[PatchView]
    bands: Bands
    predictions: Predictions | None
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    links: Mapping[str, str]

    def __post_init__(self) -> None:
        expected = len(self.bands.sensor.bands)
        for patch in self.patches:
            found = patch.original.shape[-1]
            if found != expected:
                raise ValueError(
                    f"patch {patch.title!r}: {found} bands, expected {expected} as of "
                    f"{self.bands.sensor.title}; take both from one sensor"
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
        cards=[(card, _SIGNS[card.verdict]) for card in report.cards],
        curves=_curves(report.lines, report.metrics),
        curve_notes=_curve_notes(report.lines, report.metrics),
        evaluations=_evaluations(report.lines, report.scores),
        predictions=predictions.section(report.predictions),
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
    objective = report.config.get("objective", {}).get("name")
    steps = [line["step"] for line in report.lines]
    facts = [
        f"Method {_text(objective)}" if objective else "",
        report.bands.span,
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


def _sources(lines: Lines, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{source: steps and values} of a metric that was logged as "<name>", of source "", or as
    "<name>/<source>".
    """
    logged = {key for line in lines for key, value in line.items() if value is not None}
    return {
        key[len(name) + 1 :]: _series(lines, key)
        for key in sorted(logged)
        if key == name or key.startswith(f"{name}/")
    }


def _last(series: pictures.Series) -> str:
    """The last value of each source."""
    values = {source: _text(float(values[-1])) for source, (_, values) in series.items()}
    return ", ".join(f"{source} {text}".strip() for source, text in values.items())


def _curves(lines: Lines, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """One curve per metric, with its last value; one line per source."""
    marks, charts = _skipped(lines), []
    for name, metric in metrics.items():
        series = _sources(lines, name)
        if metric.title and series:
            drawing = pictures.curve_figure(series, metric.title, marks, metric.scale)
            charts.append({"title": metric.title, "last": _last(series), "drawing": drawing})
    return charts


def _curve_notes(lines: Lines, metrics: Mapping[str, Metric]) -> str:
    notes, marks = [], _skipped(lines)
    lengths = [
        len(steps)
        for name, metric in metrics.items()
        if metric.title
        for steps, _ in _sources(lines, name).values()
    ]
    if max(lengths, default=0) > pictures.BINS:
        notes.append("Line: median, band: range, of neighbouring logged steps.")
    if len(marks):
        notes.append(
            "▼ Logged steps whose update was skipped, because loss, gradient or carry was not "
            f"finite: {len(marks)}."
        )
    return " ".join(notes)


def _evaluations(lines: Lines, scores: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """One row per score, of all sources, in the order in which its evaluator describes them."""
    by_score: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in sorted({name for line in lines for name in line if name.startswith("eval/")}):
        _, evaluator, *source, score = name.split("/")
        steps, values = _series(lines, name)
        if len(steps):
            by_score.setdefault(f"{evaluator}/{score}", {})["/".join(source)] = steps, values
    described = [name for name in scores if name in by_score]
    others = [name for name in by_score if name not in scores]
    return [_evaluation(name, by_score[name], scores) for name in (*described, *others)]


def _evaluation(name: str, series: pictures.Series, scores: Mapping[str, Metric]) -> dict[str, Any]:
    """Evaluator, title, last value, its step, and a curve where there are several values."""
    evaluator, score = name.split("/")
    title = scores[name].title if name in scores else score
    several = any(len(steps) > 1 for steps, _ in series.values())
    return {
        "evaluator": evaluator,
        "title": title,
        "last": _last(series),
        "step": f"{max(steps[-1] for steps, _ in series.values()):,}",
        "drawing": pictures.small_curve(series, f"{evaluator}, {title}") if several else None,
    }
