"""SwAV: one view's cluster assignment is predicted from another view (Caron et al. 2020, arXiv
2006.09882).

Prototypes are scaled to unit length where they are used; the released code puts them back on the
sphere after each step. The two differ in how far a step turns them: here the less, the longer they
have grown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import Prototypes, normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_fractions, require_positive
from eo_jax.objectives.ops.collapse_metrics import PROTOTYPES_USED, collapse_metrics, fraction_used
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.queue import enqueue
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """SwAV. Local crops are used where the recipe gives them. Prototypes are frozen at the
    beginning by `optim.freeze_rules` ("last_layer").

    Attributes:
        prototypes: number k.
        temperature: of the softmax over prototypes.
        epsilon: of the Sinkhorn assignment; smaller is sharper.
        sinkhorn_iterations: of Sinkhorn's algorithm.
        projector: widths of the projector's layers, the output last.
        queue_size: embeddings of earlier batches that assignments are balanced over, too; a
            multiple of the batch, 0 for none (section 3.1, for small batches).
        queue_start: share of the run from which on they are; never before the queue is full.
    """

    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    projector: tuple[int, ...] = (2048, 128)
    queue_size: int = 0
    queue_start: float = 0.0

    def __post_init__(self):
        require_positive(self, "prototypes", "temperature", "epsilon", "sinkhorn_iterations")
        require_fractions(self, "queue_start")
        if self.queue_size < 0:
            raise ValueError(
                f"config.objective.queue_size: {self.queue_size}; expected embeddings, or 0 for "
                "none"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> SwAV:
        """The objective for {source: encoder}, all of the same weights."""
        return SwAV(self, encoders)


class SwAV(JointEmbedding):
    """The objective; see the module docstring. Assignments are balanced over the global batch, and
    the queue.

    Carry has {"rows": [n, 2, d], "next": row that is replaced next, "held": rows that are
    embeddings} as "queue", where there is one: the embeddings of the two global views.
    """

    crop_sets: Mapping[str, int] = {"global": 2, "local": 0}
    metrics: Mapping[str, Metric] = {**JointEmbedding.metrics, **PROTOTYPES_USED}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("swav", encoders)
        self.config = config
        self.add_head("projector", (self.encoder.width, *config.projector))
        self.networks["prototypes"] = Network(
            lambda rngs: Prototypes(config.projector[-1], config.prototypes, rngs=rngs)
        )

    def check_batch(self, rows: int) -> None:
        super().check_batch(rows)
        if self.config.queue_size % rows:
            raise ValueError(
                f"config.objective.queue_size: {self.config.queue_size} is no multiple of "
                f"config.data.batch_size, {rows}"
            )

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        if not self.config.queue_size:
            return params, carry
        count = jnp.zeros((), jnp.int32)
        return params, {
            **carry,
            "queue": {
                "rows": jnp.zeros((self.config.queue_size, 2, self.config.projector[-1])),
                "next": count,
                "held": count,
            },
        }

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        # As released: the encoder sees crops of one size together, the heads see all crops at once.
        features, carry = self.pooled_crops(params, carry, views, key)
        by_sample = features.swapaxes(0, 1)  # so that nothing moves between devices
        projected, carry = self.head(
            "projector", params, carry, by_sample.reshape(-1, by_sample.shape[-1]), Mode("batch")
        )
        scores, carry = self.head("prototypes", params, carry, projected, Mode("batch"))
        scores = scores.reshape(*by_sample.shape[:2], -1).swapaxes(0, 1)
        loss = self._swapped(params, carry, scores, progress)
        metrics = {
            "prototypes_used": fraction_used(scores[0].argmax(-1), self.config.prototypes),
            **collapse_metrics(features[0], projected[:: len(features)]),
        }
        embeddings = projected.reshape(*by_sample.shape[:2], -1)[:, :2]
        return loss, ({**carry, **self._with_newest(carry, embeddings)}, metrics)

    def _swapped(
        self, params: Params, carry: Carry, scores: Float[Array, "v b k"], progress: jax.Array
    ) -> Float[Array, ""]:
        """The loss, its assignments balanced over the queue, too, where that is in use."""

        def balanced(queued: Float[Array, "2 n k"]) -> Float[Array, ""]:
            return swav_loss(
                scores,
                queued,
                self.config.temperature,
                self.config.epsilon,
                self.config.sinkhorn_iterations,
            )

        alone = jnp.zeros((2, 0, scores.shape[-1]))
        if not self.config.queue_size:
            return balanced(alone)
        queue = carry["queue"]
        queued, _ = self.head(
            "prototypes", params, carry, queue["rows"].swapaxes(0, 1), Mode("batch")
        )
        in_use = (progress >= self.config.queue_start) & (queue["held"] == self.config.queue_size)
        return jax.lax.cond(in_use, lambda: balanced(queued), lambda: balanced(alone))

    def _with_newest(self, carry: Carry, embeddings: Float[Array, "b 2 d"]) -> Carry:
        """{"queue": with these in place of the oldest}; nothing without a queue."""
        if not self.config.queue_size:
            return {}
        newest = jax.lax.stop_gradient(normalise(embeddings.astype(jnp.float32)))
        held = jnp.minimum(carry["queue"]["held"] + len(newest), self.config.queue_size)
        return {"queue": {**enqueue(carry["queue"], newest), "held": held}}


def swav_loss(
    scores: Float[Array, "v b k"],
    queued: Float[Array, "2 n k"],
    temperature: float,
    epsilon: float,
    iterations: int,
) -> Float[Array, ""]:
    """Cross-entropy of all other views against the assignments of view 0 and of view 1 (equation 2,
    and section 3.3 for more crops).

    Args:
        queued: scores of earlier embeddings of these two views, which share the prototypes out with
            the batch; they carry no gradient.
    """
    predicted = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)
    together = jax.lax.stop_gradient(
        jnp.concatenate([queued.astype(scores.dtype), scores[:2]], axis=1)
    )
    assignments = sinkhorn(together, epsilon, iterations)[:, queued.shape[1] :]
    pairs = (
        -jnp.einsum("ibk,jbk->ij", assignments, predicted, precision=jax.lax.Precision.HIGHEST)
        / scores.shape[1]
    )
    different = ~jnp.eye(*pairs.shape, dtype=bool)
    return jnp.where(different, pairs, 0.0).sum() / different.sum()


def sinkhorn(
    scores: Float[Array, "*views b k"], epsilon: float, iterations: int
) -> Float[Array, "*views b k"]:
    """Soft assignments: each row sums to 1, all columns to nearly the same (appendix A.1). In
    logarithms, so that no score overflows.
    """
    *_, rows, columns = scores.shape
    q = scores.astype(jnp.float32) / epsilon
    for _ in range(iterations):
        q = q - jax.nn.logsumexp(q, axis=-2, keepdims=True) - jnp.log(columns)
        q = q - jax.nn.logsumexp(q, axis=-1, keepdims=True) - jnp.log(rows)
    return jax.nn.softmax(q, axis=-1)
