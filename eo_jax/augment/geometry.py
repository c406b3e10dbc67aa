"""Crops, resizing and flips as two small matrix products an image, inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_ATTEMPTS = 10  # candidates drawn before falling back to the largest central box, as torchvision does


def random_boxes(key: jax.Array, count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Int[Array, "b 4"]:
    """Boxes (top, left, rows, columns) of a random resized crop, drawn as torchvision's `RandomResizedCrop.get_params` does.

    Args:
        scale: range of the box's share of the image's area, uniform.
        ratio: range of columns / rows, log-uniform.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (count, _ATTEMPTS), minval=scale[0], maxval=scale[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (count, _ATTEMPTS), minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
    rows = jnp.round(jnp.sqrt(area / aspect)).astype(int)
    columns = jnp.round(jnp.sqrt(area * aspect)).astype(int)
    fits = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    rows, columns, found = (jnp.take_along_axis(x, first, axis=1)[:, 0] for x in (rows, columns, fits))
    rows = jnp.where(found, rows, min(height, round(width / ratio[0])))
    columns = jnp.where(found, columns, min(width, round(height * ratio[1])))
    top = _random_start(top_key, height - rows, found)
    left = _random_start(left_key, width - columns, found)
    return jnp.stack([top, left, rows, columns], axis=1)


def _random_start(key: jax.Array, slack: Int[Array, " b"], found: Bool[Array, " b"]) -> Int[Array, " b"]:
    drawn = jnp.floor(jax.random.uniform(key, slack.shape) * (slack + 1)).astype(int)
    return jnp.where(found, jnp.minimum(drawn, slack), slack // 2)


def whole_boxes(count: int, height: int, width: int) -> Int[Array, "b 4"]:
    """The box of the whole image, `count` times."""
    return jnp.tile(jnp.array([0, 0, height, width]), (count, 1))


def interpolation_matrix(start: Int[Array, ""], length: Int[Array, ""], size: int, out: int) -> Float[Array, "o s"]:
    """Bilinear weights that resample `length` pixels from `start` to `out` pixels, half-pixel centres, no anti-aliasing.

    Positions are clamped to the crop, so no pixel outside it contributes; that is what OpenCV's resize of the cropped array gives.
    """
    position = (jnp.arange(out) + 0.5) * (length / out) - 0.5
    position = start + jnp.clip(position, 0, length - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(size)))


def crop_resize_flip(images: Float[Array, "b c h w"], boxes: Int[Array, "b 4"], flips: Bool[Array, "b 3"], out: int) -> Float[Array, "b o o c"]:
    """Each image's box, resized to out x out, then flipped up-down, left-right and about the diagonal where `flips` says so; bands last.

    The three flips together make the eight symmetries of the square.
    """
    _, _, height, width = images.shape

    def one(image: Array, box: Array, flip: Array) -> Array:
        rows = interpolation_matrix(box[0], box[2], height, out)
        columns = interpolation_matrix(box[1], box[3], width, out)
        rows = jnp.where(flip[0], rows[::-1], rows)  # flipping the weights flips the image for free
        columns = jnp.where(flip[1], columns[::-1], columns)
        view = jnp.einsum("ih,chw,jw->ijc", rows, image, columns)
        return jnp.where(flip[2], view.swapaxes(0, 1), view)

    return jax.vmap(one)(images, boxes, flips)
