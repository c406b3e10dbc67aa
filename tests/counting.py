"""Multiply-adds of encoders by the counter of `eo_jax.monitor.flops`, for tests that compare them
with published figures, with PyTorch's count and with the recorded formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import EVALUATE, Network
from eo_jax.models.layers.conv import strided_size
from eo_jax.models.trunks import mit
from eo_jax.monitor import flops


def view_of(encoder: Encoder, size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """(view, valid mask) of one sample."""
    return (
        jax.ShapeDtypeStruct((1, size, size, len(encoder.sensor.bands)), jnp.float32),
        jax.ShapeDtypeStruct((1, size, size, 1), bool),
    )


def multiply_adds(encoder: Encoder, size: int, part: str = "forward") -> int:
    """Of one view of `size` pixels; `part` is "forward" or "pooled"."""
    method = "__call__" if part == "forward" else part
    return of_module(
        encoder.network,
        lambda module, *view: getattr(module, method)(*view, EVALUATE),
        *view_of(encoder, size),
    )


def depthwise_of_mit(size: str, side: int) -> int:
    """Of the depthwise convolutions of a MiT, which are written as shifted products and so not
    counted, for a view of `side` pixels.
    """
    cells = [strided_size(side, 4 * 2**stage) ** 2 for stage in range(4)]
    stages = zip(cells, *mit.SIZES[size], strict=True)
    return sum(depth * n * 9 * 4 * width for n, width, depth in stages)


def of_module(network: Network, call: Callable[..., Any], *args: Any) -> int:
    """Of `call(module, *args)`."""

    def applied(weights, *args):
        return network.apply(*weights, lambda module: call(module, *args))

    weights = jax.eval_shape(network.init, jax.random.key(0))
    return flops.count(applied, weights, *args).forward // 2
