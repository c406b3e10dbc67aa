"""BYOL: predicts a teacher's embedding of the other view, without negatives (Grill et al. 2020,
arXiv 2006.07733).

The teacher is an exponential moving average of encoder and projector. torchgeo's shares its weights
with the student, so it has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.heads import normalise
from eo_jax.objectives.ops.checks import require_fractions, require_same_width
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics
from eo_jax.objectives.ops.ema import cosine_ramp
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """BYOL.

    Attributes:
        momentum: fraction of the teacher that each step keeps at the start; it rises to 1 along
            half a cosine.
        projector, predictor: widths of their layers, the output last.
    """

    momentum: float = 0.996
    projector: tuple[int, ...] = (4096, 256)
    predictor: tuple[int, ...] = (4096, 256)

    def __post_init__(self):
        require_fractions(self, "momentum")
        require_same_width(self.projector, self.predictor)

    def build(self, encoders: Mapping[str, Encoder]) -> BYOL:
        """The objective for {source: encoder}, all with the same weights."""
        return BYOL(self, encoders)


class BYOL(WithTeacher):
    """The objective; see the module docstring. Each view has BatchNorm statistics of its own, in
    both branches.
    """

    couples_batch = False  # except for BatchNorm, which accumulation changes in any method

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("byol", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector))
        self.add_head("predictor", (config.projector[-1], *config.predictor))

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        features, predicted, targets, carry = self.predict_pair(params, carry, views, key)
        loss = byol_loss(*predicted, *targets)
        metrics = {
            "teacher_agreement": 1 - loss / 4,
            **collapse_metrics(features[0], predicted[0]),
        }
        return loss, (carry, metrics)

    def momentum(self, progress: jax.Array) -> jax.Array:
        return cosine_ramp(self.config.momentum, 1.0, progress)


def byol_loss(
    p1: Float[Array, "b k"],
    p2: Float[Array, "b k"],
    z1: Float[Array, "b k"],
    z2: Float[Array, "b k"],
) -> Float[Array, ""]:
    """Squared distance of unit-length prediction and target, both directions summed, mean over the
    batch (equation 2).
    """

    def distance(p: Array, z: Array) -> Array:
        target = jax.lax.stop_gradient(normalise(z.astype(jnp.float32)))
        return (2 - 2 * (normalise(p.astype(jnp.float32)) * target).sum(1)).mean()

    return distance(p1, z2) + distance(p2, z1)
