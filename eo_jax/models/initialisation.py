"""Initial weights of whole networks, in place of those that each layer draws for itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eo_jax import rules
from eo_jax.schema import Params

_STD = 0.02
_DRAWN = re.compile(r"(^|/)(kernel|qkv|cls_token|registers|mask_token|position_embedding/table)$")
_ENDS_OF_BRANCHES = re.compile(r"layers/(attention/out|mlp/fc2)/kernel$")


def beit(key: jax.Array, params: Params) -> Params:
    """BEiT's and data2vec's weights, for a network with the structure of `params`.

    Matrices and tokens are normal with standard deviation 0.02, truncated at one standard
    deviation, as in their code (timm's default is two); the last matrix of each residual branch of
    block l, from 1, is divided by sqrt(2 l). Everything else stays: biases 0, norms 1, layer
    scales, relative positions 0.

    Source: `init_std`, `trunc_normal_` and `fix_init_weight` of the released code (Bao et al. 2022,
    arXiv 2106.08254; Baevski et al. 2022, arXiv 2202.03555).
    """
    leaves, tree = jax.tree.flatten(params)
    paths = [path for path, _ in rules.paths(params)]
    return tree.unflatten(
        _redrawn(jax.random.fold_in(key, i), path, leaf)
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
    )


def _redrawn(key: jax.Array, path: str, leaf: jax.Array) -> jax.Array:
    if not _DRAWN.search(path):
        return leaf
    drawn = _STD * jax.random.truncated_normal(key, -1, 1, leaf.shape, leaf.dtype)
    if not _ENDS_OF_BRANCHES.search(path):
        return drawn
    block = jnp.arange(1, len(leaf) + 1, dtype=leaf.dtype)
    return drawn / jnp.sqrt(2 * block).reshape(-1, *[1] * (leaf.ndim - 1))


# {`config.model.init`: the function of key and weights; None for the layers' own}
INITS: dict[str, Callable[[jax.Array, Params], Params] | None] = {"default": None, "beit": beit}
