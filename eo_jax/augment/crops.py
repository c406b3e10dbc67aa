"""The section `config.augment`: crop sets, and those of each source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from eo_jax.augment import radiometry
from eo_jax.sensors import Sensor

# Probabilities of flipping up-down, left-right and about the main diagonal.
FLIPS = {
    "none": (0.0, 0.0, 0.0),
    "left_right": (0.0, 0.5, 0.0),
    "both": (0.5, 0.5, 0.0),
    "d4": (0.5, 0.5, 0.5),
}
_CHOICES = {
    "interpolation": ("bilinear", "bilinear_corners", "bicubic"),
    "flips": tuple(FLIPS),
    "dates": ("first", "each", "random", "shared"),
    "jitter": ("multiplicative", "additive"),
}
_AT_MOST = {
    "scale": 1.0,
    "ratio": math.inf,
    "gain": math.inf,
    "brightness": math.inf,
    "contrast": math.inf,
    "blur_sigma": math.inf,
}
_PROBABILITIES = ("jitter_prob", "grayscale_prob", "blur_prob", "solarise_prob", "band_drop_prob")


@dataclasses.dataclass(frozen=True)
class CropSet:
    """`views` random resized crops of one kind, and their distortions, in the order of the fields.
    Ranges of (1, 1) and probabilities of 0 switch a distortion off, at no cost.

    A probability is one number for all views, or one per view: blur_prob=(1.0, 0.1). Each view
    draws uniformly from a range.

    Attributes:
        views: number of views.
        size: side of a view in pixels.
        scale: range of the crop's area over the patch's area.
        ratio: range of the crop's columns / rows; log-uniform.
        interpolation: "bilinear"; "bilinear_corners", which aligns the corner pixels of crop and
            view, as kornia's RandomResizedCrop does unless it is told otherwise; or "bicubic" with
            a = -0.75, which is OpenCV's and torch's (all without anti-aliasing).
        flips: "none", "left_right", "both" (and up-down), "d4" (all eight symmetries: an image
            taken from above has no upright side).
        dates: the date that view i shows of a row's t dates: "first", "each" (date i mod t),
            "random" (a draw per view; draws may coincide), "shared" (a draw per row, for all
            views).
        gain: range of a factor on the physical values of reflective bands, for every view.
        jitter: what brightness and contrast do. "multiplicative": factors, the one on physical
            values of reflective bands, the other on the distance to the band's mean over the view,
            both or neither. "additive" is kornia's RandomBrightness, then RandomContrast, on values
            in 0..1 of the physical range of every band: brightness adds its factor minus 1,
            contrast multiplies by its factor, each clips to 0..1, and each happens or not by
            itself.
        brightness: range of its factor.
        contrast: the same.
        jitter_prob: of brightness and contrast.
        grayscale_prob: of all bands set to the mean of the normalised bands.
        blur_prob: of a Gaussian blur.
        blur_sigma: range of its standard deviation in pixels of the view.
        blur_kernel: its side in pixels, odd; 0 for size // 10 // 2 * 2 + 1.
        solarise_prob: of inverting values above the threshold, within the physical range.
        solarise_threshold: fraction of the physical range: 0..1 of reflectance, 0..255 of uint8.
        noise_std: of Gaussian noise on normalised values.
        band_drop_prob: of setting bands to 0, their mean. They stay marked valid, so the network
            must cope with missing bands.
        band_drop: range of the number of bands, both ends included.
    """

    views: int = 1
    size: int = 128
    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flips: str = "both"
    dates: str = "first"
    gain: tuple[float, float] = (1.0, 1.0)
    jitter: str = "multiplicative"
    brightness: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    jitter_prob: float | tuple[float, ...] = (1.0,)
    grayscale_prob: float | tuple[float, ...] = (0.0,)
    blur_prob: float | tuple[float, ...] = (0.0,)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 0
    solarise_prob: float | tuple[float, ...] = (0.0,)
    solarise_threshold: float = 0.5
    noise_std: float = 0.0
    band_drop_prob: float | tuple[float, ...] = (0.0,)
    band_drop: tuple[int, int] = (1, 6)

    def __post_init__(self):
        # Always a tuple, so that the command line can change one number into several and back.
        for field in _PROBABILITIES:
            probs = getattr(self, field)
            object.__setattr__(self, field, probs if isinstance(probs, tuple) else (probs,))

    @property
    def blur_side(self) -> int:
        """Side of the blur kernel in pixels."""
        return self.blur_kernel or self.size // 10 // 2 * 2 + 1

    def faults(self) -> Iterator[tuple[str, str]]:
        """(field, expected value) of every field with an invalid value."""
        yield from (
            (field, "at least 1") for field in ("views", "size") if getattr(self, field) < 1
        )
        yield from (
            (field, f"one of {', '.join(allowed)}")
            for field, allowed in _CHOICES.items()
            if getattr(self, field) not in allowed
        )
        for field, most in _AT_MOST.items():
            if not _is_range(getattr(self, field), most):
                yield field, "0 < low <= high" + (" <= 1" if most == 1 else "")
        for field in _PROBABILITIES:
            probs = getattr(self, field)
            if len(probs) not in (1, self.views) or not all(0 <= prob <= 1 for prob in probs):
                yield field, f"one number from 0 to 1, or {self.views}, one per view"
        if not (
            self.blur_kernel == 0
            or (self.blur_kernel % 2 == 1 and 0 < self.blur_kernel < 2 * self.size)
        ):
            yield (
                "blur_kernel",
                f"an odd number below {2 * self.size}, twice the size, or 0 for size // 10 // 2 * "
                "2 + 1",
            )
        elif any(self.blur_prob) and self.blur_side == 1:
            yield (
                "blur_kernel",
                f"an odd number from 3: with size {self.size} the kernel is 1 pixel, which blurs "
                "nothing (or blur_prob=0)",
            )
        if not 0 <= self.solarise_threshold <= 1:
            yield "solarise_threshold", "a fraction of the physical range, from 0 to 1"
        if self.noise_std < 0:
            yield "noise_std", "at least 0"
        if not (
            _is_range(self.band_drop, math.inf)
            and all(isinstance(count, int) for count in self.band_drop)
        ):
            yield "band_drop", "two integers, 0 < low <= high"


def _is_range(value: Any, most: float) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and 0 < value[0] <= value[1] <= most


@dataclasses.dataclass(frozen=True)
class Config:
    """The recipe of views.

    Attributes:
        statistics: mean and standard deviation for normalisation: "published" (the sensor table) or
            "store" (this store's training split).
        crops: {crop set: CropSet} for every source; "<source>/<crop set>" replaces that crop set
            for that source. Evaluation shows whole patches in the size of "global". Keys that are
            not Python names, like its keyword `global`, are overridden with
            '--config.augment.crops["global"].blur_prob=0.5'.
        sampling: how the pixels of a view are computed. "gather": from the two pixels per axis that
            have a weight, blurred afterwards. "products": by matrices with the weights of all
            pixels, blur among them. They differ by rounding only. "auto": "products" on TPUs, and
            on CPUs for crop sets with blur; else "gather". Bicubic views are always products.
    """

    statistics: str = "published"
    crops: Mapping[str, CropSet] = dataclasses.field(default_factory=lambda: {"global": CropSet()})
    sampling: str = "auto"

    def __post_init__(self):
        for field, allowed in (
            ("statistics", ("published", "store")),
            ("sampling", ("auto", "gather", "products")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.augment.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
        for name, crop in self.crops.items():
            for field, expected in crop.faults():
                raise ValueError(
                    f"config.augment.crops.{name}.{field}: {getattr(crop, field)!r}; expected "
                    f"{expected}"
                )

    def for_source(self, source: str) -> dict[str, CropSet]:
        """{crop set: CropSet} of a source."""
        shared = {name: crop for name, crop in self.crops.items() if "/" not in name}
        return shared | {
            name.removeprefix(f"{source}/"): crop
            for name, crop in self.crops.items()
            if name.startswith(f"{source}/")
        }


def crop_sets(config: Config, sources: Iterable[str]) -> dict[str, dict[str, int]]:
    """{source: {crop set: number of views}}. ValueError where a key names an unknown source, or a
    source has no "global", which evaluation shows.
    """
    sources = list(sources)
    for name in config.crops:
        if "/" in name and name.split("/", 1)[0] not in sources:
            raise ValueError(
                f"config.augment.crops.{name}: no source {name.split('/', 1)[0]!r}; there are "
                f"{', '.join(sources)}"
            )
    given = {
        source: {name: crop.views for name, crop in config.for_source(source).items()}
        for source in sources
    }
    for source, sets in given.items():
        if "global" not in sets:
            raise ValueError(
                f"config.augment.crops: {', '.join(sets) or 'none'} for source {source!r}; "
                "expected 'global' among them"
            )
    return given


def check_sensor(config: Config, source: str, sensor: Sensor) -> None:
    """ValueError where the sensor of a source lacks what its crop sets need: reflective bands, a
    physical range, enough bands.
    """
    for name, crop in config.for_source(source).items():
        for field, reason in _misfits(crop, sensor):
            key = f"{source}/{name}"
            raise ValueError(
                f"config.augment.crops.{key if key in config.crops else name}.{field}: "
                f"{getattr(crop, field)!r}, but source {source!r} ({sensor.title}) {reason}; "
                f'switch it off for this source in config.augment.crops["{key}"]'
            )


def _misfits(crop: CropSet, sensor: Sensor) -> Iterator[tuple[str, str]]:
    factors = ("gain", "brightness") if crop.jitter == "multiplicative" else ("gain",)
    for field in factors:
        if tuple(getattr(crop, field)) != (1, 1) and not radiometry.reflective(sensor).any():
            yield field, f"has no reflective band, and a factor on {sensor.units} means nothing"
    unbounded = [
        band.name
        for band, limits in zip(sensor.bands, radiometry.physical_ranges(sensor), strict=True)
        if limits is None
    ]
    for field, needed, use in (
        ("solarise_prob", any(crop.solarise_prob), "invert band {} in"),
        ("jitter", crop.jitter == "additive" and _changes_light(crop), "shift band {} in"),
    ):
        if needed and unbounded:
            yield (
                field,
                f"has no known physical range to {use.format(unbounded[0])} (known are uint8 and "
                "reflectance)",
            )
    if any(crop.band_drop_prob) and crop.band_drop[1] >= len(sensor.bands):
        yield "band_drop", f"has {len(sensor.bands)} bands, at least one of which has to stay"


def _changes_light(crop: CropSet) -> bool:
    return {tuple(crop.brightness), tuple(crop.contrast)} != {(1, 1)}
