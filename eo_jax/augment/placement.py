"""The placement of a row's views: date, box, flips and blur; and views and label maps rendered from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from eo_jax.augment import geometry
from eo_jax.augment.blur import blur_matrix
from eo_jax.augment.chances import Uniforms, bernoulli, randint, uniform
from eo_jax.augment.crops import FLIPS, CropSet

# A resampled value is valid where at least this fraction of its interpolation weight is on data.
_VALID_WEIGHT = 0.999

_EXACT = jax.lax.Precision.HIGHEST  # weights are not rounded on matrix units, as in `resample`

# (digital numbers [c, h, w], gain of the view or None) -> (normalised values, which are 0 where
# there is no data; valid mask, None where every value is valid).
Values = Callable[[Array, Array | None], tuple[Array, Array | None]]


class Placement(NamedTuple):
    """Dates, boxes, flips and blur of v views of b rows.

    Attributes:
        dates: [b, v], or [b, 1] where all views show the same date; None for date 0.
        boxes: [b, v, 4], top, left, rows, columns.
        flips: [b, v, 3], up-down, left-right, diagonal.
        sigma: [b, v], of the blur, 0 for none; None where blur is switched off.
    """

    dates: Int[Array, "b d"] | None
    boxes: Int[Array, "b v 4"]
    flips: Bool[Array, "b v 3"]
    sigma: Float[Array, "b v"] | None


def random_placement(
    keys: Mapping[str, jax.Array], uniforms: Uniforms, crop: CropSet, shape: tuple[int, ...]
) -> Placement:
    """Random resized crops of pixels of `shape` [b, t, c, h, w]."""
    (b, t, _, height, width), v = shape, crop.views
    boxes = geometry.random_boxes(keys["box"], b * v, height, width, crop.scale, crop.ratio)
    flips = jax.random.bernoulli(keys["flip"], np.array(FLIPS[crop.flips]), (b * v, 3))
    return Placement(
        _dates(uniforms["date"], crop, t),
        boxes.reshape(b, v, 4),
        flips.reshape(b, v, 3),
        _sigma(uniforms, crop),
    )


def whole_placement(shape: tuple[int, ...]) -> Placement:
    """One view per row: the whole patch on date 0, not flipped."""
    b, _, _, height, width = shape
    return Placement(
        None, geometry.whole_boxes(b, height, width)[:, None], jnp.zeros((b, 1, 3), bool), None
    )


def _dates(u: Float[Array, "b v"], crop: CropSet, t: int) -> Int[Array, "b d"] | None:
    if crop.dates == "first" or t == 1:
        return None
    if crop.dates == "each":
        return jnp.broadcast_to(jnp.arange(crop.views) % t, u.shape)
    return randint(u[:, :1] if crop.dates == "shared" else u, 0, t - 1)


def _sigma(uniforms: Uniforms, crop: CropSet) -> Float[Array, "b v"] | None:
    if not any(crop.blur_prob):
        return None
    return jnp.where(
        bernoulli(uniforms["blur"], crop.blur_prob),
        uniform(uniforms["sigma"], crop.blur_sigma),
        0.0,
    )


def select_dates(
    array: Num[Array, "b t ..."], dates: Int[Array, "b d"] | None
) -> Num[Array, "b d ..."]:
    """The dates that the views show, [b, 1, ...] where all show the same."""
    return array[:, :1] if dates is None else jax.vmap(lambda row, date: row[date])(array, dates)


def sampling_of(crop: CropSet, wanted: str) -> str:
    """One of `SAMPLING` for the views of a crop set, by `config.augment.sampling`."""
    if crop.interpolation == "bicubic":
        return "products"
    if wanted != "auto":
        return wanted
    platform = jax.default_backend()
    slow = platform == "tpu" or (platform == "cpu" and any(crop.blur_prob))
    return "products" if slow else "gather"


def render_views(
    pixels: Num[Array, "b d c h w"],
    gain: Float[Array, "b v 1 1 1"] | None,
    values: Values,
    placement: Placement,
    crop: CropSet,
    sampling: str,
) -> tuple[Float[Array, "b v o o c"], Bool[Array, "b v o o c"]]:
    """(views, valid masks) of normalised digital numbers.

    No-data takes no part: only valid pixels have weights, scaled to sum to 1. Blur is part of the
    weights, but not of the valid mask.

    Args:
        pixels: digital numbers per view, or one (d = 1) for all views.
        gain: of each view, for `values`.
        sampling: one of `SAMPLING`, by `sampling_of`.
    """

    def one(
        image: Array, gain: Array | None, box: Array, flip: Array, sigma: Array | None
    ) -> tuple[Array, Array]:
        taps = (
            geometry.make_taps(box[0], box[2], crop.size, crop.interpolation),
            geometry.make_taps(box[1], box[3], crop.size, crop.interpolation),
        )
        blur = None if sigma is None else blur_matrix(sigma, crop.size, crop.blur_side)
        taps = geometry.flip_axes(*taps, flip)
        view, is_valid = _means(SAMPLING[sampling](image, lambda x: values(x, gain), *taps, blur))
        if crop.flips != "d4":
            return view, is_valid
        return geometry.flip_diagonal(view, flip), geometry.flip_diagonal(is_valid, flip)

    def row(
        image: Array, gain: Array | None, boxes: Array, flips: Array, sigma: Array | None
    ) -> tuple[Array, Array]:
        image, axis = _shared(image)
        return jax.vmap(one, in_axes=(axis, 0, 0, 0, 0))(image, gain, boxes, flips, sigma)

    return jax.vmap(row)(pixels, gain, placement.boxes, placement.flips, placement.sigma)


class _Sums(NamedTuple):
    """Weighted sums of a view's valid values, [o, o, c].

    Attributes:
        values: sum of weight times value.
        weight: sum of the weights of valid values, None where all are valid.
        fraction: the same without blur, relative to all weights.
    """

    values: Array
    weight: Array | None
    fraction: Array | None


def _means(sums: _Sums) -> tuple[Float[Array, "o o c"], Bool[Array, "o o c"]]:
    """(view, valid mask)."""
    if sums.weight is None:
        return sums.values, jnp.ones(sums.values.shape, bool)
    is_valid = sums.fraction >= _VALID_WEIGHT
    return jnp.where(is_valid, sums.values / jnp.where(is_valid, sums.weight, 1.0), 0.0), is_valid


def _gathered(
    image: Num[Array, "c h w"],
    values: Callable,
    rows: geometry.Taps,
    columns: geometry.Taps,
    blur: Float[Array, "o o"] | None,
) -> _Sums:
    """The sums over gathered pixels. Digital numbers are gathered and then normalised, so that
    neither the normalised image nor anything of a tap has to be written.
    """
    total, weight = 0.0, 0.0
    for i, by_row in zip(*rows, strict=True):
        for j, by_column in zip(*columns, strict=True):
            z, valid = values(image[:, i[:, None], j])
            by_pixel = by_row[:, None] * by_column
            total += by_pixel * z
            weight = None if valid is None else weight + by_pixel * valid

    def sharp(x: Array) -> Array:
        return x.transpose(1, 2, 0)

    def blurred(x: Array) -> Array:
        return geometry.resample(x, blur, blur)

    return _sums(total, weight, sharp if blur is None else blurred, sharp)


def _products(
    image: Num[Array, "c h w"],
    values: Callable,
    rows: geometry.Taps,
    columns: geometry.Taps,
    blur: Float[Array, "o o"] | None,
) -> _Sums:
    """The sums as products with matrices of weights, of which blur is a part."""
    z, valid = values(image)
    sharp = [axis.matrix(size) for axis, size in zip((rows, columns), z.shape[1:], strict=True)]
    kernels = (
        sharp if blur is None else [jnp.matmul(blur, axis, precision=_EXACT) for axis in sharp]
    )

    def weighted(x: Array) -> Array:
        return geometry.resample(x, *kernels)

    def fractions(x: Array) -> Array:
        return geometry.resample(x, *map(_fractions, sharp))

    linear = blur is None and len(rows.weights) == 2
    valid = None if valid is None else valid.astype(jnp.float32)
    return _sums(z, valid, weighted, weighted if linear else fractions)


def _sums(
    values: Array,
    valid: Array | None,
    weighted: Callable[[Array], Array],
    fractions: Callable[[Array], Array],
) -> _Sums:
    """The sums, of values and where they are valid, in one resampling and in one without blur."""
    if valid is None:
        return _Sums(weighted(values), None, None)
    weight = weighted(valid)
    return _Sums(weighted(values), weight, weight if fractions is weighted else fractions(valid))


SAMPLING: Mapping[str, Callable[..., _Sums]] = MappingProxyType(
    {"gather": _gathered, "products": _products}
)


def render_labels(
    label: Num[Array, "b d h w"], placement: Placement, crop: CropSet
) -> Num[Array, "b v o o"]:
    """Label maps of the views of `render_views`, by the nearest pixel."""

    def one(label: Array, box: Array, flip: Array) -> Array:
        pixels = (
            geometry.nearest_pixels(box[0], box[2], crop.size, crop.interpolation),
            geometry.nearest_pixels(box[1], box[3], crop.size, crop.interpolation),
        )
        rows, columns = geometry.flip_axes(*pixels, flip)
        return geometry.flip_diagonal(label[rows[:, None], columns], flip)

    def row(label: Array, boxes: Array, flips: Array) -> Array:
        label, axis = _shared(label)
        return jax.vmap(one, in_axes=(axis, 0, 0))(label, boxes, flips)

    return jax.vmap(row)(label, placement.boxes, placement.flips)


def _fractions(matrix: Float[Array, "o s"]) -> Float[Array, "o s"]:
    """Fractions of the absolute weight per pixel: a cubic kernel has negative lobes."""
    size = jnp.abs(matrix)
    return size / size.sum(axis=1, keepdims=True)


def _shared(x: Array) -> tuple[Array, int | None]:
    """(array, axis for vmap). An array that all views share loses its axis, so that it is read and
    not copied.
    """
    if len(x) > 1:
        return x, 0
    return x[0], None
