"""Pictures and spectra of one patch before and after the network, for the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from eo_jax.report import composite, pictures
from eo_jax.report.composite import Composite
from eo_jax.report.html_page import data_uri
from eo_jax.sensors import Sensor

PICTURE_PX = 256  # least width of a picture in the file; smaller patches get an integer zoom
# Of brightness: the masked pixels whose spectra are shown.
PERCENTILES = {"A": 10, "B": 50, "C": 90}


@dataclass(frozen=True)
class PatchView:
    """One patch before and after the network.

    Attributes:
        title: heading on the page.
        original, reconstruction: float32 [H, W, c], physical units (reflectance).
        masked: bool [H, W], True where the encoder saw nothing.
        valid: bool [H, W], False for no-data.
        tokens: float32 [h, w, d], the encoder's patch tokens, or None.

    Raises:
        ValueError: the shapes do not belong together.
    """

    title: str
    original: np.ndarray
    reconstruction: np.ndarray
    masked: np.ndarray
    valid: np.ndarray
    tokens: np.ndarray | None = None

    def __post_init__(self) -> None:
        expected = {
            "reconstruction": self.original.shape,
            "masked": self.original.shape[:2],
            "valid": self.original.shape[:2],
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(
                    f"patch {self.title!r}: {name} is {found}, expected {shape} like original; "
                    "crop them to the same pixels"
                )


@dataclass(frozen=True)
class Bands:
    """The bands of a sensor: the axis of its spectra, and how it is shown in colour.

    Attributes:
        sensor: of the patches.
        good: bool [c], bands with usable values.
    """

    sensor: Sensor
    good: np.ndarray

    @property
    def composites(self) -> tuple[Composite, ...]:
        """One or two, the second in false colour."""
        first = composite.composite(self.sensor, self.good)
        second = composite.false_colour(self.sensor, self.good)
        return (first, second) if second and second.bands != first.bands else (first,)

    @property
    def span(self) -> str:
        """Their number, and wavelengths in nm where all are known."""
        nm, count = self.sensor.centres_nm, len(self.sensor.bands)
        if np.isfinite(nm).all():
            return f"{count} bands, {nm.min():.0f}–{nm.max():.0f} nm"
        if count <= pictures.FEW_BANDS:
            named = ", ".join(band.name for band in self.sensor.bands)
            return f"{count} band{'s' if count > 1 else ''} ({named})"
        return f"{count} bands, wavelengths not known"

    @property
    def axis(self) -> pictures.BandAxis:
        """The x axis of spectra: wavelengths, or numbers and names of bands."""
        nm = self.sensor.centres_nm
        if np.isfinite(nm).all():
            return pictures.BandAxis(nm, "wavelength (nm)", ())
        names = tuple(band.name for band in self.sensor.bands)
        few = len(names) <= pictures.FEW_BANDS
        numbers = np.array(self.sensor.band_numbers, float)
        return pictures.BandAxis(numbers, "band" if few else "band number", names if few else ())


class Mark(NamedTuple):
    """A letter over a picture; CSS lengths."""

    letter: str
    left: str
    top: str
    indent: str


class Picture(NamedTuple):
    """One picture of the page with the marks over it."""

    source: str
    alt: str
    caption: str
    marks: Sequence[Mark] = ()


def legend(bands: Bands, error_limit: float) -> dict[str, Any]:
    """Words and numbers of the legend, and the colour scale of the error pictures."""
    scale = pictures.heat(np.linspace(0, error_limit, 64)[None], error_limit)
    return {
        "composites": [shown.caption for shown in bands.composites],
        "units": bands.sensor.units,
        "bar": _source(scale),
        "error_limit": f"{error_limit:.3g}",
        "percentiles": ", ".join(f"{percentile}th" for percentile in PERCENTILES.values()),
    }


def error_limit(patches: Sequence[PatchView]) -> float:
    """98th percentile of the absolute error in masked valid pixels, of the patch where it is
    largest; 1 where nothing can be compared.
    """
    errors = (_absolute_error(patch)[_comparable(patch)] for patch in patches)
    finite = (error[np.isfinite(error)] for error in errors)
    return max((float(np.percentile(error, 98)) for error in finite if error.any()), default=1.0)


def articles(patches: Sequence[PatchView], bands: Bands, limit: float) -> list[dict[str, Any]]:
    """Title, facts, pictures and spectra per patch; `limit` is the upper end of the error scale."""
    shown = [patch.tokens for patch in patches if patch.tokens is not None]
    components = iter(pictures.pca_rgb(shown))
    return [
        _article(patch, bands, limit, None if patch.tokens is None else next(components))
        for patch in patches
    ]


def _article(
    patch: PatchView, bands: Bands, limit: float, components: np.ndarray | None
) -> dict[str, Any]:
    pixels = _chosen_pixels(patch)
    error = Picture(
        _source(_error_picture(patch, limit)),
        f"Absolute error of {patch.title}",
        "Absolute error",
        _marks(pixels, patch.masked.shape),
    )
    row = [picture for shown in bands.composites for picture in _colour_row(patch, shown)]
    row.append(error)
    if components is not None:
        alt = f"Principal components of the patch tokens of {patch.title}"
        row.append(Picture(_source(components), alt, "Patch tokens"))
    return {
        "title": patch.title,
        "facts": _facts(patch),
        "pictures": row,
        "spectra": _spectra(bands, patch, pixels),
    }


def _source(rgb: np.ndarray) -> str:
    return data_uri(pictures.png(rgb, max(1, PICTURE_PX // rgb.shape[1])))


def _comparable(patch: PatchView) -> np.ndarray:
    """bool [H, W]: masked pixels with data, where the prediction can be checked against the
    original.
    """
    return patch.masked & patch.valid


def _absolute_error(patch: PatchView) -> np.ndarray:
    """Mean over bands of the absolute error, [H, W]."""
    return np.abs(patch.reconstruction - patch.original).mean(-1)


def _facts(patch: PatchView) -> str:
    height, width = patch.masked.shape
    where = _comparable(patch)
    facts = (
        f"{height} × {width} pixels, {patch.masked.mean():.0%} masked, {patch.valid.mean():.0%} "
        "with data"
    )
    if not where.any():
        return f"{facts}; no masked pixel has data"
    difference = (patch.reconstruction - patch.original)[where]
    rmse = np.sqrt(np.mean(difference.astype(np.float64) ** 2))
    found = "NaN" if np.isnan(rmse) else f"{rmse:.4g}"
    return f"{facts}; RMSE {found} in masked pixels, all bands"


def _colour_row(patch: PatchView, shown: Composite) -> list[Picture]:
    """Original, encoder input, reconstruction and prediction alone, in one stretch."""
    images = [
        composite.red_green_blue(cube[..., list(shown.bands)], shown)
        for cube in (patch.original, patch.reconstruction)
    ]
    limits = pictures.percentile_limits(images[:1], [patch.valid])
    original, prediction = (
        pictures.colour(image, (0, 1, 2), limits, patch.valid) for image in images
    )
    row = {
        "Original": original,
        "Encoder input": pictures.hide(original, _comparable(patch)),
        "Reconstruction": np.where(patch.masked[..., None], prediction, original),
        "Prediction alone": prediction,
    }
    return [
        Picture(_source(rgb), f"{title} of {patch.title} in {shown.name}", f"{title}, {shown.name}")
        for title, rgb in row.items()
    ]


def _error_picture(patch: PatchView, limit: float) -> np.ndarray:
    error = _absolute_error(patch)
    masked = pictures.hide(pictures.heat(error, limit), ~patch.masked)
    return pictures.hatch(masked, ~patch.valid | (patch.masked & ~np.isfinite(error)))


def _chosen_pixels(patch: PatchView) -> dict[str, tuple[int, int]]:
    """{letter: (row, column)} at the PERCENTILES of brightness, the mean over bands, of the masked
    valid pixels; {} where there are none.
    """
    locations = np.argwhere(_comparable(patch))
    if not len(locations):
        return {}
    order = np.argsort(patch.original[tuple(locations.T)].mean(-1), kind="stable")
    return {
        letter: tuple(locations[order[round(p / 100 * (len(order) - 1))]].tolist())
        for letter, p in PERCENTILES.items()
    }


def _spectra(bands: Bands, patch: PatchView, pixels: Mapping[str, tuple[int, int]]) -> list[Markup]:
    charts = []
    for letter, (row, column) in pixels.items():
        spectra = {
            "original": patch.original[row, column],
            "reconstruction": patch.reconstruction[row, column],
        }
        title = f"{letter}: {PERCENTILES[letter]}th percentile, row {row}, column {column}"
        charts.append(pictures.spectra_figure(bands.axis, spectra, title, bands.sensor.units))
    return charts


def _marks(pixels: Mapping[str, tuple[int, int]], shape: tuple[int, int]) -> list[Mark]:
    """Letters over a picture of `shape` (rows, columns), each next to its pixel, on the side that
    has room.
    """
    return [
        _mark(letter, (column + 0.5) / shape[1], (row + 0.5) / shape[0])
        for letter, (row, column) in pixels.items()
    ]


def _mark(letter: str, left: float, top: float) -> Mark:
    return Mark(letter, f"{left:.2%}", f"{top:.2%}", "6px" if left < 0.5 else "-14px")
