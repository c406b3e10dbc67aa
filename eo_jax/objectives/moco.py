"""MoCo-v2: a query finds its key among those of earlier batches, which a slowly moving teacher made
(He et al. 2020, arXiv 1911.05722; 2003.04297).

BatchNorm in the key branch leaks the answer: statistics over a batch tell which keys belong
together. The paper shuffles keys over GPUs; `key_norm` names what is done here, for any number of
devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode
from eo_jax.models.heads import normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_fractions, require_positive
from eo_jax.objectives.ops.collapse_metrics import (
    BATCH_ACCURACY,
    agreement,
    batch_accuracy,
    collapse_metrics,
)
from eo_jax.objectives.ops.losses import cross_entropy_and_top1, dot
from eo_jax.objectives.ops.queue import enqueue, require_whole_batches
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """MoCo-v2.

    Attributes:
        temperature: of the softmax.
        queue_size: number of keys that are kept; a multiple of the batch.
        momentum: fraction of the teacher that each step keeps.
        projector: widths of the projector's layers, the output last.
        projector_norm: "none" (MoCo-v2, SSL4EO-S12, SSL4EO-L) or "batch": bias-free layers, each
            followed by BatchNorm (SpectralEarth).
        key_norm: BatchNorm of the two branches. "ghost": over groups of `bn_group` rows, which are
            permuted for the keys (the paper's shuffling); "global": over the whole batch; "ema":
            queries over the whole batch, keys with an average of the queries' running statistics
            (EMAN).
        bn_group: rows of a group: at least 2, and fewer than the batch, because in a single group
            the keys would meet their queries again.
    """

    temperature: float = 0.2
    queue_size: int = 65536
    momentum: float = 0.999
    projector: tuple[int, ...] = (2048, 128)
    projector_norm: str = "none"
    key_norm: str = "ghost"
    bn_group: int = 32

    def __post_init__(self):
        for field, allowed in (
            ("projector_norm", ("none", "batch")),
            ("key_norm", ("ghost", "global", "ema")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.objective.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
        require_positive(self, "temperature", "queue_size")
        require_fractions(self, "momentum")

    def build(self, encoders: Mapping[str, Encoder]) -> MoCo:
        """The objective for {source: encoder}, all with the same weights."""
        return MoCo(self, encoders)


class MoCo(WithTeacher):
    """The objective; see the module docstring. Carry has the teacher, and {"rows": [n, k], "next":
    row that is replaced next} as "queue".
    """

    metrics: Mapping[str, Metric] = {
        **WithTeacher.metrics,
        "queue_accuracy": Metric("Accuracy against the queue", "queue acc"),
        **BATCH_ACCURACY,
    }

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("moco", encoders)
        self.config = config
        self.statistics_of = "average" if config.key_norm == "ema" else "teacher"
        self.add_head(
            "projector",
            (self.encoder.width, *config.projector),
            hidden_norm=config.projector_norm,
            end="norm" if config.projector_norm == "batch" else "linear",
        )

    def check_batch(self, rows: int) -> None:
        super().check_batch(rows)
        require_whole_batches(self.config.queue_size, rows)
        fault = _fault_of_groups(self.config.bn_group, rows)
        if self.config.key_norm == "ghost" and fault and self._has_batch_norm():
            raise ValueError(f"config.objective.bn_group: {fault}")

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        shape = self.config.queue_size, self.config.projector[-1]
        keys = normalise(jax.random.normal(jax.random.fold_in(key, 1), shape))
        return params, {**carry, "queue": {"rows": keys, "next": jnp.zeros((), jnp.int32)}}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self.views_of(views, "global")
        order_key, drop_key = jax.random.split(key)
        mode = Mode("batch", self._groups(jnp.arange(len(view))), drop_key)
        features, q, carry = self.embed(params, carry, view[:, 0], valid[:, 0], mode)
        k, carry = self._keys(carry, view[:, 1], valid[:, 1], order_key)
        loss, accuracy = _info_nce(q, k, carry["queue"]["rows"], self.config.temperature)
        metrics = {
            "queue_accuracy": accuracy,
            **batch_accuracy(q, k),
            **agreement(q, k),
            **collapse_metrics(features, q),
        }
        return loss, ({**carry, "queue": enqueue(carry["queue"], normalise(k))}, metrics)

    def momentum(self, progress: jax.Array) -> float:
        return self.config.momentum

    def _has_batch_norm(self) -> bool:
        _, carry = jax.eval_shape(self.init, jax.random.key(0))
        return any(jax.tree.leaves(carry[name]) for name in self.networks)

    def _groups(self, order: Int[Array, " b"]) -> Float[Array, "g b"] | None:
        """Which samples make up each group: neighbours in `order`."""
        if self.config.key_norm != "ghost":
            return None
        group = self.config.bn_group
        return jax.nn.one_hot(order // group, len(order) // group, axis=0)

    def _keys(
        self, carry: Carry, view: Array, valid: Array, key: jax.Array
    ) -> tuple[Float[Array, "b k"], Carry]:
        """(keys, new carry). Groups are redrawn, so that none is a group of queries; the samples
        stay on their device.
        """
        if self.config.key_norm == "ema":
            return self.teacher_embed(carry, view, valid, Mode("running"))
        groups = self._groups(jax.random.permutation(key, len(view)))
        return self.teacher_embed(carry, view, valid, Mode("batch", groups))


def _fault_of_groups(group: int, rows: int) -> str:
    """Why a batch cannot be cut into groups of at least two rows; "" where it can."""
    if not 2 <= group < rows:
        return (
            f"groups of {group} rows of config.data.batch_size, {rows}; expected at least 2 and "
            "fewer than all. key_norm='global' takes the statistics of the whole batch"
        )
    if rows % group:
        return f"groups of {group} rows do not divide config.data.batch_size, {rows}"
    return ""


def moco_loss(
    q: Float[Array, "b k"], k: Float[Array, "b k"], queue: Float[Array, "n k"], temperature: float
) -> Float[Array, ""]:
    """InfoNCE of each query over its key and the queue (equation 1). Keys carry no gradient.

    Args:
        queue: keys of earlier batches, of unit length; `q` and `k` are normalised here.
    """
    return _info_nce(q, k, queue, temperature)[0]


def _info_nce(
    q: Array, k: Array, queue: Array, temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(the loss, fraction of queries that are closer to their key than to any in the queue)."""
    q, k = normalise(q.astype(jnp.float32)), jax.lax.stop_gradient(normalise(k.astype(jnp.float32)))
    logits = jnp.concatenate([(q * k).sum(1, keepdims=True), dot(q, queue.T)], axis=1) / temperature
    return cross_entropy_and_top1(logits, jnp.zeros(len(q), jnp.int32))
