"""MoCo-v3: both views are query and key, negatives come from the batch, and a predictor follows the
queries (Chen et al. 2021, arXiv 2104.02057).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.heads import normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_fractions, require_positive, require_same_width
from eo_jax.objectives.ops.collapse_metrics import (
    BATCH_ACCURACY,
    agreement,
    batch_accuracy,
    collapse_metrics,
)
from eo_jax.objectives.ops.ema import cosine_ramp
from eo_jax.objectives.ops.losses import cross_entropy_and_top1, dot
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """MoCo-v3.

    The paper's frozen patch embedding is a rule of the optimizer (`optim.freeze_rules`).

    Attributes:
        temperature: of the softmax.
        momentum: fraction of the teacher that each step keeps at the start; it rises to 1 along
            half a cosine.
        projector: widths of the projector's layers, the output last; bias-free, BatchNorm after
            each, the last one's without scale and bias.
        predictor: the same of the predictor.
    """

    temperature: float = 0.2
    momentum: float = 0.99
    projector: tuple[int, ...] = (4096, 4096, 256)
    predictor: tuple[int, ...] = (4096, 256)

    def __post_init__(self):
        require_positive(self, "temperature")
        require_fractions(self, "momentum")
        require_same_width(self.projector, self.predictor)

    def build(self, encoders: Mapping[str, Encoder]) -> MoCoV3:
        """The objective for {source: encoder}, all with the same weights."""
        return MoCoV3(self, encoders)


class MoCoV3(WithTeacher):
    """The objective; see the module docstring. Each view has BatchNorm statistics of its own over
    the global batch, in both branches.
    """

    metrics: Mapping[str, Metric] = {**WithTeacher.metrics, **BATCH_ACCURACY}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("moco_v3", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector), end="plain_norm")
        self.add_head("predictor", (config.projector[-1], *config.predictor), end="plain_norm")

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, queries, keys, carry = self.predict_pair(params, carry, views, key)
        metrics = {
            **batch_accuracy(queries[0], keys[1]),
            **agreement(queries, keys[::-1]),
            **collapse_metrics(features[0], queries[0]),
        }
        return moco_v3_loss(*queries, *keys, self.config.temperature), (carry, metrics)

    def momentum(self, progress: jax.Array) -> jax.Array:
        return cosine_ramp(self.config.momentum, 1.0, progress)


def moco_v3_loss(
    q1: Float[Array, "b k"],
    q2: Float[Array, "b k"],
    k1: Float[Array, "b k"],
    k2: Float[Array, "b k"],
    temperature: float,
) -> Float[Array, ""]:
    """ctr(q1, k2) + ctr(q2, k1), each the InfoNCE over the batch times 2 temperature
    (algorithm 1).
    """

    def contrast(q: Array, k: Array) -> Array:
        q, k = normalise(q.astype(jnp.float32)), normalise(k.astype(jnp.float32))
        logits = dot(q, jax.lax.stop_gradient(k).T) / temperature
        return 2 * temperature * cross_entropy_and_top1(logits, jnp.arange(len(q)))[0]

    return contrast(q1, k2) + contrast(q2, k1)
