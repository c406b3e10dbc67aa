"""Multi-head self-attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.layers.attention_kernel import fused_attention, kernel_of
from eo_jax.models.layers.dense import Dense, add_bias
from eo_jax.models.layers.product import BY_INPUT, product

_BY_HEAD = (None, None, "model", None)


class Attention(nnx.Module):
    """Multi-head self-attention.

    The weight of q, k and v is [d, 3, heads, head_dim]: a split over heads never mixes them.

    Args:
        kernel: one of `attention_kernel.ATTENTIONS`.
    """

    def __init__(
        self, width: int, heads: int, dtype: jnp.dtype, kernel: str = "auto", *, rngs: nnx.Rngs
    ):
        head = width // heads
        init = jax.nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2, 3)
        )
        self.qkv = nnx.Param(init(rngs.params(), (width, 3, heads, head)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head)))
        self.out = Dense(width, width, dtype, BY_INPUT, rngs=rngs)
        self.dtype, self.kernel = dtype, kernel

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b n d"]:
        """`bias` is added to the logits, in float32."""
        head = self.qkv.shape[-1]
        if kernel_of(self.kernel, x.shape[1], head, self.dtype, bias) == "cudnn":
            q, k, v = jnp.unstack(self._project(x, slice(0, 3)), axis=2)
            return self.out(fused_attention(q, k, v, "cudnn").reshape(x.shape))
        return self._attend(*self._heads_first(self._project(x, slice(0, 3))), bias)

    def first_token(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b 1 d"]:
        """Output for the first token only, which attends to all tokens."""
        (q,) = self._heads_first(self._project(x[:, :1], slice(0, 1)))
        k, v = self._heads_first(self._project(x, slice(1, 3)))
        return self._attend(q, k, v, None if bias is None else bias[:, :, :1])

    def _project(self, x: Float[Array, "b n d"], parts: slice) -> Float[Array, "b n p heads c"]:
        """Projects x to `parts` of q, k, v."""
        weight, bias = map(jnp.asarray, (self.qkv[:, parts], self.qkv_bias[parts]))
        return add_bias(product(jnp.asarray(x, self.dtype), weight, _BY_HEAD), bias)

    def _heads_first(self, projected: Float[Array, "b n p heads c"]) -> Array:
        """[p, b, heads, n, c]: one transpose here saves one in each product of the attention."""
        return projected.transpose(2, 0, 3, 1, 4)

    def _attend(
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
