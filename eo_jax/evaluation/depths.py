"""Dense features of several depths of an encoder, for heads that take a pyramid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eo_jax.augment.radiometry import normalise
from eo_jax.evaluation.features import Featurizer
from eo_jax.models.functional import EVALUATE
from eo_jax.trained_encoder import TrainedEncoder

# Parts of the depth after which PANGAEA takes features: blocks 4, 6, 8, 12 of 12; 8, 12, 16, 24 of
# 24.
_PARTS = (1 / 3, 1 / 2, 2 / 3, 1)
LEVELS = len(_PARTS)
ON_DEPTHS = "blocks at 1/3, 1/2, 2/3 and the end of a transformer, else the last features"


def blocks_of(depth: int) -> tuple[int, ...]:
    """The four blocks, from 0, whose outputs are taken."""
    return tuple(max(1, round(depth * part)) - 1 for part in _PARTS)


def levels_of(x: Float[Array, "b h w l d"]) -> list[Float[Array, "b h w d"]]:
    """Four maps, the deepest last; four times the same where there is one depth only."""
    return [x[..., min(i, x.shape[3] - 1), :] for i in range(LEVELS)]


class Depths:
    """A candidate whose dense features are [b, h, w, l, d]: outputs of l = 4 blocks, before the
    final norm, of a transformer; l = 1, the features as they are, of everything else.
    """

    def __init__(self, candidate: Featurizer):
        self._candidate = candidate
        is_transformer = isinstance(candidate, TrainedEncoder) and (
            candidate.encoder.kind == "tokens"
        )
        self._blocks = blocks_of(candidate.encoder.layers) if is_transformer else ()
        self.patch = candidate.patch
        self.facts: Mapping[str, Any] = {**candidate.facts, "blocks": list(self._blocks)}

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, l, d] of digital numbers and valid mask [b, c, H, W]."""
        if not self._blocks:
            return np.asarray(self._candidate.dense(pixels, valid))[..., None, :]
        trained = self._candidate
        return jax.device_get(self._outputs(trained.params, trained.statistics, pixels, valid))

    @functools.cached_property
    def _outputs(self) -> Any:
        trained, blocks = self._candidate, self._blocks
        count = trained.encoder.layers - blocks[0]
        chosen = np.array(blocks) - blocks[0]

        @jax.jit
        def outputs(params, statistics, pixels, valid):
            view = jnp.moveaxis(normalise(pixels, valid, trained.mean, trained.std), 1, -1)
            mask = jnp.moveaxis(valid, 1, -1)

            def layers(module):
                tokens, grid = module.trunk_input(view, mask, None, EVALUATE), module.grid(view)
                found = module.trunk.last_layers(tokens, grid, EVALUATE, count)[chosen, :, 1:]
                return jnp.moveaxis(found, 0, 2).reshape(len(view), *grid, len(blocks), -1)

            found, _ = trained.encoder.network.apply(params, statistics, layers)
            return found.astype(jnp.float32)

        return outputs
