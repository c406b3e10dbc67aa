"""SimCLR: a view's embedding is closer to that of the other view than to any other of the batch
(Chen et al. 2020, arXiv 2002.05709).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.heads import normalise
from eo_jax.objectives.ops.checks import require_positive
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.losses import cross_entropy_and_top1, dot
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """SimCLR.

    Attributes:
        temperature: of the softmax.
        projector: widths of the projector's layers, the output last; BatchNorm after each, as in
            lightly, with which SSL4EO-L was trained.
    """

    temperature: float = 0.07
    projector: tuple[int, ...] = (2048, 128)

    def __post_init__(self):
        require_positive(self, "temperature")

    def build(self, encoders: Mapping[str, Encoder]) -> SimCLR:
        """The objective for {source: encoder}, all with the same weights."""
        return SimCLR(self, encoders)


class SimCLR(JointEmbedding):
    """The objective; see the module docstring. Negatives come from the global batch."""

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("simclr", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector), end="norm")

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, (za, zb), carry = self.embed_pair(params, carry, views, key)
        return nt_xent(za, zb, self.config.temperature), (carry, collapse_metrics(features[0], za))


def nt_xent(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], temperature: float
) -> Float[Array, ""]:
    """Normalised temperature-scaled cross-entropy of each of the 2 b embeddings over the 2 b - 1
    others (equation 1).
    """
    z = normalise(jnp.concatenate([za, zb]).astype(jnp.float32))
    logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, dot(z, z.T) / temperature)
    partner = jnp.roll(jnp.arange(len(z)), len(za))
    return cross_entropy_and_top1(logits, partner)[0]
