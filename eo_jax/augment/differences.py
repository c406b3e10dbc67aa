"""Pixels from the band differences of a batch, inside jit; see `eo_jax.data.differences`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Integer

from eo_jax.schema import DIFFERENCES


def pixels_field(fields: Mapping[str, Array]) -> str:
    """The name of the field with the pixels of a source, or with their differences.

    Raises ValueError unless there is one.
    """
    names = [name for name in fields if name == "pixels" or name.startswith(DIFFERENCES)]
    if len(names) != 1:
        raise ValueError(
            f"a source of a batch has the fields {', '.join(fields)}; expected either 'pixels' or "
            f"one of '{DIFFERENCES}<bands>'"
        )
    return names[0]


def with_pixels(fields: Mapping[str, Array]) -> dict[str, Array]:
    """The fields with pixels [b, t, c, h, w], which are summed up from differences."""
    name = pixels_field(fields)
    if name == "pixels":
        return dict(fields)
    others = {field: array for field, array in fields.items() if field != name}
    return {"pixels": _summed(fields[name], int(name.removeprefix(DIFFERENCES))), **others}


def _summed(differences: Integer[Array, "b t c h w"], bands: int) -> Integer[Array, "b t c h w"]:
    """Sums that start again every `bands` bands and wrap around, as the differences do."""
    b, t, c, h, w = differences.shape
    missing = -c % bands
    padded = jnp.pad(differences, ((0, 0), (0, 0), (0, missing), (0, 0), (0, 0)))
    runs = padded.reshape(b, t, -1, bands, h, w)
    sums = jnp.cumsum(runs, axis=3, dtype=differences.dtype)
    return sums.reshape(b, t, c + missing, h, w)[:, :, :c]
