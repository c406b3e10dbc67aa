"""SimSiam: predicts the embedding of the other view, whose gradient is stopped, without negatives
or a teacher (Chen and He 2021, arXiv 2011.10566).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode
from eo_jax.models.heads import normalise
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """SimSiam.

    Attributes:
        projector: widths of the projector's layers, the output last; bias-free, BatchNorm after
            each, the last one's without scale and bias.
        predictor: widths of the predictor's hidden layers; its output is as wide as the
            projector's.
    """

    projector: tuple[int, ...] = (2048, 2048, 2048)
    predictor: tuple[int, ...] = (512,)

    def build(self, encoders: Mapping[str, Encoder]) -> SimSiam:
        """The objective for {source: encoder}, all with the same weights."""
        return SimSiam(self, encoders)


class SimSiam(JointEmbedding):
    """The objective; see the module docstring. Each view has BatchNorm statistics of its own."""

    couples_batch = False  # except for BatchNorm, which accumulation changes in any method

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("simsiam", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector), end="plain_norm")
        self.add_head("predictor", (config.projector[-1], *config.predictor, config.projector[-1]))

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, embeddings, carry = self.embed_pair(params, carry, views, key)
        predicted, carry = self.head("predictor", params, carry, embeddings, Mode("batch"))
        loss = simsiam_loss(*predicted, *embeddings)
        return loss, (carry, collapse_metrics(features[0], embeddings[0]))


def simsiam_loss(
    p1: Float[Array, "b k"],
    p2: Float[Array, "b k"],
    z1: Float[Array, "b k"],
    z2: Float[Array, "b k"],
) -> Float[Array, ""]:
    """Negative cosine similarity of each prediction and the other view's embedding, mean of both
    directions and over the batch (equations 1 and 2).
    """

    def distance(p: Array, z: Array) -> Array:
        target = jax.lax.stop_gradient(normalise(z.astype(jnp.float32)))
        return -(normalise(p.astype(jnp.float32)) * target).sum(1).mean()

    return (distance(p1, z2) + distance(p2, z1)) / 2
