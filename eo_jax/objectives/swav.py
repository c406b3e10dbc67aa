"""SwAV: a view's prototype assignment is predicted from another view (Caron et al. 2020, arXiv
2006.09882).

Prototypes are scaled to unit length in each forward pass; the released code rescales the weights
after each step. The step sizes differ: here, the longer a prototype has grown, the less a step
turns it.
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
from eo_jax.objectives.ops.losses import cross_view_entropy
from eo_jax.objectives.ops.queue import enqueue, require_whole_batches
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """SwAV. Local crops are used where the recipe gives them. Prototypes are frozen at the start by
    `optim.freeze_rules` ("last_layer").

    Attributes:
        prototypes: number k.
        temperature: of the softmax over prototypes.
        epsilon: of the Sinkhorn assignment; smaller is sharper.
        sinkhorn_iterations: of Sinkhorn's algorithm.
        projector: widths of the projector's layers, the output last.
        queue_size: number of earlier embeddings that assignments are balanced over in addition; a
            multiple of the batch, 0 for none (section 3.1, for small batches).
        queue_start: fraction of the run after which the queue is used, once it is full.
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
                f"config.objective.queue_size: {self.queue_size}; expected a number of embeddings, "
                "or 0 for no queue"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> SwAV:
        """The objective for {source: encoder}, all with the same weights."""
        return SwAV(self, encoders)


class SwAV(JointEmbedding):
    """The objective; see the module docstring. Assignments are balanced over the global batch and
    the queue.

    With a queue, Carry["queue"] is {"rows": [n, 2, d], the embeddings of both global views, "next":
    row that is replaced next, "held": number of rows that are filled}.
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
        require_whole_batches(self.config.queue_size, rows)

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        if not self.config.queue_size:
            return params, carry
        rows = jnp.zeros((self.config.queue_size, 2, self.config.projector[-1]))
        count = jnp.zeros((), jnp.int32)
        return params, {**carry, "queue": {"rows": rows, "next": count, "held": count}}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        # As released: the encoder sees crops of one size together, the heads see all crops at once.
        features, carry = self.encode_crops(params, carry, views, key)
        by_sample = features.swapaxes(0, 1)  # so that nothing moves between devices
        b, v, d = by_sample.shape
        projected, carry = self.head(
            "projector", params, carry, by_sample.reshape(b * v, d), Mode("batch")
        )
        scores, carry = self.head("prototypes", params, carry, projected, Mode("batch"))
        scores = scores.reshape(b, v, -1).swapaxes(0, 1)
        loss = self._swapped_loss(params, carry, scores, progress)
        metrics = {
            "prototypes_used": fraction_used(scores[0].argmax(-1), self.config.prototypes),
            **collapse_metrics(features[0], projected[::v]),
        }
        if self.config.queue_size:
            carry = {**carry, "queue": _updated(carry["queue"], projected.reshape(b, v, -1)[:, :2])}
        return loss, (carry, metrics)

    def _swapped_loss(
        self, params: Params, carry: Carry, scores: Float[Array, "v b k"], progress: jax.Array
    ) -> Float[Array, ""]:
        """The loss, with assignments balanced over the queue too where it is in use."""
        config = self.config

        def loss(queued: Float[Array, "2 n k"]) -> Float[Array, ""]:
            return swav_loss(
                scores, queued, config.temperature, config.epsilon, config.sinkhorn_iterations
            )

        empty = jnp.zeros((2, 0, scores.shape[-1]))
        if not config.queue_size:
            return loss(empty)
        queue = carry["queue"]
        queued, _ = self.head(
            "prototypes", params, carry, queue["rows"].swapaxes(0, 1), Mode("batch")
        )
        in_use = (progress >= config.queue_start) & (queue["held"] == config.queue_size)
        return jax.lax.cond(in_use, lambda: loss(queued), lambda: loss(empty))


def _updated(queue: Carry, embeddings: Float[Array, "b 2 d"]) -> Carry:
    """The queue with these embeddings in place of the oldest."""
    newest = jax.lax.stop_gradient(normalise(embeddings.astype(jnp.float32)))
    held = jnp.minimum(queue["held"] + len(newest), len(queue["rows"]))
    return {**enqueue(queue, newest), "held": held}


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
        queued: scores of earlier embeddings of these two views, over which assignments are balanced
            together with the batch; they carry no gradient.
    """
    predicted = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)
    together = jax.lax.stop_gradient(
        jnp.concatenate([queued.astype(scores.dtype), scores[:2]], axis=1)
    )
    assignments = sinkhorn(together, epsilon, iterations)[:, queued.shape[1] :]
    return cross_view_entropy(assignments, predicted)


def sinkhorn(
    scores: Float[Array, "*views b k"], epsilon: float, iterations: int
) -> Float[Array, "*views b k"]:
    """Soft assignments: each row sums to 1, and the columns to nearly the same (appendix A.1). In
    logarithms, so that no score overflows.
    """
    *_, rows, columns = scores.shape
    q = scores.astype(jnp.float32) / epsilon
    for _ in range(iterations):
        q = q - jax.nn.logsumexp(q, axis=-2, keepdims=True) - jnp.log(columns)
        q = q - jax.nn.logsumexp(q, axis=-1, keepdims=True) - jnp.log(rows)
    return jax.nn.softmax(q, axis=-1)
