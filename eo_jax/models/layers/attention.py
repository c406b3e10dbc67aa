"""Multi-head self-attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.layers.dense import Dense, add_bias


class Attention(nnx.Module):
    """Multi-head self-attention; q, k and v are one weight [d, 3, heads, head_dim], so that a split
    over heads never mixes them.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        head = width // heads
        init = jax.nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2, 3)
        )
        self.qkv = nnx.Param(init(rngs.params(), (width, 3, heads, head)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head)))
        self.out = Dense(width, width, dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b n d"]:
        """`bias` is added to the logits, in float32."""
        return self._attended(*self._projected(x, slice(0, 3)), bias)

    def of_first(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b 1 d"]:
        """The same of the first token alone, which attends to all."""
        (q,), (k, v) = self._projected(x[:, :1], slice(0, 1)), self._projected(x, slice(1, 3))
        return self._attended(q, k, v, None if bias is None else bias[:, :, :1])

    def _projected(self, x: Float[Array, "b n d"], parts: slice) -> Float[Array, "p b heads n c"]:
        """Those of q, k and v. Heads before tokens once, for all of them: each product of the
        attention would else turn its operands by itself.
        """
        weight, bias = (
            jnp.asarray(array, self.dtype) for array in (self.qkv[:, parts], self.qkv_bias[parts])
        )
        product = add_bias(
            x.reshape(-1, x.shape[-1]) @ weight.reshape(len(weight), -1), bias.reshape(-1)
        )
        return product.reshape(*x.shape[:2], *bias.shape).transpose(2, 0, 3, 1, 4)

    def _attended(
        self,
        q: Float[Array, "b heads m c"],
        k: Array,
        v: Array,
        bias: Float[Array, "1 heads m n"] | None,
    ) -> Float[Array, "b m d"]:
        logits = (
            jnp.einsum("bhqc,bhkc->bhqk", q, k, preferred_element_type=jnp.float32)
            * q.shape[-1] ** -0.5
        )
        weights = jax.nn.softmax(logits if bias is None else logits + bias)
        attended = jnp.einsum("bhqk,bhkc->bhqc", weights.astype(self.dtype), v)
        return self.out(attended.transpose(0, 2, 1, 3).reshape(len(q), q.shape[2], -1))
