"""Lays out what is known about one training run as a single HTML page that loads nothing from
elsewhere.
"""

from __future__ import annotations

import base64
import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from eo_jax.report import pictures
from eo_jax.report.style import PAGE, STYLE

PICTURE_PX = (
    256  # the least width of a picture in the file; smaller patches are enlarged by a whole number
)
PERCENTILES = {
    "A": 10,
    "B": 50,
    "C": 90,
}  # of brightness: the masked pixels whose spectra are shown
# Metric, title, axis. Metrics of a source, "<metric>/<source>", have a curve each; a metric that no
# line holds is left out.
CURVES = (
    ("loss", "Loss", "log"),
    ("lr", "Learning rate", "linear"),
    ("samples_per_s", "Samples per second", "linear"),
    ("grad_norm", "Gradient norm", "log"),
    ("update_norm", "Norm of the updates", "log"),
    ("mfu", "Model FLOPs utilisation", "linear"),
    ("feature_std", "Spread of features; 0 is collapse", "linear"),
    ("embedding_std", "Spread of what the loss compares", "linear"),
    ("feature_rank", "Directions that features use", "linear"),
    ("rankme", "RankMe of features", "linear"),
    ("teacher_agreement", "Agreement of teacher and student", "linear"),
    ("prototypes_used", "Share of prototypes in use", "linear"),
    ("classes_used", "Share of classes that are assigned", "linear"),
    ("queue_accuracy", "Accuracy against the queue", "linear"),
    ("batch_accuracy", "Accuracy in the batch", "linear"),
)


