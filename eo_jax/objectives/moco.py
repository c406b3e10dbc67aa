"""MoCo-v2: a query finds its key among those of earlier batches, which a slowly moving teacher made
(He et al. 2020, arXiv 1911.05722; 2003.04297).

The key branch gives itself away through BatchNorm: statistics over a batch tell which keys belong
together. The paper shuffles keys over GPUs; `key_norm` names what is done here, whatever the number
of devices.
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
from eo_jax.objectives.ops.collapse_metrics import agreement, collapse_metrics
from eo_jax.objectives.ops.losses import BATCH_ACCURACY, cross_entropy_and_top1, dot
from eo_jax.objectives.ops.queue import enqueue
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """MoCo-v2.

    Attributes:
        temperature: of the softmax.
        queue_size: keys that are kept; a multiple of the batch.
        momentum: share of the teacher that stays at each step.
        projector: widths of the projector's layers, the output last.
        projector_norm: "none" (MoCo-v2, SSL4EO-S12, SSL4EO-L) or "batch": bias-free layers, each
            followed by BatchNorm (SpectralEarth).
        key_norm: BatchNorm of the two branches. "ghost": over groups of `bn_group` rows, which are
            permuted for the keys (the paper's shuffling); "global": over the whole batch; "ema":
            queries over the whole batch, keys by running statistics that follow the queries'
            (EMAN).
        bn_group: rows of a group: at least 2, and fewer than the batch, for in one group of all the
            keys would meet their queries again.
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
        """The objective for {source: encoder}, all of the same weights."""
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
        end = "norm" if config.projector_norm == "batch" else "linear"
        self.add_head(
            "projector",
            (self.encoder.width, *config.projector),
            hidden_norm=config.projector_norm,
            end=end,
        )

    def check_batch(self, rows: int) -> None:
        super().check_batch(rows)
        if self.config.queue_size % rows:
            raise ValueError(
                f"config.objective.queue_size: {self.config.queue_size} is no multiple of "
                f"config.data.batch_size, {rows}"
            )
        divided = 2 <= self.config.bn_group < rows and rows % self.config.bn_group == 0
        if self.config.key_norm == "ghost" and not divided and self._has_batch_norm():
            self._refuse_groups(rows)

    def _has_batch_norm(self) -> bool:
        return bool(jax.tree.leaves(jax.eval_shape(self.init_networks, jax.random.key(0))[1]))

    def _refuse_groups(self, rows: int) -> None:
        group = self.config.bn_group
        if not 2 <= group < rows:
            raise ValueError(
                f"config.objective.bn_group: groups of {group} rows of config.data.batch_size, "
                f"{rows}; expected at least 2 and fewer than all. "
                f"key_norm='global' takes the statistics of the whole batch"
            )
        raise ValueError(
            f"config.objective.bn_group: groups of {group} rows do not divide "
            f"config.data.batch_size, {rows}"
        )

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        keys = normalise(
            jax.random.normal(
                jax.random.fold_in(key, 1), (self.config.queue_size, self.config.projector[-1])
            )
        )
        return params, {**carry, "queue": {"rows": keys, "next": jnp.zeros((), jnp.int32)}}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self.views_of(views, "global")
        order_key, drop_key = jax.random.split(key)
        mode = Mode("batch", self._members(jnp.arange(len(view))), drop_key)
        features, q, carry = self.embed(params, carry, view[:, 0], valid[:, 0], mode)
        k, carry = self._keys(carry, view[:, 1], valid[:, 1], order_key)
        loss, accuracy = _info_nce(q, k, carry["queue"]["rows"], self.config.temperature)
        _, batch_accuracy = cross_entropy_and_top1(
            normalise(q) @ normalise(k).T, jnp.arange(len(q))
        )
        carry = {**carry, "queue": enqueue(carry["queue"], normalise(k))}
        return loss, (
            carry,
            {
                "queue_accuracy": accuracy,
                "batch_accuracy": batch_accuracy,
                **agreement(q, k),
                **collapse_metrics(features, q),
            },
        )

    def momentum(self, progress: jax.Array) -> float:
        return self.config.momentum

    def _members(self, order: Int[Array, " b"]) -> Float[Array, "g b"] | None:
        """Which samples make a group: those whose locations in `order` are together."""
        if self.config.key_norm != "ghost":
            return None
        return jax.nn.one_hot(
            order // self.config.bn_group, len(order) // self.config.bn_group, axis=0
        )

    def _keys(
        self, carry: Carry, view: Array, valid: Array, key: jax.Array
    ) -> tuple[Float[Array, "b k"], Carry]:
        """Groups of keys are drawn anew, so that none is a group of queries; samples themselves
        stay on their device.
        """
        if self.config.key_norm == "ema":
            return self.teacher_embed(carry, view, valid, Mode("running"))
        return self.teacher_embed(
            carry, view, valid, Mode("batch", self._members(jax.random.permutation(key, len(view))))
        )


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
    """(the loss, share of queries that are nearer to their key than to any of the queue)."""
    q, k = normalise(q.astype(jnp.float32)), jax.lax.stop_gradient(normalise(k.astype(jnp.float32)))
    logits = jnp.concatenate([(q * k).sum(1, keepdims=True), dot(q, queue.T)], axis=1) / temperature
    return cross_entropy_and_top1(logits, jnp.zeros(len(q), jnp.int32))
