"""The placement of a row's views: date, box, flips and blur; and views and label maps rendered from
it.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def render_views(
    z: Float[Array, "b d c h w"],
    valid: Bool[Array, "b e c h w"] | None,
    placement: Placement,
    crop: CropSet,
) -> tuple[Float[Array, "b v o o c"], Bool[Array, "b v o o c"]]:
    """(views, valid masks) of normalised pixels, which are 0 where there is no data.

    No-data takes no part: only valid pixels have weights, scaled to sum to 1. Blur is part of the
    weights, but not of the valid mask.

    Args:
        z, valid: per view, or one (d, e = 1) for all views. `valid` is None for a source without
            no-data, which halves the work.
    """
    weights_exact = crop.interpolation != "bicubic" and placement.sigma is None

    def one(
        image: Array, valid: Array | None, box: Array, flip: Array, sigma: Array | None
    ) -> tuple[Array, Array]:
        sharp = _matrices(image.shape[1:], box, flip, crop)
        kernels = (
            sharp
            if sigma is None
            else tuple(blur_matrix(sigma, crop.size, crop.blur_side) @ matrix for matrix in sharp)
        )
        view = geometry.resample(image, *kernels)
        if valid is None:
            return view, jnp.ones(view.shape, bool)
        weight = geometry.resample(valid.astype(jnp.float32), *kernels)
        fraction = (
            weight
            if weights_exact
            else geometry.resample(valid.astype(jnp.float32), *map(_fractions, sharp))
        )
        is_valid = fraction >= _VALID_WEIGHT
        return jnp.where(is_valid, view / jnp.where(is_valid, weight, 1.0), 0.0), is_valid

    def flip_one(
        image: Array, valid: Array | None, box: Array, flip: Array, sigma: Array | None
    ) -> tuple[Array, Array]:
        view, is_valid = one(image, valid, box, flip, sigma)
        if crop.flips != "d4":
            return view, is_valid
        return geometry.flip_diagonal(view, flip), geometry.flip_diagonal(is_valid, flip)

    def row(
        z: Array, valid: Array | None, boxes: Array, flips: Array, sigma: Array | None
    ) -> tuple[Array, Array]:
        (z, z_axis), (valid, valid_axis) = _shared(z), _shared(valid)
        return jax.vmap(flip_one, in_axes=(z_axis, valid_axis, 0, 0, 0))(
            z, valid, boxes, flips, sigma
        )

    return jax.vmap(row)(z, valid, placement.boxes, placement.flips, placement.sigma)


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


def _matrices(
    shape: tuple[int, int], box: Array, flip: Array, crop: CropSet
) -> tuple[Array, Array]:
    rows = geometry.resampling_matrix(box[0], box[2], shape[0], crop.size, crop.interpolation)
    columns = geometry.resampling_matrix(box[1], box[3], shape[1], crop.size, crop.interpolation)
    return geometry.flip_axes(rows, columns, flip)


def _fractions(matrix: Float[Array, "o s"]) -> Float[Array, "o s"]:
    """Fractions of the absolute weight per pixel: a cubic kernel has negative lobes."""
    size = jnp.abs(matrix)
    return size / size.sum(axis=1, keepdims=True)


def _shared(x: Array | None) -> tuple[Array | None, int | None]:
    """(array, axis for vmap). An array that all views share loses its axis, so that it is read and
    not copied.
    """
    if x is None or len(x) > 1:
        return x, 0
    return x[0], None
