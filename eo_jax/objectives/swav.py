"""SwAV: one view's cluster assignment is predicted from another view (Caron et al. 2020, arXiv 2006.09882).

Prototypes are scaled to unit length where they are used; the released code puts them back on the sphere after each step. The two differ in how far a
step turns them: here the less, the longer they have grown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import Prototypes
from eo_jax.objectives.joint import JointEmbedding, require_positive, watch_pair
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """SwAV. Local crops are used where the recipe gives them. Prototypes are frozen at the beginning by `optim.freeze_rules` ("last_layer").

    Attributes:
        prototypes: number k.
        temperature: of the softmax over prototypes.
        epsilon: of the Sinkhorn assignment; smaller is sharper.
        iterations: of Sinkhorn's algorithm.
        projector: widths of the projector's layers, the output last.
    """

    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    projector: tuple[int, ...] = (2048, 128)

    def __post_init__(self):
        require_positive(self, "temperature", "epsilon")

    def build(self, encoders: Mapping[str, Encoder]) -> SwAV:
        """The objective for {source: encoder}, all of the same weights."""
        return SwAV(self, encoders)


class SwAV(JointEmbedding):
    """The objective; see the module docstring. Assignments are balanced over the global batch."""

    crop_sets: Mapping[str, int] = {"global": 2, "local": 0}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("swav", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector))
        self.networks["prototypes"] = Network(lambda rngs: Prototypes(config.projector[-1], config.prototypes, rngs=rngs))

    def loss(self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        # As released: the encoder sees crops of one size together, the heads see all crops at once.
        features, carry = self.pooled_crops(params, carry, views, key)
        by_sample = features.swapaxes(0, 1)  # so that nothing moves between devices
        projected, carry = self.head("projector", params, carry, by_sample.reshape(-1, by_sample.shape[-1]), Mode("batch"))
        scores, carry = self.head("prototypes", params, carry, projected, Mode("batch"))
        scores = scores.reshape(*by_sample.shape[:2], -1).swapaxes(0, 1)
        used = jnp.zeros(self.config.prototypes, bool).at[scores[0].argmax(-1)].set(True).sum(dtype=jnp.float32)
        metrics = {"prototypes_used": used / min(scores.shape[1:]), **watch_pair(features[0], projected[:: len(features)])}
        return swav_loss(scores, self.config.temperature, self.config.epsilon, self.config.iterations), (carry, metrics)


def swav_loss(scores: Float[Array, "v b k"], temperature: float, epsilon: float, iterations: int) -> Float[Array, ""]:
    """Cross-entropy of all other views against the assignments of view 0 and of view 1 (equation 2, and section 3.3 for more crops)."""
    predicted = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)

    def swapped(i: int) -> Array:
        assignment = sinkhorn(jax.lax.stop_gradient(scores[i]), epsilon, iterations)
        pairs = -jnp.einsum("bk,vbk->v", assignment, predicted, precision=jax.lax.Precision.HIGHEST) / scores.shape[1]
        return (pairs.sum() - pairs[i]) / (len(scores) - 1)

    return (swapped(0) + swapped(1)) / 2


def sinkhorn(scores: Float[Array, "b k"], epsilon: float, iterations: int) -> Float[Array, "b k"]:
    """Soft assignments: each row sums to 1, all columns to nearly the same (appendix A.1). In logarithms, so that no score overflows."""
    rows, columns = scores.shape
    q = scores.astype(jnp.float32) / epsilon
    for _ in range(iterations):
        q = q - jax.nn.logsumexp(q, axis=0) - jnp.log(columns)
        q = q - jax.nn.logsumexp(q, axis=1, keepdims=True) - jnp.log(rows)
    return jax.nn.softmax(q, axis=1)
