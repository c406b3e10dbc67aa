"""VICReg: embeddings of two views agree (invariance), spread (variance) and are not redundant
(covariance) (Bardes et al. 2022, arXiv 2105.04906).
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

_EPSILON = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
    """VICReg.

    Attributes:
        invariance, variance, covariance: weights of the three terms.
        projector: widths of the projector's layers, the output last.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    projector: tuple[int, ...] = (8192, 8192, 8192)

    def build(self, encoders: Mapping[str, Encoder]) -> VICReg:
        """The objective for {source: encoder}, all with the same weights."""
        return VICReg(self, encoders)


class VICReg(JointEmbedding):
    """The objective; see the module docstring. Each view has BatchNorm statistics of its own."""

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("vicreg", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector), end="bias_free")

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, (za, zb), carry = self.embed_pair(params, carry, views, key)
        weights = self.config.invariance, self.config.variance, self.config.covariance
        return vicreg_loss(za, zb, *weights), (carry, collapse_metrics(features[0], za))


def vicreg_loss(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    invariance: float,
    variance: float,
    covariance: float,
) -> Float[Array, ""]:
    """invariance s(Z, Z') + variance [v(Z) + v(Z')] + covariance [c(Z) + c(Z')] (equations 1 to 6),
    s the mean over samples and dimensions as in algorithm 1. The released code halves the variance
    term.
    """
    za, zb = za.astype(jnp.float32), zb.astype(jnp.float32)
    similarity = jnp.square(za - zb).mean()
    hinge = _variance_hinge(za) + _variance_hinge(zb)
    redundancy = _covariance(za) + _covariance(zb)
    return invariance * similarity + variance * hinge + covariance * redundancy


def _variance_hinge(z: Float[Array, "b d"]) -> Float[Array, ""]:
    return jax.nn.relu(1 - jnp.sqrt(z.var(0, ddof=1) + _EPSILON)).mean()


def _covariance(z: Float[Array, "b d"]) -> Float[Array, ""]:
    centred = z - z.mean(0)
    _, others = cross_correlation(centred, centred)
    return others / (len(z) - 1) ** 2 / z.shape[1]
