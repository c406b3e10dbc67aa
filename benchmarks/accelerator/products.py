"""The rate of matrix products: the upper limit of every step on this device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.scale import Scale

# What a ViT-L multiplies in a batch of 512 samples with 50 tokens, besides squares: (m, k, n).
_OF_VIT_L = ((25600, 1024, 4096), (25600, 4096, 1024))


def peak(scale: Scale) -> Iterator[dict[str, Any]]:
    """FLOP/s of bfloat16 products by shape; "flops_per_s" is the best so far. The values are random
    normal numbers: of zeros, a GPU multiplies more, since it draws less power.
    """
    squares = [(side,) * 3 for side in scale.pick((4096, 8192, 16384), (64, 128))]
    rates: dict[str, float] = {}
    for m, k, n in (*squares, *scale.pick(_OF_VIT_L, ())):
        rates[f"{m}x{k}x{n}"] = _rate(scale, m, k, n)
        yield {"by_shape": dict(rates), "flops_per_s": max(rates.values())}


def _rate(scale: Scale, m: int, k: int, n: int) -> float:
    left, right = (
        jax.random.normal(jax.random.key(i), shape, jnp.bfloat16)
        for i, shape in enumerate(((m, k), (k, n)))
    )
    multiply = jax.jit(jnp.matmul).lower(left, right).compile()

    def run(times: int) -> None:
        for _ in range(times):
            product = multiply(left, right)
        product.block_until_ready()

    return 2 * m * k * n / scale.step_s(run)["step_s"]
