"""Barlow Twins: the embeddings of two views of a location have the identity as cross-correlation
(Zbontar et al. 2021, arXiv 2103.03230).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.losses import cross_correlation
from eo_jax.schema import Carry, Metrics, Params, Views

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Barlow Twins.

    Attributes:
        off_diagonal: weight lambda of the off-diagonal terms.
        projector: widths of the projector's layers, the output last.
    """

    off_diagonal: float = 0.0051
    projector: tuple[int, ...] = (8192, 8192, 8192)

    def __post_init__(self):
        if not self.projector:
            raise ValueError(
                "config.objective.projector: (); expected at least the width of the embedding"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> BarlowTwins:
        """The objective for {source: encoder}, all with the same weights."""
        return BarlowTwins(self, encoders)


class BarlowTwins(JointEmbedding):
    """The objective; see the module docstring. Each view has BatchNorm statistics of its own."""

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("barlow_twins", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector), end="bias_free")

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, (za, zb), carry = self.embed_pair(params, carry, views, key)
        loss = barlow_loss(za, zb, self.config.off_diagonal)
        return loss, (carry, collapse_metrics(features[0], za))


def barlow_loss(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], off_diagonal: float
) -> Float[Array, ""]:
    """sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2, with C the cross-correlation of both
    embeddings (equations 1 and 2).
    """
    return distance(standardise(za), standardise(zb), 1.0, off_diagonal)


def distance(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], diagonal: float, off_diagonal: float
) -> Float[Array, ""]:
    """sum_i (diagonal - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2, with C the cross-correlation of
    standardised embeddings. The batch is the global one under jit.
    """
    own, others = cross_correlation(za, zb)
    return jnp.square(diagonal - own / len(za)).sum() + off_diagonal * others / len(za) ** 2


def standardise(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Mean 0 and variance 1 over the batch, as BatchNorm without scale and bias; a constant entry
    becomes 0.
    """
    z = z.astype(jnp.float32)
    centred = z - z.mean(0)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(0) + _EPSILON)
