"""MoCo-v3: both views are query and key, negatives are those of the batch, a predictor on the
query's side (Chen et al. 2021, arXiv 2104.02057).
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
from eo_jax.objectives.ops.collapse_metrics import agreement, collapse_metrics
from eo_jax.objectives.ops.ema import cosine_ramp
from eo_jax.objectives.ops.losses import BATCH_ACCURACY, cross_entropy_and_top1, dot
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """MoCo-v3.

    The paper's stopped gradient of the patch embedding is a rule of the optimizer, not of the loss:
        `optim.freeze_rules`.

    Attributes:
        temperature: of the softmax.
        momentum: share of the teacher that stays at each step, at the beginning; it rises to 1
            along half a cosine.
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
        """The objective for {source: encoder}, all of the same weights."""
        return MoCoV3(self, encoders)


class MoCoV3(WithTeacher):
    """The objective; see the module docstring. BatchNorm statistics are those of each view over the
    global batch, in either branch.
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
        _, accuracy = cross_entropy_and_top1(
            normalise(queries[0]) @ normalise(keys[1]).T, jnp.arange(len(queries[0]))
        )
        metrics = {
            "batch_accuracy": accuracy,
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
        logits = (
            dot(
                normalise(q.astype(jnp.float32)),
                jax.lax.stop_gradient(normalise(k.astype(jnp.float32))).T,
            )
            / temperature
        )
        return 2 * temperature * cross_entropy_and_top1(logits, jnp.arange(len(q)))[0]

    return contrast(q1, k2) + contrast(q2, k1)
