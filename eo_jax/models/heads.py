"""Heads between an encoder and its loss: projectors, predictors, prototypes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import Mode, gelu
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.dense import Linear
from eo_jax.models.layers.product import product

_EXACT = jax.lax.Precision.HIGHEST
ENDS = ("linear", "bias_free", "norm", "plain_norm")


class TorchDense(Linear):
    """A linear layer with PyTorch's initialisation: weight and bias are
    uniform within 1 / sqrt(fan_in).
    """

    def __init__(
        self, fan_in: int, fan_out: int, dtype: jnp.dtype, *, use_bias: bool = True, rngs: nnx.Rngs
    ):
        bound = 1 / np.sqrt(fan_in)

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        super().__init__(
            fan_in,
            fan_out,
            dtype,
            use_bias=use_bias,
            kernel_init=uniform,
            bias_init=uniform,
            rngs=rngs,
        )


class MLP(nnx.Module):
    """[b, d] -> [b, k] in float32: linear layers with BatchNorm (or none) and ReLU between them.

    In [v, b, d], each view has its own BatchNorm statistics, which update the running ones in turn.
    The linear layers take all views at once: weights of 8192 x 8192 are read once, and their
    gradient is written once.

    Args:
        widths: of input, hidden layers and output.
        hidden_norm: "batch": hidden layers have no bias and are followed by BatchNorm; "none": they
            have a bias.
        end: the last layer: "linear" (with bias), "bias_free", "norm" (bias-free, then BatchNorm)
            or "plain_norm" ("norm" without scale and bias).
    """

    def __init__(
        self,
        widths: Sequence[int],
        dtype: jnp.dtype,
        *,
        hidden_norm: str = "batch",
        end: str = "linear",
        rngs: nnx.Rngs,
    ):
        if end not in ENDS or hidden_norm not in ("batch", "none"):
            raise ValueError(
                f"a head with hidden_norm={hidden_norm!r} and end={end!r}; expected batch or none, "
                f"and one of {', '.join(ENDS)}"
            )
        self.hidden = nnx.List()
        self.norms = nnx.List()
        for fan_in, fan_out in itertools.pairwise(widths[:-1]):
            self.hidden.append(
                TorchDense(fan_in, fan_out, dtype, use_bias=hidden_norm == "none", rngs=rngs)
            )
            if hidden_norm == "batch":
                self.norms.append(BatchNorm(fan_out))
        self.last = TorchDense(*widths[-2:], dtype, use_bias=end == "linear", rngs=rngs)
        if end in ("norm", "plain_norm"):
            self.last_norm = BatchNorm(widths[-1], "affine" if end == "norm" else "plain")
        self.end = end

    def __call__(self, x: Float[Array, "*v b d"], mode: Mode) -> Float[Array, "*v b k"]:
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if self.norms:
                x = _each_view(self.norms[i], x, mode)
            x = jax.nn.relu(x)
        x = self.last(x).astype(jnp.float32)
        return _each_view(self.last_norm, x, mode) if self.end in ("norm", "plain_norm") else x


def _each_view(norm: BatchNorm, x: Float[Array, "*v b d"], mode: Mode) -> Float[Array, "*v b d"]:
    return norm(x, None, mode) if x.ndim == 2 else jnp.stack([norm(view, None, mode) for view in x])


class DinoHead(nnx.Module):
    """DINO's head (Caron et al. 2021), [..., d] -> [..., k] in float32: three GELU layers, a
    bottleneck on the unit sphere, and prototypes of unit length.

    The prototypes are normalised in the forward pass, which is weight normalisation with its gain
    frozen at 1. Their path ends in `last_layer/kernel`, so that a rule can freeze them temporarily.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        small = nnx.initializers.truncated_normal(0.02)

        def dense(fan_in, fan_out, **kwargs):
            return Linear(fan_in, fan_out, dtype, kernel_init=small, rngs=rngs, **kwargs)

        self.fc1, self.fc2, self.fc3 = (
            dense(width, hidden),
            dense(hidden, hidden),
            dense(hidden, bottleneck),
        )
        self.last_layer = TorchDense(bottleneck, prototypes, dtype, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"], mode: Mode) -> Float[Array, "... k"]:
        x = gelu(self.fc1(x))
        x = gelu(self.fc2(x))
        x = normalise(self.fc3(x).astype(jnp.float32))
        return cosines(x, self.last_layer.kernel[...])


class Prototypes(nnx.Module):
    """Cosine similarity to learned prototypes: [..., d] -> [..., k] in float32 (SwAV)."""

    def __init__(self, width: int, prototypes: int, *, rngs: nnx.Rngs):
        self.last_layer = TorchDense(
            width, prototypes, jnp.dtype("float32"), use_bias=False, rngs=rngs
        )

    def __call__(self, x: Float[Array, "... d"], mode: Mode) -> Float[Array, "... k"]:
        return cosines(normalise(x.astype(jnp.float32)), self.last_layer.kernel[...])


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Rows scaled to unit length.

    A row of zeros stays zero and has no gradient, which would be finite but so large that it
    dominates all others.
    """
    squares = jnp.square(x).sum(-1, keepdims=True)
    nonzero = squares > 1e-24
    return jnp.where(nonzero, x * jax.lax.rsqrt(jnp.where(nonzero, squares, 1.0)), 0.0)


def cosines(x: Float[Array, "... d"], kernel: Float[Array, "d k"]) -> Float[Array, "... k"]:
    """x times a weight with columns of unit length, in float32 on matrix units too: temperatures of
    0.04 make errors 25 times larger.

    The product is scaled instead of the weight, which may be large: 65536 columns in DINO.
    """
    # A sum by a product with ones is four times as fast as XLA's sum over rows on CPU.
    squares = jnp.matmul(jnp.ones(len(kernel), kernel.dtype), jnp.square(kernel), precision=_EXACT)
    nonzero = squares > 1e-24  # as in `normalise`
    return product(x, kernel, (), _EXACT) * jnp.where(
        nonzero, jax.lax.rsqrt(jnp.where(nonzero, squares, 1.0)), 0.0
    )