@dataclass(frozen=True)
class PatchView:
    """One patch before and after the network.

    title: what to call it. original, reconstruction: f32 [H, W, c], physical units (reflectance).
        masked: bool [H, W], True where the
    encoder saw nothing. valid: bool [H, W], False for no-data. tokens: f32 [h, w, d], the encoder's
        patch tokens, or None. ValueError where
    the shapes do not belong together.
    """

    title: str
    original: np.ndarray
    reconstruction: np.ndarray
    masked: np.ndarray
    valid: np.ndarray
    tokens: np.ndarray | None = None

    def __post_init__(self) -> None:
        wanted = {
            "reconstruction": self.original.shape,
            "masked": self.original.shape[:2],
            "valid": self.original.shape[:2],
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(
                    f"patch {self.title!r}: {name} is {found}, expected {shape}, as original is; "
                    "crop them to the same pixels"
                )


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    headline: (label, value, note) a card. metrics: one dict a logged step, with "step" and any of
        the CURVES names, "skipped" (above 0
    where the non-finite guard skipped the update) and "eval/<evaluator>/<metric>"; a later line for
    a step replaces an earlier one.
    wavelengths_nm: [c]. true_colour, false_colour: band indices for red, green and blue. config:
        nested. links: {text: path relative to the
    page}. ValueError where a patch has another number of bands than wavelengths_nm.
    """

    title: str
    headline: Sequence[tuple[str, Any, str]]
    metrics: Sequence[Mapping[str, Any]]
    patches: Sequence[PatchView]
    wavelengths_nm: np.ndarray
    true_colour: tuple[int, int, int]
    false_colour: tuple[int, int, int]
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    links: Mapping[str, str]

    def __post_init__(self) -> None:
        for patch in self.patches:
            found, wanted = patch.original.shape[-1], len(self.wavelengths_nm)
            if found != wanted:
                raise ValueError(
                    f"patch {patch.title!r}: {found} bands, expected {wanted} as in "
                    "wavelengths_nm; take both from one sensor"
                )


def render(report: Report) -> str:
    """The report as one HTML document, the same text for the same report."""
    sections = (
        ("Training", _curves(report.metrics)),
        ("Evaluation", _evals(report.metrics)),
        ("Patches", _patches(report)),
        (
            "Configuration",
            "<details><summary>All settings, after "
            f"overrides</summary>{_pairs(report.config)}</details>",
        ),
        ("Versions", _pairs(report.versions)),
        ("Data fingerprint", _pairs(report.fingerprint)),
    )
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return PAGE.format(title=_text(report.title), style=STYLE, header=_header(report), body=body)


# ------------------------------------------------------------------ words and numbers


def _text(value: Any) -> str:
    """Any plain value as escaped text: floats to 4 digits, None as a dash, lists comma-
    separated.
    """
    if value is None:
        return "–"
    if isinstance(value, (float, np.floating)):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "–"
    return html.escape(str(value))


def _header(report: Report) -> str:
    links = " · ".join(
        f'<a href="{html.escape(quote(path))}">{_text(text)}</a>'
        for text, path in report.links.items()
    )
    cards = "".join(_card(*card) for card in report.headline)
    lead = f'<p class="lead">{_summary(report)}</p><p class="links">{links}</p>'
    return f'<h1>{_text(report.title)}</h1>{lead}<div class="cards">{cards}</div>'


def _card(label: str, value: Any, note: str) -> str:
    parts = {"label": label, "value": value, "note": note}
    return f'<div class="card">{"".join(f"""<div class="{name}">{_text(part)}</div>""" for name, part in parts.items())}</div>'


def _summary(report: Report) -> str:
    """The run in one line: its method where the configuration names one, its bands, its length."""
    nm = report.wavelengths_nm
    method = report.config.get("objective", {}).get("name")
    steps = [line["step"] for line in report.metrics]
    facts = [
        f"Method {_text(method)}" if method else "",
        f"{len(nm)} bands, {min(nm):.0f}–{max(nm):.0f} nm" if len(nm) else "",
        f"steps {min(steps):,} to {max(steps):,}" if steps else "no steps logged",
    ]
    return " · ".join(fact for fact in facts if fact)


def _pairs(mapping: Mapping[str, Any]) -> str:
    """A two-column table, in which a nested mapping is a row that folds away."""
    rows = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows.append(
                '<tr><td colspan="2"><details '
                f"open><summary>{_text(key)}</summary>{_pairs(value)}</details></td></tr>"
            )
        else:
            rows.append(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>")
    return (
        f'<table class="pairs">{"".join(rows)}</table>' if rows else _nothing("Nothing recorded.")
    )


def _nothing(why: str) -> str:
    return f'<p class="nothing">{why}</p>'


# ------------------------------------------------------------------ curves and evaluations


def _series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [n], ascending, and values [n] of one metric. A resumed run has logged some steps
    twice: the last one counts.
    """
    found = {line["step"]: line[name] for line in metrics if line.get(name) is not None}
    return np.array(sorted(found), int), np.array([found[step] for step in sorted(found)], float)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    steps, skipped = _series(metrics, "skipped")
    marks = steps[skipped > 0]
    logged = sorted({name for line in metrics for name in line})
    drawn = [
        (": ".join(filter(None, (title, name.partition("/")[2]))), scale, *_series(metrics, name))
        for metric, title, scale in CURVES
        for name in logged
        if name.partition("/")[0] == metric
    ]
    charts = [
        pictures.curve_figure(x, y, title, marks, scale) for title, scale, x, y in drawn if len(x)
    ]
    if not charts:
        return _nothing("No training metrics were logged.")
    notes = []
    if any(len(x) > pictures.BINS for *_, x, _ in drawn):
        notes.append("Line: median, band: range, of neighbouring logged steps.")
    if len(marks):
        notes.append(
            "▼ Logged steps whose update was skipped, because loss or gradient was not finite: "
            f"{len(marks)}."
        )
    return f'{_charts("charts curves", charts)}<p class="caption">{" ".join(notes)}</p>'


def _charts(kind: str, charts: Sequence[str]) -> str:
    return f'<div class="{kind}">{"".join(f"<figure>{chart}</figure>" for chart in charts)}</div>'


def _evals(metrics: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({name for line in metrics for name in line if name.startswith("eval/")})
    if not names:
        return _nothing("No evaluator ran.")
    series = [dict(zip(*_series(metrics, name), strict=True)) for name in names]
    evaluators = [
        (key, len(list(group)))
        for key, group in itertools.groupby(name.split("/")[1] for name in names)
    ]
    head = "".join(
        f'<th colspan="{count}" scope="colgroup">{_text(evaluator)}</th>'
        for evaluator, count in evaluators
    )
    subhead = "".join(
        f'<th scope="col">{_text("/".join(name.split("/")[2:]))}</th>' for name in names
    )
    rows = "".join(
        f'<tr><th scope="row">{step:,}</th>{"".join(f"<td>{_text(values.get(step))}</td>" for values in series)}</tr>'
        for step in sorted(set().union(*series))
    )
    head = f'<thead><tr><th rowspan="2" scope="col">step</th>{head}</tr><tr>{subhead}</tr></thead>'
    return (
        '<div class="scroll" tabindex="0"><table '
        f'class="evals">{head}<tbody>{rows}</tbody></table></div>'
    )


# ------------------------------------------------------------------ patches


def _patches(report: Report) -> str:
    if not report.patches:
        return _nothing(
            "No patches were drawn: the method does not reconstruct pixels, or none were asked for."
        )
    high = _error_limit(report.patches)
    tokens = iter(
        pictures.pca_rgb([patch.tokens for patch in report.patches if patch.tokens is not None])
    )
    articles = "".join(
        _patch(report, patch, high, None if patch.tokens is None else next(tokens))
        for patch in report.patches
    )
    return _legend(report, high) + articles


def _legend(report: Report, high: float) -> str:
    true, false = (
        ", ".join(f"{report.wavelengths_nm[band]:.0f}" for band in bands)
        for bands in (report.true_colour, report.false_colour)
    )
    bar = _image(
        pictures.heat(np.linspace(0, high, 64)[None], high),
        "colour scale, dark purple at 0, yellow at the upper end",
        "bar",
    )
    percentiles = ", ".join(f"{percentile}th" for percentile in PERCENTILES.values())
    return f"""<ul class="legend">
<li><b>True colour</b> is {true} nm and <b>false colour</b> {false} nm as red, green and blue.
All pictures in a row share one stretch, from the 2nd to the 98th percentile of the original.</li>
<li><b>Encoder input</b>: tokens that the encoder did not see are flat grey. Striped pixels have no data.</li>
<li><b>Reconstruction</b>: the pure prediction in the masked tokens, the original in the visible ones. <b>Prediction alone</b> is the
network's output everywhere; a loss on masked tokens does not train it in the visible ones.</li>
<li><b>Absolute error</b>: mean over bands in masked tokens, in reflectance, one scale for all patches: 0 {bar} {high:.3g}.
A, B and C are the pixels whose spectra are drawn: the {percentiles} percentile of brightness among masked pixels with data.</li>
<li><b>Patch tokens</b>: the first three principal components of the encoder's tokens as red, green and blue, fitted over all patches
shown.</li>
</ul>"""


def _comparable(patch: PatchView) -> np.ndarray:
    """bool [H, W]: masked pixels with data, where the prediction can be held against the truth."""
    return patch.masked & patch.valid


def _absolute_error(patch: PatchView) -> np.ndarray:
    """Mean over bands of the absolute error, [H, W]."""
    return np.abs(patch.reconstruction - patch.original).mean(-1)


def _error_limit(patches: Sequence[PatchView]) -> float:
    """98th percentile of the absolute error in masked valid pixels, of the patch where it is
    largest; 1 where nothing can be compared.
    """
    errors = (_absolute_error(patch)[_comparable(patch)] for patch in patches)
    finite = (error[np.isfinite(error)] for error in errors)
    return max((float(np.percentile(error, 98)) for error in finite if error.any()), default=1.0)


def _patch(report: Report, patch: PatchView, high: float, tokens: np.ndarray | None) -> str:
    pixels = _chosen_pixels(patch)
    true = _colour_row(patch, report.true_colour, "true colour")
    false = _colour_row(patch, report.false_colour, "false colour")
    error = _cell(
        _error_picture(patch, high),
        "Absolute error",
        f"Absolute error of {patch.title}",
        _marks(pixels, patch.masked.shape),
    )
    pca = (
        ""
        if tokens is None
        else _cell(
            tokens, "Patch tokens", f"Principal components of the patch tokens of {patch.title}"
        )
    )
    heading = f'<h3>{_text(patch.title)}</h3><p class="caption">{_patch_facts(patch)}</p>'
    spectra = _spectra(report.wavelengths_nm, patch, pixels)
    return (
        f"<article>{heading}<div "
        f'class="pictures">{true}{false}{error}{pca}</div>{spectra}</article>'
    )


def _patch_facts(patch: PatchView) -> str:
    height, width = patch.masked.shape
    where = _comparable(patch)
    facts = (
        f"{height} × {width} pixels, {patch.masked.mean():.0%} masked, {patch.valid.mean():.0%} "
        "with data"
    )
    if not where.any():
        return f"{facts}; no masked pixel has data"
    difference = (patch.reconstruction - patch.original)[where]
    return (
        f"{facts}; RMSE {_text(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))} in masked "
        "pixels, all bands"
    )


def _colour_row(patch: PatchView, bands: Sequence[int], name: str) -> str:
    """Four pictures in one stretch: original, seen by the encoder, reconstruction, prediction
    alone.
    """
    limits = pictures.percentile_limits([patch.original[..., list(bands)]], [patch.valid])
    original = pictures.colour(patch.original, bands, limits, patch.valid)
    prediction = pictures.colour(patch.reconstruction, bands, limits, patch.valid)
    row = {
        "Original": original,
        "Encoder input": pictures.hide(original, _comparable(patch)),
        "Reconstruction": np.where(patch.masked[..., None], prediction, original),
        "Prediction alone": prediction,
    }
    return "".join(
        _cell(rgb, f"{title}, {name}", f"{title} of {patch.title} in {name}")
        for title, rgb in row.items()
    )


def _error_picture(patch: PatchView, high: float) -> np.ndarray:
    error = _absolute_error(patch)
    seen = pictures.hide(pictures.heat(error, high), ~patch.masked)
    return pictures.hatch(seen, ~patch.valid | (patch.masked & ~np.isfinite(error)))


def _chosen_pixels(patch: PatchView) -> dict[str, tuple[int, int]]:
    """{letter: (row, column)} at the PERCENTILES of brightness, the mean over bands, of the masked
    valid pixels; {} where there is none.
    """
    locations = np.argwhere(_comparable(patch))
    if not len(locations):
        return {}
    order = np.argsort(patch.original[tuple(locations.T)].mean(-1), kind="stable")
    return {
        letter: tuple(locations[order[round(p / 100 * (len(order) - 1))]].tolist())
        for letter, p in PERCENTILES.items()
    }


def _spectra(
    wavelengths_nm: np.ndarray, patch: PatchView, pixels: Mapping[str, tuple[int, int]]
) -> str:
    charts = []
    for letter, (row, column) in pixels.items():
        spectra = {
            "original": patch.original[row, column],
            "reconstruction": patch.reconstruction[row, column],
        }
        title = f"{letter}: {PERCENTILES[letter]}th percentile, row {row}, column {column}"
        charts.append(pictures.spectra_figure(wavelengths_nm, spectra, title))
    return _charts("charts", charts)


def _marks(pixels: Mapping[str, tuple[int, int]], shape: tuple[int, int]) -> str:
    """Letters laid over a picture of `shape` (rows, columns), each beside its pixel, on the side
    that has room.
    """
    return "".join(
        _mark(letter, (row + 0.5) / shape[0], (column + 0.5) / shape[1])
        for letter, (row, column) in pixels.items()
    )


def _mark(letter: str, down: float, across: float) -> str:
    side = "6px" if across < 0.5 else "-14px"
    return f'<i style="left:{across:.2%};top:{down:.2%};text-indent:{side}">{letter}</i>'


def _cell(rgb: np.ndarray, caption: str, alt: str, overlay: str = "") -> str:
    return f'<figure><div class="frame">{_image(rgb, alt, "patch")}{overlay}</div><figcaption>{_text(caption)}</figcaption></figure>'


def _image(rgb: np.ndarray, alt: str, kind: str) -> str:
    zoom = max(1, PICTURE_PX // rgb.shape[1])
    data = base64.b64encode(pictures.png(rgb, zoom)).decode()
    return f'<img class="{kind}" alt="{_text(alt)}" src="data:image/png;base64,{data}">'
