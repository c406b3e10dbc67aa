"""Attention by cuDNN's fused kernel, which never writes the attention weights; and its choice."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ATTENTIONS = ("auto", "xla", "cudnn")
# Tokens from which "auto" takes cuDNN. XLA writes and reads float32 logits and bfloat16 weights, 6
# heads n^2 bytes; q, k, v and the result are 8 n d bytes. These are equal at 85 tokens with heads
# of 64 channels; at 50 tokens XLA's fused softmax is expected to win. Not measured on a GPU yet.
_CUDNN_TOKENS = 128


def kernel_of(wanted: str, tokens: int, head: int, dtype: jnp.dtype, bias: Array | None) -> str:
    """ "xla" or "cudnn", for `wanted` of `ATTENTIONS`. XLA computes what cuDNN cannot: float32, and
    biases with a gradient.
    """
    possible = dtype == jnp.bfloat16 and bias is None
    long_enough = wanted == "cudnn" or (wanted == "auto" and tokens >= _CUDNN_TOKENS)
    return "cudnn" if possible and long_enough and cudnn_works(head) else "xla"


@functools.cache
def cudnn_works(head: int) -> bool:
    """Whether attention with heads of this width compiles with cuDNN here, tried once; a GPU on
    which it does not gets one line of output.
    """
    if jax.default_backend() != "gpu":
        return False
    try:
        compile_gradient(head)
    except Exception as error:  # JAX, XLA and cuDNN have no common one
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"attention: XLA's, since cuDNN's does not compile here: {reason[0]}", flush=True)
        return False
    return True


def compile_gradient(head: int) -> None:
    """Compiles a small attention by cuDNN and its gradient, of an odd number of tokens."""

    def total(q: Array, k: Array, v: Array) -> Array:
        return fused_attention(q, k, v, "cudnn").astype(jnp.float32).sum()

    array = jax.ShapeDtypeStruct((1, 129, 1, head), jnp.bfloat16)
    jax.jit(jax.grad(total, (0, 1, 2))).lower(array, array, array).compile()


def fused_attention(
    q: Float[Array, "b n heads c"],
    k: Float[Array, "b n heads c"],
    v: Float[Array, "b n heads c"],
    kernel: str,
) -> Float[Array, "b n heads c"]:
    """JAX' attention with softmax(q k / sqrt(c)) v, by "xla" or "cudnn". Without a mask, with which
    cuDNN loses what it gains.
    """
    return jax.nn.dot_product_attention(q, k, v, implementation=kernel)
