"""Crops, resizing and flips, inside jit: weighted sums of pixels, as such or as matrix products."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

T = TypeVar("T")

# Candidates drawn before falling back to the largest central box, as in torchvision.
_ATTEMPTS = 10


def random_boxes(
    key: jax.Array,
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int[Array, "b 4"]:
    """Boxes (top, left, rows, columns) of a random resized crop, drawn as by torchvision's
    `RandomResizedCrop.get_params`.

    Args:
        scale: range of the box's area over the image's area, uniform.
        ratio: range of columns / rows, log-uniform.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = (
        height
        * width
        * jax.random.uniform(area_key, (count, _ATTEMPTS), minval=scale[0], maxval=scale[1])
    )
    aspect = jnp.exp(
        jax.random.uniform(
            ratio_key, (count, _ATTEMPTS), minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])
        )
    )
    rows = jnp.round(jnp.sqrt(area / aspect)).astype(int)
    columns = jnp.round(jnp.sqrt(area * aspect)).astype(int)
    fits = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    rows, columns, found = (
        jnp.take_along_axis(x, first, axis=1)[:, 0] for x in (rows, columns, fits)
    )
    rows = jnp.where(found, rows, min(height, round(width / ratio[0])))
    columns = jnp.where(found, columns, min(width, round(height * ratio[1])))
    top = _random_start(top_key, height - rows, found)
    left = _random_start(left_key, width - columns, found)
    return jnp.stack([top, left, rows, columns], axis=1)


def _random_start(
    key: jax.Array, slack: Int[Array, " b"], found: Bool[Array, " b"]
) -> Int[Array, " b"]:
    drawn = jnp.floor(jax.random.uniform(key, slack.shape) * (slack + 1)).astype(int)
    return jnp.where(found, jnp.minimum(drawn, slack), slack // 2)


def whole_boxes(count: int, height: int, width: int) -> Int[Array, "b 4"]:
    """The box of the whole image, `count` times."""
    return jnp.tile(jnp.array([0, 0, height, width]), (count, 1))


class Taps(NamedTuple):
    """Which pixels of an axis are added up, with which weights, for each of `o` pixels of a view:
    two per pixel for bilinear interpolation, four for bicubic.
    """

    pixels: Int[Array, "k o"]
    weights: Float[Array, "k o"]

    def matrix(self, size: int) -> Float[Array, "o s"]:
        """The weights of all `size` pixels of the axis."""
        at = self.pixels[:, :, None] == jnp.arange(size)
        return jnp.sum(self.weights[:, :, None] * at, axis=0)


def make_taps(start: Int[Array, ""], length: Int[Array, ""], out: int, interpolation: str) -> Taps:
    """Taps that resample `length` pixels, beginning at `start`, to `out` pixels, without
    anti-aliasing.

    Centres lie at half pixels, except in "bilinear_corners", where the first and the last pixel of
    the view are those of the crop. Positions are clamped to the crop, so no pixel outside it
    contributes, as when OpenCV or torch resizes the cropped array.
    """
    position = (jnp.arange(out) + 0.5) * (length / out) - 0.5
    if interpolation == "bilinear_corners":
        position = jnp.arange(out) * ((length - 1) / max(out - 1, 1))
    if interpolation == "bicubic":
        taps = jnp.floor(position) + jnp.arange(-1, 3)[:, None]
        pixels = start + jnp.clip(taps, 0, length - 1)
        return Taps(pixels.astype(int), _cubic(jnp.abs(position - taps)))
    position = start + jnp.clip(position, 0, length - 1)
    taps = jnp.floor(position) + jnp.arange(2)[:, None]
    pixels = jnp.minimum(taps, start + length - 1)
    return Taps(pixels.astype(int), jnp.maximum(0.0, 1.0 - jnp.abs(position - taps)))


def _cubic(distance: Array) -> Array:
    """Keys' kernel with a = -0.75, as in OpenCV and torch."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return jnp.where(distance <= 1, near, jnp.where(distance < 2, far, 0.0))


def nearest_pixels(
    start: Int[Array, ""], length: Int[Array, ""], out: int, interpolation: str
) -> Int[Array, " o"]:
    """The pixel that contains the centre of each of `out` pixels, for values that cannot be
    interpolated; `interpolation` is that of the pixels shown with them.
    """
    i = jnp.arange(out)  # in integers: exact
    if interpolation == "bilinear_corners":
        last = max(out - 1, 1)
        return start + (2 * i * (length - 1) + last) // (2 * last)
    return start + (2 * i + 1) * length // (2 * out)


def resample(
    image: Float[Array, "c h w"], rows: Float[Array, "o h"], columns: Float[Array, "o w"]
) -> Float[Array, "o o c"]:
    """An image through the resampling matrices of its axes, bands last."""
    # Matrix units would round the weights to 8 or 11 bits, but a weight of 0.999 on data must
    # differ from 1. Columns first: pixels are then read in the order in which they lie.
    exact = jax.lax.Precision.HIGHEST
    by_column = jnp.einsum("chw,jw->chj", image, columns, precision=exact)
    return jnp.einsum("ih,chj->ijc", rows, by_column, precision=exact)


def flip_axes(rows: T, columns: T, flip: Bool[Array, " 3"]) -> tuple[T, T]:
    """Taps or pixels [..., o] of a view's rows and columns, reversed where it is flipped up-down
    and left-right; reversing them instead of pixels costs nothing.
    """

    def reversed_if(reverse: Array, axis: T) -> T:
        return jax.tree.map(lambda array: jnp.where(reverse, array[..., ::-1], array), axis)

    return reversed_if(flip[0], rows), reversed_if(flip[1], columns)


def flip_diagonal(view: Array, flip: Bool[Array, " 3"]) -> Array:
    """The view mirrored at its main diagonal where flip[2] is True. With the two other flips these
    are the eight symmetries of the square.
    """
    return jnp.where(flip[2], view.swapaxes(0, 1), view)
